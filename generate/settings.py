"""The settings of minerwatch/config/schema.py with the comments beside them."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from minerwatch.config import hub, schema
from minerwatch.config.values import Duration, duration_text


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configuration file."""

    key: str
    default: Any
    comment: str  # "" if it has none

    @property
    def inner(self) -> tuple[Setting, ...]:
        """Return the settings below it."""
        return settings(self.default) if isinstance(self.default, msgspec.Struct) else ()


def settings(values: msgspec.Struct) -> tuple[Setting, ...]:
    """Return the settings of one section, with ``values`` as their defaults."""
    comments = _comments()[type(values).__name__]
    return tuple(
        Setting(name, getattr(values, name), comments.get(name, ""))
        for name in values.__struct_fields__
    )


def comments(struct: str) -> Mapping[str, str]:
    """Return the comment of each field of a class of minerwatch/config/schema.py."""
    return _comments().get(struct, {})


def written(value: Any) -> str:
    """Return ``value`` in YAML."""
    if isinstance(value, Duration):
        return duration_text(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return value if (value and value[0].isalnum()) or value[:1] == "/" else f'"{value}"'
    return f"{value:g}"


@cache
def _comments() -> Mapping[str, Mapping[str, str]]:
    """Return comments by class and field."""
    modules = (hub, schema)
    sources = [Path(str(each.__file__)).read_text(encoding="utf-8") for each in modules]
    return {name: found for source in sources for name, found in _comments_in(source).items()}


def _comments_in(source: str) -> Mapping[str, Mapping[str, str]]:
    by_line = dict(_comment_lines(source))
    return {
        node.name: {
            field.target.id: by_line[field.end_lineno or 0]
            for field in node.body
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and field.end_lineno in by_line
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def _comment_lines(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
