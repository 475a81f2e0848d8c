"""What is drawn line by line: banner, columns, details, page, nodes, words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from minerwatch.api import orders
from minerwatch.api.types import (
    AgentStatus,
    ConnectionStatus,
    ContainerStatus,
    CullAnswer,
    CullStatus,
    Unanswered,
)
from minerwatch.cli.top_screen import words
from minerwatch.cli.top_screen.banner import Heading, banner_lines
from minerwatch.cli.top_screen.cells import Scene, Traits, bar, layout, line, titles
from minerwatch.cli.top_screen.details import detail_lines
from minerwatch.cli.top_screen.history import CpuHistory, key_of
from minerwatch.cli.top_screen.journal import Journal, LevelChange
from minerwatch.cli.top_screen.look import Look
from minerwatch.cli.top_screen.nodes import node_lines
from minerwatch.cli.top_screen.page import Subject, page_lines
from minerwatch.cli.top_screen.proposal import ByHand, Proposal, ProposalError
from minerwatch.cli.top_screen.rows import Row, Tree, View, arranged
from minerwatch.model import Action
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import campaigns
from minerwatch.view.overview import Coverage
from tests.cli.top_screen.driving import AGENT, CRASHING, TALKING
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
)
from tests.view.test_culling_text import OBJECTED, PERMITTED

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


def heading(look: Look, **changes: object) -> Heading:
    view = View()
    arrangement = arranged(look.statuses, view, ())
    found = campaigns(look.statuses)
    plainly = Heading(look, view, arrangement.every, arrangement.shown, found, 5.0)
    return replace(plainly, **changes)  # type: ignore[arg-type]


def test_the_banner_of_a_node() -> None:
    look = Look(NODE, NOW, agents=(AGENT,))
    first, second, third = plain(banner_lines(heading(look), 120, 7))
    assert first.startswith("minerwatch · node node-7 · agent 0.1.0 · 112 rules · mode observe ")
    assert first.endswith(" 02:30:00Z, every 5s")
    assert len(first) == 120
    assert second == (
        "8 containers: 1 confirmed, 2 likely, 2 suspicious, 3 clear · 239 processes"
        " · 11.9 cores busy · 7 shown"
    )
    assert third == "campaign: 2 pods that mine for wallet 48aBcDeF…FgHjKxyz (one pool)"


def test_the_banner_of_a_cluster_while_it_is_asked() -> None:
    look = Look(NODE, NOW, coverage=COVERAGE, agents=(AGENT,), progress=(412, 1000))
    lines = plain(banner_lines(heading(look), 80, 7))
    assert lines[0].startswith("minerwatch · context lab · all namespaces")
    assert lines[0].endswith("asking 412 of 1,000")
    assert lines[1] == "agent 0.1.0 · 112 rules · mode observe"
    assert any(each.startswith("missing node-3") for each in lines)


def test_agents_that_differ_and_modes_that_act_are_told() -> None:
    enforcing = replace(AGENT, node="node-8", culling="enforce", version="0.2.0", broken_rules=2)
    look = Look(NODE, NOW, agents=(AGENT, enforcing))
    (first, *_) = plain(banner_lines(heading(look), 200, 7))
    assert "agents 0.1.0 (1), 0.2.0 (1)" in first
    assert "mode observe (1), enforce (1)" in first
    assert "broken rule files on 1 node" in first


def test_what_is_chosen_is_told_even_where_there_is_little_room() -> None:
    view = View(text="xmrig", tree=Tree.OWNER)
    for width in (60, 80, 120, 200):
        second = plain(banner_lines(heading(Look(NODE, NOW), view=view), width, 7))[1]
        assert "holding “xmrig”" in second
        assert "by owner" in second


def test_troubles_that_do_not_fit_are_counted() -> None:
    missing = tuple(Unanswered(f"node-{n}", "", f"reason {n}") for n in range(9))
    look = Look(NODE, NOW, coverage=replace(COVERAGE, missing=missing), failure="no connection")
    lines = plain(banner_lines(heading(look), 80, 5))
    assert len(lines) == 5
    assert any("more: n)" in each for each in lines)
    assert any(each.startswith("campaign") for each in lines)


@settings(max_examples=40)
@given(hostile_text, hostile_text, agents, widths, st.integers(0, 8))
def test_whatever_is_told_the_banner_fits(
    name: str, reason: str, agent: AgentStatus, width: int, height: int
) -> None:
    coverage = Coverage(name, name, 1, (Unanswered(name, name, reason),), reason)
    look = Look(NODE, NOW, coverage=coverage, agents=(agent,), notes=(reason,), failure=name)
    lines = banner_lines(heading(look, view=View(text=name)), width, height)
    assert len(lines) <= max(height, 3)
    assert all(printable(each.plain) == each.plain for each in lines)
    if width >= 40:
        assert fit(lines, width)


# Columns.


def scene(statuses: Sequence[ContainerStatus], **changes: object) -> Scene:
    history = CpuHistory(10.0)
    for step in range(12):
        history.add(statuses, 10.0 * step)
    return replace(Scene(NOW, history, {}), **changes)  # type: ignore[arg-type]


def drawn(statuses: Sequence[ContainerStatus], width: int, **changes: object) -> list[str]:
    rows = arranged(statuses, View(show_all=True), ()).rows
    shown = layout(width, Traits.of(statuses, rows), 10.0)
    head = titles(shown, "score", is_reversed=False)
    body = [line(row, scene(statuses, **changes), shown) for row in rows]
    return ["".join(text for text, _ in pieces).rstrip() for pieces in (head, *body)]


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


def test_names_only_grow() -> None:
    short, long = Traits(longest_name=10), Traits(longest_name=50, has_owner=True)
    assert long.joined(short) == short.joined(long) == long
    for width in (80, 120, 200):
        before = [(each.title, each.width) for each in layout(width, long, 10.0).columns]
        after = layout(width, long.joined(short), 10.0).columns
        assert [(each.title, each.width) for each in after] == before


def test_a_bar_is_as_long_as_its_share() -> None:
    assert bar(0.0, 4) == ""
    assert bar(0.5, 4) == "██"
    assert bar(0.53, 4) == "██▏"
    assert bar(1.5, 4) == "████"


@settings(max_examples=40)
@given(
    st.lists(containers, min_size=1, max_size=4),
    st.integers(10, 250),
    st.sampled_from(Tree),
    st.booleans(),
)
def test_whatever_containers_are_called_rows_have_one_width(
    statuses: list[ContainerStatus], width: int, tree: Tree, is_selected: bool
) -> None:
    rows = arranged(statuses, View(show_all=True, tree=tree), campaigns(statuses)).rows
    shown = layout(width, Traits.of(statuses, rows), 10.0)
    made = scene(statuses)
    lengths = set()
    for row in rows:
        text = "".join(piece for piece, _ in line(row, made, shown, is_selected=is_selected))
        assert printable(text) == text
        lengths.add(cell_len(text))
    assert len(lengths) <= 1


# Details.


def row(status: ContainerStatus) -> Row:
    return Row(key_of(status), status)


def test_details_say_what_matters_first() -> None:
    name, verdict, process, facts = plain(detail_lines(row(MINER), NOW, 120, 4))
    assert name == "binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook"
    assert verdict == (
        "confirmed for 12m: identity: XMRig command line (+1); behaviour: Core busy steadily"
    )
    assert process.startswith("pid 4711, 1.98 cores: ./a --donate-level 1 -o stratum+tcp://pool.e")
    assert facts == (
        "owner alice · image registry.example.org/binder/alice-2dnotebooks:5d1f · node node-7"
    )
    burning = plain(detail_lines(row(SIMULATION), NOW, 120, 2))
    assert "does not tell what it calculates" in burning[1]
    assert "the level falls" in plain(detail_lines(row(HELD), NOW, 120, 2))[1]
    assert "it is idle" in plain(detail_lines(row(container()), NOW, 120, 2))[1]


@settings(max_examples=40)
@given(containers, widths, st.integers(0, 9))
def test_details_fit(status: ContainerStatus, width: int, height: int) -> None:
    lines = detail_lines(row(status), NOW, width, height)
    assert len(lines) <= height
    assert all(printable(each.plain) == each.plain for each in lines)
    if width >= 40:
        assert fit(lines, width)


# The page.


def test_the_page(golden: Golden) -> None:
    cores = [0.2, nan, 0.5, 1.0, *[1.98] * 20]
    changes = [LevelChange(NOW - timedelta(minutes=2), "likely", "confirmed")]
    subject = Subject(TALKING, NOW, cores, 10.0, changes, None, AGENT)
    golden("screen/page-100.txt", "\n".join(plain(page_lines(subject, 100))) + "\n")


def test_the_page_of_what_is_gone_or_silent_says_so() -> None:
    gone = Subject(MINER, NOW, is_gone=True)
    assert plain(page_lines(gone, 80))[0] == "It is no longer there. This is what was known last."
    silent = Subject(MINER, NOW, answered=NOW - timedelta(minutes=4))
    assert "no longer answers" in plain(page_lines(silent, 80))[0]


def test_connections_that_are_not_looked_at_are_not_denied() -> None:
    off = replace(AGENT, probes_off={"connections": "switched off (probes.connections)"})
    text = "\n".join(plain(page_lines(Subject(MINER, NOW, agent=off), 80)))
    assert "Not looked at: switched off (probes.connections)" in text
    assert "None is known." in "\n".join(plain(page_lines(Subject(MINER, NOW, agent=AGENT), 80)))


def test_ipv6_and_many_connections() -> None:
    many = tuple(ConnectionStatus("2001:db8::1", port, MINER.since) for port in range(1, 50))
    talkative = replace(MINER, processes=(replace(MINER.processes[0], connections=many),))
    text = "\n".join(plain(page_lines(Subject(talkative, NOW), 100)))
    assert "[2001:db8::1]:1 for 12m" in text
    assert "… and 17 more" in text


def test_what_the_page_says_of_culling() -> None:
    def said(agent: AgentStatus | None) -> str:
        return " ".join(plain(page_lines(Subject(MINER, NOW, agent=agent), 80)))

    assert "No agent says" in said(None)
    assert "it only observes" in said(AGENT)
    assert "in mode enforce" in said(replace(AGENT, culling="enforce"))
    decided = CullStatus("dry-run", "observe", "evict", True, 0, ("The pod is too young.",))
    text = " ".join(plain(page_lines(Subject(replace(MINER, culling=decided), NOW), 80)))
    assert "It is not evicted in a dry run, because:   - The pod is too young." in text


@settings(max_examples=40)
@given(
    containers,
    widths,
    st.lists(st.one_of(st.just(nan), st.floats(0, 1e5)), max_size=70),
    st.one_of(st.none(), agents),
)
def test_every_page_fits(
    status: ContainerStatus, width: int, cores: list[float], agent: AgentStatus | None
) -> None:
    lines = page_lines(Subject(status, NOW, cores, 10.0, agent=agent), width)
    assert all(printable(each.plain) == each.plain for each in lines)
    assert fit(lines, max(width, 80))


def test_a_level_that_changes_is_noted() -> None:
    journal = Journal()
    clear = replace(MINER, level="clear")
    journal.add([clear, SIMULATION], NOW)
    journal.add([MINER, SIMULATION], NOW + timedelta(seconds=5))
    journal.add([MINER, SIMULATION], NOW + timedelta(seconds=10))
    journal.add([clear], NOW + timedelta(seconds=15))
    assert [(each.before, each.after) for each in journal.of(key_of(MINER))] == [
        ("clear", "confirmed"),
        ("confirmed", "clear"),
    ]
    assert journal.of(key_of(SIMULATION)) == ()


def test_what_was_flagged_when_the_screen_was_opened_is_no_change() -> None:
    journal = Journal()
    journal.add([MINER], NOW)
    assert journal.of(key_of(MINER)) == ()


def test_the_journal_is_bounded() -> None:
    journal = Journal()
    journal.add([], NOW)
    for number in range(5100):
        journal.add([replace(MINER, cgroup=f"/{number}")], NOW)
    assert len(journal._levels) == len(journal._changes) == 5000
    for number in range(50):
        level = "likely" if number % 2 else "confirmed"
        journal.add([replace(MINER, level=level)], NOW)
    assert len(journal.of(key_of(MINER))) == 20


# Nodes, words.


def test_nodes_say_why_they_are_missing_and_what_their_agents_lack() -> None:
    odd = replace(
        AGENT, node="node-8", broken_rules=1, probes_off={"execs": "it needs NET_ADMIN"},
        blind_spots=("/proc is not the host's",),
    )  # fmt: skip
    stale = {"node-3": NOW - timedelta(minutes=2)}
    text = "\n".join(plain(node_lines(Look((), NOW, COVERAGE, (AGENT, odd), stale=stale), 100)))
    for told in (
        "2 of 3 nodes answered",
        "node-3 (minerwatch/minerwatch-9zlpd)",
        "CrashLoopBackOff; its containers are shown as they were 2m ago",
        "1 rule file cannot be used",
        "probe execs is off: it needs NET_ADMIN",
        "/proc is not the host's",
        "2h20m",
    ):
        assert told in text
    assert "older than this program" in plain(node_lines(Look((), NOW), 100))[0]


@settings(max_examples=40)
@given(agents, hostile_text, widths)
def test_nodes_fit(agent: AgentStatus, text: str, width: int) -> None:
    coverage = Coverage(text, text, 1, (Unanswered(text, text, text),), text)
    lines = node_lines(Look((), NOW, coverage, (agent,), (text,)), width)
    assert all(printable(each.plain) == each.plain for each in lines)
    if width >= 40:
        assert fit(lines, width)


def test_as_many_keys_are_told_as_fit() -> None:
    assert words.keys_line(words.TABLE_KEYS, 80).plain.rstrip().endswith("q quit")
    assert words.keys_line(words.TABLE_KEYS, 200).plain.rstrip().endswith("r now")
    for width in range(0, 130, 7):
        assert words.keys_line(words.TABLE_KEYS, width).cell_len <= width


def test_the_help_names_every_key_of_the_table() -> None:
    text = "\n".join(plain(words.help_lines(200)))
    for key, _ in words.TABLE_KEYS:
        assert f"  {key} " in text
    for key, _, _ in words.SORT_CHOICES:
        assert f" {key}" in text
    assert fit(words.help_lines(60), 60)


def test_a_rule_tells_what_is_in_sight() -> None:
    assert words.span_line(1, 10, 10, 30).plain == "─" * 30
    assert words.span_line(11, 20, 20615, 30).plain == "─────────── 11–20 of 20,615 ──"
    assert all(words.span_line(1, 9, 99, width).cell_len <= width for width in range(30))


@settings(max_examples=40)
@given(hostile_text, hostile_text, widths)
def test_a_proposal_is_shown_as_it_is(decision: str, request: str, width: int) -> None:
    proposal = Proposal(MINER, "evict", decision, request, "enforce", is_permitted=True)
    lines = words.proposal_lines(proposal, width)
    assert all(printable(each.plain) == each.plain for each in lines)
    assert any("in earnest" in each for each in plain(words.proposal_lines(proposal, 80)))


# Proposals.


class Agent:
    """What the agent of a node is told, and what it answers."""

    def __init__(self, answer: CullAnswer) -> None:
        self.told: list[tuple[str, str, orders.CullOrder]] = []
        self._answer = answer

    def ordered(self, node: str, path: str, order: bytes) -> bytes:
        self.told.append((node, path, orders.decode(order, orders.CullOrder)))
        return orders.encode(self._answer)


ACTING = replace(AGENT, culling="enforce")
IN_EARNEST = replace(PERMITTED, dry_run=False, outcome="")


def test_without_culling_the_mode_is_the_reason() -> None:
    proposer = ByHand(Agent(PERMITTED).ordered)
    for agent, told in ((None, "it only observes"), (AGENT, "culling is off")):
        with pytest.raises(ProposalError, match=told):
            proposer.choices(MINER, agent)


def test_the_policys_own_choice_is_marked() -> None:
    status = CullStatus("enforce", "observe", "stop", dry_run=False, rung=0, reasons=("No.",))
    choices = ByHand(Agent(PERMITTED).ordered).choices(replace(MINER, culling=status), ACTING)
    assert [action for _, action, _ in choices] == ["label", "stop", "kill", "evict", "delete"]
    marked = [action for _, action, said in choices if said.endswith("the policy's own choice")]
    assert marked == ["stop"]


def test_a_proposal_tries_nothing() -> None:
    agent = Agent(IN_EARNEST)
    proposal = ByHand(agent.ordered).propose(MINER, "evict")
    ((node, path, order),) = agent.told
    assert (node, path, order.action) == (MINER.node, orders.PREVIEW, Action.EVICT)
    assert (order.cgroup, order.container_id, order.pod_uid) == (
        MINER.cgroup, MINER.container_id, MINER.pod_uid,
    )  # fmt: skip
    assert proposal.is_permitted
    assert (proposal.mode, proposal.request) == ("enforce", IN_EARNEST.request)
    assert proposal.confirmation == MINER.pod
    assert proposal.decision.startswith("The policy permits to")
    objected = ByHand(Agent(OBJECTED).ordered).propose(MINER, "evict")
    assert not objected.is_permitted
    assert "  - " in objected.decision


@pytest.mark.parametrize("is_dry", [True, False])
def test_what_was_confirmed_as_a_dry_run_stays_one(is_dry: bool) -> None:
    agent = Agent(replace(IN_EARNEST, dry_run=is_dry))
    proposer = ByHand(agent.ordered)
    proposal = proposer.propose(MINER, "stop")
    told = proposer.carry_out(proposal)
    assert MINER.namespace in told
    (_, path, order) = agent.told[-1]
    assert (path, order.dry_run, order.action) == (orders.CULL, is_dry, Action.STOP)


def test_where_there_is_no_pod_the_containers_name_is_typed() -> None:
    proposal = Proposal(SIMULATION, "kill", "", "", "dry-run", is_permitted=True)
    assert proposal.confirmation == "simulation.service"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_filters_are_quoted(name: str) -> None:
    lines = words.empty_lines(Look((), NOW), View(text=name), 0, "x", 80)
    assert all(printable(each.plain) == each.plain for each in lines)
