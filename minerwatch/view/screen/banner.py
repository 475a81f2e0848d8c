"""The lines above the rows: the agents that were asked, what is missing, campaigns. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC

from rich.cells import cell_len
from rich.text import Text

from minerwatch.format import counted
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.agent_summary import agents_line, machine_totals, trouble_lines
from minerwatch.view.campaigns import Campaign
from minerwatch.view.lines import cut, padded
from minerwatch.view.overview import coverage_lines, scope_parts
from minerwatch.view.screen.containers import Kind, Tree
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presentation
from minerwatch.view.selection import unknown_namespace
from minerwatch.view.table import counts

_TEXT_LENGTH = 400
_MAX_NODES = 3  # that miss for one reason, by name
_ROOMY = 100  # columns
_GAP = 2


def banner_lines(shown: Presentation, state: str, width: int, height: int) -> list[Text]:
    """Return at most ``height`` lines of ``width`` columns; what matters least is left out.

    ``state``: how up to date it is; stands at the right.
    """
    lines = [*_head(shown.poll, state, width), Text(cut(_counts(shown, width), width))]
    troubles = [Text(cut(line, width), "yellow") for line in _troubles(shown)]
    named = [Text(cut(line, width), "bold") for line in _campaigns(shown.campaigns)]
    room = max(0, height - len(lines))
    kept = room if len(troubles) + len(named) <= room or not named else max(1, room - 1)
    if len(troubles) > kept > 0:
        more = f" (and {len(troubles) - kept} more: n)"
        last = cut(troubles[kept - 1].plain, max(1, width - len(more))) + more
        troubles = [*troubles[: kept - 1], Text(last, "yellow")]
    return lines + (troubles[:kept] + named)[:room]


def state_of(poll: Poll, refresh_s: float, width: int, *, is_paused: bool) -> str:
    """Return when it was read, or how far it has come."""
    at = poll.at.astimezone(UTC).strftime("%H:%M:%SZ")
    if is_paused:
        return f"PAUSED at {at}"
    if poll.progress is not None:
        return f"asking {poll.progress[0]:,} of {poll.progress[1]:,}"
    return f"{at}, every {refresh_s:g}s" if width >= _ROOMY else at


def _head(poll: Poll, state: str, width: int) -> Iterator[Text]:
    """Yield the scope with the state; the agents beside it, or in a line of their own."""
    scope = " · ".join(("minerwatch", *_scope(poll)))
    agents = agents_line(poll.agents)
    room = max(0, width - cell_len(state) - _GAP)
    both = f"{scope} · {agents}" if agents else scope
    is_one = cell_len(both) <= room
    line = Text(padded(cut(both if is_one else scope, room), room + _GAP))
    line.stylize("bold", 0, len("minerwatch"))
    line.append(state, "bold reverse" if state.startswith("PAUSED") else "")
    yield line
    if not is_one and agents:
        yield Text(cut(agents, width))


def _scope(poll: Poll) -> Iterator[str]:
    if poll.coverage is not None:
        yield from scope_parts(poll.coverage)
        return
    nodes = {status.node for status in poll.statuses} | {agent.node for agent in poll.agents}
    if nodes:
        yield f"node {shown_name(', '.join(sorted(nodes)))}"


def _counts(shown: Presentation, width: int) -> str:
    view = shown.view
    chosen = [f"holding “{shown_name(view.text)}”"] if view.text else []
    if view.tree is not Tree.NONE and view.kind is Kind.CONTAINERS:
        chosen.append(f"by {view.tree.value}")
    if view.kind is Kind.PROCESSES and any(
        each.process_count > len(each.processes) for each in shown.every
    ):
        chosen.append("the busiest of each container")
    containers, processes, *usage = counts(
        shown.every,
        shown=shown.containers,
        machine=shown.poll.machine or machine_totals(shown.poll.agents),
    )
    some = [usage.pop()] if shown.containers < len(shown.every) else []
    variants = (
        (containers, processes, *usage, *some, *chosen),
        (containers, *usage, *some, *chosen),
        (containers, *usage[:1], *some, *chosen),
        (containers, *some, *chosen),
        (*chosen, *some, containers),
    )
    lines = [" · ".join(variant) for variant in variants]
    return next((line for line in lines if cell_len(line) <= width), lines[-1])


def _troubles(shown: Presentation) -> Iterator[str]:
    poll = shown.poll
    if poll.failure:
        yield printable(poll.failure, _TEXT_LENGTH)
    if poll.coverage is None:
        if unknown := unknown_namespace(poll.statuses, shown.view.namespace):
            yield unknown
        yield from trouble_lines(poll.agents, names=_MAX_NODES)
    else:
        yield from coverage_lines(poll.coverage, names=_MAX_NODES)
    yield from (printable(note, _TEXT_LENGTH) for note in poll.notes)


def _campaigns(found: Sequence[Campaign]) -> Iterator[str]:
    if len(found) == 1:
        yield f"campaign: {found[0]}"
    elif found:
        yield f"{counted(len(found), 'campaign')}, the largest: {found[0]}"
