from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ProcessId, ProcessStat
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S, parse_stat
from tests.node.recorded_proc import stat_line


@given(st.binary(max_size=400))
def test_no_stat_line_crashes(line: bytes) -> None:
    reading = parse_stat(1, line)
    assert reading is None or reading.comm.encode() is not None


@given(
    st.binary(max_size=64),
    st.lists(st.one_of(st.integers(), st.binary(max_size=5)), min_size=44, max_size=52),
)
def test_no_stat_fields_crash(comm: bytes, fields: list[int | bytes]) -> None:
    shown = [str(field).encode() if isinstance(field, int) else field for field in fields]
    reading = parse_stat(1, b"1 (" + comm + b") " + b" ".join(shown))
    assert reading is None or reading.comm.encode() is not None


def test_numbers_too_large_to_be_true_are_malformed() -> None:
    line = stat_line(1).replace(b" 0 ", b" " + b"9" * 400 + b" ")
    assert parse_stat(1, line) is None


@given(
    comm=st.binary(max_size=64),
    start=st.integers(0, 2**64),
    ticks=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
    program=st.tuples(*[st.integers(0, 2**64)] * 3),
    threads=st.integers(0, 2**22),
    kernel_thread=st.booleans(),
)
def test_stat_round_trip(
    comm: bytes,
    start: int,
    ticks: tuple[int, int],
    program: tuple[int, int, int],
    threads: int,
    kernel_thread: bool,
) -> None:
    fields = ["S", *["0"] * 49]
    fields[1] = "42"
    fields[6] = str(0x00200000 * kernel_thread | 0x400000)
    fields[11:13] = map(str, ticks)
    fields[17], fields[19] = str(threads), str(start)
    fields[23], fields[25], fields[45] = map(str, program)
    line = b"7 (" + comm + b") " + " ".join(fields).encode() + b"\n"
    shown = comm.decode("utf-8", "backslashreplace")
    cpu_s = sum(ticks) / CLOCK_TICKS_PER_S
    assert parse_stat(7, line) == ProcessStat(
        ProcessId(7, start),
        42,
        shown,
        cpu_s,
        threads,
        kernel_thread,
        hash(program),
    )
