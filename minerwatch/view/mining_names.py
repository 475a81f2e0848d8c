"""Wallets and pools in text: command lines, evidence.

RE2 takes time in proportion to the text, whatever the text; its expressions take 5 ms to compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import re2

_MAX_VALUE_LENGTH = 253
_NOWHERE = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104 - compared only
_BASE58 = "[1-9A-HJ-NP-Za-km-z]"
_BECH32 = "[02-9ac-hj-np-z]"
_WALLET = re2.compile(
    r"(?:^|[^\w])("
    rf"4{_BASE58}{{105}}|[48]{_BASE58}{{94}}"  # Monero; the longer one has a payment's id in it
    rf"|ZEPH{_BASE58}{{90,110}}"
    rf"|(?:bc1|ltc1)[qp]{_BECH32}{{38,58}}"
    rf"|(?:kaspa|spectre|karlsen|nexa|pyrin|astrix):[qp]{_BECH32}{{55,64}}"
    rf"|dero1{_BECH32}{{55,70}}|xel:{_BECH32}{{55,65}}"
    r"|0x[0-9a-fA-F]{40}"
    r")(?:[^\w]|$)"
)
_LOGIN_WALLET = re2.compile(  # too short to be recognised anywhere else
    r"(?:^|\s)(?:-u|-O|-w|-wal|-wallet|-ewal|-user|--user|--userpass|--username|--wallet"
    r"|--wallet-address|--proxywallet)(?:=|\s+)['\"]?(?:[A-Z][A-Z0-9]{1,6}:)?("
    rf"[13]{_BASE58}{{25,33}}|t[13]{_BASE58}{{33}}|[RTDLMX]{_BASE58}{{32,33}}|9{_BASE58}{{50}}"
    r")(?:[^\w]|$)"
)
_POOL_URL = re2.compile(
    r"(?i)\b(?:stratum[12]?|ethproxy|ethstratum|nicehash|daemon)(?:\+[\w+]{1,20})?://"
    r"(?:[^\s/@]{1,256}@)?([\w.-]{1,253}|\[[0-9a-f:.]{2,45}\])"
)
_POOL_OPTION = re2.compile(
    r"(?:^|\s)(?:-o|--url|--pool|-pool|--pool1|-epool|--server|--daemon-address)(?:=|\s+)['\"]?"
    r"(?:[a-zA-Z][\w+]{1,30}://)?(?:[^\s/@]{1,256}@)?([\w.-]{1,253}):[0-9]{2,5}\b"
)


def wallets(text: str) -> Iterator[str]:
    """Yield the addresses of coins, those of Ethereum in lower case."""
    for match in chain(_WALLET.finditer(text), _LOGIN_WALLET.finditer(text)):
        yield match[1].lower() if match[1].startswith("0x") else match[1]


def pools(text: str) -> Iterator[str]:
    """Yield the hosts of pools: of addresses with a mining protocol, or after an option."""
    for match in chain(_POOL_URL.finditer(text), _POOL_OPTION.finditer(text)):
        yield from host(match[1])


def host(text: str) -> Iterator[str]:
    """Yield the host in its usual form, unless it is this machine."""
    name = text.strip("[].").lower()[:_MAX_VALUE_LENGTH]
    if name and name not in _NOWHERE:
        yield name
