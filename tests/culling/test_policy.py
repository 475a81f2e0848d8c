from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.hours import Hours
from minerwatch.config.schema import CullBudget, Culling, Exemption, HostCulling, Rungs
from minerwatch.config.selectors import Selector
from minerwatch.config.values import DRY_RUN, ENFORCE, MODES, OFF, Duration
from minerwatch.culling.decision import Decision, Reason
from minerwatch.culling.history import History
from minerwatch.culling.policy import ALWAYS_PROTECTED, decide, protected_namespaces, rechecked
from minerwatch.culling.proof import counted_as, rules_that_flag
from minerwatch.culling.records import HOUR_S, ActionRecord, Case, Held, Moment, Situation
from minerwatch.model import (
    Abuse,
    Action,
    Container,
    ContainerKey,
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
    ProcessId,
    Signal,
)
from tests.builders import make_container, make_finding, make_pod, make_pod_container, make_verdict

NOW = Moment(unix_s=1_800_000_000.0, monotonic_s=100_000.0, boot_id="boot")  # a Friday, 08:00 UTC
MINER = ProcessId(4242, 1234)
OTHER = ProcessId(4243, 1235)


def finding(signal: Signal = Signal.IDENTITY, score: float = 88, **changes: Any) -> Finding:
    return make_finding(
        signal, score, **{"since_s": NOW.monotonic_s - 3600, "process": MINER, **changes}
    )


IDENTITY = finding()
COMPUTE = finding(Signal.COMPUTE, 60, rule="rule-2")

CONTAINER = make_container(cgroup="/kubepods/pod1/c1")
NESTED = replace(
    CONTAINER, cgroup="/kubepods/pod1/c1/docker/d1", cgroup_inode=8, container_id="d1",
    runtime="docker", outer_cgroup=CONTAINER.cgroup,
)  # fmt: skip
VERDICT = make_verdict(
    CONTAINER, IDENTITY, COMPUTE, at_s=NOW.monotonic_s - 1, since_s=NOW.monotonic_s - 3600
)
POD = make_pod(
    created_unix_s=NOW.unix_s - 7200,
    labels={"component": "singleuser-server"},
    containers=(make_pod_container(image="img/notebook:1"),),
)
SITUATION = Situation(
    node="node-1",
    interval_s=10,
    own_namespace="minerwatch",
    own_pod_uid="uid-own",
    pods_synced=True,
    cluster_budget_left=5,
    owners=20,
    flagged={"rule-1": 1, "rule-2": 1},
)


def held(seconds: float = 3600, **of_rule: float) -> Held:
    """All rules for ``seconds``, but those that are named (rule_1=…)."""
    rules = {f"rule-{name}": seconds for name in "123c"}
    rules |= {name.replace("_", "-"): value for name, value in of_rule.items()}
    processes = (MINER, OTHER, ProcessId(6, 6), None)
    each = {(rule, process): value for rule, value in rules.items() for process in processes}
    return Held(rules, each)


CASE = Case(CONTAINER, VERDICT, POD, Owner("eve", "label"), SITUATION, held=held())
SETTINGS = Culling(
    mode=ENFORCE,
    namespaces=("binder",),
    selector=Selector("component=singleuser-server"),
    ladder=(Rungs(actions=(Action.KILL, Action.EVICT, Action.DELETE)),),
)
LABELLING = msgspec.structs.replace(SETTINGS, ladder=(Rungs(actions=(Action.LABEL,)),))
STOPPING = msgspec.structs.replace(SETTINGS, ladder=(Rungs(actions=(Action.STOP,)),))
QUARANTINED = {"minerwatch.io/quarantine": "true"}


def history() -> History:
    return History.started("node-1", later(-2 * HOUR_S))


def later(seconds: float, moment: Moment = NOW) -> Moment:
    return replace(moment, unix_s=moment.unix_s + seconds, monotonic_s=moment.monotonic_s + seconds)


def at(moment: Moment, case: Case = CASE) -> Case:
    """``case`` with a verdict of that moment."""
    return replace(case, verdict=replace(case.verdict, at_s=moment.monotonic_s))


def with_settings(**changes: Any) -> Culling:
    return msgspec.structs.replace(SETTINGS, **changes)


def with_pod(**changes: Any) -> Case:
    return replace(CASE, pod=replace(POD, **changes))


def with_verdict(**changes: Any) -> Case:
    return replace(CASE, verdict=replace(VERDICT, **changes))


def with_situation(**changes: Any) -> Case:
    return replace(CASE, situation=replace(SITUATION, **changes))


def with_container(**changes: Any) -> Case:
    container = replace(CONTAINER, **changes)
    return replace(CASE, container=container, verdict=replace(VERDICT, container=container.key))


def acted(
    past: History,
    ago_s: float,
    outcome: Outcome = Outcome.DONE,
    pod: Pod = POD,
    owner: str = "eve",
    action: Action = Action.KILL,
) -> ActionRecord:
    """An action that was tried some time ago."""
    case = replace(CASE, pod=pod, owner=Owner(owner, "label"))
    decision = replace(DECISION, action=action, proposed=action, **_names(case))
    decision = replace(decision, dry_run=outcome is Outcome.DRY_RUN)
    record = past.begin(decision, later(-ago_s))
    return past.finish(record.id, outcome) or record


def _names(case: Case) -> dict[str, Any]:
    assert case.pod is not None
    assert case.owner is not None
    return {
        "pod_uid": case.pod.uid, "pod": case.pod.name, "namespace": case.pod.namespace,
        "owner": case.owner.name,
    }  # fmt: skip


DECISION = decide(CASE, SETTINGS, history(), NOW)

COUNTERS = replace(
    COMPUTE,
    rule="rule-3",
    signal=Signal.NETWORK,
    evidence=(Evidence("FailedConnectShare", 0.99, "at least 0.8"),),
)
REPUTATION = replace(COUNTERS, evidence=(Evidence("DestinationIp", "192.0.2.1", "is a pool"),))
ON_FOR_ALL = with_settings(abuses=tuple(CullableAbuse))


def of_abuse(abuse: Abuse, evidence: Finding) -> Case:
    """``CASE``, confirmed as ``abuse`` by a name and ``evidence``."""
    return with_verdict(findings=(replace(IDENTITY, abuse=abuse), replace(evidence, abuse=abuse)))


SCANNING = of_abuse(Abuse.SCANNING, COUNTERS)
CRACKING = of_abuse(Abuse.CRACKING, COMPUTE)


