"""Copies what the image has of Debian into a folder that becomes its root.

``python3 -m deploy.image.debian /image``

The packages have to be installed here. Each leaves its entry in var/lib/dpkg/status.d, where
scanners for weaknesses look for it in images without a package manager.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.image.contents import Contents, contents, matches, unused

STATUS = "var/lib/dpkg/status.d"
_FOLDERS = {
    "dev": 0o755,
    "etc": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr/sbin": 0o755,
    "var/tmp": 0o1777,
}
"""Empty ones, with their modes."""


def main() -> None:
    """Fills the folder that the command line names; ends with 1 and says why, where it cannot."""
    root = Path(sys.argv[1])
    wanted = contents()
    owned = {package: _paths_of(package) for package in wanted.debian_packages}
    of_none = {pattern: _found_by(pattern) for pattern in wanted.debian_files}
    problems = _stale(wanted, owned, of_none)
    if not problems:
        _make_folders(root)
        for package, paths in owned.items():
            _copy((path for path in paths if not matches(path, wanted.debian_without)), root)
            _copy_notes(package, root)
        for paths in of_none.values():
            _copy(paths, root)
        problems = [*missing_libraries(root), *broken_links(root)]
    if problems:
        sys.exit("\n".join(problems))


def _stale(
    wanted: Contents, owned: Mapping[str, list[str]], of_none: Mapping[str, list[str]]
) -> list[str]:
    every = [path for paths in owned.values() for path in paths]
    return [
        *(f"not installed: {package}" for package, paths in owned.items() if not paths),
        *(f"there is none: {pattern}" for pattern, paths in of_none.items() if not paths),
        *(f"leaves out nothing: {pattern}" for pattern in unused(wanted.debian_without, every)),
    ]


def _make_folders(root: Path) -> None:
    for folder, mode in _FOLDERS.items():
        (root / folder).mkdir(parents=True)
        (root / folder).chmod(mode)


def _copy_notes(package: str, root: Path) -> None:
    """Its entry, and its copyright file, which has to go with what it is about."""
    (root / STATUS).mkdir(parents=True, exist_ok=True)
    (root / STATUS / package).write_text(_output("dpkg-query", "--status", package))
    notes = root / "usr/share/doc" / package
    notes.mkdir(parents=True)
    # In some packages the folder is a link to another package's.
    shutil.copyfile(f"/usr/share/doc/{package}/copyright", notes / "copyright")


def _copy(paths: Iterable[str], root: Path) -> None:
    """Files and links; folders are made as they are needed."""
    for path in paths:
        source, to = Path(path), root / path.lstrip("/")
        if source.is_dir() and not source.is_symlink():
            continue
        if os.path.lexists(source):  # the slim image leaves out some that the package has
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to, follow_symlinks=False)


def _paths_of(package: str) -> list[str]:
    listed = subprocess.run(
        ["dpkg-query", "--listfiles", package], capture_output=True, text=True, check=False
    ).stdout
    return [line for line in listed.splitlines() if line.startswith("/") and line != "/."]


def _found_by(pattern: str) -> list[str]:
    return [str(path) for path in Path("/").glob(pattern.lstrip("/"))]


def missing_libraries(root: Path) -> list[str]:
    """A line for each library that a program or library below ``root`` needs, and ``root`` lacks.

    It asks ldd, which answers for the machine it runs on: that is where the copies are from.
    """
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file() or not _is_elf(path):
            continue
        for line in _output("ldd", str(path)).splitlines():
            name, _, rest = line.strip().partition(" => ")
            library = rest.split(" ")[0]
            if library == "not" or (library and not (root / library.lstrip("/")).exists()):
                found.append(f"/{path.relative_to(root)} needs {name}")
    return found


def broken_links(root: Path) -> list[str]:
    """A line for each link below ``root`` that leads to nothing there."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_symlink()):
        target = str(path.readlink())
        to = root / target.lstrip("/") if target.startswith("/") else path.parent / target
        if not os.path.lexists(to):
            found.append(f"/{path.relative_to(root)} leads to nothing: {target}")
    return found


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
