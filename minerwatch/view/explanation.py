"""The score of a container explained: the text of ``minerwatch explain``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.text import Text

from minerwatch.abuse_text import text_of
from minerwatch.api.types import ContainerStatus, FindingStatus, ProcessStatus
from minerwatch.detection.planted_words import COMMAND_FIELDS
from minerwatch.format import age, byte_size, counted, percent
from minerwatch.kinds import Abuse, ContainerKind, Level, Maturity, OwnerKind, Signal
from minerwatch.model import FactValue
from minerwatch.untrusted_text.display import printable, shortened, shown_command_line, shown_name
from minerwatch.untrusted_text.redaction import redacted
from minerwatch.view.campaigns import Campaign
from minerwatch.view.columns import LEVEL_STYLES
from minerwatch.view.culling_text import status_lines
from minerwatch.view.executed_code import sentence
from minerwatch.view.gpu_text import gpu_sentence, process_gpus
from minerwatch.view.lines import Line, rendered, wrapped
from minerwatch.view.score import BUSY_CORES, is_held, named_processes, score_lines
from minerwatch.view.selection import abuse_of, full_name, limit_share
from minerwatch.view.verdict_sentence import sentence_of

PROCESSES = "Processes (* has findings; then the busiest)"
"""Title of the section that lists them."""

FACT_INDENT = 11
"""Columns before a fact about the container."""

_TITLE_LENGTH = 200
_TEXT_LENGTH = 600
_SOURCE_LENGTH = 120
_COMMAND_LENGTH = 240  # in the list of processes; what rules saw of it stands above
_EXPECTED_LENGTH = 80
_MAX_GROUPS = 8
_MAX_FINDINGS = 10  # of one process
_MAX_PROCESSES = 10
_MIN_WIDTH = 40
_HEX_ID = re.compile(r"[0-9a-f]{32,64}")
_SHORT_ID_LENGTH = 12
_COMMAND_INDENT = 60

_MEANINGS = {
    Level.CLEAR.label: "No known sign of abuse was found here.",
    Level.SUSPICIOUS.label: "Worth a look when there is time; no ground to act.",
    Level.LIKELY.label: "Look now. The evidence is strong, but a second, independent kind may be"
    " missing.",
    Level.CONFIRMED.label: "Independent kinds of evidence agree. Look at them, then act.",
}

_DOUBTS = {
    Signal.IDENTITY.value: "Names, paths and arguments can be anybody's: a scanner, a course or a"
    " test shows the same.",
    Signal.NETWORK.value: "An address is where it connects to, not what it sends there.",
    Signal.COMPUTE.value: "What it computes does not show the purpose, or the person behind it.",
    Signal.CONTENT.value: "Wallets, nodes and benchmarks carry such code for another purpose.",
    Signal.EXECUTION.value: "Deleted, hidden and in-memory executables also come from upgrades and"
    " from programs that unpack themselves.",
    Signal.BEHAVIOUR.value: "Simulations, builds and training use CPU like this: alone, this"
    " never raises an alarm.",
}

_OTHER_DOUBTS = {
    (Abuse.SCANNING.value, Signal.NETWORK.value): "Its connections fail as those of a scan do;"
    " monitoring with a wrong address list, and a client of a service that is down, also fail.",
    (Abuse.FLOODING.value, Signal.NETWORK.value): "It sends as a flood does; load tests and"
    " telemetry to a receiver that is down send like this, too.",
    (Abuse.BRUTE_FORCE.value, Signal.NETWORK.value): "Many short sessions are also those of a"
    " client with a wrong password, of monitoring and of configuration management.",
    (Abuse.UNREQUESTED_GPU.value, Signal.EXECUTION.value): "The image may have asked for all GPUs"
    " by its defaults: its owner need not know that it uses one.",
    (Abuse.PROXYWARE.value, Signal.NETWORK.value): "As much in as out with many peers is also a"
    " proxy, a mesh or a mirror that somebody asked for.",
}
"""Doubts about a kind of abuse and a signal, instead of the signal's own."""

