"""Convert the detection of a Sigma rule, or the condition of a Sigma filter, to a Condition.

pySigma checks the header, applies the modifiers and parses the conditions. The result is
minerwatch's own condition tree, so that no pySigma object stays in memory. Importing pySigma costs
200 ms and 13 MiB, so it is imported when the first rule is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

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
    predicates,
    regex_literal,
)
from minerwatch.detection.sigma.dialect import (
    check_item,
    condition_and_selections,
    regex_problem,
)
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.yaml_document import Document, KeyPath, Value
from minerwatch.errors import RuleError

if TYPE_CHECKING:
    from sigma.policy import SigmaPolicy
    from sigma.policy.regex_engine import RegexPattern
    from sigma.types import SigmaRegularExpression, SigmaString, SigmaType

KEYWORD_FIELD = "CommandLine"
"""The field that searches without a field name look at."""

_PLACEHOLDER_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MAX_PREDICATES = 50_000


@dataclass(frozen=True, slots=True)
class Outline:
    """A rule as written: named selections, and a condition over their names."""

    text: str  # of the condition
    logic: Condition  # ``Present(name)`` stands for the selection of that name
    selections: Mapping[str, Condition]
    lines: Mapping[str, int]


def check_by_sigma(document: Document) -> None:
    """Raise ``RuleError`` for a header that pySigma refuses, at the key that it names."""
    from sigma.rule import SigmaRule

    content = {key: document.content[key] for key in document.content if key != "minerwatch"}
    with _sigma_errors(document):
        SigmaRule.from_dict({**content, "detection": {"any": {"a": 1}, "condition": "any"}})


@lru_cache(maxsize=1)
def _policy() -> SigmaPolicy:
    """Return settings by which pySigma compiles no regular expression: ``dialect`` checks them."""
    from sigma.policy import SigmaPolicy
    from sigma.policy.regex_engine import RE2RegexEngine

    class _NoEngine(RE2RegexEngine):
        def compile(self, pattern: str, flags: int = 0) -> RegexPattern:
            del pattern, flags
            return None  # type: ignore[return-value]  # pySigma drops it

    return SigmaPolicy(_NoEngine())


@contextmanager
def _sigma_errors(document: Document, *at: str | int) -> Iterator[None]:
    """Convert any exception of pySigma to an error of the file at this key, or that it names."""
    try:
        yield
    except RuleError:
        raise
    except RecursionError as error:
        raise document.error("nested too deeply", *at) from error
    # pySigma raises AttributeError, KeyError and others on values of an unexpected type, and a
    # rule file must never stop the agent.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise document.error(reason, *(at or (_header_key(error),))) from error


def _header_key(error: Exception) -> str:
    """Return the top-level key that a pySigma exception is named after (SigmaTagError: tags)."""
    name = type(error).__name__.removeprefix("Sigma").removesuffix("Error").lower()
    return {"tag": "tags", "identifier": "id", "value": "tags"}.get(name, name)


class DetectionReader:
    """Converts what stands below one key of a document to a condition."""

    def __init__(self, document: Document, lists: Lists, key: str = "detection") -> None:
        self._document = document
        self._lists = lists
        self._key = key
        self._selections: dict[str, Condition] = {}
        self._used: set[str] = set()
        self._predicates = 0
        self.lists_used: set[str] = set()
        self.field_lines: dict[str, int] = {}

    def condition(self) -> Condition:
        """Return the condition; where the file has several, any of them suffices.

        Raises ``RuleError`` for what is invalid or not supported.
        """
        texts, selections = condition_and_selections(self._document, self._key)
        for name, definition in selections.items():
            self._selections[name] = self._selection(definition, (self._key, name))
        whole = self._over_selections(texts)
        if sum(1 for _ in predicates(whole)) > _MAX_PREDICATES:
            reason = f"condition: expands to more than {_MAX_PREDICATES:,} patterns"
            raise self._document.error(reason, self._key, "condition")
        return whole

    def outline(self, suffix: str = "") -> Outline:
        """Return the selections, and the condition over their names, each with ``suffix``."""
        self.condition()
        texts, _ = condition_and_selections(self._document, self._key)
        selections = self._selections
        self._selections = {name: Present(name + suffix) for name in selections}
        return Outline(
            text=" or ".join(texts),
            logic=self._over_selections(texts),
            selections={name + suffix: each for name, each in selections.items()},
            lines={name + suffix: self._document.line(self._key, name) for name in selections},
        )

    def unused_selections(self) -> tuple[str, ...]:
        """Return the selections that no condition names."""
        return tuple(name for name in self._selections if name not in self._used)

    def _over_selections(self, texts: Iterable[str]) -> Condition:
        from sigma.conditions import SigmaCondition

        with _sigma_errors(self._document, self._key, "condition"):
            # pySigma looks at the detections only when it postprocesses.
            parsed = (SigmaCondition(text, None) for text in texts)  # type: ignore[arg-type]
            return any_of(tuple(self._logic(each.parse(postprocess=False)) for each in parsed))

    def _logic(self, parsed: object) -> Condition:
        from sigma.conditions import (
            ConditionAND,
            ConditionIdentifier,
            ConditionItem,
            ConditionNOT,
            ConditionOR,
            ConditionSelector,
        )

        if isinstance(parsed, ConditionIdentifier):
            return self._named(parsed.identifier)
        if isinstance(parsed, ConditionSelector):
            return self._selector(parsed.args[0], parsed.args[1])
        assert isinstance(parsed, ConditionItem)  # noqa: S101  # pySigma has no other kind
        inner = tuple(self._logic(arg) for arg in parsed.args)
        if isinstance(parsed, ConditionNOT):
            return Not(inner[0])
        assert isinstance(parsed, ConditionAND | ConditionOR)  # noqa: S101
        return all_of(inner) if isinstance(parsed, ConditionAND) else any_of(inner)

    def _named(self, name: str) -> Condition:
        if name not in self._selections:
            near = get_close_matches(name, self._selections, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            reason = f"condition: no selection is named {name!r}{hint}"
            raise self._document.error(reason, self._key, "condition")
        self._used.add(name)
        return self._selections[name]

    def _selector(self, quantifier: str, pattern: str) -> Condition:
        """Resolve ``1 of x*`` or ``all of them``; names with a leading ``_`` need it in x, too."""
        wanted = re.compile(
            ".*" if pattern == "them" else re.escape(pattern).replace(r"\*", ".*"), re.DOTALL
        )
        names = [
            name
            for name in self._selections
            if wanted.fullmatch(name) and (pattern.startswith("_") or not name.startswith("_"))
        ]
        if not names:
            reason = f"condition: '{quantifier} of {pattern}' matches no selection"
            raise self._document.error(reason, self._key, "condition")
        chosen = tuple(map(self._named, names))
        return all_of(chosen) if quantifier == "all" else any_of(chosen)

    def _selection(self, definition: Value, at: KeyPath) -> Condition:
        """Convert a map, of which all items hold, or what is searched for without a field."""
        if definition is None or definition in ({}, []):
            raise self._document.error(f"{at[1]}: empty", *at)
        if isinstance(definition, dict):
            items = definition.items()
            return all_of(tuple(self._item(key, value, (*at, key)) for key, value in items))
        if isinstance(definition, list) and not all(map(_is_plain, definition)):
            inner = enumerate(definition)
            return any_of(tuple(self._selection(each, (*at, index)) for index, each in inner))
        return self._item("", definition, at)

    def _item(self, key: str, value: Value, at: KeyPath) -> Condition:
        from sigma.conditions import ConditionAND
        from sigma.rule import SigmaDetectionItem

        check_item(self._document, key, value, at)
        with _sigma_errors(self._document, *at):
            item = SigmaDetectionItem.from_mapping(key, value, policy=_policy())  # type: ignore[arg-type]
            name = item.field or KEYWORD_FIELD
            self.field_lines.setdefault(name, self._document.line(*at))
            each = tuple(
                condition
                for value in item.value
                for condition in self._conditions(name, value, at, keyword=item.field is None)
            )
        linked = all_of if item.value_linking is ConditionAND else any_of
        condition = linked(each)
        return all_of((Present(name), Not(condition))) if item.negated else condition

    def _conditions(
        self, name: str, value: SigmaType, at: KeyPath, *, keyword: bool
    ) -> Iterator[Condition]:
        """Convert one value: to several conditions if it has a placeholder."""
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

    def _single(self, name: str, value: SigmaType, at: KeyPath, *, keyword: bool) -> Condition:
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
                how = _HOW[bool(value.starts_with), bool(value.ends_with)]
                return SameAs(name, how, value.field)
        raise self._document.error(f"{at[-1]}: this kind of value is not supported", *at)

    def _texts(
        self, name: str, value: SigmaString, at: KeyPath, *, keyword: bool
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
        """Yield the value's parts, once for each combination of its placeholders' entries."""
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
            raise self._document.error(f"no list for %{name}%: not found at {looked}", *at)
        if not entries:
            raise self._document.error(f"the list for %{name}% has no entries", *at)
        self.lists_used.add(name)
        return entries


class _One:
    """The wildcard ``?`` among the parts of a text; ``None`` is ``*``."""


_ONE = _One()
_Part = str | _One | None
_Quote = Callable[[str], str]

_COMPARISONS = {
    "LT": Comparison.LESS,
    "LTE": Comparison.LESS_OR_EQUAL,
    "GT": Comparison.GREATER,
    "GTE": Comparison.GREATER_OR_EQUAL,
}


_HOW = {
    (True, True): How.CONTAINS,
    (True, False): How.STARTSWITH,
    (False, True): How.ENDSWITH,
    (False, False): How.EQUALS,
}
"""Comparison that a field reference means, by whether it is of the start and of the end."""


def _is_plain(value: Value) -> bool:
    return isinstance(value, str | int | float)


def _text_condition(name: str, parts: Iterable[_Part], *, cased: bool) -> Condition:
    """Return the simplest predicate for a text with wildcards."""
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
