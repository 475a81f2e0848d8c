from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.networks import namespace_of
from minerwatch.network_totals import DeviceCounters
from minerwatch.node.network_counters import CounterReader
from tests.conftest import needs_root
from tests.networks import two_networks
from tests.waiting import until

ME = os.getpid()


def test_the_namespace_of_a_process() -> None:
    reader = CounterReader()
    assert reader.namespace(ME) == namespace_of(ME)
    assert reader.namespace(1 << 22) is None
    assert not any(reader.failures.values())


def test_a_namespace_without_an_inode_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "7" / "ns").mkdir(parents=True)
    (tmp_path / "7" / "ns" / "net").symlink_to("net:[?]")
    reader = CounterReader(str(tmp_path))
    assert reader.namespace(7) is None
    assert reader.failures["malformed"] == 1


@needs_root
def test_a_scan_is_in_the_counters_of_its_namespace() -> None:
    reader = CounterReader()
    with (
        two_networks() as found,
        found.running(found.client, "scanning: closed ports, 50/s", "300") as client,
    ):
        namespace_of(client.pid)  # once it has entered it

        def tried() -> bool:
            devices = reader.devices(client.pid, 1.0)
            counters = devices and reader.protocols(client.pid, devices)
            return bool(counters and counters.failed_connects >= 20)

        until(tried)
        devices = reader.devices(client.pid, 1.0)
        assert devices is not None
        counters = reader.protocols(client.pid, devices)
        assert counters is not None
        assert counters.connects - counters.failed_connects <= 1
        assert devices.sent_packets >= 20
        assert devices.loopback_packets == 0
        assert reader.raw_sockets(client.pid) == 0


@needs_root
def test_raw_sockets_count_whatever_their_protocol() -> None:
    reader = CounterReader()
    before = reader.raw_sockets(ME)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM),
    ):
        assert reader.raw_sockets(ME) == before + 4


def test_all_pages_of_a_file_are_read(tmp_path: Path, small_pages: None) -> None:
    reader = proc_with(tmp_path, dev=DEV, raw=b"header\n" + 300 * b"  1: 00000000:0001 07\n")
    devices = reader.devices(7, 3.0)
    assert devices is not None
    assert devices.sent_packets == 22
    assert reader.raw_sockets(7) == 300


DEV = b"""Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
    lo:       9       7    0    0    0     0          0         0        9       7    0
  eth0:    1000      10    0    0    0     0          0         0     2000      20    0
 a:b:c:     100       1    0    0    0     0          0         0      200       2    0
"""
SNMP = b"""Ip: Forwarding InReceives ForwDatagrams OutRequests FragOKs FragCreates
Ip: 1 12 5 15 2 8
Icmp: InMsgs InErrors InDestUnreachs InEchoReps OutMsgs OutEchos
Icmp: 1 1 3 3 4 1
Tcp: MaxConn ActiveOpens AttemptFails InSegs OutSegs RetransSegs
Tcp: -1 10 9 8 70 7
Udp: InDatagrams OutDatagrams
Udp: 6 5
"""


def proc_with(folder: Path, **content: bytes) -> CounterReader:
    net = folder / "7" / "net"
    net.mkdir(parents=True, exist_ok=True)
    for name, lines in content.items():
        (net / name).write_bytes(lines)
    return CounterReader(str(folder))


def test_lines_of_the_kernel(tmp_path: Path) -> None:
    reader = proc_with(
        tmp_path, dev=DEV, snmp=SNMP, snmp6=b"Udp6OutDatagrams 100\nXUdp6OutDatagrams 1"
    )
    devices = reader.devices(7, 3.0)
    assert devices == DeviceCounters(3.0, 7, 20, 22, 11, 2200, 1100)
    counters = reader.protocols(7, devices)
    assert counters is not None
    assert (counters.connects, counters.failed_connects, counters.segments) == (10, 9, 8)
    assert (counters.datagrams, counters.answers, counters.unreachables) == (106, 9, 2)
    assert counters.explained_packets == 70 + 7 + 105 + 4 + 5 + 6
    assert counters.ip_received == 12
    assert counters.icmp_sent == 4 + 6


def test_connections_that_a_peer_resets_half_open_have_not_failed(tmp_path: Path) -> None:
    netstat = b"TcpExt: SyncookiesSent EmbryonicRsts X\nTcpExt: 1 4 9\nIpExt: InOctets\nIpExt: 7\n"
    reader = proc_with(tmp_path, dev=DEV, snmp=SNMP, netstat=netstat)
    devices = reader.devices(7, 3.0)
    assert devices is not None
    first = reader.protocols(7, devices)
    assert first is not None
    assert first.failed_connects == 9 - 4
    few, more = (SNMP.replace(b" 9 8 ", failed) for failed in (b" 13 8 ", b" 20 8 "))
    for snmp, failed in ((few, 9), (more, 20 - 15)):
        proc_with(tmp_path, snmp=snmp, netstat=netstat.replace(b" 4 ", b" 15 "))
        now = reader.protocols(7, devices, first)
        assert now is not None
        assert now.failed_connects == failed


def test_a_device_that_is_only_called_loopback_counts(tmp_path: Path) -> None:
    renamed = DEV.replace(b"    lo:", b"   lo0:").replace(b"  eth0:", b"    lo:")
    reader = proc_with(tmp_path, dev=renamed)
    devices = reader.devices(7, 1.0)
    assert devices is not None
    assert devices.loopback_packets == 0
    assert devices.sent_packets == 29


def test_without_ipv6(tmp_path: Path) -> None:
    reader = proc_with(tmp_path, dev=DEV, snmp=SNMP)
    devices = reader.devices(7, 3.0)
    assert devices is not None
    counters = reader.protocols(7, devices)
    assert counters is not None
    assert counters.datagrams == 6
    assert not any(reader.failures.values())


def later(reader: CounterReader, **content: bytes) -> int:
    """The datagrams of a reading 10 s after another."""
    before = reader.devices(7, 0.0)
    assert before is not None
    first = reader.protocols(7, before)
    for name, lines in content.items():
        (Path(reader.proc) / "7" / "net" / name).write_bytes(lines)
    now = reader.devices(7, 10.0)
    assert now is not None
    second = reader.protocols(7, now, first)
    assert second is not None
    return second.datagrams


@pytest.mark.parametrize(("packets", "datagrams"), [(b"39", 6), (b"99", 106)])
def test_ipv6_is_read_if_it_is_used(tmp_path: Path, packets: bytes, datagrams: int) -> None:
    reader = proc_with(tmp_path, dev=DEV, snmp=SNMP, snmp6=b"Udp6OutDatagrams 0\n")
    dev = DEV.replace(b"2000      20 ", b"2000      " + packets)
    assert later(reader, dev=dev, snmp6=b"Udp6OutDatagrams 100\n") == datagrams


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_stop_it(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    is_after: bool,
) -> None:
    folder = tmp_path_factory.mktemp("proc")
    dev, snmp = (known + content if is_after else content + known for known in (DEV, SNMP))
    reader = proc_with(
        folder, dev=dev, snmp=snmp, snmp6=content, raw=content, netstat=b"EmbryonicRsts" + content
    )
    devices = reader.devices(7, 1.0)
    if devices is not None:
        reader.protocols(7, devices)
    reader.raw_sockets(7)
