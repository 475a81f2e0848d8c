"""An API server restarts, and all agents of a cluster come back: simulated.

What an agent asks, when, and what it does with the answers is its own code: ``PodWatch`` and
``LeaseBudget``, as they run on a node, one of each for every agent. What is made up is the time
(``benchmarks.virtual_time``), chance (seeded), and the API server: it holds the Lease, refuses what
was written meanwhile, and has so many seats and places in its queues as API Priority and Fairness
gives to one service account. Nothing goes over a network, and nothing is encrypted.

Without the policy and the enforcement around them: an agent that wants to act does so once its
watch is open and its budget is known; an attempt that came to nothing is followed by the policy's
pause, as in ``minerwatch.culling.policy``.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from benchmarks.virtual_time import NeverSet, Promise, VirtualTime
from minerwatch.config.schema import Config, CullBudget, Culling
from minerwatch.culling.lease_budget import BudgetPace, LeaseBudget
from minerwatch.culling.lease_codec import IN_EARNEST
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.kube.client import (
    ANSWER_TIMEOUT_S,
    JSON,
    ApiError,
    Cluster,
    Response,
    refusal,
)
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.kube.pods import Clocks, Pace, PodWatch
from minerwatch.model import Action, Outcome

NAMESPACE = "minerwatch"
EPOCH_UNIX_S = 1_800_000_000.0

Kind = Literal[
    "list", "list of etcd", "watch", "lease read", "lease write", "pod read", "pod write"
]


@dataclass(frozen=True, slots=True)
class Traits:
    """The API server: what of it one service account may have, and how long it takes.

    Seats and queues are those that a cluster comes with (``bootstrap/default.go`` of Kubernetes:
    priority level ``workload-low`` has 100 of 245 shares of 600 seats; all agents are one user,
    so one flow, which is dealt 6 queues of 50). A list of pods takes up to 10 seats, whatever it
    selects (``list_work_estimator.go``). The times are assumptions.
    """

    seats: int = 245
    queue_places: int = 300
    queue_s: float = 15.0  # a quarter of the request timeout
    retry_after_s: float = 1.0
    list_seats: int = 10
    seconds: Mapping[Kind, float] = field(
        default_factory=lambda: {
            "list": 0.02,
            "list of etcd": 2.0,
            "watch": 0.002,
            "lease read": 0.005,
            "lease write": 0.01,
            "pod read": 0.005,
            "pod write": 0.01,
        }
    )
    bookmark_s: float = 60.0
    versions_per_s: float = 500.0  # at which the rest of the cluster writes


SLOW = Traits(seconds={kind: 60 * usual_s for kind, usual_s in Traits().seconds.items()})
"""As where etcd is in trouble: a write takes 0.6 s."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens."""

    nodes: int
    acting: int  # nodes on which something is confirmed at that time, and to be acted upon
    restart_s: float = 660.0  # when the server goes away: all agents have settled by then
    away_s: float = 30.0
    is_orderly: bool = False  # it ends its watches as if their time were over
    falters: int = 0  # so many times it goes away again for a second, a second after it is back
    after_s: float = 600.0  # for so long it is looked at from then on
    begun_within_s: float = 60.0  # all agents have begun
    limits: CullBudget = field(default_factory=CullBudget)
    seed: int = 1
    server: Traits = field(default_factory=Traits)
    watch_pace: Pace = field(default_factory=Pace)
    budget_pace: BudgetPace = field(default_factory=BudgetPace)

    @property
    def back_s(self) -> float:
        """When the server answers again."""
        return self.restart_s + self.away_s


@dataclass(frozen=True, slots=True)
class Acted:
    """One action that was done."""

    at_s: float
    node: str


