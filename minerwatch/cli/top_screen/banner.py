"""What stands above the rows: what was looked at, who is missing, what belongs together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

from rich.cells import cell_len
from rich.text import Text

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.look import Look
from minerwatch.cli.top_screen.rows import Tree, View
from minerwatch.format import counted
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import agents_line, trouble_lines
from minerwatch.view.campaigns import Campaign
from minerwatch.view.lines import cut, padded
from minerwatch.view.overview import missing_lines
from minerwatch.view.table import counts

_NAME_LENGTH = 256
_TEXT_LENGTH = 400
_MAX_NODES = 3  # that miss for one reason, by name
_ROOMY = 100  # columns
_GAP = 2


@dataclass(frozen=True, slots=True)
class Heading:
    """What the banner tells."""

    look: Look
    view: View
    every: Sequence[ContainerStatus]
    shown: int
    campaigns: Sequence[Campaign]
    refresh_s: float
    is_paused: bool = False


def banner_lines(heading: Heading, width: int, height: int) -> list[Text]:
    """At most ``height`` lines of ``width`` columns; what matters least is left out."""
    lines = [*_head(heading, width), Text(cut(_counts(heading, width), width))]
    troubles = [Text(cut(line, width), "yellow") for line in _troubles(heading.look)]
    named = [Text(cut(line, width), "bold") for line in _campaigns(heading.campaigns)]
    room = max(0, height - len(lines))
    if len(troubles) + len(named) <= room:
        return lines + troubles + named
    kept = max(1, room - 1) if named else room
    if len(troubles) > kept > 0:
        more = f" (and {len(troubles) - kept} more: n)"
        last = cut(troubles[kept - 1].plain, max(1, width - len(more))) + more
        troubles = [*troubles[: kept - 1], Text(last, "yellow")]
    return lines + (troubles[:kept] + named)[:room]


def _head(heading: Heading, width: int) -> Iterator[Text]:
    """Whom was asked at the left, when at the right; what the agents are where there is room."""
    state, style = _state(heading, width)
    scope = " · ".join(("minerwatch", *_scope(heading.look)))
    agents = agents_line(heading.look.agents)
    room = max(0, width - cell_len(state) - _GAP)
    both = f"{scope} · {agents}" if agents else scope
    is_one = cell_len(both) <= room
    line = Text(padded(cut(both if is_one else scope, room), room + _GAP))
    line.stylize("bold", 0, len("minerwatch"))
    line.append(state, style)
    yield line
    if not is_one and agents:
        yield Text(cut(agents, width))


def _state(heading: Heading, width: int) -> tuple[str, str]:
    look = heading.look
    at = look.at.astimezone(UTC).strftime("%H:%M:%SZ")
    if heading.is_paused:
        return f"PAUSED at {at}", "bold reverse"
    if look.progress is not None:
        return f"asking {look.progress[0]:,} of {look.progress[1]:,}", "bold"
    return (f"{at}, every {heading.refresh_s:g}s" if width >= _ROOMY else at), ""


def _scope(look: Look) -> Iterator[str]:
    coverage = look.coverage
    if coverage is None:
        nodes = {status.node for status in look.statuses}
        nodes |= {agent.node for agent in look.agents}
        if nodes:
            yield f"node {printable(', '.join(sorted(nodes)), _NAME_LENGTH)}"
        return
    namespace = printable(coverage.namespace, _NAME_LENGTH)
    total = coverage.answered + len(coverage.missing)
    yield f"context {printable(coverage.context, _NAME_LENGTH)}"
    yield f"namespace {namespace}" if namespace else "all namespaces"
    yield f"{coverage.answered:,} of {counted(total, 'node')} answered"


def _counts(heading: Heading, width: int) -> str:
    view = heading.view
    chosen = []
    if view.text:
        chosen.append(f"holding “{printable(view.text, _NAME_LENGTH)}”")
    if view.tree is not Tree.NONE:
        chosen.append(f"by {view.tree.value}")
    containers, processes, burnt, *shown = counts(heading.every, shown=heading.shown)
    variants = (
        (containers, processes, burnt, *shown, *chosen),
        (containers, burnt, *shown, *chosen),
        (containers, *shown, *chosen),
        (*chosen, *shown, containers),
    )
    lines = [" · ".join(variant) for variant in variants]
    return next((line for line in lines if cell_len(line) <= width), lines[-1])


def _troubles(look: Look) -> Iterator[str]:
    if look.failure:
        yield printable(look.failure, _TEXT_LENGTH)
    if look.coverage is not None:
        yield from missing_lines(look.coverage.missing, names=_MAX_NODES)
        if look.coverage.blind_spot:
            yield printable(look.coverage.blind_spot, _TEXT_LENGTH)
    yield from trouble_lines(look.agents, names=_MAX_NODES)
    yield from (printable(note, _TEXT_LENGTH) for note in look.notes)


def _campaigns(found: Sequence[Campaign]) -> Iterator[str]:
    if len(found) == 1:
        yield f"campaign: {found[0]}"
    elif found:
        yield f"{counted(len(found), 'campaign')}, the largest: {found[0]}"
