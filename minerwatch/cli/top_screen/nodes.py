"""Each node that was asked: what its agent says of itself, or why it did not answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from minerwatch.api.types import AgentStatus
from minerwatch.cli.top_screen.look import Look
from minerwatch.format import age, counted
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import agents_line, mode, rule_count
from minerwatch.view.lines import cut, padded, wrapped

_NAME_LENGTH = 256
_NODE_WIDTH = 30
_TEXT_LENGTH = 400


def node_lines(look: Look, width: int) -> list[Text]:
    """Those that did not answer first, then the others, each within ``width`` columns."""
    lines = list(_summary(look, width))
    if look.coverage is not None and look.coverage.missing:
        lines += [Text(""), Text("Missing", "bold")]
        for missing in look.coverage.missing:
            pod = f" ({printable(missing.pod, _NAME_LENGTH)})" if missing.pod else ""
            text = f"{printable(missing.node, _NAME_LENGTH)}{pod}"
            answered = look.stale.get(missing.node)
            stale = (
                f"; its containers are shown as they were {age(answered.isoformat(), look.at)} ago"
                if answered
                else ""
            )
            lines.append(Text(cut(f"  {text}", width), "yellow"))
            reason = f"{printable(missing.reason, _TEXT_LENGTH)}{stale}"
            lines += (Text(f"    {piece}") for piece in wrapped(reason, max(1, width - 4)))
    if look.agents:
        lines += [Text(""), Text(cut(_titles(), width), "bold")]
        for agent in sorted(look.agents, key=lambda each: each.node):
            lines += _agent(agent, look, width)
    return lines


def _summary(look: Look, width: int) -> Iterator[Text]:
    if look.coverage is not None:
        total = look.coverage.answered + len(look.coverage.missing)
        yield Text(f"{look.coverage.answered:,} of {counted(total, 'node')} answered", "bold")
        if look.coverage.blind_spot:
            for piece in wrapped(printable(look.coverage.blind_spot, _TEXT_LENGTH), width):
                yield Text(piece, "yellow")
    if look.agents:
        for piece in wrapped(agents_line(look.agents), width):
            yield Text(piece)
    else:
        text = "No agent says what it is: none was asked, or they are older than this program."
        yield from map(Text, wrapped(text, width))
    for note in look.notes:
        for piece in wrapped(printable(note, _TEXT_LENGTH), width):
            yield Text(piece, "yellow")


def _titles() -> str:
    return f"  {padded('NODE', _NODE_WIDTH)}  {padded('AGENT', 12)}  RULES  MODE     UP      EVERY"


def _agent(agent: AgentStatus, look: Look, width: int) -> Iterator[Text]:
    node = padded(cut(printable(agent.node, _NAME_LENGTH), _NODE_WIDTH), _NODE_WIDTH)
    version = padded(cut(printable(agent.version, _NAME_LENGTH), 12), 12)
    up = age(agent.started, look.at) if agent.started else "?"
    line = (
        f"  {node}  {version}  {rule_count(agent):5,}  {padded(mode(agent), 7)}  {up:>6}"
        f"  {agent.interval_s:g}s"
    )
    yield Text(cut(line, width))
    troubles = [
        f"{counted(agent.broken_rules, 'rule file')} cannot be used" if agent.broken_rules else "",
        *(
            f"probe {printable(name, 32)} is off: {printable(off, _TEXT_LENGTH)}"
            for name, off in sorted(agent.probes_off.items())
        ),
        *(printable(spot, _TEXT_LENGTH) for spot in (*agent.troubles, *agent.blind_spots)),
    ]
    for trouble in filter(None, troubles):
        first, *rest = wrapped(trouble, max(1, width - 6))
        yield Text(f"    - {first}", "dim")
        yield from (Text(f"      {piece}", "dim") for piece in rest)
