from __future__ import annotations

import pytest

from tests.kernels.debian import debian_mirrors, kernel_package

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


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["linux-image-5.10.0-32-amd64_5.10.223-1_amd64.deb"], "5.10.0-32-amd64 5.10.223-1"),
        (
            [
                "linux-binary-7.2.12+deb14-amd64_7.2.12-1_amd64.deb",
                "linux-image-7.2.12+deb14-amd64_7.2.12-1_amd64.deb",
                "linux-modules-7.2.12+deb14-amd64_7.2.12-1_amd64.deb",
            ],
            "7.2.12+deb14-amd64 7.2.12-1",
        ),
    ],
)
def test_a_kernel_is_named_by_its_packages(files: list[str], named: str) -> None:
    assert kernel_package(files) == named
