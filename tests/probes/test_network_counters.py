from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import networks as bench
from benchmarks import traffic
from benchmarks.neighbours import UNPROVABLE
from minerwatch.model import Abuse, ContainerKey, Facts, Level
from minerwatch.network_totals import DeviceCounters, NetworkCounters
from minerwatch.node.network_counters import CounterReader
from minerwatch.node.pod_sockets import PodSockets
from minerwatch.probes.network_counters import NetworkUser, PodNetworks
from tests import shipped
from tests.conftest import needs_root
from tests.networks import two_networks
from tests.node.test_pod_sockets import Closed, Source
from tests.waiting import PATIENCE_S

HOST, POD = 1, 2
A, B = ContainerKey("/a", 1), ContainerKey("/b", 2)


class Counters(CounterReader):
    """Counters that tests set; all processes are in the pod's namespace, but for those named."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.failures = {}
        self.namespaces: dict[int, int | None] = {1: HOST}
        self.sent = self.connects = self.refused = self.ip_received = 0
        self.raw = 0
        self.read: list[int] = []

    def namespace(self, pid: int) -> int | None:
        return self.namespaces.get(pid, POD)

    def devices(self, pid: int, at_s: float) -> DeviceCounters | None:
        return DeviceCounters(at_s, 0, self.sent, self.sent, self.sent, 0, 0)

    def protocols(
        self, pid: int, devices: DeviceCounters, before: NetworkCounters | None = None
    ) -> NetworkCounters | None:
        self.read.append(pid)
        return NetworkCounters(
            devices, self.connects, self.refused, self.connects, 0, 0, 0, self.connects,
            ip_received=self.ip_received,
        )  # fmt: skip

    def raw_sockets(self, pid: int) -> int:
        return self.raw

    def connect(self, count: int, *, refused: int = 0) -> None:
        self.sent += count
        self.connects += count
        self.refused += refused


@pytest.fixture
def counters() -> Counters:
    return Counters()


def user(key: ContainerKey = A, cpu_s: float = 1.0, pids: tuple[int, ...] = (7,)) -> NetworkUser:
    return NetworkUser(key, "pod", cpu_s, pids, pids[0])


def ticked(
    pods: PodNetworks, each: Callable[[], object], *users: NetworkUser, ticks: int = 3
) -> None:
    for number in range(ticks):
        each()
        pods.tick(users, 10.0 * (number + 1))


def test_a_busy_network_becomes_facts_at_the_second_reading(counters: Counters) -> None:
    pods = PodNetworks(counters)
    counters.connect(300, refused=300)
    pods.tick([user()], 10.0)
    assert pods.facts(A) == {}
    counters.connect(300, refused=300)
    pods.tick([user()], 20.0)
    facts = pods.facts(A)
    assert facts["ConnectsPerSecond"] == 30.0
    assert facts["FailedConnectShare"] == 1.0
    assert pods.is_notable(A)


def test_of_a_quiet_network_protocols_are_read_once(counters: Counters) -> None:
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(90), user(), ticks=6)
    assert pods.facts(A) == {}
    assert len(counters.read) == 1


def test_quiet_networks_are_read_in_turns() -> None:
    class Watched(Worlds):
        def devices(self, pid: int, at_s: float) -> DeviceCounters | None:
            self.read.append(pid)
            return super().devices(pid, at_s)

    counters = Watched()
    pids = range(10, 20)
    counters.namespaces |= {pid: 100 + pid for pid in pids}
    users = [NetworkUser(ContainerKey(f"/{p}", p), p, 1.0, (p,), p) for p in pids]
    pods = PodNetworks(counters)
    ticked(pods, lambda: None, *users, ticks=3)
    counters.read.clear()
    pods.tick(users, 40.0)
    first = set(counters.read)
    pods.tick(users, 50.0)
    assert len(first) == 5
    assert sorted(counters.read) == [*pids]


def test_long_ticks_have_facts(counters: Counters) -> None:
    pods = PodNetworks(counters)
    for number in range(3):
        counters.connect(2400)
        pods.tick([user()], 120.0 * number)
    assert pods.facts(A)["ConnectsPerSecond"] == 20.0


def test_a_busy_network_that_does_nothing_notable_is_read_every_other_time() -> None:
    class Served(Counters):
        def protocols(
            self, pid: int, devices: DeviceCounters, before: NetworkCounters | None = None
        ) -> NetworkCounters | None:
            self.read.append(pid)
            return NetworkCounters(devices, 0, 0, 0, 0, 0, 0, self.sent)

    counters = Served()

    def serve() -> None:
        counters.sent += 5000

    ticked(PodNetworks(counters), serve, user(), ticks=10)
    assert len(counters.read) == 6


def test_what_was_sent_slowly_before_is_not_counted_as_sent_at_once(counters: Counters) -> None:
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(90), user(), ticks=100)
    rates = []
    for at_s in (1010.0, 1020.0, 1030.0):
        counters.connect(200)
        pods.tick([user()], at_s)
        rates.append(pods.facts(A).get("ConnectsPerSecond"))
    assert rates == [None, None, 20.0]


def test_the_hosts_network_is_left_out(counters: Counters) -> None:
    counters.namespaces[7] = HOST
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(300), user(), user(B, pids=(8,)))
    assert pods.facts(A) == {}
    assert set(counters.read) == {8}
    assert pods.host_users == 1
    pods.tick([user(B, pids=(8,))], 1000.0)
    assert pods.host_users == 0


@pytest.mark.parametrize(("threads", "connects"), [(HOST, 0.0), (POD, 0.0), (None, 0.0), (3, 30.0)])
def test_where_pid_1_cannot_be_asked_kernel_threads_are_in_the_hosts_network(
    threads: int | None, connects: float
) -> None:
    counters = Counters()
    counters.namespaces = {1: None, 2: threads, 7: HOST if threads == HOST else POD}
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(300), user())
    assert pods.facts(A).get("ConnectsPerSecond", 0.0) == connects


def test_an_idle_neighbour_in_the_pod_is_not_blamed(counters: Counters) -> None:
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(300), user(), user(B, cpu_s=0.01, pids=(8,)))
    assert pods.facts(A)
    assert pods.facts(B) == {}


def test_a_scan_split_over_many_containers_is_found_in_those_that_use_most(
    counters: Counters,
) -> None:
    pods = PodNetworks(counters)
    keys = [ContainerKey(f"/{n}", n) for n in range(10, 20)]
    ticked(pods, lambda: counters.connect(300), *(user(key, cpu_s=0.1) for key in keys))
    assert all(pods.facts(key)["ConnectsPerSecond"] == 30.0 for key in keys)


class Worlds(Counters):
    """Each namespace has counters of its own, kept by the process that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int | None, Counters] = {}

    def devices(self, pid: int, at_s: float) -> DeviceCounters | None:
        return self._own(pid).devices(pid, at_s)

    def protocols(
        self, pid: int, devices: DeviceCounters, before: NetworkCounters | None = None
    ) -> NetworkCounters | None:
        return self._own(pid).protocols(pid, devices, before)

    def _own(self, pid: int) -> Counters:
        return self.of.setdefault(self.namespaces.get(pid, POD), Counters())


