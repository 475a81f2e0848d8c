"""Sigma files -> Rule.

pySigma parses and validates; what comes out is a condition tree of our own, so that nothing of
pySigma stays in memory. pySigma costs 200 ms and 13 MiB, so it is imported when the first rule is
read and not before.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import re2

from minerwatch.detection.condition import (
    Absent,
    Comparison,
    Condition,
    Flag,
    How,
    Network,
    Not,
    Number,
    Present,
    SameAs,
    Text,
    all_of,
    any_of,
    escaped_wildcards,
    fields_of,
    predicates,
    regex_literal,
)
from minerwatch.detection.document import Document, KeyPath, Value, read_document, read_text
from minerwatch.detection.fields import is_dynamic, is_of_container
from minerwatch.errors import RuleError
from minerwatch.model import Facts, FactValue, Maturity, Signal

if TYPE_CHECKING:
    from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaRule
    from sigma.types import SigmaRegularExpression, SigmaString, SigmaType

KEYWORD_FIELD = "CommandLine"
"""Where searches that name no field look."""

LEVEL_SCORES = {"informational": 0, "low": 15, "medium": 35, "high": 60, "critical": 88}
BEHAVIOUR_LIMIT = 29
"""How a program burns CPU never raises an alarm alone: the highest score of such a rule."""

_CATEGORY_SIGNALS = {
    "process_creation": Signal.IDENTITY,
    "network_connection": Signal.NETWORK,
}
_OWN_KEYS = ("signal", "score", "for", "tests")
MODIFIERS = frozenset(
    (
        *("contains", "startswith", "endswith", "all", "re", "i", "m", "s", "ignorecase"),
        *("multiline", "dotall", "cidr", "gt", "gte", "lt", "lte", "neq", "exists", "cased"),
        *("base64", "base64offset", "wide", "utf16", "utf16be", "windash", "expand", "fieldref"),
    )
)
_TIMESTAMP_MODIFIERS = frozenset(("minute", "hour", "day", "week", "month", "year"))
_ENCODINGS = frozenset(("base64", "base64offset"))
_WIDE = frozenset(("wide", "utf16", "utf16be"))
_PLACEHOLDER_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_DURATION = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_PREDICATES = 50_000
_RE2_REASONS = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<": "look-behind",
    "(?>": "an atomic group",
}


@dataclass(frozen=True, slots=True)
class LogSource:
    """What the rule's author expected it to be matched against."""

    product: str
    category: str


@dataclass(frozen=True, slots=True)
class RuleTest:
    """Facts that the rule's own author says it holds on, or does not."""

    facts: Facts = field(hash=False)
    holds: bool
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One Sigma rule; ``signal`` says which family of evidence it speaks for."""

    id: str
    title: str
    path: Path
    signal: Signal
    score: float
    hold_s: float  # ``for:``: how long it must hold before it counts
    level: str  # Sigma's word, "" where only a score is given
    maturity: Maturity
    logsource: LogSource
    condition: Condition
    fields: frozenset[str]
    tests: tuple[RuleTest, ...] = ()
    description: str = ""
    author: str = ""
    date: str = ""
    modified: str = ""
    references: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()  # names of the lists that its placeholders took entries from
    unused_selections: tuple[str, ...] = ()  # named in ``detection`` but not in a condition
    id_line: int = 1
    field_lines: Mapping[str, int] = field(default_factory=dict, hash=False)  # where first named
    private: bool = False  # only its id is told outside the node
    secrets: frozenset[tuple[str, str]] = frozenset()
    """Fields and what they are asked for, as evidence tells them, that private lists alone ask."""

    @property
    def dynamic(self) -> bool:
        """Whether it looks at anything that changes while a process lives."""
        return any(is_dynamic(name) for name in self.fields)

    @property
    def of_container(self) -> bool:
        """Whether it looks at nothing but the container as a whole: it speaks of no process."""
        return bool(self.fields) and all(is_of_container(name) for name in self.fields)


@dataclass(frozen=True, slots=True)
class SkippedRule:
    """A rule that its own author has withdrawn: read, and left out."""

    id: str
    title: str
    path: Path
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lists:
    """The entries that ``|expand`` placeholders stand for, by list name."""

    folders: tuple[Path, ...] = ()  # where they were looked for
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    broken: Mapping[str, RuleError] = field(default_factory=dict, hash=False)
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Of the lists that a private folder has: the entries that others have, too."""

    def in_public(self) -> Lists:
        """The same without what only private folders say."""
        return replace(self, entries={**self.entries, **self.shown}, shown={})