@pytest.mark.parametrize(
    ("case", "abuse"), [(SCANNING, "scanning"), (CRACKING, "cracking"), (CASE, "mining")]
)
def test_abuse_that_the_operator_names_is_acted_upon(case: Case, abuse: str) -> None:
    decision = decide(case, ON_FOR_ALL, history(), NOW)
    assert (decision.action, decision.abuse) == (Action.KILL, abuse)


def test_abuse_that_is_not_culled_trips_nothing_and_leads_to_no_harsher_action() -> None:
    scanning = of_abuse(Abuse.SCANNING, replace(COUNTERS, score=80)).verdict
    mining = with_verdict(findings=(*CASE.verdict.findings, *scanning.findings))
    harsher = with_settings(
        ladder=(Rungs(score=97, actions=(Action.DELETE,)), Rungs(actions=(Action.LABEL,)))
    )
    decision = decide(mining, harsher, history(), NOW)
    assert (decision.action, decision.rules) == (Action.LABEL, ("rule-1", "rule-2"))
    flagged = rules_that_flag(mining.verdict, CONTAINER, POD, CASE.owner, SETTINGS, NOW)
    assert flagged == {"rule-1", "rule-2"}


def test_the_reason_names_the_abuse_and_what_is_switched_on() -> None:
    (reason, _) = decide(SCANNING, SETTINGS, history(), NOW).sentences
    assert reason == "culling.abuses does not name this kind of abuse (scanning; on for mining)."


# What acts.


def test_a_miner_that_nothing_speaks_for_is_acted_upon() -> None:
    assert (
        Decision(
            action=Action.KILL,
            proposed=Action.KILL,
            rung=0,
            dry_run=False,
            objections=(),
            container=CONTAINER.key,
            container_id="c1",
            pod_uid="uid-1",
            namespace="binder",
            pod="jupyter-eve",
            node="node-1",
            owner="eve",
            processes=(MINER,),
            grace_period_s=None,
            rules=("rule-1", "rule-2"),
            counted_as="binder/eve",
            abuse="mining",
        )
        == DECISION
    )
    assert DECISION.acts
    assert DECISION.acts and not DECISION.dry_run  # noqa: PT018


def test_nothing_is_done_by_default() -> None:
    decision = decide(CASE, Culling(), history(), NOW)
    assert decision.action is Action.OBSERVE
    assert set(decision.reasons) == {Reason.OFF, Reason.NAMESPACE_NOT_ALLOWED}
    assert decision.proposed is Action.LABEL


def test_a_dry_run_is_not_enforced() -> None:
    decision = decide(CASE, with_settings(mode=DRY_RUN), history(), NOW)
    assert (decision.action, decision.dry_run) == (Action.KILL, True)
    assert decision.acts
    assert not decision.acts or decision.dry_run


def test_a_bare_pod_is_a_pod_like_any_other() -> None:
    assert POD.owners == ()
    owned = with_pod(owners=(OwnerReference("ReplicaSet", "x", "u", is_controller=True),))
    assert decide(owned, SETTINGS, history(), NOW).acts


def test_a_container_in_the_pods_container_is_the_pods() -> None:
    case = replace(
        CASE, container=NESTED, carrier=CONTAINER, verdict=replace(VERDICT, container=NESTED.key)
    )
    decision = decide(case, SETTINGS, history(), NOW)
    assert decision.acts
    assert decision.container == NESTED.key
    assert decision.container_id == "c1"


def test_the_grace_period_is_handed_on() -> None:
    decision = decide(CASE, with_settings(grace_period=Duration(5)), history(), NOW)
    assert decision.grace_period_s == 5


# Every reason not to act.

Doubt = tuple[Case, Culling, Callable[[History], object] | None, set[Reason]]


def doubt(
    case: Case = CASE,
    settings: Culling = SETTINGS,
    past: Callable[[History], object] | None = None,
    also: Iterable[Reason] = (),
) -> Doubt:
    return case, settings, past, set(also)


# On a host.

UNIT = make_container("ci@1.service", "", cgroup="/system.slice/ci@1.service",
                      kind=ContainerKind.UNIT, runtime="systemd")  # fmt: skip
ENGINES = make_container("d" * 64, "", cgroup=f"/docker/{'d' * 64}", kind=ContainerKind.ENGINE)
HOST = replace(SITUATION, own_namespace="", is_host=True, own_cgroup="/system.slice/own.service")
ON_HOST = with_settings(
    namespaces=(),
    selector=Selector(),
    hosts=HostCulling(units=("ci@*",), containers=("web*",), users=("alice",)),
)
PAUSING = msgspec.structs.replace(ON_HOST, ladder=(Rungs(actions=(Action.PAUSE,)),))
LABELLING_HOST = msgspec.structs.replace(ON_HOST, ladder=(Rungs(actions=(Action.LABEL,)),))
WITH_SOCKET = msgspec.structs.replace(
    PAUSING, hosts=msgspec.structs.replace(PAUSING.hosts, docker_socket="/run/docker.sock")
)


def host_case(
    container: Container = UNIT,
    name: str = "ci@1.service",
    situation: Situation = HOST,
    **changes: Any,
) -> Case:
    """A miner in a unit, or in a container of docker, of a host."""
    own = name.partition("/")[2] or name
    inner = make_pod_container(container_id=container.container_id, name=own, image="img:1")
    pod = replace(
        POD, uid="host-uid", namespace="", name=name, labels={}, containers=(inner,),
        service_account="",
    )  # fmt: skip
    return replace(
        CASE,
        container=container,
        verdict=replace(VERDICT, container=container.key),
        pod=replace(pod, **changes),
        owner=None,
        situation=situation,
    )


def docker_case(**changes: Any) -> Case:
    return host_case(ENGINES, "docker/web-1", **changes)


def hosts(settings: Culling = ON_HOST, **changes: Any) -> Culling:
    return msgspec.structs.replace(
        settings, hosts=msgspec.structs.replace(settings.hosts, **changes)
    )


def named(name: str) -> Container:
    return replace(UNIT, container_id=name, cgroup=f"/system.slice/{name}")