def nested(*pids: int) -> tuple[Worlds, NetworkUser]:
    """Return a pod of which these processes have namespaces of their own."""
    worlds = Worlds()
    worlds.namespaces |= {pid: 100 + pid for pid in pids}
    return worlds, NetworkUser(A, "pod", 1.0, [7, *pids], first_pid=7)


@pytest.mark.parametrize("scanning", [POD, 108])
def test_busy_namespaces_beside_it_hide_no_scan(scanning: int) -> None:
    worlds, pod = nested(8, *range(20, 30))
    pods = PodNetworks(worlds)
    shares = []
    for number in range(200):
        for inode in (POD, 108, *range(120, 130)):
            own = worlds.of.setdefault(inode, Counters())
            own.connect(900, refused=900 if inode == scanning else 0)
        pods.tick([pod], 10.0 * number)
        shares.append(pods.facts(A).get("FailedConnectShare"))
    found = shares.index(1.0)
    assert set(shares[found:]) == {1.0}


def test_a_process_that_hides_in_a_network_of_its_own_hides_nothing(counters: Counters) -> None:
    """The sandbox's process is in the pod's namespace, whatever the others do."""
    counters.namespaces[8] = 99
    pods = PodNetworks(counters)
    hidden = NetworkUser(A, "pod", 1.0, (8,), first_pid=7)
    ticked(pods, lambda: counters.connect(300), hidden)
    assert pods.facts(A)["ConnectsPerSecond"] == 30.0


