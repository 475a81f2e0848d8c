"""One agent's own state as text: ``minerwatch status``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.text import Text

from minerwatch.api.types import AgentStatus
from minerwatch.format import age, counted
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import mode, rule_count
from minerwatch.view.lines import cut, rendered, wrapped

_MAX_CHARS = 400
_INDENT = 2
_NAME_WIDTH = 14
_BOUNDS = "Bounds reached, since the start unless it says now"
_STATE_STYLES = {"failing": "bold red", "unavailable": "yellow"}


def problems(agent: AgentStatus) -> tuple[str, ...]:
    """Return what fails now and has to be mended, a line each; empty: the agent works."""
    return tuple(
        printable(line, _MAX_CHARS)
        for line in (
            *([f"not ready: {agent.not_ready}"] if agent.not_ready else ()),
            *agent.troubles,
            *(f"{source} fails: {why}" for source, why in agent.failing.items()),
            *([_rejected(agent)] if agent.broken_rules else ()),
        )
    )


def status_text(agent: AgentStatus, *, now: datetime, width: int | None, colour: bool) -> str:
    """Return the state of one agent; long lines are broken at ``width`` columns."""
    wrong = problems(agent)
    lines = [_headline(agent, now)]
    lines += [Text(f"  {line}", "bold red") for line in _broken(wrong, width)]
    lines += [Text(line) for line in _facts(agent, now)]
    if agent.probes:
        lines += [Text(""), Text("Probes", "bold"), *_probes(agent, width)]
    for title, body in (
        ("Rejected rule files", agent.rejected),
        ("Cannot be seen", agent.blind_spots),
        (_BOUNDS, [f"{what}: {count:,}" for what, count in agent.bounds.items()]),
    ):
        if body:
            lines += [Text(""), Text(title, "bold")]
            lines += [Text(f"  {line}") for line in _broken(body, width)]
    return rendered(lines, colour=colour)


def fleet_row(agent: AgentStatus, *, width: int | None) -> str:
    """Return the state of one of many agents as a line."""
    wrong = problems(agent)
    off = [probe.name for probe in agent.probes if probe.state == "unavailable"]
    tick = agent.last_tick
    parts = (
        f"{printable(agent.node, _MAX_CHARS)}: {'FAILING' if wrong else 'ok'}",
        *wrong[:1],
        *([f"and {len(wrong) - 1} more"] if len(wrong) > 1 else ()),
        printable(agent.version, _MAX_CHARS),
        f"{rule_count(agent):,} rules",
        mode(agent),
        *([f"tick {_milliseconds(tick.duration_s)}"] if tick else ()),
        *([counted(tick.containers, "container")] if tick else ()),
        *([f"unavailable: {printable(', '.join(off), _MAX_CHARS)}"] if off else ()),
    )
    line = " · ".join(parts)
    return line if width is None else cut(line, width)


def _headline(agent: AgentStatus, now: datetime) -> Text:
    up = f", up {age(agent.started, now)}" if agent.started else ""
    is_good = not problems(agent)
    return Text.assemble(
        (f"node {printable(agent.node, _MAX_CHARS)}: ", "bold"),
        ("ok", "bold") if is_good else ("FAILING", "bold red"),
        f", agent {printable(agent.version, _MAX_CHARS)}{up}",
    )


def _facts(agent: AgentStatus, now: datetime) -> Iterator[str]:
    facts = {
        "kernel": f"{agent.kernel}, {agent.cgroups}" if agent.kernel else "",
        "tick": _tick(agent, now),
        "rules": _rules(agent),
        "culling": mode(agent),
        "cluster": _cluster(agent, now),
        "metrics": agent.metrics,
        "capabilities": ", ".join(agent.capabilities) or ("none" if agent.kernel else ""),
    }
    for name, value in facts.items():
        if value:
            yield f"  {name:{_NAME_WIDTH}}{printable(value, _MAX_CHARS)}"


def _tick(agent: AgentStatus, now: datetime) -> str:
    interval, tick = f"every {agent.interval_s:g} s", agent.last_tick
    if tick is None:
        return f"{interval}, none yet" if agent.kernel else interval
    return (
        f"{interval}; the last {age(tick.ended, now)} ago, in {_milliseconds(tick.duration_s)}:"
        f" {counted(tick.containers, 'container')},"
        f" {counted(tick.processes, 'process', 'processes')}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _rules(agent: AgentStatus) -> str:
    by_status = ", ".join(f"{count:,} {status}" for status, count in sorted(agent.rules.items()))
    rejected = f"; {_rejected(agent)}" if agent.broken_rules else ""
    return f"{rule_count(agent):,} in force: {by_status}{rejected}"


def _rejected(agent: AgentStatus) -> str:
    return f"{counted(agent.broken_rules, 'rule file')} rejected"


def _cluster(agent: AgentStatus, now: datetime) -> str:
    cluster = agent.cluster
    if cluster is None:
        return ""
    synced = f"synced {age(cluster.synced, now)} ago" if cluster.synced else "never synced"
    unnamed = (
        f"; {counted(cluster.unnamed, 'container')} of pods without a name"
        if cluster.unnamed
        else ""
    )
    return f"{cluster.server}: {counted(cluster.pods, 'pod')}, {synced}{unnamed}"


def _probes(agent: AgentStatus, width: int | None) -> Iterator[Text]:
    for probe in agent.probes:
        name = printable(probe.name, _NAME_WIDTH)
        state, why = printable(probe.state, 16), printable(probe.reason, _MAX_CHARS)
        source = f"by {printable(probe.source, 64)}" if probe.source else ""
        text = ", ".join(filter(None, (source, why)))
        start = f"  {name:{_NAME_WIDTH}}"
        room = None if width is None else max(24, width - len(start) - 13)
        first, *others = wrapped(text, room) if room and text else [text]
        yield Text.assemble(start, (f"{state:13}", _STATE_STYLES.get(state, "")), first)
        yield from (Text(f"{'':{len(start) + 13}}{line}") for line in others)


def _broken(lines: Sequence[str], width: int | None) -> Iterator[str]:
    for line in lines:
        text = printable(line, _MAX_CHARS)
        yield from wrapped(text, max(24, width - _INDENT)) if width else (text,)
