"""The pages in docs/: links lead somewhere, the map has the modules that there are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import yaml

from minerwatch.cli.main import cli
from minerwatch.config.reader import checked
from minerwatch.config.schema import Config
from tests.deploy.services import GUIDE, anchors

FOLDER = Path(__file__).parent.parent
PACKAGE = FOLDER / "minerwatch"
ARCHITECTURE = FOLDER / "docs" / "architecture.md"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "rules/*.md", "tests/**/*.md")
    for path in FOLDER.glob(pattern)
)

_ONE_PAGE_LINES = 100
_ONE_SCREEN_LINES = 70
_GUIDE_LINES = 400
GUIDE_ANCHORS = """
    now decide where-you-type find-what-uses-cpu with-minerwatch with-prometheus-over-time
    with-kubectl on-the-node spot-a-miner read-a-verdict false-positives keep-the-evidence stop-it
    let-minerwatch-do-it ban-it after-the-incident the-screen tune alerts
    other-signs-about-the-agent
"""
"""Beside those of the alerts: sites and older versions link to them."""
_TYPED = re.compile(r"(?:^|[`( ]|-- )minerwatch ((?:[a-z]+ ?)[^`|#;>\n]*)", re.MULTILINE)


def _mapped() -> Iterator[tuple[Path, str]]:
    """Folder and name of each module in the map; an empty cell is the folder of the row above."""
    folder = PACKAGE
    for line in ARCHITECTURE.read_text().splitlines():
        row = re.match(r"\| (?:`([a-z_/]+/)` )?\| ((?:`[a-z_]+` ?)+)\|", line)
        if row is None:
            continue
        if row[1]:
            folder = FOLDER / row[1] if row[1] == "minerwatch/" else PACKAGE / row[1]
        for name in re.findall(r"`([a-z_]+)`", row[2]):
            yield folder, name


def test_the_map_names_each_module_once_and_none_that_is_not_there() -> None:
    named = [folder / f"{name}.py" for folder, name in _mapped()]
    there = {path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")}
    assert len(named) == len(set(named))
    assert set(named) == there


def _configurations() -> Iterator[object]:
    """Yield blocks of YAML that have keys of the agent's configuration and no others."""
    known = {each.name for each in msgspec.structs.fields(Config)}
    for page in PAGES:
        blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
        for number, block in enumerate(map(textwrap.dedent, blocks)):
            if yaml.safe_load(block).keys() <= known:
                yield pytest.param(block, id=f"{page.relative_to(FOLDER)}:{number}")


@pytest.mark.parametrize("block", [*_configurations()])
def test_a_configuration_on_a_page_has_no_faults(block: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block)
    assert checked(path).faults == ()


def test_the_architecture_is_one_page() -> None:
    assert len(ARCHITECTURE.read_text().splitlines()) <= _ONE_PAGE_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), f"{target}#{anchor}"


def test_the_guide_is_short_and_keeps_its_anchors() -> None:
    text = GUIDE.read_text()
    assert set(anchors(text)) >= set(GUIDE_ANCHORS.split())
    assert text.count("\n") <= _GUIDE_LINES
    assert (FOLDER / "docs" / "how-to-spot-a-miner.md").read_text().count("\n") <= _ONE_SCREEN_LINES


def test_no_heading_comes_twice_where_it_is_linked_to() -> None:
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            found = anchors(page.read_text())
            assert len(found) == len(set(found)), page


def test_tests_that_pages_name_are_there() -> None:
    named = [
        name
        for page in PAGES
        for name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    ]
    assert len(named) > 5
    for path, test in named:
        assert not test or f"def {test}(" in (FOLDER / path).read_text(), f"{path}::{test}"
        assert (FOLDER / path).exists()


def _commands() -> Iterator[tuple[str, click.Command, list[str]]]:
    """What the pages tell people to type: the text, the command, the long options in it."""
    context = click.Context(cli)
    for page in PAGES:
        for text in _TYPED.findall(page.read_text()):
            first, *others = text.split()
            command = cli.get_command(context, first)
            if command is None:
                continue  # a sentence
            if isinstance(command, click.Group) and others:
                command = command.get_command(context, others[0].strip(",")) or command
            yield text, command, [word.partition("=")[0] for word in others if word[:2] == "--"]


def test_what_pages_tell_people_to_type_is_understood() -> None:
    told = list(_commands())
    assert len(told) > 50
    for text, command, options in told:
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert set(options) <= known, text


def test_the_recorded_cluster_in_the_guide_is_what_top_prints() -> None:
    recorded = FOLDER / "tests" / "golden" / "top-cluster-120.txt"
    assert "\n".join(recorded.read_text().splitlines()[:8]) in GUIDE.read_text()


_KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def test_the_changelog_has_sections_of_one_line_each() -> None:
    _, *versions = re.split(r"(?m)^## ", (FOLDER / "CHANGELOG.md").read_text())
    for version in versions:
        _, *sections = re.split(r"(?m)^### ", version)
        titles = [section.partition("\n")[0] for section in sections]
        assert titles == [kind for kind in _KINDS if kind in titles]
        for section in sections:
            for line in filter(None, section.splitlines()[1:]):
                assert line.startswith("- ") and len(line) <= 140, line  # noqa: PT018
