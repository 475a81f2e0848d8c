"""First words of real connections in network namespaces, and of made ones without a kernel."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from benchmarks.bridge import (
    BY_VLAN_OF_POD,
    BY_VLAN_OF_UPLINK,
    PODS,
    PORT,
    WORLD,
    WORLD6,
    Bridge,
    add_vlans,
    bridge,
    in_namespace,
)
from benchmarks.networks import NoNetworksError
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Facts, ProcessId
from minerwatch.node.bpf_iterator import BpfIterator
from minerwatch.node.first_words import Packet, PacketReader
from minerwatch.node.network_links import NetworkLinks
from minerwatch.node.socket_iterator import ROW, ConnectionStart, Holder, SocketIterator
from minerwatch.probes.first_words import FirstWordsProbe, WantedNames
from tests.conftest import needs_root
from tests.node.test_packet_parser import LOGIN, SUBSCRIBE, hello, packet
from tests.shipped import book
from tests.waiting import until

POOL = "xmr-eu1.nanopool.org"
INNOCENTS: dict[str, bytes | str] = {
    "a web site": b"GET / HTTP/1.1\r\nHost: mining.example\r\n\r\n",
    "a websocket": b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "Postgres": b"\0\0\0\x29\0\3\0\0user\0mining.subscribe\0database\0x\0\0",
    "Redis": b"*2\r\n$4\r\nAUTH\r\n$5\r\nlogin\r\n",
    "MQTT": b"\x10\x18\0\4MQTT\4\2\0\x3c\0\x0cmining.hello",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "NATS": b'CONNECT {"verbose":false,"user":"login","pass":"x"}\r\n',
    "a log": b'{"log":"mining.subscribe","stream":"stdout"}\n',
    "another login": b'{"method":"login","user":"alice","password":"secret"}',
    "JSON-RPC": b'{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}',
    "a site by TLS": "tls:www.example.org",
    "in the middle": b"HELLO\n",
}


@pytest.fixture(scope="module")
def node() -> Iterator[Bridge]:
    try:
        with bridge() as found:
            yield found
    except NoNetworksError as error:
        pytest.skip(f"{error}: run it as root")


@pytest.fixture(scope="module")
def vlans(node: Bridge) -> Bridge:
    try:
        add_vlans(node)
    except NoNetworksError as error:
        pytest.skip(f"{error}: run it on a kernel with CONFIG_VLAN_8021Q")
    return node


class Seen(PacketReader):
    """Packets that reach Python."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Packet] = []

    def read(self, limit: int) -> Iterator[Packet]:
        for each in super().read(limit):
            self.seen.append(each)
            yield each


class Talk:
    """The probe on the packets of a host."""

    def __init__(self, host: str) -> None:
        try:
            self.sockets = SocketIterator()
        except SourceUnavailableError as error:
            pytest.skip(f"{error}: run it as root (it reads the kernel's sockets)")
        self.packets = in_namespace(host, Seen)
        links = in_namespace(host, NetworkLinks)
        self.probe = FirstWordsProbe(self.packets, self.sockets, links)
        self.probe.use(book().rules)

    def facts(self, pid: int) -> Facts:
        """The facts about a process, once there are any."""

        def known() -> Facts:
            self.probe.read_packets(time.monotonic())
            found = [each for each in self.probe.processes() if each.pid == pid]
            return self.probe.facts(found[0]) if found else {}

        return until(known, lambda: f"{dict(self.probe.failures())}")

    def count(self, reason: str) -> int:
        return dict(self.probe.failures())[reason]


@pytest.fixture
def talk(node: Bridge) -> Iterator[Talk]:
    found = Talk(node.host)
    yield found
    found.probe.close()


@needs_root
@pytest.mark.parametrize("pod", [0, None])
@pytest.mark.parametrize("host", [WORLD, WORLD6])
def test_a_login_is_that_of_its_process_and_counts_once(
    node: Bridge, talk: Talk, host: str, pod: int | None
) -> None:
    """Of a pod, and of the host itself."""
    with node.saying(pod, LOGIN, host=host) as client:
        assert talk.facts(client.pid) == {"PoolWords": ("login",)}
        assert len(talk.probe.processes()) == 1
        for _ in range(5):  # copies after NAT, which come later
            talk.probe.read_packets(time.monotonic() + 10)
        assert (talk.count("unplaced"), talk.count("crowded"), talk.count("left")) == (0, 0, 0)


@needs_root
def test_a_pools_name_in_a_client_hello(node: Bridge, talk: Talk) -> None:
    with node.saying(0, f"tls:{POOL}") as client:
        assert talk.facts(client.pid) == {
            "ServerName": (POOL,),
            "DestinationHostname": (POOL,),
        }


