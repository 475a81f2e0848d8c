"""Sigma filters: what they exclude, which rules they serve, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sigma.filters import SigmaFilter
from sigma.rule import SigmaRule

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.condition import All, Condition, How, Not, Number, Text
from minerwatch.detection.judge import Judge, Sighting
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.filters import filter_of, is_filter, outline_of
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.rule import Filter, Rule, SkippedRule
from minerwatch.detection.sigma.rulebook import RuleBook, bare, has_changed, load, reload
from minerwatch.detection.sigma.yaml_document import read_document
from minerwatch.errors import RuleError
from minerwatch.model import ContainerKey
from tests.builders import parse_rule
from tests.detection.sigma.test_rulebook import an_id, titles, write

FILTER = f"""\
title: Readers that have hardly computed
id: 0c5a8c1e-6c2b-4a39-9d0a-3f1c6f0b7a11
description: Programs that only read.
logsource: {{product: linux}}
filter:
  rules:
    - {an_id("one")}
    - {an_id("two").upper()}
  reader:
    Comm: grep
  computes:
    CpuSeconds|gte: 30
  condition: not reader or computes
"""
PATH = Path("filters/readers.yml")
IMAGE = {"Image": "/a/x"}


def parsed(text: str) -> Filter:
    document = read_document(PATH, text)
    assert is_filter(document)
    outcome = filter_of(document, Lists())
    assert isinstance(outcome, Filter)
    return outcome


def add_filter(folder: Path, text: str = FILTER) -> Path:
    path = folder / "filters" / "readers.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def holding(book: RuleBook, **facts: object) -> list[str]:
    matches = Matcher(book.rules).matches({**IMAGE, **facts})  # type: ignore[dict-item]
    return sorted(match.rule.title for match in matches)


def test_everything_of_a_filter_is_read() -> None:
    read = parsed(FILTER)
    assert (read.title, read.description) == (
        "Readers that have hardly computed",
        "Programs that only read.",
    )
    assert read.rules == (an_id("one"), an_id("two"))
    assert read.fields == {"Comm", "CpuSeconds"}
    assert read.field_lines == {"Comm": 10, "CpuSeconds": 12}
    assert read.unused_selections == ()


def test_only_the_rules_that_it_names_are_narrowed(tmp_path: Path) -> None:
    for title in ("one", "three", "two"):
        write(tmp_path / f"{title}.yml", title)
    add_filter(tmp_path)
    book = load([tmp_path])
    assert book.errors == ()
    assert holding(book, Comm="bash") == ["one", "three", "two"]
    assert holding(book, Comm="grep") == ["three"]
    assert holding(book, Comm="grep", CpuSeconds=31.0) == ["one", "three", "two"]
    assert [len(rule.filters) for rule in book.rules] == [1, 0, 1]
    assert book.rules[0].fields == {"Image", "Comm", "CpuSeconds"}
    assert book.rules[0].dynamic


def test_a_rule_for_another_log_source_is_not_narrowed(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "one")
    add_filter(tmp_path, FILTER.replace("product: linux", "category: network_connection"))
    assert load([tmp_path]).rules[0].filters == ()


def test_it_means_what_pysigma_means_by_it() -> None:
    """pySigma applies a filter by rewriting the rule's condition text."""
    book = load([BUILT_IN_RULES])
    narrowed = [rule for rule in book.rules if rule.filters]
    assert narrowed
    for rule in narrowed:
        content = yaml.safe_load(rule.path.read_text("utf-8"))
        sigma = SigmaRule.from_dict({**content, "minerwatch": None})
        for each in rule.filters:
            SigmaFilter.from_dict(yaml.safe_load(each.path.read_text("utf-8"))).apply_on_rule(sigma)
        rewritten = yaml.safe_dump(
            {**content, "detection": sigma.detection.to_dict()}, sort_keys=False
        )
        theirs = parse_rule(rule.path, rewritten, book.lists)
        assert isinstance(theirs, Rule)
        assert list(_flat(rule.condition)) == list(_flat(theirs.condition))