ALICES = host_case(name="1000/x.scope", service_account="alice")
HOST_DOUBTS: list[tuple[Reason, Doubt]] = [
    (Reason.OWN_CGROUP_UNKNOWN, doubt(
        host_case(situation=replace(HOST, own_cgroup="")), ON_HOST)),
    (Reason.NOT_A_WORKLOAD, doubt(host_case(replace(UNIT, kind=ContainerKind.HOST)), ON_HOST)),
    (Reason.NOT_A_WORKLOAD, doubt(
        host_case(replace(UNIT, kind=ContainerKind.POD)), hosts(units=("*",)))),
    (Reason.NAME_UNKNOWN, doubt(replace(host_case(), pod=None), ON_HOST)),
    (Reason.NAME_UNKNOWN, doubt(
        replace(docker_case(), pod=None), WITH_SOCKET)),
    (Reason.CONTAINER_MISMATCH, doubt(replace(
        host_case(), verdict=replace(VERDICT, container=ContainerKey("/x", 8))), ON_HOST)),
    (Reason.CONTAINER_MISMATCH, doubt(
        host_case(containers=(make_pod_container("other", name="ci@1.service"),)), ON_HOST)),
    (Reason.OWN_UNIT, doubt(
        host_case(situation=replace(HOST, own_cgroup=UNIT.cgroup)), ON_HOST)),
    (Reason.OWN_UNIT, doubt(
        host_case(situation=replace(HOST, own_cgroup=f"{UNIT.cgroup}/sub")), ON_HOST)),
    (Reason.PROTECTED_UNIT, doubt(
        host_case(named("sshd.service"), "sshd.service"), hosts(units=("*",)))),
    (Reason.PROTECTED_UNIT, doubt(host_case(), hosts(protected=("ci@*",)))),
    (Reason.PROTECTED_UNIT, doubt(docker_case(), hosts(protected=("web-1",)))),
    (Reason.PROTECTED_UNIT, doubt(docker_case(), hosts(protected=("docker/*",)))),
    (Reason.PROTECTED_UNIT, doubt(ALICES, hosts(protected=("alice",)))),
    (Reason.HOST_NOT_SELECTED, doubt(host_case(), hosts(units=()))),
    (Reason.HOST_NOT_SELECTED, doubt(docker_case(), hosts(containers=("ci*",), units=("*",)))),
    (Reason.HOST_NOT_SELECTED, doubt(host_case(), hosts(units=(), containers=("*",)))),
    (Reason.HOST_NOT_SELECTED, doubt(
        ALICES, hosts(users=("bob",), units=("*",), containers=("*",)))),
    (Reason.NOT_SELECTED, doubt(docker_case(), msgspec.structs.replace(
        ON_HOST, selector=Selector("ci")))),
    (Reason.NOT_HERE, doubt(host_case(), LABELLING_HOST)),
    (Reason.NOT_HERE, doubt(host_case(), WITH_SOCKET)),
    (Reason.NOT_HERE, doubt(
        replace(docker_case(service_account="alice"), owner=None), WITH_SOCKET)),
    (Reason.NOT_HERE, doubt(settings=with_settings(ladder=(Rungs(actions=(Action.PAUSE,)),)))),
    (Reason.NO_ENGINE, doubt(docker_case(), PAUSING)),
    (Reason.NO_ENGINE, doubt(host_case(ENGINES, "podman/web-1"), WITH_SOCKET)),
    (Reason.ALREADY_DONE, doubt(docker_case(phase="Paused"), WITH_SOCKET)),
    (Reason.HOST_BUDGET_UNKNOWN, doubt(
        host_case(situation=replace(HOST, cluster_budget_left=None)), ON_HOST)),
    (Reason.CLUSTER_BUDGET_SPENT, doubt(
        host_case(situation=replace(HOST, cluster_budget_left=0)), ON_HOST)),
]  # fmt: skip

