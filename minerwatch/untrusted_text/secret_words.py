"""Finds what is secret within one word: the value of a name, a password in an address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import re2

from minerwatch.untrusted_text.secret_names import MAX_NAME_CHARS, Secrecy, is_plain, secrecy
from minerwatch.untrusted_text.secret_shapes import is_wallet

MASK = "…"
"""Stands for what was taken out."""

QUOTES = "\"'`"
SCHEMES = frozenset(
    {"basic", "bearer", "digest", "token", "negotiate", "ntlm", "apikey", "splunk", "key", "bot"}
    | {"aws4-hmac-sha256", "hawk", "oauth", "sharedkey", "genie_key", "genie-key"}
    | {"is", "was", "to", "by", "with"}
)
"""Words between the name of a secret and the secret."""

_SEPARATOR = re.compile(r"=>|:=|[=:>]|%3[dDaA]|\((?=[\\\"'])")
_NAME_CHARS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.$"
_USERINFO = re2.compile(r"://([^\s:/?\"'<>@]*)(?:(@)|:([^\s\"'<>]*)@)")
_SERVICES = re.compile(
    r"(?:\w+\+)?(?:https?|wss?|ftps?|git|postgres|mysql|maria|mongo|redis|valkey|amqp|mqtt|nats|kafka"
    r"|ldap|smtp|imap|s3|gs|wasb|abfs|oracle|mssql|sqlserver|clickhouse|cockroach|neo4j|bolt"
    r"|cassandra|elastic|etcd|consul|vault|docker|cql|influx|rabbit|rtsp|rtmp|srt|socks|jdbc|odbc|couch)"
)
_PORT = re.compile(r"\d{1,5}(?:[/?#]|$)")
_BARE_LOGIN = re2.compile(r"(?:^|[\s\"'=,])[\w.+/\\-]{1,64}:([^\s/@][^\s@]*)@[A-Za-z0-9\[]")
_KEEPS_USER = re.compile(
    r"(?:.*\+)?(?:ssl|tls|tcp|ssh|sftp|rsync|smb|svn|mailto|stratum\w*|ethproxy|nicehash)(?:\+.*)?"
)
_PAIR = re2.compile(
    r"(?i)\bname[\\\"']{0,2}[:=][\\\"']{0,2}([\w.-]{1,80})[\\\"']{0,2},[^\s,:=]{0,40}?"
    r"\bvalue[\\\"']{0,2}[:=][\\\"']{0,2}([^\s\\\"',}]+)"
)
_HOOK = re2.compile(
    r"(?i)://[^\s/]*?(?:"
    r"conda[^\s/]*/t/|slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/"
    r"|telegram\.org/(?:file/)?bot|webhook\.office\.com/|office\.com/webhook\w*/"
    r"|hooks?\.[^\s/]*/|webhooks?\.[^\s/]*/|ifttt\.com/[^\s?#]*/key/|/[^\s?#]*?/?(?:web)?hooks?/"
    r"|/[^\s?#]*?/?(?:token|secret|apikey|access_token)/)([^\s?#\"'<>]+)"
)
_STREAM = re2.compile(r"(?i)\b(?:rtmpt?[es]?|srt|rist)://[^\s\"'<>|]*/([^\s/\"'<>|]+)")


def named_values(word: str) -> Iterator[tuple[int, int | None, Secrecy]]:
    """Yield where values stand whose names say that they are secret: start, end (None: all)."""
    past = 0
    for separator in _SEPARATOR.finditer(word):
        if separator.start() < past:
            continue
        quoted = word[: separator.start()].rstrip("\\" + QUOTES + "]}")
        head = quoted[-MAX_NAME_CHARS:]
        name = head[len(head.rstrip(_NAME_CHARS)) :]
        found = secrecy(name) if name else Secrecy.NONE
        start = separator.end()
        if found is Secrecy.NONE or _is_no_value(word, separator, name):
            continue
        before = word[: len(quoted) - len(name)]
        end = _value_end(word, start, before, is_quoted=len(quoted) < separator.start())
        value = word[start:end].strip("\\" + QUOTES)
        if found is Secrecy.DOUBTFUL and value and is_plain(value):
            continue
        yield start, end, found
        past = len(word) if end is None else end


def paired_values(word: str) -> Iterator[tuple[int, int]]:
    """Yield the secrets of pairs like ``"name":"TOKEN","value":"..."``, as variables are given."""
    for match in _PAIR.finditer(word):
        if secrecy(match[1]) is not Secrecy.NONE:
            yield match.span(2)


def _is_no_value(word: str, separator: re.Match[str], name: str) -> bool:
    """A scheme, a host before its port, an image's tag; or no XML, where ``>`` asks for some."""
    start, kind = separator.end(), separator[0]
    if kind == ">":
        return word[: separator.start() - len(name)][-1:] != "<"
    if kind != ":" or word[separator.start() - 1] in QUOTES:
        return False
    value = word[start:]
    is_scheme = value.lower() in SCHEMES
    is_weak = "passw" not in name.lower() and bool(value) and is_plain(value) and not is_scheme
    return value.startswith("//") or "." in name or is_weak or (value.isdigit() and len(value) < 6)


def _value_end(word: str, start: int, before: str, *, is_quoted: bool) -> int | None:
    """Return where a value ends: None, where it takes the rest of the word, or goes on after it."""
    value = word[start:].lstrip("\\")
    start = len(word) - len(value)
    if value[:1] and value[0] in QUOTES:
        end = word.find(value[0], start + 1)
        return None if end < 0 else end
    if word[start - 1] == ">":
        return _first_of(word, "<", start)
    if before[-1:] in ("?", "&") or "?" in before:
        return _first_of(word, "&#\"'", start)
    if is_quoted:
        return _first_of(word, ",}]", start)
    return _first_of(word, ";", start) if before.endswith(";") else None


def _first_of(word: str, ends: str, start: int) -> int:
    places = [place for place in (word.find(end, start) for end in ends) if place >= 0]
    return min(places, default=len(word))


def address_spans(word: str) -> Iterator[tuple[int, int]]:
    """Yield where an address holds a password, a token or a key."""
    past = 0
    while (match := _USERINFO.search(word, past)) is not None:
        past = match.end()
        scheme = word[: match.start()].rpartition("=")[2].strip(QUOTES).lower()
        is_pool = _KEEPS_USER.fullmatch(scheme) or (
            is_wallet(match[1]) and not _SERVICES.match(scheme)
        )
        if match[2] is None and _PORT.match(match[3]):
            past = match.start(3)
        elif match[2] is None:
            yield match.span(3)
            if match[3] in ("", "x-oauth-basic"):  # the token is in the user's place
                yield match.span(1)
        elif match[1] and not is_pool:
            yield match.span(1)
    for pattern in (_HOOK, _STREAM, _BARE_LOGIN):
        for found in pattern.finditer(word):
            if not word[found.end(1) + 1 :].lower().startswith(("sha256:", "sha512:")):
                yield found.span(1)


def with_masks(word: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return ``word`` with the mask in place of each span."""
    pieces, past = [], 0
    for start, end in sorted(spans):
        if end <= past:
            continue
        pieces += [word[past : max(start, past)], MASK] if start >= past else []
        past = end
    return "".join((*pieces, word[past:])) if past else word


def is_plain_path(word: str) -> bool:
    """Return True for a path on a disk: its parts are names, however they look."""
    return "/" in word and "://" not in word and word.lstrip(QUOTES)[:1] in "/.~"
