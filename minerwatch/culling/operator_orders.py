"""Orders of an operator: cull, preview, release. For the culling thread."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import structs

from minerwatch.api.orders import BanOrder, CullOrder, ReleaseAllOrder, ReleaseOrder
from minerwatch.api.types import BanAnswer, CullAnswer, ReleaseAllAnswer, ReleaseAnswer
from minerwatch.config.values import OFF
from minerwatch.culling.actions import Actions, planned
from minerwatch.culling.banning import Banning
from minerwatch.culling.cases import Cases
from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision, container_name
from minerwatch.culling.enforcer import Enforcer
from minerwatch.culling.file_budget import FileBudget
from minerwatch.culling.host_actions import HostActions
from minerwatch.culling.lease_budget import LeaseBudget
from minerwatch.culling.recorded_history import DecisionLog, RecordedHistory
from minerwatch.culling.records import ActionRecord, Case
from minerwatch.errors import MinerwatchError, TargetError
from minerwatch.kube.client import ApiError
from minerwatch.kube.events import EventReason
from minerwatch.model import Action, Observation, Outcome
from minerwatch.untrusted_text.display import printable, shown_name

_LOST = ("connection", "timeout")
"""Reasons of errors of an API server that does not answer."""


@dataclass(slots=True)
class OperatorOrders:
    """Executes orders, under the same policy as the agent's own decisions."""

    context: Context
    cases: Cases
    history: RecordedHistory
    budget: LeaseBudget | FileBudget
    actions: Actions | HostActions
    enforcer: Enforcer
    decisions: DecisionLog
    banning: Banning

    def cull(self, order: CullOrder) -> CullAnswer:
        """Act on a container. Raises TargetError if it is gone."""
        answer, case, decision = self._decided(order)
        self.decisions.write(case, decision)
        if not decision.acts:
            return answer
        end = self.enforcer.carry_out(case, decision)
        return structs.replace(
            answer, outcome=end.outcome.value, message=printable(end.message, 1024)
        )

    def preview(self, order: CullOrder) -> CullAnswer:
        """Return the decision and the request of ``cull``; try nothing. Raises as ``cull`` does."""
        return self._decided(order)[0]

    def ban(self, order: BanOrder) -> BanAnswer:
        """Ban the names behind a container's pod. Raises TargetError, OrderError."""
        observation = self._target(order)
        if self.context.has_budget:
            self.budget.refresh()
        case = self.cases.checked_case(observation)
        return self.banning.ban(case, self.history.decide(case), order)

    def release(self, order: ReleaseOrder) -> ReleaseAnswer:
        """Log the release, then undo the actions on the pod. Raises TargetError."""
        observation = self._target(order)
        record = self.history.release(self.history.decide(self.cases.case(observation)))
        answer, _ = self._undo(record, observation)
        self.cases.refresh_stopped()
        return answer

    def release_all(self, order: ReleaseAllOrder) -> ReleaseAllAnswer:
        """Undo all actions on this node that can be undone."""
        if order.retire or order.forget:
            config = self.context.config
            culling = msgspec.structs.replace(config.culling, mode=OFF)
            self.context.config = msgspec.structs.replace(config, culling=culling)
        was_forgotten = self.history.is_forgotten
        trouble = [self.history.trouble] if self.history.trouble and not was_forgotten else []
        released = self._release_pods(order.namespace)
        self.cases.refresh_stopped()
        is_undone = not trouble and not any(each.trouble for each in released)
        if order.forget and is_undone:
            try:
                if not was_forgotten:
                    self.history.forget()
                self.budget.forget()
                self.banning.sightings.remove()
            except MinerwatchError as error:
                trouble.append(str(error))
        elif order.forget:
            trouble.append("not everything was undone, so the audit log and the Lease are kept")
        answer = ReleaseAllAnswer(
            node=self.context.agent.node,
            released=tuple(
                each
                for each in released
                if each.resumed or each.gone or each.label_removed or each.unpaused or each.trouble
            ),
            acts_no_more=order.retire or order.forget,
            forgotten=order.forget and not trouble,
            trouble=tuple(trouble),
        )
        self.context.log.info(
            "released all",
            node=answer.node,
            pods=len(answer.released),
            acts_no_more=answer.acts_no_more,
            forgotten=answer.forgotten,
            trouble=[*trouble, *(each for pod in released for each in pod.trouble)],
        )
        return answer

    def _target(self, order: ReleaseOrder) -> Observation:
        """Return the container with all three names of the order, so that no other is meant."""
        for observation in self.context.monitor.observations(0):
            container = observation.container
            if (container.cgroup, container.container_id, container.pod_uid) == (
                order.cgroup,
                order.container_id,
                order.pod_uid,
            ):
                return observation
        raise TargetError("that container is no longer there")

    def _decided(self, order: CullOrder) -> tuple[CullAnswer, Case, Decision]:
        observation = self._target(order)
        if self.context.has_budget:
            self.budget.refresh()
        case = self.cases.checked_case(observation, order.action, dry_run=order.dry_run)
        decision = self.history.decide(case)
        answer = CullAnswer(
            node=self.context.agent.node,
            namespace=decision.namespace,
            pod=decision.pod,
            container=container_name(case),
            owner=decision.owner,
            level=case.verdict.level.label,
            score=case.verdict.score,
            proposed=decision.proposed.value,
            dry_run=decision.dry_run,
            acts=decision.acts,
            reasons=decision.sentences,
            request=str(planned(decision, self.context.culling.quarantine_label) or ""),
        )
        return answer, case, decision

    def _release_pods(self, namespace: str) -> list[ReleaseAnswer]:
        """Release the pods with actions in effect, in one namespace or ("") in all."""
        observations = self.context.monitor.observations(0)
        observed = {self.cases.pod_uid(each.container): each for each in observations}
        held: dict[str, list[ActionRecord]] = {}
        for record in self.history.past.held(self.context.clock.now().boot_id):
            if namespace in ("", record.namespace):
                held.setdefault(record.pod_uid, []).append(record)
        released: list[ReleaseAnswer] = []
        lost = ""
        for pod_uid, records in held.items():
            record = self.history.release_again(records[-1])
            is_labelled = any(each.action is Action.LABEL for each in records)
            answer, lost = self._undo(
                record, observed.get(pod_uid), lost=lost, may_be_labelled=is_labelled
            )
            released.append(answer)
        return released

    def _undo(
        self,
        record: ActionRecord,
        observation: Observation | None,
        *,
        lost: str = "",
        may_be_labelled: bool = True,
    ) -> tuple[ReleaseAnswer, str]:
        """Resume the pod's processes and remove its label; ``record`` is the release.

        ``lost``: why the API server does not answer. Then it is not called, since a timeout for
        each of hundreds of pods would take hours. The second value is the new ``lost``.
        """
        case = self.cases.case(observation) if observation is not None else None
        hits = self.actions.resume(tuple(sorted(self.cases.to_resume(record.pod_uid))))
        trouble = [f"process {process.pid}: {why}" for process, why in hits.failed]
        is_unlabelled = False
        if record.pod and may_be_labelled:
            try:
                if not lost:
                    is_unlabelled = self.enforcer.unlabel(record)
            except ApiError as error:
                if error.reason in _LOST:
                    lost = str(error)
                else:
                    trouble.append(f"the label: {error}")
            if lost:
                trouble.append(f"the label: {lost}")
        is_unpaused = self._unpaused(record, trouble)
        bans_lifted, lost = self._lift_bans(record, trouble, lost)
        self._report_release(
            record,
            case,
            undone=(
                *((Action.STOP,) if hits.hit else ()),
                *((Action.LABEL,) if is_unlabelled else ()),
                *((Action.PAUSE,) if is_unpaused else ()),
            ),
        )
        answer = ReleaseAnswer(
            node=self.context.agent.node,
            namespace=record.namespace,
            pod=record.pod,
            container=container_name(case) if case else "",
            resumed=tuple(process.pid for process in hits.hit),
            gone=tuple(process.pid for process in hits.gone),
            label_removed=is_unlabelled,
            trouble=tuple(trouble),
            unpaused=is_unpaused,
            bans_lifted=bans_lifted,
        )
        return answer, lost

    def _lift_bans(self, record: ActionRecord, trouble: list[str], lost: str) -> tuple[int, str]:
        """Lift the bans that rest on the pod; return how many there were, and the new ``lost``."""
        if not self.banning.is_configured:
            return 0, lost
        if lost:
            trouble.append(f"the bans: {lost}")
            return 0, lost
        try:
            return self.banning.lift_of_pod(record.pod_uid), lost
        except ApiError as error:
            trouble.append(f"the bans: {error}")
            return 0, str(error) if error.reason in _LOST else lost

    def _unpaused(self, record: ActionRecord, trouble: list[str]) -> bool:
        """Continue a container that minerwatch paused; return True if it was paused."""
        boot_id = self.context.clock.now().boot_id
        if not isinstance(self.actions, HostActions) or not self.history.past.may_have_paused(
            record.pod_uid, boot_id
        ):
            return False
        try:
            return self.actions.unpause(record)
        except ApiError as error:
            trouble.append(f"the pause: {error}")
            return False

    def _report_release(
        self, record: ActionRecord, case: Case | None, *, undone: tuple[Action, ...]
    ) -> None:
        for action in undone:
            released = msgspec.structs.replace(record, action=action, outcome=Outcome.RELEASED)
            self.context.callbacks.on_outcome(released)
        self.context.log.info(
            "released",
            node=record.node,
            namespace=shown_name(record.namespace),
            pod=shown_name(record.pod),
            record=record.id,
        )
        if case is not None and case.pod is not None and undone:
            self.context.cluster.announce_action(
                case.pod, case.container, EventReason.RELEASED, abuse=record.abuse
            )
