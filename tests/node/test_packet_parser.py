"""What is read of a packet, and that no bytes stop it."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bridge import client_hello
from minerwatch.node.packet_parser import FirstWords, first_words

LOGIN = (
    b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"' + b"4" * 95 + b'",'
    b'"pass":"x","agent":"made/1.0","algo":["rx/0"]}}\n'
)
SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["made/1.0"]}\n'
SYN = 2


def hello(name: str) -> bytes:
    return client_hello(name)


def packet(
    payload: bytes,
    *,
    version: int = 4,
    sequence: int = 1001,
    source: str = "10.0.0.1",
    destination: str = "203.0.113.7",
    ports: tuple[int, int] = (40_000, 443),
    flags: int = 0x18,
    options: bytes = b"",
) -> bytes:
    """A packet from its IP header on, without checksums."""
    header = 5 + len(options) // 4
    tcp = struct.pack("!HHIIBBHHH", *ports, sequence, 7, header << 4, flags, 1024, 0, 0)
    rest = tcp + options + payload
    if version == 6:
        ends = b"\xfd" + b"\0" * 15, b"\xfd" + b"\0" * 14 + b"\7"
        return struct.pack("!IHBB", 6 << 28, len(rest), 6, 64) + b"".join(ends) + rest
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), 1, 0, 64, 6, 0) + b"".join(ends) + rest


def words_of(payload: bytes) -> tuple[str, ...]:
    found = first_words(packet(payload))
    return found.words if found is not None else ()


def test_the_ends_are_those_of_the_connection() -> None:
    remote = b"\0" * 10 + b"\xff\xff" + socket.inet_aton("203.0.113.7")
    assert first_words(packet(LOGIN)) == FirstWords(remote, 443, 1000, ("login",))
    found = first_words(packet(LOGIN, version=6, sequence=0))
    assert found == FirstWords(b"\xfd" + b"\0" * 14 + b"\7", 443, 0xFFFFFFFF, ("login",))


def test_data_in_a_syn_has_the_number_after_it() -> None:
    found = first_words(packet(LOGIN, flags=SYN, options=b"\1" * 12))
    assert found is not None
    assert found.initial_sequence == 1001


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (LOGIN, ("login",)),
        (SUBSCRIBE, ("mining.subscribe",)),
        (
            SUBSCRIBE + b'{"id":2,"method":"mining.authorize","params":["a.b","x"]}\n',
            ("mining.subscribe", "mining.authorize"),
        ),
        (b'{"method":"mining.configure","id":1}', ("mining.configure",)),
        (b'{"id":0,"method":"mining.hello","params":{}}', ("mining.hello",)),
        (b'{"worker":"a","method":"eth_submitLogin","id":2}', ("eth_submitLogin",)),
        # Another service's login
        (b'{"method":"login","user":"alice","pass":"x"}', ()),
        (b'{"method":"login","params":{"login":"alice"}}', ()),
        # Words that are data
        (b'{"log":"{\\"method\\": \\"mining.subscribe\\"}"}', ()),
        (b'{"message":"mining.subscribe"}', ()),
        # Sent by pools
        (b'{"id":null,"method":"mining.notify","params":[]}', ()),
        (b'GET / HTTP/1.1\r\n\r\n{"method":"mining.subscribe"}', ()),
        (b"", ()),
    ],
)
def test_methods_of_stratum(payload: bytes, words: tuple[str, ...]) -> None:
    assert words_of(payload) == words


@pytest.mark.parametrize("name", ["pool.example.org", "a-b.pool_1.example", "XMR.Example.ORG"])
def test_the_name_in_a_client_hello(name: str) -> None:
    found = first_words(packet(hello(name)))
    assert found is not None
    assert (found.server_name, found.words) == (name.lower(), ())


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!HH", kind, len(content)) + content


def hello_with(*extensions: bytes) -> bytes:
    listed = b"".join(extensions)
    body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += len(listed).to_bytes(2, "big") + listed
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(handshake).to_bytes(2, "big") + handshake


def asked(name: bytes, kind: int = 0) -> bytes:
    entry = bytes([kind]) + len(name).to_bytes(2, "big") + name
    return extension(0, len(entry).to_bytes(2, "big") + entry)


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (hello_with(extension(51, b"k" * 1216), asked(b"pool.example.org")), "pool.example.org"),
        (hello_with(asked(b"pool.example.org.")), "pool.example.org"),
        (hello_with(asked(b"pool.example.org"))[:-1], ""),  # cut off
        (hello_with(asked(b"pool.example.org", kind=1)), ""),
        (hello_with(asked(b"pool\n.example.org")), ""),
        (hello_with(asked("pööl.example.org".encode())), ""),
        (hello_with(asked(b"a" * 300)), ""),
        (hello_with(), ""),
        (b"\x16\3\1\0\0", ""),
        (b"\x16\3\1\0\4\2\0\0\0", ""),
    ],
)
def test_only_whole_names_count(payload: bytes, name: str) -> None:
    found = first_words(packet(payload))
    assert (found.server_name if found else "") == name


def test_what_is_no_beginning_of_tcp_says_nothing() -> None:
    whole = packet(LOGIN)
    assert first_words(whole[:9] + b"\x11" + whole[10:]) is None  # UDP
    assert first_words(whole[:6] + b"\0\1" + whole[8:]) is None  # a later fragment
    assert first_words(b"\x41" + whole[1:]) is None  # a header of four bytes
    assert first_words(whole[:32] + b"\x10" + whole[33:]) is None
    assert first_words(b"\x75" + whole[1:]) is None
    assert first_words(b"") is None


def test_what_pads_a_frame_is_no_payload() -> None:
    short = packet(b"")
    assert first_words(short + LOGIN) is None
    assert first_words(short[:2] + b"\0\0" + short[4:] + LOGIN) is not None  # to be cut


@given(st.data())
def test_no_bytes_stop_it(data: st.DataObject) -> None:
    whole = bytearray(packet(data.draw(st.sampled_from([LOGIN, hello("pool.example.org")]))))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = first_words(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    if found is not None:
        assert len(found.remote) == 16
        assert found.server_name.isascii()
        assert len(found.server_name) <= 253
        assert len(found.words) <= 4


@given(st.binary(max_size=400))
def test_no_noise_says_anything_but_itself(noise: bytes) -> None:
    for each in (noise, packet(noise), packet(b"\x16\3\1" + noise), packet(b"{" + noise)):
        found = first_words(each)
        assert found is None or found.server_name.encode() in noise.lower()
