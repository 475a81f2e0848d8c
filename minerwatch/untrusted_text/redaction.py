"""Takes secrets out of a command line.

Wallet addresses, pools, digests, uuids and paths stay: they are the evidence. An argument that
holds blanks (a script, a header, JSON) is read like a command line of its own.
"""

from __future__ import annotations

import re
import sys

from minerwatch.arguments import NO_BREAK_SPACE
from minerwatch.untrusted_text.secret_options import BY_PROGRAM, Secrets
from minerwatch.untrusted_text.secret_shapes import is_wallet, random_words, tokens
from minerwatch.untrusted_text.secret_values import (
    MASK,
    MAX_NAME_CHARS,
    QUOTES,
    SCHEMES,
    Secrecy,
    address_spans,
    is_plain,
    is_plain_path,
    named_values,
    paired_values,
    secrecy,
    takes_value,
    with_masks,
)

_MAX_CACHED_BYTES = 768 << 10  # the lines of 5,000 processes take 650
_MAX_COUNTED = 8
_BLANKS = re.compile(r"([ \t\n\r\f\v]+|\u00a0+)")  # between arguments, or within one
_AROUND = "\"'`$(){};"
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(?:=.*)?", re.DOTALL)
_QUOTED_OPTION = re.compile("[\"'`]-")
_CLUSTER = re.compile(r"-[A-Za-z]{2,12}")
_LOGIN_ENDS = ":%,="
_IDS = re.compile(r"\d+:\d+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
_COMPOUND = re.compile(r"\w*[A-Za-z0-9][_.-]\w[\w.-]*|_?[a-z]+[A-Z]\w*", re.ASCII)

_LOGINS = frozenset(
    {"-u", "--user", "--userpass", "-O", "--proxy-user", "--login", "--rpc-login", "--daemon-login"}
    | {"--http-auth", "--basic-auth", "--auth", "--proxy-auth", "--creds", "--auth-cred"}
    | {"--registry-auth", "--http-user", "--ftp-user", "--credentials"}
)
_BARE_NAMES = frozenset(
    {"auth", "psk", "password", "passwd", "passphrase", "passcode", "authtoken", "bearer"}
)
_SQL_NAMES = frozenset({"identified"})
_MAX_SQL_WORDS = 4  # IDENTIFIED WITH plugin BY
_SLASH_OPTION = re.compile(r"/(?:p|pw|pwd|pass|password|rp):", re.IGNORECASE)
_LONG_OPTIONS = frozenset({"-password", "-passwd", "-pass", "-token", "-port", "-proto", "-auth"})
_ENDS_OF_COMMAND = frozenset({"|", "||", "&&", ";", "&"})
_SENDING = frozenset({"send", "exp_send"})
_AFTER_SENDING = frozenset({"expect", "send", "exp_send", "spawn", "interact", "}", "exp_continue"})
_TAKES_PIPED = frozenset({"chpasswd", "--stdin", "--password-stdin", "--passphrase-fd", "-S"})
_COIN = re.compile(r"(?:[A-Z][A-Z0-9]{1,6}|kaspa|spectre|karlsen|nexa|pyrin|astrix|xel):")


def redacted(text: str) -> str:
    """Return ``text``, read as a command line split at blanks, with its secrets masked.

    A no-break space is a blank within an argument. Each word stays a word.
    """
    return _cache.redacted(text)


class _Cache:
    """Results worked out lately: the same few lines are shown at every tick."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: dict[str, str] = {}

    def redacted(self, text: str) -> str:
        known = self._known.get(text)
        if known is not None:
            return known
        result = _Line(text.encode("utf-8", "backslashreplace").decode()).masked()
        result = text if result == text else result
        size = sys.getsizeof(text) + (0 if result is text else sys.getsizeof(result))
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._known, self._bytes = {}, size
        self._known[text] = result
        return result


_cache = _Cache(_MAX_CACHED_BYTES)


class _Line:
    """A command line as words, each part of an argument, that are masked one after the other."""

    def __init__(self, text: str) -> None:
        pieces = _BLANKS.split(text)
        words, self._blanks = pieces[::2], [*pieces[1::2], ""]
        self._starts = [True, *(NO_BREAK_SPACE not in blank for blank in pieces[1::2])]
        self._ends = self._ends_of_arguments()
        # The quote that opens before an option, as in a script's ``mysql "-psecret"``.
        self._opening = [word[0] if _QUOTED_OPTION.match(word) else "" for word in words]
        self._words = [word[len(each) :] for word, each in zip(words, self._opening, strict=True)]
        self._out = list(self._words)
        self._closing = {quote: self._next_with(quote) for quote in QUOTES}
        self._all_words = frozenset(word.strip(_AROUND) for word in self._words)
        self._takes_piped = not self._all_words.isdisjoint(_TAKES_PIPED)
        self._has_token = next(tokens(" ".join(self._words)), None) is not None
        self._active: tuple[Secrets, ...] = ()
        self._counters: list[tuple[frozenset[int], list[int]]] = []

    def _ends_of_arguments(self) -> list[int]:
        """Return for each word where the next argument begins."""
        ends = [len(self._starts)] * len(self._starts)
        for index in range(len(ends) - 2, -1, -1):
            ends[index] = index + 1 if self._starts[index + 1] else ends[index + 1]
        return ends

    def masked(self) -> str:
        index = 0
        while index < len(self._words):
            index = max(self._step(index), index + 1)
        pieces = zip(self._opening, self._out, self._blanks, strict=True)
        return "".join(text for piece in pieces for text in piece)

    def _step(self, index: int) -> int:
        """Mask what stands at ``index``; return where to go on."""
        word = self._words[index]
        if word in _ENDS_OF_COMMAND:
            self._active, self._counters = (), []
            return index + 1
        self._activate_program(word)
        if _SLASH_OPTION.match(word):
            return self._mask_from(index, word.index(":") + 1)
        is_option = len(word) > 1 and word[0] == "-"
        after = self._mask_option(index) if is_option else self._mask_bare(index)
        return after or self._mask_within(index)

    # What the words before say.

    def _activate_program(self, word: str) -> None:
        name = word.rpartition("=")[2].strip(_AROUND).rpartition("/")[2].removesuffix(".exe")
        for secrets in BY_PROGRAM.get(name, ()):
            if secrets not in self._active and secrets.beside in ("", *self._all_words):
                self._active += (secrets,)

    def _mask_option(self, index: int) -> int:
        """Mask the value of an option that takes a secret; 0: it is none, or it holds its value."""
        word = self._words[index]
        for secrets in self._active:
            after = self._mask_known_option(index, secrets)
            if after:
                return after
        if word in _LOGINS and self._has_value(index + 1) and ":" in self._words[index + 1]:
            return self._mask_login(index + 1)
        option, is_assigned, value = word.partition("=")
        if is_assigned and option in _LOGINS and ":" in value:
            return self._mask_login(index, len(option) + 1)
        name = word.lstrip("-")
        is_name = len(name) > 1 and "=" not in name and ":" not in name and takes_value(name)
        if is_name and secrecy(name) is not Secrecy.NONE:
            return self._mask_value(index + 1, secrecy(name))
        if len(word) == 2 and self._has_value(index + 1) and _is_password(self._words[index + 1]):
            return self._mask_unit(index + 1)
        return 0

    def _mask_known_option(self, index: int, secrets: Secrets) -> int:
        word = self._words[index]
        if word in secrets.options:
            return self._mask_unit(index + 1)
        if word in secrets.logins:
            return self._mask_login(index + 1)
        name, is_assigned, _ = word.partition("=")
        if is_assigned and name in secrets.options:
            return self._mask_from(index, len(name) + 1)
        if is_assigned and name in secrets.logins and word[1] == "-":
            return self._mask_login(index, len(name) + 1)
        return self._mask_attached(index, secrets)

    def _mask_attached(self, index: int, secrets: Secrets) -> int:
        """Mask in ``-pSECRET``, ``-uUSER:SECRET``, ``-sSu USER:SECRET``."""
        word = self._words[index]
        attached = next((each for each in secrets.attached if word.startswith(each)), "")
        if attached and len(word) > len(attached):
            return self._mask_from(index, len(attached))
        if (
            word[1] == "-"
            or word in _LONG_OPTIONS
            or any(len(each) > 2 and each[1] != "-" for each in secrets.options)
        ):
            return 0
        first, last = word[:2], f"-{word[-1]}"
        if first in secrets.options:
            return self._mask_from(index, 2)
        if first in secrets.logins:
            return self._mask_login(index, 2)
        if _CLUSTER.fullmatch(word) and last in secrets.options:
            return self._mask_unit(index + 1)
        if _CLUSTER.fullmatch(word) and last in secrets.logins:
            return self._mask_login(index + 1)
        return 0

    def _mask_bare(self, index: int) -> int:
        """Mask a word that is a secret by its position, or what follows a name; 0: neither."""
        word = self._words[index].strip(_AROUND)
        if self._is_counted(word):
            return self._mask_unit(index)
        if word in _SENDING and any(word in each.words for each in self._active):
            return self._mask_until(index + 1, _AFTER_SENDING)
        if word == "<<<":
            return self._mask_unit(index + 1)
        if word in ("echo", "printf") and self._takes_piped:
            return self._mask_until(index + 1, _ENDS_OF_COMMAND)
        if any(word in each.words for each in self._active):
            return self._mask_unit(index + 1)
        if any(each.has_slash_login for each in self._active):
            user, slash, _ = word.partition("/")
            if slash and user:
                return self._mask_from(index, len(user) + 1, until="@")
        return self._mask_after_name(index)

    def _is_counted(self, word: str) -> bool:
        is_secret = False
        for wanted, count in self._counters:
            count[0] += 1
            is_secret = is_secret or count[0] in wanted
        name = word.rpartition("/")[2].partition(".")[0]
        for secrets in self._active:
            if name in secrets.positions:
                self._counters = [*self._counters[-_MAX_COUNTED:], (secrets.positions[name], [0])]
        return is_secret

    def _mask_after_name(self, index: int) -> int:
        """Mask in ``password hunter2``, ``secret_key X``, ``name = value``; 0: it is no name."""
        word = self._words[index].strip(QUOTES).removeprefix("+")  # game servers' options
        after = index + 1
        is_token = self._has_token and next(tokens(word), None) is not None
        if not self._has_value(after) or len(word) > MAX_NAME_CHARS or is_token:
            return 0
        if word.lower() in _SQL_NAMES:
            near = range(after, min(after + _MAX_SQL_WORDS, len(self._words)))
            by = next((each for each in near if self._words[each].lower() == "by"), after)
            return self._mask_value(by, Secrecy.SURE)
        if word.startswith("//"):  # npm's, of one registry
            word = word.rpartition(":")[2]
        is_assigned = self._words[after] in ("=", ":", ":=", "=>")
        is_bare_name = _VARIABLE.fullmatch(word) or word.lower().lstrip("_") in _BARE_NAMES
        is_name = is_assigned or is_bare_name or _COMPOUND.fullmatch(word)
        if not is_name or (index == 0 and not is_assigned) or word.startswith((".", "/", "~")):
            return 0
        found = secrecy(word)
        if found is Secrecy.NONE or (not is_assigned and is_plain(word) and "." in word):
            return 0
        return self._mask_value(after + is_assigned, found if is_assigned else Secrecy.DOUBTFUL)

    # What a word holds.

    def _mask_within(self, index: int) -> int:
        word = self._words[index]
        after = self._mask_key_block(index)
        if after:
            return after
        spans: list[tuple[int, int]] = [*tokens(word)] if self._has_token else []
        if "://" in word or "@" in word:
            spans += address_spans(word)
        if "value" in word:
            spans += paired_values(word)
        after = index + 1
        for start, end, found in named_values(word):
            value = word[start:].strip("\\" + QUOTES).lower()
            if value in SCHEMES or (not value and start < len(word) and word[-1] == "\\"):
                start = len(word)
            if start >= len(word):
                after = self._mask_value(after, found)
                break
            if end is None:
                self._out[index] = with_masks(word, spans)
                after = self._mask_from(index, start, keeping=self._out[index])
                return self._fill(after, self._ends[index]) if self._starts[index] else after
            spans.append((start, end))
        if not is_plain_path(word):
            spans += random_words(word)
        self._out[index] = with_masks(word, spans)
        return after

    def _mask_key_block(self, index: int) -> int:
        """Mask a PEM block, whose lines are words: to its end, or as far as it looks like one."""
        word = self._words[index]
        start = word.find("-----BEGIN")
        if start < 0:
            return 0
        end, self._out[index] = index + 1, word[:start] + MASK
        is_in_mark = "-----" not in word[start + 5 :]
        while end < len(self._words) and (is_in_mark or _in_key_block(self._words[end])):
            each = self._words[end]
            is_in_mark = (is_in_mark or "-----" in each) and not each.endswith("-----")
            self._out[end] = MASK
            end += 1
        return end

    # Masking.

    def _has_value(self, index: int) -> bool:
        return index < len(self._words)

    def _mask_value(self, index: int, found: Secrecy) -> int:
        """Mask the value of a name; go on past a scheme, and over a cookie's parts."""
        if not self._has_value(index):
            return index
        if self._words[index].strip("\\:=" + QUOTES).lower() in SCHEMES:
            return self._mask_value(index + 1, Secrecy.SURE)
        word = self._words[index]
        whole = self._ends[index] - index if self._starts[index] else 1
        if whole == 1 and (len(word) == 1 or _OPTION.fullmatch(word)):
            return index
        if found is Secrecy.DOUBTFUL and whole == 1 and is_plain(word.strip(QUOTES + ",;")):
            return index
        end = self._mask_unit(index)
        while self._words[end - 1].endswith(";") and end < len(self._words):
            if "=" not in self._words[end]:
                break
            end = self._mask_unit(end)
        return end

    def _mask_unit(self, index: int) -> int:
        """Mask a whole argument, or within one a word or what stands in quotes."""
        if not self._has_value(index):
            return index
        if self._starts[index] and self._ends[index] > index + 1:
            return self._fill(index, self._ends[index])
        return self._mask_from(index, 0)

    def _mask_login(self, index: int, start: int = 0) -> int:
        """Mask what follows the user; what a wallet or pool is called stays."""
        if not self._has_value(index):
            return index
        word = self._words[index]
        coin = _COIN.match(word, start)
        if coin is not None and is_wallet(word[coin.end() :]):
            start = coin.end()
        ends = (word.find(each, start) + 1 for each in _LOGIN_ENDS)
        end = next((each for each in ends if each > start), 0)
        if not 0 < end < len(word) or word.startswith("//", end) or _IDS.fullmatch(word[start:]):
            return self._mask_within(index)
        return self._mask_from(index, end)

    def _mask_from(self, index: int, start: int, *, until: str = "", keeping: str = "") -> int:
        """Mask a word's end from ``start`` on, and all that is in the quotes that open there."""
        word = self._words[index]
        before = keeping[: len(keeping) - len(word) + start] if keeping else word[:start]
        value = word[start:].lstrip("\\")
        quote = value[:1] if value[:1] in QUOTES and value[:1] else ""
        stop = word.find(until, start) if until else -1
        self._out[index] = before + MASK + (word[stop:] if stop >= 0 else "")
        if not quote or quote in value[1:]:
            return index + 1
        close = self._closing[quote][index + 1]
        return self._fill(index + 1, len(self._words) if close is None else close + 1)

    def _mask_until(self, index: int, ends: frozenset[str]) -> int:
        end = index
        while end < len(self._words) and self._words[end] not in ends:
            end += 1
            if self._words[end - 1].endswith(";"):
                break
        return self._fill(index, end)

    def _fill(self, start: int, end: int) -> int:
        self._out[start:end] = [MASK] * (end - start)
        return end

    def _next_with(self, quote: str) -> list[int | None]:
        """Return for each word the index of the first from there on that has ``quote`` in it."""
        following: list[int | None] = [None] * (len(self._words) + 1)
        for index in range(len(self._words) - 1, -1, -1):
            following[index] = index if quote in self._words[index] else following[index + 1]
        return following


def _in_key_block(word: str) -> bool:
    return len(word) >= 16 or "-----" in word


def _is_password(value: str) -> bool:
    """Return True for the value of an unknown short option that looks like a password."""
    if not 8 <= len(value) <= 64 or value[0] == "-" or is_plain(value) or is_wallet(value):
        return False
    if any(each in value for each in "/:.,="):
        return False
    kinds = (str.islower, str.isupper, str.isdigit, lambda each: not each.isalnum())
    return sum(any(kind(each) for each in value) for kind in kinds) >= 3