def test_namespaces_of_one_pod_are_bounded(counters: Counters) -> None:
    pods = PodNetworks(counters)
    for pid in range(100, 200):
        counters.namespaces[pid] = pid
        pods.tick([NetworkUser(A, "pod", 1.0, (pid,), first_pid=7)], 10.0)
    assert len(set(counters.read)) == 32 + 1  # nested ones, and the pod's own


def test_idle_namespaces_make_room_for_one_that_scans(counters: Counters) -> None:
    pods = PodNetworks(counters)
    for pid in range(100, 140):
        counters.namespaces[pid] = pid
        pods.tick([NetworkUser(A, "pod", 1.0, (pid,), first_pid=7)], float(pid) / 10)
    scans = NetworkUser(A, "pod", 1.0, (200,), first_pid=300)
    counters.namespaces |= {200: 200, 300: HOST}
    ticked(pods, lambda: counters.connect(300), scans)
    assert pods.facts(A)["ConnectsPerSecond"] == 30.0


def test_an_idle_namespace_that_is_read_now_makes_no_room(counters: Counters) -> None:
    pods = PodNetworks(counters)
    counters.namespaces |= {pid: pid for pid in range(100, 140)}
    nested = [NetworkUser(A, "pod", 1.0, (pid,), first_pid=7) for pid in range(100, 140)]
    pods.tick(nested, 10.0)
    pods.tick([nested[0], nested[33]], 20.0)
    assert len(set(counters.read)) == 34


def test_a_container_that_worked_long_ago_does_not_hide_another(counters: Counters) -> None:
    pods = PodNetworks(counters)
    crowd = [user(ContainerKey(f"/{n}", n), cpu_s=500.0) for n in range(10, 20)]
    ticked(pods, lambda: counters.connect(300), *crowd)
    for number in range(3, 40):
        counters.connect(300)
        pods.tick([user()], 10.0 * (number + 1))
    assert pods.facts(A)


def test_the_pods_own_namespace_has_room_however_many_it_makes(counters: Counters) -> None:
    pods = PodNetworks(counters)
    for pid in range(100, 200):
        counters.namespaces[pid] = pid
        pods.tick([NetworkUser(A, "pod", 1.0, (pid,), pid)], 10.0)
    ticked(pods, lambda: counters.connect(300), user())
    assert pods.facts(A)["ConnectsPerSecond"] == 30.0


def test_a_scan_that_rests_every_other_tick_has_facts_all_the_time(counters: Counters) -> None:
    pods = PodNetworks(counters)
    for number in range(12):
        if number % 2:
            counters.connect(600, refused=600)
        pods.tick([user(cpu_s=number % 2)], 10.0 * number)
        if number > 2:
            rate = pods.facts(A)["ConnectsPerSecond"]
            assert isinstance(rate, float)
            assert rate >= 20
            assert A in pods.recent()


def test_raw_sockets_are_counted_if_raw_packets_are_sent(counters: Counters) -> None:
    counters.raw = 2
    pods = PodNetworks(counters)

    def send() -> None:
        counters.sent += 1000
        counters.ip_received += 1000

    ticked(pods, send, user())
    facts = pods.facts(A)
    assert facts["RawPacketsPerSecond"] == 100.0
    assert facts["RawSocketCount"] == 2