DAEMON_SET = OwnerReference("DaemonSet", "x", "u", is_controller=True)
EXPERIMENTAL = finding(Signal.NETWORK, 88, rule="rule-3", maturity=Maturity.TEST)
DOUBTS: list[tuple[Reason, Doubt]] = [
    (Reason.OFF, doubt(settings=with_settings(mode=OFF))),
    (Reason.OUTSIDE_HOURS, doubt(settings=with_settings(active_hours=(Hours("sat 00:00-24:00"),)))),
    (Reason.CIRCUIT_BREAKER, doubt(with_situation(flagged={"rule-1": 5}),
        also={Reason.NO_PROCESS})),
    (Reason.CIRCUIT_BREAKER, doubt(with_situation(flagged={"rule-2": 3}, owners=3),
        also={Reason.NO_PROCESS})),
    (Reason.CIRCUIT_BREAKER, doubt(with_situation(cluster_flagged={"rule-2": 10}),
        also={Reason.NO_PROCESS})),
    (Reason.OWN_IDENTITY_UNKNOWN, doubt(with_situation(own_namespace=""))),
    (Reason.PODS_NOT_SYNCED, doubt(with_situation(pods_synced=False))),
    (Reason.NO_AUDIT_LOG, doubt(with_situation(audit_trouble="No space left on device"))),
    (Reason.NOT_CONFIRMED, doubt(with_verdict(level=Level.LIKELY))),
    (Reason.NOT_CORROBORATED, doubt(with_verdict(findings=()))),
    (Reason.NOT_CORROBORATED, doubt(with_verdict(findings=(finding(score=100),)))),
    (Reason.NOT_CORROBORATED, doubt(with_verdict(findings=(IDENTITY, EXPERIMENTAL)))),
    (Reason.NOT_CORROBORATED, doubt(with_verdict(
        findings=(IDENTITY, replace(COMPUTE, score=0), EXPERIMENTAL)))),
    (Reason.NOT_HELD, doubt(replace(CASE, held=held(299)), also={Reason.NO_PROCESS})),
    (Reason.NOT_HELD, doubt(replace(CASE, held=held(rule_2=299)), also={Reason.NO_PROCESS})),
    (Reason.NOT_HELD, doubt(replace(CASE, held=Held()), also={Reason.NO_PROCESS})),
    (Reason.STALE_VERDICT, doubt(with_verdict(at_s=NOW.monotonic_s - 21))),
    (Reason.STALE_VERDICT, doubt(with_verdict(at_s=NOW.monotonic_s + 1))),
    (Reason.STALE_VERDICT, doubt(with_verdict(at_s=float("nan")))),
    (Reason.NOT_A_POD, doubt(with_container(kind=ContainerKind.ENGINE))),
    (Reason.POD_UNKNOWN, doubt(replace(CASE, pod=None))),
    (Reason.POD_MISMATCH, doubt(with_pod(uid="uid-2"))),
    (Reason.POD_MISMATCH, doubt(with_pod(node="node-2"))),
    (Reason.POD_MISMATCH, doubt(with_container(pod_uid=""))),
    (Reason.CONTAINER_MISMATCH, doubt(with_container(container_id="c2"))),
    (Reason.CONTAINER_MISMATCH, doubt(with_container(container_id=""))),
    (Reason.CONTAINER_MISMATCH, doubt(with_verdict(container=ContainerKey(CONTAINER.cgroup, 8)))),
    (Reason.CONTAINER_MISMATCH, doubt(replace(
        CASE, container=replace(NESTED, cgroup="/kubepods/pod1/c10"), carrier=CONTAINER,
        verdict=replace(VERDICT, container=ContainerKey("/kubepods/pod1/c10", 8))))),
    (Reason.OWN_POD, doubt(with_situation(own_pod_uid="uid-1"))),
    (Reason.PROTECTED_NAMESPACE, doubt(with_pod(namespace="kube-system"),
        with_settings(namespaces=("*",)))),
    (Reason.PROTECTED_NAMESPACE, doubt(with_situation(own_namespace="binder"))),
    (Reason.PROTECTED_NAMESPACE, doubt(settings=with_settings(protected_namespaces=("b*",)))),
    (Reason.NAMESPACE_NOT_ALLOWED, doubt(with_pod(namespace="binder-2"))),
    (Reason.NAMESPACE_NOT_ALLOWED, doubt(settings=with_settings(namespaces=()))),
    (Reason.NOT_SELECTED, doubt(with_pod(labels={}))),
    (Reason.STATIC_POD, doubt(replace(
        with_container(pod_uid="f" * 32), pod=replace(POD, mirror_uid="f" * 32)))),
    (Reason.DAEMON_SET_POD, doubt(replace(with_pod(owners=(DAEMON_SET,)), is_controlled=True))),
    (Reason.CONTROLLER_UNKNOWN, doubt(with_pod(owners=(DAEMON_SET,)))),
    (Reason.CONTROLLER_UNKNOWN, doubt(with_pod(priority_class="system-node-critical"))),
    (Reason.CRITICAL_PRIORITY, doubt(replace(
        with_pod(priority_class="system-node-critical"), is_controlled=True))),
    (Reason.CRITICAL_PRIORITY, doubt(replace(
        with_pod(priority_class="system-cluster-critical"), is_controlled=True))),
    (Reason.EXEMPT, doubt(settings=with_settings(
        exemptions=(Exemption(reason="thesis", owners=("eve",)),)))),
    (Reason.EXEMPT, doubt(settings=with_settings(
        exemptions=(Exemption(reason="wrong rule", rules=("rule-1",)),)),
        also={Reason.NOT_CORROBORATED, Reason.NO_PROCESS})),
    (Reason.ABUSE_NOT_CULLED, doubt(SCANNING, also={Reason.NO_PROCESS})),
    (Reason.ABUSE_NOT_CULLED, doubt(CRACKING, with_settings(abuses=(CullableAbuse.SCANNING,)),
        also={Reason.NO_PROCESS})),
    (Reason.ABUSE_NOT_CULLED, doubt(settings=with_settings(abuses=(CullableAbuse.CRACKING,)),
        also={Reason.NO_PROCESS})),
    (Reason.NEVER_CULLED, doubt(of_abuse(Abuse.PROXYWARE, COUNTERS), also={Reason.NO_PROCESS})),
    (Reason.NOT_CORROBORATED, doubt(of_abuse(Abuse.SCANNING, COMPUTE), ON_FOR_ALL)),
    (Reason.NOT_CORROBORATED, doubt(of_abuse(Abuse.SCANNING, REPUTATION), ON_FOR_ALL)),
    (Reason.NOT_CORROBORATED, doubt(of_abuse(Abuse.MINING, COUNTERS), ON_FOR_ALL)),
    (Reason.NOT_HELD, doubt(replace(SCANNING, held=held(rule_3=0)), ON_FOR_ALL,
        also={Reason.NO_PROCESS})),
    (Reason.RELEASED, doubt(past=lambda past: past.release(DECISION, later(-7200)))),
    (Reason.TOO_YOUNG, doubt(with_pod(created_unix_s=NOW.unix_s - 299))),
    (Reason.TOO_YOUNG, doubt(with_pod(created_unix_s=NOW.unix_s + 299))),
    (Reason.TOO_YOUNG, doubt(with_pod(created_unix_s=float("nan")))),
    (Reason.POD_ENDING, doubt(with_pod(is_ending=True))),
    (Reason.POD_ENDING, doubt(with_pod(phase="Failed"))),
    (Reason.ACTION_PENDING, doubt(past=lambda past: past.begin(DECISION, later(-7200)))),
    (Reason.TOO_SOON, doubt(past=lambda past: acted(past, 599))),
    (Reason.TOO_SOON, doubt(past=lambda past: acted(past, 599, Outcome.WITHDRAWN))),
    (Reason.NO_LADDER, doubt(settings=with_settings(ladder=()))),
    (Reason.NO_LADDER, doubt(settings=with_settings(
        ladder=(Rungs(namespaces=("prod",), actions=(Action.KILL,)),)))),
    (Reason.NO_LADDER, doubt(settings=with_settings(
        ladder=(Rungs(score=96, actions=(Action.KILL,)),)))),
    (Reason.OBSERVE_ONLY, doubt(settings=with_settings(
        ladder=(Rungs(actions=(Action.OBSERVE,)), *SETTINGS.ladder)))),
    (Reason.NO_PROCESS, doubt(with_verdict(
        findings=(IDENTITY, replace(COMPUTE, process=OTHER))),
        also={Reason.NOT_CORROBORATED})),
    (Reason.ALREADY_DONE, doubt(with_pod(labels={**POD.labels, **QUARANTINED}), LABELLING,
        lambda past: acted(past, 7200, action=Action.LABEL))),
    (Reason.ALREADY_DONE, doubt(replace(CASE, stopped=frozenset({MINER, OTHER})), STOPPING)),
    (Reason.ALREADY_DONE, doubt(settings=msgspec.structs.replace(LABELLING, mode=DRY_RUN),
        past=lambda past: acted(past, 7200, Outcome.DRY_RUN, action=Action.LABEL))),
    (Reason.ALREADY_DONE, doubt(settings=with_settings(mode=DRY_RUN),
        past=lambda past: acted(past, 7200, Outcome.DRY_RUN))),
    (Reason.NODE_BUDGET_SPENT, doubt(past=lambda past: [
        acted(past, 3599 - number, Outcome.FAILED, replace(POD, uid="x", name="x"))
        for number in range(2)])),
    (Reason.NODE_BUDGET_SPENT, doubt(settings=with_settings(budget=CullBudget(per_node=0)))),
    (Reason.CLUSTER_BUDGET_UNKNOWN, doubt(with_situation(cluster_budget_left=None))),
    (Reason.CLUSTER_BUDGET_SPENT, doubt(with_situation(cluster_budget_left=0))),
    (Reason.CLUSTER_BUDGET_SPENT, doubt(settings=with_settings(budget=CullBudget(per_cluster=0)))),
    *HOST_DOUBTS,
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "doubtful"),
    DOUBTS,
    ids=[f"{reason.name}-{i}" for i, (reason, _) in enumerate(DOUBTS)],
)
def test_it_is_not_acted_upon(reason: Reason, doubtful: Doubt) -> None:
    case, settings, past, also = doubtful
    if reason is Reason.NOT_CORROBORATED:  # what does not confirm a container confirms no process
        also = {Reason.NO_PROCESS}
    remembered = history()
    if past is not None:
        past(remembered)
    decision = decide(case, settings, remembered, NOW)
    assert set(decision.reasons) == {reason, *also}
    assert decision.action is Action.OBSERVE
    assert not decision.acts


