"""Counters of the network namespace that a process is in: /proc/PID/net/dev, snmp, snmp6, netstat.

They need no capability, and no process can write them (proc_net(5), Documentation/networking/
snmp_counter.rst), but a neighbour can add to some by what it sends: connections that it resets half
open, and ICMP errors for sockets that do not exist. These are left out. The namespace's inode is a
link in /proc/PID/ns, which needs SYS_PTRACE.
No file is kept open: that would keep the namespace of a pod that has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter

from minerwatch.network_totals import DeviceCounters, NetworkCounters
from minerwatch.node.proc_files import CountedFiles

_FILE_BYTES = 16 << 10
_MAX_DEVICES_BYTES = 64 << 10
_V4 = {
    b"Ip:": (b"InReceives", b"OutRequests", b"ForwDatagrams", b"FragOKs", b"FragCreates"),
    b"Icmp:": (b"OutMsgs", b"OutEchos", b"InEchoReps", b"InDestUnreachs", b"InErrors"),
    b"Tcp:": (b"ActiveOpens", b"AttemptFails", b"InSegs", b"OutSegs", b"RetransSegs"),
    b"Udp:": (b"InDatagrams", b"OutDatagrams"),
}
_V6 = (
    *(b"Ip6InReceives", b"Ip6OutForwDatagrams", b"Ip6FragOKs", b"Ip6FragCreates"),
    *(b"Icmp6OutMsgs", b"Icmp6OutEchos", b"Icmp6InEchoReplies", b"Icmp6InDestUnreachs"),
    *(b"Icmp6InErrors", b"Udp6InDatagrams", b"Udp6OutDatagrams"),
)
_HALF_OPENED = b"EmbryonicRsts"
_NO_V6 = (0,) * len(_V6)
_ATTEMPT_FAILS = 11
"""Its index among the counters of IPv4."""
_MAX_V6_AGE = 6
_V6_PACKETS_PER_S = 2.0
"""Packets that are not IPv4's, from which IPv6's counters are read each time. Reading them takes as
long as all else."""
_NEW_FAILED = 5
"""With so many failed connects since the last reading, the number of those that peers began is
read, too. This takes three times as long as all of TCP's other counters."""
_MAX_HEADERS = 64


class CounterReader:
    """Reads counters below ``proc``; ``failures`` counts by reason since the start."""

    def __init__(self, proc: str = "/proc") -> None:
        self.failures = dict.fromkeys(("permission", "unreadable", "malformed"), 0)
        self._files = CountedFiles(self.failures)
        self.proc = proc

    def namespace(self, pid: int) -> int | None:
        """Return the inode of a process's network namespace; None if it cannot be read."""
        try:
            link = os.readlink(f"{self.proc}/{pid}/ns/net")  # noqa: PTH115 - hot
            return int(link[5:-1]) if link.startswith("net:[") else None
        except (OSError, ValueError) as error:
            self._files.count(error)
            return None

    def devices(self, pid: int, at_s: float) -> DeviceCounters | None:
        """Read the counters of devices; None if they cannot be read."""
        content = self._files.whole(f"{self.proc}/{pid}/net/dev", _MAX_DEVICES_BYTES)
        if content is None:
            return None
        try:
            return _device_counters(content, at_s)
        except (ValueError, IndexError) as error:
            self._files.count(ValueError(str(error)))
            return None

    def protocols(
        self, pid: int, devices: DeviceCounters, before: NetworkCounters | None = None
    ) -> NetworkCounters | None:
        """Read the counters of protocols, too; None if they cannot be read."""
        snmp = self._files.content(f"{self.proc}/{pid}/net/snmp", _FILE_BYTES)
        if snmp is None:
            return None
        try:
            v4 = _v4_values(snmp)
            half_opened = self._half_opened(pid, v4, before)
            if before is not None and not _has_v6(before, devices, v4[1] + v4[2]):
                return _joined(devices, v4, half_opened, before.v6, before.v6_age + 1)
            # There is no such file where IPv6 is switched off.
            snmp6 = self._files.content(f"{self.proc}/{pid}/net/snmp6", _FILE_BYTES) or b""
            return _joined(devices, v4, half_opened, _v6_values(snmp6), 0)
        except (ValueError, KeyError, IndexError) as error:
            self._files.count(ValueError(str(error)))
            return None

    def _half_opened(self, pid: int, v4: Sequence[int], before: NetworkCounters | None) -> int:
        """Return how many of the failed connections peers began; read if many failed since."""
        failed = v4[_ATTEMPT_FAILS]
        known = before.half_opened if before is not None else 0
        if failed < known + (before.failed_connects if before is not None else 0) + _NEW_FAILED:
            return known
        netstat = self._files.content(f"{self.proc}/{pid}/net/netstat", _FILE_BYTES)
        names, _, rest = (netstat or b"").partition(b"\n")
        columns = names.split()
        if _HALF_OPENED not in columns:
            return known
        return min(failed, int(rest.split(None, len(columns))[columns.index(_HALF_OPENED)]))

    def raw_sockets(self, pid: int) -> int:
        """Return how many raw and packet sockets the namespace has.

        Ping's count, too: its socket can send packets with a header of its own (raw(7)), and what
        ping itself sends the kernel counts as ICMP.
        """
        count = 0
        for name in ("raw", "raw6", "packet"):
            content = self._files.whole(f"{self.proc}/{pid}/net/{name}", _MAX_DEVICES_BYTES)
            count += max(0, len((content or b"").splitlines()) - 1)
        return count