def read_lists(folders: Iterable[Path], private: Collection[Path] = ()) -> Lists:
    """The lists of all rule folders: ``<folder>/lists/<name>.txt``.

    One entry a line; blank lines and lines that begin with ``#`` are left out. Entries are
    literal text. Where several folders have a list of the same name, the entries add up, so that
    a private folder extends a list that is shipped.
    """
    entries: dict[str, dict[str, None]] = {}
    shown: dict[str, dict[str, None]] = {}
    in_private: set[str] = set()
    broken: dict[str, RuleError] = {}
    list_folders: list[Path] = []
    for folder in folders:
        list_folders.append(folder / "lists")
        for path in _list_files(list_folders[-1]):
            try:
                text, _ = read_text(path)
            except RuleError as error:
                broken.setdefault(path.stem, error)
                continue
            found = dict.fromkeys(_list_entries(text))
            entries.setdefault(path.stem, {}).update(found)
            if folder in private:
                in_private.add(path.stem)
            else:
                shown.setdefault(path.stem, {}).update(found)
    return Lists(
        tuple(list_folders),
        {name: tuple(found) for name, found in entries.items()},
        broken,
        {name: tuple(shown.get(name, ())) for name in in_private},
    )


def _list_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    except OSError:
        return []


def _list_entries(text: str) -> Iterator[str]:
    for line in text.splitlines():
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield entry


def load_rule(path: Path, lists: Lists) -> Rule | SkippedRule:
    """The rule in a file; raises ``RuleError`` for whatever is wrong with it."""
    text, _ = read_text(path)
    return parse_rule(path, text, lists)


def parse_rule(path: Path, text: str, lists: Lists) -> Rule | SkippedRule:
    """The rule in a file's text; raises ``RuleError`` for whatever is wrong with it."""
    document = read_document(path, text)
    _refuse_other_kinds(document)
    if document.content.get("status") in ("deprecated", "unsupported"):
        return _skipped(document)
    _refuse_misspelt_keys(document)
    _check_header(document)
    logsource = _logsource(document)
    _check_detection_keys(document)
    detections = _DetectionReader(document, lists)
    condition = detections.condition(_parsed_by_sigma(document))
    return _rule(document, logsource, condition, detections)


@dataclass(frozen=True, slots=True)
class Outline:
    """A rule as its author wrote it: named selections, and a condition over their names."""

    text: str  # the condition's
    logic: Condition  # each selection stands as ``Present(its name)``
    selections: Mapping[str, Condition]
    lines: Mapping[str, int]


def outline_of(path: Path, lists: Lists) -> Outline:
    """The outline of a rule file that loads; raises ``RuleError`` if it no longer does."""
    document = read_document(path, read_text(path)[0])
    _check_detection_keys(document)
    return _DetectionReader(document, lists).outline(_parsed_by_sigma(document))


def _rule(
    document: Document,
    logsource: LogSource,
    condition: Condition,
    detections: _DetectionReader,
) -> Rule:
    own = _own_settings(document)
    signal = _signal(document, own, logsource)
    level = str(document.content.get("level") or "").lower()
    return Rule(
        id=str(uuid.UUID(str(document.content["id"]))),
        title=str(document.content["title"]).strip(),
        path=document.path,
        signal=signal,
        score=_score(document, own, signal, level),
        hold_s=_hold_s(document, own),
        level=level,
        maturity=_maturity(document),
        logsource=logsource,
        condition=condition,
        fields=fields_of(condition),
        tests=tuple(_tests(document, own)),
        description=_text(document, "description"),
        author=_text(document, "author"),
        date=_text(document, "date"),
        modified=_text(document, "modified"),
        references=_texts(document, "references"),
        tags=_texts(document, "tags"),
        falsepositives=_texts(document, "falsepositives"),
        lists=tuple(sorted(detections.lists_used)),
        unused_selections=detections.unused_selections(),
        id_line=document.line("id"),
        field_lines=detections.field_lines,
    )