_NOT_THE_CULPRIT = (
    "It shows what runs here, not the culprit: the owner may be the victim of a break-in."
)
_NOT_ONE = (
    "Each kind of evidence comes from another process: in a container of many programs they may"
    " have nothing to do with each other."
)
_SHARED_NETWORK = (
    "the node's, which counts for all that runs on it: scans and floods are not looked for here"
)
_NOT_HARMLESS = (
    "That it is harmless: a renamed miner that reads its pool from a file looks like this."
    " Ask its owner what it calculates."
)
_OWNER_TITLES = {
    **{each.value: each.value.capitalize() for each in OwnerKind},
    OwnerKind.LAUNCH_HOST.value: "Launched",
    OwnerKind.BUILD.value: "Builds",
}
_GUIDE = "https://github.com/minerwatch/minerwatch/blob/main/docs/sre-guide.md"
_HELD = "The level is held from before: it falls a few ticks later than the score."

_INSPECTORS = {
    "docker": "docker inspect",
    "podman": "podman inspect",
    "containerd": "crictl inspect",
    "cri-o": "crictl inspect",
}


def explanation(
    status: ContainerStatus,
    *,
    now: datetime,
    width: int | None = 100,
    colour: bool = False,
    campaign: Campaign | None = None,
) -> str:
    """Return a sentence to pass on, the evidence, what it does not prove, and what to do.

    Escaped; what the agent did not mask is shown. Long lines are broken at ``width`` columns; None:
    they are not. ``campaign`` is what the container is part of.
    """
    width = None if width is None else max(width, _MIN_WIDTH)
    lines = [Text(sentence_of(status), "bold"), *headline(status, now, width)[1:]]
    for title, body in sections(status, now, campaign=campaign):
        broken = [Text(piece) for line in body for piece in _broken(line, width)]
        if broken:
            lines += [Text(""), *([Text(title, "bold")] if title else []), *broken]
    return rendered(lines, colour=colour)


def headline(status: ContainerStatus, now: datetime, width: int | None) -> list[Text]:
    """Return the name, the verdict, and what the verdict means."""
    meaning = _HELD if is_held(status) else _MEANINGS.get(status.level, "")
    return [
        Text(shown_name(full_name(status)), "bold"),
        Text.assemble(
            (printable(status.level, 16).upper(), LEVEL_STYLES.get(status.level, "bold")),
            f", score {status.score:g} of 100, for {_since(status.since, now)}",
        ),
        *map(Text, _broken(Line(meaning, 0), width)),
    ]


def sections(
    status: ContainerStatus, now: datetime, *, campaign: Campaign | None = None
) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    """Return what follows the headline: titles ("": none), and the lines below each."""
    title = f"Why: {counted(len(status.findings), 'finding')}, strongest first"
    return (
        ("", tuple(_container(status, now, campaign))),
        ("Score", tuple(score_lines(status))),
        (title, tuple(_findings(status, now))),
        (PROCESSES, tuple(_processes(status))),
        ("What this does not prove", tuple(_doubts(status))),
        ("Culling", tuple(_culling(status, now))),
        ("Next", tuple(_next_steps(status))),
    )


def _broken(line: Line, width: int | None) -> Iterator[str]:
    if width is None or line.hang is None:
        yield line.text
        return
    start = line.text[: line.hang]
    for piece in wrapped(line.text[line.hang :], max(1, width - line.hang)):
        yield start + piece
        start = " " * line.hang


