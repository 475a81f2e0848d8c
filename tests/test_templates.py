"""What GitHub shows to those who report or send something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent.parent
GITHUB = FOLDER / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def test_there_are_forms_for_rules_false_alarms_and_bugs() -> None:
    assert {path.stem for path in FORMS} == {"bug", "false-alarm", "rule"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_takes(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in form["body"]} <= kinds
    ids = [part["id"] for part in questions]
    assert len(ids) == len(set(ids))
    for part in questions:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", part["id"])
        assert part["attributes"]["label"]
        if part["type"] in {"dropdown", "checkboxes"}:
            assert part["attributes"]["options"]


def test_documents_that_templates_name_exist() -> None:
    for path in (*GITHUB.glob("*.md"), *GITHUB.glob("*TEMPLATE/*")):
        for name, anchor in re.findall(r"\b(docs/[\w./-]+\.md)(?:#([\w-]+))?", path.read_text()):
            text = (FOLDER / name).read_text()
            headings = {
                re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in text.splitlines()
                if line.startswith("#")
            }
            assert not anchor or anchor in headings, (path, anchor)


def test_links_of_the_page_on_rules_lead_somewhere() -> None:
    for page in (FOLDER / "docs" / "rules.md", FOLDER / "rules" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / target).exists(), target
