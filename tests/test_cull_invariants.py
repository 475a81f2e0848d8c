"""What culling promises (docs/security.md), under random histories.

Of pods, verdicts, clocks, faults and restarts. What is permitted is written down here a second
time, on purpose in another way than in culling/policy.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from math import prod
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from minerwatch.config.schema import CullBudget, Culling, Exemption, RepeatOffenders, Rungs
from minerwatch.config.selectors import Selector
from minerwatch.config.values import DRY_RUN, ENFORCE, OFF, Duration
from minerwatch.culling.decision import Decision
from minerwatch.culling.history import History
from minerwatch.culling.policy import decide, rechecked
from minerwatch.culling.records import ActionRecord, Budget, Case, Held, Moment, Situation
from minerwatch.model import (
    Abuse,
    Action,
    Container,
    ContainerKind,
    CullableAbuse,
    Evidence,
    Finding,
    Level,
    Maturity,
    Outcome,
    Owner,
    OwnerReference,
    Pod,
    PodContainer,
    PodContainerKind,
    ProcessId,
    Signal,
    Verdict,
)
from tests.examples import examples

STEPS = 50
EXAMPLES = examples(500)
INTERVAL_S = 10.0
START_UNIX_S = datetime(2027, 1, 14, 20, tzinfo=UTC).timestamp()
LAST_DAY = date(2027, 1, 14)  # of the exemption: four hours after the start it is over

NODES = ("node-1", "node-2", "node-3")
NAMES = ("jupyter-eve", "jupyter-mallory", "jupyter-ada", "exporter")
NAMESPACES = (
    *("binder", "binder", "binder", "tenants", "binder-2", "kube-system", "minerwatch", "prod"),
)
KINDS = ("bare", "bare", "bare", "bare", "static", "daemon", "critical", "unselected", "own")


@dataclass(frozen=True)
class Knowledge:
    """What an agent knows of its node and the budget: on a good day, all."""

    lag_s: float = 0.0  # since the verdict
    flagged: int = 1  # of 20 owners, by the rule "name"
    in_cluster: int = 1  # owners, by the same rule
    is_controlled: bool | None = True
    is_synced: bool = True
    heard: str = "now"  # of the cluster's budget


FLAWS = (
    *[Knowledge()] * 4,
    Knowledge(lag_s=5, heard="before"),
    Knowledge(lag_s=20, flagged=4),
    Knowledge(lag_s=21),
    Knowledge(lag_s=600),
    Knowledge(flagged=5),
    Knowledge(flagged=20),
    Knowledge(in_cluster=10),
    Knowledge(is_controlled=False),
    Knowledge(is_controlled=None),
    Knowledge(is_synced=False),
    Knowledge(heard="never"),
)


def finding(
    signal: Signal, score: float, name: str, maturity: Maturity = Maturity.STABLE
) -> Finding:
    return Finding(name, f"Title of {name}", signal, score, maturity, 0.0, ProcessId(7, 7), ())


IDENTITY = finding(Signal.IDENTITY, 88, "name")
NETWORK = finding(Signal.NETWORK, 88, "pool")
COMPUTE = finding(Signal.COMPUTE, 60, "busy")
BEHAVIOUR = finding(Signal.BEHAVIOUR, 29, "awake")
SHOWN = (Evidence("FailedConnectShare", 0.98, "at least 0.8"),)
PORT = (Evidence("DestinationPort", "22", "is 22"),)
SCAN = replace(IDENTITY, rule="scanner", abuse=Abuse.SCANNING)
COUNTED = replace(NETWORK, rule="fails", score=60, abuse=Abuse.SCANNING, evidence=SHOWN)
FLOOD = tuple(replace(each, abuse=Abuse.FLOODING) for each in (SCAN, COUNTED))
CRACK = tuple(replace(each, abuse=Abuse.CRACKING) for each in (SCAN, COMPUTE))
PROXY = tuple(replace(each, abuse=Abuse.PROXYWARE) for each in (SCAN, COUNTED, COMPUTE))
UNTRIED = finding(Signal.CONTENT, 100, "untried", Maturity.TEST)
CLUES: tuple[tuple[Finding, ...], ...] = (
    (IDENTITY, COMPUTE),
    (IDENTITY, COMPUTE),
    (IDENTITY, COMPUTE, UNTRIED),
    (IDENTITY, NETWORK, COMPUTE, BEHAVIOUR),
    (IDENTITY, replace(NETWORK, process=ProcessId(8, 8))),
    (IDENTITY,),
    (IDENTITY, UNTRIED),
    (IDENTITY, replace(IDENTITY, process=ProcessId(8, 8))),
    (replace(NETWORK, score=60), COMPUTE),
    (),
    (SCAN, COUNTED),
    (SCAN, replace(COUNTED, evidence=PORT)),
    (SCAN, replace(COUNTED, process=ProcessId(8, 8))),
    (SCAN, replace(COMPUTE, abuse=Abuse.SCANNING)),
    (SCAN, COUNTED, IDENTITY, COMPUTE),
    (IDENTITY, COUNTED),
    (replace(IDENTITY, abuse=Abuse.CRACKING), COMPUTE),
    FLOOD,
    CRACK,
    PROXY,
)
PROOF: dict[str, Callable[[Finding], bool]] = {
    "mining": lambda each: each.signal is Signal.COMPUTE,
    "cracking": lambda each: each.signal is Signal.COMPUTE,
    "scanning": lambda each: each.evidence == SHOWN and each.signal is Signal.NETWORK,
    "flooding": lambda each: each.evidence == SHOWN and each.signal is Signal.NETWORK,
}
"""Evidence of each kind that no outsider can put on an innocent process."""
FAULTS = (
    "none", "none", "none", "none", "budget unreachable", "killed before the evidence",
    "killed writing the evidence", "killed before the budget", "killed before the action",
    "killed after the action", "refused", "failed", "slow", "re-created before the second look",
    "re-created after it", "ending before the second look", "out of sync before the second look",
)  # fmt: skip


@dataclass
class LivePod:
    """A pod as it really is, and what is found in its container."""

    pod: Pod
    clues: tuple[Finding, ...]
    clues_since_s: float  # true time


@dataclass
class Agent:
    """One node with its clocks, its agent and the agent's audit log."""

    name: str
    booted_s: float
    history: History
    boots: int = 1
    skew_s: float = 0.0
    watches_since_s: float = 0.0  # true time, without a gap
    log: list[bytes] = field(default_factory=list)
    cache: dict[tuple[str, str], LivePod] = field(default_factory=dict)

    def now(self, true_s: float) -> Moment:
        return Moment(
            START_UNIX_S + true_s + self.skew_s,
            true_s - self.booted_s,
            f"{self.name}-{self.boots}",
        )

    def write(self, record: ActionRecord) -> None:
        self.log.append(msgspec.json.encode(record))

    def read(self) -> Iterator[ActionRecord]:
        for line in self.log:
            try:
                yield msgspec.json.decode(line, type=ActionRecord)
            except msgspec.DecodeError:  # torn: the agent was killed while it wrote
                continue


