"""Findings that justify an action; exemptions and the circuit breaker, which exclude some. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase

from minerwatch.config.schema import Culling, Exemption
from minerwatch.culling.records import Case, Moment, Situation
from minerwatch.detection.judge import (
    counting_findings,
    of_worst_abuse,
    proven_abuse,
    score_of,
    signal_scores,
)
from minerwatch.model import (
    Abuse,
    Container,
    ContainerKind,
    Finding,
    Maturity,
    Owner,
    Pod,
    ProcessId,
    Verdict,
)

_DAY_S = 86400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_WILDCARDS = frozenset("*?[")


def culled_abuses(settings: Culling) -> frozenset[Abuse]:
    """Return the kinds of abuse that the operator has switched culling on for."""
    return frozenset(Abuse(each.value) for each in settings.abuses)


def rules_that_flag(
    verdict: Verdict,
    container: Container,
    pod: Pod | None,
    owner: Owner | None,
    settings: Culling,
    now: Moment,
) -> frozenset[str]:
    """Return the rules that the circuit breaker counts: without exempted findings."""
    exemptions = tuple(exemptions_of(pod, owner, container, settings, now))
    if any(not exemption.rules for exemption in exemptions):
        return frozenset()
    abuses = culled_abuses(settings)
    return frozenset(
        finding.rule
        for finding in counting_findings(verdict.findings)
        if finding.abuse in abuses
        and not any(_covers(exemption, finding) for exemption in exemptions)
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """Findings of stable rules on culled kinds of abuse, less exempted rules and tripped ones."""

    abuse: Abuse | None  # that they prove, else the verdict's; None: there are no findings
    switched_off: Abuse | None  # proven, but culling is not switched on for it

    score: float
    full_score: float  # including exempted rules
    signals: str
    is_cullable: bool
    is_held: bool  # by findings that have all held for the required time
    is_cut_off: bool  # it would be sufficient without the circuit breaker
    processes: tuple[ProcessId, ...]  # each cullable by itself, for the required time
    exemption: Exemption | None  # that forbids the action
    rules: tuple[str, ...]  # with findings that count


def proof_for(
    case: Case, exemptions: tuple[Exemption, ...], broken: frozenset[str], settings: Culling
) -> Proof:
    """Return the findings that justify an action, and the exemption that forbids it."""
    verdict, held, hold_s = case.verdict, case.held, settings.hold
    of_all_kinds = sorted(
        (finding for finding in verdict.findings if finding.maturity is Maturity.STABLE), key=_order
    )
    abuses = culled_abuses(settings)
    stable = [finding for finding in of_all_kinds if finding.abuse in abuses]
    meant = [
        finding
        for finding in stable
        if not any(_covers(exemption, finding) for exemption in exemptions)
    ]
    counted = [finding for finding in meant if finding.rule not in broken]
    exemption = next((each for each in exemptions if not each.rules), None)
    if exemption is None and proven_abuse(stable) and not proven_abuse(meant):
        exemption = next(
            each for each in exemptions if any(_covers(each, finding) for finding in stable)
        )
    held_long = [finding for finding in counted if held.of_container(finding) >= hold_s]
    abuse = proven_abuse(held_long) or proven_abuse(counted)
    of_abuse = [each for each in counted if each.abuse is abuse] or of_worst_abuse(counted)
    return Proof(
        abuse=abuse or next((each.abuse for each in of_worst_abuse(verdict.findings)), None),
        switched_off=None if proven_abuse(stable) else proven_abuse(of_all_kinds),
        score=score_of(of_abuse),
        full_score=score_of(stable),
        signals=", ".join(signal_scores(of_abuse)),
        is_cullable=abuse is not None,
        is_held=proven_abuse(held_long) is not None,
        is_cut_off=abuse is None and proven_abuse(meant) is not None,
        processes=tuple(_culprits([f for f in of_abuse if held.of_process(f) >= hold_s])),
        exemption=exemption,
        rules=tuple(sorted({finding.rule for finding in of_abuse})),
    )


def _culprits(findings: list[Finding]) -> Iterator[ProcessId]:
    """Yield the processes that are cullable by their own findings, by pid."""
    processes = {finding.process for finding in findings if finding.process is not None}
    for process in sorted(processes):
        own = [finding for finding in findings if finding.process in (process, None)]
        if proven_abuse(own):
            yield process


def _order(finding: Finding) -> tuple[object, ...]:
    """Return a sort key: rounding must not depend on the order of the findings."""
    return (finding.signal, -finding.score, finding.rule, finding.process or (-1, 0))


def exemptions_of(
    pod: Pod | None, owner: Owner | None, carrier: Container, settings: Culling, now: Moment
) -> Iterator[Exemption]:
    """Yield the exemptions that are in force today and match this pod."""
    today = now.unix_s // _DAY_S + _EPOCH_ORDINAL
    for exemption in settings.exemptions:
        is_over = exemption.until is not None and today > exemption.until.toordinal()
        if pod is not None and not is_over and _matches(exemption, pod, owner, carrier, settings):
            yield exemption


def _matches(
    exemption: Exemption, pod: Pod, owner: Owner | None, carrier: Container, settings: Culling
) -> bool:
    """Return True if the exemption matches the pod; ``proof_for`` matches its rules."""
    pods = exemption.pods
    if is_tenants_own(pod, settings):
        # Labels, owners, images and name patterns exempt none of a tenant's pods, since a tenant
        # can give them to any number of pods. A full name is one pod at a time. The owner of what
        # is in a user's slice is that user, which no tenant can choose.
        if exemption.selector.strip() or exemption.images:
            return False
        if exemption.owners and pod.namespace:
            return False
        pods = tuple(name for name in pods if not _WILDCARDS & set(name))
        if exemption.pods and not pods:
            return False
    conditions: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
        (exemption.namespaces, (pod.namespace,)),
        (pods, (pod.name,)),
        (exemption.owners, (owner.name,) if owner else ()),
        (exemption.images, image_names(pod, carrier)),
    )
    return exemption.selector.matches(pod.labels) and all(
        not patterns or any(matches_any(name, patterns) for name in names)
        for patterns, names in conditions
    )


def is_tenants_own(pod: Pod, settings: Culling) -> bool:
    """Return True if a tenant chooses the pod's labels and names."""
    if not pod.namespace:  # on a host: in a user's slice
        return bool(pod.service_account)
    return matches_any(pod.namespace, settings.tenant_namespaces)


