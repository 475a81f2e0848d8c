"""Build the policy's input: a container with its verdict, pod and owner, and the node's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from minerwatch.culling.actions import ProcessActions, SeenPod
from minerwatch.culling.context import Context
from minerwatch.culling.file_budget import FileBudget
from minerwatch.culling.holds import Holds
from minerwatch.culling.lease_budget import LeaseBudget
from minerwatch.culling.policy import claims_protection
from minerwatch.culling.proof import counted_as, pod_counted_as, rules_that_flag
from minerwatch.culling.recorded_history import RecordedHistory
from minerwatch.culling.records import Case, Situation
from minerwatch.kube.controllers import ControllerCheck
from minerwatch.model import Action, Container, Level, Observation, ProcessId

_STOPPING_S = 60.0


class Cases:
    """Builds cases, and keeps the state of the node that they need.

    ``case`` and ``situation`` are for any thread, all else is for the culling thread.
    """

    def __init__(
        self,
        context: Context,
        history: RecordedHistory,
        budget: LeaseBudget | FileBudget,
        actions: ProcessActions,
        controllers: ControllerCheck | None,
    ) -> None:
        """``controllers``: None on a host, which has none."""
        self.holds = Holds()
        self.controllers = controllers
        self._context = context
        self._cluster = context.cluster
        self._history = history
        self._budget = budget
        self._actions = actions
        self._stopped: Mapping[str, frozenset[ProcessId]] = {}  # by pod uid
        self._resumed_s: dict[str, float] = {}  # pod uid -> when its processes were resumed
        self._flagged: Mapping[str, frozenset[str]] = {}  # rule -> owners, at the last tick
        self._owner_count = 0  # owners with pods on the node

    @property
    def stopped_count(self) -> int:
        """Return how many processes are stopped by minerwatch now."""
        return sum(len(processes) for processes in self._stopped.values())

    def stopped(self, pod_uid: str) -> frozenset[ProcessId]:
        """Return the processes of a pod that are stopped by minerwatch now."""
        return self._stopped.get(pod_uid, frozenset())

    def to_resume(self, pod_uid: str) -> frozenset[ProcessId]:
        """Return the processes that are stopped, or may stop: signalled within the last minute.

        A pending signal shows in no state; SIGCONT cancels it (signal(7)). The caller
        resumes them: only processes that are stopped after this count the next time.
        """
        now = self._context.clock.now()
        since_s = now.monotonic_s - _STOPPING_S
        self._resumed_s = {uid: at_s for uid, at_s in self._resumed_s.items() if at_s > since_s}
        since_s = self._resumed_s.get(pod_uid, since_s)
        self._resumed_s[pod_uid] = now.monotonic_s
        recent = self._history.past.stopped(now.boot_id, since_s)
        return self.stopped(pod_uid) | {process for uid, process in recent if uid == pod_uid}

    def pod_uid(self, container: Container) -> str:
        """Return the uid under which records hold a container's actions."""
        identity = self._cluster.identity(container) if self._context.is_host else None
        return identity.pod.uid if identity else container.pod_uid

    def refresh_stopped(self) -> None:
        """Read the state of each process that minerwatch has stopped."""
        found: dict[str, set[ProcessId]] = {}
        boot_id = self._context.clock.now().boot_id
        for pod_uid, process in dict.fromkeys(self._history.past.stopped(boot_id)):
            if self._actions.is_stopped(process):
                found.setdefault(pod_uid, set()).add(process)
        self._stopped = {pod_uid: frozenset(each) for pod_uid, each in found.items()}

    def refresh_flagged(self, flagged: Iterable[Observation]) -> None:
        """Count the owners that each rule flags, for the circuit breaker."""
        self._flagged = self.flagged_owners(flagged)
        self._owner_count = self._count_owners()

    def flagged_owners(self, observations: Iterable[Observation]) -> dict[str, frozenset[str]]:
        """Return the owners that each rule flags; only findings count that may lead to actions."""
        owners: dict[str, set[str]] = {}
        settings, now = self._context.culling, self._context.clock.now()
        for observation in observations:
            container, verdict = observation.container, observation.verdict
            identity = self._context.identity(container)
            pod, owner = (identity.pod, identity.owner) if identity else (None, None)
            counted = counted_as(container, pod, owner, settings)
            for rule in rules_that_flag(verdict, container, pod, owner, settings, now):
                owners.setdefault(rule, set()).add(counted)
        return {rule: frozenset(each) for rule, each in owners.items()}

    def situation(self, *, dry_run: bool = False) -> Situation:
        """Return the state of the node."""
        agent, context = self._context.agent, self._context
        return Situation(
            node=agent.node,
            interval_s=float(context.config.interval),
            own_namespace=agent.namespace,
            own_pod_uid=agent.pod_uid,
            pods_synced=self._cluster.is_synced,
            cluster_budget_left=self._budget.left(dry_run=dry_run or context.dry_run),
            audit_trouble=self._history.trouble,
            owners=self._owner_count,
            flagged={rule: len(owners) for rule, owners in self._flagged.items()},
            cluster_flagged=self._budget.flagged(self._flagged),
            is_host=context.is_host,
            own_cgroup=context.own_cgroup if context.is_host else "",
        )

    def case(
        self, observation: Observation, asked: Action | None = None, *, dry_run: bool = False
    ) -> Case:
        """Return the case of a container, by what is known without a request."""
        container = observation.container
        identity = self._context.identity(container)
        carrier = self._context.carrier(container)
        return Case(
            container=container,
            verdict=observation.verdict,
            pod=identity.pod if identity else None,
            owner=identity.owner if identity else None,
            owners=identity.owners if identity else (),
            situation=self.situation(dry_run=dry_run),
            carrier=carrier,
            asked=asked,
            asked_dry_run=dry_run,
            stopped=self.stopped(identity.pod.uid if identity else ""),
            held=self.holds.of(container.key),
            is_controlled=(
                self.controllers.known(identity.pod, carrier.container_id)
                if identity and self.controllers
                else None
            ),
        )

    def checked_case(
        self, observation: Observation, asked: Action | None = None, *, dry_run: bool = False
    ) -> Case:
        """Return the case of a container, its pod's controller checked by the API server."""
        return self._checked(self.case(observation, asked, dry_run=dry_run))

    def refreshed(self, case: Case, seen: SeenPod | None) -> Case:
        """Return the same case with the latest verdict and its pod as just fetched."""
        observation = self._context.monitor.observation(case.container.key, 0)
        if observation is None:  # the container is gone, and its findings with it
            verdict = replace(case.verdict, level=Level.CLEAR, findings=())
        else:
            verdict = observation.verdict
        return self._checked(
            replace(
                case,
                verdict=verdict,
                pod=seen.pod if seen else None,
                owner=self._cluster.owner(seen.pod) if seen else None,
                owners=self._cluster.owners(seen.pod) if seen else (),
                situation=self.situation(dry_run=case.asked_dry_run),
                held=self.holds.of(case.container.key),
            )
        )

    def _checked(self, case: Case) -> Case:
        """Ask the API server about the pod's controller, where the pod claims protection."""
        if case.pod is None or self.controllers is None or not claims_protection(case.pod):
            return case
        is_controlled = self.controllers.checked(case.pod, case.outermost.container_id)
        return replace(case, is_controlled=is_controlled)

    def _count_owners(self) -> int:
        """Count the owners with pods on the node, where the circuit breaker may need it."""
        settings = self._context.culling
        most = max((len(owners) for owners in self._flagged.values()), default=0)
        if most < settings.circuit_breaker.at_least:
            return 0
        pods = {
            pod_counted_as(pod, self._cluster.owner(pod), settings) for pod in self._cluster.pods()
        }
        return len(pods.union(*self._flagged.values()))