def _maturity(document: Document) -> Maturity:
    """Its status; a rule that was not written for minerwatch is never ``stable``.

    Sigma's word says that a rule raises few false alarms. Here it permits an action, which the
    author of a rule of another collection did not have in mind.
    """
    maturity = Maturity(str(document.content.get("status") or "experimental").lower())
    is_foreign = "minerwatch" not in document.content
    return Maturity.TEST if is_foreign and maturity is Maturity.STABLE else maturity


# The header: what kind of document it is, and the keys that are not the detection.


def _refuse_other_kinds(document: Document) -> None:
    if "correlation" in document.content:
        raise document.error("correlation rules are not supported", "correlation")
    if "action" in document.content:
        reason = "rule collections (action: …) are not supported: one file holds one rule"
        raise document.error(reason, "action")
    if "filter" in document.content and "detection" not in document.content:
        raise document.error("Sigma filters are not supported: write the filter here", "filter")


def _skipped(document: Document) -> SkippedRule:
    status = document.content["status"]
    identifier, title = document.content.get("id"), document.content.get("title")
    return SkippedRule(
        id=identifier.lower() if isinstance(identifier, str) else "",
        title=title if isinstance(title, str) else "",
        path=document.path,
        line=document.line("status"),
        reason=f"status is {status}",
    )


def _refuse_misspelt_keys(document: Document) -> None:
    """Sigma allows any top-level key, so a slip in ours would switch off its settings unseen."""
    for key in document.content:
        if key != "minerwatch" and get_close_matches(key.lower(), ("minerwatch",), cutoff=0.75):
            raise document.error(f"unknown key {key!r}: did you mean 'minerwatch'?", key)


def _check_header(document: Document) -> None:
    content = document.content
    title = content.get("title")
    if not isinstance(title, str) or not title.strip():
        reason = "title: missing" if title is None else "title: must be text, and not empty"
        raise document.error(reason, "title")
    identifier = content.get("id")
    if identifier is None:
        hint = "make one with `uuidgen` or `python3 -c 'import uuid; print(uuid.uuid4())'`"
        raise document.error(f"id: missing; {hint}", "id")
    if not isinstance(identifier, str) or not _is_uuid(identifier):
        raise document.error(f"id: {str(identifier)[:80]!r} is not a UUID", "id")
    for key in ("status", "level", "author", "description"):
        if not isinstance(content.get(key), str | None):
            raise document.error(f"{key}: must be text", key)
    _check_word(document, "status", ("experimental", "test", "stable"))
    _check_word(document, "level", tuple(LEVEL_SCORES))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _check_word(document: Document, key: str, words: tuple[str, ...]) -> None:
    word = document.content.get(key)
    if word is not None and str(word).lower() not in words:
        raise document.error(f"{key}: {word!r} is none of {', '.join(words)}", key)


def _text(document: Document, key: str) -> str:
    value = document.content.get(key)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def _texts(document: Document, key: str) -> tuple[str, ...]:
    value = document.content.get(key)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in items if item is not None)


def _logsource(document: Document) -> LogSource:
    source = document.content.get("logsource")
    if not isinstance(source, dict):
        reason = "logsource: missing; write {product: linux, category: process_creation}"
        raise document.error(reason, "logsource")
    product, category = source.get("product"), source.get("category")
    if product not in (None, "linux"):
        reason = f"logsource: product {product!r} is not what runs here: only 'linux' is"
        raise document.error(reason, "logsource", "product")
    if category is not None and category not in _CATEGORY_SIGNALS:
        known = ", ".join(_CATEGORY_SIGNALS)
        reason = f"logsource: category {category!r} is not supported: only {known} are"
        raise document.error(reason, "logsource", "category")
    if source.get("service") is not None:
        reason = f"logsource: service {source['service']!r} is not something minerwatch reads"
        raise document.error(reason, "logsource", "service")
    return LogSource(str(product or ""), str(category or ""))


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
        if logsource.category in _CATEGORY_SIGNALS:
            return _CATEGORY_SIGNALS[logsource.category]
        reason = "minerwatch.signal: missing; without a logsource category it has no default"
        raise document.error(reason, "minerwatch")
    try:
        return Signal(str(word))
    except ValueError as error:
        known = ", ".join(Signal)
        reason = f"minerwatch.signal: {word!r} is none of {known}"
        raise document.error(reason, "minerwatch", "signal") from error


