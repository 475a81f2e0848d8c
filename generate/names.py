"""``python -m generate.names``: print where minerwatch is published, as ``key=value`` lines.

pyproject.toml holds these addresses; pages, chart, manifests, alerts and commands repeat them.
With ``--repository``, ``--image`` or ``--charts`` all of them are renamed, for a fork.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
_KEPT = re.compile(r"^(tests/fuzz/corpus/|CHANGELOG\.md$)")
_FORM = {
    "repository": re.compile(r"https://[\w.-]+(?:/[\w.-]+)+"),
    "image": re.compile(r"[a-z0-9.-]+(?::\d+)?(?:/[a-z0-9._-]+)+"),
    "charts": re.compile(r"[a-z0-9.-]+(?::\d+)?(?:/[a-z0-9._-]+)+"),
}


def names(root: Path = ROOT) -> dict[str, str]:
    """Return the addresses of the repository, the image and the folder of charts."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    published: dict[str, str] = project["tool"]["minerwatch"]["published"]
    return {"repository": project["project"]["urls"]["Repository"], **published}


def rename(new: Mapping[str, str], root: Path = ROOT) -> list[Path]:
    """Write the new addresses in place of the old ones; return the changed files."""
    old = names(root)
    changed = []
    for path in _tracked(root):
        try:
            text = path.read_bytes().decode()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        renamed = text
        for key, name in new.items():
            renamed = re.sub(rf"(?<![\w.-]){re.escape(old[key])}\b", name, renamed)
        if renamed != text:
            path.write_bytes(renamed.encode())
            changed.append(path)
    return changed


def _tracked(root: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, stdout=subprocess.PIPE, check=True)
    return [
        root / name for name in listed.stdout.decode().split("\0") if name and not _KEPT.match(name)
    ]


def main() -> None:
    """Print the addresses, or rename them and print the changed files."""
    parser = argparse.ArgumentParser(description="Print or change where minerwatch is published.")
    parser.add_argument("--repository", help="https://github.com/OWNER/NAME")
    parser.add_argument("--image", help="REGISTRY/OWNER/NAME")
    parser.add_argument("--charts", help="REGISTRY/FOLDER, the chart's name is added to it")
    new = {key: name for key, name in vars(parser.parse_args()).items() if name}
    for key, name in new.items():
        if not _FORM[key].fullmatch(name):
            parser.error(f"invalid --{key} {name!r}: write it like {names()[key]}")
    if new:
        print(*(path.relative_to(ROOT) for path in rename(new)), sep="\n")
    else:
        print(*(f"{key}={name}" for key, name in names().items()), sep="\n")


if __name__ == "__main__":
    main()
