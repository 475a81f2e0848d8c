"""Hostile text made fit to print: escaped for a line, shortened for people, secrets taken out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import re2

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_MARKS = frozenset({"Mn", "Me", "Mc"})
_MAX_MARKS = 4  # on one letter; more climb over the lines above and below
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters that show nothing
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}

CUT = " …[cut]… "
"""Stands where the middle of a text was left out."""

_GUARDED = (
    "passwd|password|passphrase|passcode|secret|token|credential"
    "|(?:api|access|private|auth)[_-]?key"
)
_NAME = rf"[\w-]*(?:{_GUARDED})[\w-]*|[\w-]*[_-]pass|\bpass"
_DOTTED_NAME = rf"[\w.-]*(?:{_GUARDED})[\w.-]*|[\w.-]*[_.-]pass|\bpass"
_VALUE = r"""(?:"[^"]*"?|'[^']*'?|[^\s"']\S*)"""
_NO_OPTION = r"""(?:"[^"]*"?|'[^']*'?|[^\s"'-]\S*)"""

# Each pattern is what stays before a secret, the secret, and what stays after it. RE2 takes time
# in proportion to the text; Python's own expressions can be kept busy by a hostile one.
_SECRETS = tuple(
    re2.compile(rf"(?i)({before}){secret}({after})")
    for before, secret, after in (
        # --password=…, PGPASSWORD=…, --App.token='…'
        (rf"(?:{_DOTTED_NAME})[\"']?\s*=\s*", _VALUE, ""),
        # "secret": "…", X-Api-Key: …; a name with dots before a colon is a host before its port
        (rf"(?:^|[^.\w-])(?:{_NAME})[\"']?\s*:\s*", _VALUE, ""),
        # --password hunter2: only after dashes, or a program's name would hide its arguments
        (rf"(?:^|\s)--?(?:{_DOTTED_NAME})\s+", _NO_OPTION, ""),
        # curl -u user:password; what stands before the colon may be a wallet
        (r"(?:^|\s)(?:-u|--user|--userpass|-O|--proxy-user)(?:\s+|=)[^\s:]+:", r"[^\s/]\S*", ""),
        (r"\bsshpass\s+-p\s*", r"\S+", ""),
        (r"\bmysql\w*\s(?:[^|;&]*?\s)?-p", r"\S+", ""),
        # https://user:password@host, and a pool's wallet:password
        (r"\b[\w+.-]+://[^\s:/@]*:", r"[^\s/]+", "@"),
        (r"\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|digest|token)\s+)?",
         r"[^\s\"']+", ""),
        (r"\bbearer\s+", r"\S+", ""),
        # Known by their shape: GitHub, GitLab, Slack, AWS, Google, Hugging Face, npm, "sk-" keys,
        # JSON Web Tokens.
        (r"\b", r"(?:gh[pousr]_\w{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|npm_\w{30,})", ""),
        (r"\b", r"(?:xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}\b|AIza[\w-]{35})", ""),
        (r"\b", r"(?:hf_[a-z0-9]{20,}|sk-[\w-]{24,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)", ""),
    )
)  # fmt: skip


def printable(text: str, limit: int | None = None) -> str:
    """``text`` on one line and without power over a terminal; cut to ``limit`` characters.

    Control and format characters (newlines, escapes, bidirectional overrides), spaces that are
    not the ordinary one, and heaps of marks on one letter become visible escapes, so that what is
    read is what was there. The cut comes first: escapes may make the result longer than ``limit``.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(text))


def shortened(text: str, limit: int) -> str:
    """``text``, or if it is longer than ``limit`` characters its two ends around a mark.

    Both ends, because padding can push what matters past any limit on one of them.
    """
    if len(text) <= limit:
        return text
    kept = limit - len(CUT)
    tail = kept // 3
    return text[: kept - tail] + CUT + text[len(text) - tail :]


def redacted(text: str) -> str:
    """``text`` with what looks like a password, token or key replaced by ``…``.

    Wallet addresses and pool names stay: they are the evidence.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    for pattern in _SECRETS:
        text = pattern.sub(lambda match: f"{match[1]}…{match[2]}", text)
    return text


def _visible(text: str) -> Iterator[str]:
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        is_seen = category not in _UNPRINTABLE and character not in _BLANK and marks <= _MAX_MARKS
        yield character if is_seen or character == " " else _escape(character)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return _ESCAPES.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
