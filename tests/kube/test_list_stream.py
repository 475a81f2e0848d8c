from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.kube import list_stream
from minerwatch.kube.list_stream import ListError, ListReader

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\\\{}[],:é\n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('i"}]'), inner, max_size=3),
    max_leaves=8,
)
items = st.lists(st.dictionaries(st.text('ab"\\\\{'), values, max_size=4), max_size=5)
heads = st.dictionaries(st.sampled_from(["kind", "items[", "}"]), st.text('x{["]'), max_size=3)


def read(body: bytes, piece_bytes: int = 1 << 16) -> tuple[list[Any], Any]:
    pieces = (body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes))
    reader = ListReader(pieces)
    found = [json.loads(item) for item in reader.items()]
    return found, json.loads(reader.metadata)


@given(heads, items, st.dictionaries(st.text(max_size=3), values, max_size=3), st.integers(1, 40))
def test_it_reads_what_a_json_parser_reads(
    head: dict[str, str], listed: list[Any], metadata: dict[str, Any], piece_bytes: int
) -> None:
    for document in (
        {**head, "metadata": metadata, "items": listed},
        {"items": listed, **head, "metadata": metadata},
    ):
        for style in ({"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}):
            body = json.dumps(document, **style).encode()
            assert read(body, piece_bytes) == (listed, metadata)


@pytest.mark.parametrize("body", [b"{}", b'{"items":null}', b'{"metadata":{},"items":[]}'])
def test_a_list_of_nothing(body: bytes) -> None:
    assert read(body) == ([], {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"]",
        b"}",
        b'{"items":[{',
        b'{"items":[{}',
        b'{"items":[}',
        b'{"a',
        b"{]",
    ],
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ListError):
        read(body)


@given(st.binary(max_size=200), st.integers(1, 40))
def test_whatever_comes_it_ends(body: bytes, piece_bytes: int) -> None:
    reader = ListReader(
        iter([body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)])
    )
    try:
        for _ in reader.items():
            pass
    except ListError:
        pass


def test_an_item_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_stream, "MAX_ITEM_BYTES", 1 << 20)
    taken = 0

    def endless() -> Any:
        nonlocal taken
        yield b'{"items":[{"a":"'
        while True:
            taken += 1
            yield b"x" * 65536

    with pytest.raises(ListError, match="longer than 1 MiB"):
        list(ListReader(endless()).items())
    assert taken <= 40
