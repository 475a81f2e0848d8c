"""HTML in which no text acts as markup: all that is not built here is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from minerwatch.untrusted_text.display import printable

_VOID = frozenset(("br", "link", "meta"))


class Markup(str):
    """HTML that is safe to send; made by ``tag`` only."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
"""Markup as it is, any other text escaped, None left out."""


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Markup:
    """Return an element. ``class_`` becomes the attribute class, other underscores become hyphens.

    An attribute that is None is left out.
    """
    start = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{''.join(_parts(children))}</{name}>")


def style(css: str) -> Markup:
    """Return a style element; ``css`` is minerwatch's own."""
    return Markup(f"<style>{css}</style>")


def document(title: str, css: str, *body: Child, meta: Child = None) -> str:
    """Return a whole page; ``meta``: further elements of its head."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        meta,
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        style(css),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def _parts(children: Iterable[Child]) -> Iterator[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str | int | float):
            yield _escaped(str(child))
        elif child is not None:
            yield from _parts(child)


def _escaped(text: str) -> str:
    return html.escape(printable(text))
