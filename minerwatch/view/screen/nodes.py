"""The nodes that were asked: rows, columns, and all that is known of one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from minerwatch.api.types import AgentStatus, Unanswered
from minerwatch.format import age, counted, percent
from minerwatch.kinds import Level, MachineTotals
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.agent_summary import mode, rule_count
from minerwatch.view.columns import NOTHING
from minerwatch.view.lines import cut, fitted
from minerwatch.view.screen.containers import View
from minerwatch.view.screen.history import Key
from minerwatch.view.screen.layout import Column, Scene
from minerwatch.view.screen.poll import Poll
from minerwatch.view.table import usage_words

NODE_SORTS = ("", "cpu", "name", "node")
"""Keys that order nodes; the first by default."""

_TEXT_LENGTH = 400


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node, with what its containers use."""

    key: Key
    agent: AgentStatus | None  # None: not reported
    missing: Unanswered | None  # why it did not answer
    answered: datetime | None  # when it did last, where it no longer does
    cpu_cores: float
    containers: int
    flagged: int

    @property
    def node(self) -> str:
        """Name of the node."""
        return self.key[0]

    @property
    def machine(self) -> MachineTotals | None:
        """Totals of the node; None if its agent does not report them."""
        return self.agent.machine if self.agent else None


def node_rows(poll: Poll, view: View) -> tuple[NodeRow, ...]:
    """Return those with each word of the filter; the missing first, then the most flagged."""
    agents = {agent.node: agent for agent in poll.agents}
    missing = {each.node: each for each in poll.coverage.missing} if poll.coverage else {}
    sums = {node: [0.0, 0, 0] for node in (*missing, *agents)}
    for status in poll.statuses:
        of_node = sums.setdefault(status.node, [0.0, 0, 0])
        of_node[0] += status.cpu_cores
        of_node[1] += 1
        of_node[2] += status.level != Level.CLEAR.label
    rows = [
        NodeRow(
            (node,), agents.get(node), missing.get(node), poll.stale.get(node),
            cores, int(containers), int(flagged),
        )
        for node, (cores, containers, flagged) in sums.items()
    ]  # fmt: skip
    words = view.text.lower().split()
    shown = [row for row in rows if all(word in _text(row) for word in words)]
    if view.sort == "cpu":
        shown.sort(key=lambda row: (-row.cpu_cores, row.key), reverse=view.is_reversed)
    elif view.sort in ("name", "node"):
        shown.sort(key=lambda row: row.key, reverse=view.is_reversed)
    else:
        shown.sort(key=lambda row: (row.missing is None, -row.flagged, row.key))
    return tuple(shown)


def node_columns() -> tuple[Column[NodeRow], ...]:
    """Return all columns."""
    return (
        Column("NODE", _draw_name, sort="node", is_name=True),
        Column("STATE", _draw_state, 9, style=lambda row: "yellow" if row.missing else ""),
        Column("CPU", _draw_cpu, 9, is_number=True, sort="cpu"),
        Column(
            "MEMORY", _draw_memory, 7, 6, is_number=True,
            exists=lambda rows: any(row.machine for row in rows),
        ),
        Column(
            "LOAD", lambda row, *_: f"{row.machine.load_1m:.1f}" if row.machine else NOTHING, 6, 6,
            is_number=True, exists=lambda rows: any(row.machine for row in rows),
        ),
        Column("CONTAINERS", lambda row, *_: f"{row.containers:,}", 10, 4, is_number=True),
        Column("FLAGGED", lambda row, *_: f"{row.flagged:,}", 7, is_number=True),
        Column("AGENT", _draw_version, 10, 3),
        Column("RULES", _draw_rules, 5, 2, is_number=True),
        Column("MODE", lambda row, *_: mode(row.agent) if row.agent else NOTHING, 8, 5),
        Column("UP", _draw_up, 6, 1, is_number=True),
        Column("TROUBLE", _draw_trouble, 20, is_rest=True),
    )  # fmt: skip


