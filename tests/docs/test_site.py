"""The pages as a site: all are in its navigation, links hold at their new places, it renders."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from generate.names import ROOT, names
from generate.site import page, places, write

_SETTINGS = ROOT / "zensical.toml"


def _in_navigation(entry: Any) -> Iterator[Path]:
    if isinstance(entry, str) and "://" not in entry:
        yield Path(entry)
    for inner in (
        entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    ):
        yield from _in_navigation(inner)


def test_each_page_is_in_the_navigation_once() -> None:
    found = [*_in_navigation(tomllib.loads(_SETTINGS.read_text())["project"]["nav"])]
    assert len(found) == len(set(found))
    assert set(found) == {place for place in places().values() if place.suffix == ".md"}


def test_links_hold_at_their_place_in_the_site() -> None:
    source = ROOT / "docs" / "runbooks" / "X.md"
    site = places() | {source: Path("runbooks/X.md")}
    text = (
        "[a](../sre-guide.md#now) [b](../../README.md) [c](../../rules) [d](../../Makefile) [e](#e)"
        " [f](https://example.org/x.md)"
    )
    source_text = f"{text}\n\n```sh\n[a](../sre-guide.md)\n```\n"
    written = page(source_text, source, site)
    github = names()["repository"]
    assert written == (
        "[a](../sre-guide.md#now) [b](../index.md)"
        f" [c]({github}/tree/main/rules) [d]({github}/blob/main/Makefile) [e](#e)"
        " [f](https://example.org/x.md)\n\n```sh\n[a](../sre-guide.md)\n```\n"
    )


def test_the_site_renders_and_each_link_leads_somewhere(tmp_path: Path) -> None:
    zensical = shutil.which("zensical", path=str(Path(sys.executable).parent))
    if zensical is None:
        pytest.skip("zensical is missing: make site")
    shutil.copy(_SETTINGS, tmp_path)
    write(tmp_path / "build" / "pages")
    done = subprocess.run(
        [zensical, "build", "--clean", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    guide = (site / "sre-guide.html").read_text()
    assert 'id="minerwatchminerconfirmed"' in guide
    assert "<table>" in guide
    assert 'class="language-sh ' in guide, "site.css wraps these, so that no command is cut"
    assert "language-sh" in (site / "site.css").read_text()
    assert not re.search(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//|api\.github\.com', guide)
    assert (site / "pictures" / "top.svg").is_file()
    assert "MinerwatchCampaign" in (site / "search.json").read_text()
