"""Files that operators and users write: rules, lists, settings, recordings."""

from __future__ import annotations

import io
import math
from contextlib import suppress
from datetime import date
from typing import Any

import msgspec

from minerwatch.authoring import recordings
from minerwatch.authoring.lint import lint
from minerwatch.authoring.rule_tests import failed_tests
from minerwatch.config.hours import hours
from minerwatch.config.reader import load
from minerwatch.config.schema import Config
from minerwatch.config.selectors import selector
from minerwatch.config.values import Duration, duration_s, host_and_port, mode, pod_label
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import Rule
from minerwatch.errors import ClusterError, ConfigError, RuleError
from minerwatch.kube.client import kubeconfig_context
from minerwatch.kube.owners import sources
from minerwatch.model import Facts
from minerwatch.node.children import scanning
from minerwatch.node.yara_scan import read_rules as yara_text
from tests.fuzz.contract import are_lines, is_finite, is_told
from tests.fuzz.places import folder, put
from tests.fuzz.registry import parts, target
from tests.shipped import matcher

_TODAY = date(2026, 11, 23)
_FACTS: tuple[Facts, ...] = (
    {},
    {"CommandLine": "./a -o pool:3333", "Image": "/tmp/a", "CpuCores": 1.0},
)


@target(
    *(
        "detection.sigma.rule",
        "detection.sigma.filters",
        "detection.sigma.dialect",
        "detection.sigma.detection_parser",
        "detection.sigma.yaml_document",
    ),
    *("detection.sigma.rulebook", "authoring.lint"),
    *("authoring.rule_tests", "detection.condition"),
    max_bytes=8192,
    cost=24,
)
def rule_file(data: bytes) -> None:
    """A Sigma file and a list beside it: rules or errors with a line, and nothing that raises."""
    text, entries = parts(data, 2)
    place = folder("rules")
    put(place / "rule.yml", text)
    put(place / "lists" / "names.txt", entries)
    book = rulebook.load((place,))
    for error in book.errors:
        is_told(error)
        assert 1 <= error.line <= len(data.decode("utf-8", "replace").splitlines()) + 1
    for rule in book.rules:
        _works(rule)
    for failed in failed_tests(book.rules, Matcher(book.rules), book.lists):
        str(failed)
    for remark in lint(book, today=_TODAY):
        assert remark.text
    assert rulebook.reload(book).rules == book.rules


def _works(rule: Rule) -> None:
    assert 0 <= rule.score <= 100
    is_finite(rule.hold_s)
    assert rule.hold_s >= 0
    alone = Matcher((rule,))
    for facts in _FACTS:
        for match in alone.matches(facts):
            assert match.rule is rule


@target("detection.sigma.lists", "authoring.lint_book", cost=4)
def list_file(data: bytes) -> None:
    """A list alone: entries, or an error with a line."""
    place = folder("lists")
    path = put(place / "lists" / "names.txt", data)
    book = rulebook.load((place,))
    for error in book.errors:
        is_told(error)
        assert error.path == path
    for entry in book.lists.entries.get("names", ()):
        assert entry.strip() == entry
        assert entry
    lint(book)


@target("node.children.scanning", "node.yara_scan", cost=4)
def yara_file(data: bytes) -> None:
    """A YARA file: compiled, or the first error with its line."""
    path = put(folder("yara") / "rules.yar", data)
    try:
        text = yara_text(path)
    except RuleError as error:
        is_told(error)
        return
    compiled, trouble = scanning.compile_rules(text)
    assert (compiled is None) is (trouble is not None)
    if trouble is not None:
        assert isinstance(trouble[0], int)
        assert trouble[1]


@target("config.reader", "config.schema", max_bytes=2048, cost=8)
def configuration(data: bytes) -> None:
    """The configuration: a typed tree of finite numbers, or an error that names the key."""
    try:
        config = load(put(folder("config") / "config.yaml", data))
    except ConfigError as error:
        is_told(error)
        return
    _is_sane(config)


def _is_sane(value: Any) -> None:
    if isinstance(value, Duration):
        is_finite(value)
    if isinstance(value, float):
        assert value >= 0  # so it is no NaN; that nobody is ever hot may be meant
    if isinstance(value, Config):
        assert 0 <= host_and_port(value.listen)[1] <= 65535
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _is_sane(getattr(value, name))
    if isinstance(value, tuple):
        for each in value:
            _is_sane(each)


@target("config.hours", "config.selectors", "config.values", "kube.owners")
def settings_words(data: bytes) -> None:
    """What is written in one word: hours, selectors, durations, labels, addresses, sources."""
    text = data.decode("utf-8", "replace")
    with suppress(ConfigError):
        for moment in (0.0, 1.8e9):
            hours(text).include(moment)
    with suppress(ConfigError):
        chosen = selector(text)
        chosen.matches({"app": "web"})
        assert all(chosen.keys) or not text.strip()
    with suppress(ConfigError):
        found = duration_s(text)
        is_finite(found)
        assert found > 0
    with suppress(ConfigError):
        label = pod_label(text)
        assert label.key
        assert len(label.value) <= 63
    with suppress(ConfigError):
        assert 0 <= host_and_port(text)[1] <= 65535
    with suppress(ConfigError):
        mode(text)
    with suppress(ConfigError):
        sources("jupyterhub", [text])


@target("authoring.recordings", "detection.matching.matcher", cost=8)
def recording(data: bytes) -> None:
    """Lines of recorded facts, and what the shipped rules say of them."""
    titles = {rule.id: rule.title for rule in matcher().rules}
    for _, line in recordings.numbered_lines(io.BytesIO(data)):
        try:
            recorded = recordings.parse_recording(line)
        except ValueError as error:
            is_told(error)
            continue
        outcome = recordings.replayed(recorded, matcher())
        assert 0 <= outcome.score <= 100
        assert math.isfinite(recorded.seconds)
        are_lines(recordings.text_line(recorded, outcome, titles))
        recordings.json_line(outcome)


@target("kube.client", max_bytes=1024, cost=24)
def kubeconfig(data: bytes) -> None:
    """A kubeconfig, as far as its contexts go; plugins that it names are not run."""
    path = put(folder("kubeconfig") / "config", data)
    for wanted in (None, "lab"):
        try:
            name, namespace = kubeconfig_context(str(path), wanted)
        except ClusterError as error:
            is_told(error)
        else:
            assert isinstance(name, str)
            assert isinstance(namespace, str)
