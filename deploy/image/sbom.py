"""Writes the software bill of materials of an environment: CycloneDX, as JSON.

``python3 -m deploy.image.sbom --environment /opt/minerwatch --root /image --output sbom.cdx.json``

``--root``: a root whose Debian packages belong to it, too. Python packages are told by cyclonedx-py
from what is installed; what a wheel has linked into it, its own bill says (PEP 770, in the
``sboms`` folder of its dist-info).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from packageurl import PackageURL

from deploy.image.debian import STATUS

_PRODUCT = "minerwatch"
_LICENSE = re.compile(r"^License: *(\S.*?)\s*$", re.MULTILINE)  # in Debian's copyright format 1.0


def main() -> None:
    """Writes what the command line asks for; ends with 1 where it is not valid CycloneDX."""
    parser = argparse.ArgumentParser(description="Write a software bill of materials.")
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    text = json.dumps(bill(arguments.environment, arguments.root), indent=1) + "\n"
    from cyclonedx.validation.json import JsonStrictValidator  # loads grammars for seconds

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        sys.exit(f"not valid CycloneDX: {error}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text)


def bill(environment: Path, root: Path | None = None) -> dict[str, Any]:
    """The bill as JSON would have it; the same for the same contents, so it bears no time."""
    told = subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", "1.6"),
            *("--output-reproducible", "--no-validate", str(environment / "bin/python")),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(told)
    (product,) = (each for each in found["components"] if each["name"] == _PRODUCT)
    found["components"].remove(product)
    found["metadata"]["component"] = {**product, "type": "application"}
    if root is not None:
        found["components"] += _debian_components(root)
    return found


def _debian_components(root: Path) -> Iterator[dict[str, Any]]:
    release = (root / "etc/os-release").read_text()
    names = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    distro = f"{names['ID']}-{names['VERSION_ID']}".replace('"', "")
    for file in sorted((root / STATUS).iterdir()):
        package = message_from_string(file.read_text())
        name, version = package["Package"], package["Version"]
        qualifiers = {"arch": package["Architecture"], "distro": distro}
        url = PackageURL("deb", "debian", name, version, qualifiers).to_string()
        component = {"type": "library", "name": name, "version": version, "purl": url}
        licenses = _licenses(root / "usr/share/doc" / name / "copyright")
        if licenses:
            component["licenses"] = [{"license": {"name": each}} for each in licenses]
        yield {**component, "bom-ref": url, "description": package["Description"].split("\n")[0]}


def _licenses(copyright_file: Path) -> list[str]:
    """Those that the file names, where it is of the form that machines can read."""
    text = copyright_file.read_text(errors="replace")
    return sorted(set(_LICENSE.findall(text))) if text.startswith("Format:") else []


if __name__ == "__main__":
    main()