def test_an_agent_that_has_lost_its_memory_waits_for_an_hour() -> None:
    lost = History.started("node-1", later(-3599))
    assert decide(CASE, SETTINGS, lost, NOW).reasons == (Reason.MEMORY_LOST,)
    assert decide(CASE, SETTINGS, lost, later(1)).acts is True
    assert decide(CASE, with_settings(mode=DRY_RUN), lost, NOW).acts


def test_every_reason_is_reached() -> None:
    elsewhere = {Reason.MEMORY_LOST, Reason.DECISION_CHANGED}
    assert {reason for reason, _ in DOUBTS} | elsewhere == set(Reason)


def test_all_reasons_are_given_with_a_sentence_each() -> None:
    case = with_pod(namespace="kube-system", is_ending=True, priority_class="system-node-critical")
    case = replace(case, is_controlled=True)
    decision = decide(case, SETTINGS, history(), NOW)
    assert [str(objection) for objection in decision.objections] == [
        "The namespace is protected (kube-system).",
        "Culling is not configured for the namespace (kube-system).",
        "Its priority class marks it as critical to the cluster (system-node-critical).",
        "The pod has ended or is terminating (Running).",
    ]
    assert all(reason.value.endswith(".") for reason in Reason)


# At the edges.


def test_the_edges_are_within() -> None:
    edge = replace(
        CASE,
        pod=replace(POD, created_unix_s=NOW.unix_s - 300),
        verdict=replace(
            VERDICT,
            at_s=NOW.monotonic_s - 20,
        ),
        situation=replace(
            SITUATION,
            flagged={"rule-1": 4},
            cluster_flagged={"rule-1": 9, "rule-2": 1},
            cluster_budget_left=1,
        ),
        held=held(300),
    )
    past = history()
    acted(past, 3600, pod=replace(POD, uid="x", name="x"), owner="x")
    acted(past, 3599, pod=replace(POD, uid="x", name="x"), owner="x")
    acted(past, 600, Outcome.WITHDRAWN)
    assert decide(edge, SETTINGS, past, NOW).acts


def test_a_few_flagged_owners_do_not_open_the_circuit() -> None:
    few = with_situation(flagged={"rule-1": 2, "rule-2": 2}, owners=2)
    assert decide(few, SETTINGS, history(), NOW).acts


def test_what_other_rules_prove_is_acted_upon_while_one_is_thought_wrong() -> None:
    more = replace(
        with_verdict(findings=(*VERDICT.findings, finding(Signal.NETWORK, 88, rule="rule-3"))),
        situation=replace(SITUATION, flagged={"rule-1": 20, "rule-2": 1, "rule-3": 1}),
    )
    decision = decide(more, SETTINGS, history(), NOW)
    assert decision.acts
    assert decision.rules == ("rule-2", "rule-3"), "no action rests on the rule that tripped"


@pytest.mark.parametrize(
    ("case", "settings", "expected"),
    [
        (CASE, SETTINGS, "binder/eve"),
        (replace(CASE, owner=None), SETTINGS, "namespace binder"),
        (CASE, with_settings(tenant_namespaces=("b*",)), "namespace binder"),
        (replace(CASE, pod=None), SETTINGS, "pod uid-1"),
        (replace(CASE, pod=None, container=replace(CONTAINER, pod_uid="")), SETTINGS,
            CONTAINER.cgroup),
    ],
)  # fmt: skip
def test_the_circuit_counts_by_owner(case: Case, settings: Culling, expected: str) -> None:
    assert counted_as(case.container, case.pod, case.owner, settings) == expected


# No tenant exempts itself.

NODE_OWNER = OwnerReference("Node", "node-1", "u", is_controller=True)
TENANTS = with_settings(tenant_namespaces=("bind*",))


@pytest.mark.parametrize(
    ("changes", "is_controlled"),
    [
        ({"owners": (DAEMON_SET,)}, False),
        ({"owners": (replace(DAEMON_SET, is_controller=False),)}, None),
        ({"owners": (replace(DAEMON_SET, is_controller=False),)}, True),
        ({"owners": (NODE_OWNER,)}, None),
        ({"priority_class": "system-node-critical"}, False),
        ({"mirror_uid": "f" * 32}, None),
        ({"is_ending": True, "ends_unix_s": NOW.unix_s + 86_400.0}, None),
    ],
)
def test_what_a_pod_says_of_itself_spares_it_nothing(
    changes: dict[str, Any], is_controlled: bool | None
) -> None:
    case = replace(with_pod(**changes), is_controlled=is_controlled)
    assert decide(case, SETTINGS, history(), NOW).acts


@pytest.mark.parametrize("is_controlled", [None, True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"owners": (DAEMON_SET,)},
        {"priority_class": "system-node-critical"},
        {"labels": {}},
        {"labels": {"keep": "true"}},
    ],
)
def test_where_tenants_create_pods_only_the_operator_spares(
    changes: dict[str, Any], is_controlled: bool | None
) -> None:
    case = replace(with_pod(**changes), is_controlled=is_controlled)
    assert decide(case, TENANTS, history(), NOW).acts
    assert not decide(case, SETTINGS, history(), NOW).acts or is_controlled is False


