"""Past actions, kept as long as the policy needs them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from minerwatch.culling.decision import Decision
from minerwatch.culling.records import HOUR_S, PROCESS_ACTIONS, ActionRecord, Moment
from minerwatch.model import Action, Outcome, Pod, ProcessId

MAX_RECORDS = 4096
KEPT_S = 30 * 86400.0  # older actions are forgotten

_NO_ACTIONS = (Outcome.RELEASED, Outcome.STARTED)
_NEVER_HAPPENED = (Outcome.WITHDRAWN, Outcome.DRY_RUN, Outcome.REFUSED, *_NO_ACTIONS)
_OFFENCES = (Outcome.DONE, Outcome.DRY_RUN)


class History:
    """Past actions of this node; bounded in number and age. For one thread that writes.

    Any number of threads may read: what they see is replaced, never changed.

    Ages are measured on the monotonic clock, so that a wall clock that jumps frees no budget. An
    action from before the last boot is known to be older than the boot, no more.
    """

    def __init__(self, known_since_s: float) -> None:
        """Start empty; actions before ``known_since_s`` (monotonic) are unknown."""
        self._entries: Mapping[str, _Entry] = {}
        self._pods: frozenset[str] = frozenset()
        self._known_since_s = known_since_s

    @classmethod
    def started(cls, node: str, now: Moment) -> History:
        """Return an empty history whose only record says how far back it reaches."""
        history = cls(now.monotonic_s)
        history._added(_start(node, now), now)
        return history

    @classmethod
    def restored(cls, records: Iterable[ActionRecord], now: Moment) -> History:
        """Return the history in an audit log, in the order of its lines."""
        history = cls(now.monotonic_s)
        entries: dict[str, _Entry] = {}
        for record in records:
            entries[record.id] = entry = _restored(record, now)
            history._known_since_s = min(history._known_since_s, entry.latest_s)
            if len(entries) > 2 * MAX_RECORDS:
                entries = _bounded(entries, now)
        history._replace(_bounded(entries, now))
        return history

    def records(self) -> tuple[ActionRecord, ...]:
        """Return all records."""
        return tuple(entry.record for entry in self._entries.values())

    def begin(self, decision: Decision, now: Moment) -> ActionRecord:
        """Add a pending record and return it; raises ValueError if the action must not start."""
        if not decision.acts or self.is_pending(decision.pod_uid):
            raise ValueError("there is nothing to do, or an action is pending already")
        return self._added(_record(decision, Outcome.PENDING, now), now)

    def finish(self, record_id: str, outcome: Outcome) -> ActionRecord | None:
        """Return the pending record with its outcome; None if it is not pending."""
        entry = self._entries.get(record_id)
        if entry is None or entry.record.outcome is not Outcome.PENDING:
            return None
        record = msgspec.structs.replace(entry.record, outcome=outcome)
        self._replace({**self._entries, record_id: replace(entry, record=record)})
        return record

    def release(self, decision: Decision, now: Moment) -> ActionRecord:
        """Add and return the record that the pod of ``decision`` is released."""
        return self._added(_record(decision, Outcome.RELEASED, now), now)

    def release_again(self, record: ActionRecord, now: Moment) -> ActionRecord:
        """Add and return the record that the pod of an earlier ``record`` is released."""
        stamp = _stamp(record.pod_uid, "release", now)
        released = msgspec.structs.replace(record, **stamp, outcome=Outcome.RELEASED, processes=())
        return self._added(released, now)

    def anchor(self, node: str, now: Moment) -> ActionRecord:
        """Return the first record of a log that continues another one."""
        ago_s = now.monotonic_s - self._known_since_s
        start = Moment(now.unix_s - ago_s, self._known_since_s, now.boot_id)
        return _start(node, start)

    def of_pod(self, pod_uid: str) -> tuple[ActionRecord, ...]:
        """Return the actions on a pod, the oldest first."""
        if pod_uid not in self._pods:
            return ()
        return tuple(entry.record for entry in self._on_pod(pod_uid))

    def stopped(
        self, boot_id: str, since_s: float = -math.inf
    ) -> tuple[tuple[str, ProcessId], ...]:
        """Return pod uid and id of processes that may be stopped, of released pods too.

        Only those count that were stopped after ``since_s``, on the monotonic clock.
        """
        return tuple(
            (record.pod_uid, process)
            for record in self.records()
            if record.boot_id == boot_id
            and record.monotonic_s >= since_s
            and _may_have_done(Action.STOP, record)
            for process in record.processes
        )

    def held(self, boot_id: str) -> tuple[ActionRecord, ...]:
        """Return the actions that may still be in effect: labels, processes stopped since boot."""
        return tuple(
            record
            for record in self.records()
            if _may_have_done(Action.LABEL, record)
            or (
                record.boot_id == boot_id
                and any(_may_have_done(each, record) for each in (Action.STOP, Action.PAUSE))
            )
        )

    def may_have_paused(self, pod_uid: str, boot_id: str) -> bool:
        """Return True if minerwatch may have paused the container since the boot."""
        return any(
            record.boot_id == boot_id and _may_have_done(Action.PAUSE, record)
            for record in self.of_pod(pod_uid)
        )

    def has_record(self, pod_uid: str, action: Action, outcome: Outcome) -> bool:
        """Return True if an action on the pod came to that outcome."""
        return any(
            (record.action, record.outcome) == (action, outcome) for record in self.of_pod(pod_uid)
        )

    def has_dry_run(self, pod_uid: str, action: Action, processes: Iterable[ProcessId]) -> bool:
        """Return True if a dry run of exactly this action on the pod was done already."""
        shown = [
            record
            for record in self.of_pod(pod_uid)
            if (record.action, record.outcome) == (action, Outcome.DRY_RUN)
        ]
        if action not in PROCESS_ACTIONS:
            return bool(shown)
        seen = {process for record in shown for process in record.processes}
        return bool(shown) and seen.issuperset(processes)

    def knows_last_hour(self, now: Moment) -> bool:
        """Return True if all actions of the last hour are known."""
        return now.monotonic_s - self._known_since_s >= HOUR_S

    def has_pending(self, record_id: str) -> bool:
        """Return True if the record's action is pending."""
        entry = self._entries.get(record_id)
        return entry is not None and entry.record.outcome is Outcome.PENDING

    def is_pending(self, pod_uid: str, *, without: str = "") -> bool:
        """Return True if an action on the pod is pending, except the record ``without``."""
        on_pod = self._on_pod(pod_uid, without)
        return any(entry.record.outcome is Outcome.PENDING for entry in on_pod)

    def is_released(self, pod_uid: str) -> bool:
        """Return True if an operator has released the pod."""
        on_pod = self._on_pod(pod_uid)
        return any(entry.record.outcome is Outcome.RELEASED for entry in on_pod)

    def last_try_s(
        self, pod_uid: str, now: Moment, *, dry_run: bool, without: str = ""
    ) -> float | None:
        """Return the seconds since the pod's last action, except ``without``; None without one."""
        ages_s = [
            now.monotonic_s - entry.latest_s
            for entry in self._on_pod(pod_uid, without)
            if _matters(entry.record, dry_run=dry_run)
        ]
        return min(ages_s, default=None)

    def spent(self, now: Moment, *, dry_run: bool, without: str = "") -> int:
        """Return the number of actions tried within the last hour, except ``without``."""
        return sum(
            _matters(entry.record, dry_run=dry_run)
            and entry.record.outcome is not Outcome.WITHDRAWN
            and now.monotonic_s - entry.latest_s < HOUR_S
            for name, entry in self._entries.items()
            if name != without
        )

    def has_touched(self, pod: Pod, *, dry_run: bool) -> bool:
        """Return True if there was an action on this pod, or on one of its name."""
        return any(
            _matters(entry.record, dry_run=dry_run)
            and entry.record.outcome in _OFFENCES
            and (
                entry.record.pod_uid == pod.uid
                or (entry.record.namespace, entry.record.pod) == (pod.namespace, pod.name)
            )
            for entry in self._entries.values()
        )

    def offences(self, pod: Pod, owner: str, window_s: float, now: Moment, *, dry_run: bool) -> int:
        """Return the number of actions within the window on pods of that name or owner."""
        return sum(
            _matters(entry.record, dry_run=dry_run)
            and entry.record.outcome in _OFFENCES
            and entry.record.namespace == pod.namespace
            and (entry.record.pod == pod.name or (owner != "" and entry.record.owner == owner))
            and now.monotonic_s - entry.probable_s < window_s
            for entry in self._entries.values()
        )

    def _on_pod(self, pod_uid: str, without: str = "") -> Iterator[_Entry]:
        """Yield the actions on a pod, the oldest first, except the record ``without``."""
        for name, entry in self._entries.items():
            if entry.record.pod_uid == pod_uid and name != without:
                yield entry

    def _added(self, record: ActionRecord, now: Moment) -> ActionRecord:
        entry = _Entry(record, now.monotonic_s, now.monotonic_s)
        self._replace(_bounded({**self._entries, record.id: entry}, now))
        return record

    def _replace(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = entries
        self._pods = frozenset(entry.record.pod_uid for entry in entries.values())


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record with its time on this boot's monotonic clock; negative: before the boot."""

    record: ActionRecord
    probable_s: float
    latest_s: float  # the latest possible time

    @property
    def worth(self) -> tuple[bool, float]:
        """Return the key by which entries are dropped: those that no budget counts, the oldest."""
        is_released = self.record.outcome is Outcome.RELEASED
        is_idle = self.record.outcome is Outcome.WITHDRAWN or self.record.dry_run
        return is_released or not is_idle, self.probable_s


def _bounded(entries: Mapping[str, _Entry], now: Moment) -> dict[str, _Entry]:
    """Return ``entries`` without those that have expired, and without the least of too many."""
    kept = {
        name: entry for name, entry in entries.items() if now.monotonic_s - entry.latest_s < KEPT_S
    }
    surplus = max(0, len(kept) - MAX_RECORDS)
    for name in sorted(kept, key=lambda name: kept[name].worth)[:surplus]:
        del kept[name]
    return kept


def _matters(record: ActionRecord, *, dry_run: bool) -> bool:
    """Return True if it counts: dry runs count enforced actions, but not the other way round."""
    return record.outcome not in _NO_ACTIONS and (dry_run or not record.dry_run)


def _may_have_done(action: Action, record: ActionRecord) -> bool:
    is_past = not record.dry_run and record.outcome not in _NEVER_HAPPENED
    return record.action is action and is_past


def _restored(record: ActionRecord, now: Moment) -> _Entry:
    if record.outcome is Outcome.PENDING:  # the earlier agent may have done it
        record = msgspec.structs.replace(record, outcome=Outcome.UNKNOWN)
    if record.boot_id == now.boot_id:
        made_s = min(record.monotonic_s, now.monotonic_s)
        return _Entry(record, made_s, made_s)
    age_s = max(now.monotonic_s, now.unix_s - record.unix_s)
    return _Entry(record, now.monotonic_s - age_s, 0.0)


def _stamp(subject: str, what: str, now: Moment) -> dict[str, Any]:
    """Return the id and the time of a record."""
    id_ = f"{subject}/{what}/{now.boot_id}/{now.monotonic_s:.6f}"
    return {"id": id_, **asdict(now)}


def _start(node: str, now: Moment) -> ActionRecord:
    return ActionRecord(
        **_stamp(node, "start", now),
        node=node,
        namespace="",
        pod="",
        pod_uid="",
        owner="",
        action=Action.OBSERVE,
        rung=0,
        dry_run=False,
        outcome=Outcome.STARTED,
    )


def _record(decision: Decision, outcome: Outcome, now: Moment) -> ActionRecord:
    what = "release" if outcome is Outcome.RELEASED else decision.action.value
    return ActionRecord(
        **_stamp(decision.pod_uid, what, now),
        node=decision.node,
        namespace=decision.namespace,
        pod=decision.pod,
        pod_uid=decision.pod_uid,
        owner=decision.owner,
        action=decision.action,
        rung=decision.rung,
        dry_run=decision.dry_run,
        outcome=outcome,
        processes=decision.processes if decision.proposed in PROCESS_ACTIONS else (),
        rules=decision.rules,
        counted_as=decision.counted_as,
        abuse=decision.abuse,
        owner_claimed=decision.owner_claimed,
    )
