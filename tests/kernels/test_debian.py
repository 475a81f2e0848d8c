from __future__ import annotations

import pytest

from tests.kernels.debian import PackagesError, debian_mirrors, kernel_package

TARGETS = """\
Debian|Debian-Security|main|http://mirror.example/debian-security/
Example|Debian|main|http://packages.example/
Debian|Debian|contrib|http://mirror.example/contrib/
Debian|Debian|main|http://mirror.example/debian/
Debian|Debian|main|http://other.example/debian/
"""


def test_the_mirror_is_debians_own_and_not_that_of_its_security_updates() -> None:
    assert next(debian_mirrors(TARGETS)) == "http://mirror.example/debian/"
    assert list(debian_mirrors("")) == []


def test_a_kernel_is_named_by_its_packages() -> None:
    binary = "'http://x/a.deb' linux-binary-7.2.12+deb14-amd64_7.2.12-1_amd64.deb 9 SHA256:0"
    image = "'http://x/b.deb' linux-image-7.2.12+deb14-amd64_7.2.12-1_amd64.deb 9 SHA256:1"
    assert kernel_package(f"{binary}\n{image}\n") == "7.2.12+deb14-amd64 7.2.12-1"
    with pytest.raises(PackagesError):
        kernel_package(binary)
