"""Read a YAML file as plain values with the line of each key.

Duplicate keys, unlimited aliases and deep nesting, which PyYAML accepts, are errors.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from minerwatch.errors import RuleError

MAX_BYTES = 1 << 20
_MAX_NODES = 100_000
_MAX_DEPTH = 40
_TOO_DEEP = f"nested more than {_MAX_DEPTH} levels deep"

_SECOND_DOCUMENT = "a second document begins here: write one rule a file"
_TEXT = "tag:yaml.org,2002:str"

if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Value = object
KeyPath = tuple[str | int, ...]
Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document that is a mapping."""

    path: Path
    content: dict[str, Value]
    lines: dict[KeyPath, int]

    def line(self, *key_path: str | int) -> int:
        """Return the line of a key, or of the nearest key above it that exists."""
        while key_path:
            if key_path in self.lines:
                return self.lines[key_path]
            key_path = key_path[:-1]
        return 1

    def error(self, reason: str, *key_path: str | int) -> RuleError:
        """Return an error at the line of a key."""
        return RuleError(self.path, self.line(*key_path), reason)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return a value that changes when the file is written or replaced."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
    )


def read_text(path: Path) -> tuple[str, Stamp]:
    """Read a rule or list file: its text, and its stamp before it was read."""
    try:
        # O_NONBLOCK: a FIFO in the folder must not stop the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # an open descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RuleError(path, 1, "not a regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RuleError(path, 1, f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise RuleError(path, 1, "larger than 1 MiB, the limit of rules and lists")
    try:
        return data.decode("utf-8-sig"), stamp_of(status)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"not UTF-8: byte 0x{data[error.start]:02x}"
        raise RuleError(path, line, reason) from error


def read_document(path: Path, text: str) -> Document:
    """Parse the only YAML document in ``text``."""
    try:
        return _Reader(path, _Loader(text)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = str(error.problem)
        if problem == _TOO_DEEP or "nesting depth" in problem:  # the latter is libyaml's limit
            raise RuleError(path, line, _TOO_DEEP) from error
        if "another document" in problem:
            raise RuleError(path, line, _SECOND_DOCUMENT) from error
        reason = f"not YAML: {_in_words(error, text.splitlines()[line - 1 : line])}"
        raise RuleError(path, line, reason) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RuleError(path, line, f"not YAML: {error.reason}") from error
    except (yaml.YAMLError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuleError(path, 1, f"not YAML: {first}") from error


def _in_words(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    """Return the parser's message; for a tab it is unclear, so explain it."""
    message = error.problem or error.context or "cannot be read"
    if (
        "cannot start any token" in message
        and lines
        and lines[0][:1].isspace()
        and "\t" in lines[0]
    ):
        return "indented by a tab: use spaces"
    return message


class _Loader(_SafeLoader):
    """PyYAML's loader; refuses deep nesting, which its composer follows by recursion."""

    _depth = 0

    def descend_resolver(self, current_node: yaml.Node, current_index: Value) -> None:
        """Called before each node, with the node that it is in; no paths are resolved."""
        del current_index
        self._depth += 1
        if self._depth > _MAX_DEPTH + 1:
            raise yaml.MarkedYAMLError(None, None, _TOO_DEEP, current_node.start_mark)

    def ascend_resolver(self) -> None:
        """Called after each node."""
        self._depth -= 1


class _Reader:
    """Converts nodes to plain values, and keeps the line of each key."""

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self._path = path
        self._loader = loader
        self._lines: dict[KeyPath, int] = {}
        self._nodes = 0

    def document(self) -> Document:
        try:
            top = self._loader.get_single_node()
            if top is None:
                raise RuleError(self._path, 1, "empty file: no rule in it")
            if not isinstance(top, yaml.MappingNode):
                raise self._error(top, "not a mapping: a rule starts with keys such as title")
            return Document(self._path, self._mapping(top, ()), self._lines)
        finally:
            self._loader.dispose()

    def _error(self, node: yaml.Node, reason: str) -> RuleError:
        return RuleError(self._path, node.start_mark.line + 1, reason)

    def _value(self, node: yaml.Node, at: KeyPath) -> Value:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(at) > _MAX_DEPTH:
            raise self._error(node, f"aliases or lists expand to more than {_MAX_NODES:,} values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, at)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Value]:
        content: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise self._error(key_node, "merge keys (<<) are not supported: write the keys out")
            key = self._value(key_node, at)
            if not isinstance(key, str):
                raise self._error(key_node, f"key {str(key)[:40]} is not text: quote it")
            if key in content:
                first = self._lines[(*at, key)]
                raise self._error(key_node, f"key {key!r} is given twice (first in line {first})")
            self._lines[(*at, key)] = key_node.start_mark.line + 1
            content[key] = self._value(value_node, (*at, key))
        return content

    def _sequence(self, node: yaml.SequenceNode, at: KeyPath) -> list[Value]:
        content: list[Value] = []
        for index, item in enumerate(node.value):
            self._lines[(*at, index)] = item.start_mark.line + 1
            content.append(self._value(item, (*at, index)))
        return content

    def _scalar(self, node: yaml.Node) -> Value:
        try:
            is_text = node.tag == _TEXT
            value: Value = node.value if is_text else self._loader.construct_object(node)
            if isinstance(value, str):
                value.encode()
        except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
            reason = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise self._error(node, f"not a value: {reason}") from error
        return value
