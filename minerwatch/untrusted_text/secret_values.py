"""Names whose value is a secret, and such values within one word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache

from minerwatch.untrusted_text.secret_shapes import bounded_regex, is_wallet

MAX_NAME_CHARS = 80
"""Characters at the end of a name that are looked at."""


class Secrecy(Enum):
    """Certainty with which a name marks its value as secret."""

    NONE = 0
    DOUBTFUL = 1  # a key, a pin, a session: unless the value is plainly something else
    SURE = 2


_SURE_PARTS = ("passw", "passphrase", "passcode", "passkey", "secret", "credential")
_SURE_JOINED = (
    "apikey", "authkey", "accesskey", "privatekey", "privkey", "masterkey", "signingkey",
    "encryptionkey", "accountkey", "sharedkey", "storagekey", "streamkey", "setupkey", "servicekey",
    "subscriptionkey", "licensekey", "presharedkey", "functionkey", "spendkey", "viewkey",
    "rpcauth", "masterauth", "requirepass", "sonarlogin", "proxyauth", "seedphrase", "mnemonic",
    "connectionstring", "authorization",
)  # fmt: skip
_SURE_WORDS = frozenset(
    {"pass", "passwd", "pwd", "psw", "passwort", "creds", "cred", "bearer", "otp", "totp", "psk"}
    | {"cookie", "cookies", "jwt", "sas", "wif", "passin", "passout", "authtoken", "apitoken"}
    | {"signature", "sig", "csrf", "xsrf", "sessionid", "sessid", "webhook"}
)
_DOUBTFUL_WORDS = frozenset(
    {"key", "keys", "auth", "pw", "session", "sid", "seed", "salt", "code", "hmac", "community"}
    | {"pat", "license"}
)
_NO_PASS = ("bypass", "compass", "trespass", "encompass", "highpass", "lowpass", "bandpass")
_HARMLESS_ENDS = frozenset(
    {"file", "path", "dir", "directory", "folder", "name", "names", "url", "uri", "host", "port"}
    | {"type", "kind", "length", "len", "size", "ttl", "count", "limit", "min", "max", "expiry"}
    | {"expires", "expiration", "expire", "timeout", "lifetime", "age", "policy", "format", "fd"}
    | {"scheme", "method", "mode", "algorithm", "alg", "algo", "cmd", "command", "env", "stdin"}
    | {"prompt", "hint", "field", "column", "label", "prefix", "suffix", "regex", "pattern"}
    | {"version", "provider", "endpoint", "server", "manager", "ref", "reference", "namespace"}
    | {"arn", "region", "mount", "issuer", "audience", "scope", "realm", "callback", "eval"}
    | {"memory", "enabled", "required", "retries", "interval", "strategy", "domain", "only"}
    | {"plugin", "budget", "samesite", "secure", "httponly", "backend", "reuse", "id_env", "index"}
)  # fmt: skip
_HARMLESS_TAILS = (
    "keyid", "keyids", "publickey", "pubkey", "sitekey", "paramkey", "primarykey", "partitionkey",
    "sortkey", "hotkey", "file", "path", "list", "dir", "name", "type", "length", "url",
)  # fmt: skip
_ASKING_STARTS = frozenset(
    {"no", "ask", "prompt", "with", "without", "require", "use", "show", "hide", "skip", "disable"}
    | {"enable", "allow", "has", "is", "max", "min", "num", "n"}
)

_DEFINITION = re.compile(r"^-[DPXJ]")
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_PLAIN_WORD = re.compile(r"[a-z]+(?:[-_][a-z]+)*|[A-Z][a-z]*|[A-Z]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?[0-9]{1,5}(?:[._,:][0-9]{1,5})*(?:[eE][-+]?[0-9]{1,3}|[a-zA-Z]{1,2})?")
_FILE = re.compile(
    r"[\w@%+:,.-]*\.(?:py|ipynb|sh|js|mjs|ts|json|ya?ml|toml|txt|cfg|conf|ini|pem|key|pub|crt|cer|der"
    r"|p12|pfx|jks|gpg|asc|csv|tsv|parquet|h5|np[yz]|pt|pkl|bin|log|db|sql|xml|html?|md|go|rs|c|cpp|h"
    r"|java|jar|rb|pl|php|env|lock|gz|xz|zst|zip|tar|so|exe|R|rds|mp4|png|jpe?g|pdf)",
    re.ASCII,
)
_PATH_STARTS = ("/", "./", "../", "~/", "~", "$", "@", "{{", "file:", "<")


def secrecy(name: str) -> Secrecy:
    """Return how likely the value of ``name`` is a secret."""
    return _secrecy(name[-MAX_NAME_CHARS:])  # no more of it is kept


@lru_cache(maxsize=1024)
def _secrecy(name: str) -> Secrecy:
    name = _DEFINITION.sub("", name, count=1)
    pieces = [piece.lower() for piece in _PIECES.findall(name)]
    words = [piece for piece in pieces if not piece.isdigit()]
    joined = "".join(words)
    if not words or words[-1] in _HARMLESS_ENDS or joined.endswith(_HARMLESS_TAILS):
        return Secrecy.NONE
    has_part = any(part in joined for part in (*_SURE_PARTS, *_SURE_JOINED))
    has_word = any(word in _SURE_WORDS or _is_pass(word) for word in words)
    if has_part or has_word or words[-1] == "pin" or _is_token(words):
        return Secrecy.SURE
    return Secrecy.DOUBTFUL if words[-1] in _DOUBTFUL_WORDS else Secrecy.NONE


def takes_value(name: str) -> bool:
    """Return False for options that only ask for a secret, as ``no-password`` does."""
    first = _PIECES.search(name)
    return first is None or first[0].lower() not in _ASKING_STARTS


def is_plain(value: str) -> bool:
    """Return True for a path, a file, a number or an ordinary word: no secret."""
    if len(value) > 256 or not value:
        return not value
    if value.startswith(_PATH_STARTS) and not value.startswith("$argon"):
        return True
    return any(form.fullmatch(value) for form in (_PLAIN_WORD, _NUMBER, _FILE))


def _is_pass(word: str) -> bool:
    return word.endswith("pass") and word not in _NO_PASS


def _is_token(words: list[str]) -> bool:
    """Return True unless it is of language models, which count tokens and have tokenizers."""
    if words[-1] == "tokens":
        return words[0] not in _ASKING_STARTS and len(words) > 1
    return any(word.endswith("token") for word in words)


# Within one word.

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
_USERINFO = bounded_regex(r"://([^\s:/?\"'<>@]*)(?:(@)|:([^\s\"'<>]*)@)")
_SERVICES = re.compile(
    r"(?:\w+\+)?(?:https?|wss?|ftps?|git|postgres|mysql|maria|mongo|redis|valkey|amqp|mqtt|nats|kafka"
    r"|ldap|smtp|imap|s3|gs|wasb|abfs|oracle|mssql|sqlserver|clickhouse|cockroach|neo4j|bolt"
    r"|cassandra|elastic|etcd|consul|vault|docker|cql|influx|rabbit|rtsp|rtmp|srt|socks|jdbc|odbc|couch)"
)
_PORT = re.compile(r"\d{1,5}(?:[/?#]|$)")
_BARE_LOGIN = bounded_regex(r"(?:^|[\s\"'=,])[\w.+/\\-]{1,64}:([^\s/@][^\s@]*)@[A-Za-z0-9\[]")
_KEEPS_USER = re.compile(
    r"(?:.*\+)?(?:ssl|tls|tcp|ssh|sftp|rsync|smb|svn|mailto|stratum\w*|ethproxy|nicehash)(?:\+.*)?"
)
_PAIR = bounded_regex(
    r"(?i)\bname[\\\"']{0,2}[:=][\\\"']{0,2}([\w.-]{1,80})[\\\"']{0,2},[^\s,:=]{0,40}?"
    r"\bvalue[\\\"']{0,2}[:=][\\\"']{0,2}([^\s\\\"',}]+)"
)
_HOOK = bounded_regex(
    r"(?i)://[^\s/]*?(?:"
    r"conda[^\s/]*/t/|slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/"
    r"|telegram\.org/(?:file/)?bot|webhook\.office\.com/|office\.com/webhook\w*/"
    r"|hooks?\.[^\s/]*/|webhooks?\.[^\s/]*/|ifttt\.com/[^\s?#]*/key/|/[^\s?#]*?/?(?:web)?hooks?/"
    r"|/[^\s?#]*?/?(?:token|secret|apikey|access_token)/)([^\s?#\"'<>]+)"
)
_STREAM = bounded_regex(r"(?i)\b(?:rtmpt?[es]?|srt|rist)://[^\s\"'<>|]*/([^\s/\"'<>|]+)")


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
    """Return True for a scheme, a port, an image's tag, and after a ``>`` that is no XML's."""
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
    found = [at for at in (word.find(end, start) for end in ends) if at >= 0]
    return min(found, default=len(word))


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
            if match[3] in ("", "x-oauth-basic"):  # the token stands instead of the user
                yield match.span(1)
        elif match[1] and not is_pool:
            yield match.span(1)
    for pattern in (_HOOK, _STREAM, _BARE_LOGIN):
        for found in pattern.finditer(word):
            if not word[found.end(1) + 1 :].lower().startswith(("sha256:", "sha512:")):
                yield found.span(1)


def with_masks(word: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return ``word`` with the mask instead of each span."""
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
