"""A culler beside an API server: what is found is made up, all else is real.

Run as a program it culls what it is told to until it is killed::

    python -m tests.culling.harness KUBECONFIG AUDIT_LOG ACTION CGROUP POD_UID PID START_TICKS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from minerwatch.api.orders import CullOrder, ReleaseAllOrder, ReleaseOrder
from minerwatch.api.types import CullAnswer, ReleaseAllAnswer, ReleaseAnswer
from minerwatch.config.schema import (
    Audit,
    CircuitBreaker,
    Config,
    CullBudget,
    Culling,
    Kubernetes,
    Owners,
    Rungs,
)
from minerwatch.config.values import ENFORCE, Duration
from minerwatch.culling.context import AgentIdentity, Callbacks
from minerwatch.culling.culler import Culler, Timing
from minerwatch.culling.enforcer import RetryPolicy
from minerwatch.culling.history import History
from minerwatch.culling.lease_budget import BudgetPace
from minerwatch.culling.records import HOUR_S, ActionRecord, AuditLine, Moment
from minerwatch.errors import TargetError
from minerwatch.format import rfc3339
from minerwatch.kube.cluster_view import ClusterNode
from minerwatch.model import (
    Action,
    Container,
    ContainerKey,
    Evidence,
    Finding,
    Level,
    Observation,
    Outcome,
    ProcessId,
    ProcessLoad,
    Signal,
)
from tests.builders import (
    make_container,
    make_finding,
    make_load,
    make_observation,
    make_verdict,
)
from tests.kube.api_server import ApiServer, Json, Request, pod_json
from tests.waiting import until

NODE = "worker-1"
BOOT = "boot"
SECRET = "hunter2"
QUICK = RetryPolicy(conflict_s=0.01, throttled_s=0.02, give_up_s=5.0)
QUICK_BUDGET = BudgetPace(tries=4, first_delay_s=0.005, longest_delay_s=0.05, answer_s=0.5)


EVE = "jupyter-eve"
LEASES = ("leases", "/apis/coordination.k8s.io/v1")
QUARANTINE = "minerwatch.io/quarantine"


def moment(ahead_s: float = 0.0) -> Moment:
    return Moment(time.time() + ahead_s, 100_000.0 + time.monotonic() + ahead_s, BOOT)


def remembers(path: Path) -> Path:
    """An audit log at ``path`` that reaches back for two hours."""
    if not path.exists():
        now = moment(-2 * HOUR_S)
        (start,) = History.started(NODE, now).records()
        line = AuditLine("start", rfc3339(now.unix_s, milliseconds=True), NODE, record=start)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(line) + b"\n")
    return path


def lines(path: Path) -> list[AuditLine]:
    return [msgspec.json.decode(line, type=AuditLine) for line in path.read_bytes().splitlines()]


def outcomes(path: Path) -> list[str]:
    """How actions were begun and ended, in order."""
    return [
        f"{line.record.action} {line.record.outcome}"
        for line in lines(path)
        if line.kind in ("action", "outcome") and line.record
    ]


def settings(audit_log: Path, *actions: Action, **changes: Any) -> Culling:
    plain = Culling(
        mode=ENFORCE,
        namespaces=("binder",),
        ladder=(Rungs(actions=actions or (Action.EVICT,)),),
        minimum_age=Duration(60),
        hold=Duration(60),
        pause=Duration(600),
        budget=CullBudget(per_node=10, per_cluster=10),
        circuit_breaker=CircuitBreaker(share=1.0, at_least=1000),
        audit=Audit(log=str(audit_log)),
    )
    return msgspec.structs.replace(plain, **changes)


@dataclass
class FakeWatch:
    """Containers in which miners were found, an hour ago and still."""

    found: dict[ContainerKey, Observation] = field(default_factory=dict)
    ahead_s: float = 0.0

    def add(
        self,
        cgroup: str,
        pod_uid: str,
        *processes: ProcessId,
        level: Level = Level.CONFIRMED,
        cpu_s: float = 3600.0,
    ) -> Observation:
        container = make_container(f"{pod_uid}-c", pod_uid, cgroup=cgroup)
        return self.add_container(container, *processes, level=level, cpu_s=cpu_s)

    def add_container(
        self,
        container: Container,
        *processes: ProcessId,
        level: Level = Level.CONFIRMED,
        cpu_s: float = 3600.0,
    ) -> Observation:
        findings = [
            _finding(signal, score, process)
            for process in processes or (ProcessId(2**22 + 7, 7),)
            for signal, score in ((Signal.IDENTITY, 88.0), (Signal.COMPUTE, 60.0))
        ]
        verdict = make_verdict(container, *findings, level=level)
        loads = (_load(process) for process in processes)
        observation = make_observation(container, verdict, *loads, cpu_s=cpu_s)
        self.found[container.key] = observation
        return observation

    def observations(self, max_processes: int) -> tuple[Observation, ...]:
        return tuple(self._now(each, max_processes) for each in self.found.values())

    def observation(self, key: ContainerKey, max_processes: int) -> Observation | None:
        found = self.found.get(key)
        return None if found is None else self._now(found, max_processes)

    def carrier(self, container: Container, *, of_pod: bool = True) -> Container:
        return container

    def container_of(self, _pid: int) -> Container | None:
        return None

    def _now(self, observation: Observation, max_processes: int) -> Observation:
        at_s = moment(self.ahead_s).monotonic_s
        since_s = at_s - 3600
        verdict = replace(
            observation.verdict,
            at_s=at_s,
            since_s=since_s,
            findings=tuple(replace(each, since_s=since_s) for each in observation.verdict.findings),
        )
        processes = observation.processes[:max_processes]
        return replace(observation, at_s=at_s, verdict=verdict, processes=processes)


def _finding(signal: Signal, score: float, process: ProcessId) -> Finding:
    evidence = Evidence("CommandLine", f"./xmrig --password {SECRET} -o pool", "contains 'xmrig'")
    return make_finding(
        signal,
        score,
        rule=f"rule-{signal}",
        title=f"Title of {signal}",
        process=process,
        evidence=(evidence,),
    )


def _load(process: ProcessId) -> ProcessLoad:
    command_line = f"./xmrig --password {SECRET} -o stratum+tcp://pool:3333"
    return make_load(process.pid, start_ticks=process.start_ticks, command_line=command_line)


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = error = info


class Harness:
    """A culler with its node, until it is closed."""

    def __init__(
        self,
        kubeconfig: Path,
        culling: Culling,
        watch: FakeWatch | None = None,
        *,
        namespace: str = "minerwatch",
        events: bool = False,
        contact: str = "",
        profile: str = "jupyterhub",
        retry: RetryPolicy = QUICK,
        budget_pace: BudgetPace = QUICK_BUDGET,
    ) -> None:
        self.audit_log = Path(culling.audit.log)
        self.watch = watch or FakeWatch()
        self.step_s = 0.0
        """By which the node's clock is wrong."""
        self.said = Said()
        self.ended: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self.config = Config(
            culling=culling,
            kubernetes=Kubernetes(
                enabled=True, kubeconfig=str(kubeconfig), events=events, contact=contact
            ),
            owners=Owners(profile=profile, platform_namespaces=("ci",), hub_namespaces=("binder",)),
        )
        self.node = ClusterNode(self.config, NODE, lambda *_: None)
        self.culler = Culler(
            self.config,
            AgentIdentity(NODE, namespace, "uid-own"),
            self.node,
            self.watch,
            self.said,
            read_clocks=self._read_clocks,
            callbacks=Callbacks(
                on_outcome=lambda record: self.ended.append(
                    (str(record.action), str(record.outcome))
                ),
                on_error=lambda what, error: self.errors.append(f"{what}: {error!r}"),
            ),
            timing=Timing(retry, budget_pace),
        )
        self.culler.start()

    def close(self) -> None:
        self.culler.close()
        self.node.close()

    def until_synced(self) -> None:
        until(lambda: self.node.is_synced)

    def consider(self) -> None:
        """As at the end of a tick, after minutes of such ticks; the thread does the rest."""
        found = self.watch.observations(0)
        self.has_watched(found)
        self.culler.consider(found)

    def has_watched(self, found: tuple[Observation, ...], seconds: float = 600.0) -> None:
        """What was found has been found at every tick since."""
        for ago_s in range(round(seconds), 0, -20):
            verdicts = [
                replace(each.verdict, at_s=each.verdict.at_s - ago_s)
                for each in found
                if each.verdict.level is Level.CONFIRMED
            ]
            self.culler.cases.holds.update(
                verdicts, moment(self.watch.ahead_s - ago_s).monotonic_s, 10.0
            )

    def settled(self) -> None:
        """Wait until the thread has done all that it was given."""
        until(lambda: not self.culler.mailbox.has_tick)
        with suppress(TargetError):
            self.release(ReleaseOrder("none", "none", "none"))

    def tick(self) -> None:
        self.consider()
        self.settled()

    def use(self, culling: Culling, interval_s: float = 10.0) -> None:
        """As when the configuration is read again."""
        changes = {"culling": culling, "interval": Duration(interval_s)}
        self.culler.use(msgspec.structs.replace(self.config, **changes))

    def cull(
        self, order: ReleaseOrder, action: Action, *, dry_run: bool, timeout_s: float = 90.0
    ) -> CullAnswer:
        orders, wanted = (
            self.culler.orders,
            CullOrder(**_fields(order), action=action, dry_run=dry_run),
        )
        return self.culler.call(lambda: orders.cull(wanted), timeout_s)

    def preview(self, order: ReleaseOrder, action: Action, *, dry_run: bool) -> CullAnswer:
        wanted = CullOrder(**_fields(order), action=action, dry_run=dry_run)
        return self.culler.call(lambda: self.culler.orders.preview(wanted))

    def release(self, order: ReleaseOrder) -> ReleaseAnswer:
        return self.culler.call(lambda: self.culler.orders.release(order))

    def release_all(
        self, namespace: str = "", *, retire: bool = False, forget: bool = False
    ) -> ReleaseAllAnswer:
        order = ReleaseAllOrder(namespace, retire, forget)
        return self.culler.call(lambda: self.culler.orders.release_all(order))

    def _read_clocks(self) -> Moment:
        now = moment(self.watch.ahead_s)
        return replace(now, unix_s=now.unix_s + self.step_s)

    def reasons(self, observation: Observation) -> str:
        now = self.watch.observation(observation.container.key, 0)
        assert now is not None
        status = self.culler.status(now)
        assert status is not None
        return " ".join(status.reasons)