@pytest.mark.parametrize(
    ("fields", "spares"),
    [
        ({"namespaces": ("binder",)}, True),
        ({"namespaces": ("binder",), "until": date(2027, 1, 15)}, True),
        ({"namespaces": ("binder",), "until": date(2027, 1, 14)}, False),
        ({"rules": ("rule-1",)}, True),
        ({"pods": ("jupyter-eve",)}, True),
        ({"pods": ("jupyter-*",)}, False),
        ({"pods": ("jupyter-*", "jupyter-eve")}, True),
        ({"owners": ("eve",)}, False),
        ({"images": ("img/*",)}, False),
        ({"selector": Selector("component")}, False),
        ({"namespaces": ("binder",), "selector": Selector("component")}, False),
    ],
)
def test_exemptions_where_tenants_create_pods(fields: dict[str, Any], spares: bool) -> None:
    settings = msgspec.structs.replace(TENANTS, exemptions=(Exemption(reason="agreed", **fields),))
    assert decide(CASE, settings, history(), NOW).acts is not spares


def test_a_pod_that_ends_late_by_its_tenants_choice_gets_less_time() -> None:
    late = with_pod(is_ending=True, ends_unix_s=NOW.unix_s + 86_400.0)
    assert decide(late, SETTINGS, history(), NOW).grace_period_s == 30
    own = with_settings(grace_period=Duration(5))
    assert decide(late, own, history(), NOW).grace_period_s == 5
    soon = with_pod(is_ending=True, ends_unix_s=NOW.unix_s + 299.0)
    assert decide(soon, SETTINGS, history(), NOW).reasons == (Reason.POD_ENDING,)


def test_a_program_that_is_started_again_and_again_is_one_offence() -> None:
    """No process lives for long enough, but the container has mined all the time."""
    since: dict[tuple[str, ProcessId | None], float] = {
        (rule, MINER): 200.0 for rule in ("rule-1", "rule-2")
    }
    case = replace(CASE, held=replace(held(3600), by_process=since))
    evicting = with_settings(ladder=(Rungs(actions=(Action.EVICT,)),))
    assert decide(case, evicting, history(), NOW).acts
    assert decide(case, SETTINGS, history(), NOW).reasons == (Reason.NO_PROCESS,)


@pytest.mark.parametrize("namespace", [*ALWAYS_PROTECTED, "minerwatch"])
def test_no_configuration_opens_these_namespaces(namespace: str) -> None:
    settings = with_settings(namespaces=("*", namespace), protected_namespaces=())
    decision = decide(with_pod(namespace=namespace), settings, history(), NOW)
    assert decision.reasons == (Reason.PROTECTED_NAMESPACE,)
    assert namespace in protected_namespaces(settings, "minerwatch")


# Which processes.


def test_only_processes_that_are_sure_by_themselves_are_killed() -> None:
    young, busy = ProcessId(5, 5), ProcessId(6, 6)
    findings = (
        *VERDICT.findings,
        replace(IDENTITY, process=OTHER),  # one signal only
        replace(IDENTITY, process=young),
        replace(COMPUTE, process=young),
        replace(COMPUTE, process=busy),
        replace(EXPERIMENTAL, process=busy),
    )
    assert decide(with_verdict(findings=findings), SETTINGS, history(), NOW).processes == (MINER,)


def test_what_is_known_of_the_container_counts_for_its_processes() -> None:
    findings = (IDENTITY, replace(COMPUTE, process=None))
    assert decide(with_verdict(findings=findings), SETTINGS, history(), NOW).processes == (MINER,)


# Exemptions.


@pytest.mark.parametrize(
    "fields",
    [
        {"namespaces": ("bind*",)},
        {"pods": ("other", "jupyter-*")},
        {"selector": Selector("component in (singleuser-server)")},
        {"owners": ("e?e",)},
        {"images": ("img/notebook:*",)},
        {"namespaces": ("binder",), "owners": ("eve",), "until": date(2027, 1, 15)},
        {"namespaces": ("binder",), "rules": ("rule-1", "rule-2")},
        {"rules": ("Title of rule-[12]",)},
    ],
)
def test_an_exemption_spares(fields: dict[str, Any]) -> None:
    settings = with_settings(exemptions=(Exemption(reason="agreed", **fields),))
    decision = decide(CASE, settings, history(), NOW)
    assert Reason.EXEMPT in decision.reasons
    assert any("agreed" in objection.detail for objection in decision.objections)


@pytest.mark.parametrize(
    "fields",
    [
        {"namespaces": ("bind",)},
        {"pods": ("jupyter",)},
        {"owners": ("EVE",)},
        {"images": ("notebook",)},
        {"selector": Selector("!component")},
        {"namespaces": ("binder",), "owners": ("ada",)},
        {"namespaces": ("binder",), "until": date(2027, 1, 14)},
        {"rules": ("rule-9",)},
        {"namespaces": ("prod",), "rules": ("rule-1",)},
    ],
)
def test_an_exemption_of_others_or_of_the_past_spares_nobody(fields: dict[str, Any]) -> None:
    settings = with_settings(exemptions=(Exemption(reason="agreed", **fields),))
    assert decide(CASE, settings, history(), NOW).acts


def test_an_exempted_rule_still_leaves_the_proof_of_others() -> None:
    settings = with_settings(exemptions=(Exemption(reason="agreed", rules=("rule-1",)),))
    more = with_verdict(findings=(*VERDICT.findings, finding(Signal.NETWORK, 88, rule="rule-3")))
    assert decide(more, settings, history(), NOW).acts


# The ladder.