@dataclass(slots=True)
class Seen:
    """What was seen of a run; times count from the moment at which the server is back."""

    scenario: Scenario
    asked: dict[Kind, Counter[int]] = field(default_factory=dict)  # by second
    refused: Counter[int] = field(default_factory=Counter)  # 429, by second
    conflicts: int = 0
    following_s: dict[str, float] = field(default_factory=dict)  # node -> its watch is back
    wants: int = 0  # tries to reserve
    tries: Counter[int] = field(default_factory=Counter)  # requests to write that one took
    won: int = 0
    full: int = 0  # reserve said no: there is no slot
    gave_up: Counter[str] = field(default_factory=Counter)  # by reason
    blind: int = 0  # had a place, and could not look at the pod: given back
    acted: list[Acted] = field(default_factory=list)
    most_slots: int = 0  # in the Lease at any time

    def peak_per_s(self, kinds: Sequence[Kind] | None = None) -> int:
        """The most requests within one second, once the server is back."""
        return max(self._by_second(kinds).values(), default=0)

    def rate_per_s(self, from_s: float, to_s: float, kinds: Sequence[Kind] | None = None) -> float:
        """Requests a second, refused ones counted, between two moments."""
        counted = self._by_second(kinds)
        asked = sum(counted[second] for second in range(int(from_s), int(to_s)))
        return asked / (to_s - from_s)

    def total(self, kind: Kind) -> int:
        """Requests of that kind since the server is back."""
        return sum(
            count for second, count in self.asked.get(kind, Counter()).items() if second >= 0
        )

    def following_after_s(self, share: float) -> float | None:
        """When that share of the watches was back; None: not at all."""
        times = sorted(self.following_s.values())
        needed = max(1, round(share * self.scenario.nodes))
        return times[needed - 1] if len(times) >= needed else None

    def spent_after_s(self) -> float | None:
        """When the last place of the first hour's budget was used."""
        limit = self.scenario.limits.per_cluster
        return self.acted[limit - 1].at_s if len(self.acted) >= limit else None

    def most_in_an_hour(self) -> int:
        """Actions within any hour of the run."""
        return max((len(window) for window in _hours(self.acted)), default=0)

    def most_of_a_node(self) -> int:
        """Actions of one node within any hour."""
        by_node: dict[str, list[Acted]] = {}
        for each in self.acted:
            by_node.setdefault(each.node, []).append(each)
        return max((len(w) for own in by_node.values() for w in _hours(own)), default=0)

    def _by_second(self, kinds: Sequence[Kind] | None) -> Counter[int]:
        counted: Counter[int] = Counter()
        for kind, by_second in self.asked.items():
            if kinds is None or kind in kinds:
                counted.update({s: count for s, count in by_second.items() if s >= 0})
        return counted


def _hours(acted: Sequence[Acted]) -> Iterator[list[Acted]]:
    """All that was done within an hour from each action on."""
    for first in acted:
        yield [each for each in acted if 0 <= each.at_s - first.at_s < HOUR_S]


def run(scenario: Scenario) -> Seen:
    """What is seen when that happens."""
    time = VirtualTime()
    seen = Seen(scenario)
    server = _Server(time, scenario, seen)
    chance = random.Random(scenario.seed)
    acting = set(chance.sample(range(scenario.nodes), scenario.acting))
    for number in range(scenario.nodes):
        agent = _Agent(f"n{number}", time, scenario, server, random.Random(chance.random()))
        agent.wants_to_act = number in acting
        starts_s = chance.uniform(0, scenario.begun_within_s)
        time.begin(agent.pods.run, starts_s)
        time.begin(agent.tick_for_ever, starts_s)
    time.after(scenario.restart_s, server.stop)
    time.after(scenario.back_s, server.start)
    for number in range(scenario.falters):
        time.after(scenario.back_s + 2 * number + 1, server.stop)
        time.after(scenario.back_s + 2 * number + 2, server.start)
    time.run(scenario.back_s + scenario.after_s)
    return seen


# The API server.


@dataclass(slots=True, eq=False)
class _Request:
    kind: Kind
    seats: int
    work: Callable[[], object]
    answered: Promise[object]


