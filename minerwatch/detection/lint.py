"""Lint: what is wrong or doubtful in rule files and lists, each remark with its place.

What keeps a file out of force is an error, and was found when it was loaded. All else is a
warning: the rule works, but most likely not as its author meant it, or whoever is paged by it will
look for something in vain. No network, no clock: what is asked of pySigma is its offline part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

import re2

from minerwatch.detection.check import Recording
from minerwatch.detection.condition import (
    Absent,
    All,
    Any,
    Comparison,
    Condition,
    Flag,
    How,
    Network,
    Not,
    Number,
    Predicate,
    Present,
    SameAs,
    Text,
    predicates,
)
from minerwatch.detection.document import Document, KeyPath, Value, read_document, read_text
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.match import Matcher, predicate_holds
from minerwatch.detection.rule import Rule
from minerwatch.detection.rulebook import RuleBook
from minerwatch.detection.skeleton import TO_DO
from minerwatch.errors import RuleError
from minerwatch.model import Facts, FactValue, Level, Maturity, Signal

_TOP_KEYS = frozenset(
    (
        *("title", "id", "name", "related", "taxonomy", "status", "description", "license"),
        *("author", "references", "date", "modified", "logsource", "detection", "fields"),
        *("falsepositives", "level", "tags", "scope", "minerwatch"),
    )
)
_CPU_FIELDS = frozenset(
    (
        *("Age", "CpuCores", "CpuSeconds", "CpuFlatness", "Threads", "SaturatedThreads"),
        *("ContainerCpuCores", "ContainerCpuLimit", "ContainerCpuHours"),
    )
)
_PATH_FIELDS = frozenset(("Image", "ParentImage", "CurrentDirectory"))
_ADDRESS_FIELDS = frozenset(("DestinationIp", "SourceIp"))
_COMM_BYTES = 15  # proc_pid_comm(5): TASK_COMM_LEN is 16, with the zero at the end
_ROUNDING_MODES = 4
_ANY_TEXT = "\x01 \x01"  # what no pattern asks for on purpose
_MAX_PROGRAM = 4000
"""Instructions of RE2's program; {1,500} costs that many copies of what it repeats."""
_TESTS_OF_STABLE = 3


