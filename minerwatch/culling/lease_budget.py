"""The cluster's budget of actions: one Lease, which all agents compare and swap.

The places that have been taken are in the Lease's annotations, one JSON list for what is done in
earnest and one for dry runs: ``[[id, node, unix_s], …]``. An agent reads the Lease, adds its own
place if there is one left, and writes it back with the resource version that it read: if anybody
else has written in between, the API server refuses (409 Conflict), and the agent reads again. So of
two agents that want the last place one gets it. A Lease that is missing is made, which also only
one can do (409 AlreadyExists). Where an answer is lost, the agent reads again, and finds its own
place by its id, or does not.

Whatever goes wrong, nothing is done: no Lease, no action.

**Whose clock.** Nodes' clocks may be wrong, so the time is that of the API server: the ``Date`` of
the answer to the very read that is written back. Of several API servers each may be wrong by a
bit: a place is held for two minutes longer than an hour. And what an agent has seen in the Lease it
holds for an hour by its own monotonic clock, whatever the API server's clock does in the meantime.

**Rules that flag many.** Agents also write which rules confirm which owners on their nodes, both as
hashes: ``[[rule, owner, unix_s], …]``. An entry counts for a quarter of an hour, and is renewed
after half of that. Once a rule has as many owners as ``culling.circuit_breaker.cluster_owners``
says, no agent acts on its findings, and no place is given to an action that rests on them.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any, TypeVar

import msgspec

from minerwatch.config.schema import CircuitBreaker, CullBudget
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.errors import NOT_JSON
from minerwatch.kube.client import ApiError, Cluster

LEASE = "minerwatch-cull-budget"
IN_EARNEST = "minerwatch.io/actions"
DRY_RUNS = "minerwatch.io/dry-runs"
FLAGGED = "minerwatch.io/flagged"

FLAGGED_S = 900.0
"""For how long an owner counts as flagged after the last agent that said so."""

MARGIN_S = 120.0
"""For how long an action may be tried after its place was taken, and servers' clocks may differ."""

_ID_DIGITS = 24
_FLAG_DIGITS = 12
_MAX_FLAGS = 400
_MAX_NODE_CHARS = 63
_MAX_PLACES = 1100  # no budget permits more than 1,000 an hour
_MAX_ANNOTATION_BYTES = 120 << 10  # all annotations of an object may have 256 KiB together
_MAX_LEASE_BYTES = 1 << 20
_SUMMARY = "Actions of minerwatch within the last hour; deleting this frees the whole budget."


@dataclass(frozen=True, slots=True)
class BudgetPace:
    """How long is tried, in seconds."""

    tries: int = 12
    give_up_s: float = 20.0
    first_delay_s: float = 0.05
    longest_delay_s: float = 2.0
    answer_s: float = 5.0
    known_s: float = 1200.0  # for so long what was heard of the budget is worth something
    needed_s: float = 30.0  # what is known is no older while something is confirmed, ...
    idle_s: float = 600.0  # ... and while nothing is
    spent_s: float = 300.0  # or nothing can be done: only who deletes the Lease can change that


class _Place(msgspec.Struct, array_like=True, frozen=True):
    id: str
    node: str
    unix_s: float


class _Flag(msgspec.Struct, array_like=True, frozen=True):
    rule: str
    owner: str
    unix_s: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """When a place was first seen, and how old it was then."""

    at_s: float  # monotonic
    age_s: float


@dataclass(frozen=True, slots=True)
class _Read:
    """The Lease as it was read; ``lease`` is None where there is none."""

    lease: dict[str, Any] | None
    in_earnest: tuple[_Place, ...]
    dry_runs: tuple[_Place, ...]
    server_unix_s: float
    at_s: float  # monotonic
    flags: tuple[_Flag, ...] = ()

    def places(self, *, dry_run: bool) -> tuple[_Place, ...]:
        return self.dry_runs if dry_run else self.in_earnest