class _Server:
    """Answers when it has a seat free; away, it refuses connections and forgets who watched."""

    def __init__(self, time: VirtualTime, scenario: Scenario, seen: Seen) -> None:
        self.is_up = True
        self.watches: dict[Promise[str], None] = {}  # in their order: a run can be repeated
        self._time = time
        self._scenario = scenario
        self._traits = scenario.server
        self._seen = seen
        self._chance = random.Random(scenario.seed + 1)
        self._free_seats = self._traits.seats
        self._waiting: deque[_Request] = deque()
        self._under_way: dict[_Request, None] = {}
        self._writes = 0
        self._remembers_from = 0  # the version at which its watch cache begins
        self._lease: dict[str, Any] | None = None

    def stop(self) -> None:
        """Go away: all connections break; what was under way may have been written or not."""
        self.is_up = False
        for request in (*self._waiting, *self._under_way):
            if request in self._under_way and self._chance.random() < 0.5:
                _result_of(request.work)
            request.answered.keep(ApiError("connection", "the server went away"))
        self._waiting.clear()
        self._under_way.clear()
        self._free_seats = self._traits.seats
        for watch in list(self.watches):
            watch.keep("ended" if self._scenario.is_orderly else "lost")
        self.watches.clear()

    def start(self) -> None:
        """Come back, with a watch cache that knows nothing of what was before."""
        self.is_up = True
        self._remembers_from = self.version()

    def version(self) -> int:
        """The cluster's resource version."""
        return int(self._traits.versions_per_s * self._time.now_s) + self._writes

    def unix_s(self) -> float:
        """Its clock, to the second, as it is told in ``Date``."""
        return float(int(EPOCH_UNIX_S + self._time.now_s))

    def ask(self, kind: Kind, work: Callable[[], object], timeout_s: float) -> object:
        """What ``work`` returns, when its turn has come; raises ApiError."""
        if not self.is_up:
            self._time.sleep(0.001)
            raise ApiError("connection", "connection refused")
        second = self._since_back_s()
        self._seen.asked.setdefault(kind, Counter())[second] += 1
        seats = self._traits.list_seats if kind.startswith("list") else 1
        request = _Request(kind, seats, work, Promise(self._time))
        if self._free_seats >= seats and not self._waiting:
            self._seat(request)
        elif len(self._waiting) < self._traits.queue_places:
            self._waiting.append(request)
            self._time.after(self._traits.queue_s, lambda: self._turn_away(request))
        else:
            self._time.sleep(0.001)
            self._seen.refused[second] += 1
            raise self._refusal(429, self._traits.retry_after_s)
        answer = request.answered.value(timeout_s)
        if isinstance(answer, ApiError):
            raise answer
        if answer is None:
            raise ApiError("timeout", "no answer in time")
        return answer

    def _turn_away(self, request: _Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
            self._seen.refused[self._since_back_s()] += 1
            request.answered.keep(self._refusal(429, self._traits.retry_after_s))

    def _seat(self, request: _Request) -> None:
        self._free_seats -= request.seats
        self._under_way[request] = None
        took_s = self._traits.seconds[request.kind] * self._chance.uniform(0.5, 1.5)
        self._time.after(took_s, lambda: self._end(request))

    def _end(self, request: _Request) -> None:
        if request not in self._under_way:  # it went away meanwhile
            return
        del self._under_way[request]
        self._free_seats += request.seats
        request.answered.keep(_result_of(request.work))
        while self._waiting and self._free_seats >= self._waiting[0].seats:
            waiting = self._waiting.popleft()
            if not waiting.answered.is_over:  # else nobody waits for it any more
                self._seat(waiting)

    def _since_back_s(self) -> int:
        return int((self._time.now_s - self._scenario.back_s) // 1)

    def _refusal(self, status: int, retry_after_s: float | None = None) -> ApiError:
        return refusal(status, f"{status}", retry_after_s, self.unix_s())

    def note_watch(self, node: str) -> None:
        """Take note of when a node's watch was open again."""
        since_s = self._time.now_s - self._scenario.back_s
        if since_s >= 0:
            self._seen.following_s.setdefault(node, since_s)

    # What it holds.

    def pod_list(self) -> bytes:
        """The node's pods: none are needed here."""
        return msgspec.json.encode(
            {"kind": "PodList", "metadata": {"resourceVersion": str(self.version())}, "items": []}
        )

    def begin_watch(self, version: str) -> Promise[str]:
        """A watch from that version on; raises ApiError where it has been forgotten."""
        if int(version) < self._remembers_from:
            raise self._refusal(410)
        watch: Promise[str] = Promise(self._time)
        self.watches[watch] = None
        return watch

    def read_lease(self) -> bytes:
        """The Lease; raises ApiError where there is none."""
        if self._lease is None:
            raise self._refusal(404)
        return msgspec.json.encode(self._lease)

    def write_lease(self, body: bytes, *, is_new: bool) -> bytes:
        """Write it if it is still as it was read; raises ApiError."""
        lease = msgspec.json.decode(body, type=dict[str, Any])
        held = None if self._lease is None else _version_of(self._lease)
        if held != (None if is_new else _version_of(lease)):
            self._seen.conflicts += 1
            raise self._refusal(409)
        self._writes += 1
        lease["metadata"]["resourceVersion"] = str(self.version())
        self._lease = lease
        slots = msgspec.json.decode(lease["metadata"]["annotations"][IN_EARNEST])
        self._seen.most_slots = max(self._seen.most_slots, len(slots))
        return msgspec.json.encode(lease)


def _version_of(lease: Mapping[str, Any]) -> object:
    return lease["metadata"].get("resourceVersion")


def _result_of(work: Callable[[], object]) -> object:
    try:
        return work()
    except ApiError as error:
        return error


# What an agent sees of it.


class _Connection(Cluster):
    """The server as one agent reaches it, without a network."""

    def __init__(self, node: str, server: _Server, time: VirtualTime, traits: Traits) -> None:
        self._node = node
        self._server = server
        self._time = time
        self._traits = traits
        self.lease_writes = 0

    def renew_credentials(self) -> None:
        """They are always good."""

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_s: float = ANSWER_TIMEOUT_S,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Response:
        """As ``Cluster.open``."""
        del content_type, accept, headers
        query, server = query or {}, self._server
        if query.get("watch"):
            version = str(query["resourceVersion"])
            watch = server.ask("watch", lambda: server.begin_watch(version), timeout_s)
            assert isinstance(watch, Promise)
            server.note_watch(self._node)
            return _Watch(watch, server, self._time, self._traits, float(query["timeoutSeconds"]))
        kind, work = self._asked(method, path, query, body)
        answer = server.ask(kind, work, timeout_s)
        assert isinstance(answer, bytes)
        return _Whole(answer, server.unix_s())

    def _asked(
        self, method: str, path: str, query: Mapping[str, str | int], body: bytes | None
    ) -> tuple[Kind, Callable[[], object]]:
        server = self._server
        if "/leases" in path and method == "GET":
            return "lease read", server.read_lease
        if "/leases" in path:
            self.lease_writes += 1
            content = body or b""
            return "lease write", lambda: server.write_lease(content, is_new=method == "POST")
        if query:
            is_cheap = query.get("resourceVersion") == "0"
            return ("list" if is_cheap else "list of etcd"), server.pod_list
        return ("pod read" if method == "GET" else "pod write"), lambda: b"{}"


class _Whole(Response):
    """An answer that is there."""

    def __init__(self, content: bytes, date_unix_s: float) -> None:
        self._content = content
        self._date_unix_s = date_unix_s

    @property
    def date_unix_s(self) -> float | None:
        """As ``Response.date_unix_s``."""
        return self._date_unix_s

    def piece(self) -> bytes:
        """As ``Response.piece``."""
        content, self._content = self._content, b""
        return content

    def close(self) -> None:
        """Nothing is held."""


class _Watch(Response):
    """A watch: a bookmark now and then, until its time is over or the server goes away."""

    def __init__(
        self,
        lost: Promise[str],
        server: _Server,
        time: VirtualTime,
        traits: Traits,
        seconds: float,
    ) -> None:
        self._lost = lost
        self._api = server
        self._time = time
        self._traits = traits
        self._ends_s = time.now_s + seconds

    def piece(self) -> bytes:
        """As ``Response.piece``."""
        left_s = self._ends_s - self._time.now_s
        if left_s <= 0:
            return b""
        wait_s = min(left_s, self._traits.bookmark_s)
        how = self._lost.value(wait_s)
        if how == "lost":
            raise ApiError("connection", "the connection was cut")
        if how == "ended":
            return b""
        if wait_s == left_s:
            return b""
        self._renew()
        version = str(self._api.version())
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}
        return msgspec.json.encode(bookmark) + b"\n"

    def _renew(self) -> None:
        """A promise is waited for once."""
        self._api.watches.pop(self._lost, None)
        self._lost = Promise(self._time)
        self._api.watches[self._lost] = None

    def wait_for_pieces(self, timeout_s: float) -> None:
        """It never takes that long."""

    def close(self) -> None:
        """As ``Response.close``."""
        self._api.watches.pop(self._lost, None)


# An agent.


class _Agent:
    """The parts of one that ask the API server, and what moves them at each tick."""

    def __init__(
        self,
        node: str,
        time: VirtualTime,
        scenario: Scenario,
        server: _Server,
        chance: random.Random,
    ) -> None:
        self.wants_to_act = False
        self._node = node
        self._time = time
        self._scenario = scenario
        self._server = server
        self._seen = server._seen  # noqa: SLF001 - they belong together
        self._cluster = _Connection(node, server, time, scenario.server)
        closing = NeverSet(time)
        self.pods = PodWatch(
            self._cluster,
            node,
            keep=PodFields(),
            on_error=lambda _reason, _error: None,
            rng=chance,
            pace=scenario.watch_pace,
            clocks=Clocks(lambda: EPOCH_UNIX_S + time.now_s, time.monotonic_s),
            closing=closing,
        )
        self._budget = LeaseBudget(
            self._cluster,
            NAMESPACE,
            lambda: Culling(budget=scenario.limits),
            on_error=self._budget_failed,
            rng=chance,
            pace=scenario.budget_pace,
            monotonic_s=time.monotonic_s,
            closing=closing,
        )
        self._number = 0
        self._may_try_s = 0.0
        self._failed = ""

    def tick_for_ever(self) -> None:
        """One tick after the other; in a task of its own, as the culler is a thread."""
        interval_s = Config().interval
        while True:
            began_s = self._time.now_s
            self._tick()
            late_s = self._time.now_s - began_s
            self._time.sleep(interval_s - late_s % interval_s)  # what a tick missed is left out

    def _tick(self) -> None:
        is_confirmed = self.wants_to_act and self._time.now_s >= self._scenario.restart_s
        self._budget.refresh_if_due(self._time.now_s, is_needed=is_confirmed, dry_run=False)
        left = self._budget.left(dry_run=False)
        if is_confirmed and self.pods.is_following and left and self._time.now_s >= self._may_try_s:
            self._act()

    def _act(self) -> None:
        seen, pause_s = self._seen, Config().culling.pause
        self._may_try_s = self._time.now_s + pause_s
        self._number += 1
        record = _record(f"{self._node} {self._number}", self._node)
        before, self._failed = self._cluster.lease_writes, ""
        seen.wants += 1
        has_place = self._budget.reserve(record, Moment(0.0, 0.0, ""))
        seen.tries[self._cluster.lease_writes - before] += 1
        if not has_place:
            seen.full += not self._failed
            seen.gave_up[self._failed] += bool(self._failed)
            self._budget.give_back(record)
            return
        seen.won += 1
        try:
            self._cluster.call("GET", f"/api/v1/namespaces/x/pods/{self._node}")
        except ApiError:
            seen.blind += 1
            self._budget.give_back(record)
            return
        seen.acted.append(Acted(self._time.now_s - self._scenario.back_s, self._node))
        try:
            self._cluster.call("PATCH", f"/api/v1/namespaces/x/pods/{self._node}")
        except ApiError:
            return  # it counts: nobody knows whether it has happened

    def _budget_failed(self, reason: str, _error: Exception) -> None:
        self._failed = reason


def _record(id_: str, node: str) -> ActionRecord:
    return ActionRecord(
        id=id_,
        unix_s=0.0,
        monotonic_s=0.0,
        boot_id="",
        node=node,
        namespace="x",
        pod=node,
        pod_uid=id_,
        owner="",
        action=Action.LABEL,
        rung=0,
        dry_run=False,
        outcome=Outcome.PENDING,
    )
