from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minerwatch.api.snapshot import decode, decode_agent, decode_report, encode, encode_agent
from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.errors import SnapshotError
from tests.report.samples import NODE, containers


@pytest.mark.parametrize("printed", [b"{}", b"{", b'{"containers": 1}', b"", b"null", b"\xff"])
def test_what_is_no_report_is_an_error(printed: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_report(printed)


def test_an_agent_says_what_it_is() -> None:
    said = AgentStatus("node-7", "1.2.3", rules={"stable": 3}, culling="off", blind_spots=("x",))
    assert decode_agent(encode_agent(said)) == said
    assert decode_agent(b'{"node": "n", "version": "9", "mood": 1}') == AgentStatus("n", "9")
    with pytest.raises(SnapshotError):
        decode_agent(b"[]")


@given(st.lists(containers, max_size=4))
def test_what_is_encoded_is_read_back(statuses: list[ContainerStatus]) -> None:
    encoded = encode(statuses)
    assert decode(encoded) == tuple(statuses)
    assert len(json.loads(encoded)) == len(statuses)


def test_keys_that_are_not_known_are_passed_over() -> None:
    read = json.loads(encode(NODE))
    for each in (*read, *read[0]["findings"], *read[0]["processes"]):
        each["from_a_later_version"] = {"deep": [1, None, {"er": 2.5}]}
    assert decode(json.dumps(read).encode()) == NODE


@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers(), st.lists).map(json.dumps)))
@example(b"")
@example(b"{}")
@example(b'[{"node": 1}]')
@example(b'["\xff"]')
@example(b'[{"\xed\xa0\x80": 1}]')
def test_garbage_is_no_snapshot(garbage: bytes | str) -> None:
    data = garbage.encode() if isinstance(garbage, str) else garbage
    if data.strip() != b"[]":
        with pytest.raises(SnapshotError, match=r"^[^\n]*$"):
            decode(data)


@pytest.mark.parametrize(
    ("decoder", "data"),
    [
        (decode, b'[{"pod": "\x81"}]'),
        (decode_agent, b'{"node": "\x81"}'),
        (decode_report, b'{"agent": null, "containers": [{"pod": "\x81"}]}'),
    ],
)
def test_half_a_character_is_no_snapshot(decoder: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(SnapshotError, match=r"(?i)utf-8"):
        decoder(data)


@pytest.mark.parametrize("opening", [b"[", b'[{"x": '])
def test_depth_without_end_is_no_snapshot(opening: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode(opening * 100_000)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(SnapshotError, match="node"):
        decode(b"[{}]")
