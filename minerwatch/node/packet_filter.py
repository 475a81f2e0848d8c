"""A classic BPF program that passes the first words of a miner, and TLS ClientHellos.

The kernel runs it on each packet, from the network header on (Documentation/networking/filter.rst).
A load beyond the packet ends it, and drops the packet. It has no loop: the words are looked for at
each of the first offsets of a JSON text.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence

SNAP_BYTES = 4096
"""Passed of a packet: a ClientHello with a key of post-quantum exchange has some 1,800."""
SEARCHED_BYTES = 128
WORDS = (b"mini", b'"log', b"eth_")
"""The first four bytes of each of the words that packet_parser looks for."""

Step = tuple[int, int, int, int]
"""struct sock_filter: operation, steps to skip if true, if false, operand."""

_STEP = struct.Struct("=HBBI")
_LD, _LD_H, _LD_B = 0x20, 0x28, 0x30  # at a fixed offset
_IND, _IND_H, _IND_B = 0x40, 0x48, 0x50  # so far after X
_LDX_IMM, _LDX_IPV4_HEADER = 0x01, 0xB1
_AND, _RSH, _ADD, _ADD_X = 0x54, 0x74, 0x04, 0x0C
_JA, _JEQ, _JSET, _RET, _RET_A, _TAX, _TXA = 0x05, 0x15, 0x45, 0x06, 0x16, 0x07, 0x87
_ANCILLARY = 0xFFFFF000  # SKF_AD_OFF (include/uapi/linux/filter.h)
_PROTOCOL, _PACKET_TYPE, _INTERFACE, _HARDWARE = (_ANCILLARY + each for each in (0, 4, 8, 28))
_LOOPBACK, _OUTGOING = 772, 4  # include/uapi/linux/if_arp.h, if_packet.h
_VLAN, _VLAN_OF_PROVIDER = 0x8100, 0x88A8
_TCP, _HANDSHAKE, _CLIENT_HELLO = 6, 0x1603, 1
_DROP: Step = (_RET, 0, 0, 0)


def first_words_filter() -> tuple[Step, ...]:
    """Return the program."""
    payload = tuple(_payload())
    tagged = tuple(_to_tcp(4, skip_after=0))
    plain = tuple(_to_tcp(0, skip_after=len(tagged)))
    return (
        (_LD, 0, 0, _PROTOCOL),
        (_JEQ, 2, 0, _VLAN),
        (_JEQ, 1, 0, _VLAN_OF_PROVIDER),
        (_JA, 0, 0, 1),
        (_JA, 0, 0, len(plain)),
        *plain,
        *tagged,
        *payload,
    )


def by_interface() -> tuple[Step, ...]:
    """Return the program that picks the socket of a group by the packet's interface."""
    return (_LD, 0, 0, _INTERFACE), (_RET_A, 0, 0, 0)


def attached(steps: Sequence[Step]) -> tuple[bytes, ctypes.Array[ctypes.c_char]]:
    """Return ``struct sock_fprog``, and the buffer that it points to; keep both until it is set."""
    program = ctypes.create_string_buffer(b"".join(_STEP.pack(*step) for step in steps))
    return struct.pack("HP", len(steps), ctypes.addressof(program)), program


def _to_tcp(at: int, *, skip_after: int) -> Iterator[Step]:
    """Drop all but TCP with its beginning; leave in X where the payload begins.

    ``at``: offset of the IP header; ``skip_after``: steps to skip behind these.
    """
    ipv6 = (
        *_must_equal((_AND, 0, 0, 0xF0), 0x60),
        *_must_equal((_LD_B, 0, 0, at + 6), _TCP),
        (_LDX_IMM, 0, 0, at + 40),
    )
    ipv4 = (
        *_must_equal((_LD_B, 0, 0, at + 9), _TCP),
        (_LD_H, 0, 0, at + 6),
        (_JSET, 0, 1, 0x1FFF),  # a later fragment
        _DROP,
        (_LDX_IPV4_HEADER, 0, 0, at),
        (_TXA, 0, 0, 0),
        (_ADD, 0, 0, at),
        (_TAX, 0, 0, 0),
        (_JA, 0, 0, len(ipv6)),
    )
    yield from ((_LD_B, 0, 0, at), (_AND, 0, 0, 0xF0), (_JEQ, 0, len(ipv4), 0x40))
    yield from ipv4
    yield from ipv6
    yield from (
        (_IND_B, 0, 0, 12),
        (_RSH, 0, 0, 2),
        (_AND, 0, 0, 0x3C),
        (_ADD_X, 0, 0, 0),
        (_TAX, 0, 0, 0),
        (_JA, 0, 0, skip_after),
    )


def _payload() -> Iterator[Step]:
    """Pass a ClientHello, or JSON with one of the words; X is where the payload begins."""
    accept = (
        (_LD, 0, 0, _HARDWARE),
        (_JEQ, 0, 2, _LOOPBACK),  # what it sends comes in again
        (_LD, 0, 0, _PACKET_TYPE),
        (_JEQ, 0, 1, _OUTGOING),
        (_RET, 0, 0, SNAP_BYTES),
        _DROP,
    )
    one_word = 2 + len(WORDS)
    json = (
        *_must_equal((_IND_B, 0, 0, 0), ord("{")),
        *(
            step
            for offset in range(1, SEARCHED_BYTES)
            for step in _is_word_at(offset, one_word * (SEARCHED_BYTES - 1 - offset) + 1)
        ),
        _DROP,
    )
    yield from (
        (_IND_H, 0, 0, 0),
        (_JEQ, 0, 4, _HANDSHAKE),
        *_must_equal((_IND_B, 0, 0, 5), _CLIENT_HELLO),
        (_JA, 0, 0, len(json)),
    )
    yield from json
    yield from accept


def _is_word_at(offset: int, to_accept: int) -> Iterator[Step]:
    yield _IND, 0, 0, offset
    for number, word in enumerate(WORDS, start=1):
        is_last = number == len(WORDS)
        yield _JEQ, len(WORDS) - number, int(is_last), int.from_bytes(word, "big")
    yield _JA, 0, 0, to_accept


def _must_equal(load: Step, value: int) -> tuple[Step, ...]:
    return load, (_JEQ, 1, 0, value), _DROP