class LeaseBudget:
    """``cull.Budget``, kept in the Lease ``LEASE``; for many threads.

    ``failures`` counts by reason what went wrong: the reasons of ApiError, and ``crowded`` where
    others were always faster.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        limits: CullBudget,
        *,
        cluster_owners: int = CircuitBreaker().cluster_owners,
        on_error: Callable[[str, Exception], None] = lambda _reason, _error: None,
        chance: random.Random | None = None,
        pace: BudgetPace | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        closing: Event | None = None,
    ) -> None:
        """``namespace`` is the agent's own; ``on_error`` hears of each failure.

        ``cluster_owners``: of so many, flagged by one rule, the rule is thought wrong.

        ``closing`` is waited on between requests: a simulation brings its own, and its clock.
        """
        self.failures: dict[str, int] = {}
        self._cluster = cluster
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._limits = limits
        self._cluster_owners = cluster_owners
        self._on_error = on_error
        self._chance = chance or random.Random()  # noqa: S311 - it spreads requests
        self._pace = pace or BudgetPace()
        self._monotonic_s = monotonic_s
        self._lock = Lock()
        self._seen: dict[str, _Seen] = {}
        self._last: _Read | None = None
        self._closing = closing or Event()
        self._refresh_s = -math.inf  # monotonic; before this the Lease is not asked for again
        self._flag_s = -math.inf  # monotonic; before this no flags are written again

    def use(self, limits: CullBudget, cluster_owners: int) -> None:
        """Put other limits in force."""
        self._limits = limits
        self._cluster_owners = cluster_owners

    def close(self) -> None:
        """Wait for nobody any more."""
        self._closing.set()

    def refresh(self) -> bool:
        """Read the Lease, so that ``left`` is known; whether that went well."""
        try:
            self._read()
        except ApiError as error:
            self._note(error)
            return False
        return True

    def keep_known(self, now_s: float, *, is_needed: bool, dry_run: bool) -> None:
        """Read the Lease if what is known is too old; to be called at every tick.

        ``now_s`` is the time by the clock of the ticks (monotonic), ``is_needed`` says that
        something may have to be done. While no place is left that is nothing to hurry for: all
        agents that want one would ask all the time, and when a place is over is known here.
        """
        most_s = self._pace.needed_s if is_needed else self._pace.idle_s
        if is_needed and self.left(dry_run=dry_run) == 0:
            most_s = self._pace.spent_s
        heard_s = self.heard_s()
        is_fresh = heard_s is not None and heard_s < most_s
        if is_fresh or now_s < self._refresh_s:
            return
        wait_s = 0.0 if self.refresh() else self._pace.needed_s
        self._refresh_s = now_s + wait_s * self._chance.uniform(0.5, 1.5)

    def left(self, *, dry_run: bool) -> int | None:
        """How many more actions the cluster may do now; None: not known, or not any more."""
        with self._lock:
            read = self._last
            now_s = self._monotonic_s()
            if read is None or now_s - read.at_s > self._pace.known_s:
                return None
            held = self._held(read, read.places(dry_run=dry_run), now_s)
            return max(0, self._limits.per_cluster - len(held))

    def heard_s(self) -> float | None:
        """How long ago the Lease was read; None: never."""
        with self._lock:
            return None if self._last is None else self._monotonic_s() - self._last.at_s

    def server_unix_s(self) -> float | None:
        """Return the API server's time of day, counted on from its last answer; None: not known."""
        with self._lock:
            read = self._last
            return None if read is None else read.server_unix_s + self._monotonic_s() - read.at_s

    def flag(self, flagged: Mapping[str, Iterable[str]]) -> None:
        """Write which owners each rule confirms on this node, where the Lease does not say so.

        ``flagged``: rule -> owners. What cannot be written now is written at a later tick; until
        then ``reserve`` checks it.
        """
        wanted = [(rule, owner) for rule, owners in sorted(flagged.items()) for owner in owners]
        now_s = self._monotonic_s()
        with self._lock:
            read = self._last
        if read is None or now_s < self._flag_s or not self._missing(read, wanted):
            return
        if not self._changed(lambda read: self._with_flags(read, wanted)):
            self._flag_s = now_s + self._pace.needed_s * self._chance.uniform(0.5, 1.5)

    def flagged(self, rules: Iterable[str]) -> dict[str, int]:
        """Return how many owners each of ``rules`` flags in the cluster, as last read."""
        with self._lock:
            read = self._last
        owners: dict[str, set[str]] = {}
        for flag in () if read is None else _current(read):
            owners.setdefault(flag.rule, set()).add(flag.owner)
        found = ((rule, owners.get(_digest(rule), ())) for rule in rules)
        return {rule: len(those) for rule, those in found if those}

    def reserve(self, record: ActionRecord, now: Moment) -> bool:  # noqa: ARG002 - the protocol
        """Whether the action may be done: a place of the hour is now taken by ``record.id``.

        It may not be while one of the record's rules flags too many owners in the cluster.
        ``now`` is not used: the time is the API server's.
        """
        return self._changed(lambda read: self._with_place(read, record))

    def give_back(self, record: ActionRecord) -> None:
        """Free the place of an action that was not tried; if it cannot be freed, an hour does."""
        self._changed(lambda read: self._without_place(read, record))

    def forget(self) -> None:
        """Delete the Lease, if there is one; raises ApiError."""
        try:
            self._cluster.call("DELETE", self._path(), timeout_s=self._pace.answer_s)
        except ApiError as error:
            if error.reason != "missing":
                raise

    # One change: read, decide, write; again where somebody else was faster.

    def _changed(self, change: Callable[[_Read], _Read | bool]) -> bool:
        """``change`` makes of what was read what is to be written, or says yes or no at once."""
        until_s = self._monotonic_s() + self._pace.give_up_s
        delay_s = self._pace.first_delay_s
        for _ in range(self._pace.tries):
            try:
                read = self._read()
                wanted = change(read)
                if isinstance(wanted, bool):
                    return wanted
                self._write(wanted)
            except ApiError as error:
                if error.reason == "unauthorized":
                    with suppress(ApiError):
                        self._cluster.renew_credentials()
                if not _may_pass(error):
                    self._note(error)
                    return False
                last = error
            else:
                return True
            asked_s = last.retry_after_s or 0.0
            wait_s = max(asked_s, delay_s * self._chance.uniform(0.5, 1.5))
            if self._monotonic_s() + wait_s > until_s or self._closing.wait(wait_s):
                break
            delay_s = min(2 * delay_s, self._pace.longest_delay_s)
        self._note(last)
        return False

    def _with_place(self, read: _Read, record: ActionRecord) -> _Read | bool:
        id_, node = _short_id(record.id), record.node[:_MAX_NODE_CHARS]
        with self._lock:
            held = self._held(read, read.places(dry_run=record.dry_run), read.at_s)
        if any(place.id == id_ for place in held):
            return True
        own = sum(place.node == node for place in held)
        if len(held) >= self._limits.per_cluster or own >= self._limits.per_node:
            return False
        flags = _added(read, [(rule, record.counted_as) for rule in record.rules])
        if any(_owner_count(flags, _digest(rule)) >= self._cluster_owners for rule in record.rules):
            return False
        flagged = replace(read, flags=tuple(flags))
        return self._pruned(flagged, record, (*held, _Place(id_, node, read.server_unix_s)))

    def _missing(self, read: _Read, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those of ``wanted`` that are to be written: not there, or to be renewed.

        Of a rule that has too many owners already no more are written.
        """
        flags = _current(read)
        fresh = {
            (flag.rule, flag.owner)
            for flag in flags
            if read.server_unix_s - flag.unix_s < FLAGGED_S / 2
        }
        return [
            (rule, owner)
            for rule, owner in wanted
            if (_digest(rule), _digest(owner)) not in fresh
            and sum(each == _digest(rule) for each, _ in fresh) < self._cluster_owners
        ]

    def _with_flags(self, read: _Read, wanted: Iterable[tuple[str, str]]) -> _Read | bool:
        missing = self._missing(read, wanted)
        if not missing:
            return True
        flagged = replace(read, flags=tuple(_added(read, missing)))
        with self._lock:
            lists = [self._held(read, each, read.at_s) for each in (read.in_earnest, read.dry_runs)]
        return self._to_write(flagged, "", lists[0], lists[1])

    def _without_place(self, read: _Read, record: ActionRecord) -> _Read | bool:
        id_ = _short_id(record.id)
        places = read.places(dry_run=record.dry_run)
        with self._lock:
            self._seen.pop(id_, None)
        if not any(place.id == id_ for place in places):
            return True
        return self._pruned(read, record, tuple(place for place in places if place.id != id_))

    def _pruned(self, read: _Read, record: ActionRecord, places: tuple[_Place, ...]) -> _Read:
        """What is to be written: ``places``, and of the other list what is not over."""
        with self._lock:
            others = self._held(read, read.places(dry_run=not record.dry_run), read.at_s)
        lists = (others, places) if record.dry_run else (places, others)
        return self._to_write(read, record.node, *lists)

    def _to_write(
        self, read: _Read, node: str, in_earnest: tuple[_Place, ...], dry_runs: tuple[_Place, ...]
    ) -> _Read:
        lease = _body(read, self._namespace, node, in_earnest, dry_runs)
        return replace(read, lease=lease, in_earnest=in_earnest, dry_runs=dry_runs)

    def _held(self, read: _Read, places: tuple[_Place, ...], now_s: float) -> tuple[_Place, ...]:
        """Those of ``places`` that are not over by ``now_s`` (monotonic)."""
        return tuple(
            place for place in places if self._age_s(read, place, now_s) < HOUR_S + MARGIN_S
        )

    def _age_s(self, read: _Read, place: _Place, now_s: float) -> float:
        """The least that the two clocks say."""
        age_s = read.server_unix_s - place.unix_s + (now_s - read.at_s)
        seen = self._seen.get(place.id)
        return age_s if seen is None else min(age_s, seen.age_s + now_s - seen.at_s)

    # The Lease.

    def _read(self) -> _Read:
        lease: dict[str, Any] | None = None
        path = f"{self._collection}/{LEASE}"
        try:
            answer = self._cluster.open("GET", path, timeout_s=self._pace.answer_s)
            date_unix_s = answer.date_unix_s
            lease = _decoded(answer.body(_MAX_LEASE_BYTES))
        except ApiError as error:
            if error.reason != "missing":
                raise
            date_unix_s = error.date_unix_s
        if date_unix_s is None:
            raise ApiError("garbage", f"{path}: an answer without a date; is a proxy in between?")
        lists = [_entries(lease, name, _Place, _MAX_PLACES) for name in (IN_EARNEST, DRY_RUNS)]
        flags = _entries(lease, FLAGGED, _Flag, _MAX_FLAGS)
        read = _Read(lease, lists[0], lists[1], date_unix_s, self._monotonic_s(), flags)
        self._remember(read)
        return read

    def _remember(self, read: _Read) -> None:
        with self._lock:
            known = {place.id: place for place in (*read.in_earnest, *read.dry_runs)}
            for id_, place in known.items():
                age_s = max(0.0, read.server_unix_s - place.unix_s)
                self._seen.setdefault(id_, _Seen(read.at_s, age_s))
            self._seen = {id_: seen for id_, seen in self._seen.items() if id_ in known}
            self._last = read

    def _write(self, wanted: _Read) -> None:
        assert wanted.lease is not None  # noqa: S101 - for mypy; _body never is None
        is_new = "resourceVersion" not in wanted.lease["metadata"]
        method, path = ("POST", self._collection) if is_new else ("PUT", self._path())
        body = msgspec.json.encode(wanted.lease)
        self._cluster.call(method, path, body=body, timeout_s=self._pace.answer_s)
        self._remember(wanted)

    def _path(self) -> str:
        return f"{self._collection}/{LEASE}"

    def _note(self, error: ApiError) -> None:
        reason = "crowded" if error.reason == "conflict" else error.reason
        self.failures[reason] = self.failures.get(reason, 0) + 1
        with suppress(Exception):  # whatever reports it must not keep a decision from its end
            self._on_error(reason, error)


def _may_pass(error: ApiError) -> bool:
    """Whether reading and writing again may succeed."""
    lost = {"unauthorized", "throttled", "connection", "timeout", "conflict", "missing"}
    return error.reason in lost or error.status >= 500


def _short_id(record_id: str) -> str:
    return hashlib.sha256(record_id.encode()).hexdigest()[:_ID_DIGITS]


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        lease = msgspec.json.decode(body, type=dict[str, Any])
    except NOT_JSON as error:
        raise ApiError("garbage", f"{LEASE}: the API server's answer is no Lease") from error
    metadata = lease.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("resourceVersion"):
        raise ApiError("garbage", f"{LEASE}: a Lease without a resource version")
    if not isinstance(metadata.get("annotations"), dict | None):
        raise ApiError("garbage", f"{LEASE}: annotations that are none")
    if not isinstance(lease.get("spec"), dict | None):
        raise ApiError("garbage", f"{LEASE}: a spec that is none")
    return lease


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:_FLAG_DIGITS]


def _current(read: _Read) -> list[_Flag]:
    return [flag for flag in read.flags if read.server_unix_s - flag.unix_s < FLAGGED_S]


def _added(read: _Read, wanted: Iterable[tuple[str, str]]) -> list[_Flag]:
    """Return the flags that still count, with those of ``wanted``; the oldest give way."""
    flags = {(flag.rule, flag.owner): flag for flag in _current(read)}
    for rule, owner in wanted:
        key = (_digest(rule), _digest(owner))
        flags[key] = _Flag(*key, read.server_unix_s)
    return sorted(flags.values(), key=lambda flag: flag.unix_s)[-_MAX_FLAGS:]


def _owner_count(flags: Iterable[_Flag], rule: str) -> int:
    return len({flag.owner for flag in flags if flag.rule == rule})


_Entry = TypeVar("_Entry")


def _entries(
    lease: dict[str, Any] | None, name: str, kind: type[_Entry], most: int
) -> tuple[_Entry, ...]:
    """What an annotation says; one that cannot be understood permits nothing."""
    if lease is None:
        return ()
    text = (lease["metadata"].get("annotations") or {}).get(name, "[]")
    try:
        entries: list[_Entry] = msgspec.json.decode(text, type=list[kind])  # type: ignore[valid-type]
    except (*NOT_JSON, TypeError) as error:
        raise ApiError(
            "garbage",
            f"Lease {LEASE}: its annotation {name} is damaged, so nothing is culled: delete the"
            " Lease once no action was done within the last hour",
        ) from error
    if len(entries) > most:
        raise ApiError("garbage", f"Lease {LEASE}: more than {most} entries in {name}")
    return tuple(entries)


def _body(
    read: _Read,
    namespace: str,
    node: str,
    in_earnest: tuple[_Place, ...],
    dry_runs: tuple[_Place, ...],
) -> dict[str, Any]:
    """The Lease to be written; whatever else others have put there stays."""
    lease: dict[str, Any] = dict(read.lease or {})
    metadata = dict(lease.get("metadata") or {"name": LEASE, "namespace": namespace})
    annotations = {
        "kubernetes.io/description": _SUMMARY,
        **(metadata.get("annotations") or {}),
        IN_EARNEST: _encoded(in_earnest),
        DRY_RUNS: _encoded(dry_runs),
        FLAGGED: _encoded(read.flags),
    }
    before = lease.get("spec") or {}
    spec = {
        **before,
        "holderIdentity": node or before.get("holderIdentity") or "unknown",
        "leaseDurationSeconds": int(HOUR_S),
        "renewTime": _micro_time(read.server_unix_s),
    }
    return {
        **lease,
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {**metadata, "annotations": annotations},
        "spec": spec,
    }


def _encoded(entries: tuple[_Place, ...] | tuple[_Flag, ...]) -> str:
    text = msgspec.json.encode(entries).decode()
    if len(text) > _MAX_ANNOTATION_BYTES:
        raise ApiError("garbage", f"Lease {LEASE}: there is no room for another action")
    return text


def _micro_time(unix_s: float) -> str:
    """``MicroTime`` of meta/v1, which takes six digits and no other number of them."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
