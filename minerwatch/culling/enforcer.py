"""Carry out one decision: evidence, budget, recheck, action, record, in this order.

The steps are those of ``culling.policy``. What may go wrong between them:

- The agent is killed: the audit log has the action as pending, and the next agent treats it as one
  that may have happened.
- The evidence cannot be kept, the budget is spent, or the pod has changed: the action is withdrawn,
  and its slot of the budget is given back.
- The API server throttles (429), another client changed the pod (409), credentials have expired
  (401): nothing has happened, so the pod is fetched and rechecked, and the request is retried. A
  few times, for a minute at most.
- The answer is lost: the pod shows whether the action has happened. If it does not, the outcome is
  recorded as unknown. A request that may have been carried out is never repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from minerwatch.backoff import Backoff
from minerwatch.config.schema import Culling
from minerwatch.culling.actions import (
    Actions,
    ApiRequest,
    HubRequest,
    Request,
    SeenPod,
    SignalRequest,
    planned,
    unlabelling,
)
from minerwatch.culling.cases import Cases
from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision, Reason
from minerwatch.culling.evidence import EvidenceWriter
from minerwatch.culling.host_actions import HostActions
from minerwatch.culling.hub_api import HubApi, UnknownServerError
from minerwatch.culling.policy import rechecked
from minerwatch.culling.recorded_history import RecordedHistory
from minerwatch.culling.records import ActionRecord, Budget, Case
from minerwatch.kube.client import ApiError, one_line
from minerwatch.kube.events import ACTION_REASONS
from minerwatch.model import Action, Outcome

_GATEWAY_TIMEOUT = 504
_RETRIABLE = ("conflict", "throttled", "unauthorized", "missing")
"""Refusals after which nothing has happened: the pod is rechecked, and the request is retried."""

_GONE = frozenset({Reason.POD_UNKNOWN, Reason.POD_MISMATCH, Reason.POD_ENDING})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits on retries of one action."""

    tries: int = 5
    give_up_s: float = 60.0  # less than lease_budget.MARGIN_S
    conflict_s: float = 0.2
    throttled_s: float = 5.0  # after a 429 without Retry-After; doubled each time
    answer_s: float = 15.0


@dataclass(frozen=True, slots=True)
class End:
    """Outcome of an action, and its explanation."""

    outcome: Outcome
    message: str = ""


@dataclass(slots=True)
class _Attempt:
    record: ActionRecord
    may_have_happened: bool = False
    has_reserved: bool = False


