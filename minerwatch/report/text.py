"""Hostile text made fit to print: escaped for a line, shortened for people, secrets taken out."""

from __future__ import annotations

import re
import unicodedata

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}

_SECRET_WORDS = r"passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|credential"  # noqa: S105
_NAMED_SECRET = rf"[\w.-]*(?:{_SECRET_WORDS})s?[\w.-]*"
_SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE), shown)
    for pattern, shown in (
        # --password hunter2, --token=…, PGPASSWORD=…, "secret": "…"
        (rf"(?P<name>\b{_NAMED_SECRET}|--?{_NAMED_SECRET})(?P<gap>\s*[=:]\s*[\"']?|\s+(?!-))[^\s\"'&]+",
         r"\g<name>\g<gap>…"),
        # https://user:password@host, and a pool's user:password
        (r"(?P<name>\b[\w+.-]+://[^\s:/@]*):[^\s/@]+@", r"\g<name>:…@"),
        (r"(?P<name>\bauthorization:\s*\w+\s+)\S+", r"\g<name>…"),
        (r"(?P<name>\bbearer\s+)\S+", r"\g<name>…"),
        # tokens known by their shape: GitHub, GitLab, Slack, AWS, OpenAI-like, JSON Web Tokens
        (r"\b(?:gh[pousr]_\w{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,})", "…"),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bsk-[\w-]{16,}", "…"),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", "…"),
    )
)  # fmt: skip


def printable(text: str, limit: int | None = None) -> str:
    """``text`` on one line and without power over a terminal; cut to ``limit`` characters.

    Control and format characters (newlines, escapes, bidirectional overrides) become visible
    escapes, so that what is read is what was there.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def redacted(text: str) -> str:
    """``text`` with what looks like a password, token or key replaced by ``…``.

    Wallet addresses and pool names stay: they are the evidence.
    """
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def _visible(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    escape = (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
    return _ESCAPES.get(character, escape)
