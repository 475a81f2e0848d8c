"""One decision, carried out: evidence, budget, second look, action, record, in this order.

The steps are those of ``minerwatch.cull``. What may go wrong between them:

- the agent is killed: the audit log has the action as pending, and the next agent takes it for one
  that may have happened;
- the evidence cannot be kept, there is no place in the budget, or the pod is not what it was: the
  action is withdrawn, and its place given back;
- the API server asks for patience (429), somebody else changed the pod (409), credentials have to
  be renewed (401): nothing has happened, so the pod is looked at again, and if still nothing speaks
  against it, the request is made again; some times, for a minute at most;
- the answer is lost: the pod is looked at, and shows whether it has happened. Where it does not,
  nobody knows, and that is what is recorded. No request is repeated that may have been carried out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from minerwatch.config.schema import Culling
from minerwatch.culling.decision import Decision, Reason
from minerwatch.culling.evidence import MAX_PROCESSES, bundle, file_name
from minerwatch.culling.journal import Journal
from minerwatch.culling.pod_actions import (
    Actions,
    Request,
    SeenPod,
    SignalRequest,
    planned,
    unlabelling,
)
from minerwatch.culling.records import ActionRecord, Budget, Case, DecisionLine, Moment
from minerwatch.kube.client import ApiError, Cluster, one_line
from minerwatch.model import Action, Observation, Outcome, ProcessId
from minerwatch.node.exe_digests import ExecutableHasher
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.report.log import Log
from minerwatch.untrusted_text.display import printable

_MAX_HASHED = 16
_MAX_EVIDENCE_BYTES = 512 << 10
_MAX_LOGGED_EVIDENCE_BYTES = 32 << 10
_SIZES = (MAX_PROCESSES, 50, 20, 5, 1)
_GATEWAY_TIMEOUT = 504
_MAY_PASS = ("conflict", "throttled", "unauthorized", "missing")
"""Refusals after which nothing has happened: the pod is looked at, and it is tried again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is tried, in numbers and seconds."""

    tries: int = 5
    give_up_s: float = 60.0  # less than budget.MARGIN_S
    conflict_s: float = 0.2
    patience_s: float = 5.0  # after a 429 that does not say how long; doubled each time


@dataclass(frozen=True, slots=True)
class End:
    """How an action ended, and what there is to say about it."""

    outcome: Outcome
    message: str = ""


@dataclass(slots=True)
class _Attempt:
    """One action under way."""

    record: ActionRecord
    may_have_happened: bool = False
    has_reserved: bool = False


class Enforcer:
    """Carries out what was decided. For one thread."""

    def __init__(
        self,
        cluster: Cluster,
        actions: Actions,
        budget: Budget,
        journal: Journal,
        log: Log,
        *,
        settings: Callable[[], Culling],
        fresh: Callable[[Case, SeenPod | None], Case],
        whole: Callable[[Case], Observation | None],
        moment: Callable[[], Moment],
        on_error: Callable[[str, Exception], None],
        closing: threading.Event,
        proc: Path,
        pace: Pace | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """``settings`` are asked for anew at each step: whoever switches culling off is heard.

        ``fresh`` makes of a case what it is now, ``whole`` tells all that is seen of it.
        ``closing`` ends every wait.
        """
        self._cluster = cluster
        self._actions = actions
        self._budget = budget
        self._journal = journal
        self._log = log
        self._settings = settings
        self._fresh = fresh
        self._whole = whole
        self._moment = moment
        self._on_error = on_error
        self._closing = closing
        self._pace = pace or Pace()
        self._chance = chance or random.Random()  # noqa: S311 - it spreads requests
        self._hasher = ExecutableHasher(str(proc))
        self._sockets = SocketReader(str(proc))

    def carry_out(self, case: Case, decision: Decision, line: DecisionLine) -> End:
        """Does what was decided, once; ``line`` is the decision as it is written."""
        attempt = _Attempt(self._journal.begin(decision))
        end = End(Outcome.WITHDRAWN, "the agent met an error of its own")
        try:
            end = self._steps(attempt, case, decision, line)
        except Exception as error:  # noqa: BLE001 - whatever it was, the record must be settled
            self._on_error("culling", error)
            outcome = Outcome.UNKNOWN if attempt.may_have_happened else Outcome.WITHDRAWN
            end = End(outcome, one_line(error))
        finally:
            record = self._journal.settle(attempt.record, end.outcome, end.message)
            if end.outcome is Outcome.WITHDRAWN and attempt.has_reserved:
                self._budget.give_back(record)
        return end

    def unlabel(self, record: ActionRecord) -> bool:
        """Whether the pod bore the quarantine label, and does no more. Raises ApiError."""
        label = self._settings().quarantine_label
        for number in range(self._pace.tries):
            seen = self._actions.look(record.namespace, record.pod)
            if seen is None or seen.pod.uid != record.pod_uid or label.key not in seen.pod.labels:
                return False
            try:
                self._actions.send(unlabelling(seen.pod, label, seen.resource_version))
            except ApiError as error:
                is_last = number == self._pace.tries - 1
                if error.reason not in _MAY_PASS or is_last:
                    raise
                self._closing.wait(self._wait_s(error, number))
            else:
                return True
        return False

    # The steps.

    def _steps(
        self,
        attempt: _Attempt,
        case: Case,
        decision: Decision,
        line: DecisionLine,
    ) -> End:
        if not self._keep_evidence(attempt.record, case, decision, line):
            why = self._journal.trouble or "the container is gone"
            return End(Outcome.WITHDRAWN, f"no evidence could be kept: {why}")
        attempt.has_reserved = True
        if not self._budget.reserve(attempt.record, self._moment()):
            return End(Outcome.WITHDRAWN, "there was no place in the cluster's budget")
        return self._tried(attempt, case, decision)

    def _tried(self, attempt: _Attempt, case: Case, decision: Decision) -> End:
        """Looks and acts, again as long as nothing has happened and it may still succeed."""
        until_s = time.monotonic() + self._pace.give_up_s
        refused: ApiError | None = None
        for number in range(self._pace.tries):
            try:
                seen = self._actions.look(decision.namespace, decision.pod)
            except ApiError as error:
                return _blind(error, refused)
            fresh, settings = self._fresh(case, seen), self._settings()
            again = self._journal.recheck(decision, attempt.record, fresh, settings)
            if not again.acts:
                return _objected(again, refused)
            version = seen.resource_version if seen else ""
            request = planned(again, settings.quarantine_label, version)
            result = self._sent(attempt, request, again)
            if isinstance(result, End):
                return result
            refused = result
            wait_s = self._wait_s(refused, number)
            if time.monotonic() + wait_s > until_s or self._closing.wait(wait_s):
                break
        return End(Outcome.REFUSED, str(refused))

    def _sent(
        self, attempt: _Attempt, request: Request | None, decision: Decision
    ) -> End | ApiError:
        """How it ended; or a refusal after which nothing has happened, and which may pass."""
        if request is None:
            return End(Outcome.WITHDRAWN, "there is nothing to be sent")
        attempt.may_have_happened = not decision.dry_run
        if isinstance(request, SignalRequest):
            return self._signalled(attempt, request)
        try:
            self._actions.send(request)
        except ApiError as error:
            if error.reason in _MAY_PASS:
                attempt.may_have_happened = False
                if error.reason == "unauthorized":
                    with suppress(ApiError):  # then the next request fails for the same reason
                        self._cluster.renew_credentials()
                return error
            if 400 <= error.status < 500:
                attempt.may_have_happened = False
                return End(Outcome.REFUSED, str(error))
            return self._verified(decision, error)
        return End(Outcome.DRY_RUN if decision.dry_run else Outcome.DONE)

    def _signalled(self, attempt: _Attempt, request: SignalRequest) -> End:
        hits = self._actions.signal(request)
        attempt.may_have_happened = bool(hits.hit) and not request.dry_run
        if hits.failed:
            words = "; ".join(f"{process.pid}: {why}" for process, why in hits.failed)
            reached = f"; {len(hits.hit)} others were reached" if hits.hit else ""
            return End(Outcome.FAILED, f"{words}{reached}")
        if not hits.hit:
            return End(Outcome.WITHDRAWN, "the processes have ended by themselves")
        gone = f"{len(hits.gone)} others had ended by themselves" if hits.gone else ""
        return End(Outcome.DRY_RUN if request.dry_run else Outcome.DONE, gone)

    def _verified(self, decision: Decision, error: ApiError) -> End:
        """What came of a request whose answer was lost, as far as the pod shows it."""
        if decision.dry_run:
            return End(Outcome.FAILED, str(error))
        try:
            seen = self._actions.look(decision.namespace, decision.pod)
        except ApiError as second:
            return End(Outcome.UNKNOWN, f"{error}; nor could the pod be looked at: {second}")
        if _has_happened(decision, seen, self._settings()):
            return End(Outcome.DONE, f"seen on the pod; the answer itself was lost: {error}")
        if error.status >= 500 and error.status != _GATEWAY_TIMEOUT:
            return End(Outcome.FAILED, str(error))
        return End(Outcome.UNKNOWN, f"{error}; the pod does not show it yet")

    def _wait_s(self, refused: ApiError, number: int) -> float:
        if refused.reason != "throttled":
            return self._pace.conflict_s * self._chance.uniform(0.5, 1.5)
        asked_s = refused.retry_after_s or 0.0
        return max(asked_s, self._pace.patience_s * 2.0**number) * self._chance.uniform(1, 1.5)

    # The evidence.

    def _keep_evidence(
        self,
        record: ActionRecord,
        case: Case,
        decision: Decision,
        line: DecisionLine,
    ) -> bool:
        """Whether the evidence is where it has to be before anything is done."""
        whole = self._whole(case)
        if whole is None:
            return False
        encoded = self._evidence(case, whole, decision)
        evidence = encoded(_MAX_EVIDENCE_BYTES)
        logged = encoded(_MAX_LOGGED_EVIDENCE_BYTES)
        request = str(planned(decision, self._settings().quarantine_label))
        raw = msgspec.Raw(evidence)
        if not self._journal.write(
            "action", record=record, decision=line, request=request, evidence=raw
        ):
            return False
        self._log.info(
            "action",
            node=record.node,
            namespace=printable(record.namespace, 256),
            pod=printable(record.pod, 256),
            owner=printable(record.owner, 256),
            action=record.action.value,
            dry_run=record.dry_run,
            record=record.id,
            request=printable(request, 1024),
            evidence=msgspec.json.decode(logged),
        )
        name = file_name(record.id, record.pod, record.unix_s)
        kept = encoded(_MAX_EVIDENCE_BYTES, command_lines=True)
        return self._journal.save(name, msgspec.json.format(kept))

    def _evidence(self, case: Case, whole: Observation, decision: Decision) -> Callable[..., bytes]:
        """Encodes the evidence in at most so many bytes, with or without command lines."""
        found = [load.process.id for load in whole.processes]
        now = self._moment()
        digests = self._hasher.digests(_to_be_hashed(whole, found, decision))
        pids = [process.pid for process in found[:_MAX_HASHED]]
        connections = self._sockets.connections(pids, now.monotonic_s)

        def encoded(limit_bytes: int, *, command_lines: bool = False) -> bytes:
            evidence = b"{}"
            for most in _SIZES:
                evidence = msgspec.json.encode(
                    bundle(
                        case,
                        whole,
                        now,
                        culprits=decision.processes,
                        digests=digests,
                        connections=connections,
                        most=most,
                        command_lines=command_lines,
                    )
                )
                if len(evidence) <= limit_bytes:
                    break
            return evidence

        return encoded


def _to_be_hashed(
    whole: Observation, found: list[ProcessId], decision: Decision
) -> list[ProcessId]:
    """Those that are to be acted upon, then those that something was found in."""
    suspects = {finding.process for finding in whole.verdict.findings}
    ranked = (*decision.processes, *(process for process in found if process in suspects))
    return [*dict.fromkeys(ranked)][:_MAX_HASHED]


def _objected(decision: Decision, refused: ApiError | None) -> End:
    """How an action ends that the second look, or a later one, spoke against."""
    words = " ".join(str(objection) for objection in decision.objections)
    is_gone = {Reason.POD_UNKNOWN, Reason.POD_MISMATCH, Reason.POD_ENDING} & set(decision.reasons)
    if refused is None or is_gone:
        return End(Outcome.WITHDRAWN, words)
    return End(Outcome.REFUSED, f"{refused}; then: {words}")


def _blind(error: ApiError, refused: ApiError | None) -> End:
    """How an action ends before which the pod could not be looked at (again)."""
    if refused is None:
        return End(Outcome.WITHDRAWN, f"the pod could not be looked at: {error}")
    return End(Outcome.REFUSED, f"{refused}; then the pod could not be looked at: {error}")


def _has_happened(decision: Decision, seen: SeenPod | None, settings: Culling) -> bool:
    is_same = seen is not None and seen.pod.uid == decision.pod_uid
    if decision.action is Action.LABEL:
        label = settings.quarantine_label
        return is_same and seen is not None and seen.pod.labels.get(label.key) == label.value
    return not is_same or (seen is not None and seen.pod.is_ending)