def _covers(exemption: Exemption, finding: Finding) -> bool:
    return any(matches_any(name, exemption.rules) for name in (finding.rule, finding.title))


def exemption_text(exemption: Exemption) -> str:
    """Return the reason of an exemption, and its last day."""
    until = f", until {exemption.until.isoformat()}" if exemption.until else ""
    return f"{exemption.reason}{until}"


def carries(carrier: Container, container: Container) -> bool:
    """Return True if ``container`` is ``carrier`` or nested in it."""
    return carrier == container or (
        carrier.kind is ContainerKind.POD
        and carrier.pod_uid == container.pod_uid
        and container.cgroup.startswith(f"{carrier.cgroup}/")
    )


def image_names(pod: Pod, carrier: Container) -> tuple[str, ...]:
    """Return the image and digest of the pod's container; empty if the pod does not have it."""
    for container in pod.containers:
        if container.container_id and container.container_id == carrier.container_id:
            return container.image, container.image_digest
    return ()


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Return True if one of the shell patterns matches."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def tripped(situation: Situation, settings: Culling) -> dict[str, str]:
    """Return the rules that flag too many owners at once, each with its counts."""
    breaker = settings.circuit_breaker
    broken = {}
    for rule, count in situation.flagged.items():
        if count >= breaker.at_least and not count <= breaker.share * situation.owners:
            broken[rule] = f"{count} of {situation.owners} owners on this node"
    for rule, count in situation.cluster_flagged.items():
        if count >= breaker.cluster_owners:
            broken[rule] = f"{count} owners in the cluster"
    return broken


def counted_as(
    container: Container, pod: Pod | None, owner: Owner | None, settings: Culling
) -> str:
    """Return the owner that the circuit breaker counts for a container."""
    if pod is None:
        return f"pod {container.pod_uid}" if container.pod_uid else container.cgroup
    return pod_counted_as(pod, owner, settings)


def pod_counted_as(pod: Pod, owner: Owner | None, settings: Culling) -> str:
    """Return the counted owner: the namespace if it is unknown, or if tenants could invent some."""
    if not pod.namespace:  # on a host
        return owner.name if owner is not None else pod.name
    if owner is None or matches_any(pod.namespace, settings.tenant_namespaces):
        return f"namespace {pod.namespace}"
    return f"{pod.namespace}/{owner.name}"