def _fields(order: ReleaseOrder) -> dict[str, str]:
    return msgspec.structs.asdict(order)


def target(observation: Observation) -> ReleaseOrder:
    container = observation.container
    return ReleaseOrder(container.cgroup, container.container_id, container.pod_uid)


def put_pod(
    api: ApiServer, name: str, uid: str, namespace: str = "binder", **metadata: Any
) -> Json:
    """A pod that has been running for an hour on the harness's node, with its container."""
    created = rfc3339(time.time() - 3600, milliseconds=True)[:19] + "Z"
    return api.put(
        pod_json(
            name,
            node=NODE,
            namespace=namespace,
            containers={"notebook": f"{uid}-c"},
            uid=uid,
            creationTimestamp=created,
            **metadata,
        )
    )


def actions_on(api: ApiServer, name: str) -> list[str]:
    """The requests that would do something to a pod, or have."""
    verbs: Mapping[str, str] = {"PATCH": "label", "DELETE": "delete", "POST": "evict"}
    return [
        f"{verbs[asked.method]}{' dry-run' if 'dryRun' in asked.query else ''}"
        for asked in api.requests
        if asked.method in verbs and f"/pods/{name}" in asked.path
    ]


def last(path: Path) -> ActionRecord:
    records = [line.record for line in lines(path) if line.record]
    return records[-1]