def _container(status: ContainerStatus, now: datetime, campaign: Campaign | None) -> Iterator[Line]:
    facts = {
        "Abuse": _abuses(status),
        "CPU": _cpu(status),
        "GPU": gpu_sentence(status),
        "Executes": sentence(status.executed),
        "Network": _SHARED_NETWORK if status.uses_host_network else "",
        "Age": _since(status.started, now) if status.started else "",
        "Owner": status.owner,
        "Campaign": f"one of {campaign}" if campaign else "",
        "Image": status.image,
        "Labels": ", ".join(f"{key}={value}" for key, value in status.labels.items()),
        "Processes": f"{status.process_count:,}",
        "Kind": _kind(status),
        "Id": status.container_id,
        "Pod uid": status.pod_uid,
        "Cgroup": status.cgroup,
        "Node": status.node,
    }
    for name, value in facts.items():
        if value:
            text = printable(shortened(value, _TEXT_LENGTH))
            yield Line(f"{name:{FACT_INDENT}}{text}")
        if name == "Owner":
            yield from _owners(status)


def _owners(status: ContainerStatus) -> Iterator[Line]:
    """Yield all names of the people behind it, each with its source."""
    for each in status.owners:
        if each.kind != OwnerKind.IMAGE.value:
            name = printable(shortened(redacted(each.name), _TEXT_LENGTH))
            source = printable(each.source, _SOURCE_LENGTH)
            claimed = "claimed by " if each.claimed else ""
            title = _OWNER_TITLES.get(each.kind) or printable(each.kind, FACT_INDENT - 1)
            yield Line(f"{title:{FACT_INDENT}}{name}  ({claimed}{source})")


def _abuses(status: ContainerStatus) -> str:
    """Return what it does, and the score of each kind if there are several."""
    if not abuse_of(status):
        return ""
    verb = {Level.SUSPICIOUS.label: "perhaps it ", Level.LIKELY.label: "looks as if it "}
    scores = ", ".join(f"{abuse} {score:g}" for abuse, score in status.abuses.items())
    several = f" ({scores})" if len(status.abuses) > 1 else ""
    return f"{status.abuse}: {verb.get(status.level, '')}{text_of(status.abuse).does}{several}"


def _cpu(status: ContainerStatus) -> str:
    limit = "no limit"
    if status.cpu_limit_cores is not None:
        limit = f"{percent(limit_share(status))} of its limit of {status.cpu_limit_cores:g}"
    throttled = ""
    if status.throttled_share:
        throttled = f", throttled in {percent(status.throttled_share)} of periods"
    return (
        f"{status.cpu_cores:.2f} cores, {limit}{throttled}; {status.cpu_hours:.2f} CPU hours in all"
    )


def _kind(status: ContainerStatus) -> str:
    runtime = f", {status.runtime}" if status.runtime else ""
    manager = status.runtime or "systemd"
    return {
        ContainerKind.POD.value: f"container of a pod{runtime}",
        ContainerKind.ENGINE.value: f"container outside Kubernetes{runtime}",
        ContainerKind.UNIT.value: f"{manager} unit",
        ContainerKind.HOST.value: "the host: all that is in no container and no unit",
    }.get(status.kind, status.kind)


def _findings(status: ContainerStatus, now: datetime) -> Iterator[Line]:
    """Group processes with equal findings, mostly copies of one program."""
    by_pid: dict[int | None, list[FindingStatus]] = {}
    for finding in status.findings:
        by_pid.setdefault(finding.pid, []).append(finding)
    alike: dict[tuple[str, ...], list[int | None]] = {}
    for pid, findings in by_pid.items():
        key = tuple(f"{each.rule} {each.evidence}" for each in findings)
        alike.setdefault(key, []).append(pid)
    groups = list(alike.values())
    for pids in groups[:_MAX_GROUPS]:
        yield Line(f"  {_whose(pids)}")
        yield from _of_one(by_pid[pids[0]], now)
    if len(groups) > _MAX_GROUPS:
        left_out = sum(len(pids) for pids in groups[_MAX_GROUPS:])
        yield Line(f"  … and {counted(left_out, 'process', 'processes')} more: -o json has them")


def _whose(pids: Sequence[int | None]) -> str:
    known = [pid for pid in pids if pid is not None]
    return named_processes(known) if known else "the container as a whole"