@pytest.mark.parametrize(
    ("times", "action", "rung"),
    [(0, Action.KILL, 0), (2, Action.KILL, 0), (3, Action.EVICT, 1), (6, Action.DELETE, 2),
     (50, Action.DELETE, 2)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("pod", "owner"),
    [
        (POD, "eve"),
        (replace(POD, uid="uid-0"), "somebody"),  # the same name
    ],
)
def test_repeat_offenders_climb(
    times: int, action: Action, rung: int, pod: Pod, owner: str
) -> None:
    past = history()
    for number in range(times):
        acted(past, 7200 + number, pod=pod, owner=owner)
    decision = decide(CASE, SETTINGS, past, NOW)
    assert (decision.action, decision.rung) == (action, rung)


@pytest.mark.parametrize(
    ("times", "action", "rung"), [(2, Action.KILL, 0), (3, Action.EVICT, 1), (50, Action.EVICT, 1)]
)
def test_an_owner_who_repeats_climbs_but_no_pod_is_deleted_as_a_first_action(
    times: int, action: Action, rung: int
) -> None:
    past = history()
    other = replace(POD, uid="uid-0", name="jupyter-eve-2")
    for number in range(times):
        acted(past, 7200 + number, pod=other)
    decision = decide(CASE, SETTINGS, past, NOW)
    assert (decision.action, decision.rung) == (action, rung)
    if times == 50:
        acted(past, 3700, action=Action.EVICT)
        assert decide(CASE, SETTINGS, past, NOW).action is Action.DELETE, "this pod was warned"


@pytest.mark.parametrize(
    ("pod", "owner", "outcome", "ago_s"),
    [
        (replace(POD, uid="u", namespace="binder-2"), "eve", Outcome.DONE, 7200),
        (replace(POD, uid="u", name="jupyter-ada"), "ada", Outcome.DONE, 7200),
        (replace(POD, uid="u", name="jupyter-ada"), "", Outcome.DONE, 7200),
        (POD, "eve", Outcome.FAILED, 7200),
        (POD, "eve", Outcome.UNKNOWN, 7200),
        (POD, "eve", Outcome.WITHDRAWN, 7200),
        (POD, "eve", Outcome.DONE, 86_400),
    ],
)
def test_others_and_what_came_to_nothing_do_not_count_as_repeated(
    pod: Pod, owner: str, outcome: Outcome, ago_s: float
) -> None:
    past = history()
    for number in range(9):
        acted(past, ago_s + number, outcome, pod, owner)
    assert decide(CASE, SETTINGS, past, NOW).rung == 0
    assert decide(replace(CASE, owner=None), SETTINGS, past, NOW).rung == 0


def test_the_first_entry_of_the_ladder_that_fits_holds() -> None:
    ladder = (
        Rungs(namespaces=("binder",), score=99, actions=(Action.DELETE,)),
        Rungs(namespaces=("bind*",), actions=(Action.EVICT,)),
        Rungs(actions=(Action.LABEL,)),
    )
    settings = with_settings(ladder=ladder)
    assert decide(CASE, settings, history(), NOW).action is Action.EVICT
    surer = with_verdict(findings=(*VERDICT.findings, finding(Signal.NETWORK, 60, rule="n")))
    assert decide(surer, settings, history(), NOW).action is Action.EVICT
    surest = with_verdict(findings=(finding(Signal.CONTENT, 99, rule="c"), *surer.verdict.findings))
    assert decide(surest, settings, history(), NOW).action is Action.DELETE


def test_by_hand_another_action_is_taken_under_the_same_policy() -> None:
    by_hand = replace(CASE, asked=Action.DELETE)
    assert decide(by_hand, SETTINGS, history(), NOW).action is Action.DELETE
    assert decide(by_hand, with_settings(ladder=()), history(), NOW).action is Action.DELETE
    assert decide(by_hand, with_settings(mode=OFF), history(), NOW).reasons == (Reason.OFF,)
    nothing = replace(CASE, asked=Action.OBSERVE)
    assert decide(nothing, SETTINGS, history(), NOW).reasons == (Reason.OBSERVE_ONLY,)


def test_by_hand_a_dry_run_may_be_asked_for_and_is_never_more() -> None:
    dry = decide(replace(CASE, asked=Action.EVICT, asked_dry_run=True), SETTINGS, history(), NOW)
    assert (dry.action, dry.dry_run) == (Action.EVICT, True)
    never_less = with_settings(mode=DRY_RUN)
    assert decide(replace(CASE, asked=Action.EVICT), never_less, history(), NOW).dry_run


# What is in effect already.


@pytest.mark.parametrize(
    ("case", "settings", "past"),
    [
        # the tenant labels its own pod, in order not to be labelled, and so never to climb
        (with_pod(labels={**POD.labels, **QUARANTINED}), LABELLING, lambda _: None),
        # the tenant takes the label away
        (CASE, LABELLING, lambda past: acted(past, 7200, action=Action.LABEL)),
        # another pod of the same name was labelled
        (with_pod(labels={**POD.labels, **QUARANTINED}), LABELLING,
            lambda past: acted(past, 7200, pod=replace(POD, uid="x"), action=Action.LABEL)),
        # a dry run labels nothing
        (with_pod(labels={**POD.labels, **QUARANTINED}), LABELLING,
            lambda past: acted(past, 7200, Outcome.DRY_RUN, action=Action.LABEL)),
        # somebody continued the process, or another one was started
        (CASE, STOPPING, lambda past: acted(past, 7200, action=Action.STOP)),
        (replace(CASE, stopped=frozenset({OTHER})), STOPPING, lambda _: None),
        # a dry run of another process, or of another action
        (with_verdict(findings=tuple(replace(each, process=OTHER) for each in VERDICT.findings)),
            with_settings(mode=DRY_RUN), lambda past: acted(past, 7200, Outcome.DRY_RUN)),
        (CASE, msgspec.structs.replace(STOPPING, mode=DRY_RUN),
            lambda past: acted(past, 7200, Outcome.DRY_RUN)),
    ],
)  # fmt: skip
def test_what_is_no_longer_or_was_never_in_effect_is_done(
    case: Case, settings: Culling, past: Callable[[History], object]
) -> None:
    remembered = history()
    past(remembered)
    assert decide(case, settings, remembered, NOW).acts


# The second look.


def begun() -> tuple[History, ActionRecord]:
    past = history()
    return past, past.begin(DECISION, NOW)


def test_the_second_look_finds_nothing_new() -> None:
    past, record = begun()
    fresh = with_situation(cluster_budget_left=0)  # this action has the last place
    assert rechecked(DECISION, record, fresh, SETTINGS, past, later(1)) == DECISION


def test_the_last_place_of_the_nodes_budget_is_its_own() -> None:
    past = history()
    record = past.begin(DECISION, NOW)
    settings = with_settings(budget=CullBudget(per_node=1))
    assert rechecked(DECISION, record, CASE, settings, past, later(1)).acts


@pytest.mark.parametrize(
    ("fresh", "settings", "reasons"),
    [
        (with_pod(uid="uid-2"), SETTINGS, {Reason.POD_MISMATCH, Reason.DECISION_CHANGED}),
        (with_pod(is_ending=True), SETTINGS, {Reason.POD_ENDING}),
        (
            replace(CASE, pod=None),
            SETTINGS,
            {Reason.POD_UNKNOWN, Reason.DECISION_CHANGED},
        ),
        (with_container(container_id="c2"), SETTINGS,
            {Reason.CONTAINER_MISMATCH, Reason.DECISION_CHANGED}),
        (with_verdict(at_s=NOW.monotonic_s - 20), SETTINGS, {Reason.STALE_VERDICT}),
        (CASE, with_settings(mode=OFF), {Reason.OFF, Reason.DECISION_CHANGED}),
        (CASE, with_settings(mode=DRY_RUN), {Reason.DECISION_CHANGED}),
        (CASE, with_settings(ladder=(Rungs(actions=(Action.LABEL,)),)), {Reason.DECISION_CHANGED}),
        (with_verdict(findings=tuple(replace(each, process=OTHER) for each in VERDICT.findings)),
            SETTINGS, {Reason.DECISION_CHANGED}),
    ],
)  # fmt: skip
def test_the_second_look_sees_what_has_changed(
    fresh: Case, settings: Culling, reasons: set[Reason]
) -> None:
    past, record = begun()
    again = rechecked(DECISION, record, fresh, settings, past, later(1))
    assert set(again.reasons) == reasons
    assert again.action is Action.OBSERVE


def test_what_has_ended_is_not_done_again() -> None:
    past, record = begun()
    past.finish(record.id, Outcome.DONE)
    again = rechecked(DECISION, record, CASE, SETTINGS, past, later(1))
    assert again.reasons == (Reason.DECISION_CHANGED,)


def test_a_place_that_another_pod_has_reserved_is_not_its_own() -> None:
    past = history()
    record = past.begin(replace(DECISION, pod_uid="x"), NOW)
    again = rechecked(DECISION, record, CASE, SETTINGS, past, later(1))
    assert again.reasons == (Reason.DECISION_CHANGED,)


def test_what_was_objected_to_is_not_done_by_a_second_look() -> None:
    past, record = begun()
    objected = decide(CASE, with_settings(mode=OFF), history(), NOW)
    assert not rechecked(objected, record, CASE, SETTINGS, past, NOW).acts


# Properties.

moments = st.builds(
    Moment,
    st.floats(-1e10, 1e11, allow_nan=False),
    st.floats(0, 1e9, allow_nan=False),
    st.sampled_from(("boot", "another")),
)
processes = st.sampled_from((None, MINER, OTHER))
findings_of_all_kinds = st.lists(
    st.builds(
        finding,
        st.sampled_from(Signal),
        st.sampled_from((0, 15, 29, 35, 60, 68.4, 88, 100)),
        rule=st.sampled_from(("rule-1", "rule-2", "rule-3")),
        maturity=st.sampled_from((Maturity.STABLE, Maturity.STABLE, Maturity.TEST)),
        since_s=st.sampled_from((NOW.monotonic_s - 3600, NOW.monotonic_s - 10)),
        process=processes,
    ),
    max_size=8,
).map(tuple)
patterns = st.lists(
    st.sampled_from(("*", "binder", "b*", "jupyter-eve", "eve", "img/*", "kube-*")), max_size=2
).map(tuple)
rule_patterns = st.lists(
    st.sampled_from(("*", "rule-1", "rule-2", "Title of rule-3")), max_size=2
).map(tuple)


def _exemption(fields: dict[str, Any]) -> Exemption | None:
    try:
        return Exemption(reason="agreed", **fields)
    except ValueError:
        return None


exemptions = (
    st.fixed_dictionaries(
        {
            "namespaces": patterns,
            "pods": patterns,
            "owners": patterns,
            "images": patterns,
            "rules": rule_patterns,
            "until": st.sampled_from((None, date(2020, 1, 1), date(2040, 1, 1))),
        }
    )
    .map(_exemption)
    .filter(lambda exemption: exemption is not None)
)
ladders = st.lists(
    st.builds(
        Rungs,
        actions=st.sampled_from(
            (
                (Action.OBSERVE,),
                (Action.LABEL,),
                (Action.STOP, Action.EVICT),
                (Action.KILL,),
                (Action.DELETE,),
            )
        ),
        namespaces=st.sampled_from((("*",), ("binder",))),
        score=st.sampled_from((90.0, 95.0, 99.0)),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
policies = st.builds(
    with_settings,
    mode=st.sampled_from((*MODES, ENFORCE, ENFORCE)),
    ladder=ladders,
    exemptions=st.lists(exemptions, max_size=1).map(tuple),
    namespaces=st.sampled_from((("binder",), ("*",), ())),
)


@given(findings_of_all_kinds, policies, st.integers())
def test_the_order_of_findings_changes_nothing(
    findings: tuple[Finding, ...], settings: Culling, seed: int
) -> None:
    shuffled = list(findings)
    random.Random(seed).shuffle(shuffled)
    one, other = with_verdict(findings=findings), with_verdict(findings=tuple(shuffled))
    assert decide(one, settings, history(), NOW) == decide(other, settings, history(), NOW)


@given(findings_of_all_kinds, policies, exemptions, st.integers(0, 1))
def test_a_further_exemption_never_causes_an_action(
    findings: tuple[Finding, ...], settings: Culling, further: Exemption, place: int
) -> None:
    case = with_verdict(findings=findings)
    more = list(settings.exemptions)
    more.insert(place, further)
    before = decide(case, settings, history(), NOW)
    after = decide(case, msgspec.structs.replace(settings, exemptions=tuple(more)), history(), NOW)
    assert before.acts or not after.acts
    assert after.action in (Action.OBSERVE, before.action)
    assert set(after.processes) <= set(before.processes)
    if not before.acts:
        assert set(before.reasons) - {Reason.NOT_HELD} <= set(after.reasons)


@given(findings_of_all_kinds, policies, moments, st.sampled_from((*Action, None)))
def test_nothing_is_enforced_unless_it_is_configured(
    findings: tuple[Finding, ...], settings: Culling, now: Moment, asked: Action | None
) -> None:
    case = replace(with_verdict(findings=findings), asked=asked)
    decision = decide(case, settings, history(), now)
    assert decision.dry_run is (settings.mode != ENFORCE)
    assert not decision.acts or decision.dry_run or settings.mode == ENFORCE
    assert not (decision.acts and settings.mode == OFF)
    assert decision.acts is (decision.action is not Action.OBSERVE)
    assert decision.acts is (decision.reasons == ())