@pytest.mark.parametrize(("refused", "asked"), [(0, [7]), (300, [])])
def test_closed_connections_are_read_where_connects_bring_nothing_and_succeed(
    counters: Counters, refused: int, asked: list[int]
) -> None:
    """To read them takes time, in which connects that fail are not seen."""
    closed = Closed()
    sockets = PodSockets(Source(), closed=closed)
    pods = PodNetworks(counters, sockets)
    ticked(pods, lambda: counters.connect(300, refused=refused), user())
    sockets.read_watched(1.0)
    assert closed.asked == asked
    assert ("too_many", 3) in pods.failures()


def test_a_reading_that_fails_starts_over(counters: Counters) -> None:
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(300), user())
    assert pods.facts(A)

    class Gone(Counters):
        def devices(self, pid: int, at_s: float) -> DeviceCounters | None:
            return None

    pods = PodNetworks(Gone())
    ticked(pods, lambda: None, user())
    assert pods.facts(A) == {}


def test_a_container_that_did_not_run_has_no_facts(counters: Counters) -> None:
    pods = PodNetworks(counters)
    ticked(pods, lambda: counters.connect(300), user())
    pods.tick([], 40.0)
    assert pods.facts(A) == {}
    assert not pods.recent()


# Real traffic, between two network namespaces.


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "abuse"),
    [
        ("scanning: closed ports, 30 ms away", Abuse.SCANNING),
        ("scanning: silent hosts, 64 at once", Abuse.SCANNING),
        ("flooding: datagrams", Abuse.FLOODING),
    ],
)
def test_scans_and_floods_are_likely(case: str, abuse: Abuse) -> None:
    def is_likely(facts: Facts) -> bool:
        scores = bench.found_on(shipped.matcher(), facts)
        return Level.of(scores.get(abuse, 0.0)) >= Level.LIKELY

    with two_networks() as found:
        facts = bench.facts_of(found, case, PATIENCE_S, is_likely, tick_s=0.5)
    assert is_likely(facts), [*facts.items()]


@pytest.mark.parametrize(
    "facts",
    [
        # fifty workers that retry a database on this node, of whose connects none was seen
        {
            "ConnectsPerSecond": 27.0,
            "FailedConnectShare": 1.0,
            "SegmentsPerConnect": 1.0,
            "LoopbackPacketsPerSecond": 0.0,
        },
        # gVisor sends everything by a packet socket
        {"RawPacketsPerSecond": 900.0, "RawSocketCount": 1},
        {"RawPacketsPerSecond": 9000.0, "RawSocketCount": 1},
    ],
)
def test_what_innocent_programs_do_too_is_suspicious_only(facts: Facts) -> None:
    (score,) = bench.found_on(shipped.matcher(), facts).values()
    assert Level.of(score) is Level.SUSPICIOUS


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "scanning: SYN by a raw socket",
        "scanning: SYN by a packet socket",
        "scanning: datagrams to closed ports",
    ],
)
def test_what_a_neighbour_or_a_sandbox_may_cause_is_suspicious(case: str) -> None:
    def is_suspicious(facts: Facts) -> bool:
        scores = bench.found_on(shipped.matcher(), facts)
        return Level.of(scores.get(Abuse.SCANNING, 0.0)) is Level.SUSPICIOUS

    with two_networks() as found:
        facts = bench.facts_of(found, case, PATIENCE_S, is_suspicious, tick_s=0.5)
    assert is_suspicious(facts), [*facts.items()]


@needs_root
@pytest.mark.nightly
@pytest.mark.parametrize("case", [each for each in traffic.INNOCENT if each != UNPROVABLE])
def test_ordinary_programs_are_clear(case: str) -> None:
    with two_networks() as found:
        facts = bench.facts_of(found, case, bench.duration_s(case, 20.0))
    assert bench.found_on(shipped.matcher(), facts) == {}, facts
