"""Culling as text: output of ``minerwatch cull`` and ``release``, section of ``explain``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from minerwatch.api.types import CullAnswer, CullStatus, ReleaseAllAnswer, ReleaseAnswer
from minerwatch.culling.records import AuditLine, DecisionLine
from minerwatch.format import age, counted
from minerwatch.kinds import Action, Outcome
from minerwatch.untrusted_text.display import printable, shown_name

_MAX_ROWS = 200
_MAX_REASONS = 3

_DONE: Mapping[str, str] = {
    Action.LABEL: "labelled",
    Action.STOP: "stopped",
    Action.PAUSE: "paused",
    Action.KILL: "killed",
    Action.STOP_CONTAINER: "stopped by its engine",
    Action.STOP_SERVER: "stopped by its hub",
    Action.EVICT: "evicted",
    Action.DELETE: "deleted",
}
_OUTCOMES: Mapping[str, str] = {
    Outcome.DONE: "It was done.",
    Outcome.DRY_RUN: "It would have been done; this was a dry run, and nothing was changed.",
    Outcome.REFUSED: "It was refused.",
    Outcome.FAILED: "It failed.",
    Outcome.UNKNOWN: "It is unknown whether it was done: check the pod.",
    Outcome.WITHDRAWN: "It was withdrawn before anything was done.",
}
_RANK = (Outcome.WITHDRAWN, Outcome.FAILED, Outcome.REFUSED, Outcome.UNKNOWN, Outcome.DRY_RUN,
         Outcome.DONE)  # fmt: skip


def cull_text(answer: CullAnswer) -> str:
    """Return the decision with all reasons, the exact request and its outcome."""
    names = _names(answer.namespace, answer.pod, answer.container)
    lines = [
        f"{names} on node {shown_name(answer.node)}",
        f"{printable(answer.level, 16).upper()}, score {answer.score:g} of 100"
        + (f", owner {shown_name(answer.owner)}" if answer.owner else ""),
        "",
    ]
    lines += decision_lines(answer)
    if answer.request:
        is_sent = answer.outcome not in ("", Outcome.WITHDRAWN.value)
        lines += ["", "Sent:" if is_sent else "Not sent:", f"  {printable(answer.request)}"]
    if answer.outcome:
        said = f" {printable(answer.message)}" if answer.message else ""
        lines += ["", f"{_OUTCOMES.get(answer.outcome, printable(answer.outcome))}{said}"]
    return "\n".join(lines) + "\n"


def decision_lines(answer: CullAnswer) -> list[str]:
    """Return the decision and all reasons."""
    how = " in a dry run" if answer.dry_run else ""
    proposed = f"{printable(answer.proposed, 16)} it"
    if answer.proposed == Action.STOP_CONTAINER:
        proposed = "stop the container"
    if answer.proposed == Action.STOP_SERVER:
        proposed = "have the hub stop the server"
    if answer.acts:
        return [f"The policy permits to {proposed}{how}."]
    reasons = [f"  - {printable(reason)}" for reason in answer.reasons]
    return [f"The policy does not permit to {proposed}{how}:", *reasons]


def release_text(answer: ReleaseAnswer) -> str:
    """Return what was undone and what could not be."""
    lines = [
        f"{_names(answer.namespace, answer.pod, answer.container)} is released: no further actions."
    ]
    if answer.resumed:
        pids = ", ".join(map(str, answer.resumed))
        lines.append(f"{counted(len(answer.resumed), 'process', 'processes')} continued: {pids}")
    if answer.gone:
        lines.append(f"{counted(len(answer.gone), 'process', 'processes')} had exited already.")
    if answer.label_removed:
        lines.append("The quarantine label was removed.")
    if answer.unpaused:
        lines.append("The container is no longer paused.")
    if answer.bans_lifted:
        lines.append(f"{counted(answer.bans_lifted, 'ban')} lifted.")
    undone = answer.resumed or answer.gone or answer.label_removed or answer.unpaused
    if not (undone or answer.bans_lifted or answer.trouble):
        lines.append("There was nothing to undo.")
    lines += [f"Not undone: {printable(each)}" for each in answer.trouble]
    return "\n".join(lines) + "\n"


def release_all_text(answer: ReleaseAllAnswer) -> str:
    """Return what was undone on one node and what could not be."""
    where = f"Node {shown_name(answer.node)}"
    lines = [f"{where}: {counted(len(answer.released), 'pod')} released."]
    lines += [f"  {line}" for each in answer.released for line in release_text(each).splitlines()]
    lines += [f"  Not undone: {printable(each)}" for each in answer.trouble]
    if answer.forgotten:
        lines.append("  Audit log, evidence and budget are removed.")
    if answer.acts_no_more:
        lines.append("  The agent does not act again until it is restarted.")
    return "\n".join(lines) + "\n"


def status_lines(
    status: CullStatus, target: str, now: datetime
) -> Iterator[tuple[str, int | None]]:
    """Yield the lines of ``explain``, each with its hanging indent; None: never wrap it.

    ``target``: the container's name in a command; "": there is none that is safe to paste.
    """
    if status.mode == "off":
        yield "  Off: nothing is done (culling.mode).", 2
    else:
        yield from _decision_lines(status)
    if status.stopped:
        pids = ", ".join(map(str, status.stopped))
        yield f"  Stopped by minerwatch: process {pids}", 4
        if target:
            yield f"  To release it: minerwatch release {target}", None
    for each in status.history:
        tried = " (dry run)" if each.dry_run else ""
        what = f"{each.action}{tried}: {each.outcome}" if each.action != "release" else "released"
        yield f"  {age(each.at, now)} ago: {printable(what, 64)}", 2


def _decision_lines(status: CullStatus) -> Iterator[tuple[str, int]]:
    how = " in a dry run" if status.dry_run else ""
    if not status.reasons:
        yield f"  It will be {_done(status.proposed)}{how}.", 2
        return
    if status.proposed != Action.OBSERVE.value:
        yield f"  It is not {_done(status.proposed)}{how}, because:", 2
    for reason in status.reasons:
        yield f"  - {printable(reason)}", 4


@dataclass(slots=True)
class _Candidate:
    """A pod with a proposed action, and the action's best outcome."""

    decision: DecisionLine
    at: str
    node: str
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    message: str = ""


