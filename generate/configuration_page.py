"""The settings in docs/configuration.md; the text around them is written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from generate.settings import Setting, settings, written
from minerwatch.config.schema import Config

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

_BEGIN = "<!-- The settings: written by `make generate` from minerwatch/config/schema.py -->\n"
_END = "<!-- the end of the settings -->\n"
_WIDTH = 30
"""The column of comments."""


def page() -> str:
    """Return the page with the current settings."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    block = "\n".join(_block())
    return f"{before}{_BEGIN}\n```yaml\n{block}\n```\n\n{_END}{after}"


def _block() -> Iterator[str]:
    is_first = True
    for setting in sorted(settings(Config()), key=lambda each: bool(each.inner)):
        if setting.inner and not is_first:
            yield ""
        yield from _lines(setting, "")
        is_first = False


def _lines(setting: Setting, indent: str) -> Iterator[str]:
    if setting.inner:
        yield _with_comment(f"{indent}{setting.key}:", setting.comment)
        for inner in setting.inner:
            yield from _lines(inner, indent + "  ")
    elif _is_list_of_structs(setting.default):
        yield _with_comment(f"{indent}{setting.key}:", setting.comment)
        for entry in setting.default:
            mark = "- "
            for inner in settings(entry):
                yield from _lines(inner, f"{indent}{mark}")
                mark = "  "
    else:
        text = f"{indent}{setting.key}: {written(setting.default)}"
        yield _with_comment(text, setting.comment)


def _is_list_of_structs(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(each, msgspec.Struct) for each in value)


def _with_comment(text: str, comment: str) -> str:
    return f"{text:<{_WIDTH - 1}} # {comment}" if comment else text
