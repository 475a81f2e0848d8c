"""Read a Sigma rule: its header, its detection, and the keys under ``minerwatch``."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from minerwatch.detection.condition import Condition, fields_of
from minerwatch.detection.facts import with_destination_count
from minerwatch.detection.fields import is_dynamic, is_of_container, is_pooled
from minerwatch.detection.planted_words import with_arguments
from minerwatch.detection.sigma.detection_parser import DetectionReader, check_by_sigma
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.yaml_document import Document, KeyPath, Value
from minerwatch.model import Abuse, Facts, FactValue, Maturity, Signal

LEVEL_SCORES = {"informational": 0, "low": 15, "medium": 35, "high": 60, "critical": 88}
BEHAVIOUR_LIMIT = 29
"""Highest score of a behaviour rule: CPU usage alone never raises an alarm."""

CATEGORY_SIGNALS = {
    "process_creation": Signal.IDENTITY,
    "network_connection": Signal.NETWORK,
}
_Word = TypeVar("_Word", Signal, Abuse)
_OWN_KEYS = ("signal", "abuse", "score", "for", "tests")
_DURATION = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class LogSource:
    """The kind of events that a rule is written for."""

    product: str
    category: str


@dataclass(frozen=True, slots=True)
class RuleTest:
    """Facts that the rule must match (``holds``), or must not."""

    facts: Facts = field(hash=False)
    holds: bool
    line: int


@dataclass(frozen=True, slots=True)
class Filter:
    """One Sigma filter: the rules that it names hold only where its condition holds, too."""

    id: str
    title: str
    path: Path
    rules: tuple[str, ...]  # ids
    logsource: LogSource
    condition: Condition
    fields: frozenset[str]
    description: str = ""
    lists: tuple[str, ...] = ()
    unused_selections: tuple[str, ...] = ()
    id_line: int = 1
    field_lines: Mapping[str, int] = field(default_factory=dict, hash=False)
    private: bool = False
    secrets: frozenset[tuple[str, str]] = frozenset()

    @property
    def public_title(self) -> str:
        """Return the title as it may leave the node."""
        return f"private filter {self.id}" if self.private else self.title


@dataclass(frozen=True, slots=True)
class Rule:
    """One Sigma rule; ``signal`` is the family of evidence that its findings belong to."""

    id: str
    title: str
    path: Path
    signal: Signal
    score: float
    hold_s: float  # ``for:``, the time that it must hold before it counts
    level: str  # Sigma's word, "" where only a score is given
    maturity: Maturity
    logsource: LogSource
    condition: Condition  # with those of its filters
    fields: frozenset[str]
    tests: tuple[RuleTest, ...] = ()
    description: str = ""
    author: str = ""
    date: str = ""
    modified: str = ""
    references: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()  # named by its placeholders
    unused_selections: tuple[str, ...] = ()  # defined, but in no condition
    filters: tuple[Filter, ...] = ()
    abuse: Abuse = Abuse.MINING
    id_line: int = 1
    field_lines: Mapping[str, int] = field(default_factory=dict, hash=False)  # where first named
    is_foreign: bool = False  # written for another product: no key ``minerwatch``
    private: bool = False  # only its id leaves the node
    secrets: frozenset[tuple[str, str]] = frozenset()
    """Pairs of field and description, as in evidence, that come from private files only."""

    @property
    def dynamic(self) -> bool:
        """Return True if a field of it may change while a process runs."""
        return any(is_dynamic(name) for name in self.fields)

    @property
    def of_container(self) -> bool:
        """Return True if all its fields describe the container, so that it fits no one process."""
        return bool(self.fields) and all(is_of_container(name) for name in self.fields)

    @property
    def is_pooled(self) -> bool:
        """Return True if it fits a process, and all processes of a container taken together."""
        return any(is_pooled(name) for name in self.fields) and all(
            is_pooled(name) or is_of_container(name) for name in self.fields
        )


@dataclass(frozen=True, slots=True)
class SkippedRule:
    """A rule or filter that its author has withdrawn; it replaces an earlier one with its id."""

    id: str
    path: Path
    id_line: int


def rule_of(document: Document, lists: Lists) -> Rule | SkippedRule:
    """Read the rule in a document; raise ``RuleError`` if it has an error."""
    _refuse_other_kinds(document)
    if is_withdrawn(document):
        return skipped(document)
    _refuse_misspelt_keys(document)
    check_header(document)
    source = logsource(document)
    check_by_sigma(document)
    reader = DetectionReader(document, lists)
    condition = reader.condition()
    own = _own_settings(document)
    signal = _signal(document, own, source)
    level = str(document.content.get("level") or "").lower()
    return Rule(
        id=uuid_of(document),
        title=text_of(document, "title"),
        path=document.path,
        signal=signal,
        abuse=_chosen(document, "abuse", own.get("abuse", Abuse.MINING.value), Abuse),
        score=_score(document, own, signal, level),
        hold_s=_hold_s(document, own),
        level=level,
        maturity=_maturity(document),
        logsource=source,
        condition=condition,
        fields=fields_of(condition),
        tests=tuple(_tests(document, own)),
        description=text_of(document, "description"),
        author=text_of(document, "author"),
        date=text_of(document, "date"),
        modified=text_of(document, "modified"),
        references=_texts(document, "references"),
        tags=_texts(document, "tags"),
        falsepositives=_texts(document, "falsepositives"),
        lists=tuple(sorted(reader.lists_used)),
        unused_selections=reader.unused_selections(),
        id_line=document.line("id"),
        is_foreign=_is_foreign(document),
        field_lines=reader.field_lines,
    )


def _maturity(document: Document) -> Maturity:
    """Return the status; a rule that was not written for minerwatch is never ``stable``.

    In Sigma the word means few false alarms. Here it also permits an action, which the author of a
    rule from another collection did not intend.
    """
    maturity = Maturity(str(document.content.get("status") or "experimental").lower())
    is_unfit = _is_foreign(document) and maturity is Maturity.STABLE
    return Maturity.TEST if is_unfit else maturity


def _is_foreign(document: Document) -> bool:
    return "minerwatch" not in document.content


# The header.


def _refuse_other_kinds(document: Document) -> None:
    if "correlation" in document.content:
        raise document.error("correlation rules are not supported", "correlation")
    if "action" in document.content:
        reason = "rule collections (action: …) are not supported: one file holds one rule"
        raise document.error(reason, "action")


def is_withdrawn(document: Document) -> bool:
    """Return True if the author has withdrawn the rule or filter."""
    return document.content.get("status") in ("deprecated", "unsupported")


def skipped(document: Document) -> SkippedRule:
    """Return a withdrawn rule or filter."""
    identifier = document.content.get("id")
    text = identifier.lower() if isinstance(identifier, str) else ""
    return SkippedRule(text, document.path, document.line("id"))


def _refuse_misspelt_keys(document: Document) -> None:
    """Refuse a misspelt ``minerwatch``: Sigma permits any key, so its settings would be lost."""
    for key in document.content:
        if key != "minerwatch" and _resembles_minerwatch(key):
            raise document.error(f"unknown key {key!r}: did you mean 'minerwatch'?", key)


@lru_cache(maxsize=100)
def _resembles_minerwatch(key: str) -> bool:
    """Return True if the key may be a misspelt ``minerwatch``; all files have the same few keys."""
    return bool(get_close_matches(key.lower(), ("minerwatch",), cutoff=0.75))


def check_header(document: Document) -> None:
    """Raise ``RuleError`` for an invalid title, id, status or level."""
    content = document.content
    title = content.get("title")
    if not isinstance(title, str) or not title.strip():
        reason = "title: missing" if title is None else "title: must be text, and not empty"
        raise document.error(reason, "title")
    identifier = content.get("id")
    if identifier is None:
        hint = "create one with `uuidgen` or `python3 -c 'import uuid; print(uuid.uuid4())'`"
        raise document.error(f"id: missing; {hint}", "id")
    if not isinstance(identifier, str) or not is_uuid(identifier):
        raise document.error(f"id: {str(identifier)[:80]!r} is not a UUID", "id")
    for key in ("status", "level", "author", "description"):
        if not isinstance(content.get(key), str | None):
            raise document.error(f"{key}: must be text", key)
    _check_word(document, "status", ("experimental", "test", "stable"))
    _check_word(document, "level", tuple(LEVEL_SCORES))


def uuid_of(document: Document) -> str:
    """Return the id of a document with a valid header, in the canonical form."""
    return str(uuid.UUID(str(document.content["id"])))


def is_uuid(text: str) -> bool:
    """Return True if the text is a UUID with hyphens."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _check_word(document: Document, key: str, words: tuple[str, ...]) -> None:
    word = document.content.get(key)
    if word is not None and str(word).lower() not in words:
        raise document.error(f"{key}: invalid {word!r}: use {_one_of(words)}", key)


