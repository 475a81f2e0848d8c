"""First words of TCP connections in packets: logins of miners, names in TLS ClientHellos.

A packet may hold any bytes. All work is bounded by its length, and nothing of it is returned but
the words, the name and the connection's ends.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from minerwatch.node.socket_iterator import MAPPED

_METHOD = re.compile(
    rb'"method"\s{0,8}:\s{0,8}"'
    rb"(mining\.(?:subscribe|authorize|configure|hello|extranonce\.subscribe)"
    rb'|eth_(?:submitLogin|login)|login)"'
)
_LOGIN = re.compile(rb'"login"\s{0,8}:\s{0,8}"')
_BESIDE_LOGIN = re.compile(rb'"(?:pass|agent|rigid|algo)"\s{0,8}:')
"""CryptoNote's login has these; one without them may be of any service."""
_MAX_WORDS = 4
_NAME = re.compile(rb"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){1,32}")
_TCP, _SYN = 6, 2
_PORTS = struct.Struct("!2xHI")
_SERVER_NAME, _HOST_NAME = 0, 0  # RFC 6066
_CLIENT_HELLO = b"\x01"


@dataclass(frozen=True, slots=True)
class FirstWords:
    """First words of a client, and the server's end; NAT may change the client's."""

    remote: bytes  # address of the server; IPv4 as ::ffff:a.b.c.d
    remote_port: int
    initial_sequence: int  # of the client's SYN, if this is the first data of the connection
    words: tuple[str, ...] = ()  # methods of stratum
    server_name: str = ""


def first_words(packet: bytes) -> FirstWords | None:
    """Return what a packet, from its IP header on, says first; None: nothing of interest."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        is_later_fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
        protocol, remote = packet[9], MAPPED + packet[16:20]
        if header < 20 or is_later_fragment:
            return None
    elif version == 6 and len(packet) >= 40:
        header, total = 40, 40 + int.from_bytes(packet[4:6], "big")
        protocol, remote = packet[6], packet[24:40]
    else:
        return None
    # Its length is 0 if the device is still to cut it, and it has more than 64 KiB
    return _of_segment(packet[header : total if total > header else None], remote, protocol)


def _of_segment(segment: bytes, remote: bytes, protocol: int) -> FirstWords | None:
    if protocol != _TCP or len(segment) < 20:
        return None
    remote_port, sequence = _PORTS.unpack_from(segment)
    header = (segment[12] >> 4) * 4
    if header < 20:
        return None
    payload = segment[header:]
    words: tuple[str, ...] = ()
    name = ""
    if payload.startswith(b"{"):
        words = _methods(payload)
    elif payload.startswith(b"\x16\x03"):
        name = _server_name(payload)
    if not words and not name:
        return None
    before = 0 if segment[13] & _SYN else 1  # the SYN has a number of its own
    initial = (sequence - before) & 0xFFFFFFFF
    return FirstWords(remote, remote_port, initial, words, name)


def _methods(payload: bytes) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _METHOD.finditer(payload):
        word = match[1].decode()
        if word != "login" or (_LOGIN.search(payload) and _BESIDE_LOGIN.search(payload)):
            found[word] = None
        if len(found) >= _MAX_WORDS:
            break
    return tuple(found)


def _server_name(tls_record: bytes) -> str:
    """Return the name that a ClientHello asks for; empty: none, or it is cut off."""
    hello = tls_record[5:]
    if hello[:1] != _CLIENT_HELLO:
        return ""
    rest = hello[4 + 2 + 32 :]  # length, version, random
    for length_bytes in (1, 2, 1):  # session, ciphers, compression
        rest = _after(rest, length_bytes)
    at, end = 2, 2 + int.from_bytes(rest[:2], "big")
    while at + 4 <= min(end, len(rest)):
        kind, length = struct.unpack_from("!HH", rest, at)
        if kind == _SERVER_NAME:
            return _host_name(rest[at + 4 : at + 4 + length])
        at += 4 + length
    return ""


def _after(field: bytes, length_bytes: int) -> bytes:
    """Return what follows a field with its length before it."""
    return field[length_bytes + int.from_bytes(field[:length_bytes], "big") :]


def _host_name(names: bytes) -> str:
    if len(names) < 5 or names[2] != _HOST_NAME:
        return ""
    length = int.from_bytes(names[3:5], "big")
    name = names[5 : 5 + length].lower().removesuffix(b".")
    is_whole = len(names) >= 5 + length and len(name) <= 253
    return name.decode() if is_whole and _NAME.fullmatch(name) else ""
