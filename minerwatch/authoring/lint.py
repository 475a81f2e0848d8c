"""Lint: what is wrong or doubtful in rule files and lists, each remark with its place.

What keeps a file out of force is an error, and was found when it was loaded. All else is a
warning: the rule works, but most likely not as its author meant it, or whoever is paged by it will
look for something in vain. No network, no clock: what is asked of pySigma is its offline part.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from difflib import get_close_matches

import re2

from minerwatch.authoring.list_lint import list_remarks
from minerwatch.authoring.remark import Remark, Severity
from minerwatch.authoring.remark import warning as _warning
from minerwatch.authoring.rule_tests import Recording
from minerwatch.authoring.template import TO_DO
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
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.planted_words import has_computed
from minerwatch.detection.predicate import predicate_holds
from minerwatch.detection.sigma.rule import LEVEL_SCORES, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import (
    Document,
    KeyPath,
    Value,
    read_document,
    read_text,
)
from minerwatch.errors import RuleError
from minerwatch.format import counted
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
_PADDED = re.compile(r"^(?:\(\?[a-z]+\))?\.[*+](?!\?)|(?<!\\)\.\*$")
_ONE_CHARACTER = re.compile(r"(?<!\\)\?")
_ANY_TEXT = "\x01 \x01"  # what no pattern asks for on purpose
_MAX_PROGRAM = 4000
"""Instructions of RE2's program; {1,500} costs that many copies of what it repeats."""
_LEAST_TESTS = 3
"""Of each kind: the hardest look-alikes do not fit into fewer."""
_RANDOM_UUID = 4
_SCORE_BESIDE_LEVEL = 29
"""How far a score may lie from its level's; behaviour is held at 29 whatever its level."""
_EMPTY_WORD = re.compile(
    r"(?:unknown|none(?: known)?|unlikely|n/?a|-|no|nothing|tbd|\?|rare|possible)\.?",
    re.IGNORECASE,
)
_TAG = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_.-]+)+")


def lint(
    book: RuleBook, ordinary: Sequence[Recording] = (), today: date | None = None
) -> tuple[Remark, ...]:
    """Everything that is wrong or doubtful in the book's files, by path and line.

    ``ordinary``: programs that no rule should be alarmed at. ``today``: a later date is a slip.
    """
    remarks = [
        Remark(error.path, error.line, Severity.ERROR, error.reason) for error in book.errors
    ]
    for rule in book.rules:
        remarks += _rule_remarks(rule, today)
    remarks += _likeness_remarks(book.rules)
    remarks += _breadth_remarks(book.rules, ordinary)
    remarks += _replacement_remarks(book)
    remarks += list_remarks(book)
    remarks.sort(key=lambda remark: (str(remark.path), remark.line, remark.text))
    return tuple(dict.fromkeys(remarks))


def unmeasured_note(rules: Iterable[Rule]) -> str | None:
    """Return one line on the rules that need a field which no source measures yet."""
    count = sum("DestinationHostname" in rule.fields for rule in rules)
    if not count:
        return None
    return f"note: DestinationHostname is not measured yet: {counted(count, 'rule')} cannot use it"


# One rule.

Doubt = tuple[int, str]
Doubts = Iterator[Doubt]


def _rule_remarks(rule: Rule, today: date | None) -> Iterator[Remark]:
    try:
        source = read_text(rule.path)[0]
        document = read_document(rule.path, source)
    except RuleError:  # it broke after it was loaded: the book's errors say so, or will
        return
    for check in _CHECKS:
        for line, text in check(rule, document):
            yield _warning(rule.path, line, text)
    for line, text in _date_doubts(rule, document, today):
        yield _warning(rule.path, line, text)
    for line, text in enumerate(source.splitlines(), 1):
        if TO_DO in text:
            yield _warning(rule.path, line, f"still to do: {text.strip()[:80]}")