def _flat(condition: Condition) -> Iterator[Condition]:
    """Yield the members of nested conjunctions."""
    if isinstance(condition, All):
        for inner in condition.conditions:
            yield from _flat(inner)
    else:
        yield condition


@pytest.mark.parametrize("rules", ["any", "[]", "~", "{a: b}", f"'{an_id('one')}'"])
def test_a_filter_has_to_list_its_rules(rules: str) -> None:
    head, _, rest = FILTER.partition("  rules:\n")
    text = f"{head}  rules: {rules}\n{rest[rest.index('  reader') :]}"
    with pytest.raises(RuleError, match=r"readers\.yml:6: filter\.rules: must be a list of the id"):
        parsed(text)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (an_id("one"), "a-name", "7: filter.rules: 'a-name' is not the id of a rule"),
        (an_id("one"), "any", "7: filter.rules: 'any' is not the id of a rule"),
        ("title: R", "titel: R", "1: title: missing"),
        ("id: 0c5a8c1e", "id: 0c5a8c", "2: id: '0c5a8c-"),
        ("product: linux", "product: windows", "4: logsource: product 'windows' is not supported"),
        ("  condition: not reader or computes\n", "", "5: filter: condition is missing"),
        ("not reader or", "not readers or", "13: condition: no selection is named 'readers': did"),
        ("Comm: grep", "Comm|re: '(?=a)'", "10: Comm|re: regular expression '(?=a)' is not"),
        ("Comm: grep", "Comm|expand: '%none%'", "10: no list for %none%"),
        ("CpuSeconds|gte: 30", "CpuSeconds|gte: x", "12: "),
    ],
)
def test_an_error_names_line_and_reason(old: str, new: str, error: str) -> None:
    assert old in FILTER
    with pytest.raises(RuleError) as caught:
        parsed(FILTER.replace(old, new, 1))
    assert str(caught.value).removeprefix(f"{PATH}:").startswith(error)


def test_a_change_of_a_filter_reaches_its_rules(tmp_path: Path) -> None:
    for title in ("one", "three"):
        write(tmp_path / f"{title}.yml", title)
    path = add_filter(tmp_path)
    book = load([tmp_path])
    assert holding(book, Comm="less") == ["one", "three"]
    path.write_text(FILTER.replace("grep", "less"))
    assert has_changed(book)
    again = reload(bare(book))
    assert holding(again, Comm="less") == ["three"]
    assert holding(again, Comm="grep") == ["one", "three"]
    path.write_text("title: [")
    broken = reload(again)
    assert [error.path for error in broken.errors] == [path]
    assert holding(broken, Comm="less") == ["three"]
    path.unlink()
    assert holding(reload(broken), Comm="less") == ["one", "three"]


