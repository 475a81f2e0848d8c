"""The ring that a BPF program writes to; its records are in test_executed_code.py."""

from __future__ import annotations

import errno
import mmap

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.node.bpf_ring import BpfRing, finished


def opened() -> BpfRing:
    return BpfRing("executed_code", 152, 100, needs="Linux 5.8", what="copier")


@pytest.mark.parametrize(
    ("states", "number"),
    [(b"", 0), (b"\0\0\0", 3), (b"\x80\0\0", 0), (b"\0\0\x80\0", 2), (b"\0\x80", 1)],
)
def test_a_record_that_is_being_written_ends_what_is_read(states: bytes, number: int) -> None:
    assert finished(states) == number


def test_a_ring_that_cannot_be_mapped_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        opened().close()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host, with libbpf1: {error}")
    real, left = mmap.mmap, [1]

    def second_is_refused(*arguments: int, **options: int) -> mmap.mmap:
        if not left:
            raise OSError(errno.ENOMEM, "out of memory")
        left.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(mmap, "mmap", second_is_refused)
    with pytest.raises(SourceUnavailableError, match="copier's ring: out of memory"):
        opened()


def test_an_empty_ring_has_lost_nothing_and_can_be_closed_twice() -> None:
    try:
        ring = opened()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host, with libbpf1: {error}")
    assert (ring.take(), ring.lost()) == (b"", 0)
    ring.close()
    ring.close()
