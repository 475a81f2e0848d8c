"""The score of a container as a sum that a reader can check, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minerwatch.api.types import ContainerStatus, FindingStatus
from minerwatch.detection.judge import noisy_or
from minerwatch.format import counted
from minerwatch.kinds import ContainerKind, Level, Maturity, Signal
from minerwatch.untrusted_text.display import printable
from minerwatch.view.lines import Line

BUSY_CORES = 0.3
_TITLE_LENGTH = 200
_MAX_PIDS = 5
_HANG = 13


def score_lines(status: ContainerStatus) -> Iterator[Line]:
    """Yield the sum over signals, its limits, and what it leaves out."""
    if not status.findings:
        yield Line(f"  {_why_nothing(status)}", 2)
        return
    ranked = sorted(status.signals.items(), key=lambda item: (-item[1], item[0]))
    for signal, score in ranked:
        titles = dict.fromkeys(f.title for f in status.findings if f.counted and f.signal == signal)
        best = printable(next(iter(titles), ""), _TITLE_LENGTH)
        more = f" (and {len(titles) - 1} more)" if len(titles) > 1 else ""
        yield Line(f"  {printable(signal, 16):10} {score:4g}  {best}{more}")
    if len(ranked) > 1:
        rests = " × ".join(f"(1 − {score / 100:g})" for _, score in ranked)
        joined = noisy_or(status.signals.values())
        yield Line(f"  joined     100 × (1 − {rests}) = {joined:g}")
        if status.score < joined:
            yield Line(f"  limited to {status.score:g}: {_why_limited(status, joined)}", 2)
    if is_held(status):
        yield Line(
            f"  {printable(status.level, 16)} asks for {Level.of_label(status.level).value}", 2
        )
    for number, line in enumerate(_left_out(status)):
        yield Line(f"  {'' if number else 'left out':{_HANG - 2}}{line}", _HANG)


def is_held(status: ContainerStatus) -> bool:
    """Return True if the level is from before: the score has fallen below it."""
    return status.score < Level.of_label(status.level)


def _left_out(status: ContainerStatus) -> Iterator[str]:
    """Yield the findings that do not raise the score, by reason."""
    other_abuse = [f for f in status.findings if not f.counted and _is_other_abuse(f, status)]
    elsewhere = [f for f in status.findings if not f.counted and not _is_other_abuse(f, status)]
    if elsewhere:
        pids = [*dict.fromkeys(each.pid for each in elsewhere if each.pid is not None)]
        where = "the host" if status.kind == ContainerKind.HOST.value else "the container"
        yield (
            f"{counted(len(elsewhere), 'finding')} of {named_processes(pids)}: processes of"
            f" {where} are unrelated, so the score is that of the worst one"
        )
    if other_abuse:
        kinds = ", ".join(sorted({printable(each.abuse, 16) for each in other_abuse}))
        yield (
            f"{counted(len(other_abuse), 'finding')} of {kinds}: the score is of one kind of abuse,"
            f" here {printable(status.abuse, 16)}"
        )
    own = [finding for finding in status.findings if finding.counted]
    weaker = len(own) - len({finding.signal for finding in own})
    if weaker > 0:
        yield f"{counted(weaker, 'finding')}: of each signal only the strongest counts"
    on_trial = [each for each in own if each.status == Maturity.EXPERIMENTAL.value]
    if on_trial:
        yield (
            f"{counted(len(on_trial), 'finding')} of experimental rules: in the score, but no"
            " ground for Events and actions"
        )


def _is_other_abuse(finding: FindingStatus, status: ContainerStatus) -> bool:
    return bool(finding.abuse and status.abuse) and finding.abuse != status.abuse


def named_processes(pids: Sequence[int]) -> str:
    """Return ``processes 1, 2 and 3 more``."""
    more = f" and {len(pids) - _MAX_PIDS} more" if len(pids) > _MAX_PIDS else ""
    listed = ", ".join(map(str, pids[:_MAX_PIDS]))
    return f"{'process' if len(pids) == 1 else 'processes'} {listed}{more}"


def _why_limited(status: ContainerStatus, joined: float) -> str:
    """Return which of the two limits the judge has set to the sum."""
    others = [score for signal, score in status.signals.items() if signal != Signal.BEHAVIOUR]
    if Level.of(noisy_or(others)) < Level.of(joined):
        return "behaviour never changes the level"
    return "words of one argument lift nothing above suspicious"


def _why_nothing(status: ContainerStatus) -> str:
    if status.level != Level.CLEAR.label:
        return "No rule holds any more."
    if status.cpu_cores >= BUSY_CORES:
        return f"No rule holds. It is busy with {status.cpu_cores:.2f} cores, and nothing else."
    return f"No rule holds, and it uses little CPU: {status.cpu_cores:.2f} cores."
