from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.api.types import ProcessStatus
from minerwatch.cli.top_screen.process_tree import process_lines
from minerwatch.untrusted_text.display import printable
from tests.report.samples import HOSTILE_ONE, MINER, container, process, processes


def lines(*listed: ProcessStatus) -> list[str]:
    return [head + command for head, command in process_lines(container(processes=listed))]


def child(pid: int, parent: int, command: str = "sh") -> ProcessStatus:
    return process(
        pid=pid, parent_pid=parent, comm=command, command_line=command, image=command, cpu_cores=0.5
    )


def test_children_stand_below_their_parents() -> None:
    shown = lines(
        child(30, 20, "miner"), child(10, 1, "init"), child(20, 10, "sh"), child(40, 10, "cron")
    )
    assert shown == [
        "         10   0.50  jovyan      init",
        "         20   0.50  jovyan      ├─ sh",
        "         30   0.50  jovyan      │  └─ miner",
        "         40   0.50  jovyan      └─ cron",
    ]


def test_what_was_found_is_marked_and_names_that_differ_are_told() -> None:
    shown = [head + command for head, command in process_lines(MINER)]
    assert shown[0].startswith("       4700   1.98  jovyan      tini -g -- start.sh")
    assert shown[1].startswith("  *    4711   1.98  jovyan      ├─ ./a --donate-level 1")
    assert shown[1].endswith("(executable /tmp/.x/a)")
    assert shown[2].endswith("└─ (hidden or empty)  (named python3, executable /usr/bin/python3)")
    assert "      -  " in shown[2]


def test_whoever_is_his_own_grandparent_is_shown_once() -> None:
    shown = lines(child(1, 2), child(2, 3), child(3, 1), child(4, 4))
    assert len(shown) == 4


def test_a_ladder_of_processes_does_not_leave_the_screen() -> None:
    shown = lines(*(child(pid, pid - 1) for pid in range(2, 500)))
    assert len(shown) == 498
    assert max(map(len, shown)) < 120


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(processes, st.integers(0, 9), st.integers(0, 9)),
        max_size=9,
        unique_by=lambda each: each[1],
    )
)
def test_every_process_is_one_line_whoever_it_says_is_its_parent(
    listed: list[tuple[ProcessStatus, int, int]],
) -> None:
    some = [replace(each, pid=pid, parent_pid=parent) for each, pid, parent in listed]
    shown = lines(*some)
    assert sorted(int(line[4:11]) for line in shown) == sorted(each.pid for each in some)
    assert all(printable(line) == line for line in shown)
    assert all(line[11:13] == "  " for line in shown)


def test_hostile_arguments_are_seen_not_obeyed() -> None:
    (line,) = (head + command for head, command in process_lines(HOSTILE_ONE))
    assert "\x1b" not in line
    assert "\\e[2J" in line
    assert len(line) < 1500