def _device_counters(content: bytes, at_s: float) -> DeviceCounters:
    loopback = busiest = sent = received = sent_bytes = received_bytes = 0
    for line in content.splitlines()[2:]:
        name, _, numbers = line.rpartition(b":")
        fields = numbers.split()
        packets = int(fields[9])
        # A tenant with NET_ADMIN can give another device this name, which sends elsewhere.
        if name.strip() == b"lo" and (fields[0], fields[1]) == (fields[8], fields[9]):
            loopback = packets
            continue
        busiest = max(busiest, packets)
        sent += packets
        received += int(fields[1])
        sent_bytes += int(fields[8])
        received_bytes += int(fields[0])
    return DeviceCounters(at_s, loopback, busiest, sent, received, sent_bytes, received_bytes)


def _has_v6(before: NetworkCounters, devices: DeviceCounters, ip_packets: int) -> bool:
    """Return True if IPv6's counters are to be read: it is in use, or they were not for long."""
    old = before.devices
    sent = devices.sent_packets - old.sent_packets
    sent += devices.loopback_packets - old.loopback_packets
    others = sent - (ip_packets - before.ip_packets)
    is_used = others > _V6_PACKETS_PER_S * (devices.at_s - old.at_s)
    return is_used or before.v6_age >= _MAX_V6_AGE


@lru_cache(_MAX_HEADERS)
def _columns(header: bytes) -> Callable[[Sequence[bytes]], tuple[bytes, ...]] | None:
    """Return what picks the values below a header of ``_V4``; None: not needed."""
    names = header.split()
    wanted = _V4.get(names[0]) if names else None
    return itemgetter(*map(names.index, wanted)) if wanted else None


def _v4_values(snmp: bytes) -> list[int]:
    """Return the counters in the order of ``_V4``: each is below its name, in the next line."""
    found: dict[bytes, tuple[bytes, ...]] = {}
    lines = snmp.split(b"\n")
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        pick = _columns(names)
        if pick is not None:
            found[names.partition(b" ")[0]] = pick(numbers.split())
    return [int(value) for protocol in _V4 for value in found[protocol]]


def _v6_values(snmp6: bytes) -> tuple[int, ...]:
    """Return the counters in the order of ``_V6``; each line is a name and a number."""
    fields = snmp6.split()
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    return tuple(int(values.get(name, 0)) for name in _V6)


def _joined(
    devices: DeviceCounters, v4: list[int], half_opened: int, v6: tuple[int, ...], v6_age: int
) -> NetworkCounters:
    ip_received, sent, forwarded, whole, fragments, *icmp = v4[:10]
    icmp_sent, pings, pongs, unreachables, icmp_errors = icmp
    connects, failed, segments, segments_sent, segments_again, received, datagrams = v4[10:]
    ip_received6, forwarded6, whole6, fragments6, *icmp6, received6, datagrams6 = v6 or _NO_V6
    icmp_sent6, pings6, pongs6, unreachables6, icmp_errors6 = icmp6
    icmp_sent += icmp_sent6
    fragments += fragments6 - whole - whole6
    return NetworkCounters(
        devices,
        connects=connects,
        failed_connects=failed - half_opened,
        segments=segments,
        datagrams=datagrams + datagrams6 + pings + pings6,
        answers=received + received6 + pongs + pongs6,
        unreachables=unreachables + unreachables6 - icmp_errors - icmp_errors6,
        explained_packets=segments_sent
        + segments_again
        + (datagrams + datagrams6 + icmp_sent + forwarded + forwarded6 + fragments),
        ip_packets=sent + forwarded,
        ip_received=ip_received + ip_received6,
        icmp_sent=icmp_sent + fragments,
        half_opened=half_opened,
        v6=v6,
        v6_age=v6_age,
    )