def _one_of(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def text_of(document: Document, key: str) -> str:
    """Return the text of a top-level key, "" where it is missing."""
    value = document.content.get(key)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def _texts(document: Document, key: str) -> tuple[str, ...]:
    value = document.content.get(key)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in items if item is not None)


def logsource(document: Document) -> LogSource:
    """Return the log source; raise ``RuleError`` for one that minerwatch does not read."""
    source = document.content.get("logsource")
    if not isinstance(source, dict):
        reason = "logsource: missing; write {product: linux, category: process_creation}"
        raise document.error(reason, "logsource")
    for key, known in (("product", ["linux"]), ("category", [*CATEGORY_SIGNALS]), ("service", [])):
        value = source.get(key)
        if value is not None and value not in known:
            hint = f"use {' or '.join(known)}" if known else "remove it"
            reason = f"logsource: {key} {value!r} is not supported: {hint}"
            raise document.error(reason, "logsource", key)
    return LogSource(str(source.get("product") or ""), str(source.get("category") or ""))


# The keys under ``minerwatch:``.


def _own_settings(document: Document) -> Mapping[str, Value]:
    own = document.content.get("minerwatch")
    if own is None:
        return {}
    if not isinstance(own, dict):
        raise document.error("minerwatch: must be a mapping of keys", "minerwatch")
    _refuse_unknown_keys(document, own, _OWN_KEYS, "minerwatch")
    return own