@dataclass
class SharedBudget:
    """The cluster's places by true time; the node's limit is left to the agents, to test them."""

    per_cluster: int
    true_s: float = 0.0
    is_reachable: bool = True
    taken_s: dict[str, float] = field(default_factory=dict)

    def left(self) -> int:
        return self.per_cluster - sum(self.true_s - at_s < 3600 for at_s in self.taken_s.values())

    def reserve(self, record: ActionRecord, now: Moment) -> bool:
        if not self.is_reachable or (record.id not in self.taken_s and self.left() <= 0):
            return False
        self.taken_s.setdefault(record.id, self.true_s)
        return True

    def give_back(self, record: ActionRecord) -> None:
        if self.is_reachable:
            self.taken_s.pop(record.id, None)


@dataclass(frozen=True)
class Done:
    """Something that really changed the cluster."""

    reserved_s: float
    node: str
    pod_uid: str


class Killed(Exception):  # noqa: N818 - it is what happens to the agent, not a mistake
    """The agent is gone, by SIGKILL."""


class Cluster(RuleBasedStateMachine):
    """Several agents that share one budget, and everything that can go wrong around them."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.true_s = 10_000.0
        self.pods: dict[tuple[str, str], LivePod] = {}
        self.done: list[Done] = []
        self.uids = 0

    @initialize(
        mode=st.sampled_from((ENFORCE, ENFORCE, ENFORCE, ENFORCE, ENFORCE, ENFORCE, DRY_RUN, OFF)),
        per_node=st.integers(0, 3).map(lambda number: number or 3),
        per_cluster=st.integers(1, 4),
        actions=st.sampled_from(
            ((Action.LABEL, Action.EVICT), (Action.STOP, Action.KILL), (Action.DELETE,))
        ),
        hold_s=st.sampled_from((60, 600)),
        abuses=st.sampled_from(
            (("mining",), ("scanning", "flooding", "cracking"), tuple(PROOF), tuple(PROOF))
        ),
        exemption=st.sampled_from(
            (
                {"owners": ("ada",)},
                {"owners": ("ada",), "until": LAST_DAY},
                {"rules": ("busy",), "owners": ("ada",)},
            )
        ),
    )
    def begin(
        self,
        mode: Any,
        per_node: int,
        per_cluster: int,
        actions: tuple[Action, ...],
        hold_s: float,
        abuses: tuple[str, ...],
        exemption: dict[str, Any],
    ) -> None:
        self.settings = Culling(
            mode=mode,
            abuses=tuple(CullableAbuse(each) for each in abuses),
            namespaces=("binder*", "tenants", "kube-system", "minerwatch"),
            tenant_namespaces=("tenants",),
            protected_namespaces=("binder-2",),
            selector=Selector("component=singleuser-server"),
            ladder=(Rungs(actions=actions),),
            minimum_age=Duration(300),
            hold=Duration(hold_s),
            pause=Duration(600),
            budget=CullBudget(per_node=per_node, per_cluster=per_cluster),
            repeat_offenders=RepeatOffenders(actions=2, window=Duration(86400)),
            exemptions=(Exemption(reason="agreed", **exemption),),
        )
        self.budget = SharedBudget(per_cluster, self.true_s)
        shared: Budget = self.budget  # it speaks the protocol
        assert shared is self.budget
        self.agents = {}
        for name in NODES:
            first = Moment(START_UNIX_S, 0.0, f"{name}-1")
            self.agents[name] = Agent(name, 0.0, History.started(name, first))
            self.agents[name].write(self.agents[name].history.records()[0])
        for name in NAMES[:3]:
            self._start("binder", name, NODES[0], "bare", CLUES[0])
        self._pass(1200)
        self._see_all()

    # What happens around the agents.

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        name=st.sampled_from(NAMES),
        node=st.sampled_from(NODES),
        kind=st.sampled_from(KINDS),
        clues=st.sampled_from(CLUES),
        wait_s=st.sampled_from((0, 1200)),
    )
    def a_pod_starts(  # also in the place of one of the same name
        self,
        namespace: str,
        name: str,
        node: str,
        kind: str,
        clues: tuple[Finding, ...],
        wait_s: float,
    ) -> None:
        self._start(namespace, name, node, kind, clues)
        self._pass(wait_s)
        self._see_all()

    @rule(
        node=st.sampled_from(NODES),
        name=st.sampled_from(NAMES),
        hours=st.integers(0, 3),
        clues=st.sampled_from((CLUES[0], CLUES[0], (SCAN, COUNTED), FLOOD, CRACK)),
    )
    def abuse_is_at_work(
        self, node: str, name: str, hours: int, clues: tuple[Finding, ...]
    ) -> None:
        self._start("binder", name, node, "bare", clues)
        self._pass(1200 + hours * 3600)
        self._see_all()

    @rule(place=st.integers(0, 20))
    def a_pod_ends(self, place: int) -> None:
        if self.pods:
            del self.pods[self._pick(place)]

    @rule(place=st.integers(0, 20), clues=st.sampled_from(CLUES))
    def other_things_are_found(self, place: int, clues: tuple[Finding, ...]) -> None:
        if self.pods:
            live = self.pods[self._pick(place)]
            live.clues, live.clues_since_s = clues, self.true_s

    @rule(seconds=st.sampled_from((1, 10, 60, 590, 610, 1200, 3000, 3590)))
    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)

    @rule(hours=st.integers(1, 30))
    def hours_pass(self, hours: int) -> None:
        self._pass(hours * 3600)

    @rule(node=st.sampled_from(NODES), seconds=st.sampled_from((-86400, -3600, -30, 30, 7200, 1e7)))
    def a_wall_clock_jumps(self, node: str, seconds: float) -> None:
        self.agents[node].skew_s += seconds

    @rule(node=st.sampled_from(NODES))
    def a_wall_clock_is_put_right(self, node: str) -> None:
        self.agents[node].skew_s = 0.0

    @rule(is_reachable=st.booleans())
    def the_api_server_goes_or_comes(self, is_reachable: bool) -> None:
        self.budget.is_reachable = is_reachable

    @rule(node=st.sampled_from(NODES), is_log_kept=st.booleans(), reboots=st.booleans())
    def an_agent_restarts(self, node: str, is_log_kept: bool, reboots: bool) -> None:
        agent = self.agents[node]
        if reboots:
            agent.boots += 1
            agent.booted_s = self.true_s
            self._pass(30)
        self._restart(agent, is_log_kept=is_log_kept)

    @rule(node=st.sampled_from(NODES))
    def a_node_is_starved(self, node: str) -> None:
        """Ticks are further apart than they may be."""
        self.agents[node].watches_since_s = self.true_s

    @rule()
    def the_agents_hear_of_all_pods(self) -> None:
        self._see_all()

    # What the agents do.

    @rule(
        node=st.sampled_from(NODES),
        place=st.integers(0, 20),
        fault=st.sampled_from(FAULTS),
        flaw=st.sampled_from(FLAWS),
    )
    def an_agent_considers_a_pod(self, node: str, place: int, fault: str, flaw: Knowledge) -> None:
        cache = self.agents[node].cache
        if cache:
            self._consider(node, sorted(cache)[place % len(cache)], fault, flaw)

    @rule(
        node=st.sampled_from(NODES),
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        clues=st.sampled_from((*CLUES[:5], (SCAN, COUNTED), FLOOD, CRACK)),
        hours=st.integers(0, 3),
        fault=st.sampled_from(FAULTS),
        flaw=st.sampled_from(FLAWS),
    )
    def an_agent_considers_a_likely_miner(
        self,
        node: str,
        name: str,
        kind: str,
        clues: tuple[Finding, ...],
        hours: int,
        fault: str,
        flaw: Knowledge,
    ) -> None:
        self._start("binder", name, node, kind, clues)
        self._pass(1200 + hours * 3600)
        self._see_all()
        self._consider(node, ("binder", name), fault, flaw)

    @rule()
    def all_agents_consider_all_their_pods(self) -> None:
        for node in NODES:
            self._consider_all(node)

    @rule(
        node=st.sampled_from(NODES),
        is_log_kept=st.booleans(),
        reboots=st.booleans(),
        jump_s=st.sampled_from((0, 0, 7200, 1e7, -7200)),
        wait_s=st.integers(0, 3600),
    )
    def an_agent_restarts_and_goes_on(
        self, node: str, is_log_kept: bool, reboots: bool, jump_s: float, wait_s: int
    ) -> None:
        self._consider_all(node)
        self.agents[node].skew_s += jump_s
        self.an_agent_restarts(node, is_log_kept, reboots)
        self._pass(wait_s)
        self._consider_all(node)

    def _consider_all(self, node: str) -> None:
        for key in sorted(self.agents[node].cache):
            self._consider(node, key, "none", Knowledge(heard="before"))

    def _consider(self, node: str, key: tuple[str, str], fault: str, knowledge: Knowledge) -> None:
        agent = self.agents[node]
        live = agent.cache[key]
        left = {"now": self.budget.left(), "before": self.budget.per_cluster, "never": None}
        situation = Situation(
            node=node,
            interval_s=INTERVAL_S,
            own_namespace="minerwatch",
            own_pod_uid="uid-own",
            pods_synced=knowledge.is_synced,
            cluster_budget_left=left[knowledge.heard],
            owners=20,
            flagged={"name": knowledge.flagged, "busy": 1},
            cluster_flagged={"name": knowledge.in_cluster},
        )
        verdict = self._verdict(agent, live, knowledge.lag_s)
        case = Case(
            _container(live.pod),
            verdict,
            live.pod,
            _owner(live.pod),
            situation,
            held=self._held(agent, live),
            is_controlled=knowledge.is_controlled,
        )
        decision = decide(case, self.settings, agent.history, agent.now(self.true_s))
        self._check_reasons(decision)
        if decision.acts:
            try:
                self._carry_out(agent, case, decision, fault)
            except Killed:
                self.seen[fault] += 1
                self._restart(agent, is_log_kept=True)

    def _carry_out(self, agent: Agent, case: Case, decision: Decision, fault: str) -> None:
        record = agent.history.begin(decision, agent.now(self.true_s))
        self._meet(fault, "killed before the evidence")
        if fault == "killed writing the evidence":
            agent.log.append(msgspec.json.encode(record)[:-5])
            raise Killed
        agent.write(record)
        self._meet(fault, "killed before the budget")
        reserved_s = self.true_s
        is_reserved = (
            self.budget.reserve(record, agent.now(self.true_s)) and fault != "budget unreachable"
        )
        if not is_reserved:
            self._settle(agent, record, Outcome.WITHDRAWN)
            return
        fresh = self._fresh(case, fault)
        now = agent.now(self.true_s)
        again = rechecked(decision, record, fresh, self.settings, agent.history, now)
        self._check_reasons(again)
        if not again.acts:
            self.seen[fault] += 1
            self._settle(agent, record, Outcome.WITHDRAWN)
            return
        self._meet(fault, "killed before the action")
        if fault == "re-created after it":
            self._recreate(case)
        outcome = self._outcome(agent, fresh, again, fault, reserved_s)
        self._meet(fault, "killed after the action")
        self._settle(agent, record, outcome)

    def _fresh(self, case: Case, fault: str) -> Case:
        """The case with its pod just fetched; meanwhile this or that has happened."""
        assert case.pod is not None
        key = case.pod.namespace, case.pod.name
        if fault == "slow":
            self._pass(25)
        if fault == "re-created before the second look":
            self._recreate(case)
        if fault == "ending before the second look" and key in self.pods:
            live = self.pods[key]
            live.pod = replace(live.pod, is_ending=True)
        is_synced = case.situation.pods_synced and fault != "out of sync before the second look"
        return replace(
            case,
            pod=self.pods[key].pod if key in self.pods else None,
            situation=replace(case.situation, pods_synced=is_synced),
        )

    def _outcome(
        self, agent: Agent, case: Case, decision: Decision, fault: str, reserved_s: float
    ) -> Outcome:
        """What the API server answers; it knows the pod's uid and refuses any other."""
        if decision.dry_run:
            return Outcome.DRY_RUN
        live = self.pods.get((decision.namespace, decision.pod))
        if fault in ("refused", "failed"):
            self.seen[fault] += 1
            return Outcome(fault)
        if live is None or live.pod.uid != decision.pod_uid:
            self.seen[fault] += 1
            return Outcome.REFUSED
        self.seen["enforced"] += 1
        self.seen[f"rung {decision.rung}"] += 1
        self._check_action(agent, live.pod, case, decision)
        self.done.append(Done(reserved_s, agent.name, live.pod.uid))
        if decision.action in (Action.EVICT, Action.DELETE):
            live.pod = replace(live.pod, is_ending=True)
        return Outcome.DONE

    # The invariants.

    def _check_reasons(self, decision: Decision) -> None:
        """7: every decision has a reason; nothing is proposed that the ladder does not have."""
        self.seen["decisions"] += 1
        for reason in decision.reasons:
            self.seen[reason.name] += 1
        assert decision.acts is (decision.action is not Action.OBSERVE)
        assert decision.acts is not bool(decision.objections)
        assert not (decision.acts and self.settings.mode == OFF)
        assert decision.dry_run is (self.settings.mode != ENFORCE)
        assert all(str(objection).endswith(".") for objection in decision.objections)
        assert len(set(decision.objections)) == len(decision.objections)
        assert decision.proposed in (Action.OBSERVE, *self.settings.ladder[0].actions)

    def _check_action(self, agent: Agent, pod: Pod, case: Case, decision: Decision) -> None:
        """1 to 4 and 6, on the pod as it is when it is hit."""
        now, verdict = agent.now(self.true_s), case.verdict
        assert self.settings.mode == ENFORCE
        assert verdict.level is Level.CONFIRMED
        exempt = self.settings.exemptions[0]
        is_tripped = (
            case.situation.flagged["name"] > 4
            or case.situation.cluster_flagged["name"]
            >= self.settings.circuit_breaker.cluster_owners
        )
        live = self.pods[pod.namespace, pod.name]
        today = datetime.fromtimestamp(now.unix_s, UTC).date()
        is_over = exempt.until is not None and today > exempt.until
        # In tenants' namespaces nothing is exempted by its owner.
        is_exempt = "ada" in pod.name and pod.namespace != "tenants" and not is_over
        counted = [
            each
            for each in verdict.findings
            if each.maturity is Maturity.STABLE
            and not (is_exempt and each.rule in exempt.rules)
            and each.signal is not Signal.BEHAVIOUR
            and not (each.rule == "name" and is_tripped)
        ]
        assert decision.abuse in {each.value for each in self.settings.abuses}
        self.seen[f"enforced {decision.abuse}"] += 1
        counted = [each for each in counted if each.abuse.value == decision.abuse]
        best = {
            signal: max(each.score for each in counted if each.signal is signal)
            for signal in {each.signal for each in counted}
        }
        assert len(best) >= 2
        assert any(PROOF[decision.abuse](each) for each in counted)
        assert 100 - 100 * prod(1 - score / 100 for score in best.values()) >= 89.99
        watched_since_s = max(live.clues_since_s, agent.watches_since_s)
        assert self.true_s - watched_since_s >= self.settings.hold, "a gap starts it again"
        assert 0 <= now.monotonic_s - verdict.at_s <= 2 * INTERVAL_S
        assert not pod.mirror_uid
        assert pod.uid != "uid-own"
        if pod.namespace != "tenants":
            assert pod.namespace == "binder"
            assert pod.labels == {"component": "singleuser-server"}
            claims = [owner for owner in pod.owners if owner.kind == "DaemonSet"]
            if claims or "critical" in pod.priority_class:
                assert case.is_controlled is False, "only a claim that the API denies is none"
        elif not exempt.rules:
            self.seen["tenants' own"] += 1
        if (
            pod.namespace == "binder"
            and not exempt.rules
            and (exempt.until is None or today <= exempt.until)
        ):
            assert "ada" not in pod.name
        assert not pod.is_ending
        assert (pod.uid, pod.node) == (case.container.pod_uid, agent.name)
        assert now.unix_s - pod.created_unix_s >= 300
        assert case.situation.pods_synced
        written = [record for record in agent.read() if record.pod_uid == pod.uid]
        assert written[-1].outcome is Outcome.PENDING
        assert written[-1].action is decision.action
        assert decision.processes or decision.action not in (Action.STOP, Action.KILL)

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        """5: in no hour by true time, whatever the clocks said and the agents forgot."""
        for number, last in enumerate(self.done):
            hour = [
                each for each in self.done[: number + 1] if last.reserved_s - each.reserved_s < 3600
            ]
            assert len(hour) <= self.settings.budget.per_cluster
            own = [each for each in hour if each.node == last.node]
            assert len(own) <= self.settings.budget.per_node

    @invariant()
    def no_pod_is_hit_twice_in_a_row(self) -> None:
        for number, last in enumerate(self.done):
            for each in self.done[:number]:
                if each.pod_uid == last.pod_uid:
                    assert last.reserved_s - each.reserved_s >= self.settings.pause

    @invariant()
    def a_step_is_counted(self) -> None:
        self.seen["steps"] += 1

    # What the rules above have in common.

    def _start(
        self, namespace: str, name: str, node: str, kind: str, clues: tuple[Finding, ...]
    ) -> None:
        self.uids += 1
        uid = "uid-own" if kind == "own" else f"uid-{self.uids}"
        pod = Pod(
            uid=uid,
            namespace=namespace,
            name=name,
            node=node,
            created_unix_s=START_UNIX_S + self.true_s,
            phase="Running",
            priority_class="system-node-critical" if kind == "critical" else "",
            service_account="default",
            labels={} if kind == "unselected" else {"component": "singleuser-server"},
            annotations={},
            environment={},
            owners=_owners(kind),
            containers=(PodContainer(f"c-{uid}", "notebook", "i", "", PodContainerKind.MAIN),),
            mirror_uid=f"mirror-{uid}" if kind == "static" else "",
            is_ending=False,
        )
        self.pods[namespace, name] = LivePod(pod, clues, self.true_s)

    def _recreate(self, case: Case) -> None:
        pod = case.pod
        assert pod is not None
        self._start(pod.namespace, pod.name, pod.node, "bare", CLUES[0])

    def _verdict(self, agent: Agent, live: LivePod, lag_s: float) -> Verdict:
        """What the judge would say; levels are held up for a while when the score falls."""
        container = _container(live.pod)
        since_s = live.clues_since_s - agent.booted_s
        at_s = self.true_s - agent.booted_s - lag_s
        findings = tuple(replace(each, since_s=since_s) for each in live.clues)
        by_abuse: dict[Abuse, dict[Signal, float]] = {}
        for each in findings:
            by_abuse.setdefault(each.abuse, {})[each.signal] = each.score
        joined = (
            100 * (1 - prod(1 - score / 100 for score in scores.values()))
            for scores in by_abuse.values()
        )
        score = max(joined, default=0.0)
        is_held_up = self.true_s - live.clues_since_s < 3 * INTERVAL_S
        level = Level.CONFIRMED if is_held_up else Level.of(score)
        return Verdict(container.key, at_s, score, level, since_s, findings)

    def _held(self, agent: Agent, live: LivePod) -> Held:
        """What has been watched of each rule, on the container and on its process."""
        held_s = self.true_s - max(live.clues_since_s, agent.watches_since_s)
        return Held(
            {each.rule: held_s for each in live.clues},
            {(each.rule, each.process): held_s for each in live.clues},
        )

    def _settle(self, agent: Agent, record: ActionRecord, outcome: Outcome) -> None:
        settled = agent.history.finish(record.id, outcome)
        assert settled is not None
        agent.write(settled)
        if outcome is Outcome.WITHDRAWN:
            self.budget.give_back(record)

    def _restart(self, agent: Agent, *, is_log_kept: bool) -> None:
        agent.watches_since_s = self.true_s
        now = agent.now(self.true_s)
        if is_log_kept:
            agent.history = History.restored(agent.read(), now)
            assert not any(
                record.outcome is Outcome.PENDING for record in agent.history.records()
            ), "nothing is stuck"
        else:
            agent.log.clear()
            agent.history = History.started(agent.name, now)
            agent.write(agent.history.records()[0])

    def _meet(self, fault: str, here: str) -> None:
        if fault == here:
            raise Killed

    def _pass(self, seconds: float) -> None:
        self.true_s += seconds
        self.budget.true_s = self.true_s

    def _pick(self, place: int) -> tuple[str, str]:
        return sorted(self.pods)[place % len(self.pods)]

    def _see_all(self) -> None:
        for agent in self.agents.values():
            agent.cache = {
                key: live for key, live in self.pods.items() if live.pod.node == agent.name
            }


def _container(pod: Pod) -> Container:
    return Container(
        f"/kubepods/{pod.uid}", 1, ContainerKind.POD, f"c-{pod.uid}", "containerd",
        pod.mirror_uid or pod.uid,
    )  # fmt: skip


def _owner(pod: Pod) -> Owner:
    return Owner(pod.name.removeprefix("jupyter-"), "label hub.jupyter.org/username")


def _owners(kind: str) -> tuple[OwnerReference, ...]:
    owner = {"static": "Node", "daemon": "DaemonSet"}.get(kind)
    return (OwnerReference(owner, "x", "u", is_controller=True),) if owner else ()


@pytest.mark.slow
def test_no_invariant_is_ever_broken() -> None:
    seen = Cluster.seen
    seen.clear()
    for _ in range(4):  # chance may leave out a kind of abuse: more examples are tried then
        run_state_machine_as_test(
            Cluster,
            settings=settings(
                settings.default, max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None
            ),
        )
        if all(seen[f"enforced {abuse}"] for abuse in PROOF):
            break
    assert seen["steps"] >= 10_000
    assert seen["enforced"] >= 100, "or nothing has been shown"
    assert [abuse for abuse in PROOF if not seen[f"enforced {abuse}"]] == []