@needs_root
def test_innocents_do_not_reach_the_agent_or_say_nothing(node: Bridge, talk: Talk) -> None:
    with ExitStack() as stack:
        reached = set()
        for name, words in INNOCENTS.items():
            later = SUBSCRIBE if name == "in the middle" else b"{}"
            before = len(talk.packets.seen)
            stack.enter_context(node.saying(1, words, later))
            talk.probe.read_packets(1.0)
            if len(talk.packets.seen) > before:
                reached.add(name)
        assert reached == {
            *("a log", "another login", "JSON-RPC", "a site by TLS", "in the middle")
        }
        marker = stack.enter_context(node.saying(0, SUBSCRIBE))
        assert talk.facts(marker.pid) == {"PoolWords": ("mining.subscribe",)}
        assert [each.pid for each in talk.probe.processes()] == [marker.pid]


@needs_root
def test_words_are_forgotten_some_time_after_the_connection_was_closed(
    node: Bridge, talk: Talk
) -> None:
    with node.saying(0, SUBSCRIBE) as client:
        talk.facts(client.pid)
        now_s = time.monotonic()
        talk.probe.read_packets(now_s + 3600)
        assert talk.probe.processes()
    talk.probe.read_packets(now_s + 3700)
    assert talk.probe.processes()
    talk.probe.read_packets(now_s + 3600 + 700)
    assert not talk.probe.processes()


def frame(content: bytes, tag: bytes = b"") -> bytes:
    kind = b"\x86\xdd" if content[0] >> 4 == 6 else b"\x08\0"
    return b"\xff" * 6 + b"\x02\0\0\0\0\1" + tag + kind + content


def sent(node: Bridge, pod: int, *frames: bytes) -> None:
    """Send frames from a pod as they are."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for each in frames:
                raw.send(each)

    in_namespace(node.pods[pod], send)


@needs_root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "tag", [b"", b"\x81\0\0\5", b"\x88\xa8\0\5", b"\x81\0\0\5\x81\0\0\6", b"\x88\xa8\0\5\x81\0\0\6"]
)
def test_packets_of_networks_within_networks(
    node: Bridge, talk: Talk, version: int, tag: bytes
) -> None:
    content = packet(LOGIN, version=version)
    sent(node, 0, frame(content, tag))
    found = until(lambda: [*talk.packets.read(10)])
    assert Packet("veth0", content) in found


@needs_root
@pytest.mark.parametrize("host", [BY_VLAN_OF_POD, BY_VLAN_OF_UPLINK])
def test_a_login_through_a_vlan(vlans: Bridge, host: str) -> None:
    talk = Talk(vlans.host)
    with vlans.saying(0, LOGIN, host=host) as client:
        assert talk.facts(client.pid) == {"PoolWords": ("login",)}
        assert len(talk.probe.processes()) == 1
        for _ in range(5):  # copies of the device below
            talk.probe.read_packets(time.monotonic() + 10)
        assert (talk.count("unplaced"), talk.count("crowded"), talk.count("left")) == (0, 0, 0)
    talk.probe.close()


@needs_root
def test_no_pod_speaks_for_the_host(node: Bridge, talk: Talk) -> None:
    with node.saying(None, b"GET / HTTP/1.1\r\n\r\n") as client:
        port, number = start_of(client.pid)
        forged = packet(
            LOGIN,
            source="192.0.2.2",
            destination=WORLD,
            ports=(port, PORT),
            sequence=number + 1,
        )
        sent(node, 1, frame(forged))
        times = count(time.monotonic(), 2)

        def is_decided() -> bool:
            talk.probe.read_packets(next(times))
            return bool(talk.probe.processes()) or talk.count("unplaced") > 0

        until(is_decided)
        assert not talk.probe.processes()


@needs_root
@pytest.mark.parametrize("is_number_known", [False, True])
def test_a_forged_packet_accuses_no_process(
    node: Bridge, talk: Talk, is_number_known: bool
) -> None:
    """Its ends are those of a neighbour's connection. The server knows the first byte's number."""
    with node.saying(0, b"GET / HTTP/1.1\r\n\r\n") as client:
        port, number = start_of(client.pid)
        sequence = number + 1 if is_number_known else number + 2
        times = count(time.monotonic(), 2)

        def is_heard(pod: int, payload: bytes) -> bool:
            counted = talk.count("unplaced")
            sent(
                node,
                pod,
                frame(
                    packet(
                        payload,
                        source=PODS[0],
                        destination=WORLD,
                        ports=(port, PORT),
                        sequence=sequence,
                    )
                ),
            )

            def is_decided() -> bool:
                talk.probe.read_packets(next(times))
                return bool(talk.probe.processes()) or talk.count("unplaced") > counted

            until(is_decided)
            return bool(talk.probe.processes())

        assert not is_heard(1, LOGIN)
        assert is_heard(0, SUBSCRIBE) is is_number_known  # it may speak for itself


def start_of(pid: int) -> tuple[int, int]:
    """The local port and the SYN's number of the one connection of a process."""
    iterator = BpfIterator("socket_iterator", ROW.size)
    try:
        records = [r for each in iterator.pieces() for r in ROW.iter_unpack(each)]
    finally:
        iterator.close()
    (found,) = [each for each in records if each[6] == pid and each[10] == 1]
    return found[8], found[13]