def _of_one(findings: Sequence[FindingStatus], now: datetime) -> Iterator[Line]:
    """Yield the evidence, each value once; then the rules, and what they expect."""
    seen = dict.fromkeys(
        (name, _value(name, value))
        for finding in findings
        for name, value in finding.evidence.items()
    )
    for name, text in seen:
        yield Line(f"    {printable(name, 64)}: {text}")
    for finding in findings[:_MAX_FINDINGS]:
        signal, title = printable(finding.signal, 16), printable(finding.title, _TITLE_LENGTH)
        yield Line(f"    {finding.score:4g}  {signal}: {title}")
        if finding.words_only:
            yield Line("          its words stand in one argument or in a script: 60 at most")
        rule = f"{printable(finding.status, 16)} rule {printable(finding.rule, 64)}"
        yield Line(f"          {rule}, for {_since(finding.since, now)}")
        for title in finding.filters:
            yield Line(f"          narrowed by the filter: {printable(title, _TITLE_LENGTH)}")
        for name, expected in finding.expected.items():
            asked = printable(shortened(expected, _EXPECTED_LENGTH))
            yield Line(f"          expected: {printable(name, 64)} {asked}")
    if len(findings) > _MAX_FINDINGS:
        yield Line(f"          … and {len(findings) - _MAX_FINDINGS} more: -o json has them")


def _value(field: str, observed: FactValue) -> str:
    if isinstance(observed, bool):
        return "yes" if observed else "no"
    if isinstance(observed, float):
        return f"{observed:.2f}"
    if field in COMMAND_FIELDS:
        return shown_command_line(str(observed), _TEXT_LENGTH)
    return printable(shortened(str(observed), _TEXT_LENGTH))


def _processes(status: ContainerStatus) -> Iterator[Line]:
    listed = status.processes[:_MAX_PROCESSES]
    if not listed:
        return
    found = {finding.pid for finding in status.findings}
    sizes = any(process.memory_bytes is not None for process in listed)
    memory = "   MEMORY" if sizes else ""
    yield Line(f"        PID   PARENT    CPU{memory}  USER        NAME             COMMAND LINE")
    for process in listed:
        yield from _process(process, "*" if process.pid in found else " ", with_memory=sizes)
    if status.process_count > len(listed):
        yield Line(f"  … and {status.process_count - len(listed):,} more: -o json has them")


def _process(process: ProcessStatus, mark: str, *, with_memory: bool) -> Iterator[Line]:
    cores = "-" if process.cpu_cores is None else f"{process.cpu_cores:.2f}"
    user, name = printable(process.user, 10), printable(process.comm, 15)
    command = shown_command_line(process.command_line, _COMMAND_LENGTH) or "(hidden or empty)"
    size = "-" if process.memory_bytes is None else byte_size(process.memory_bytes)
    memory = f"  {size:>7}" if with_memory else ""
    start = f"{process.pid:7d}  {process.parent_pid:7d}  {cores:>5}{memory}  {user:10}  {name:15}"
    yield Line(f"  {mark} {start}  {command}")
    indent = _COMMAND_INDENT + len(memory)
    if process.image and process.command_line.partition(" ")[0] != process.image:
        image = printable(shortened(process.image, _TEXT_LENGTH))
        yield Line(f"{'':{indent}}executable {image}")
    if process.executed:
        yield Line(f"{'':{indent}}executes {sentence(process.executed)}")
    if gpus := process_gpus(process):
        yield Line(f"{'':{indent}}{gpus}")
    if process.threads is not None and process.open_files is not None:
        threads = counted(process.threads, "thread")
        yield Line(f"{'':{indent}}{threads}, {counted(process.open_files, 'open file')}")


def _doubts(status: ContainerStatus) -> Iterator[Line]:
    for signal, doubt in _DOUBTS.items():
        if signal in status.signals:
            said = _OTHER_DOUBTS.get((status.abuse, signal), doubt)
            yield Line(f"  - {signal}: {said}", 4)
    on_trial = [f for f in status.findings if f.status != Maturity.STABLE.value]
    if on_trial:
        findings = counted(len(on_trial), "finding")
        yield Line(f"  - {findings} from rules that are still on trial.", 4)
    if len(status.signals) > 1 and not _is_one_process(status):
        yield Line(f"  - {_NOT_ONE}", 4)
    if status.findings:
        yield Line(f"  - {_NOT_THE_CULPRIT}", 4)
    elif status.cpu_cores >= BUSY_CORES:
        yield Line(f"  - {_NOT_HARMLESS}", 4)


