"""Agents in a few words: version, rules in force, mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from minerwatch.api.types import AgentStatus
from minerwatch.config.values import DRY_RUN, ENFORCE, OFF
from minerwatch.format import counted
from minerwatch.kinds import MachineTotals
from minerwatch.untrusted_text.display import printable, shown_name

_MODES = {str(OFF): "observe", str(DRY_RUN): "dry-run", str(ENFORCE): "enforce"}
_NOT_SAID = "unknown"
_MAX_VARIANTS = 3
_WORD_LENGTH = 32
_TROUBLE_LENGTH = 400


def mode(agent: AgentStatus) -> str:
    """Return the agent's mode: ``observe``, ``dry-run`` or ``enforce``."""
    return _MODES.get(agent.culling) or printable(agent.culling, _WORD_LENGTH) or _NOT_SAID


def rule_count(agent: AgentStatus) -> int:
    """Return the number of rules in force, of every status."""
    return sum(agent.rules.values())


def agents_line(agents: Sequence[AgentStatus]) -> str:
    """Return ``agent 0.1.0 · 112 rules · mode observe``, or counts where agents differ.

    The most frequent comes first.
    """
    if not agents:
        return ""
    versions = _variants(printable(agent.version, _WORD_LENGTH) for agent in agents)
    broken = sum(1 for agent in agents if agent.broken_rules)
    parts = [
        f"{'agent' if len(agents) == 1 else 'agents'} {versions}",
        f"{_variants(f'{rule_count(agent):,}' for agent in agents)} rules",
        f"mode {_variants(mode(agent) for agent in agents)}",
    ]
    if broken and len(agents) == 1:
        parts.insert(2, f"{counted(agents[0].broken_rules, 'rule file')} broken")
    elif broken:
        parts.insert(2, f"broken rule files on {counted(broken, 'node')}")
    return " · ".join(parts)


def machine_totals(agents: Sequence[AgentStatus]) -> MachineTotals | None:
    """Return the totals of the agents' nodes; None if one of them is unknown."""
    known = [agent.machine for agent in agents if agent.machine is not None]
    if not known or len(known) < len(agents):
        return None
    return sum(known[1:], known[0])


def trouble_lines(agents: Sequence[AgentStatus], *, names: int | None = None) -> list[str]:
    """Return a line for each thing that agents cannot do now, with at most ``names`` nodes."""
    by_trouble: dict[str, list[str]] = {}
    for agent in agents:
        for trouble in agent.troubles:
            node = shown_name(agent.node)
            by_trouble.setdefault(printable(trouble, _TROUBLE_LENGTH), []).append(node)
    return [f"{_listed(nodes, names)}: {trouble}" for trouble, nodes in by_trouble.items()]


def _listed(nodes: Sequence[str], most: int | None) -> str:
    more = len(nodes) - len(nodes[:most])
    rest = f" and {counted(more, 'node')} more" if more else ""
    return f"{'node' if len(nodes) == 1 else 'nodes'} {', '.join(nodes[:most])}{rest}"


def _variants(words: Iterable[str]) -> str:
    """Return ``a`` where all are alike, else ``a (998), b (2)``."""
    counts = Counter(words).most_common()
    if len(counts) == 1:
        return counts[0][0]
    text = ", ".join(f"{word} ({count:,})" for word, count in counts[:_MAX_VARIANTS])
    return text + (", …" if len(counts) > _MAX_VARIANTS else "")
