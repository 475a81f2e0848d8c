"""Secrets that show by their shape, whatever stands before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import re2

_WITH_DIGIT = (
    r"sk-[\w-]{16,}",  # OpenAI and services with its API
    r"[sbr]\.[A-Za-z0-9]{24}",  # Vault before 1.10
    r"[a-z0-9]{6}\.[a-z0-9]{16}",  # kubeadm
    r"(?:sk|pk|rk|whsec|secret|pat|tkn|key|api)_[A-Za-z0-9_]{20,}",
    r"[a-zA-Z]{2,12}_(?:live|test|prod|secret|pat|oat|tkn|token|key|api|sk)_[A-Za-z0-9_]{12,}",
    r"(?:key|pul|api|ico|p8e|nvapi|gsk|xai|pplx|tvly|fc|NRAK|NRJS|NRRA|NRII|PMAK|HRKU|API)-[\w-]{20,}",
)
_ALWAYS = (
    # forges and registries
    r"gh[pousr]_\w{16,}|github_pat_\w{20,}",
    r"gl(?:pat|ptt|rt|dt|cbt|ft|imt|agent|oas|soat|ffct|rtr|wt)-[\w.-]{16,}|GR1348941[\w-]{16,}",
    r"npm_[A-Za-z0-9]{30,}|pypi-A[\w-]{16,}|rubygems_[0-9a-f]{20,}|oy2[a-z0-9]{40,}|CLOJARS_\w{20,}",
    r"dckr_[a-z]{3}_[\w-]{16,}|AKCp[A-Za-z0-9]{40,}|cmVmd[A-Za-z0-9]{40,}|cio[A-Za-z0-9]{32}",
    r"AT(?:ATT|BB|CTT)[\w=-]{20,}|bkua_\w{20,}|CCIPAT_\w{16,}",
    # chat, mail, payment, shops
    r"xox[a-z](?:\.xox[a-z])?-[\w-]{8,}|xapp-[\w-]{8,}|xwfp-[\w-]{8,}|mfa\.[\w-]{20,}",
    r"[A-Za-z0-9]{23,28}\.[\w-]{6}\.[\w-]{27,}|(?:bot)?\d{6,12}:[\w-]{30,}",
    r"SG\.[\w-]{10,}\.[\w-]{10,}|xkeysib-[\w-]{16,}|[0-9a-f]{32}-us\d{1,2}|whsec_[\w+/=]{16,}",
    r"(?:sk|rk|pk)_(?:live|test|prod)_\w{8,}|sq0[a-z]{3}-[\w-]{16,}|EAAA[\w-]{40,}|EAA[A-Za-z0-9]{60,}",
    r"shp(?:at|ca|pa|ss|tka)_[0-9a-fA-F]{20,}|EZ[AT]K[A-Za-z0-9]{20,}|FLWSECK[\w-]{16,}",
    # clouds
    r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA|AGPA|AROA|AIPA|ANPA|ANVA)[A-Z0-9]{12,}",
    r"AIza[\w-]{30,}|ya29\.[\w.-]{10,}|GOCSPX-[\w-]{16,}|1//0[\w-]{20,}",
    r"LTAI[A-Za-z0-9]{12,22}|AKID[A-Za-z0-9]{13,40}|AQVN[\w-]{30,}|[\w~.]{3}\dQ~[\w~.-]{30,}",
    r"do[opr]_v1_[a-f0-9]{32,}|dapi[0-9a-f]{32}|sha256~[\w-]{20,}|v1\.0-[a-f0-9]{24}-[a-f0-9]{60,}",
    r"K10[0-9a-f]{20,}::\w+:\S+|fo1_[\w-]{16,}|fm\d+[a-z]?_[\w+/=-]{20,}|nfp_\w{20,}|rnd_\w{20,}",
    # vaults, monitoring, tools
    r"hv[sbr]\.[\w-]{16,}|\w{14}\.atlasv1\.[\w-]{20,}|dp\.[a-z]{2,5}\.[\w.-]{16,}|tskey-[\w-]{10,}",
    r"glc_[\w+/=-]{20,}|glsa_[\w-]{20,}|sntry[a-z]_[\w+/=-]{20,}|dt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64}",
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gsk_\w{20,}|r8_[A-Za-z0-9]{20,}|sbp_[0-9a-f]{20,}|sb_secret_[\w-]{16,}",
    r"figd_[\w-]{20,}|lin_api_\w{20,}|ntn_\w{20,}|pscale_[a-z]+_[\w.=-]{16,}|sgp_\w{20,}|pnu_\w{20,}",
    r"pat[A-Za-z0-9]{14}\.[0-9a-f]{40,}|lsv2_[a-z]{2}_\w{20,}|ph[cx]_\w{20,}|CfDJ8[\w-]{40,}",
    r"ops_eyJ[\w+/=]{20,}|A3-[A-Z0-9]{6}-[A-Z0-9-]{20,}",
    # keys and tokens of many
    r"AGE-[A-Z0-9-]*1[A-Z0-9]{16,}|eyJ[\w+/=-]{8,}(?:\.[\w+/=-]*)*",
    r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw480]=",
)  # fmt: skip
_HASH = r"\$(?:[1-9]|2[abxy]?|y|gy|P|H|apr1|argon2\w{0,2}|scrypt|pbkdf2[\w-]{0,10})\$[^\s\"':]{8,}"


_MAX_REGEX_BYTES = 2 << 20


def bounded_regex(pattern: str) -> re2._Regexp:
    """Compile an expression that keeps little memory, whatever text it searches.

    RE2 keeps the states that a text led it to, 8 MiB by default. A text made for it leads to a new
    one at each character. Where there is no room for them it searches without.
    """
    options = re2.Options()
    options.max_mem = _MAX_REGEX_BYTES
    options.log_errors = False
    return re2.compile(pattern, options)


_TOKEN = bounded_regex(
    rf"(?:^|[^\w.-]|[=:/@,])(?:({'|'.join(_ALWAYS)})|({'|'.join(_WITH_DIGIT)})|({_HASH}))"
)
_DIGEST = re.compile(r"(?:sha\d{1,3}|md5)[:_-]", re.IGNORECASE)

_CHUNK = re.compile(r"[A-Za-z0-9]{10,}")
_EDGES = " \t\n\r\u00a0:/,;&?=#@'\"()<>{}[]|`"
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{25,}")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]+")
_WALLET = re.compile(r"0x[0-9a-fA-F]{40}|[1-9A-HJ-NP-Za-km-z]{25,}|[a-z0-9]{38,}|[A-Z2-7]{56}")
_WALLET_ENDS = re.compile(r"[.:#/+@]")
_TON = re.compile(r"[EUk0]Q[\w-]{46}", re.ASCII)
_MIN_CHANGES = 0.5


def is_wallet(word: str) -> bool:
    """Return True for what may be a wallet's address, a worker's name after it or not."""
    return _WALLET.fullmatch(_WALLET_ENDS.split(word, maxsplit=1)[0]) is not None


def tokens(text: str) -> Iterator[tuple[int, int]]:
    """Yield where in ``text`` something stands that has the form of a service's token."""
    for match in _TOKEN.finditer(text):
        group = next(number for number in (1, 2, 3) if match[number])
        if group == 2 and not any(character.isdigit() for character in match[2]):
            continue
        if not _is_digest(text, match.start(group)):
            yield match.span(group)


