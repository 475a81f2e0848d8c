"""Files that operators and users write: rules, lists, settings, recordings."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import date
from functools import cache
from typing import Any

import msgspec

from minerwatch.config import (
    BUILT_IN_RULES,
    Config,
    duration_s,
    host_and_port,
    load,
    mode,
    pod_label,
)
from minerwatch.detection import check, rulebook
from minerwatch.detection.lint import lint
from minerwatch.detection.match import Matcher
from minerwatch.detection.rule import Rule
from minerwatch.errors import ClusterError, ConfigError, RuleError
from minerwatch.hours import hours
from minerwatch.kube.client import _context
from minerwatch.kube.owners import sources
from minerwatch.labels import selector
from minerwatch.node import content_scanner
from minerwatch.node.content import _text as yara_text
from tests.fuzz.contract import is_finite, is_told
from tests.fuzz.places import folder, put
from tests.fuzz.registry import parts, target

_TODAY = date(2026, 11, 23)


@target(
    *("detection.rule", "detection.document", "detection.rulebook", "detection.lint"),
    *("detection.check", "detection.condition"),
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
    lines = text.count(b"\n") + text.count(b"\r") + 2
    for error in book.errors:
        is_told(error)
        assert error.line >= 1
        assert error.line <= lines + len(text.decode("utf-8", "replace").splitlines())
    for rule in book.rules:
        _works(rule)
    matcher = Matcher(book.rules)
    for failed in check.failed_tests(book.rules, matcher, book.lists):
        str(failed)
    for remark in lint(book, today=_TODAY):
        assert remark.text
    assert rulebook.reload(book).rules == book.rules


def _works(rule: Rule) -> None:
    assert 0 <= rule.score <= 100
    is_finite(rule.hold_s)
    assert rule.hold_s >= 0
    matcher = Matcher((rule,))
    for facts in ({}, {"CommandLine": "./a -o pool:3333", "Image": "/tmp/a", "CpuCores": 1.0}):
        for match in matcher.matches(facts):
            assert match.rule is rule


@target("detection.rule", "detection.list_lint", cost=4)
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


@target("node.content_scanner", "node.content", cost=4)
def yara_file(data: bytes) -> None:
    """A YARA file: compiled, or the first error with its line."""
    path = put(folder("yara") / "rules.yar", data)
    try:
        text = yara_text(path)
    except RuleError as error:
        is_told(error)
        return
    compiled, trouble = content_scanner._compiled(text)
    assert (compiled is None) is (trouble is not None)
    if trouble is not None:
        assert isinstance(trouble[0], int)
        assert trouble[1]


@target("config", max_bytes=8192, cost=4)
def configuration(data: bytes) -> None:
    """The configuration: a typed tree of finite numbers, or an error that names the key."""
    try:
        config = load(put(folder("config") / "config.yaml", data))
    except ConfigError as error:
        is_told(error)
        return
    _is_sane(config)


def _is_sane(value: Any) -> None:
    if isinstance(value, float):
        is_finite(value)
        assert value >= 0
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _is_sane(getattr(value, name))
    elif isinstance(value, tuple):
        for each in value:
            _is_sane(each)
    elif isinstance(value, Config):
        host, port = host_and_port(value.listen)
        assert isinstance(host, str)
        assert 0 <= port <= 65535


@target("hours", "labels", "config", "kube.owners")
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


@cache
def _matcher() -> Matcher:
    return Matcher(rulebook.bare(rulebook.load((BUILT_IN_RULES,))).rules)


@target("detection.check", "detection.match", cost=8)
def recording(data: bytes) -> None:
    """A line of recorded facts, and what the shipped rules say of it."""
    try:
        recorded = check.recording(data)
    except ValueError as error:
        is_told(error)
        return
    outcome = check.replayed(recorded, _matcher())
    assert 0 <= outcome.score <= 100
    assert math.isfinite(recorded.seconds)


@target("kube.client", cost=4)
def kubeconfig(data: bytes) -> None:
    """A kubeconfig, as far as its contexts go; plugins that it names are not run."""
    path = put(folder("kubeconfig") / "config", data)
    for wanted in (None, "lab"):
        try:
            name, namespace = _context(str(path), wanted)
        except ClusterError as error:
            is_told(error)
        else:
            assert isinstance(name, str)
            assert isinstance(namespace, str)


