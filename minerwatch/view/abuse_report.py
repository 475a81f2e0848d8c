"""The report of `minerwatch report`: histories of nodes, added up. Pure.

Containers that an operator released count as false alarms, apart from all other sums. A figure that
is not known is None, and what is not known is in ``notes``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

import msgspec

from minerwatch.api.history import Day, Gap, Incident, NodeHistory, Prices, weight
from minerwatch.api.types import Unanswered
from minerwatch.format import counted, duration, rfc3339, unix_s
from minerwatch.kinds import Level, Outcome
from minerwatch.report.intervals import length_s

VERSION = 1
JOURNAL, PROMETHEUS = "journal", "prometheus"
_MIN_GAP_S = 300.0


class ReportedIncident(Incident, frozen=True, kw_only=True):
    """An incident with its node and what follows from it."""

    node: str
    cost: float | None
    acted_s: float | None  # from detection to the first action that was done
    released: str  # when an operator released it; "": not released


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents added up; a figure that no incident has is None."""

    incidents: int
    cpu_hours: float | None
    gpu_hours: float | None
    energy_kwh: float | None
    cost: float | None
    without_cpu: int  # incidents whose CPU hours are not known


class OwnerSum(Sum, frozen=True, kw_only=True):
    """Incidents of one owner in one namespace."""

    namespace: str
    owner: str
    abuses: tuple[str, ...]


class AbuseSum(Sum, frozen=True, kw_only=True):
    """Incidents of one kind of abuse; "": not recorded."""

    abuse: str


