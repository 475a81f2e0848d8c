"""The socket iterator on this machine's kernel, and its records without a kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import traffic
from benchmarks.networks import namespace_of
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import OpenSockets
from minerwatch.node import socket_iterator
from minerwatch.node.socket_iterator import ROW, NamespaceSockets, SocketIterator, SocketTable
from tests.conftest import Programs, needs_root
from tests.networks import two_networks
from tests.node.test_tcp_connections import connected
from tests.waiting import until

ME = os.getpid()
ESTABLISHED, SYN_SENT, CLOSE, LISTEN = 1, 2, 7, 10


@pytest.fixture
def iterator() -> Iterator[SocketIterator]:
    try:
        found = SocketIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"{error}: run it as root (it reads the kernel's sockets)")
    yield found
    found.close()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def sockets_of(iterator: SocketIterator, pid: int, at_s: float) -> OpenSockets:
    found = iterator.sockets_of(pid, at_s)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_connection_has_its_remote_end_and_what_it_carries(
    iterator: SocketIterator, opened: ExitStack, family: int, address: str
) -> None:
    server = opened.enter_context(socket.socket(family))
    try:
        server.bind((address, 0))
    except OSError:
        pytest.skip("no IPv6: run it where there is")
    server.listen()
    client = opened.enter_context(socket.socket(family))
    client.connect(server.getsockname())
    accepted = opened.enter_context(server.accept()[0])
    iterator.refresh(100.0)
    for _ in range(3):
        client.sendall(b"x" * 1000)
        assert accepted.recv(4096)
    accepted.sendall(b"y" * 500)
    assert client.recv(4096)
    end = server.getsockname()[:2]

    def carried() -> object:  # what was sent counts when the other end has acknowledged it
        iterator.refresh(3700.0)
        sockets = sockets_of(iterator, ME, 3700.0)
        (found,) = (c for c in sockets.connections if (c.address, c.port) == end)
        assert found.since_s == 100.0
        return found.bytes_per_hour == 3500.0 and found.segments_per_hour == 4.0

    until(carried)
    assert sockets_of(iterator, ME, 3700.0).accepts


def test_a_client_accepts_nothing(iterator: SocketIterator, programs: Programs) -> None:
    other = programs.start("other", busy=False)
    sockets = sockets_of(iterator, other.pid, 1.0)
    assert not sockets.accepts
    assert sockets.connections == ()


def test_what_others_opened_is_not_a_connection(
    iterator: SocketIterator, opened: ExitStack
) -> None:
    port = connected(opened, socket.AF_INET, "127.0.0.1")[1]
    ports = [each.port for each in sockets_of(iterator, ME, 1.0).connections]
    assert ports.count(port) == 1


@needs_root
def test_sockets_of_another_network_are_there_and_connects_in_vain(
    iterator: SocketIterator,
) -> None:
    with (
        two_networks() as found,
        found.running(found.client, "scanning: silent hosts, 64 at once", "300") as client,
    ):
        namespace = namespace_of(client.pid)

        def pending() -> NamespaceSockets | None:
            sockets = (iterator.by_namespace({namespace}) or {}).get(namespace, NamespaceSockets())
            return sockets if len(sockets.unanswered) > 32 else None

        sockets = until(pending)
        assert sockets is not None
        alone = [*iterator.unanswered(namespace, [client.pid])]
        hurried = SocketIterator(reads_cpu_s=0.0)
        once = [*hurried.unanswered(namespace, [client.pid])]
        hurried.close()
    assert {address[12:15] for _, address, _ in sockets.unanswered} == {bytes((198, 51, 100))}
    assert sockets.outbound == []
    assert not sockets.accepts
    assert len({inode for inode, _, _ in alone}) > 32
    assert len({inode for inode, _, _ in once}) == len(once) > 0


@needs_root
def test_raw_and_packet_sockets_are_counted(iterator: SocketIterator) -> None:
    table = iterator.table()
    assert table is not None
    namespace = namespace_of(ME)
    before = table.raw[namespace]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    ):
        table = iterator.table()
        assert table is not None
        assert table.raw[namespace] >= before + 2


# Records without a kernel.


def record(
    inode: int,
    pid: int = 7,
    *,
    state: int = ESTABLISHED,
    namespace: int = 1,
    local: int = 40_000,
    remote: tuple[str, int] = ("203.0.113.7", 443),
    data: tuple[int, int] = (0, 0),
    is_raw: bool = False,
) -> bytes:
    packed = ip_address(remote[0]).packed
    address = packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed
    received, segments = data
    return ROW.pack(
        inode, received, 0, segments, 0, namespace, pid, 0,
        local, remote[1], state, is_raw, 1, 0, address,
    )  # fmt: skip


def test_an_age_is_kept_and_a_rate_counts_from_it() -> None:
    starts = SocketTable(record(5, data=(900, 9))).starts({}, 100.0)
    later = SocketTable(record(5, data=(1900, 19)))
    starts = later.starts(starts, 3700.0)
    (found,) = later.sockets_of(7, starts, 3700.0).connections
    assert (found.since_s, found.bytes_per_hour, found.segments_per_hour) == (100.0, 1000.0, 10.0)
    assert SocketTable(b"").starts(starts, 3710.0) == {}


def test_a_connection_that_is_new_has_no_rate_yet() -> None:
    table = SocketTable(record(5))
    (found,) = table.sockets_of(7, table.starts({}, 1.0), 1.0).connections
    assert found.bytes_per_hour is None


def test_ports_are_those_of_one_namespace() -> None:
    listening = record(1, pid=8, state=LISTEN, namespace=2, local=40_000)
    table = SocketTable(listening + record(5))
    assert len(table.sockets_of(7, {}, 1.0).connections) == 1
    accepted = SocketTable(listening + record(5, namespace=2)).sockets_of(7, {}, 1.0)
    assert accepted.connections == ()
    assert accepted.accepts


def test_of_a_namespace_loopback_is_left_out() -> None:
    ends = ("127.0.0.1", "::1", "203.0.113.9", "2001:db8::9")
    table = SocketTable(b"".join(record(n, remote=(end, 80)) for n, end in enumerate(ends)))
    (found,) = table.of_namespaces({1}).values()
    assert [inode for inode, _, _ in found.outbound] == [2, 3]
    assert table.of_namespaces({9}) == {9: NamespaceSockets([])}


def test_a_connect_that_was_refused_counts_until_its_socket_is_closed() -> None:
    refused = record(5, state=CLOSE)
    unused = record(6, state=CLOSE, remote=("0.0.0.0", 0))
    table = SocketTable(refused + unused + record(7, state=SYN_SENT))
    assert [inode for inode, _, _ in table.unanswered[1]] == [5, 7]


def test_one_with_very_many_connections_does_not_displace_the_ages_of_others() -> None:
    crowd = b"".join(record(inode, pid=1) for inode in range(100, 100 + 40_000))
    table = SocketTable(crowd + record(5, pid=7))
    starts = table.starts({}, 1.0)
    assert 5 in starts
    assert len(starts) == 32_768
    assert len(table.sockets_of(1, starts, 1.0).connections) == 64


@given(st.lists(st.binary(min_size=ROW.size, max_size=ROW.size), max_size=8))
def test_no_records_stop_it(records: list[bytes]) -> None:
    table = SocketTable(b"".join(records))
    starts = table.starts({}, 1.0)
    for each in records:
        pid, namespace = ROW.unpack(each)[6], ROW.unpack(each)[5]
        table.sockets_of(pid, starts, 2.0)
        table.of_namespaces({namespace})
    assert len(table) == len(records)


class Program:
    """The program in the kernel, without a kernel: at first it reads the sockets of the tests."""

    def __init__(self, *_: object, **__: object) -> None:
        self.failures = {"unreadable": 0}
        self.content: list[bytes] | None = None
        self.asked: list[int] = []

    def pieces(self) -> Iterator[bytes]:
        if self.content is None:
            for fd in os.listdir("/proc/self/fd"):
                with suppress(OSError):  # that of the folder itself
                    yield record(os.fstat(int(fd)).st_ino, ME)
        elif not self.content:
            self.failures["unreadable"] += 1
        else:
            yield from self.content

    def pieces_of(self, pid: int) -> Iterator[bytes]:
        self.asked.append(pid)
        yield record(pid, pid, state=SYN_SENT)

    def close(self) -> None:
        pass


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    found = Program()
    monkeypatch.setattr(socket_iterator, "BpfIterator", lambda *_, **__: found)
    return found


def test_an_old_table_is_not_served_when_a_read_fails(program: Program) -> None:
    iterator = SocketIterator()
    program.content = [record(5)]
    assert iterator.sockets_of(7, 1.0) is not None
    program.content = []
    assert iterator.sockets_of(7, 10.0) is None
    assert iterator.by_namespace({1}) is None
    program.content = [record(5)]
    sockets = iterator.sockets_of(7, 20.0)
    assert sockets is not None
    assert sockets.connections[0].since_s == 1.0


def test_sockets_beyond_the_bound_are_left_out_and_counted(program: Program) -> None:
    iterator = SocketIterator()
    program.content = [1000 * record(5)] * 140
    table = iterator.table()
    assert table is not None
    assert len(table) == 131_072
    assert iterator.failures["too_many"] == 1


def test_of_many_processes_some_are_read_at_random(program: Program) -> None:
    iterator = SocketIterator(reads_cpu_s=10.0)
    ends = [*iterator.unanswered(1, range(5_000_000, 5_000_100))]
    assert len({inode for inode, _, _ in ends}) == 32
    assert len({pid for pid in program.asked if pid != ME}) == 32


@needs_root
@pytest.mark.parametrize(("times", "is_read"), [(64, True), (65, False)])
def test_objects_without_records_do_not_end_a_read(
    iterator: SocketIterator, monkeypatch: pytest.MonkeyPatch, times: int, is_read: bool
) -> None:
    """The kernel returns EAGAIN after a million open files that are no sockets."""
    read, left = os.read, times

    def read_late(fd: int, most: int) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            raise BlockingIOError
        return read(fd, most)

    monkeypatch.setattr(os, "read", read_late)
    table = iterator.table()
    monkeypatch.undo()
    assert (table is not None) is is_read


def test_the_stand_in_for_the_internet_leads_nowhere() -> None:
    """Its addresses are for documentation (RFC 5737)."""
    ranges = ("192.0.2.", "198.51.100.", "203.0.113.")
    ends = (traffic.address(), traffic.silent(), traffic.CLIENT)
    assert all(end.startswith(ranges) for end in ends)
