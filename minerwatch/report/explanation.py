"""Why a container has its score, in words: what ``minerwatch explain`` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime

from minerwatch.model import ContainerStatus, FactValue, FindingStatus, Level, ProcessStatus
from minerwatch.report.selection import limit_share, place
from minerwatch.report.table import age
from minerwatch.report.text import printable

_TEXT_LENGTH = 600
_EXPECTED_LENGTH = 120
_MAX_FINDINGS = 20
_MAX_PROCESSES = 10

_MEANINGS = {
    Level.CLEAR.label: "nothing here looks like a miner",
    Level.SUSPICIOUS.label: "worth a look when there is time; no ground to act",
    Level.LIKELY.label: "look now; one kind of evidence is strong, a second is missing",
    Level.CONFIRMED.label: "independent kinds of evidence agree; act after a look at them",
}


def explanation(status: ContainerStatus, *, now: datetime, width: int = 100) -> str:
    """The verdict first, then the evidence, then what to do; escaped, never redacted."""
    lines = [
        *_verdict(status, now, width),
        "",
        *_container(status),
        "",
        *_findings(status, now),
        *_processes(status),
        *_next_steps(status, width),
    ]
    return "\n".join(lines) + "\n"


def _verdict(status: ContainerStatus, now: datetime, width: int) -> Iterator[str]:
    yield (
        f"{printable(place(status), 200)}: {status.level.upper()}, score {status.score:.1f} of 100,"
        f" for {age(status.since, now)}"
    )
    yield from textwrap.wrap(f"That means: {_MEANINGS.get(status.level, '')}.", width)
    if status.signals:
        ranked = sorted(status.signals.items(), key=lambda item: (-item[1], item[0]))
        yield "Signals: " + ", ".join(f"{signal} {score:.0f}" for signal, score in ranked)
        if len(ranked) > 1:
            factors = "·".join(f"(1 − {score / 100:.2f})" for _, score in ranked)
            yield f"Joined: 100·(1 − {factors}) = {_joined(status.signals):.1f}"
    if status.score < _floor(status.level):
        yield "The score has fallen; the level follows after three ticks below it."


def _joined(signals: dict[str, float]) -> float:
    rest = 1.0
    for score in signals.values():
        rest *= 1 - score / 100
    return 100 * (1 - rest)


def _floor(level: str) -> float:
    return next((float(each.value) for each in Level if each.label == level), 0.0)


def _container(status: ContainerStatus) -> Iterator[str]:
    share = limit_share(status)
    limit = (
        "no CPU limit"
        if status.cpu_limit_cores is None
        else f"{share or 0:.0%} of its limit of {status.cpu_limit_cores:g} cores"
    )
    if status.throttled_share:
        limit += f", throttled in {status.throttled_share:.0%} of periods"
    facts = {
        "CPU": f"{status.cpu_cores:.2f} cores, {limit}; {status.cpu_hours:.2f} h in all",
        "Processes": str(status.process_count),
        "Owner": status.owner,
        "Image": status.image,
        "Kind": " ".join(part for part in (status.kind, status.runtime) if part),
        "Id": status.container_id,
        "Cgroup": status.cgroup,
        "Pod uid": status.pod_uid,
        "Node": status.node,
    }
    for name, value in facts.items():
        if value:
            yield f"{name + ':':11}{printable(value, _TEXT_LENGTH)}"


def _findings(status: ContainerStatus, now: datetime) -> Iterator[str]:
    if not status.findings:
        yield "No rule holds."
        yield ""
        return
    yield f"Why ({len(status.findings)} findings, strongest first):"
    listed = status.findings[:_MAX_FINDINGS]
    for pid in dict.fromkeys(finding.pid for finding in listed):
        yield from _group([finding for finding in listed if finding.pid == pid], pid, now)
    if len(status.findings) > len(listed):
        yield f"  … and {len(status.findings) - len(listed)} more; -o json has them all"
    yield ""


def _group(findings: list[FindingStatus], pid: int | None, now: datetime) -> Iterator[str]:
    """What was found of one process: each observed value once, then the rules that it fulfils."""
    yield "  the container as a whole:" if pid is None else f"  process {pid}:"
    observed: dict[str, str] = {}
    for finding in findings:
        for name, value in finding.evidence.items():
            observed.setdefault(name, _value(value))
    for name, text in observed.items():
        yield f"    {printable(name, 64)} = {text}"
    for finding in findings:
        yield (
            f"    {finding.score:3.0f} {finding.signal}: {printable(finding.title, 200)}"
            f"  ({finding.status} rule {finding.rule[:8]}, for {age(finding.since, now)})"
        )
        for name, expected in finding.expected.items():
            yield f"        {printable(name, 64)} {printable(expected, _EXPECTED_LENGTH)}"


def _value(observed: FactValue) -> str:
    if isinstance(observed, float):
        return f"{observed:.2f}"
    return printable(str(observed), _TEXT_LENGTH)


def _processes(status: ContainerStatus) -> Iterator[str]:
    listed = status.processes[:_MAX_PROCESSES]
    if not listed:
        return
    yield "Processes (those with findings, then the busiest):"
    yield "      PID  CPU   USER        COMMAND"
    for process in listed:
        yield _process(process)
    if status.process_count > len(listed):
        yield f"  … and {status.process_count - len(listed)} more"
    yield ""


def _process(process: ProcessStatus) -> str:
    cores = "    -" if process.cpu_cores is None else f"{process.cpu_cores:5.2f}"
    command = process.command_line or f"[{process.comm}]"
    return (
        f"  {process.pid:7d} {cores}  {printable(process.user, 10):10}"
        f"  {printable(command, _TEXT_LENGTH)}"
    )


def _next_steps(status: ContainerStatus, width: int) -> Iterator[str]:
    if not status.findings:
        return
    signals = set(status.signals)
    yield "Next:"
    notes = []
    if signals == {"behaviour"}:
        notes.append("Burning CPU is no crime: simulations, builds and training look the same.")
    if len(signals) == 1:
        notes.append(
            "One kind of evidence only. Ask what would explain it otherwise: a security scanner,"
            " a rule author, a course on crypto-currencies."
        )
    pid = next((finding.pid for finding in status.findings if finding.pid), None)
    if pid is not None:
        notes.append(f"See the process itself: ls -l /proc/{pid}/exe; ss -tnp | grep pid={pid},")
    if status.pod:
        notes.append(
            f"See the pod: kubectl -n {printable(status.namespace)} get pod"
            f" {printable(status.pod)} -o yaml"
        )
    notes.append("docs/sre-guide.md says how to be sure, whom to tell, and how to stop it.")
    for note in notes:
        yield from textwrap.wrap(note, width, initial_indent="  - ", subsequent_indent="    ")