def simulation_text(lines: Sequence[AuditLine], hours: float) -> str:
    """Return past decisions and their outcomes; one line a pod and action."""
    candidates = _candidates(lines)
    span = "In the last hour" if hours == 1 else f"In the last {hours:g} hours"
    if not candidates:
        return f"{span} no container was confirmed; nothing was or would have been culled.\n"
    rows = [_row(each) for each in candidates[-_MAX_ROWS:]]
    if len(candidates) > _MAX_ROWS:
        rows.insert(0, f"… {len(candidates) - _MAX_ROWS} earlier ones: use -o json")
    return "\n".join([f"{span}: {_totals(candidates)}.", "", *rows]) + "\n"


def _candidates(lines: Sequence[AuditLine]) -> list[_Candidate]:
    found: dict[tuple[str, str], _Candidate] = {}
    of_record: dict[str, tuple[str, str]] = {}
    for line in lines:
        if line.decision is not None:
            key = (line.decision.pod_uid, line.decision.proposed)
            each = found.setdefault(key, _Candidate(line.decision, line.at, line.node))
            each.decision, each.reasons = line.decision, line.decision.reasons
            if line.record is not None:
                of_record[line.record.id] = key
        elif line.kind == "outcome" and line.record is not None:
            known = found.get(of_record.get(line.record.id, ("", "")))
            if known is not None and line.record.outcome in _RANK:
                _update_outcome(known, line.record.outcome, line)
    return sorted(found.values(), key=lambda each: each.at)


def _update_outcome(candidate: _Candidate, outcome: Outcome, line: AuditLine) -> None:
    before = -1 if candidate.outcome is None else _RANK.index(candidate.outcome)
    if _RANK.index(outcome) >= before:
        candidate.outcome, candidate.message, candidate.at = outcome, line.message, line.at


def _row(candidate: _Candidate) -> str:
    decision = candidate.decision
    full_name = _names(decision.namespace, decision.pod, decision.container)
    owner = f" ({shown_name(decision.owner)})" if decision.owner else ""
    return f"{printable(candidate.at[:19], 19)}Z  {full_name}{owner}  {_result(candidate)}"


def _result(candidate: _Candidate) -> str:
    if success := _success(candidate):
        return success
    done, outcome = _done(candidate.decision.proposed), candidate.outcome
    why = [printable(reason, 160) for reason in candidate.reasons[:_MAX_REASONS]]
    if outcome is not None:
        why = [f"{outcome.value}: {printable(candidate.message, 160)}"]
    more = len(candidate.reasons) - _MAX_REASONS
    more_text = f" and {more} more" if outcome is None and more > 0 else ""
    return f"not {done}: {' '.join(why) or 'the decision is in progress'}{more_text}"


def _totals(candidates: Sequence[_Candidate]) -> str:
    totals = Counter(_success(each) or "left alone" for each in candidates)
    return ", ".join(f"{number} {what}" for what, number in sorted(totals.items()))


def _success(candidate: _Candidate) -> str:
    """Return the action if it was taken, or would have been; "": it was not."""
    done = _done(candidate.decision.proposed)
    if candidate.outcome is Outcome.DRY_RUN:
        return f"would have been {done}"
    return done if candidate.outcome is Outcome.DONE else ""


def _done(action: str) -> str:
    return _DONE.get(action, "acted on")


def _names(namespace: str, pod: str, container: str) -> str:
    if pod and not namespace:  # on a host the name is whole
        return shown_name(pod)
    parts = (namespace, pod, container) if pod else (container,)
    return "/".join(shown_name(part) for part in parts if part)
