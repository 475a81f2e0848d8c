"""Takes out of an environment what nothing in the image runs.

python3 -m deploy.image.trim /opt/minerwatch
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from deploy.image.contents import Contents, contents, matches, unused


def main() -> None:
    """Trims the environment that the command line names; ends with 1 where a name is of nothing."""
    environment = Path(sys.argv[1])
    (site_packages,) = (environment / "lib").glob("python3*/site-packages")
    wanted = contents()
    problems = stale(wanted, site_packages)
    if problems:
        sys.exit("\n".join(problems))
    trim(wanted, site_packages)
    shutil.rmtree(environment / "share" / "man", ignore_errors=True)  # nobody reads it there
    for program in (environment / "bin").iterdir():
        if not matches(program.name, wanted.programs):
            program.unlink()


def stale(wanted: Contents, site_packages: Path) -> list[str]:
    """A line for each name or pattern that stands for nothing in ``site_packages``."""
    paths = [str(path.relative_to(site_packages)) for path in _files(wanted, site_packages)]
    patterns = [*wanted.python_without, *wanted.python_kept]
    installed = {_name(each) for each in distributions(path=[str(site_packages)])}
    return [
        *(
            f"not installed: {name}"
            for name in wanted.distributions_without
            if name not in installed
        ),
        *(f"matches nothing: {pattern}" for pattern in unused(patterns, paths)),
    ]


def trim(wanted: Contents, site_packages: Path) -> None:
    """Removes files, and folders that are empty then."""
    for path in _files(wanted, site_packages):
        name = str(path.relative_to(site_packages))
        if matches(name, wanted.python_without) and not matches(name, wanted.python_kept):
            path.unlink()
    _remove_distributions(wanted.distributions_without, site_packages)
    for folder in sorted(
        (path for path in site_packages.rglob("*") if path.is_dir()), reverse=True
    ):
        if not any(folder.iterdir()):
            folder.rmdir()


def _remove_distributions(names: Mapping[str, str], site_packages: Path) -> None:
    """By their own record of what was installed."""
    for each in distributions(path=[str(site_packages)]):
        if _name(each) in names:
            for file in each.files or ():
                Path(str(file.locate())).unlink(missing_ok=True)


def _files(wanted: Contents, site_packages: Path) -> list[Path]:
    """Those in the folders that the patterns are about."""
    tops = {pattern.partition("/")[0] for pattern in wanted.python_without}
    folders = (site_packages / top for top in tops)
    return sorted(path for each in folders for path in each.rglob("*") if not path.is_dir())


def _name(distribution: Distribution) -> str:
    """As PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


if __name__ == "__main__":
    main()