def _score(document: Document, own: Mapping[str, Value], signal: Signal, level: str) -> float:
    score = own.get("score")
    limit = BEHAVIOUR_LIMIT if signal is Signal.BEHAVIOUR else 100
    if score is None:
        if not level:
            reason = "level: missing; write one of " + ", ".join(LEVEL_SCORES)
            raise document.error(reason, "level")
        return float(min(LEVEL_SCORES[level], limit))
    at = ("minerwatch", "score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise document.error(f"minerwatch.score: {score!r} is not a number from 0 to 100", *at)
    if score > limit:
        reason = f"minerwatch.score: a behaviour rule may score at most {limit}, not {score}"
        raise document.error(reason, *at)
    return float(score)


def _hold_s(document: Document, own: Mapping[str, Value]) -> float:
    duration = own.get("for")
    if duration is None:
        return 0.0
    written = "" if isinstance(duration, bool) else str(duration).strip()
    parsed = _DURATION.fullmatch(written)
    if parsed is None:
        reason = f"minerwatch.for: {duration!r} is not a duration such as 30s, 1m or 2h"
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
        raise document.error("minerwatch.tests: a case is a mapping of fields to values", *at)
    return {name: _test_value(document, value, (*at, name)) for name, value in case.items()}


def _test_value(document: Document, value: Value, at: KeyPath) -> FactValue:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        if all(isinstance(item, str | int) and not isinstance(item, bool) for item in value):
            return tuple(str(item) for item in value)
        raise document.error("minerwatch.tests: a list holds texts or whole numbers", *at)
    what = "nothing: leave the field out" if value is None else "neither text nor number: quote it"
    raise document.error(f"minerwatch.tests: {at[-1]} is {what}", *at)


# The detection: modifiers are checked here, pySigma applies them, and its values become ours.


def _check_detection_keys(document: Document) -> None:
    detection = document.content.get("detection")
    if not isinstance(detection, dict):
        raise document.error("detection: missing", "detection")
    if "timeframe" in detection:
        reason = "detection: timeframe is not supported; `minerwatch: {for: …}` holds a rule back"
        raise document.error(reason, "detection", "timeframe")
    if "condition" not in detection:
        raise document.error("detection: condition is missing", "detection")
    conditions = detection["condition"]
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        if not isinstance(condition, str) or not condition.strip():
            raise document.error("condition: must be text", "detection", "condition")
        if "|" in condition:
            reason = "condition: aggregations (| count() …) are not supported"
            raise document.error(reason, "detection", "condition")
        if len(condition) > 10_000 or condition.count("(") > 100:
            raise document.error("condition: too long", "detection", "condition")
    for name, definition in detection.items():
        if name != "condition":
            _check_definition(document, definition, ("detection", name))


def _check_definition(document: Document, definition: Value, at: KeyPath) -> None:
    if isinstance(definition, dict):
        if not definition:
            raise document.error(f"{at[-1]}: empty", *at)
        for key, value in definition.items():
            _check_item(document, key, value, (*at, key))
    elif isinstance(definition, list):
        if not definition:
            raise document.error(f"{at[-1]}: empty", *at)
        for index, inner in enumerate(definition):
            _check_definition(document, inner, (*at, index))
    elif definition is None:
        raise document.error(f"{at[1]}: empty", *at)
    elif not isinstance(definition, str | bool | int | float):
        raise document.error(f"{definition} is neither text nor number: quote it", *at)


def _check_item(document: Document, key: str, value: Value, at: KeyPath) -> None:
    name, *modifiers = key.split("|")
    _check_modifiers(document, name, modifiers, at)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise document.error(f"{key}: an empty list never matches", *at)
    for index, item in enumerate(values):
        where = (*at, index) if isinstance(value, list) else at
        if not isinstance(item, str | bool | int | float | None):
            raise document.error(f"{key}: {str(item)[:80]} is not text: quote it", *where)
        if "re" in modifiers:
            _check_regex(document, key, item, where)
        elif isinstance(item, int | float) and _TEXT_MODIFIERS.intersection(modifiers):
            raise document.error(f"{key}: {item} must be text here: quote it", *where)


_TEXT_MODIFIERS = frozenset(
    (
        *("contains", "startswith", "endswith", "cased", "windash", "expand", "fieldref"),
        *("base64", "base64offset", "cidr"),
    )
)


def _check_modifiers(document: Document, name: str, modifiers: list[str], at: KeyPath) -> None:
    for modifier in modifiers:
        if modifier in _TIMESTAMP_MODIFIERS:
            raise document.error(f"{at[-1]}: timestamp modifier {modifier!r} is not supported", *at)
        if modifier not in MODIFIERS:
            near = get_close_matches(modifier, sorted(MODIFIERS), n=1, cutoff=0.6)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise document.error(f"{at[-1]}: unknown modifier {modifier!r}{hint}", *at)
    given = set(modifiers)
    if "re" in given and given & {"contains", "startswith", "endswith"}:
        reason = "re searches anywhere in the text; anchor it with ^ and $ instead"
        raise document.error(f"{at[-1]}: {reason}", *at)
    if given & _WIDE and not given & _ENCODINGS:
        reason = "UTF-16 text appears on no command line; it goes with base64 only"
        raise document.error(f"{at[-1]}: {reason}", *at)
    if "expand" in given and given & (_ENCODINGS | {"cidr", "fieldref", "exists"}):
        reason = "expand goes with contains, startswith, endswith, cased, windash and re only"
        raise document.error(f"{at[-1]}: {reason}", *at)
    if not name and given & {"cidr", "fieldref", "exists", "gt", "gte", "lt", "lte"}:
        raise document.error(f"{at[-1]}: names no field to compare", *at)


def _check_regex(document: Document, key: str, pattern: Value, at: KeyPath) -> None:
    """Refuse what RE2 does not take, before pySigma asks RE2, which would write to stderr."""
    if not isinstance(pattern, str):
        raise document.error(f"{key}: a regular expression must be text: quote it", *at)
    reason = regex_problem(pattern)
    if reason:
        raise document.error(f"{key}: {reason}", *at)


def regex_problem(pattern: str) -> str | None:
    """Why RE2 does not take the pattern; None if it does."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0]
        words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return f"regular expression {pattern[:200]!r} is not RE2's: {_re2_reason(words)}"
    return None


def _re2_reason(words: str) -> str:
    problem, _, operator = words.partition(": ")
    if problem.startswith("invalid perl operator"):
        for start, name in _RE2_REASONS.items():
            if operator.startswith(start):
                return f"it has no {name} ({operator}), so that matching takes linear time"
    if re.fullmatch(r"\\[1-9]", operator):
        return f"it has no back-references ({operator}), so that matching takes linear time"
    return words


def _parsed_by_sigma(document: Document) -> SigmaRule:
    """Return pySigma's own rule; its complaints point at the key that they are about."""
    from sigma.exceptions import SigmaError
    from sigma.rule import SigmaRule

    content = {key: value for key, value in document.content.items() if key != "minerwatch"}
    with _sigma_errors(document, "detection"):
        try:
            return SigmaRule.from_dict(content)
        except SigmaError as error:
            at = _header_key(error)
            if at is None or at not in document.content:
                _try_each_item(document)
                at = "detection"
            raise document.error(_first_line(error), at) from error
    raise AssertionError  # pragma: no cover


@contextmanager
def _sigma_errors(document: Document, *at: str | int) -> Iterator[None]:
    """Whatever pySigma stumbles over becomes an error of the file, at this key."""
    try:
        yield
    except RuleError:
        raise
    except RecursionError as error:
        raise document.error("nested too deeply", *at) from error
    # pySigma raises what it happens to trip on (AttributeError, KeyError, …) when a value has a
    # type that it did not expect, and a rule file must never stop the agent.
    except Exception as error:
        raise document.error(_first_line(error), *at) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _header_key(error: Exception) -> str | None:
    """The top-level key that a pySigma exception is named after (SigmaTagError: tags)."""
    name = type(error).__name__.removeprefix("Sigma").removesuffix("Error").lower()
    names = {
        "tag": "tags",
        "identifier": "id",
        "value": "tags",
        **{key: key for key in ("level", "status", "date", "modified", "title", "author", "name")},
        **{key: key for key in ("description", "references", "related", "scope", "license")},
        **{key: key for key in ("falsepositives", "fields", "logsource", "taxonomy")},
    }
    return names.get(name)


def _try_each_item(document: Document) -> None:
    """Raise the error of the first selection that pySigma does not take."""
    detection = document.content["detection"]
    assert isinstance(detection, dict)  # noqa: S101  # checked before pySigma was asked
    for name, definition in detection.items():
        if name != "condition":
            _try_definition(document, definition, ("detection", name))


def _try_definition(document: Document, definition: Value, at: KeyPath) -> None:
    from sigma.rule import SigmaDetection, SigmaDetectionItem

    if isinstance(definition, dict):
        for key, value in definition.items():
            with _sigma_errors(document, *at, key):
                SigmaDetectionItem.from_mapping(key, value)
    elif isinstance(definition, list):
        for index, inner in enumerate(definition):
            _try_definition(document, inner, (*at, index))
    else:
        with _sigma_errors(document, *at):
            SigmaDetection.from_definition(definition)  # type: ignore[arg-type]


class _DetectionReader:
    """Turns pySigma's parsed condition and selections into a condition of our own."""

    def __init__(self, document: Document, lists: Lists) -> None:
        self._document = document
        self._lists = lists
        self._selections: dict[str, Condition] = {}
        self._names: tuple[str, ...] = ()
        self._predicates = 0
        self.lists_used: set[str] = set()
        self.field_lines: dict[str, int] = {}

    def condition(self, rule: SigmaRule) -> Condition:
        """The rule's condition; of several, any one."""
        detections = rule.detection
        self._names = tuple(detections.detections)
        for name, detection in detections.detections.items():
            self._selections[name] = self._selection(detection, ("detection", name))
        used: set[str] = set()
        with _sigma_errors(self._document, "detection", "condition"):
            parsed = tuple(
                self._logic(condition.parse(postprocess=False), rule, used)
                for condition in detections.parsed_condition
            )
        self._names = tuple(name for name in self._names if name not in used)
        whole = any_of(parsed)
        if sum(1 for _ in predicates(whole)) > _MAX_PREDICATES:
            reason = "condition: the selections expand to more than any rule needs"
            raise self._document.error(reason, "detection", "condition")
        return whole

    def outline(self, rule: SigmaRule) -> Outline:
        """Selections and condition apart from each other."""
        self.condition(rule)
        selections = self._selections
        self._selections = {name: Present(name) for name in selections}
        texts = [condition.condition for condition in rule.detection.parsed_condition]
        logic = tuple(
            self._logic(condition.parse(postprocess=False), rule, set())
            for condition in rule.detection.parsed_condition
        )
        lines = {name: self._document.line("detection", name) for name in selections}
        return Outline(" or ".join(texts), any_of(logic), selections, lines)

    def unused_selections(self) -> tuple[str, ...]:
        """The selections that no condition names."""
        return self._names

    def _logic(self, parsed: object, rule: SigmaRule, used: set[str]) -> Condition:
        from sigma.conditions import (
            ConditionAND,
            ConditionIdentifier,
            ConditionItem,
            ConditionNOT,
            ConditionOR,
            ConditionSelector,
        )

        if isinstance(parsed, ConditionIdentifier):
            return self._named(parsed.identifier, used)
        if isinstance(parsed, ConditionSelector):
            return self._selector(parsed.args[0], parsed.args[1], used)
        assert isinstance(parsed, ConditionItem)  # noqa: S101  # pySigma has no other kind
        inner = tuple(self._logic(arg, rule, used) for arg in parsed.args)
        if isinstance(parsed, ConditionNOT):
            return Not(inner[0])
        assert isinstance(parsed, ConditionAND | ConditionOR)  # noqa: S101
        return all_of(inner) if isinstance(parsed, ConditionAND) else any_of(inner)

    def _named(self, name: str, used: set[str]) -> Condition:
        if name not in self._selections:
            near = get_close_matches(name, self._selections, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            reason = f"condition: no selection is named {name!r}{hint}"
            raise self._document.error(reason, "detection", "condition")
        used.add(name)
        return self._selections[name]

    def _selector(self, quantifier: str, pattern: str, used: set[str]) -> Condition:
        """``1 of x*``, ``all of them``: selections that begin with ``_`` must be asked for so."""
        wanted = re.compile(
            ".*" if pattern == "them" else re.escape(pattern).replace(r"\*", ".*"), re.DOTALL
        )
        names = [
            name
            for name in self._selections
            if wanted.fullmatch(name) and (pattern.startswith("_") or not name.startswith("_"))
        ]
        if not names:
            reason = f"condition: '{quantifier} of {pattern}' finds no selection"
            raise self._document.error(reason, "detection", "condition")
        chosen = tuple(self._named(name, used) for name in names)
        return all_of(chosen) if quantifier == "all" else any_of(chosen)

    def _selection(self, detection: SigmaDetection, at: KeyPath) -> Condition:
        from sigma.conditions import ConditionAND
        from sigma.rule import SigmaDetectionItem

        inner: list[Condition] = []
        for index, item in enumerate(detection.detection_items):
            if isinstance(item, SigmaDetectionItem):
                inner.append(self._item(item, self._item_path(at, index)))
            else:
                inner.append(self._selection(item, (*at, index)))
        linked = all_of if detection.item_linking is ConditionAND else any_of
        return linked(tuple(inner))

    def _item_path(self, at: KeyPath, index: int) -> KeyPath:
        """Where the file has the item: pySigma keeps their order, but not their keys."""
        node: Value = self._document.content
        for key in at:
            node = node[key] if isinstance(node, dict | list) else None  # type: ignore[index]
        return (*at, list(node)[index]) if isinstance(node, dict) else at

    def _item(self, item: SigmaDetectionItem, at: KeyPath) -> Condition:
        from sigma.conditions import ConditionAND

        name = item.field or KEYWORD_FIELD
        self.field_lines.setdefault(name, self._document.line(*at))
        with _sigma_errors(self._document, *at):
            each = tuple(
                condition
                for value in item.value
                for condition in self._conditions(name, value, at, keyword=item.field is None)
            )
        linked = all_of if item.value_linking is ConditionAND else any_of
        condition = linked(each)
        return all_of((Present(name), Not(condition))) if item.negated else condition

    def _conditions(
        self,
        name: str,
        value: SigmaType,
        at: KeyPath,
        *,
        keyword: bool,
    ) -> Iterator[Condition]:
        """What one value asks for: several conditions where a placeholder stands in it."""
        from sigma.types import SigmaExpansion, SigmaRegularExpression, SigmaString

        if isinstance(value, SigmaExpansion):
            yield any_of(
                tuple(
                    condition
                    for inner in value.values
                    for condition in self._conditions(name, inner, at, keyword=keyword)
                )
            )
        elif isinstance(value, SigmaString):
            yield from self._texts(name, value, at, keyword=keyword)
        elif isinstance(value, SigmaRegularExpression):
            yield from self._regexes(name, value, at)
        else:
            yield self._single(name, value, at, keyword=keyword)

    def _single(
        self,
        name: str,
        value: SigmaType,
        at: KeyPath,
        *,
        keyword: bool,
    ) -> Condition:
        from sigma.types import (
            SigmaBool,
            SigmaCIDRExpression,
            SigmaCompareExpression,
            SigmaExists,
            SigmaFieldReference,
            SigmaNull,
            SigmaNumber,
        )

        if keyword and isinstance(value, SigmaNumber):
            return Text(name, How.CONTAINS, str(value))
        match value:
            case SigmaNull():
                return Absent(name)
            case SigmaExists():
                return Present(name) if value.exists else Absent(name)
            case SigmaBool():
                return Flag(name, value.boolean)
            case SigmaNumber():
                return Number(name, Comparison.EQUAL, value.number)
            case SigmaCompareExpression():
                return Number(name, _COMPARISONS[value.op.name], value.number.number)
            case SigmaCIDRExpression():
                return Network(name, value.network)
            case SigmaFieldReference():
                return SameAs(
                    name,
                    _how(starts_with=value.starts_with, ends_with=value.ends_with),
                    value.field,
                )
        raise self._document.error(f"{at[-1]}: this kind of value is not supported", *at)

    def _texts(
        self,
        name: str,
        value: SigmaString,
        at: KeyPath,
        *,
        keyword: bool,
    ) -> Iterator[Condition]:
        from sigma.types import SigmaCasedString

        cased = isinstance(value, SigmaCasedString)
        for parts in self._expanded(value, at):
            if keyword:
                parts = (None, *parts, None)
            yield _text_condition(name, parts, cased=cased)

    def _regexes(self, name: str, value: SigmaRegularExpression, at: KeyPath) -> Iterator[Text]:
        flags = "".join(sorted(value.sigma_to_re_flag[flag] for flag in value.flags))
        prefix = f"(?{flags})" if flags else ""
        for parts in self._expanded(value.regexp, at, literal=regex_literal):
            pattern = prefix + "".join(
                "*" if part is None else "?" if part is _ONE else str(part) for part in parts
            )
            problem = regex_problem(pattern)
            if problem:
                raise self._document.error(f"{at[-1]}: {problem}", *at)
            yield Text(name, How.REGEX, pattern, cased=True)

    def _expanded(
        self, value: SigmaString, at: KeyPath, literal: _Quote = str
    ) -> Iterator[tuple[_Part, ...]]:
        """The value's parts, once for every choice of entries for its placeholders."""
        from sigma.types import Placeholder, SpecialChars

        choices: list[tuple[_Part, ...]] = []
        for part in value.s:
            if isinstance(part, Placeholder):
                choices.append(tuple(literal(entry) for entry in self._entries(part.name, at)))
            elif part is SpecialChars.WILDCARD_MULTI:
                choices.append((None,))
            elif part is SpecialChars.WILDCARD_SINGLE:
                choices.append((_ONE,))
            else:
                choices.append((str(part),))
        for parts in product(*choices):
            self._predicates += 1
            if self._predicates > _MAX_PREDICATES:
                raise self._document.error("placeholders expand to too many patterns", *at)
            yield parts

    def _entries(self, name: str, at: KeyPath) -> tuple[str, ...]:
        if not _PLACEHOLDER_NAME.fullmatch(name):
            raise self._document.error(f"%{name}% is not the name of a list", *at)
        if name in self._lists.broken:
            raise self._lists.broken[name]
        entries = self._lists.entries.get(name)
        if entries is None:
            looked = ", ".join(str(folder / f"{name}.txt") for folder in self._lists.folders)
            raise self._document.error(f"no list for %{name}%: looked for {looked}", *at)
        if not entries:
            raise self._document.error(f"the list for %{name}% has no entries", *at)
        self.lists_used.add(name)
        return entries


class _One:
    """Stands for the wildcard ``?`` among a text's parts; ``None`` stands for ``*``."""


_ONE = _One()
_Part = str | _One | None
_Quote = Callable[[str], str]

_COMPARISONS = {
    "LT": Comparison.LESS,
    "LTE": Comparison.LESS_OR_EQUAL,
    "GT": Comparison.GREATER,
    "GTE": Comparison.GREATER_OR_EQUAL,
}


def _how(*, starts_with: bool, ends_with: bool) -> How:
    """What pySigma's two marks of a field reference say."""
    if starts_with and ends_with:
        return How.CONTAINS
    if starts_with:
        return How.STARTSWITH
    return How.ENDSWITH if ends_with else How.EQUALS


def _text_condition(name: str, parts: Iterable[_Part], *, cased: bool) -> Condition:
    """The simplest predicate that says what literal text and wildcards say."""
    merged: list[_Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part is not None or not merged or merged[-1] is not None:
            merged.append(part)
    match merged:
        case []:
            return Text(name, How.EQUALS, "", cased)
        case [None]:
            return Present(name)
        case [str(literal)]:
            return Text(name, How.EQUALS, literal, cased)
        case [None, str(literal), None]:
            return Text(name, How.CONTAINS, literal, cased)
        case [str(literal), None]:
            return Text(name, How.STARTSWITH, literal, cased)
        case [None, str(literal)]:
            return Text(name, How.ENDSWITH, literal, cased)
    pattern = "".join(
        "*" if part is None else "?" if isinstance(part, _One) else escaped_wildcards(part)
        for part in merged
    )
    return Text(name, How.WILDCARD, pattern, cased)
