"""``python -m generate.site``: copy the pages to build/pages, as the site of `make site` has them.

The pages are written for GitHub. A link to another page of the site becomes its address there;
a link to any other file of the repository leads to GitHub.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from generate.names import ROOT, names

PAGES = ROOT / "build" / "pages"
_DOCS = ROOT / "docs"
_ELSEWHERE = {
    ROOT / "README.md": Path("index.md"),
    ROOT / "CONTRIBUTING.md": Path("contributing.md"),
    ROOT / "CHANGELOG.md": Path("changelog.md"),
    ROOT / "RELEASING.md": Path("releasing.md"),
    ROOT / "SECURITY.md": Path("report-a-vulnerability.md"),
    ROOT / "deploy" / "README.md": Path("deploy.md"),
}
_PICTURES = (".png", ".svg")
_FENCED = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")


def places() -> dict[Path, Path]:
    """Return each file of the site, and its path below build/pages."""
    of_docs = {path: path.relative_to(_DOCS) for path in _DOCS.rglob("*") if path.is_file()}
    return of_docs | _ELSEWHERE


def page(text: str, source: Path, site: Mapping[Path, Path], revision: str = "main") -> str:
    """Return the text of a page with links that hold at its place in the site.

    ``revision`` is the branch or the tag of what is not in the site.
    """
    place = site[source]
    repository = names()["repository"]

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if target in site:
            return found[1] + os.path.relpath(site[target], place.parent)
        kind = "tree" if target.is_dir() else "raw" if target.suffix in _PICTURES else "blob"
        return f"{found[1]}{repository}/{kind}/{revision}/{target.relative_to(ROOT)}"

    pieces = _FENCED.split(text)
    pieces[::2] = (_LINK.sub(link, piece) for piece in pieces[::2])
    return "".join(pieces)


def write(folder: Path) -> None:
    """Write all pages into the folder, in place of what it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    site = places()
    for source, place in site.items():
        copy = folder / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            copy.write_text(page(source.read_text("utf-8"), source, site), encoding="utf-8")
        else:
            shutil.copyfile(source, copy)


if __name__ == "__main__":
    write(PAGES)
