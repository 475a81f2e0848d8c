"""The bill of materials, of what is installed here; that of the image is in test_built_image."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from deploy.image.debian import STATUS
from deploy.image.sbom import bill
from tests.deploy.services import DEPLOY
from tests.deploy.test_image import locked_versions

_ENTRY = """\
Package: libwhole++6
Status: install ok installed
Architecture: amd64
Version: 1:2.0-1+deb13u1
Description: a library of a test
 It does nothing.
"""
_COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
License: GPL-2+

License: GPL-2+
 The text.
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("root")
    for name, text in {
        "etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
        f"{STATUS}/libwhole++6": _ENTRY,
        "usr/share/doc/libwhole++6/copyright": _COPYRIGHT,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return bill(Path(sys.prefix), root)


def test_every_package_of_the_lock_is_in_it(said: dict[str, Any]) -> None:
    """By name; which version is installed here is pip's choice."""
    found = {canonicalize_name(each["name"]): each for each in said["components"]}
    for name in locked_versions(DEPLOY / "requirements.lock"):
        assert found[name]["version"] == version(name)
        assert found[name]["purl"] == f"pkg:pypi/{name}@{version(name)}"
    unknown = {name for name in found if not found[name].get("licenses")}
    assert not unknown & {"kubernetes", "pysigma", "textual", "yara-x"}


def test_it_is_the_bill_of_minerwatch(said: dict[str, Any]) -> None:
    product = said["metadata"]["component"]
    assert (product["name"], product["type"]) == ("minerwatch", "application")
    assert product["version"] == version("minerwatch")
    assert "timestamp" not in said["metadata"]


def test_debians_packages_are_in_it(said: dict[str, Any]) -> None:
    (found,) = (each for each in said["components"] if each["name"] == "libwhole++6")
    url = "pkg:deb/debian/libwhole%2B%2B6@1:2.0-1%2Bdeb13u1?arch=amd64&distro=debian-13"
    assert found == {
        "type": "library",
        "name": "libwhole++6",
        "version": "1:2.0-1+deb13u1",
        "purl": url,
        "bom-ref": url,
        "description": "a library of a test",
        "licenses": [{"license": {"name": "GPL-2+"}}],
    }