def _header_doubts(rule: Rule, document: Document) -> Doubts:
    for key in document.content.keys() - _TOP_KEYS:
        near = get_close_matches(key.lower(), _TOP_KEYS, n=1, cutoff=0.75)
        if near:
            yield document.line(key), f"unknown key {key!r}: did you mean {near[0]!r}?"
    if uuid.UUID(rule.id).version != _RANDOM_UUID:
        yield rule.id_line, "the id is not a random one, so another rule may have it: use `uuidgen`"
    for key, lack in _missing_keys(rule):
        yield document.line("title"), f"no {key}: {lack}"
    if not document.content.get("status"):
        yield document.line("title"), "no status: it counts as experimental, metrics and log only"
    if not rule.level:
        yield document.line("title"), "no level: other programs that read Sigma rules want one"


def _word_doubts(rule: Rule, document: Document) -> Doubts:
    """References that nobody can look up, false positives that say nothing."""
    for index, reference in enumerate(rule.references):
        if not reference.startswith(("https://", "http://")):
            text = f"the reference {reference[:80]!r} is no address to look up: https://…"
            yield document.line("references", index), text
    for index, told in enumerate(rule.falsepositives):
        if _EMPTY_WORD.fullmatch(told.strip()):
            text = (
                f"the false positive {told[:40]!r} says nothing: who does the same without mining,"
                " however seldom?"
            )
            yield document.line("falsepositives", index), text


def _missing_keys(rule: Rule) -> Iterator[tuple[str, str]]:
    """The keys that a rule lacks, and what they are for."""
    for key, value, purpose in (
        ("description", rule.description, "whoever is paged by this rule looks for it"),
        ("falsepositives", rule.falsepositives, "whoever is paged by this rule looks for it"),
        ("references", rule.references, "nobody can check what it rests on"),
        ("author", rule.author, "nobody knows whom to ask"),
        ("date", rule.date, "nobody knows how old it is; write the day, yyyy-mm-dd"),
        ("tags", rule.tags, "write attack.impact and attack.t1496.001, and what else it is about"),
    ):
        if not value:
            yield key, purpose


def _tag_doubts(rule: Rule, document: Document) -> Doubts:
    for index, tag in enumerate(rule.tags):
        if not _TAG.fullmatch(tag):
            text = (
                f"the tag {tag[:60]!r} is none: lower case, a dot, then letters, digits, dots,"
                " hyphens or underscores, such as attack.t1496.001"
            )
            yield document.line("tags", index), text
        elif tag in rule.tags[:index]:
            yield document.line("tags", index), f"the tag {tag!r} is given twice"


def _date_doubts(rule: Rule, document: Document, today: date | None) -> Doubts:
    if rule.date and rule.modified and rule.modified < rule.date:
        yield document.line("modified"), f"modified before it was written, on {rule.date}"
    for key, day in (("date", rule.date), ("modified", rule.modified)):
        if today is not None and day[:10].replace("/", "-") > today.isoformat():
            yield document.line(key), f"{key}: {day} is still to come"


def _score_doubts(rule: Rule, document: Document) -> Doubts:
    if document.content.get("status") == "stable" and rule.maturity is not Maturity.STABLE:
        text = (
            "stable, but without the key minerwatch: it was not written with culling in mind,"
            " so it counts as test"
        )
        yield document.line("status"), text
    if rule.maturity is Maturity.STABLE and not rule.score:
        yield document.line("minerwatch", "score"), "a stable rule that scores 0 counts for nothing"
    usual = LEVEL_SCORES.get(rule.level, rule.score)
    if abs(rule.score - usual) > _SCORE_BESIDE_LEVEL:
        text = (
            f"level {rule.level} stands for {usual}, yet it scores {rule.score:g}: whoever reads"
            f" the level is misled; {_level_of(rule.score)} would fit"
        )
        yield document.line("level"), text
    if rule.signal is not Signal.BEHAVIOUR and rule.fields and rule.fields <= _CPU_FIELDS:
        text = (
            f"it looks at nothing but how CPU is burnt, yet speaks for {rule.signal}: its signal"
            " is behaviour, or two rules on the same thing confirm each other"
        )
        yield document.line("minerwatch", "signal"), text