def node_lines(row: NodeRow, poll: Poll) -> Iterator[Text]:
    """Yield all that is known of a node, one sentence a line; what matters most comes first."""
    yield Text(shown_name(row.node), "bold")
    if row.missing is not None:
        pod = f" ({shown_name(row.missing.pod)})" if row.missing.pod else ""
        yield Text(f"did not answer{pod}: {printable(row.missing.reason, _TEXT_LENGTH)}", "yellow")
    if row.answered is not None:
        since = age(row.answered.isoformat(), poll.at)
        yield Text(f"its containers are shown as they were {since} ago", "yellow")
    for trouble in _troubles(row):
        yield Text(trouble, "yellow")
    agent = row.agent
    if agent is not None:
        up = f", up {age(agent.started, poll.at)}" if agent.started else ""
        rules = ", ".join(
            f"{count:,} {printable(status, 16)}" for status, count in agent.rules.items()
        )
        yield Text(
            f"agent {shown_name(agent.version)}{up}, every {agent.interval_s:g}s,"
            f" mode {mode(agent)}, rules: {rules or 'none'}"
        )
    elif row.missing is None:
        yield Text("No agent says what it is: none was asked, or it is older than this program.")
    used = ", ".join(usage_words(row.cpu_cores, row.machine))
    yield Text(f"{used}, {counted(row.containers, 'container')}, {row.flagged:,} flagged")
    if agent is not None:
        yield from (Text(line, "dim") for line in _off(agent, _by_choice(agent)))


def _by_choice(agent: AgentStatus) -> frozenset[str]:
    """Return the probes that are off as configured, or have nothing to read on that node."""
    return frozenset(probe.name for probe in agent.probes if probe.state == "off")


def _off(agent: AgentStatus, names: Collection[str]) -> Iterator[str]:
    for name, off in sorted(agent.probes_off.items()):
        if name in names:
            yield f"probe {printable(name, 32)} is off: {printable(off, _TEXT_LENGTH)}"


def _troubles(row: NodeRow) -> Iterator[str]:
    agent = row.agent
    if agent is None:
        return
    if agent.broken_rules:
        yield f"{counted(agent.broken_rules, 'rule file')} cannot be used"
    yield from _off(agent, agent.probes_off.keys() - _by_choice(agent))
    for spot in (*agent.troubles, *agent.blind_spots):
        yield printable(spot, _TEXT_LENGTH)


def _text(row: NodeRow) -> str:
    reason = row.missing.reason if row.missing else ""
    return " ".join((row.node, reason, *_troubles(row))).lower()


def _draw_name(row: NodeRow, _scene: Scene, width: int) -> str:
    return fitted(shown_name(row.node), width)


def _draw_state(row: NodeRow, scene: Scene, _width: int) -> str:
    if row.missing is None:
        return "answered"
    return f"{age(row.answered.isoformat(), scene.now)} ago" if row.answered else "missing"


def _draw_cpu(row: NodeRow, _scene: Scene, _width: int) -> str:
    of = f" of {row.machine.cores}" if row.machine else ""
    return f"{row.cpu_cores:.1f}{of}"


def _draw_memory(row: NodeRow, _scene: Scene, _width: int) -> str:
    machine = row.machine
    return percent(machine.memory_used_bytes / machine.memory_bytes) if machine else NOTHING


def _draw_version(row: NodeRow, _scene: Scene, width: int) -> str:
    return cut(printable(row.agent.version, 32), width) if row.agent else NOTHING


def _draw_rules(row: NodeRow, _scene: Scene, _width: int) -> str:
    return f"{rule_count(row.agent):,}" if row.agent else NOTHING


def _draw_up(row: NodeRow, scene: Scene, _width: int) -> str:
    return age(row.agent.started, scene.now) if row.agent and row.agent.started else NOTHING


def _draw_trouble(row: NodeRow, _scene: Scene, width: int) -> str:
    said = [printable(row.missing.reason, _TEXT_LENGTH)] if row.missing else []
    return cut("; ".join((*said, *_troubles(row))), width)
