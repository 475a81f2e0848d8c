"""The output of ``minerwatch top --once``: coverage, missing nodes, campaigns, the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from minerwatch.api.types import AgentStatus, ContainerStatus, Unanswered
from minerwatch.format import counted
from minerwatch.kinds import MachineTotals
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.agent_summary import agents_line, machine_totals, trouble_lines
from minerwatch.view.campaigns import Campaign
from minerwatch.view.lines import cut, rendered
from minerwatch.view.table import banner, table

_MAX_CAMPAIGNS = 5
_MAX_NODES = 8  # that miss for one reason, by name
_REASON_LENGTH = 400


@dataclass(frozen=True, slots=True)
class Coverage:
    """The part of a cluster that answered."""

    context: str
    namespace: str  # "": all
    answered: int  # nodes
    missing: tuple[Unanswered, ...]
    blind_spot: str = ""  # what is not known of the rest; "": all is known
    agents: tuple[AgentStatus, ...] = ()  # of those that say what they are

    @property
    def is_complete(self) -> bool:
        """Return True if every agent answered; nodes may have none on purpose."""
        return not any(each.pod for each in self.missing)

    @property
    def limits(self) -> str:
        """Return the end of a sentence on all containers: the nodes that it covers."""
        if not self.missing:
            return ""
        if not self.answered:
            return ": no agent has answered, so nothing is known"
        return (
            f" on the {counted(self.answered, 'node')} that answered;"
            f" nothing is known of {counted(len(self.missing), 'other')}"
        )


def overview(
    shown: Sequence[ContainerStatus],
    every: Sequence[ContainerStatus],
    found: Sequence[Campaign],
    *,
    coverage: Coverage | None = None,
    machine: MachineTotals | None = None,
    now: datetime,
    width: int | None,
    colour: bool,
) -> str:
    """Return ``shown`` as a table, below totals of all that it was chosen from.

    ``coverage`` is the cluster's; None: this node alone. ``machine`` has its totals, if it was
    sampled here. ``width`` as for a table.
    """
    top = head(
        every, found, shown=len(shown), coverage=coverage, machine=machine, width=width,
        colour=colour,
    )  # fmt: skip
    rows = table(shown, now=now, width=width, colour=colour)
    if not shown and coverage and coverage.missing:
        rows = f"no container to show{coverage.limits}\n"
    return top + rows


def head(
    every: Sequence[ContainerStatus],
    found: Sequence[Campaign],
    *,
    shown: int,
    coverage: Coverage | None,
    machine: MachineTotals | None,
    width: int | None,
    colour: bool,
) -> str:
    """Return the lines above a table: coverage, missing nodes, counts, campaigns."""

    def styled(line: str, style: str = "") -> Text:
        return Text(line if width is None else cut(line, width), style)

    lines = []
    agents = coverage.agents if coverage else ()
    if coverage:
        lines.append(styled(_scope(coverage)))
        lines += [styled(line, "yellow") for line in coverage_lines(coverage, names=_MAX_NODES)]
    lines.append(Text(banner(every, shown=shown, machine=machine or machine_totals(agents))))
    lines += [styled(line, "bold") for line in _named(found)]
    return rendered(lines, colour=colour)


def coverage_lines(coverage: Coverage, *, names: int | None = None) -> list[str]:
    """Return what is not known of the cluster, and what its agents cannot do now, a line each."""
    blind_spot = printable(coverage.blind_spot, _REASON_LENGTH)
    return [
        *missing_lines(coverage.missing, names=names),
        *([blind_spot] if blind_spot else ()),
        *trouble_lines(coverage.agents, names=names),
    ]


def missing_lines(missing: Sequence[Unanswered], *, names: int | None = None) -> list[str]:
    """Return a line for each reason with its nodes, at most ``names`` of them by name."""
    by_reason: dict[str, list[Unanswered]] = {}
    for each in missing:
        by_reason.setdefault(each.reason, []).append(each)
    return [
        f"missing {_nodes(nodes, names)}: {printable(reason, _REASON_LENGTH)}"
        for reason, nodes in by_reason.items()
    ]


def scope_parts(coverage: Coverage) -> tuple[str, str, str]:
    """Return context, namespace, and how many nodes answered."""
    namespace = shown_name(coverage.namespace)
    expected = coverage.answered + len(coverage.missing)
    return (
        f"context {shown_name(coverage.context)}",
        f"namespace {namespace}" if namespace else "all namespaces",
        f"{coverage.answered:,} of {counted(expected, 'node')} answered",
    )


def _scope(coverage: Coverage) -> str:
    parts = (*scope_parts(coverage), agents_line(coverage.agents))
    return " · ".join(part for part in parts if part)


def _nodes(missing: Sequence[Unanswered], names: int | None) -> str:
    if len(missing) == 1:
        pod = f" ({shown_name(missing[0].pod)})" if missing[0].pod else ""
        return shown_name(missing[0].node) + pod
    listed = [shown_name(each.node) for each in missing[:names]]
    more = len(missing) - len(listed)
    return ", ".join(listed) + (f" and {counted(more, 'node')} more" if more else "")


def _named(found: Sequence[Campaign]) -> Iterator[str]:
    for campaign in found[:_MAX_CAMPAIGNS]:
        yield f"campaign: {campaign}"
    if len(found) > _MAX_CAMPAIGNS:
        yield f"and {counted(len(found) - _MAX_CAMPAIGNS, 'campaign')} more, of fewer pods"