class RuleCount(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and how often it was behind a verdict."""

    rule: str
    title: str
    signal: str
    count: int


class ActionCount(msgspec.Struct, frozen=True, kw_only=True):
    """Actions of one kind with one outcome."""

    action: str
    outcome: str
    dry_run: bool
    count: int


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """Delays of several incidents."""

    known: int
    unknown: int
    median_s: float | None
    longest_s: float | None


class NodeCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """A node and how much of the time its journal covers."""

    node: str
    recorded_s: float
    recorded_share: float
    cpu_hours: float
    gaps: tuple[Gap, ...]


class MissingNode(msgspec.Struct, frozen=True):
    """A node that the report does not cover."""

    node: str
    reason: str


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the report lacks; ``detail`` is text of others."""

    node: str = ""
    text: str
    detail: str = ""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Figures that are known of a cluster as a whole, not by incident."""

    detection: Delay
    actions: tuple[ActionCount, ...]
    rules: tuple[RuleCount, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report; the JSON format is this."""

    version: int = VERSION
    source: str  # journal, prometheus
    scope: str  # the cluster or node
    namespace: str  # the only one that incidents are of; "": all
    since: str
    until: str
    total: Sum  # likely and confirmed
    owner_count: int
    suspicious: Sum  # no more than suspicious
    false_alarms: Sum
    detection: Delay
    action: Delay
    owners: tuple[OwnerSum, ...]
    abuses: tuple[AbuseSum, ...]
    rules: tuple[RuleCount, ...]
    actions: tuple[ActionCount, ...]
    incidents: tuple[ReportedIncident, ...]  # all, the worst first
    days: tuple[Day, ...]
    nodes: tuple[NodeCoverage, ...]
    missing: tuple[MissingNode, ...]
    recorded_share: float | None  # of the time of the nodes that are not missing
    prices: Prices | None
    notes: tuple[Note, ...]


def report(
    histories: Sequence[NodeHistory],
    missing: Iterable[Unanswered],
    *,
    since_s: float,
    until_s: float,
    source: str = JOURNAL,
    scope: str = "",
    namespace: str = "",
    prices: Prices | None = None,
    measured: Measured | None = None,
) -> Report:
    """Add up ``histories``; without ``prices`` those that all agents agree on."""
    missing_nodes = tuple(MissingNode(each.node, each.reason) for each in missing)
    if prices is None:
        prices = _common_prices(histories)
    incidents = _reported(histories, namespace, prices)
    released = [each for each in incidents if each.released]
    others = [each for each in incidents if not each.released]
    abuse = [each for each in others if _is_detected(each)]
    window_s = max(1.0, until_s - since_s)
    return Report(
        source=source,
        scope=scope,
        namespace=namespace,
        since=rfc3339(since_s),
        until=rfc3339(until_s),
        total=Sum(**_sums(abuse)),
        owner_count=len({_account(each) for each in abuse}),
        suspicious=Sum(**_sums([each for each in others if not _is_detected(each)])),
        false_alarms=Sum(**_sums(released)),
        detection=measured.detection if measured else _delay([each.delay_s for each in abuse]),
        action=_delay([each.acted_s for each in abuse if _is_acted_on(each)]),
        owners=tuple(_owners(abuse)),
        abuses=tuple(_abuses(abuse)),
        rules=measured.rules if measured else tuple(_rules(abuse)),
        actions=measured.actions if measured else tuple(_actions(incidents)),
        incidents=tuple(incidents),
        days=tuple(_days(histories)),
        nodes=tuple(
            NodeCoverage(
                node=each.node,
                recorded_s=each.recorded_s,
                recorded_share=round(min(1.0, each.recorded_s / window_s), 4),
                cpu_hours=each.cpu_hours,
                gaps=each.gaps,
            )
            for each in histories
        ),
        missing=missing_nodes,
        recorded_share=_share([each.recorded_s for each in histories], window_s),
        prices=prices,
        notes=tuple(_notes(histories, missing_nodes, abuse, window_s)),
    )


def _common_prices(histories: Sequence[NodeHistory]) -> Prices | None:
    found = {each.prices for each in histories}
    return found.pop() if len(found) == 1 else None


def _reported(
    histories: Iterable[NodeHistory], namespace: str, prices: Prices | None
) -> list[ReportedIncident]:
    """Return all incidents, the worst first."""
    found = [
        ReportedIncident(
            **msgspec.structs.asdict(each),
            node=history.node,
            cost=_cost(each, prices),
            acted_s=_acted_s(each),
            released=next((a.at for a in each.actions if a.outcome == Outcome.RELEASED), ""),
        )
        for history in histories
        for each in history.incidents
        if namespace in ("", each.namespace)
    ]
    return sorted(
        found,
        key=lambda each: (
            -Level.of_label(each.level),
            -weight(each.cpu_hours, each.gpu_hours),
            each.flagged,
        ),
    )


def _cost(incident: Incident, prices: Prices | None) -> float | None:
    """Return the cost of what is known; None if nothing is."""
    if prices is None:
        return None
    parts = [
        hours * price
        for hours, price in (
            (incident.cpu_hours, prices.core_hour),
            (incident.gpu_hours, prices.gpu_hour),
        )
        if hours is not None and price is not None
    ]
    return round(sum(parts), 4) if parts else None


def _acted_s(incident: Incident) -> float | None:
    detected_s = unix_s(incident.detected or incident.flagged)
    done = (unix_s(each.at) for each in incident.actions if each.outcome == Outcome.DONE)
    first_s = min((at_s for at_s in done if at_s is not None), default=None)
    return None if first_s is None or detected_s is None else max(0.0, first_s - detected_s)


def _is_acted_on(incident: Incident) -> bool:
    return any(each.outcome == Outcome.DONE for each in incident.actions)


def _is_detected(incident: Incident) -> bool:
    return Level.of_label(incident.level) >= Level.LIKELY


def _account(incident: ReportedIncident) -> tuple[str, str, str]:
    """Return the owner; without one each pod counts for itself."""
    pod = incident.pod or incident.container
    return incident.namespace, incident.owner, "" if incident.owner else f"{incident.node}/{pod}"


def _sums(incidents: Sequence[ReportedIncident]) -> dict[str, Any]:
    """Return the fields of a ``Sum``."""
    return {
        "incidents": len(incidents),
        "cpu_hours": _known(each.cpu_hours for each in incidents),
        "gpu_hours": _known(each.gpu_hours for each in incidents),
        "energy_kwh": _known(each.energy_kwh for each in incidents),
        "cost": _known(each.cost for each in incidents),
        "without_cpu": sum(each.cpu_hours is None for each in incidents),
    }


def _known(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return round(sum(known), 3) if known else None


def _owners(incidents: Sequence[ReportedIncident]) -> list[OwnerSum]:
    by_account: dict[tuple[str, str, str], list[ReportedIncident]] = {}
    for each in incidents:
        by_account.setdefault(_account(each), []).append(each)
    found = [
        OwnerSum(
            namespace=namespace,
            owner=owner or pod,
            abuses=tuple(dict.fromkeys(each.abuse for each in own if each.abuse)),
            **_sums(own),
        )
        for (namespace, owner, pod), own in by_account.items()
    ]
    return sorted(found, key=_most_first)


def _abuses(incidents: Sequence[ReportedIncident]) -> list[AbuseSum]:
    kinds = dict.fromkeys(each.abuse for each in incidents)
    found = [
        AbuseSum(abuse=kind, **_sums([each for each in incidents if each.abuse == kind]))
        for kind in kinds
    ]
    return sorted(found, key=_most_first)


def _most_first(each: Sum) -> tuple[float, int]:
    return -weight(each.cpu_hours, each.gpu_hours), -each.incidents


def _rules(incidents: Iterable[ReportedIncident]) -> list[RuleCount]:
    """Return rules by the number of containers that they flagged."""
    rules = {rule.rule: rule for each in incidents for rule in each.rules}
    counts = Counter(rule for each in incidents for rule in {own.rule for own in each.rules})
    found = [
        RuleCount(rule=rule, title=rules[rule].title, signal=rules[rule].signal, count=count)
        for rule, count in counts.items()
    ]
    return sorted(found, key=lambda each: (-each.count, -rules[each.rule].score, each.title))


def _actions(incidents: Iterable[ReportedIncident]) -> list[ActionCount]:
    """Return what was done; two containers of one pod share an action."""
    found = {
        (each.node, each.namespace, each.pod or each.container, action)
        for each in incidents
        for action in each.actions
    }
    counts = Counter((each.action, each.outcome, each.dry_run) for *_, each in found)
    return [
        ActionCount(action=action, outcome=outcome, dry_run=dry_run, count=count)
        for (action, outcome, dry_run), count in sorted(
            counts.items(), key=lambda item: (-item[1], item[0])
        )
    ]


def _delay(delays: Sequence[float | None]) -> Delay:
    known = [delay for delay in delays if delay is not None]
    return Delay(
        known=len(known),
        unknown=len(delays) - len(known),
        median_s=median(known) if known else None,
        longest_s=max(known, default=None),
    )


def _days(histories: Iterable[NodeHistory]) -> Iterator[Day]:
    """Yield the days of all nodes together."""
    days: dict[str, list[Day]] = {}
    for history in histories:
        for day in history.days:
            days.setdefault(day.date, []).append(day)
    for date, own in sorted(days.items()):
        yield Day(
            date=date,
            recorded_s=sum(each.recorded_s for each in own),
            cpu_hours=round(sum(each.cpu_hours for each in own), 3),
            flagged_cpu_hours=round(sum(each.flagged_cpu_hours for each in own), 3),
        )


def _share(recorded_s: Sequence[float], window_s: float) -> float | None:
    if not recorded_s:
        return None
    return round(min(1.0, sum(recorded_s) / (window_s * len(recorded_s))), 4)


def _notes(
    histories: Iterable[NodeHistory],
    missing: Iterable[MissingNode],
    abuse: Sequence[ReportedIncident],
    window_s: float,
) -> Iterator[Note]:
    """Yield all that the figures lack."""
    for node in missing:
        yield Note(node=node.node, text="not in this report", detail=node.reason)
    for history in histories:
        yield from _notes_of_node(history, window_s)
    if without := sum(each.cpu_hours is None for each in abuse):
        yield Note(text=f"no CPU hours are recorded of {counted(without, 'container')}")


def _notes_of_node(history: NodeHistory, window_s: float) -> Iterator[Note]:
    node, gap_s = history.node, window_s - history.recorded_s
    if gap_s >= _MIN_GAP_S:
        text = f"nothing was recorded for {duration(gap_s)}"
        if longest := max(history.gaps, key=length_s, default=None):
            gaps = len(history.gaps) + history.unlisted_gaps
            of = f" in {gaps} gaps, the longest" if gaps > 1 else ""
            text += f"{of} from {shown_time(longest.since)} to {shown_time(longest.until)}"
        yield Note(node=node, text=text)
    if history.left_out:
        changes = counted(history.left_out, "change")
        text = f"{changes} of level not recorded: their owners had too many"
        yield Note(node=node, text=text)
    if history.lost:
        lines = counted(sum(history.lost.values()), "line")
        reasons = ", ".join(history.lost)
        text = f"{lines} of the journal not written since the agent started"
        yield Note(node=node, text=text, detail=reasons)
    if history.unlisted:
        text = f"{counted(history.unlisted, 'flagged container')} more than are listed"
        if history.unlisted_cpu_hours is not None:
            text += f", with {history.unlisted_cpu_hours:,.1f} CPU hours"
        if history.unlisted_gpu_hours:
            text += f", {history.unlisted_gpu_hours:,.1f} GPU hours"
        yield Note(node=node, text=text)
    if history.crashes:
        text = f"the agent crashed or was killed {counted(history.crashes, 'time')}"
        yield Note(node=node, text=text)
    if history.audit:
        yield Note(node=node, text="its audit log was not read", detail=history.audit)


def shown_time(at: str) -> str:
    """Return a time to the minute, for people; "?" for what is none."""
    at_s = unix_s(at)
    return "?" if at_s is None else rfc3339(at_s)[:16].replace("T", " ")
