from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

import pytest

from minerwatch.node.pod_sockets import PodSockets, Watched
from minerwatch.node.socket_iterator import NamespaceSockets, RemoteEnd
from tests.waiting import threads, threads_since, until


def v4(*numbers: int) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + bytes(numbers)


class Source:
    """What each look shows."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.sockets: NamespaceSockets | None = NamespaceSockets()
        self.alone: list[RemoteEnd] = []
        self.asked: list[int] = []
        self.is_closed = False

    def by_namespace(self, namespaces: Set[int]) -> dict[int, NamespaceSockets] | None:
        return None if self.sockets is None else dict.fromkeys(namespaces, self.sockets)

    def unanswered(self, namespace: int, pids: Sequence[int]) -> list[RemoteEnd]:
        self.asked.append(namespace)
        return self.alone

    def close(self) -> None:
        self.is_closed = True


class Closed:
    """Ends of closed connections, the same for each process."""

    def __init__(self, *ends: tuple[bytes, int]) -> None:
        self.failures = {"too_many": 3}
        self.ends = [*ends]
        self.asked: list[int] = []

    def closed(self, pid: int) -> list[tuple[bytes, int]]:
        self.asked.append(pid)
        return self.ends


FAILING, CALM = Watched((7,), has_failures=True), Watched((7,), has_failures=False)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def sockets(source: Source) -> Iterator[PodSockets]:
    """Without its thread: looked at by hand."""
    found = PodSockets(source)
    yield found
    found.close()


def looked(sockets: PodSockets, how: Watched, *at_s: float) -> None:
    sockets.watch({1: how})
    for each in at_s:
        sockets.read_watched(each)


@pytest.mark.parametrize("count", [3, 2000])
def test_connects_that_lead_elsewhere_each_time(
    source: Source, sockets: PodSockets, count: int
) -> None:
    source.alone = [(n, v4(203, 0, 113, n % 250), 22 + n % 2) for n in range(count)]
    looked(sockets, FAILING, 1.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.unanswered.connections == min(count, 250 * 4)
    assert len(seen.unanswered.addresses) <= 8
    assert set(seen.unanswered.ports) == {22, 23}


def test_a_server_that_is_down_is_one_end_however_often(
    source: Source, sockets: PodSockets
) -> None:
    for inode in range(50):
        source.alone = [(inode, v4(203, 0, 113, 7), 5432)]
        looked(sockets, FAILING, float(inode))
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.unanswered.ends == 1
    assert seen.unanswered.spread == 1 / 4


def test_decoys_to_one_end_do_not_hide_the_others(source: Source, sockets: PodSockets) -> None:
    scanned = [(n, v4(203, 0, 113, n), 22) for n in range(50)]
    source.alone = [*scanned, *((1000 + n, v4(198, 51, 100, 7), 80) for n in range(4000))]
    looked(sockets, FAILING, 1.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.unanswered.ends == 51
    assert seen.unanswered.spread == 51 / 54


def test_connects_that_succeed_or_are_old_do_not_count(source: Source, sockets: PodSockets) -> None:
    source.alone = [(n, v4(203, 0, 113, n), 22) for n in range(9)]
    looked(sockets, FAILING, 1.0)
    source.sockets, source.alone = NamespaceSockets(source.alone[:4]), []
    counts = []
    for at_s in (2.0, 60.0, 62.0):
        looked(sockets, FAILING, at_s)
        seen = sockets.seen(1)
        assert seen is not None
        counts.append(seen.unanswered.connections)
    assert counts == [5, 5, 0]


def test_ends_of_closed_connections_are_those_of_the_last_minute() -> None:
    ends = [(v4(203, 0, 113, n), 22) for n in range(5)]
    closed = Closed(*ends, *(10 * [ends[0]]), (v4(127, 0, 0, 1), 22))
    sockets = PodSockets(Source(), closed=closed)
    touching = replace(FAILING, closes_at_once=True)
    looked(sockets, FAILING, 1.0)
    looked(sockets, touching, 2.0, 3.0, 11.0)
    seen = sockets.seen(1)
    assert closed.asked == [7]
    assert seen is not None
    assert (seen.closed.ends, seen.closed.connections) == (5, 4 + 4)
    del closed.ends[1:]
    looked(sockets, touching, 13.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.closed.ends == 1


def test_closed_connections_are_read_of_one_namespace_at_a_look() -> None:
    closed = Closed()
    sockets = PodSockets(Source(), closed=closed)
    sockets.watch({n: Watched((n,), has_failures=True, closes_at_once=True) for n in range(5)})
    for number in range(5):
        sockets.read_watched(1.0 + number / 10)
    assert sorted(closed.asked) == [*range(5)]


def test_failures_are_those_of_both_sources(source: Source) -> None:
    source.failures = {"unreadable": 2}
    sockets = PodSockets(source, closed=Closed())
    assert [*sockets.failures()] == [("unreadable", 2), ("too_many", 3)]


def test_sockets_that_cannot_be_read_are_not_none(source: Source, sockets: PodSockets) -> None:
    source.sockets, source.alone = None, [(5, v4(203, 0, 113, 7), 22)]
    looked(sockets, FAILING, 1.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert (seen.unanswered.connections, seen.peers, seen.accepts) == (1, None, None)
    source.sockets = NamespaceSockets([(9, v4(203, 0, 113, 7), 22)], accepts=True)
    looked(sockets, FAILING, 2.0)
    source.sockets = None
    looked(sockets, FAILING, 3.0)
    seen = sockets.seen(1, 3.0)
    assert seen is not None
    assert (seen.short_sessions.connections, seen.peers, seen.accepts) == (0, 1, True)


def test_one_socket_that_waits_for_long_is_one_connect(source: Source, sockets: PodSockets) -> None:
    source.sockets = NamespaceSockets(unanswered=[(5, v4(203, 0, 113, 7), 443)])
    looked(sockets, CALM, 1.0, 2.0, 3.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.unanswered.connections == 1
    assert seen.unanswered.spread is None


def test_loopback_does_not_count(source: Source, sockets: PodSockets) -> None:
    source.alone = [(n, v4(127, 0, 0, 1), n) for n in range(9)] + [(10, b"\0" * 15 + b"\1", 80)]
    looked(sockets, FAILING, 1.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.unanswered.connections == 0


def test_short_sessions_to_a_login_service(source: Source, sockets: PodSockets) -> None:
    for number in range(10):
        source.sockets = NamespaceSockets([(number, v4(203, 0, 113, 7), 22)])
        looked(sockets, CALM, float(number))
    seen, later = sockets.seen(1, 10.0), sockets.seen(1, 100.0)
    assert seen is not None
    assert later is not None
    # The first was open before the watch began, and the last still is.
    assert (seen.short_sessions.connections, seen.short_sessions.ports) == (8, (22,))
    assert later.short_sessions.connections == 0


def test_a_long_session_is_none_of_them(source: Source, sockets: PodSockets) -> None:
    looked(sockets, CALM, 0.0)
    source.sockets = NamespaceSockets([(5, v4(203, 0, 113, 7), 22)])
    looked(sockets, CALM, 1.0, 50.0)
    source.sockets = NamespaceSockets()
    looked(sockets, CALM, 60.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.short_sessions.connections == 0


def test_peers_and_whether_another_host_opened_a_connection(
    source: Source, sockets: PodSockets
) -> None:
    ends = [(n, v4(203, 0, 113, n % 3), 443) for n in range(9)]
    source.sockets = NamespaceSockets(ends, accepts=True)
    looked(sockets, CALM, 1.0)
    seen = sockets.seen(1)
    assert seen is not None
    assert seen.peers == 3
    assert seen.accepts


def test_inside_the_cluster_are_no_peers_and_databases_no_logins(
    source: Source, sockets: PodSockets
) -> None:
    inside, outside = v4(10, 0, 0, 7), v4(203, 0, 113, 7)
    for number in range(5):
        ends = [(inside, 5432), (inside, 22), (outside, 6379)]
        source.sockets = NamespaceSockets([(10 * number + n, *end) for n, end in enumerate(ends)])
        looked(sockets, CALM, float(number))
    seen = sockets.seen(1, 5.0)
    assert seen is not None
    assert seen.peers == 1
    assert set(seen.short_sessions.ports) == {22, 6379}


def test_a_server_may_open_short_connections_to_its_database_but_no_logins(
    source: Source, sockets: PodSockets
) -> None:
    outside = v4(203, 0, 113, 7)
    for number in range(5):
        ends = [(10 * number + n, outside, port) for n, port in enumerate((22, 5432))]
        source.sockets = NamespaceSockets(ends, accepts=True)
        looked(sockets, CALM, float(number))
    seen = sockets.seen(1, 5.0)
    assert seen is not None
    assert seen.short_sessions.ports == (22,)


def test_where_logins_begin_the_next_look_comes_soon(source: Source, sockets: PodSockets) -> None:
    looked(sockets, CALM, 0.0)
    source.sockets = NamespaceSockets([(n, v4(203, 0, 113, 7), 22) for n in range(9)])
    assert sockets.read_watched(1.0) <= 1.5
    assert sockets.read_watched(2.0) >= 10


def test_only_where_connects_fail_is_it_looked_at_often(
    source: Source, sockets: PodSockets
) -> None:
    looked(sockets, CALM, 1.0)
    assert source.asked == []
    looked(sockets, FAILING, 2.0)
    assert set(source.asked) == {1}


def test_what_is_not_watched_is_forgotten(source: Source, sockets: PodSockets) -> None:
    source.alone = [(n, v4(203, 0, 113, n), 22) for n in range(9)]
    looked(sockets, FAILING, 1.0)
    sockets.watch({2: FAILING})
    assert sockets.seen(1) is None


def test_a_namespace_is_unknown_before_the_first_look(sockets: PodSockets) -> None:
    assert sockets.seen(1) is None


def test_closing_ends_the_thread_and_the_source(source: Source) -> None:
    before = threads()
    sockets = PodSockets(source).start()
    sockets.watch({1: FAILING})
    until(lambda: source.asked)
    sockets.close()
    until(lambda: not threads_since(before, "pod_network"))
    assert source.is_closed
