"""All faults of a YAML document against a msgspec type, each with its line and key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

import msgspec
import yaml

from minerwatch.errors import ConfigError
from minerwatch.untrusted_text.display import printable

_WORD = re.compile(r"[\w./*-]{1,64}")
_MERGE = "tag:yaml.org,2002:merge"
_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "date": "a date such as 2027-01-31",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "a mapping",
    "str": "text",
}
_FORMS = {
    r"'\\S'": "must not be empty",
    "http://": "expected http://HOST:PORT/metrics",
    "[A-Za-z]{0,8}": "expected at most eight letters",
}
"""Part of a regular expression -> the same in words."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a file."""

    line: int
    key: str  # dotted, such as culling.ladder[0].actions; "": the whole file
    text: str

    def __str__(self) -> str:
        """Return the fault without the file's name and the line."""
        return f"{self.key or 'the whole file'}: {self.text}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A document's value, or its faults; and the line of each key that it has."""

    value: Any
    faults: tuple[Fault, ...]
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Checker:
    """The type that documents must have, and further checks of single keys."""

    kind: type
    decode: Callable[[type, Any], Any]  # msgspec's dec_hook
    checks: Mapping[str, Callable[[Any], object]]  # key, without index -> raises ConfigError
    choices: Mapping[type, Iterable[str]] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)  # key -> the reason and the remedy

    def check(self, loader: yaml.SafeLoader) -> Checked:
        """Return the loader's one document. Raises YAMLError, RecursionError."""
        node = loader.get_single_node()
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return Checked(self.convert({}, self.kind), (), {})
        visit = _Visit(self, loader)
        faults = tuple(sorted(visit.faults(node, self.kind, ""), key=lambda fault: fault.line))
        value = None if faults else self.convert(visit.value(node), self.kind)
        return Checked(value, faults, visit.lines)

    def convert(self, value: Any, kind: Any) -> Any:
        """Return ``value`` as a ``kind``. Raises msgspec.ValidationError."""
        return msgspec.convert(value, kind, dec_hook=self.decode)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One document under check."""

    checker: Checker
    loader: yaml.SafeLoader
    lines: dict[str, int] = field(default_factory=dict)

    def value(self, node: yaml.Node) -> Any:
        return self.loader.construct_object(node, deep=True)

    def faults(self, node: yaml.Node, kind: Any, key: str) -> list[Fault]:
        """Return the faults of a value and of all below it."""
        self.lines.setdefault(key, _line(node))
        inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        found: list[Fault] = []
        if isinstance(node, yaml.MappingNode) and _is_struct(inner):
            found = list(self._faults_of_fields(node, inner, key))
        elif isinstance(node, yaml.SequenceNode) and get_origin(inner) is tuple:
            for index, entry in enumerate(node.value):
                found += self.faults(entry, get_args(inner)[0], f"{key}[{index}]")
        return found or list(self._faults_of_value(node, kind, inner, key))

    def _faults_of_fields(self, node: yaml.MappingNode, kind: Any, key: str) -> Iterator[Fault]:
        fields = {each.name: each for each in msgspec.structs.fields(kind)}
        entries: dict[str, yaml.Node] = {}
        for name_node, value in self._entries(node):
            name, line = _scalar(name_node), _line(name_node)
            inner_key = f"{key}.{name}" if key else name
            if name not in fields:
                unknown = f"unknown key{suggestion(name, fields)}"
                yield Fault(line, inner_key, self.checker.removed.get(inner_key, unknown))
            elif name in entries:
                first = self.lines[inner_key]
                yield Fault(line, inner_key, f"duplicate key, also on line {first}: keep one")
            else:
                entries[name] = value
                self.lines[inner_key] = line
                yield from self.faults(value, fields[name].type, inner_key)
        for name, each in fields.items():
            if each.required and name not in entries:
                yield Fault(_line(node), key, f"{name} is missing")

    def _entries(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Yield the mapping's own entries, then those that it merges in and does not override."""
        own = [(name, value) for name, value in node.value if name.tag != _MERGE]
        yield from own
        if len(own) < len(node.value):
            self.loader.flatten_mapping(node)
            merged = {_scalar(name): (name, value) for name, value in node.value}
            names = {_scalar(name) for name, _ in own}
            yield from (entry for name, entry in merged.items() if name not in names)

    def _faults_of_value(self, node: yaml.Node, kind: Any, inner: Any, key: str) -> Iterator[Fault]:
        """Yield the fault of a value whose parts have none."""
        check = self.checker.checks.get(re.sub(r"\[\d+\]", "[]", key))
        try:
            value = self.value(node)
            if check is not None and inner is str and isinstance(value, int):
                value = _scalar(node)  # a port alone is no address: the check says it better
            value = self.checker.convert(value, kind)
            if check is not None:
                check(value)
        except msgspec.ValidationError as error:
            below, text = _in_words(error)
            yield Fault(_line(node), _joined(key, below), text + self._hint(node, inner))
        except ConfigError as error:
            yield Fault(_line(node), key, str(error))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or node.start_mark
            yield Fault(mark.line + 1, key, str(error.problem))

    def _hint(self, node: yaml.Node, kind: Any) -> str:
        is_word = isinstance(node, yaml.ScalarNode) and _WORD.fullmatch(node.value)
        if is_word and get_origin(kind) is tuple:
            return f": write [{node.value}]"
        if is_word and kind is str:
            return f": write '{node.value}'"
        choices = self.checker.choices.get(kind, ())
        if isinstance(kind, type) and issubclass(kind, Enum):
            choices = [str(each.value) for each in kind]
            return suggestion(_scalar(node), choices) or f": use {', '.join(choices)}"
        return suggestion(_scalar(node), choices)


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean x?``, or "" if no choice is near."""
    from difflib import get_close_matches  # only where something is wrong

    known = list(map(str, choices))
    longer = [each for each in known if len(word) > 1 and each.startswith(f"{word}_")]
    close = get_close_matches(word, known, n=1) or longer
    return f"; did you mean {close[0]}?" if close else ""


def _in_words(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the key of msgspec's ``… - at `$.node.proc```, and the rest in plain words."""
    text, _, path = printable(str(error)).partition(" - at ")
    key = path.strip("`").removeprefix("$").removeprefix(".")
    if "matching regex" in text:
        return key, next((words for part, words in _FORMS.items() if part in text), text)
    if text == "Invalid RFC3339 encoded date":
        return key, f"expected {_KINDS['date']}"
    text = re.sub(r"`(\w+)( \| null)?`", _kind_in_words, text)
    return key, text[:1].lower() + text[1:]


def _kind_in_words(match: re.Match[str]) -> str:
    words = _KINDS.get(match[1])
    return match[0] if words is None else words + (" or null" if match[2] else "")


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _scalar(node: yaml.Node) -> str:
    return node.value if isinstance(node.value, str) else "?"


def _joined(key: str, below: str) -> str:
    return f"{key}{below}" if below.startswith("[") or not key or not below else f"{key}.{below}"