class Severity(StrEnum):
    """How bad a remark is: an error keeps the file out of force."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Remark:
    """What lint has to say of one place in one file."""

    path: Path
    line: int
    severity: Severity
    text: str

    def __str__(self) -> str:
        """``path:line: severity: text``, the form that editors make clickable."""
        return f"{self.path}:{self.line}: {self.severity}: {self.text}"


def lint(book: RuleBook, ordinary: Sequence[Recording] = ()) -> tuple[Remark, ...]:
    """Everything that is wrong or doubtful in the book's files, by path and line.

    ``ordinary``: programs that no rule should be alarmed at.
    """
    remarks = [
        Remark(error.path, error.line, Severity.ERROR, error.reason) for error in book.errors
    ]
    for rule in book.rules:
        remarks += _rule_remarks(rule)
    remarks += _likeness_remarks(book.rules)
    remarks += _breadth_remarks(book.rules, ordinary)
    remarks += _replacement_remarks(book)
    remarks += _list_remarks(book)
    remarks.sort(key=lambda remark: (str(remark.path), remark.line, remark.text))
    return tuple(dict.fromkeys(remarks))


def _warning(path: Path, line: int, text: str) -> Remark:
    return Remark(path, line, Severity.WARNING, text)


# One rule.

Doubt = tuple[int, str]
Doubts = Iterator[Doubt]


def _rule_remarks(rule: Rule) -> Iterator[Remark]:
    try:
        source = read_text(rule.path)[0]
        document = read_document(rule.path, source)
    except RuleError:  # it broke after it was loaded: the book's errors say so, or will
        return
    for check in _CHECKS:
        for line, text in check(rule, document):
            yield _warning(rule.path, line, text)
    for line, text in enumerate(source.splitlines(), 1):
        if TO_DO in text:
            yield _warning(rule.path, line, f"still to do: {text.strip()[:80]}")


def _header_doubts(rule: Rule, document: Document) -> Doubts:
    for key in document.content.keys() - _TOP_KEYS:
        near = get_close_matches(key.lower(), _TOP_KEYS, n=1, cutoff=0.75)
        if near:
            yield document.line(key), f"unknown key {key!r}: did you mean {near[0]!r}?"
    for key, value in (("description", rule.description), ("falsepositives", rule.falsepositives)):
        if not value:
            yield document.line("title"), f"no {key}: whoever is paged by this rule looks for it"
    if not document.content.get("status"):
        yield document.line("title"), "no status: it counts as experimental, metrics and log only"
    if not rule.level:
        yield document.line("title"), "no level: other programs that read Sigma rules want one"
    if rule.date and rule.modified and rule.modified < rule.date:
        yield document.line("modified"), f"modified before it was written, on {rule.date}"
    for index, reference in enumerate(rule.references):
        if not reference.startswith(("https://", "http://")):
            text = f"the reference {reference[:80]!r} is no address to look up"
            yield document.line("references", index), text


def _score_doubts(rule: Rule, document: Document) -> Doubts:
    if rule.maturity is Maturity.STABLE and not rule.score:
        yield document.line("minerwatch", "score"), "a stable rule that scores 0 counts for nothing"
    if rule.signal is not Signal.BEHAVIOUR and rule.fields and rule.fields <= _CPU_FIELDS:
        text = (
            f"it looks at nothing but how CPU is burnt, yet speaks for {rule.signal}: its signal"
            " is behaviour, or two rules on the same thing confirm each other"
        )
        yield document.line("minerwatch", "signal"), text


def _selection_doubts(rule: Rule, document: Document) -> Doubts:
    for name in rule.unused_selections:
        yield document.line("detection", name), f"selection {name!r} is not used by the condition"


def _field_doubts(rule: Rule, document: Document) -> Doubts:  # noqa: ARG001  # a check's shape
    for name in rule.fields:
        if name in SIGMA_FIELDS:
            yield (
                _line_of(rule, name),
                f"{name} is never measured here: conditions on it do not hold",
            )
        elif name not in KNOWN_FIELDS:
            yield _line_of(rule, name), f"unknown field {name}{_did_you_mean(name)}"


def _line_of(rule: Rule, name: str) -> int:
    return rule.field_lines.get(name, rule.id_line)


def _did_you_mean(name: str) -> str:
    near = nearest_field(name)
    return f": did you mean {near}?" if near else ""


# What conditions ask for.


def _reach_doubts(rule: Rule, document: Document) -> Doubts:
    line = document.line("detection", "condition")
    if Matcher((rule,)).matches({}):
        yield line, "it holds on a process of which nothing is known: ask for something, too"
    for text in _contradictions(rule.condition):
        yield line, f"never holds: {text}"


def _contradictions(condition: Condition) -> Iterator[str]:
    match condition:
        case All(conditions):
            together = [inner for inner in _flat(conditions) if _is_about_one_value(inner)]
            for name in sorted({predicate.field for predicate in together}):
                yield from _clashes(name, [each for each in together if each.field == name])
            inners = conditions
        case Any(conditions):
            inners = conditions
        case Not(inner):
            inners = (inner,)
        case _:
            return
    for inner in inners:
        yield from _contradictions(inner)


def _flat(conditions: Iterable[Condition]) -> Iterator[Predicate]:
    for condition in conditions:
        if isinstance(condition, All):
            yield from _flat(condition.conditions)
        elif not isinstance(condition, Any | Not):
            yield condition


def _is_about_one_value(predicate: Predicate) -> bool:
    """Not of a list, of which any element may do."""
    field = KNOWN_FIELDS.get(predicate.field)
    return field is None or field.unit != "list"


def _clashes(name: str, together: list[Predicate]) -> Iterator[str]:
    """Why no value of the field satisfies all of these."""
    equals = {
        each.pattern.lower(): each.pattern
        for each in together
        if isinstance(each, Text) and each.how is How.EQUALS
    }
    if len(equals) > 1:
        one, other, *_ = equals.values()
        yield f"{name} is not {one!r} and {other!r} at once; |contains|all finds parts"
    if len({type(each) is Absent for each in together}) > 1:
        yield f"{name} is to be absent, and to be something"
    numbers = [each for each in together if isinstance(each, Number)]
    low = max(
        (each for each in numbers if each.comparison in _FROM_BELOW), key=_lower, default=None
    )
    high = min(
        (each for each in numbers if each.comparison in _FROM_ABOVE), key=_upper, default=None
    )
    if low and high and _is_empty_range(low, high):
        yield f"{name} is not {low.describe()} and {high.describe()} at once"


_FROM_BELOW = (Comparison.EQUAL, Comparison.GREATER, Comparison.GREATER_OR_EQUAL)
_FROM_ABOVE = (Comparison.EQUAL, Comparison.LESS, Comparison.LESS_OR_EQUAL)


def _lower(bound: Number) -> tuple[float, bool]:
    return bound.threshold, bound.comparison is Comparison.GREATER


def _upper(bound: Number) -> tuple[float, bool]:
    return bound.threshold, bound.comparison is not Comparison.LESS


def _is_empty_range(low: Number, high: Number) -> bool:
    if low.threshold != high.threshold:
        return low.threshold > high.threshold
    return low.comparison is Comparison.GREATER or high.comparison is Comparison.LESS


def _predicate_doubts(rule: Rule, document: Document) -> Doubts:  # noqa: ARG001
    for predicate in predicates(rule.condition):
        text = _kind_doubt(predicate) or _range_doubt(predicate) or _pattern_doubt(predicate)
        if text:
            yield _line_of(rule, predicate.field), text


def _kind_doubt(predicate: Predicate) -> str:
    name, field = predicate.field, KNOWN_FIELDS.get(predicate.field)
    if isinstance(predicate, Network) and name not in _ADDRESS_FIELDS:
        return f"{name} is no address: |cidr does not hold on it"
    if field is None or isinstance(predicate, Present | Absent | SameAs):
        return ""
    if field.unit == "bool":
        return (
            "" if isinstance(predicate, Flag) else f"{name} is true or false: ask for one of them"
        )
    if isinstance(predicate, Flag):
        return f"{name} is never true or false: quote a word that is text"
    if isinstance(predicate, Text) and field.unit not in ("", "list"):
        return f"{name} is a number ({field.unit}): compare it with |gt, |gte, |lt or |lte"
    return ""


def _range_doubt(predicate: Predicate) -> str:
    if not isinstance(predicate, Number):
        return ""
    name, field = predicate.field, KNOWN_FIELDS.get(predicate.field)
    if field is not None and field.unit == "0..1" and not 0 <= predicate.threshold <= 1:
        return f"{name} is from 0 to 1: {predicate.threshold:g} is beyond"
    if name == "RoundingModes" and predicate.threshold > _ROUNDING_MODES:
        return f"{name} is at most {_ROUNDING_MODES}: {predicate.threshold:g} is beyond"
    return ""


def _pattern_doubt(predicate: Predicate) -> str:
    if not isinstance(predicate, Text):
        return ""
    name, pattern = predicate.field, predicate.pattern
    if predicate.how is How.REGEX and _holds_on_anything(predicate):
        return f"{name}: the regular expression {pattern[:80]!r} also matches nothing, so anything"
    if predicate.how is How.REGEX and (size := re2.compile(pattern).programsize) > _MAX_PROGRAM:
        return (
            f"{name}: the regular expression {pattern[:80]!r} has {size:,} steps, which costs"
            " memory and time on every node: repeat less, {1,500} makes 500 copies"
        )
    is_from_start = predicate.how in (How.EQUALS, How.STARTSWITH)
    if name in _PATH_FIELDS and is_from_start and pattern and not pattern.startswith("/"):
        return f"{name} is a path from /: for a name write |endswith: '/{pattern[:80]}'"
    return ""


def _holds_on_anything(predicate: Text) -> bool:
    return all(predicate_holds(predicate, {predicate.field: text}) for text in ("", _ANY_TEXT))


def _comm_doubts(rule: Rule, document: Document) -> Doubts:  # noqa: ARG001
    """Names that the kernel cuts; a list may hold the whole one for Image, the cut one for Comm."""
    asked = {
        predicate.pattern.lower()
        for predicate in predicates(rule.condition)
        if isinstance(predicate, Text)
        and predicate.field == "Comm"
        and predicate.how not in (How.REGEX, How.WILDCARD)
    }
    for name in sorted(asked):
        cut = name.encode()[:_COMM_BYTES].decode(errors="ignore")
        if cut != name and cut not in asked:
            text = f"Comm has {_COMM_BYTES} bytes: {name[:80]!r} is {cut!r} there"
            yield _line_of(rule, "Comm"), text


# Embedded tests.


def _test_doubts(rule: Rule, document: Document) -> Doubts:
    has_own = "minerwatch" in document.content
    line = document.line("minerwatch", "tests") if has_own else document.line("title")
    if not any(test.holds for test in rule.tests):
        yield line, "no minerwatch.tests.match: nothing proves that it ever holds"
    if all(test.holds for test in rule.tests):
        yield line, "no minerwatch.tests.no_match: nothing proves that it spares anybody"
    sides = Counter(test.holds for test in rule.tests)
    if rule.maturity is Maturity.STABLE and min(sides[True], sides[False]) < _TESTS_OF_STABLE:
        yield line, f"a stable rule has {_TESTS_OF_STABLE} tests of each kind at least"
    for test in rule.tests:
        for text in fact_doubts(test.facts, rule.fields):
            yield test.line, text


def fact_doubts(facts: Facts, looked_at: frozenset[str]) -> Iterator[str]:
    """What is wrong with facts that somebody wrote; ``looked_at``: further fields they may have."""
    for name, value in facts.items():
        field = KNOWN_FIELDS.get(name)
        if field is None and name not in SIGMA_FIELDS and name not in looked_at:
            yield f"the test has a field that nothing looks at, {name}{_did_you_mean(name)}"
        elif field is not None and not _is_of_unit(value, field.unit):
            what = {"bool": "true or false", "": "text", "list": "a list of texts"}
            yield f"the test gives {name} as {value!r}: it is {what.get(field.unit, 'a number')}"


def _is_of_unit(value: FactValue, unit: str) -> bool:
    if unit == "bool" or isinstance(value, bool):
        return unit == "bool" and isinstance(value, bool)
    return unit in ("", "list") or isinstance(value, int | float)


# pySigma's own checks.


def _sigma_doubts(rule: Rule, document: Document) -> Doubts:  # noqa: ARG001
    """What pySigma's validators find; those that fetch MITRE's data or know Windows are left out.

    Also left out: "all without contains" and "windash with all", which are right here.
    """
    from sigma.rule import SigmaDetectionItem, SigmaRule
    from sigma.validators.core import metadata, modifiers, tags, values

    sigma = SigmaRule.from_dict(
        {key: value for key, value in document.content.items() if key != "minerwatch"}
    )
    header = (tags.TagFormatValidator(), tags.DuplicateTagValidator(), tags.CVETagValidator())
    for at, validators in (
        ("tags", header),
        ("references", (metadata.DuplicateReferencesValidator(),)),
    ):
        for validator in validators:
            for issue in validator.validate(sigma):
                yield document.line(at), f"{at}: {_in_words(issue.description)}"
    item_validators = (
        modifiers.InvalidModifierCombinationsValidator(),
        values.ControlCharacterValidator(),
        values.DoubleWildcardValidator(),
        values.WildcardsInsteadOfModifiersValidator(),
    )
    left_out = (
        modifiers.AllWithoutContainsModifierIssue,
        modifiers.WindowsDashCombinedWithAllModifierIssue,
    )
    for at_item, key, value in _items(document.content["detection"], ("detection",)):
        item = SigmaDetectionItem.from_mapping(key, value)  # type: ignore[arg-type]
        for item_validator in item_validators:
            item_validator.rule = sigma
            for issue in item_validator.validate_detection_item(item):
                if not isinstance(issue, left_out):
                    yield document.line(*at_item), f"{key}: {_in_words(issue.description)}"


def _items(definition: Value, at: KeyPath) -> Iterator[tuple[KeyPath, str, Value]]:
    """Every ``field|modifiers: value`` of the selections, with its place."""
    if isinstance(definition, list):
        for index, inner in enumerate(definition):
            yield from _items(inner, (*at, index))
    elif isinstance(definition, dict):
        for key, value in definition.items():
            if len(at) > 1:
                yield (*at, key), key, value
            elif key != "condition":
                yield from _items(value, (*at, key))


def _in_words(description: str) -> str:
    return description[:1].lower() + description[1:].rstrip(".")


_CHECKS: tuple[Callable[[Rule, Document], Doubts], ...] = (
    _header_doubts,
    _score_doubts,
    _selection_doubts,
    _field_doubts,
    _reach_doubts,
    _predicate_doubts,
    _comm_doubts,
    _test_doubts,
    _sigma_doubts,
)


# Rules beside each other.


def _likeness_remarks(rules: Iterable[Rule]) -> Iterator[Remark]:
    by_title: dict[str, Rule] = {}
    by_condition: dict[tuple[Condition, Signal, float], Rule] = {}
    for rule in rules:
        first = by_title.setdefault(rule.title.casefold(), rule)
        if first is not rule:
            yield _warning(rule.path, rule.id_line, f"the title is also that of {first.path}")
        first = by_condition.setdefault((rule.condition, rule.signal, rule.hold_s), rule)
        if first is not rule:
            text = f"asks for just what {first.path} asks for: together they say no more than one"
            yield _warning(rule.path, rule.id_line, text)


def _breadth_remarks(rules: Sequence[Rule], ordinary: Sequence[Recording]) -> Iterator[Remark]:
    """Rules that alone make an ordinary program suspicious; one example each."""
    matcher = Matcher(rules)
    told: set[str] = set()
    for recorded in ordinary:
        for match in matcher.matches(recorded.facts):
            rule = match.rule
            if rule.score >= Level.SUSPICIOUS and rule.id not in told:
                told.add(rule.id)
                seen = recorded.facts.get("CommandLine") or recorded.facts.get("Image")
                text = (
                    f"too broad: it also holds on {recorded.id}, {str(seen)[:80]!r}: ask for more,"
                    f" or score less than {Level.SUSPICIOUS.value}"
                )
                yield _warning(rule.path, rule.id_line, text)


def _replacement_remarks(book: RuleBook) -> Iterator[Remark]:
    """A file that was copied for a new rule, and kept the id, switches the old rule off."""
    in_force = {rule.id: rule for rule in book.rules}
    for file in book.files.values():
        old = file.outcome
        new = in_force.get(old.id) if isinstance(old, Rule) else None
        if not isinstance(old, Rule) or new is None or new.title == old.title:
            continue
        if book.files[new.path].folder != file.folder:
            text = (
                f"replaces {old.title!r} ({old.path}): if it should not, give it an id of its own"
            )
            yield _warning(new.path, new.id_line, text)


# Lists.


def _list_remarks(book: RuleBook) -> Iterator[Remark]:
    used = {name for rule in book.rules for name in rule.lists}
    for folder in dict.fromkeys(book.lists.folders):
        for name in book.lists.entries:
            path = folder / f"{name}.txt"
            if path.is_file():
                yield from _entry_remarks(path)
                if name not in used:
                    yield _warning(path, 1, f"no rule uses this list: %{name}% with |expand does")


def _entry_remarks(path: Path) -> Iterator[Remark]:
    try:
        text = read_text(path)[0]
    except RuleError:
        return
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        first = seen.setdefault(entry.lower(), number)
        if first != number:
            yield _warning(path, number, f"{entry[:80]!r} is also in line {first}")
        if "*" in entry:
            yield _warning(path, number, "entries are literal text: * stands for itself here")
        if " #" in entry:
            yield _warning(
                path, number, "a comment has a line of its own: this one is in the entry"
            )
