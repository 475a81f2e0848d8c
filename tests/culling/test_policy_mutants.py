"""Each check of the policy is needed by an example: without it, the example turns out otherwise.

The checks are found in the source. One at a time is left out, and the examples of ``test_policy``
and of this file are decided by what is left. A check that no example needs fails here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from minerwatch.config.hours import Hours
from minerwatch.config.hub import Hub
from minerwatch.config.schema import CullBudget, Culling, Exemption, Rungs
from minerwatch.config.selectors import Selector
from minerwatch.config.values import DRY_RUN, OFF, Duration
from minerwatch.culling import host_policy, policy, proof
from minerwatch.culling.decision import Decision, Objection, Reason
from minerwatch.culling.history import History
from minerwatch.culling.records import Case
from minerwatch.kube.attributions import HUB_USER, HubServer
from minerwatch.model import (
    Abuse,
    Action,
    Attribution,
    ContainerKind,
    Outcome,
    Owner,
    OwnerKind,
)
from tests.builders import make_pod_container
from tests.culling.test_policy import (
    ALICES,
    CASE,
    COMPUTE,
    CONTAINER,
    COUNTERS,
    DECISION,
    DOUBTS,
    ENGINES,
    HOST,
    IDENTITY,
    LABELLING,
    MINER,
    NESTED,
    NOW,
    ON_FOR_ALL,
    ON_HOST,
    OTHER,
    POD,
    QUARANTINED,
    SETTINGS,
    STOPPING,
    TENANTS,
    UNIT,
    VERDICT,
    WITH_SOCKET,
    acted,
    docker_case,
    held,
    history,
    host_case,
    hosts,
    later,
    named,
    with_container,
    with_pod,
    with_settings,
    with_situation,
    with_verdict,
)

Past = Callable[[History], object]
SOURCES = {
    module: Path(str(module.__file__)).read_text(encoding="utf-8")
    for module in (policy, proof, host_policy)
}


@dataclass(frozen=True)
class Example:
    """A decision, and what it must be: its reasons, and the values of other fields."""

    name: str
    decided: Callable[[ModuleType], Decision]
    reasons: frozenset[Reason]
    fields: dict[str, object]

    def holds(self, by: ModuleType) -> bool:
        decision = self.decided(by)
        return frozenset(decision.reasons) == self.reasons and all(
            getattr(decision, name) == value for name, value in self.fields.items()
        )


def first(
    name: str,
    case: Case = CASE,
    settings: Culling = SETTINGS,
    past: Past | None = None,
    *reasons: Reason,
    since_s: float = -7200.0,
    **fields: object,
) -> Example:
    """A first look, in the light of what is remembered since so long ago."""

    def decided(by: ModuleType) -> Decision:
        remembered = History.started("node-1", later(since_s))
        if past is not None:
            past(remembered)
        decision: Decision = by.decide(case, settings, remembered, NOW)
        return decision

    return Example(name, decided, frozenset(reasons), fields)


def second(
    name: str,
    *reasons: Reason,
    decision: Decision = DECISION,
    begun: Decision = DECISION,
    fresh: Case = CASE,
    settings: Culling = SETTINGS,
    past: Past = lambda _: None,
    **fields: object,
) -> Example:
    """A second look, at ``decision`` after the record of ``begun`` was written."""

    def decided(by: ModuleType) -> Decision:
        remembered = history()
        record = remembered.begin(begun, NOW)
        past(remembered)
        again: Decision = by.rechecked(decision, record, fresh, settings, remembered, later(1))
        return again

    return Example(name, decided, frozenset(reasons), fields)


def end_of_all(past: History) -> None:
    for record in past.records():
        past.finish(record.id, Outcome.DONE)


def by_others(times: int) -> Past:
    other = replace(POD, uid="uid-0", name="jupyter-eve-2")
    return lambda past: [acted(past, 7200 + number, pod=other) for number in range(times)]


def both(*parts: Past) -> Past:
    return lambda past: [part(past) for part in parts]


def _exempting(settings: Culling, **fields: Any) -> Culling:
    return structs.replace(settings, exemptions=(Exemption(reason="agreed", **fields),))


def _laddered(settings: Culling, *ladder: Rungs) -> Culling:
    return structs.replace(settings, ladder=ladder)


CHANGED = Reason.DECISION_CHANGED
DRY = with_settings(mode=DRY_RUN)
EVICTING = with_settings(ladder=(Rungs(actions=(Action.EVICT,)),))
DELETING = with_settings(ladder=(Rungs(actions=(Action.DELETE,)),))
LABELLED = with_pod(labels={**POD.labels, **QUARANTINED})
IN_CONTAINER = replace(
    CASE, container=NESTED, carrier=CONTAINER, verdict=replace(VERDICT, container=NESTED.key)
)
DAY_S = 86_400.0

FIRST_LOOKS = [
    first("nothing speaks against it", action=Action.KILL, rung=0, dry_run=False),
    *(
        first(namespace, with_pod(namespace=namespace), with_settings(namespaces=("*",)), None,
            Reason.PROTECTED_NAMESPACE)
        for namespace in ("kube-system", "kube-public", "kube-node-lease", "minerwatch")
    ),
    first("within the hours", settings=with_settings(active_hours=(Hours("fri 00:00-24:00"),))),
    first("a dry run by hand", replace(CASE, asked_dry_run=True), dry_run=True),
    first("a lost memory", CASE, SETTINGS, None, Reason.MEMORY_LOST, since_s=-3599),
    first("a lost memory in a dry run", settings=DRY, since_s=-3599, dry_run=True),
    first("a verdict of this moment", with_verdict(at_s=NOW.monotonic_s)),
    # the pod
    first("in the pod's container", IN_CONTAINER, container_id="c1"),
    first("exempted by the pod's container's image", IN_CONTAINER,
        with_settings(exemptions=(Exemption(reason="agreed", images=("img/*",)),)), None,
        Reason.EXEMPT),
    first("a pod without the labels that its tenant chooses", with_pod(labels={}), TENANTS),
    first("the name of a mirror", with_pod(mirror_uid="f" * 32)),
    first("over", with_pod(phase="Succeeded"), SETTINGS, None, Reason.POD_ENDING),
    first("ends late", with_pod(is_ending=True, ends_unix_s=NOW.unix_s + DAY_S),
        grace_period_s=30.0),
    first("ends late, in the configured time",
        with_pod(is_ending=True, ends_unix_s=NOW.unix_s + DAY_S),
        with_settings(grace_period=Duration(5)), grace_period_s=5),
    first("ends soon", with_pod(is_ending=True, ends_unix_s=NOW.unix_s + 300), SETTINGS, None,
        Reason.POD_ENDING),
    first("does not end", with_pod(ends_unix_s=NOW.unix_s + DAY_S), grace_period_s=None),
    # kinds of abuse
    first("proven mining beside a worse scan without proof", with_verdict(findings=(
        *VERDICT.findings,
        replace(IDENTITY, rule="rule-c", score=95, abuse=Abuse.SCANNING),
        replace(COMPUTE, rule="rule-3", score=95, abuse=Abuse.SCANNING))),
        ON_FOR_ALL, abuse="mining", rules=("rule-1", "rule-2")),
    first("mining that was not watched for long beside a scan that was", replace(
        with_verdict(findings=(*VERDICT.findings, *(
            replace(each, rule=rule, abuse=Abuse.SCANNING)
            for each, rule in ((IDENTITY, "rule-c"), (COUNTERS, "rule-3"))))),
        held=held(rule_1=0)), ON_FOR_ALL, abuse="scanning", rules=("rule-3", "rule-c")),
    first("no proof of two kinds", with_verdict(findings=(
        replace(IDENTITY, score=95),
        replace(IDENTITY, rule="rule-c", score=50, abuse=Abuse.SCANNING),
        replace(COMPUTE, rule="rule-3", score=50, abuse=Abuse.CRACKING))),
        ON_FOR_ALL, None, Reason.NOT_CORROBORATED, Reason.NO_PROCESS,
        sentences=(f"{Reason.NOT_CORROBORATED.value[:-1]} (95 by identity).",
                   "There is not enough proof against any single process (kill).")),
    # the ladder
    first("by hand", replace(CASE, asked=Action.DELETE), action=Action.DELETE),
    first("by hand, of an unknown pod", replace(CASE, pod=None, asked=Action.KILL), DRY, None,
        Reason.POD_UNKNOWN, proposed=Action.KILL),
    first("by hand, a label for an unknown pod", replace(CASE, pod=None, asked=Action.LABEL),
        SETTINGS, None, Reason.POD_UNKNOWN, proposed=Action.LABEL),
    first("no ladder", CASE, with_settings(ladder=()), None, Reason.NO_LADDER,
        action=Action.OBSERVE, proposed=Action.OBSERVE),
    first("the owner did it before", past=by_others(3), action=Action.EVICT, rung=1),
    first("the owner did it often", past=by_others(50), action=Action.EVICT, rung=1),
    first("the pod was warned", action=Action.DELETE, rung=2,
        past=both(by_others(50), lambda past: acted(past, 3700, action=Action.EVICT))),
    first("deleting comes first", settings=DELETING, action=Action.DELETE, rung=0),
    first("a pod needs no culprit", replace(CASE, held=replace(held(), by_process={})), EVICTING,
        action=Action.EVICT),
    # done already?
    first("labelled by its tenant", LABELLED, LABELLING),
    first("no longer labelled", settings=LABELLING,
        past=lambda past: acted(past, 7200, action=Action.LABEL)),
    first("another one is stopped", replace(CASE, stopped=frozenset({OTHER})), STOPPING),
    first("killed although stopped", replace(CASE, stopped=frozenset({MINER}))),
    first("only tried", past=lambda past: acted(past, 7200, Outcome.DRY_RUN)),
]  # fmt: skip
SERVER = replace(CASE, owners=(Attribution(OwnerKind.USER, "eve", f"annotation {HUB_USER}"),))
_OF_HUB = {
    "hub": Hub(url="http://hub", token_file="t"),
    "ladder": (Rungs(actions=(Action.STOP_SERVER, Action.EVICT)),),
}
HUB = with_settings(**_OF_HUB)
HUBS = [
    first("a hub's", SERVER, HUB, action=Action.STOP_SERVER, server=HubServer("eve", "")),
    first("of no hub", CASE, HUB, action=Action.EVICT, rung=0, server=None),
    first("without a hub", SERVER, structs.replace(HUB, hub=Hub()), action=Action.EVICT),
    first("named by its tenant", replace(
        SERVER, owners=(replace(SERVER.owners[0], is_claim=True),)), HUB, action=Action.EVICT),
    first("where tenants create pods", SERVER, structs.replace(TENANTS, **_OF_HUB),
        action=Action.EVICT),
    first("unknown to the hub", SERVER, HUB, action=Action.EVICT,
        past=lambda past: acted(past, 7200, Outcome.FAILED, action=Action.STOP_SERVER)),
    first("refused by the hub", SERVER, HUB, action=Action.STOP_SERVER,
        past=lambda past: acted(past, 7200, Outcome.REFUSED, action=Action.STOP_SERVER)),
    first("another action failed", SERVER, HUB, action=Action.STOP_SERVER,
        past=lambda past: acted(past, 7200, Outcome.FAILED, action=Action.LABEL)),
    first("by hand, of a hub", replace(SERVER, asked=Action.STOP_SERVER), HUB,
        action=Action.STOP_SERVER),
    first("by hand, of no hub", replace(CASE, asked=Action.STOP_SERVER), HUB, None,
        Reason.NOT_HERE),
    first("by hand, of a hub, an unknown pod", replace(
        SERVER, pod=None, asked=Action.STOP_SERVER), HUB, None, Reason.POD_UNKNOWN,
        Reason.NOT_HERE),
    first("a ladder for hubs only", CASE, _laddered(HUB, Rungs(actions=(Action.STOP_SERVER,))),
        None, Reason.NO_LADDER),
]  # fmt: skip
PROOFS = [
    first("of the container and a process", with_verdict(
        findings=(IDENTITY, replace(COMPUTE, process=None))), processes=(MINER,)),
    first("few owners, but all", with_situation(flagged={"rule-1": 2}, owners=2)),
    first("many owners, but of more", with_situation(flagged={"rule-1": 10}, owners=1000)),
    first("counted by its owner", counted_as="binder/eve"),
    first("counted without an owner", replace(CASE, owner=None), counted_as="namespace binder"),
    first("counted where tenants create pods", settings=TENANTS, counted_as="namespace binder"),
    first("in a container of another pod",
        replace(IN_CONTAINER, carrier=replace(CONTAINER, pod_uid="uid-2")), SETTINGS, None,
        Reason.CONTAINER_MISMATCH),
    first("in a container of no pod",
        replace(IN_CONTAINER, carrier=replace(CONTAINER, kind=ContainerKind.ENGINE)), SETTINGS,
        None, Reason.CONTAINER_MISMATCH),
    first("without an id, like one that waits", replace(
        with_container(container_id=""),
        pod=replace(POD, containers=(make_pod_container(container_id=""),))), SETTINGS, None,
        Reason.CONTAINER_MISMATCH),
]  # fmt: skip
DIGEST = "sha256:" + "ab" * 32
WITH_DIGEST = with_pod(
    containers=(make_pod_container(image="img/notebook:1", image_digest=DIGEST),)
)
RULES = (Reason.NOT_CORROBORATED, Reason.NO_PROCESS)
EXEMPTIONS = [
    *(
        first(f"exempt: {fields}", WITH_DIGEST, _exempting(SETTINGS, **fields), None,
            Reason.EXEMPT, *(RULES if "rules" in fields else ()))
        for fields in (
            {"namespaces": ("bind*",)}, {"pods": ("jupyter-*",)}, {"owners": ("eve",)},
            {"images": ("img/*",)}, {"images": ("sha256:*",)}, {"rules": ("rule-1",)},
            {"rules": ("Title of rule-1",)}, {"selector": Selector("component")},
            {"namespaces": ("binder",), "until": date(2027, 1, 15)},
        )
    ),
    *(
        first(f"not exempt: {fields}", WITH_DIGEST, _exempting(SETTINGS, **fields))
        for fields in (
            {"namespaces": ("prod",)}, {"pods": ("jupyter",)}, {"owners": ("ada",)},
            {"images": ("other/*",)}, {"rules": ("rule-9",)}, {"selector": Selector("!component")},
            {"namespaces": ("binder",), "until": date(2027, 1, 14)},
            {"namespaces": ("prod",), "rules": ("rule-1",)},
        )
    ),
    *(
        first(f"exempt where tenants create pods: {fields}", CASE, _exempting(TENANTS, **fields),
            None, Reason.EXEMPT)
        for fields in ({"namespaces": ("binder",)}, {"pods": ("jupyter-*", "jupyter-eve")})
    ),
    *(
        first(f"not exempt where tenants create pods: {fields}", CASE,
            _exempting(TENANTS, **fields))
        for fields in (
            {"pods": ("jupyter-*",)}, {"owners": ("eve",)}, {"images": ("img/*",)},
            {"selector": Selector("component")},
        )
    ),
    first("exemptions of an unknown pod", replace(CASE, pod=None),
        _exempting(SETTINGS, namespaces=("binder",)), None, Reason.POD_UNKNOWN),
]  # fmt: skip
OTHERS: dict[str, Any] = {
    "proposed": Action.EVICT,
    "dry_run": True,
    "server": HubServer("eve", ""),
    "container": NESTED.key,
    "container_id": "c2",
    "pod_uid": "uid-2",
    "namespace": "binder-2",
    "pod": "jupyter-ada",
    "node": "node-2",
}
SECOND_LOOKS = [
    second("as before", action=Action.KILL),
    second("has the last place", fresh=with_situation(cluster_budget_left=0)),
    second("has the last place of the node",
        settings=with_settings(budget=CullBudget(per_node=1))),
    second("would not act", CHANGED, decision=replace(
        DECISION, objections=(Objection(Reason.OFF, ""),))),
    second("is over", CHANGED, past=end_of_all),
    second("of another pod", CHANGED, begun=replace(DECISION, pod_uid="x")),
    second("of another action", CHANGED, begun=replace(DECISION, action=Action.EVICT)),
    second("of another process", CHANGED, decision=replace(DECISION, processes=(OTHER,))),
    second("ending", Reason.POD_ENDING, fresh=with_pod(is_ending=True)),
    second("switched off", Reason.OFF, CHANGED, settings=with_settings(mode=OFF)),
    *(
        second(f"another {name}", CHANGED, decision=replace(DECISION, **{name: value}),
            begun=replace(DECISION, **{name: value}))
        for name, value in OTHERS.items()
    ),
]  # fmt: skip


def doubts() -> Iterator[Example]:
    for number, (reason, (case, settings, past, also)) in enumerate(DOUBTS):
        more = {Reason.NO_PROCESS} if reason is Reason.NOT_CORROBORATED else set()
        yield first(f"{reason.name}-{number}", case, settings, past, reason, *also, *more)


_INNER = replace(ENGINES, cgroup=f"{ENGINES.cgroup}/own", container_id="own")
INNER = replace(
    docker_case(), container=_INNER, carrier=ENGINES,
    verdict=replace(VERDICT, container=_INNER.key),
)  # fmt: skip
HOSTS = [
    first("a unit of a host", host_case(), ON_HOST, counted_as="ci@1.service"),
    first("a container of docker", docker_case(), ON_HOST, action=Action.KILL),
    first("a container of docker, paused", docker_case(), WITH_SOCKET, action=Action.PAUSE),
    first("killed though paused", docker_case(phase="Paused"), ON_HOST, action=Action.KILL),
    first("stopped though paused", replace(docker_case(phase="Paused"),
        asked=Action.STOP_CONTAINER), WITH_SOCKET, action=Action.STOP_CONTAINER),
    first("observed", host_case(), _laddered(ON_HOST, Rungs(actions=(Action.OBSERVE,))), None,
        Reason.OBSERVE_ONLY),
    first("no ladder on a host", host_case(), _laddered(ON_HOST), None, Reason.NO_LADDER),
    first("a user's", replace(ALICES, owner=Owner("alice", "user slice")), ON_HOST,
        counted_as="alice"),
    first("a user's, without the labels that the user chooses", ALICES,
        structs.replace(ON_HOST, selector=Selector("ci"))),
    first("a user's unit named like the system's", replace(
        host_case(named("sshd.service"), "1000/sshd.service", service_account="alice")), ON_HOST),
    first("a container named like a unit of the system",
        host_case(ENGINES, "docker/sshd.service"), hosts(containers=("*",))),
    first("not exempt by an image that a user chooses", ALICES,
        _exempting(ON_HOST, images=("*",))),
    first("exempt by the user", replace(ALICES, owner=Owner("alice", "user slice")),
        _exempting(ON_HOST, owners=("alice",)), None, Reason.EXEMPT),
    first("exempt by the image of the host's engine", docker_case(),
        _exempting(ON_HOST, images=("img:1",)), None, Reason.EXEMPT),
    first("own unit beside it", host_case(
        situation=replace(HOST, own_cgroup=f"{UNIT.cgroup}-other")), ON_HOST),
    first("in a cgroup that a container made in itself", INNER, ON_HOST, action=Action.KILL),
    first("there, but not by the engine", INNER, WITH_SOCKET, None, Reason.NOT_HERE),
    first("a user's, protected by its whole name", ALICES, hosts(protected=("1000/x.scope",)), None,
        Reason.PROTECTED_UNIT),
    first("by hand, paused, of an unknown name", replace(
        docker_case(), pod=None, asked=Action.PAUSE), WITH_SOCKET, None, Reason.NAME_UNKNOWN),
]  # fmt: skip
EXAMPLES = [*FIRST_LOOKS, *HUBS, *HOSTS, *SECOND_LOOKS, *doubts(), *PROOFS, *EXEMPTIONS]

Change = Callable[[Any], None]
EQUIVALENT = {
    "proof_for: exemption is None": "of two exemptions it says which one is named",
}
"""What makes no difference, and why."""

NO_CHECKS = ("rules_that_flag", "_order")
"""Functions that only prepare what others decide about, or put it in order."""


def removals(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What may be left out of a node: an objection, an operand, an element, an early end."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):
        yield ast.unparse(node), _say_nothing
    elif isinstance(node, ast.If) and isinstance(node.body[0], ast.Return):
        yield ast.unparse(node), _go_on
    elif isinstance(node, ast.BoolOp):
        for place, operand in enumerate(node.values):
            yield ast.unparse(operand), partial(_drop, values="values", place=place)
    elif isinstance(node, ast.Tuple | ast.Call):
        name = "elts" if isinstance(node, ast.Tuple) else "keywords"
        for place, element in enumerate(getattr(node, name)):
            if isinstance(node, ast.Tuple) or element.arg == "without":
                yield ast.unparse(element), partial(_drop, values=name, place=place)


def _say_nothing(statement: ast.Expr) -> None:
    statement.value = ast.YieldFrom(ast.Tuple([], ast.Load()))


def _go_on(check: ast.If) -> None:
    check.test = ast.Constant(value=False)


def _drop(node: Any, values: str, place: int) -> None:
    left = getattr(node, values)
    del left[place]
    if isinstance(node, ast.BoolOp) and len(left) == 1:
        left.append(left[0])


def _texts(function: ast.FunctionDef) -> set[ast.AST]:
    """Nodes that only make up a text or a type."""
    tops: list[ast.AST | None] = [each.annotation for each in function.args.args]
    tops.append(function.returns)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Objection":
            tops += node.args
        elif isinstance(node, ast.AnnAssign):
            tops.append(node.annotation)
    return {node for top in tops if top is not None for node in ast.walk(top)}


def mutants(source: str) -> Iterator[tuple[str, Callable[[], ast.Module]]]:
    """Each name of a function with what is left out of it, and the module without that."""
    places = {node: place for place, node in enumerate(ast.walk(ast.parse(source)))}
    for function in [node for node in places if isinstance(node, ast.FunctionDef)]:
        if function.name in NO_CHECKS:
            continue
        texts = _texts(function)
        for node in ast.walk(function):
            if node in texts:
                continue
            for name, change in removals(node):
                yield f"{function.name}: {name}", partial(_changed, source, places[node], change)


def _changed(source: str, place: int, change: Change) -> ast.Module:
    tree = ast.parse(source)
    node = [*ast.walk(tree)][place]
    change(node)
    ast.fix_missing_locations(node)
    return tree


def policy_of(module: ModuleType, tree: ast.Module, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The policy, if ``module`` (the policy itself, or the proof) were ``tree``."""
    changed = ModuleType(module.__name__)
    exec(compile(tree, str(module.__file__), "exec"), vars(changed))
    if module is policy:
        return changed
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, changed)
        return policy_of(policy, ast.parse(SOURCES[policy]), monkeypatch)


def is_noticed(changed: ModuleType) -> bool:
    for example in EXAMPLES:
        try:
            if not example.holds(changed):
                return True
        except Exception:  # noqa: BLE001 - what must be looked at first was not
            return True
    return False


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_examples_are_right(example: Example) -> None:
    assert example.holds(policy)


@pytest.mark.nightly
@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module.__name__)
def test_no_check_can_be_left_out_unnoticed(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(mutants(SOURCES[module]))
    unnoticed = {
        name for name, changed in found if not is_noticed(policy_of(module, changed(), monkeypatch))
    }
    assert unnoticed == {name for name, _ in found} & EQUIVALENT.keys()
    assert len(found) > 40