def _level_of(score: float) -> str:
    """Sigma's word whose score is nearest."""
    return min(LEVEL_SCORES, key=lambda level: abs(LEVEL_SCORES[level] - score))


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
            yield from _exclusions(conditions)
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


def _exclusions(conditions: Sequence[Condition]) -> Iterator[str]:
    """What is asked for and left out at once: the filter takes all that the selection finds."""
    asked = {*conditions, *_flat(conditions)}
    for condition in conditions:
        if not isinstance(condition, Not):
            continue
        left_out = condition.condition
        members = left_out.conditions if isinstance(left_out, Any) else (left_out,)
        for member in members:
            if member in asked:
                yield f"{_in_short(member)} is asked for, and left out by a not"


def _in_short(condition: Condition) -> str:
    if isinstance(condition, All | Any | Not):
        fields = ", ".join(sorted({each.field for each in predicates(condition)}))
        return f"a selection on {fields}"
    return f"{condition.field} {condition.describe()[:80]}"


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
    if predicate.how is How.REGEX and _PADDED.search(pattern):
        return (
            f"{name}: the regular expression {pattern[:80]!r} is found anywhere in the text:"
            " leave out .* at its ends, which costs time and says nothing"
        )
    if predicate.how is How.WILDCARD and _ONE_CHARACTER.search(pattern):
        return (
            f"{name}: ? in {pattern[:80]!r} stands for any one character: write \\? for a"
            " question mark"
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
    for holds, kind in ((True, "match"), (False, "no_match")):
        count = sum(test.holds is holds for test in rule.tests)
        if 0 < count < _LEAST_TESTS:
            yield (
                line,
                f"{count} of minerwatch.tests.{kind}: {_LEAST_TESTS} at least",
            )
    first_in: dict[str, int] = {}
    for test in rule.tests:
        facts = repr(sorted(test.facts.items()))
        if facts in first_in:
            yield test.line, f"the same facts as in line {first_in[facts]}: they prove nothing more"
        first_in.setdefault(facts, test.line)
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


def _sigma_doubts(rule: Rule, document: Document) -> Doubts:
    """What pySigma's validators find; those that fetch MITRE's data or know Windows are left out.

    Also left out: "all without contains" and "windash with all", which are right here.
    """
    from sigma.rule import SigmaDetectionItem, SigmaRule
    from sigma.validators.core import metadata, modifiers, tags, values

    told = {key: value for key, value in document.content.items() if key != "minerwatch"}
    # as texts: pySigma's validator counts them, and chokes on what cannot be in a set
    sigma = SigmaRule.from_dict({**told, "references": list(rule.references)})
    for at, validators in (
        ("tags", (tags.CVETagValidator(),)),
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
    _word_doubts,
    _tag_doubts,
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
            if match.is_delayed and not has_computed(recorded.facts, recorded.seconds):
                continue
            if rule.score >= Level.SUSPICIOUS and rule.id not in told:
                told.add(rule.id)
                yield _warning(rule.path, _line_that_matched(match), _too_broad(match, recorded))


def _line_that_matched(match: Match) -> int:
    fields = (evidence.field for evidence in match.evidence)
    return min((_line_of(match.rule, name) for name in fields), default=match.rule.id_line)


def _too_broad(match: Match, recorded: Recording) -> str:
    seen = recorded.facts.get("CommandLine") or recorded.facts.get("Image")
    because = "; ".join(f"{each.field} {each.expected[:60]}" for each in match.evidence[:2])
    return (
        f"too broad: it also holds on {recorded.id}, {str(seen)[:80]!r}"
        f"{f' ({because})' if because else ''}: ask for more, or score less than"
        f" {Level.SUSPICIOUS.value}"
    )


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