Open = Callable[..., Harness]


def places(api: ApiServer) -> int:
    found = api.items(*LEASES)
    if not found:
        return 0
    text = found[0]["metadata"]["annotations"]["minerwatch.io/actions"]
    return len(msgspec.json.decode(text))


def until_known(harness: Harness, observation: Observation) -> None:
    until(lambda: harness.node.identity(observation.container))


def eve(api: ApiServer, harness: Harness, *processes: ProcessId) -> Observation:
    put_pod(api, EVE, "uid-1")
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1", *processes)
    until(lambda: harness.node.identity(observation.container))
    harness.has_watched(harness.watch.observations(0))
    return observation


def on_pod(asked: Request) -> bool:
    """The request that acts."""
    return asked.method in ("POST", "PATCH", "DELETE") and f"/pods/{EVE}" in asked.path


def takes_a_place(asked: Request) -> bool:
    if "leases" not in asked.path or asked.method == "GET":
        return False
    annotations = asked.body["metadata"]["annotations"]
    return bool(annotations["minerwatch.io/actions"] != "[]")  # else only what is flagged


def looks(asked: Request) -> bool:
    """The second look."""
    return asked.method == "GET" and asked.path.endswith(f"/pods/{EVE}")


def main() -> None:
    kubeconfig, audit_log, action, cgroup, pod_uid, pid, start_ticks = sys.argv[1:]
    harness = Harness(Path(kubeconfig), settings(Path(audit_log), Action(action)))
    processes = [ProcessId(int(pid), int(start_ticks))] if int(pid) else []
    harness.watch.add(cgroup, pod_uid, *processes)
    harness.until_synced()
    while True:
        harness.tick()
        print(f"tick {Outcome.DONE}", flush=True)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
