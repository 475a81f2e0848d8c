"""The made-up incidents can be solved by the pages: their commands stand there, the counts hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.test_alerts import ALERTS

_PAGE = Path(__file__).parent / "incidents.md"
_TITLE, *_INCIDENTS = re.split(r"^## ", _PAGE.read_text(), flags=re.MULTILINE)
_ROWS = re.findall(r"^\| \[\d\]\(#.*\|$", _TITLE, flags=re.MULTILINE)


def _pages(incident: str) -> set[Path]:
    targets = re.findall(r"\]\((\S+docs/[^)#]+\.md)", incident)
    return {(_PAGE.parent / target).resolve() for target in targets}


def _commands(incident: str) -> list[str]:
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", incident, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize(("row", "incident"), [*zip(_ROWS, _INCIDENTS, strict=True)])
def test_an_incident_is_solved_by_the_pages_that_it_names(row: str, incident: str) -> None:
    _, _, alert, pages, commands, *_ = (cell.strip() for cell in row.split("|"))
    assert alert.partition(",")[0] in ALERTS
    assert int(pages) == len(_pages(incident))
    assert int(commands) == len(_commands(incident))
    text = "\n".join(page.read_text() for page in _pages(incident))
    missing = [command for command in _commands(incident) if command not in text]
    assert missing == []
    assert "**Mistakes:**" in incident