def _is_one_process(status: ContainerStatus) -> bool:
    """Return True if one process shows two signals; findings of the container count for each."""
    signals: dict[int | None, set[str]] = {}
    for finding in status.findings:
        signals.setdefault(finding.pid, set()).add(finding.signal)
    shared = signals.get(None, set())
    return any(len(shown | shared) > 1 for shown in signals.values())


def _culling(status: ContainerStatus, now: datetime) -> Iterator[Line]:
    """Yield the proposed action or the reasons against it, and the actions so far."""
    if status.culling is not None:
        for text, hang in status_lines(status.culling, _pod_target(status), now):
            yield Line(text, hang)


def _pod_target(status: ContainerStatus) -> str:
    if status.kind in (ContainerKind.ENGINE.value, ContainerKind.UNIT.value):
        return _word(full_name(status))
    namespace, pod = _word(status.namespace), _word(status.pod)
    return f"{namespace}/{pod}" if namespace and pod else ""


def _next_steps(status: ContainerStatus) -> Iterator[Line]:
    target = _word(_short_id(status)) or _word(status.cgroup)
    keep = f"keep the evidence: minerwatch explain {target} -o json > evidence.json"
    steps = [
        *_looks(status),
        keep if target and status.findings else "",
        *_by_hand(status),
        "compare with its neighbours: minerwatch top --once --sort cpu",
        f"how to be sure, inform the owner, stop it: {_GUIDE}",
    ]
    for number, step in enumerate(filter(None, steps), 1):
        yield Line(f"  {number}. {step}")


def _by_hand(status: ContainerStatus) -> Iterator[str]:
    target, culling = _pod_target(status), status.culling
    if culling is None or culling.mode == "off" or not target:
        return
    newest = culling.history[0] if culling.history else None
    if culling.stopped or (newest is not None and newest.outcome == "done"):
        yield f"if this is wrong: minerwatch release {target}"
    elif culling.reasons and status.level == Level.CONFIRMED.label:
        yield f"what the policy would say: minerwatch cull {target} --action evict --dry-run"


def _looks(status: ContainerStatus) -> Iterator[str]:
    pid = next((finding.pid for finding in status.findings if finding.pid is not None), None)
    if pid is not None:
        yield f"what it runs: ls -l /proc/{pid}/exe /proc/{pid}/cwd"
        yield f"its connections: nsenter -t {pid} -n ss -tnp"
    namespace, pod = _word(status.namespace), _word(status.pod)
    identity, inspector = _word(_short_id(status)), _INSPECTORS.get(status.runtime)
    if namespace and pod:
        yield f"its pod: kubectl -n {namespace} describe pod {pod}"
        if container := _word(status.container):
            yield f"its output: kubectl -n {namespace} logs {pod} -c {container} --tail=50"
    elif status.kind == ContainerKind.UNIT.value and status.runtime == "systemd" and identity:
        yield f"its unit: systemctl status {identity}"
    elif inspector and identity:
        yield f"its container: {inspector} {identity}"


def _short_id(status: ContainerStatus) -> str:
    """Return the part of the id that every tool accepts; a unit's name is not cut."""
    is_hex = _HEX_ID.fullmatch(status.container_id)
    return status.container_id[:_SHORT_ID_LENGTH] if is_hex else status.container_id


def _word(text: str) -> str:
    """Return ``text`` as one word of a shell command; "" if it is unsafe to paste."""
    is_harmless = text == shown_name(text) and not text.startswith("-")
    return shlex.quote(text) if text and is_harmless else ""


def _since(since: str, now: datetime) -> str:
    return f"{age(since, now)} (since {printable(since, 32)})"
