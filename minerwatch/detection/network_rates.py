"""Counters of a network namespace to rates. Pure.

Traffic over loopback does not count: a client that retries a server which has not started yet is no
scan. The kernel counts connects and datagrams of all devices together, so each is taken to be at
most as many as packets that left by another device.

``RelayedShare`` compares bytes sent with bytes received, because a relay sends what it receives. So
do others: headers, acknowledgements and resets are subtracted, and what is answered by as many
bytes: pings, and datagrams to a server. The kernel counts no bytes of these, so each counts as
large.
"""

from __future__ import annotations

from minerwatch.model import Facts, FactValue
from minerwatch.network_totals import NetworkCounters

_HEADER_BYTES = 66
"""Of Ethernet, IPv4 and TCP with time stamps."""
_MAX_PACKET_BYTES, _USUAL_PACKET_BYTES = 9216, 1500
_MIN_COUNT = 20
"""Least number of connects or datagrams of which a share is computed."""


def network_facts(before: NetworkCounters, now: NetworkCounters) -> Facts:
    """Return the rates between two readings; none if no time has passed."""
    old, new = before.devices, now.devices
    span_s = new.at_s - old.at_s
    if span_s <= 0:
        return {}
    sent = max(0, new.sent_packets - old.sent_packets)
    received = max(0, new.received_packets - old.received_packets)
    connects = _grown(now.connects, before.connects, sent)
    datagrams = _grown(now.datagrams, before.datagrams, sent)
    sent_bytes = max(0, new.sent_bytes - old.sent_bytes)
    received_bytes = max(0, new.received_bytes - old.received_bytes)
    facts: dict[str, FactValue] = {
        "ConnectsPerSecond": connects / span_s,
        "DatagramsPerSecond": datagrams / span_s,
        "UnreachablePerSecond": _grown(now.unreachables, before.unreachables, received) / span_s,
        "RawPacketsPerSecond": _unexplained(before, now) / span_s,
        "LoopbackPacketsPerSecond": max(0, new.loopback_packets - old.loopback_packets) / span_s,
        "SentBytesPerSecond": sent_bytes / span_s,
        "ReceivedBytesPerSecond": received_bytes / span_s,
    }
    if sent_bytes and received_bytes:
        less, more = sorted(
            (sent_bytes - _HEADER_BYTES * sent, received_bytes - _HEADER_BYTES * received)
        )
        answered = _answered_bytes(before, now, sent, received)
        facts["RelayedShare"] = max(0, less - answered) / max(1, more - answered)
    if connects >= _MIN_COUNT:
        failed = _grown(now.failed_connects, before.failed_connects, connects)
        segments = _grown(now.segments, before.segments, received)
        silent = max(0, connects - segments)
        facts["FailedConnectShare"] = min(1.0, (failed + silent) / connects)
        facts["SegmentsPerConnect"] = segments / connects
    if datagrams >= _MIN_COUNT:
        answers = _grown(now.answers, before.answers, received)
        facts["DatagramAnswerShare"] = min(1.0, answers / datagrams)
    return facts


def _answered_bytes(before: NetworkCounters, now: NetworkCounters, sent: int, received: int) -> int:
    """Return at most how many bytes came and were answered with as many."""
    icmp = _grown(now.icmp_sent, before.icmp_sent, sent)
    datagrams = _grown(now.datagrams, before.datagrams, sent)
    answers = _grown(now.answers, before.answers, received)
    return icmp * _MAX_PACKET_BYTES + min(datagrams, answers) * _USUAL_PACKET_BYTES


def _grown(now: int, before: int, most: int) -> int:
    return max(0, min(now - before, most))


def _unexplained(before: NetworkCounters, now: NetworkCounters) -> int:
    """Return the packets that left the busiest device and that no protocol of the kernel sent.

    Of one device: a tunnel's packets leave twice, by the tunnel and by the device below it. Each
    packet of another protocol than IP that came, as one of ARP, explains an answer to it.
    """
    old, new = before.devices, now.devices
    explained = now.explained_packets - before.explained_packets
    loopback = new.loopback_packets - old.loopback_packets
    received = new.received_packets - old.received_packets + loopback
    explained += max(0, received - (now.ip_received - before.ip_received)) - loopback
    return max(0, new.busiest_sent_packets - old.busiest_sent_packets - max(0, explained))