def _refuse_unknown_keys(
    document: Document, given: Iterable[str], known: tuple[str, ...], *at: str
) -> None:
    for key in given:
        if key not in known:
            nearest = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            where = ".".join(at)
            reason = f"{where}: unknown key {key!r}: did you mean {nearest!r}?"
            raise document.error(reason, *at, key)


def _signal(document: Document, own: Mapping[str, Value], logsource: LogSource) -> Signal:
    word = own.get("signal")
    if word is None:
        if logsource.category in CATEGORY_SIGNALS:
            return CATEGORY_SIGNALS[logsource.category]
        reason = "minerwatch.signal: missing; only a logsource category gives it a default"
        raise document.error(reason, "minerwatch")
    return _chosen(document, "signal", word, Signal)


def _chosen(document: Document, key: str, word: Value, words: type[_Word]) -> _Word:
    try:
        return words(str(word))
    except ValueError as error:
        reason = f"minerwatch.{key}: invalid {word!r}: use {_one_of(tuple(words))}"
        raise document.error(reason, "minerwatch", key) from error


def _score(document: Document, own: Mapping[str, Value], signal: Signal, level: str) -> float:
    score = own.get("score")
    limit = BEHAVIOUR_LIMIT if signal is Signal.BEHAVIOUR else 100
    if score is None:
        if not level:
            reason = f"level: missing; use {_one_of(tuple(LEVEL_SCORES))}"
            raise document.error(reason, "level")
        return float(min(LEVEL_SCORES[level], limit))
    at = ("minerwatch", "score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise document.error(
            f"minerwatch.score: invalid {score!r}: use a number from 0 to 100", *at
        )
    if score > limit:
        reason = f"minerwatch.score: {score} is above {limit}, the limit of behaviour rules"
        raise document.error(reason, *at)
    return float(score)


def _hold_s(document: Document, own: Mapping[str, Value]) -> float:
    duration = own.get("for")
    if duration is None:
        return 0.0
    written = "" if isinstance(duration, bool) else str(duration).strip()
    parsed = _DURATION.fullmatch(written)
    if parsed is None:
        reason = f"minerwatch.for: invalid {duration!r}: use a duration such as 30s, 1m or 2h"
        raise document.error(reason, "minerwatch", "for")
    return float(parsed[1]) * _SECONDS[parsed[2] or ""]


def _tests(document: Document, own: Mapping[str, Value]) -> Iterator[RuleTest]:
    tests = own.get("tests")
    if tests is None:
        return
    at = ("minerwatch", "tests")
    if not isinstance(tests, dict):
        raise document.error("minerwatch.tests: must have the keys match and no_match", *at)
    _refuse_unknown_keys(document, tests, ("match", "no_match"), *at)
    for kind, cases in tests.items():
        if not isinstance(cases, list):
            raise document.error(f"minerwatch.tests.{kind}: must be a list of facts", *at, kind)
        for index, case in enumerate(cases):
            facts = _test_facts(document, case, (*at, kind, index))
            yield RuleTest(facts, kind == "match", document.line(*at, kind, index))


def _test_facts(document: Document, case: Value, at: KeyPath) -> Facts:
    if not isinstance(case, dict):
        raise document.error("minerwatch.tests: a case must be a mapping of fields to values", *at)
    facts = {name: _test_value(document, value, (*at, name)) for name, value in case.items()}
    return with_destination_count(with_arguments(facts))


def _test_value(document: Document, value: Value, at: KeyPath) -> FactValue:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        if all(isinstance(item, str | int) and not isinstance(item, bool) for item in value):
            return tuple(str(item) for item in value)
        raise document.error("minerwatch.tests: a list must hold texts or whole numbers", *at)
    how = "is null: remove the field" if value is None else "is not text or a number: quote it"
    raise document.error(f"minerwatch.tests: {at[-1]} {how}", *at)
