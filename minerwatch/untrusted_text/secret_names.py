"""Names of options, variables, headers and fields whose value is a secret."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache

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
    """Return how sure it is that what ``name`` names is a secret."""
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
    """Return True for a path, a file, a number or an ordinary word: what a key's name goes with."""
    if len(value) > 256 or not value:
        return not value
    if value.startswith(_PATH_STARTS) and not value.startswith("$argon"):
        return True
    return any(form.fullmatch(value) for form in (_PLAIN_WORD, _NUMBER, _FILE))


def _is_pass(word: str) -> bool:
    return word.endswith("pass") and word not in _NO_PASS


def _is_token(words: list[str]) -> bool:
    """Not of language models, which count tokens and have tokenizers."""
    if words[-1] == "tokens":
        return words[0] not in _ASKING_STARTS and len(words) > 1
    return any(word.endswith("token") for word in words)
