"""The cluster's budget of actions: one Lease, which all agents compare and swap.

An agent reads the Lease, adds its own slot if there is one left, and writes it back (see
``culling.compare_and_swap``). So if two agents want the last slot, one gets it. A missing Lease is
created, which also succeeds for one agent only (409 AlreadyExists). If an answer is lost, the agent
reads again and looks for its own slot by id.

On any failure nothing is done: no Lease, no action.

**Time.** Nodes' clocks may be wrong, so the time is the API server's: the ``Date`` of the answer to
the read that is written back. API servers' clocks may differ a little: a slot is held two minutes
longer than an hour. A slot seen in the Lease is also held for an hour by the agent's own monotonic
clock, whatever the API server's clock does.

**Rules that flag many.** Agents also write which rules confirm which owners on their nodes. An
entry counts for a quarter of an hour, and is renewed after half of that. Once a rule has as many
owners as ``culling.circuit_breaker.cluster_owners``, no agent acts on its findings, and an action
that rests on them gets no slot.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Lock
from typing import Any

import msgspec

from minerwatch.config.schema import Culling
from minerwatch.culling.compare_and_swap import SwapPace, compare_and_swap
from minerwatch.culling.lease_codec import (
    LEASE,
    LeaseState,
    Slot,
    decoded_lease,
    digest,
    lease_body,
    lease_state,
    owner_count,
    short_id,
)
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.kube.client import ApiError, Cluster

MARGIN_S = 120.0
"""Covers the time in which an action is tried after its slot was taken, and clock differences."""

_MAX_NODE_CHARS = 63
_MAX_LEASE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BudgetPace(SwapPace):
    """Timeouts, retries, and how often the Lease is read, in seconds."""

    known_s: float = 1200.0  # after this the last read no longer counts
    needed_s: float = 30.0  # between two reads while a container is confirmed,
    idle_s: float = 600.0  # while none is,
    spent_s: float = 300.0  # and while the budget is spent: only deleting the Lease changes that


class LeaseBudget:
    """``records.Budget`` in the Lease ``LEASE``; for many threads.

    ``failures`` counts failures by reason: the reasons of ApiError, and ``crowded`` if other agents
    were always faster.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        settings: Callable[[], Culling],
        *,
        on_error: Callable[[str, Exception], None] = lambda _reason, _error: None,
        rng: random.Random | None = None,
        pace: BudgetPace | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        closing: Event | None = None,
    ) -> None:
        """``namespace`` is the agent's own; ``settings`` returns those in force.

        Simulations pass their own clock and ``closing``.
        """
        self.failures: dict[str, int] = {}
        self._cluster = cluster
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{LEASE}"
        self._namespace = namespace
        self._settings = settings
        self._on_error = on_error
        self._rng = rng or random.Random()  # noqa: S311 - it spreads requests
        self._pace = pace or BudgetPace()
        self._monotonic_s = monotonic_s
        self._lock = Lock()  # guards what was seen
        self._seen: dict[str, float] = {}  # slot -> when it was taken, as first seen; monotonic
        self._last: LeaseState | None = None  # replaced, never changed
        self._closing = closing or Event()
        self._refresh_s = -math.inf  # monotonic; the Lease is not read before this
        self._flag_s = -math.inf  # monotonic; no flags are written before this

    def close(self) -> None:
        """Interrupt all waits."""
        self._closing.set()

    def refresh(self) -> bool:
        """Read the Lease, so that ``left`` is known; return True on success."""
        try:
            self._read()
        except ApiError as error:
            self._report_failure(error)
            return False
        return True

    def refresh_if_due(self, now_s: float, *, is_needed: bool, dry_run: bool) -> None:
        """Read the Lease if the last read is too old; called at every tick.

        ``now_s`` is monotonic; ``is_needed``: an action may follow. A spent budget is read less
        often: all agents would wait for a slot.
        """
        most_s = self._pace.needed_s if is_needed else self._pace.idle_s
        if is_needed and self.left(dry_run=dry_run) == 0:
            most_s = self._pace.spent_s
        read_s = self.last_read_s()
        is_fresh = read_s is not None and read_s < most_s
        if is_fresh or now_s < self._refresh_s:
            return
        wait_s = 0.0 if self.refresh() else self._pace.needed_s
        self._refresh_s = now_s + wait_s * self._rng.uniform(0.5, 1.5)

    def left(self, *, dry_run: bool) -> int | None:
        """Return how many actions the cluster may still do now; None: unknown."""
        state, now_s = self._last, self._monotonic_s()
        if state is None or now_s - state.at_s > self._pace.known_s:
            return None
        held = self._unexpired(state, now_s).slots(dry_run=dry_run)
        return max(0, self._settings().budget.per_cluster - len(held))

    def last_read_s(self) -> float | None:
        """Return the time since the Lease was read; None: never."""
        state = self._last
        return None if state is None else self._monotonic_s() - state.at_s

    def server_unix_s(self) -> float | None:
        """Return the API server's time of day, extrapolated from its last answer; None: unknown."""
        state = self._last
        return None if state is None else state.server_unix_s + self._monotonic_s() - state.at_s

    def flag(self, flagged: Mapping[str, Iterable[str]]) -> None:
        """Write each rule's confirmed owners on this node; a failure is retried at a later tick."""
        wanted = [(rule, owner) for rule, owners in sorted(flagged.items()) for owner in owners]
        state, now_s = self._last, self._monotonic_s()
        if state is None or now_s < self._flag_s or self._with_flags(state, wanted) is True:
            return
        if not self._update(lambda state: self._with_flags(state, wanted)):
            self._flag_s = now_s + self._pace.needed_s * self._rng.uniform(0.5, 1.5)

    def flagged(self, rules: Iterable[str]) -> dict[str, int]:
        """Return how many owners each of ``rules`` flags in the cluster, as last read."""
        state = self._last
        owners: dict[str, set[str]] = {}
        for flag in () if state is None else state.current_flags:
            owners.setdefault(flag.rule, set()).add(flag.owner)
        found = ((rule, owners.get(digest(rule), ())) for rule in rules)
        return {rule: len(those) for rule, those in found if those}

    def reserve(self, record: ActionRecord, now: Moment) -> bool:  # noqa: ARG002 - the protocol
        """Take a slot, unless one of the record's rules flags too many owners; idempotent."""
        return self._update(lambda state: self._with_slot(state, record), record.node)

    def give_back(self, record: ActionRecord) -> None:
        """Free the slot of an action that was not tried; if that fails, it expires."""
        self._update(lambda state: self._without_slot(state, record), record.node)

    def forget(self) -> None:
        """Delete the Lease if it exists; raises ApiError."""
        try:
            self._cluster.call("DELETE", self._path, timeout_s=self._pace.answer_s)
        except ApiError as error:
            if error.reason != "missing":
                raise

    # One update: read, decide, write; again if another agent was faster.

    def _update(self, change: Callable[[LeaseState], LeaseState | bool], holder: str = "") -> bool:
        """Write the Lease that ``change`` returns, or return its decision; False if that fails."""

        def attempt(_until_s: float) -> bool:
            wanted = change(self._read())
            if isinstance(wanted, bool):
                return wanted
            self._write(wanted, holder)
            return True

        try:
            return compare_and_swap(
                attempt, self._cluster, self._pace, self._closing, self._rng, self._monotonic_s
            )
        except ApiError as error:
            self._report_failure(error)
            return False

    def _with_slot(self, state: LeaseState, record: ActionRecord) -> LeaseState | bool:
        id_, node = short_id(record.id), record.node[:_MAX_NODE_CHARS]
        budget, breaker = self._settings().budget, self._settings().circuit_breaker
        state = self._unexpired(state, state.at_s)
        held = state.slots(dry_run=record.dry_run)
        if any(slot.id == id_ for slot in held):
            return True
        own = sum(slot.node == node for slot in held)
        if len(held) >= budget.per_cluster or own >= budget.per_node:
            return False
        flags = state.flags_with((rule, record.counted_as) for rule in record.rules)
        if any(owner_count(flags, rule) >= breaker.cluster_owners for rule in record.rules):
            return False
        slots = (*held, Slot(id_, node, state.server_unix_s))
        return replace(state, flags=flags).with_slots(slots, dry_run=record.dry_run)

    def _with_flags(
        self, state: LeaseState, wanted: Iterable[tuple[str, str]]
    ) -> LeaseState | bool:
        missing = state.missing_flags(wanted, self._settings().circuit_breaker.cluster_owners)
        if not missing:
            return True
        return replace(self._unexpired(state, state.at_s), flags=state.flags_with(missing))

    def _without_slot(self, state: LeaseState, record: ActionRecord) -> LeaseState | bool:
        id_ = short_id(record.id)
        with self._lock:
            self._seen.pop(id_, None)
        state = self._unexpired(state, state.at_s)
        slots = state.slots(dry_run=record.dry_run)
        others = tuple(slot for slot in slots if slot.id != id_)
        return others == slots or state.with_slots(others, dry_run=record.dry_run)

    def _unexpired(self, state: LeaseState, now_s: float) -> LeaseState:
        """Return ``state`` without the slots that have expired by ``now_s`` (monotonic)."""

        def held(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
            longest_s = HOUR_S + MARGIN_S
            return tuple(each for each in slots if self._age_s(state, each, now_s) < longest_s)

        with self._lock:
            return replace(state, in_earnest=held(state.in_earnest), dry_runs=held(state.dry_runs))

    def _age_s(self, state: LeaseState, slot: Slot, now_s: float) -> float:
        """Return how long ago a slot was taken: by the server, or seen here, whichever is less."""
        age_s = state.server_unix_s - slot.unix_s + (now_s - state.at_s)
        return min(age_s, now_s - self._seen.get(slot.id, -math.inf))

    # The Lease.

    def _read(self) -> LeaseState:
        lease: dict[str, Any] | None = None
        try:
            answer = self._cluster.open("GET", self._path, timeout_s=self._pace.answer_s)
            date_unix_s = answer.date_unix_s
            lease = decoded_lease(answer.body(_MAX_LEASE_BYTES))
        except ApiError as error:
            if error.reason != "missing":
                raise
            date_unix_s = error.date_unix_s
        if date_unix_s is None:
            problem = "the answer has no Date header; does a proxy remove it?"
            raise ApiError("garbage", f"{self._path}: {problem}")
        state = lease_state(lease, date_unix_s, self._monotonic_s())
        self._remember(state)
        return state

    def _remember(self, state: LeaseState) -> None:
        with self._lock:
            known = {slot.id: slot for slot in (*state.in_earnest, *state.dry_runs)}
            for id_, slot in known.items():
                age_s = max(0.0, state.server_unix_s - slot.unix_s)
                self._seen.setdefault(id_, state.at_s - age_s)
            self._seen = {id_: seen for id_, seen in self._seen.items() if id_ in known}
            self._last = state

    def _write(self, wanted: LeaseState, holder: str) -> None:
        is_new = wanted.lease is None
        method, path = ("POST", self._collection) if is_new else ("PUT", self._path)
        body = msgspec.json.encode(lease_body(wanted, self._namespace, holder))
        self._cluster.call(method, path, body=body, timeout_s=self._pace.answer_s)
        self._remember(wanted)

    def _report_failure(self, error: ApiError) -> None:
        reason = "crowded" if error.reason == "conflict" else error.reason
        self.failures[reason] = self.failures.get(reason, 0) + 1
        with suppress(Exception):  # a failing callback must not prevent the decision
            self._on_error(reason, error)
