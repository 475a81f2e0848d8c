"""``python -m generate.release TAG``: print the release notes of a tag, from CHANGELOG.md.

Before that it checks that the tag, the package, the chart and the repository agree.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from generate.names import ROOT, names

_NOTES = """\
{changes}

Install and verify: {repository}/blob/{tag}/RELEASING.md#verify-a-release

```sh
helm install minerwatch oci://{charts}/minerwatch --version {version} \\
  --namespace minerwatch --create-namespace
```
"""


def faults(tag: str, repository: str | None, root: Path = ROOT) -> list[str]:
    """Return each reason against the release, with the command or the file that fixes it."""
    version = tag.removeprefix("v")
    found = []
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        found.append(f"invalid tag {tag!r}: write v1.2.3 or v1.2.3rc1")
    for path, pattern in (
        ("minerwatch/__init__.py", r'^__version__ = "(.*)"$'),
        ("deploy/helm/minerwatch/Chart.yaml", r"^version: (.*)$"),
        ("deploy/helm/minerwatch/Chart.yaml", r'^appVersion: "(.*)"$'),
    ):
        match = re.search(pattern, (root / path).read_text(encoding="utf-8"), re.MULTILINE)
        written = match[1] if match else None
        if written != version:
            found.append(f"{path} has version {written}, the tag {version}: change the file")
    if not changes(version, root):
        found.append(f"CHANGELOG.md has no section '## {version}': rename '## Unreleased'")
    ours = names(root)["repository"]
    if repository and repository != ours:
        found.append(
            f"pyproject.toml names {ours}, this is {repository}: "
            f"run python -m generate.names --repository {repository} --image … --charts …"
        )
    return found


def changes(version: str, root: Path = ROOT) -> str:
    """Return the section of a version in CHANGELOG.md, without its heading, or ""."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^## {re.escape(version)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return section[1].strip() if section else ""


def notes(tag: str, root: Path = ROOT) -> str:
    """Return the release notes of a tag."""
    version = tag.removeprefix("v")
    return _NOTES.format(changes=changes(version, root), tag=tag, version=version, **names(root))


def main() -> int:
    """Print the notes and return 0, or print what is wrong and return 1."""
    parser = argparse.ArgumentParser(description="Check a tag and print its release notes.")
    parser.add_argument("tag", help="v1.2.3")
    parser.add_argument("--repository", help="where it is released: https://HOST/OWNER/NAME")
    arguments = parser.parse_args()
    found = faults(arguments.tag, arguments.repository)
    for fault in found:
        print(fault, file=sys.stderr)
    if not found:
        print(notes(arguments.tag), end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