def random_words(text: str) -> Iterator[tuple[int, int]]:
    """Yield where in ``text`` a word stands that looks drawn by chance, and is no wallet or digest.

    Letters of both cases and digits in no order: what a generator of passwords makes.
    """
    end = 0
    for match in _CHUNK.finditer(text):
        if match.start() < end or not _looks_random(match[0]):
            continue
        start, end = _extended(text, match.start(), match.end())
        word = text[start:end]
        if not (_TON.fullmatch(word) or _is_digest(text, start)):
            yield start, end


def _looks_random(word: str) -> bool:
    if _HEX.fullmatch(word) or _BASE58.fullmatch(word):
        return False
    kinds = [_kind(character) for character in word[:128]]
    if len(set(kinds)) < 3:
        return False
    changes = sum(one != other for one, other in pairwise(kinds))
    numbers = sum(one != 2 and other == 2 for one, other in pairwise([0, *kinds]))
    return numbers >= 2 and changes >= _MIN_CHANGES * len(kinds)


def _kind(character: str) -> int:
    if character.isdigit():
        return 2
    return 1 if character.isupper() else 0


def _extended(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen to what stands between two delimiters: a password's other characters."""
    while start and text[start - 1] not in _EDGES:
        start -= 1
    while end < len(text) and text[end] not in _EDGES:
        end += 1
    return start, end


def _is_digest(text: str, start: int) -> bool:
    """Return True where the name of a digest's function stands before or at ``start``."""
    return _DIGEST.search(text[max(0, start - 12) : start + 12]) is not None