def test_a_later_folder_replaces_a_filter_and_switches_one_off(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.yml", "one")
    add_filter(tmp_path / "a")
    later = add_filter(tmp_path / "b", FILTER.replace("grep", "less"))
    book = load([tmp_path / "a", tmp_path / "b"])
    assert holding(book, Comm="grep") == ["one"]
    assert holding(book, Comm="less") == []
    later.write_text(FILTER.replace("logsource:", "status: deprecated\nlogsource:"))
    book = reload(book)
    assert holding(book, Comm="less") == holding(book, Comm="grep") == ["one"]
    assert isinstance(book.files[later].outcome, SkippedRule)
    document = read_document(later, later.read_text())
    assert isinstance(filter_of(document, Lists()), SkippedRule)


def test_two_filters_narrow_one_rule(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "one")
    add_filter(tmp_path)
    other = FILTER.replace("0c5a8c1e", "0c5a8c1f").replace("grep", "less")
    (tmp_path / "filters" / "other.yml").write_text(other)
    book = load([tmp_path])
    assert holding(book, Comm="grep") == holding(book, Comm="less") == []
    assert holding(book, Comm="vim") == ["one"]


def test_a_filter_and_a_rule_of_one_id_clash(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "one")
    add_filter(tmp_path, FILTER.replace("0c5a8c1e-6c2b-4a39-9d0a-3f1c6f0b7a11", an_id("one")))
    (error,) = load([tmp_path]).errors
    assert f"id {an_id('one')} is also that of {tmp_path}/filters/readers.yml" in str(error)


def test_what_a_private_filter_asks_for_is_private(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.yml", "one")
    text = FILTER.replace("not reader or computes", "reader and not computes")
    add_filter(tmp_path / "b", text)
    book = load([tmp_path / "a", tmp_path / "b"], private=[tmp_path / "b"])
    (rule,) = book.rules
    assert not rule.private
    assert rule.secrets == {("Comm", "is 'grep'"), ("CpuSeconds", ">= 30")}
    (match,) = Matcher(book.rules).matches({**IMAGE, "Comm": "grep", "CpuSeconds": 1.0})
    assert Sighting(rule, None, match.evidence).private
    assert load([tmp_path / "a", tmp_path / "b"]).rules[0].secrets == frozenset()


def test_a_finding_names_the_filters_that_narrow_its_rule(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.yml", "one")
    add_filter(tmp_path / "b")
    for private, title in (
        ((), "Readers that have hardly computed"),
        ((tmp_path / "b",), "private filter 0c5a8c1e-6c2b-4a39-9d0a-3f1c6f0b7a11"),
    ):
        (rule,) = bare(load([tmp_path / "a", tmp_path / "b"], private=private)).rules
        verdict = Judge().verdict(ContainerKey("/", 1), [Sighting(rule, None, ())], 0.0)
        assert [finding.filters for finding in verdict.findings] == [(title,)]


def test_entries_of_a_private_list_are_private_also_in_a_public_filter(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.yml", "one")
    add_filter(tmp_path / "a", FILTER.replace("Comm: grep", "Comm|expand: '%names%'"))
    for folder, name in (("a", "known"), ("b", "zebra")):
        (tmp_path / folder / "lists").mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "lists" / "names.txt").write_text(name + "\n")
    book = load([tmp_path / "a", tmp_path / "b"], private=[tmp_path / "b"])
    assert book.rules[0].secrets == {("Comm", "is 'zebra'")}
    assert book.rules[0].lists == ("names",)
    (tmp_path / "b" / "lists" / "names.txt").write_text("known\nlion\n")
    assert reload(book).rules[0].secrets == {("Comm", "is 'lion'")}


def test_an_outline_has_the_selections_of_rule_and_filter(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "one")
    add_filter(tmp_path)
    book = load([tmp_path])
    outline = outline_of(book.rules[0], book.lists)
    assert outline.text == "a; filter filters/readers.yml: not reader or computes"
    assert outline.lines == {
        "a": 6,
        "reader in filters/readers.yml": 9,
        "computes in filters/readers.yml": 11,
    }
    reader, computes = list(outline.selections.values())[1:]
    assert reader == Text("Comm", How.EQUALS, "grep")
    assert isinstance(computes, Number)


def test_the_shipped_filters_exclude_what_a_program_does() -> None:
    book = load([BUILT_IN_RULES])
    fields = {each.path.stem: each.fields for each in book.filters}
    assert fields == {
        "checksum_of_a_mapped_file": {"LargestFileMiB"},
        "node_that_checks_blocks": {"DestinationPort", "LargestFileMiB"},
        "served_by_the_kernel": {"KernelCpuShare"},
    }
    assert all(isinstance(each.condition, Not) for each in book.filters)
    served = sum(len(each.rules) for each in book.filters)
    assert served == sum(len(rule.filters) for rule in book.rules)
    assert titles(book)
