"""A repository's address to regular expressions for BinderHub's ``banned_specs``. Pure.

BinderHub matches them at the start of a provider's spec, without regard to case: ``OWNER/NAME/REF``
of GitHub, ``NAMESPACE%2FNAME/REF`` of GitLab, an escaped address and a ref of any git server. Each
character matches itself or its percent-encoded form, since the spec is matched as the browser sent
it; and an address of GitHub or GitLab can also be launched as one of any git server, so it has both
forms. There a port and dot segments may be in it, too.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from minerwatch.kube.repository_address import ADDRESS_SCHEMES, FORGES, without_dots

_END = r"(?:\.git)?(?:/|%2f)?(?:/|\Z)"
_SLASH, _DOT = "(?:/|%2f)", r"(?:\.|%2e)"
_OTHER = "(?:[^/%.]|%(?:[013-9a-f][0-9a-f]|2[0-9a-d]))"  # a character, neither slash nor dot
_LEFT = f"{_DOT}*{_OTHER}(?:{_OTHER}|{_DOT})*{_SLASH}{_DOT}{_DOT}{_SLASH}"
_SEPARATOR = f"{_SLASH}(?:{_DOT}?{_SLASH}|{_LEFT})*"
"""A slash, and segments that git drops from an address: empty ones, ``./`` and ``x/../``."""

_PORT = r"(?:(?::|%3a)[0-9]*)?"
SETTINGS = frozenset(f"{each}.banned_specs" for each in ("GitRepoProvider", *FORGES.values()))
_MAX_CHARS = 256  # a pattern is many times as long


def banned_specs(repository: str) -> dict[str, str]:
    """Return the provider's setting and an anchored pattern for each way to launch ``repository``.

    There is none if it is no http(s) or ssh address.
    """
    if len(repository) > _MAX_CHARS or not repository.isprintable():
        return {}
    try:
        parts = urlsplit(repository)
        host, path = (parts.hostname or "").lower(), unquote(parts.path)
    except ValueError:
        return {}
    host, path = host.removeprefix("www."), without_dots(path)
    if parts.scheme not in ADDRESS_SCHEMES or "." not in host or not path:
        return {}
    if host in FORGES and "/" not in path:
        return {}  # a whole host or owner
    anywhere = r"^(?:https?|git|ssh)(?::|%3a)" + _either("//")
    user = r"(?:[^/@]*(?:@|%40))?"
    repository = _SEPARATOR.join([_either(host) + _PORT, *map(_either, path.split("/"))])
    pattern = f"{anywhere}{user}{_either('www.')}?{repository}{_END}"
    patterns = {"GitRepoProvider.banned_specs": pattern}
    if host in FORGES:
        patterns[f"{FORGES[host]}.banned_specs"] = f"^{_either(path)}{_END}"
    return patterns


def _either(text: str) -> str:
    """Return a pattern for ``text`` in which each character may be percent-encoded."""
    return f"(?:{''.join(map(_character, text))})"


def _character(char: str) -> str:
    """Return a pattern for a character in either case, if it is ASCII.

    Of others BinderHub sees the bytes, as characters of Latin-1: those after it are never seen, and
    some would match ASCII.
    """
    variants = (char.lower(), char.upper()) if char.isascii() else (char,)
    encoded = {"".join(f"%{byte:02x}" for byte in each.encode()) for each in variants}
    literal = [re.escape(char)] if char <= "\xff" else []
    return f"(?:{'|'.join([*literal, *sorted(encoded)])})"
