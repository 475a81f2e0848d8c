"""What is drawn line by line: banner, columns, details, page, processes, nodes, words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from rich.cells import cell_len
from rich.text import Text

from minerwatch.api.types import (
    AgentStatus,
    ConnectionStatus,
    ContainerStatus,
    CullStatus,
    ProbeReport,
    ProcessStatus,
    Unanswered,
)
from minerwatch.model import MachineTotals
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import machine_totals
from minerwatch.view.overview import Coverage
from minerwatch.view.screen import words
from minerwatch.view.screen.banner import banner_lines, state_of
from minerwatch.view.screen.columns import container_columns
from minerwatch.view.screen.containers import Kind, Row, Tree, View
from minerwatch.view.screen.details import container_lines
from minerwatch.view.screen.history import LevelChange, key_of
from minerwatch.view.screen.layout import Traits, fitting
from minerwatch.view.screen.nodes import NodeRow, node_lines, node_rows
from minerwatch.view.screen.page import Section, Subject, cpu_text, page_sections
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presentation, Presenter
from minerwatch.view.screen.process_list import encode_processes, limits, process_table
from minerwatch.view.screen.processes import ProcessRow, process_lines, process_rows
from tests.cli.top_screen.driving import AGENT, CRASHING, TALKING
from tests.examples import examples
from tests.report.samples import (
    HELD,
    HOSTILE,
    HOSTILE_ONE,
    MINER,
    NODE,
    NOW,
    SIMULATION,
    container,
    containers,
    hostile_text,
    process,
    processes,
)

Golden = Callable[[str, str], None]

COVERAGE = Coverage("lab", "", 2, (CRASHING,), "", (AGENT,))
widths = st.sampled_from([1, 10, 40, 80, 120, 200])
agents = st.builds(
    AgentStatus,
    node=hostile_text,
    version=hostile_text,
    started=hostile_text,
    culling=hostile_text,
    rules=st.dictionaries(hostile_text, st.integers(0, 1000), max_size=3),
    probes_off=st.dictionaries(hostile_text, hostile_text, max_size=3),
    blind_spots=st.lists(hostile_text, max_size=2).map(tuple),
)


def plain(lines: Sequence[Text]) -> list[str]:
    return [each.plain.rstrip() for each in lines]


def fit(lines: Sequence[Text], width: int) -> bool:
    return all(cell_len(each.plain) <= width for each in lines) and all(
        printable(each.plain) == each.plain for each in lines
    )


# Banner.


def presented(poll: Poll, view: View | None = None) -> Presentation:
    return Presenter(10.0).present(poll, view or View())


def banner(poll: Poll, width: int, height: int = 7, view: View | None = None) -> list[Text]:
    state = state_of(poll, 5.0, width, is_paused=False)
    return banner_lines(presented(poll, view), state, width, height)


def test_the_banner_of_a_node() -> None:
    poll = Poll(NODE, NOW, agents=(AGENT,))
    first, second, third = plain(banner(poll, 120))
    assert first.startswith("minerwatch · node node-7 · agent 0.1.0 · 112 rules · mode observe ")
    assert first.endswith(" 02:30:00Z, every 5s")
    assert len(first) == 120
    assert second == (
        "8 containers: 1 confirmed, 2 likely, 2 suspicious, 3 clear · 239 processes"
        " · 11.9 cores busy · 7 shown"
    )
    assert third == "campaign: 2 pods that mine for wallet 48aBcDeF…FgHjKxyz (one pool)"


def test_the_banner_of_a_cluster_while_it_is_asked() -> None:
    poll = Poll(NODE, NOW, coverage=COVERAGE, agents=(AGENT,), progress=(412, 1000))
    lines = plain(banner(poll, 80))
    assert lines[0].startswith("minerwatch · context lab · all namespaces")
    assert lines[0].endswith("asking 412 of 1,000")
    assert lines[1] == "agent 0.1.0 · 112 rules · mode observe"
    assert any(each.startswith("missing node-3") for each in lines)


def test_agents_that_differ_and_modes_that_act_are_told() -> None:
    enforcing = structs.replace(
        AGENT, node="node-8", culling="enforce", version="0.2.0", broken_rules=2
    )
    poll = Poll(NODE, NOW, agents=(AGENT, enforcing))
    (first, *_) = plain(banner(poll, 200))
    assert "agents 0.1.0 (1), 0.2.0 (1)" in first
    assert "mode observe (1), enforce (1)" in first
    assert "broken rule files on 1 node" in first


def test_what_is_chosen_is_told_even_where_there_is_little_room() -> None:
    view = View(text="xmrig", tree=Tree.OWNER)
    for width in (60, 80, 120, 200):
        second = plain(banner(Poll(NODE, NOW), width, view=view))[1]
        assert "holding “xmrig”" in second
        assert "by owner" in second


def test_the_banner_has_the_machine_where_it_runs_here() -> None:
    machine = MachineTotals(16, 2.5, 32 << 30, 12 << 30)
    second = plain(banner(Poll(NODE, NOW, machine=machine), 160))[1]
    assert "11.9 of 16 cores busy · 12 GiB of 32 GiB memory · load 2.5" in second
    assert "of 16 cores busy · 7 shown" in plain(banner(Poll(NODE, NOW, machine=machine), 100))[1]


def test_a_namespace_that_the_node_has_not_is_said() -> None:
    lines = plain(banner(Poll(NODE, NOW), 120, view=View(namespace="nope")))
    assert any(
        each.startswith("no pod of namespace nope runs on this node; here") for each in lines
    )
    lines = plain(banner(Poll(NODE, NOW), 120, view=View(namespace="binder")))
    assert not any("no pod of namespace" in each for each in lines)


def test_troubles_that_do_not_fit_are_counted() -> None:
    missing = tuple(Unanswered(f"node-{n}", "", f"reason {n}") for n in range(9))
    poll = Poll(NODE, NOW, coverage=replace(COVERAGE, missing=missing), failure="no connection")
    lines = plain(banner(poll, 80, 5))
    assert len(lines) == 5
    assert any("more: n)" in each for each in lines)
    assert any(each.startswith("campaign") for each in lines)


@settings(max_examples=examples(40))
@given(hostile_text, hostile_text, agents, widths, st.integers(0, 8))
def test_whatever_is_told_the_banner_fits(
    name: str, reason: str, agent: AgentStatus, width: int, height: int
) -> None:
    coverage = Coverage(name, name, 1, (Unanswered(name, name, reason),), reason)
    poll = Poll(NODE, NOW, coverage=coverage, agents=(agent,), notes=(reason,), failure=name)
    lines = banner(poll, width, height, View(text=name))
    assert len(lines) <= max(height, 3)
    assert all(printable(each.plain) == each.plain for each in lines)
    if width >= 40:
        assert fit(lines, width)


# Columns.


def shown_of(statuses: Sequence[ContainerStatus], view: View, **changes: object) -> Presentation:
    presenter = Presenter(10.0)
    for step in range(12):
        presenter.history.add(statuses, 10.0 * step)
    return presenter.present(Poll(tuple(statuses), NOW, **changes), view)  # type: ignore[arg-type]


def drawn_all(shown: Presentation, width: int) -> list[str]:
    """Titles and rows as the table shows them."""
    layout = shown.layout(width)
    titles = layout.titles(shown.sort, is_reversed=False)
    wide = [each.ljust(column.width) for each, column in zip(titles, layout.columns, strict=True)]
    gap = " " * layout.gap
    lines = [wide, *([text for text, _ in shown.cells(row, layout)] for row in shown.rows)]
    return [gap.join(line) for line in lines]


def drawn(statuses: Sequence[ContainerStatus], width: int, **changes: object) -> list[str]:
    shown = shown_of(statuses, View(show_all=True), **changes)
    return [line.rstrip() for line in drawn_all(shown, width)]


@pytest.mark.parametrize("width", [80, 120, 160, 200, 280])
def test_columns_of_a_terminal_of_usual_width(golden: Golden, width: int) -> None:
    ordinary = [each for each in NODE if each is not HOSTILE_ONE]
    golden(f"screen/columns-{width}.txt", "\n".join(drawn(ordinary, width)) + "\n")


def test_throttling_staleness_and_the_order_are_marked() -> None:
    lines = drawn([MINER, SIMULATION], 200, stale={"node-7": NOW - timedelta(minutes=3)})
    assert lines[0].startswith("SCORE▼")
    assert "99%!" in lines[1]
    assert "[3m ago] binder/" in lines[1]


def test_columns_that_have_nothing_to_say_are_left_out() -> None:
    titles_line = drawn([SIMULATION], 200)[0]
    assert "OWNER" not in titles_line
    assert "NODE" not in titles_line
    assert "AGE" not in titles_line


def test_the_owner_is_visible_at_120_columns() -> None:
    titles = drawn([MINER, SIMULATION], 120)[0]
    for title in ("OWNER", "%LIMIT", "CPU-H", "LAST", "CONTAINER"):
        assert title in titles


def test_names_only_grow() -> None:
    columns = container_columns(120, 10.0)
    short, long = Traits(longest_name=10), Traits(frozenset({"OWNER"}), 50)
    assert long.joined(short) == short.joined(long) == long
    for width in (80, 120, 200):
        before = [(each.title, each.width) for each in fitting(columns, width, long).columns]
        after = fitting(columns, width, long.joined(short)).columns
        assert [(each.title, each.width) for each in after] == before


@settings(max_examples=examples(40))
@given(
    st.lists(containers, min_size=1, max_size=4),
    st.integers(10, 250),
    st.sampled_from(Tree),
    st.sampled_from(Kind),
)
def test_whatever_containers_are_called_rows_have_one_width(
    statuses: list[ContainerStatus], width: int, tree: Tree, kind: Kind
) -> None:
    shown = shown_of(statuses, View(show_all=True, tree=tree, kind=kind))
    lengths = set()
    for text in drawn_all(shown, width)[1:]:
        assert printable(text) == text
        lengths.add(cell_len(text))
    assert len(lengths) <= 1


# Details.


def row(status: ContainerStatus) -> Row:
    return Row(key_of(status), status)


def details(status: ContainerStatus) -> list[str]:
    return plain(list(container_lines(row(status), NOW)))


def test_details_say_what_matters_first() -> None:
    name, verdict, foremost, facts, *_ = details(MINER)
    assert name == "binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook"
    assert verdict == (
        "confirmed for 12m: identity ×2: XMRig command line;"
        " execution: Executable deleted from a temporary folder"
    )
    assert foremost.startswith("pid 4711, 1.98 cores: ./a --donate-level 1 -o stratum+tcp://pool.e")
    assert facts == (
        "owner alice · image registry.example.org/binder/alice-2dnotebooks:5d1f · node node-7"
    )
    assert "does not tell what it calculates" in details(SIMULATION)[1]
    assert "the level falls" in details(HELD)[1]
    assert "it is idle" in details(container())[1]


@settings(max_examples=examples(40))
@given(containers)
def test_details_are_lines_without_power(status: ContainerStatus) -> None:
    for kind in Kind:
        shown = presented(Poll((status,), NOW), View(show_all=True, kind=kind))
        for each in shown.rows:
            assert all(printable(line.plain) == line.plain for line in shown.lines(each))


# The page.


def page(subject: Subject, width: int, *, is_tree: bool = False) -> list[Text]:
    """The page as it is read."""
    return flat(page_sections(subject, width, is_tree=is_tree))


def flat(sections: Sequence[Section]) -> list[Text]:
    lines: list[Text] = []
    for title, body in sections:
        lines += [Text("")] if lines else []
        lines += [*([Text(title)] if title else []), *body]
    return lines


def test_the_page(golden: Golden) -> None:
    cores = [0.2, nan, 0.5, 1.0, *[1.98] * 20]
    changes = [LevelChange(NOW - timedelta(minutes=2), "likely", "confirmed")]
    subject = Subject(TALKING, NOW, cores, 10.0, changes, None, AGENT)
    golden("screen/page-100.txt", "\n".join(plain(page(subject, 100))) + "\n")


def test_recent_cpu_in_words_says_what_is_not_known() -> None:
    assert cpu_text(Subject(TALKING, NOW, [0.2, nan, 1.98], 10.0)) == (
        "1.98 cores now, 99% of its limit; of the last 30s, the most 1.98, the least 0.20;"
        " not read 1 time, drawn as 0"
    )
    assert "idle since the screen was opened" in cpu_text(Subject(SIMULATION, NOW))


def test_the_page_of_what_is_gone_or_silent_says_so() -> None:
    gone = Subject(MINER, NOW, is_gone=True)
    assert plain(page(gone, 80))[0] == "It is no longer there. This is what was known last."
    silent = Subject(MINER, NOW, answered=NOW - timedelta(minutes=4))
    assert "no longer answers" in plain(page(silent, 80))[0]


def test_connections_that_are_not_looked_at_are_not_denied() -> None:
    off = structs.replace(AGENT, probes_off={"connections": "switched off (probes.connections)"})
    text = "\n".join(plain(page(Subject(MINER, NOW, agent=off), 80)))
    assert "Not looked at: switched off (probes.connections)" in text
    assert "None is known." in "\n".join(plain(page(Subject(MINER, NOW, agent=AGENT), 80)))


def test_ipv6_and_many_connections() -> None:
    many = tuple(ConnectionStatus("2001:db8::1", port, MINER.since) for port in range(1, 50))
    talkative = structs.replace(
        MINER, processes=(structs.replace(MINER.processes[0], connections=many),)
    )
    text = "\n".join(plain(page(Subject(talkative, NOW), 100)))
    assert "[2001:db8::1]:1 for 12m" in text
    assert "… and 17 more" in text


def test_what_the_page_says_of_culling() -> None:
    def said(agent: AgentStatus | None) -> str:
        return " ".join(plain(page(Subject(MINER, NOW, agent=agent), 80)))

    assert "No agent says" in said(None)
    assert "it only observes" in said(AGENT)
    assert "in mode enforce" in said(structs.replace(AGENT, culling="enforce"))
    decided = CullStatus("dry-run", "observe", "evict", True, 0, ("It is too young.",))
    text = " ".join(plain(page(Subject(structs.replace(MINER, culling=decided), NOW), 80)))
    assert "It is not evicted in a dry run, because:   - It is too young." in text


@settings(max_examples=examples(40))
@given(
    containers,
    widths,
    st.lists(st.one_of(st.just(nan), st.floats(0, 1e5)), max_size=70),
    st.one_of(st.none(), agents),
)
def test_every_page_fits(
    status: ContainerStatus, width: int, cores: list[float], agent: AgentStatus | None
) -> None:
    subject = Subject(status, NOW, cores, 10.0, agent=agent)
    for is_tree in (False, True):
        lines = page(subject, width, is_tree=is_tree)
        assert all(printable(each.plain) == each.plain for each in lines)
        assert fit(lines, max(width, 80))
    assert printable(cpu_text(subject)) == cpu_text(subject)


# Processes of a container.


def listed(*some: ProcessStatus, is_tree: bool = True) -> list[str]:
    status = container(processes=some)
    for title, body in page_sections(Subject(status, NOW), 1000, is_tree=is_tree):
        if title.startswith("Processes"):
            lines = [line.plain for line in body if " PID " not in line.plain]
            return [line for line in lines if not line.startswith("  … and")]
    raise AssertionError


def child(pid: int, parent: int, command: str = "sh", cores: float = 0.5) -> ProcessStatus:
    return process(
        pid=pid, parent_pid=parent, comm=command, command_line=command, image=command,
        cpu_cores=cores,
    )  # fmt: skip


FAMILY = (
    child(30, 20, "miner", 0.9), child(10, 1, "init"), child(20, 10, "sh"), child(40, 10, "cron"),
)  # fmt: skip


def test_children_stand_below_their_parents() -> None:
    assert listed(*FAMILY) == [
        "         10   0.50  jovyan      init",
        "         20   0.50  jovyan      ├─ sh",
        "         30   0.90  jovyan      │  └─ miner",
        "         40   0.50  jovyan      └─ cron",
    ]


def test_the_busiest_process_comes_first() -> None:
    shown = listed(*reversed(FAMILY), is_tree=False)
    assert shown[0] == "         30   0.90  jovyan      miner"


def test_what_was_found_is_marked_and_names_that_differ_are_told() -> None:
    sections = page_sections(Subject(MINER, NOW), 1000, is_tree=True)
    (_, *shown, more) = next(body for title, body in sections if title.startswith("Processes"))
    assert shown[0].plain.startswith("       4700   1.98  jovyan      tini -g -- start.sh")
    assert shown[1].plain.startswith("  *    4711   1.98  jovyan      ├─ ./a --donate-level 1")
    assert shown[1].plain.endswith("(executable /tmp/.x/a)")
    assert shown[2].plain.endswith(
        "└─ (hidden or empty)  (named python3, executable /usr/bin/python3)"
    )
    assert "      -  " in shown[2].plain
    assert more.plain == "  … and 11 more"


def test_a_process_that_is_its_own_grandparent_is_shown_once() -> None:
    assert len(listed(child(1, 2), child(2, 3), child(3, 1), child(4, 4))) == 4


def test_a_ladder_of_processes_does_not_leave_the_screen() -> None:
    shown = listed(*(child(pid, pid - 1) for pid in range(2, 500)))
    assert len(shown) == 498
    assert max(map(len, shown)) < 120


@settings(max_examples=examples(40))
@given(
    st.lists(
        st.tuples(processes, st.integers(0, 9), st.integers(0, 9)),
        min_size=1, max_size=9, unique_by=lambda each: each[1],
    ),
    st.booleans(),
)  # fmt: skip
def test_every_process_is_shown_whatever_it_says_is_its_parent(
    some: list[tuple[ProcessStatus, int, int]], is_tree: bool
) -> None:
    given = [structs.replace(each, pid=pid, parent_pid=parent) for each, pid, parent in some]
    shown = listed(*given, is_tree=is_tree)
    heads = [line for line in shown if line[4:11].strip()]
    assert sorted(int(line[4:11]) for line in heads) == sorted(each.pid for each in given)
    assert all(printable(line) == line for line in shown)


# Processes of a node.


def process_view(*statuses: ContainerStatus, **chosen: object) -> list[ProcessRow]:
    return list(process_rows(statuses, View(kind=Kind.PROCESSES, **chosen)))  # type: ignore[arg-type]


def workers(count: int, cores: float) -> tuple[ProcessStatus, ...]:
    return tuple(
        process(pid=100 + n, comm="worker", command_line="worker --all", cpu_cores=cores)
        for n in range(count)
    )


def test_processes_come_by_cpu_flagged_or_not() -> None:
    rows = process_view(MINER, SIMULATION)
    assert [row.first.command_line.split()[0] for row in rows] == ["/usr/bin/lmp", "./a", "tini"]
    assert [row.signals for row in rows] == [(), ("id", "exec"), ()]


def test_processes_that_are_alike_are_one_row() -> None:
    busy = container(processes=(*workers(9, 0.5), process(pid=7, comm="x", cpu_cores=1.0)))
    alike, alone = process_view(busy)
    assert (len(alike.processes), alike.cpu_cores) == (9, 4.5)
    assert len(alone.processes) == 1
    assert any(
        "9 × worker --all" in line
        for line in drawn_all(shown_of([busy], View(kind=Kind.PROCESSES)), 120)
    )
    assert "9 processes 100, 101" in next(process_lines(alike)).plain
    assert len(process_view(busy, is_folded=False)) == 10


def test_idle_processes_are_shown_when_asked_for_or_searched() -> None:
    idle = container(processes=workers(1, 0.0))
    assert process_view(idle) == []
    assert len(process_view(idle, show_all=True)) == 1
    assert len(process_view(idle, text="worker 100 ssh")) == 1
    assert process_view(idle, text="worker 101") == []


def test_processes_by_other_columns() -> None:
    small = process(pid=1, comm="a", cpu_cores=2.0, memory_bytes=1 << 20, threads=9)
    large = process(pid=2, comm="b", cpu_cores=1.0, memory_bytes=1 << 30, threads=1)
    both = container(processes=(small, large))
    first = {sort: process_view(both, sort=sort)[0].first.pid for sort in
             ("score", "cpu", "memory", "threads")}  # fmt: skip
    assert first == {"score": 1, "cpu": 1, "memory": 2, "threads": 1}
    assert process_view(both, sort="memory", is_reversed=True)[0].first.pid == 1
    by_owner = process_view(
        structs.replace(both, owner=""), structs.replace(MINER, owner="zoe"), sort="owner"
    )
    assert by_owner[0].status.owner == "zoe"
    lines = drawn_all(shown_of([both], View(kind=Kind.PROCESSES)), 120)
    assert "MEMORY" in lines[0]
    assert "1.0 GiB" in "".join(lines)
    assert "MEMORY" not in drawn_all(shown_of([MINER], View(kind=Kind.PROCESSES)), 120)[0]


@pytest.mark.parametrize(("width", "titles"), [(120, "OWNER"), (200, "CPU-TIME THREADS USER")])
def test_the_owner_of_a_process_is_there_at_120_columns_and_all_at_200(
    width: int, titles: str
) -> None:
    whole = process(pid=1, cpu_cores=2.0, cpu_seconds=9.0, memory_bytes=1 << 20, threads=9)
    shown = shown_of([structs.replace(MINER, processes=(whole,))], View(kind=Kind.PROCESSES))
    title = drawn_all(shown, width)[0].split()
    for each in ("PID", "MEMORY", "OWNER", "CONTAINER", "COMMAND", *titles.split()):
        assert each in title, (each, title)


# Nodes, words.


def nodes(poll: Poll, **chosen: object) -> tuple[NodeRow, ...]:
    return node_rows(poll, View(kind=Kind.NODES, **chosen))  # type: ignore[arg-type]


def test_nodes_say_why_they_are_missing_and_what_their_agents_lack() -> None:
    odd = structs.replace(
        AGENT, node="node-8", broken_rules=1, probes_off={"execs": "it needs NET_ADMIN"},
        blind_spots=("/proc is not the host's",),
    )  # fmt: skip
    stale = {"node-3": NOW - timedelta(minutes=2)}
    poll = Poll((MINER,), NOW, COVERAGE, (AGENT, odd), stale=stale)
    rows = nodes(poll)
    assert [row.node for row in rows] == ["node-3", "node-7", "node-8"]
    text = "\n".join(line.plain for row in rows for line in node_lines(row, poll))
    for told in (
        "did not answer (minerwatch/minerwatch-9zlpd): its agent does not run: CrashLoopBackOff",
        "its containers are shown as they were 2m ago",
        "1 rule file cannot be used",
        "probe execs is off: it needs NET_ADMIN",
        "/proc is not the host's",
        "agent 0.1.0, up 2h20m, every 10s, mode observe, rules: 96 stable, 16 test",
        "2.0 cores busy, 1 container, 1 flagged",
    ):
        assert told in text
    (silent,) = nodes(Poll((SIMULATION,), NOW))
    assert "older than this program" in "".join(plain(list(node_lines(silent, poll))))


def test_what_is_off_by_choice_is_no_trouble_and_what_is_clear_is_not_flagged() -> None:
    off = {"first_words": "switched off (probes.first_words)", "execs": "it needs NET_ADMIN"}
    states = (ProbeReport("first_words", "off"), ProbeReport("execs", "unavailable"))
    agent = structs.replace(AGENT, probes_off=off, probes=states)
    weak = structs.replace(MINER, level="clear", score=1.0)
    poll = Poll((weak,), NOW, agents=(agent,))
    (row,) = nodes(poll)
    assert row.flagged == 0
    assert nodes(poll, text="first_words") == ()
    said = {line.plain.partition(" is off")[0]: line.style for line in node_lines(row, poll)}
    assert said["probe execs"] == "yellow"
    assert said["probe first_words"] == "dim"


def test_nodes_are_sorted_and_filtered() -> None:
    busy = structs.replace(SIMULATION, node="node-1", cpu_cores=30.0)
    poll = Poll((MINER, busy), NOW, COVERAGE)
    assert [row.node for row in nodes(poll, sort="cpu")] == ["node-1", "node-7", "node-3"]
    assert [row.node for row in nodes(poll, sort="node")] == ["node-1", "node-3", "node-7"]
    assert [row.node for row in nodes(poll, text="crash")] == ["node-3"]
    lines = drawn_all(presented(poll, View(kind=Kind.NODES)), 120)
    assert "30.0" in next(line for line in lines if line.startswith("node-1 "))


@settings(max_examples=examples(40))
@given(agents, hostile_text, widths)
def test_nodes_fit(agent: AgentStatus, text: str, width: int) -> None:
    coverage = Coverage(text, text, 1, (Unanswered(text, text, text),), text)
    poll = Poll((), NOW, coverage, (agent,), (text,))
    for each in nodes(poll):
        lines = flat(words.node_sections(each, poll, width))
        assert all(printable(line.plain) == line.plain for line in lines)
        if width >= 40:
            assert fit(lines, width)


def test_the_help_fits() -> None:
    assert fit(flat(words.help_sections(60)), 60)
    text = "\n".join(plain(flat(words.help_sections(200))))
    for title in ("SCORE", "LEVEL", "LAST", "9 × name", "confirmed", "[3m ago]"):
        assert f"  {title} " in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_filters_are_quoted(name: str) -> None:
    text = words.empty_text(Poll((), NOW), None, View(text=name), "x")
    assert all(printable(line) == line for line in text.splitlines())
    assert len(text.splitlines()) == 2


def test_processes_are_printed_once_as_a_table_and_as_json() -> None:
    busy = container(
        owner="user: ada",
        processes=tuple(
            structs.replace(each, cpu_seconds=3600.0, memory_bytes=1 << 30, threads=2)
            for each in workers(3, 0.5)
        ),
    )
    view = View(kind=Kind.PROCESSES)
    table = process_table(process_rows([busy], view), now=NOW, width=160, colour=False)
    titles, row = table.splitlines()
    assert titles.split()[:5] == ["PID", "CPU", "CPU-TIME", "MEMORY", "THREADS"]
    assert row.split()[:6] == ["-", "1.50", "3h00m", "3.0", "GiB", "6"]
    assert "3 × " in row
    assert "user: ada" in row
    listed = json.loads(encode_processes(process_rows([busy], replace(view, is_folded=False))))
    assert [(each["cpu_seconds"], each["owner"]) for each in listed] == [(3600.0, "user: ada")] * 3
    assert process_table((), now=NOW, width=80, colour=False) == "no process to show\n"


def test_more_processes_than_are_known_are_said() -> None:
    some = container(processes=workers(2, 0.5), process_count=2)
    rows = process_rows([some], View(kind=Kind.PROCESSES))
    assert not limits(rows)
    assert limits(process_rows([structs.replace(some, process_count=9)], View(kind=Kind.PROCESSES)))


def test_a_clusters_totals_are_those_of_its_agents() -> None:
    machine = MachineTotals(cores=8, load_1m=1.5, memory_bytes=32 << 30, memory_used_bytes=8 << 30)
    agents = [AgentStatus(node, "1", machine=machine) for node in ("node-1", "node-2")]
    assert machine_totals(agents) == MachineTotals(16, 3.0, 64 << 30, 16 << 30)
    assert machine_totals([*agents, AgentStatus("node-3", "0")]) is None