@needs_root
def test_a_flood_of_one_pod_hides_no_neighbour(node: Bridge, talk: Talk) -> None:
    """Packets are left out, and counted; the login of another pod is found."""
    flood = [frame(packet(LOGIN, sequence=number)) for number in range(3000)]
    sent(node, 1, *flood)
    with node.saying(0, LOGIN) as client:
        assert talk.facts(client.pid) == {"PoolWords": ("login",)}
    assert talk.count("left") + talk.count("crowded") > 2000
    assert talk.probe.left_out == talk.count("left") + talk.count("crowded")


@needs_root
def test_the_filter_cannot_be_taken_away(node: Bridge, talk: Talk) -> None:
    for fd in talk.packets.filenos():
        with socket.socket(fileno=os.dup(fd)) as lane, pytest.raises(OSError) as caught:
            lane.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
        assert caught.value.errno == errno.EPERM


# Without a kernel.


class Made:
    """Packets and connections of tests."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.waiting: list[Packet] = []
        self.open: dict[ConnectionStart, list[Holder]] = {}
        self.asked = 0
        self.lost = 0
        self.is_closed = False
        self.namespace = 0
        self.other_ends: dict[str, int] = {}

    def wait(self, timeout_s: float | None) -> bool:
        return bool(self.waiting)

    def wake(self) -> None:
        pass

    def read(self, limit: int) -> Iterator[Packet]:
        found, self.waiting = self.waiting, []
        return iter(found)

    def holders(self, wanted: Set[ConnectionStart]) -> Mapping[ConnectionStart, list[Holder]]:
        self.asked += 1
        return {start: self.open[start] for start in wanted if start in self.open}

    def still_open(self, inodes: Set[int]) -> Set[int]:
        return {each.inode for own in self.open.values() for each in own} & inodes

    def peers(self) -> Mapping[str, int]:
        return self.other_ends

    def number_of(self, pid: int) -> int:
        return 3 if self.other_ends else -1

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def probe(made: Made, tmp_path: Path) -> FirstWordsProbe:
    for pid in range(1, 400):
        (tmp_path / str(pid)).mkdir()
        fields = " ".join(["0"] * 49)
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {fields}\n")
        (tmp_path / str(pid) / "ns").mkdir()
        (tmp_path / str(pid) / "ns" / "net").touch()
    found = FirstWordsProbe(made, made, made, proc=str(tmp_path))
    found.use(book().rules)
    return found


def start(number: int, remote: str = "203.0.113.7") -> ConnectionStart:
    return number, b"\0" * 10 + b"\xff\xff" + socket.inet_aton(remote), 443


def said(number: int, payload: bytes = LOGIN, interface: str = "veth0") -> Packet:
    content = packet(payload, sequence=number + 1, destination="203.0.113.7", ports=(40_000, 443))
    return Packet(interface, content)


def counts(probe: FirstWordsProbe) -> dict[str, int]:
    return dict(probe.failures())


def test_copies_of_one_packet_count_once(probe: FirstWordsProbe, made: Made) -> None:
    made.open = {start(5): [Holder(7, 70, 1)]}
    made.waiting = [said(5), said(5, interface="br0"), said(5, interface="uplink")]
    probe.read_packets(1.0)
    made.waiting = [said(5, interface="uplink")]
    probe.read_packets(2.0)
    assert [*probe.processes()] == [ProcessId(7, 0)]
    assert made.asked == 1
    assert counts(probe) == {"left": 0, "crowded": 0, "unplaced": 0}


def test_a_connection_without_a_process_is_tried_three_times(
    probe: FirstWordsProbe, made: Made
) -> None:
    made.waiting = [said(5)]
    for at_s in (1.0, 1.5, 2.1, 3.2, 4.3, 5.4):
        probe.read_packets(at_s)
    assert made.asked == 3
    assert counts(probe)["unplaced"] == 1


def test_names_that_no_rule_asks_for_are_dropped(probe: FirstWordsProbe, made: Made) -> None:
    made.open = {start(n): [Holder(n, n, 1)] for n in range(10)}
    made.waiting = [said(1, hello("example.org")), said(2, hello("cloudflare-ech.com"))]
    probe.read_packets(1.0)
    assert made.asked == 0
    made.waiting = [said(3, hello(POOL))]
    probe.read_packets(2.0)
    assert [each.pid for each in probe.processes()] == [3]


def test_each_interface_has_its_number_a_second(probe: FirstWordsProbe, made: Made) -> None:
    made.open = {start(9999): [Holder(7, 70, 1)]}
    made.waiting = [said(number) for number in range(250)]
    made.waiting += [said(9999, interface="veth1")]
    probe.read_packets(1.0)
    assert counts(probe)["crowded"] > 0
    assert [each.pid for each in probe.processes()] == [7]


def test_one_pod_with_many_processes_displaces_no_other(probe: FirstWordsProbe, made: Made) -> None:
    made.open = {start(1): [Holder(399, 1, 1)]}
    made.open |= {start(n): [Holder(n, n, 2)] for n in range(2, 399)}
    for number in range(1, 399):
        made.waiting = [said(number)]
        probe.read_packets(float(number))
    kept = {each.pid for each in probe.processes()}
    assert 399 in kept
    assert len(kept) == 257


def test_a_process_that_logs_in_again_and_again_keeps_the_last_ones(
    probe: FirstWordsProbe, made: Made
) -> None:
    for number in range(100):
        made.open = {start(number): [Holder(7, number, 1)]}
        payload = SUBSCRIBE if number == 0 else LOGIN
        made.waiting = [said(number, payload)]
        probe.read_packets(float(number))
    assert probe.facts(ProcessId(7, 0)) == {"PoolWords": ("login",)}


def test_a_process_that_is_gone_is_not_named(probe: FirstWordsProbe, made: Made) -> None:
    made.open = {start(5): [Holder(4000, 70, 1)]}
    made.waiting = [said(5)]
    for at_s in (1.0, 3.0, 5.0):
        probe.read_packets(at_s)
    assert not probe.processes()
    assert counts(probe)["unplaced"] == 1


@pytest.mark.parametrize(("interface", "is_placed"), [("veth0", True), ("veth1", False)])
def test_a_pod_is_heard_by_its_own_interface_only(
    probe: FirstWordsProbe, made: Made, tmp_path: Path, interface: str, is_placed: bool
) -> None:
    made.other_ends = {"veth0": 3, "veth1": 4}
    namespace = (tmp_path / "7" / "ns" / "net").stat().st_ino
    made.open = {start(5): [Holder(7, 70, namespace)]}
    made.waiting = [said(5, interface=interface), said(5, interface="br0")]
    for at_s in (1.0, 3.0, 5.0):
        probe.read_packets(at_s)
    assert bool(probe.processes()) is is_placed


def test_a_process_that_left_the_network_of_its_connection_is_heard(
    probe: FirstWordsProbe, made: Made
) -> None:
    made.other_ends = {"veth0": 3}
    made.open = {start(5): [Holder(7, 70, 99)]}
    made.waiting = [said(5, interface="veth9")]
    probe.read_packets(1.0)
    assert probe.processes()


@pytest.mark.parametrize("is_outgoing", [True, False])
def test_the_host_is_heard_by_what_it_sends(
    probe: FirstWordsProbe, made: Made, is_outgoing: bool
) -> None:
    made.namespace = 99
    made.open = {start(5): [Holder(7, 70, 99)]}
    made.waiting = [said(5)._replace(is_outgoing=is_outgoing)]
    probe.read_packets(1.0)
    assert bool(probe.processes()) is is_outgoing


def test_what_the_kernel_left_out_is_counted(probe: FirstWordsProbe, made: Made) -> None:
    made.lost = 12
    probe.read_packets(1.0)
    assert counts(probe)["left"] == 12
    assert probe.left_out == 12


def test_the_thread_ends_and_closes_what_it_reads(probe: FirstWordsProbe, made: Made) -> None:
    probe.start()
    probe.close()
    until(lambda: made.is_closed)


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        (POOL, True),
        ("eu1.ethermine.org", True),
        ("coinhive.com", True),
        ("teamtnt.red", True),
        ("supportxmr.com.example.org", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_names_of_the_shipped_rules(name: str, is_wanted: bool) -> None:
    assert (name in WantedNames(book().rules)) is is_wanted