@dataclass(slots=True)
class Enforcer:
    """Carries out decisions. For one thread."""

    context: Context
    cases: Cases
    history: RecordedHistory
    budget: Budget
    actions: Actions | HostActions
    evidence: EvidenceWriter
    retry: RetryPolicy
    hub: HubApi
    follow_up: Callable[[Case, Decision, ActionRecord], None] = lambda _case, _decision, _record: (
        None
    )
    rng: random.Random = field(default_factory=random.Random)

    def carry_out(self, case: Case, decision: Decision) -> End:
        """Act once, as decided."""
        attempt = _Attempt(self.history.begin(decision))
        end = End(Outcome.WITHDRAWN, "the agent met an internal error")
        try:
            end = self._run_steps(attempt, case, decision)
        except Exception as error:  # noqa: BLE001 - the record must be finished in any case
            self.context.callbacks.on_error("culling", error)
            outcome = Outcome.UNKNOWN if attempt.may_have_happened else Outcome.WITHDRAWN
            end = End(outcome, one_line(error))
        finally:
            record = self.history.finish(attempt.record, end.outcome, end.message)
            if end.outcome is Outcome.WITHDRAWN and attempt.has_reserved:
                self.budget.give_back(record)
        if end.outcome is Outcome.DONE:
            self.follow_up(case, decision, attempt.record)
        if end.outcome is Outcome.DONE and case.pod is not None:
            reason = ACTION_REASONS.get(decision.action)
            if reason is not None:
                self.context.cluster.announce_action(
                    case.pod, case.container, reason, case.verdict.findings, decision.abuse
                )
        return end

    def unlabel(self, record: ActionRecord) -> bool:
        """Remove the quarantine label; return False if the pod had none. Raises ApiError."""
        if isinstance(self.actions, HostActions):
            return False
        label = self.context.culling.quarantine_label
        backoff = self._backoff()
        while True:
            seen = self.actions.fetch(record.namespace, record.pod)
            if seen is None or seen.pod.uid != record.pod_uid or label.key not in seen.pod.labels:
                return False
            try:
                self.actions.send(unlabelling(seen.pod, label, seen.resource_version))
            except ApiError as error:
                wait_s = self._wait_s(error, backoff)
                if error.reason not in _RETRIABLE or backoff.failures == self.retry.tries:
                    raise
                self.context.closing.wait(wait_s)
            else:
                return True

    # The steps.

    def _run_steps(self, attempt: _Attempt, case: Case, decision: Decision) -> End:
        if not self.evidence.write(attempt.record, case, decision):
            why = self.history.trouble or "the container is gone"
            return End(Outcome.WITHDRAWN, f"no evidence could be kept: {why}")
        attempt.has_reserved = True
        if not self.budget.reserve(attempt.record, self.context.clock.now()):
            return End(Outcome.WITHDRAWN, "the cluster's budget has no slot left")
        return self._recheck_and_act(attempt, case, decision)

    def _recheck_and_act(self, attempt: _Attempt, case: Case, decision: Decision) -> End:
        """Fetch the pod, recheck and act; again while nothing has happened and a retry may help."""
        until_s = time.monotonic() + self.retry.give_up_s
        refused: ApiError | None = None
        backoff = self._backoff()
        for _ in range(self.retry.tries):
            try:
                seen = self.actions.fetch(decision.namespace, decision.pod, decision.pod_uid)
            except ApiError as error:
                return _given_up(f"the pod could not be fetched: {error}", refused)
            fresh, settings = self.cases.refreshed(case, seen), self.context.culling
            history, now = self.history.past, self.context.clock.now()
            again = rechecked(decision, attempt.record, fresh, settings, history, now)
            if not again.acts:
                is_gone = not _GONE.isdisjoint(again.reasons)
                objections = " ".join(str(objection) for objection in again.objections)
                return _given_up(objections, None if is_gone else refused)
            version = seen.resource_version if seen else ""
            created_s = seen.pod.created_unix_s if seen else 0.0
            request = planned(again, settings.quarantine_label, version, created_s)
            result = self._send(attempt, request, again)
            if isinstance(result, End):
                return result
            refused = result
            wait_s = self._wait_s(refused, backoff)
            if time.monotonic() + wait_s > until_s or self.context.closing.wait(wait_s):
                break
        return End(Outcome.REFUSED, str(refused))

    def _send(
        self, attempt: _Attempt, request: Request | None, decision: Decision
    ) -> End | ApiError:
        """Return the end, or a refusal after which nothing has happened and a retry may help."""
        if request is None:
            return End(Outcome.WITHDRAWN, "there is nothing to send")
        attempt.may_have_happened = not decision.dry_run
        if isinstance(request, SignalRequest):
            return self._signal(attempt, request)
        if isinstance(request, HubRequest):
            return self._stop_server(attempt, request, decision)
        try:
            if isinstance(self.actions, HostActions):
                assert not isinstance(request, ApiRequest)  # noqa: S101 - the policy objects
                self.actions.send(request)
            else:
                assert isinstance(request, ApiRequest)  # noqa: S101 - the same
                self.actions.send(request)
        except ApiError as error:
            if error.reason in _RETRIABLE:
                attempt.may_have_happened = False
                return error
            if 400 <= error.status < 500:
                attempt.may_have_happened = False
                return End(Outcome.REFUSED, str(error))
            return self._verify(decision, error)
        return End(Outcome.DRY_RUN if decision.dry_run else Outcome.DONE)

    def _signal(self, attempt: _Attempt, request: SignalRequest) -> End:
        hits = self.actions.signal(request)
        attempt.may_have_happened = bool(hits.hit) and not request.dry_run
        if hits.failed:
            failures = "; ".join(f"{process.pid}: {why}" for process, why in hits.failed)
            reached = f"; {len(hits.hit)} others were signalled" if hits.hit else ""
            return End(Outcome.FAILED, f"{failures}{reached}")
        if not hits.hit:
            return End(Outcome.WITHDRAWN, "the processes had exited already")
        gone = f"{len(hits.gone)} others had exited already" if hits.gone else ""
        return End(Outcome.DRY_RUN if request.dry_run else Outcome.DONE, gone)

    def _stop_server(self, attempt: _Attempt, request: HubRequest, decision: Decision) -> End:
        """Ask the hub; a hub that does not answer the first question is never sent another."""
        attempt.may_have_happened = False
        until_s = time.monotonic() + 2 * self.hub.answer_s
        try:
            self.hub.check(request)
        except UnknownServerError as error:  # the next action of the ladder is tried
            return End(Outcome.FAILED, str(error))
        except ApiError as error:
            is_answer = 400 <= error.status < 500
            return End(Outcome.REFUSED if is_answer else Outcome.WITHDRAWN, str(error))
        if request.dry_run:
            return End(Outcome.DRY_RUN)
        if self.context.dry_run:
            return End(Outcome.WITHDRAWN, "actions are no longer enforced")
        if time.monotonic() > until_s:
            return End(Outcome.WITHDRAWN, "the hub took too long to answer")
        attempt.may_have_happened = True
        try:
            return End(Outcome.DONE, self.hub.stop(request))
        except ApiError as error:
            if 400 <= error.status < 500:
                attempt.may_have_happened = False
                return End(Outcome.REFUSED, str(error))
            end = self._verify(decision, error)
            return End(Outcome.UNKNOWN, end.message) if end.outcome is Outcome.FAILED else end

    def _verify(self, decision: Decision, error: ApiError) -> End:
        """Return the end of a request without an answer, by what the pod shows."""
        if decision.dry_run:
            return End(Outcome.FAILED, str(error))
        try:
            seen = self.actions.fetch(decision.namespace, decision.pod, decision.pod_uid)
        except ApiError as second:
            return End(Outcome.UNKNOWN, f"{error}; the pod could not be fetched either: {second}")
        if _has_happened(decision, seen, self.context.culling):
            return End(Outcome.DONE, f"the pod shows it; the answer itself was lost: {error}")
        if error.status >= 500 and error.status != _GATEWAY_TIMEOUT:
            return End(Outcome.FAILED, str(error))
        return End(Outcome.UNKNOWN, f"{error}; the pod does not show it yet")

    def _backoff(self) -> Backoff:
        return Backoff(self.retry.throttled_s, self.retry.give_up_s)

    def _wait_s(self, refused: ApiError, backoff: Backoff) -> float:
        delay_s = max(refused.retry_after_s or 0.0, backoff.next_s())
        if refused.reason != "throttled":
            return self.retry.conflict_s * self.rng.uniform(0.5, 1.5)
        return delay_s * self.rng.uniform(1, 1.5)


def _given_up(reason: str, refused: ApiError | None) -> End:
    if refused is None:
        return End(Outcome.WITHDRAWN, reason)
    return End(Outcome.REFUSED, f"{refused}; then: {reason}")


def _has_happened(decision: Decision, seen: SeenPod | None, settings: Culling) -> bool:
    is_same = seen is not None and seen.pod.uid == decision.pod_uid
    if decision.action is Action.LABEL:
        label = settings.quarantine_label
        return is_same and seen is not None and seen.pod.labels.get(label.key) == label.value
    if decision.action is Action.PAUSE:
        return is_same and seen is not None and seen.pod.phase == "Paused"
    if decision.action is Action.STOP_CONTAINER:
        return not is_same or (seen is not None and seen.pod.phase == "Exited")
    return not is_same or (seen is not None and seen.pod.is_ending)
