"""Totals of a network namespace, as the kernel counts them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """Totals of the network devices of a namespace."""

    at_s: float
    loopback_packets: int
    busiest_sent_packets: int  # of one device besides loopback
    sent_packets: int  # of all of these
    received_packets: int
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class NetworkCounters:
    """Totals of a namespace's devices and protocols, since it was made."""

    devices: DeviceCounters
    connects: int  # TCP connections that were tried (RFC 4022: tcpActiveOpens)
    failed_connects: int  # tcpAttemptFails, without those that a peer began
    segments: int  # TCP segments received
    datagrams: int  # UDP datagrams and echo requests sent
    answers: int  # UDP datagrams and echo replies received
    unreachables: int  # ICMP received: destination unreachable, for a socket that is open
    explained_packets: int  # sent by TCP, UDP and ICMP, or forwarded
    ip_packets: int = 0  # IPv4's, sent or forwarded
    ip_received: int = 0  # packets of IPv4 and IPv6 received, over loopback too
    icmp_sent: int = 0  # with fragments of what was sent
    half_opened: int = 0  # connections from a peer that it reset before they were open
    v6: tuple[int, ...] = ()  # IPv6's part of these counters, as last read
    v6_age: int = 0  # readings since then
