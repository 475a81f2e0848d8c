"""``python -m generate [--check]``: write generated files, or list those that are out of date."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from generate.chart_readme import README, readme
from generate.configuration_page import PAGE, page
from generate.man_pages import MAN
from generate.man_pages import pages as man_pages
from generate.manifests import manifests
from generate.values_schema import SCHEMA, schema


def main() -> int:
    """Return 0, or 1 if ``--check`` finds a file that is out of date."""
    is_check = "--check" in sys.argv[1:]
    man = {MAN / f"{name}.1": text for name, text in man_pages().items()}
    stale = _stale({PAGE: page(), SCHEMA: schema(), README: readme(), **man})
    if not is_check:
        _write(stale)  # helm reads the schema
    helm = found_program("helm")
    if helm is None:
        print("helm is missing, so deploy/manifests is left as it is: make helm", file=sys.stderr)
    else:
        of_chart = _stale(manifests(helm))
        stale |= of_chart
        if not is_check:
            _write(of_chart)
    for path in stale if is_check else ():
        print(f"{path} is out of date: make generate")
    return int(is_check and bool(stale))


def found_program(name: str) -> str | None:
    """Return the helm or kubectl of `make helm`, else the machine's; None if there is none."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _stale(files: Mapping[Path, str]) -> dict[Path, str]:
    return {path: text for path, text in files.items() if not _is(path, text)}


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    sys.exit(main())
