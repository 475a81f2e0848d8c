"""Bindings of keys. Those with a word stand in the footer and in the command palette."""

from __future__ import annotations

from textual.binding import Binding

from minerwatch.view.screen.words import HELP

_DISPLAYS = {
    "enter": "Enter",
    "escape,q,left,backspace": "Esc",
    "escape,q": "Esc",
    "question_mark": "?",
    "slash": "/",
}
_MEANINGS = dict(HELP["Keys"])


def key(keys: str, action: str, word: str = "") -> Binding:
    """Return the binding of ``keys``, with what the help says of it."""
    display = _DISPLAYS.get(keys, keys)
    tooltip = _MEANINGS.get(display, "")
    return Binding(keys, action, word, show=bool(word), key_display=display, tooltip=tooltip)
