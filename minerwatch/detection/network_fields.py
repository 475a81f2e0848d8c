"""Fields about the sockets of a process, and about the network counters of its pod."""

from __future__ import annotations

from minerwatch.detection.field_types import Field, Source

_SOCKETS = Source(
    "the socket iterator (BPF), or /proc/PID/net/tcp and fd",
    "BPF, PERFMON; or SYS_PTRACE, DAC_READ_SEARCH",
)
_FIRST_WORDS = Source("first words of connections (packet sockets)", "NET_RAW, BPF, PERFMON")
_COUNTERS = Source("/proc/PID/net/snmp, snmp6, dev of the pod", "SYS_PTRACE")


def _session(name: str, unit: str, meaning: str, example: str) -> Field:
    return Field(name, unit, meaning, _SOCKETS, example, dynamic=True)


def _counter(name: str, unit: str, meaning: str, example: str) -> Field:
    return Field(name, unit, meaning, _COUNTERS, example, dynamic=True)


def _connect(name: str, unit: str, meaning: str, example: str) -> Field:
    return Field(name, unit, meaning, _SOCKETS, example, dynamic=True)


_SESSIONS: tuple[Field, ...] = (
    _session(
        "SessionCount", "count", "connections that it opened and has open", "SessionCount|lte: 3"
    ),
    _session(
        "SessionAge",
        "s",
        "since its quietest lasting connection, if possible to the outside, was first seen",
        "SessionAge|gte: 120",
    ),
    _session(
        "SessionBytesPerHour",
        "B/h",
        "data on that connection, both ways",
        "SessionBytesPerHour|lte: 4000000",
    ),
    _session(
        "SessionSegmentsPerHour",
        "1/h",
        "segments with data on that connection, both ways",
        "SessionSegmentsPerHour|lte: 20000",
    ),
    _session(
        "SessionOutsideCluster",
        "bool",
        "that connection leads out of the cluster's networks",
        "SessionOutsideCluster: true",
    ),
    _session(
        "AcceptsConnections",
        "bool",
        "it listens for TCP connections, or has accepted one",
        "AcceptsConnections: false",
    ),
)

_POD: tuple[Field, ...] = (
    _counter(
        "ConnectsPerSecond",
        "1/s",
        "TCP connections that its pod tries to open, without loopback",
        "ConnectsPerSecond|gte: 10",
    ),
    _counter(
        "FailedConnectShare",
        "0..1",
        "those that are refused, time out or bring no answer",
        "FailedConnectShare|gte: 0.6",
    ),
    _counter(
        "SegmentsPerConnect",
        "segments",
        "TCP segments that its pod receives, for each connection that it tries",
        "SegmentsPerConnect|lte: 1.5",
    ),
    _counter(
        "DatagramsPerSecond",
        "1/s",
        "UDP datagrams and pings that its pod sends, without loopback",
        "DatagramsPerSecond|gte: 5000",
    ),
    _counter(
        "DatagramAnswerShare",
        "0..1",
        "datagrams that it receives, for each that it sends",
        "DatagramAnswerShare|lte: 0.02",
    ),
    _counter(
        "UnreachablePerSecond",
        "1/s",
        "answers that a destination is unreachable, to sockets of its pod",
        "UnreachablePerSecond|gte: 5",
    ),
    _counter(
        "RawPacketsPerSecond",
        "1/s",
        "packets of its pod that neither TCP, UDP nor ICMP of the kernel sent",
        "RawPacketsPerSecond|gte: 20",
    ),
    _counter(
        "RawSocketCount",
        "count",
        "raw and packet sockets of its pod; read if it sends raw packets",
        "RawSocketCount|gte: 1",
    ),
    _counter(
        "LoopbackPacketsPerSecond",
        "1/s",
        "packets that its pod sends to itself",
        "LoopbackPacketsPerSecond|lt: 20",
    ),
    _counter(
        "SentBytesPerSecond",
        "B/s",
        "bytes that its pod sends, without loopback",
        "SentBytesPerSecond|gte: 1000000",
    ),
    _counter(
        "ReceivedBytesPerSecond",
        "B/s",
        "bytes that its pod receives, without loopback",
        "ReceivedBytesPerSecond|gte: 1000000",
    ),
    _counter(
        "RelayedShare", "0..1", "the smaller of these two, of the larger", "RelayedShare|gte: 0.7"
    ),
    _connect(
        "PeerCount",
        "count",
        "addresses outside the cluster to which its pod has opened connections",
        "PeerCount|gte: 12",
    ),
    _connect(
        "PodAcceptsConnections",
        "bool",
        "its pod has a connection that another host opened",
        "PodAcceptsConnections: false",
    ),
    _connect(
        "ShortLoginsPerMinute",
        "count",
        "connections of its pod to login services that ended within 30 s, seen in a minute",
        "ShortLoginsPerMinute|gte: 120",
    ),
    _connect(
        "ShortLoginCount", "count", "addresses with ports of these", "ShortLoginCount|lte: 10"
    ),
    _connect(
        "ShortLoginIp", "list", "the addresses with most of these", "ShortLoginIp|exists: true"
    ),
    _connect("ShortLoginPort", "list", "the ports with most of these", "ShortLoginPort: 22"),
    _connect(
        "UnansweredCount",
        "count",
        "addresses with ports that it was seen to wait for, if many connects fail or bring little",
        "UnansweredCount|gte: 6",
    ),
    _connect(
        "UnansweredSpread",
        "0..1",
        "addresses with ports, for each of these connects: 1 if each leads elsewhere",
        "UnansweredSpread|gte: 0.5",
    ),
    _connect(
        "UnansweredIp", "list", "the addresses with most of these", "UnansweredIp|exists: true"
    ),
    _connect(
        "UnansweredPort", "list", "the ports with most of these", "UnansweredPort|exists: true"
    ),
)

SESSION_FIELDS = tuple(each.name for each in _SESSIONS)
COUNTER_FIELDS = tuple(each.name for each in _POD)
COUNTED_FIELDS = tuple(each.name for each in _POD if each.unit != "list")
"""Those that are numbers."""

NETWORK_FIELDS = (
    Field(
        "DestinationIp",
        "list",
        "remote addresses that it is connected to",
        _SOCKETS,
        "DestinationIp|cidr: 203.0.113.0/24",
        dynamic=True,
    ),
    Field(
        "DestinationPort",
        "list",
        "remote ports that it is connected to",
        _SOCKETS,
        "DestinationPort: [3333, 14444]",
        dynamic=True,
    ),
    Field(
        "DestinationCount",
        "count",
        "distinct remote addresses or ports",
        _SOCKETS,
        "DestinationCount|gte: 6",
        dynamic=True,
    ),
    Field(
        "DestinationHostname",
        "list",
        "the same as ServerName, by Sigma's name",
        _FIRST_WORDS,
        "DestinationHostname|endswith: .pool.example",
        dynamic=True,
    ),
    Field(
        "Initiated",
        "bool",
        "it opened its connections itself: true if any",
        _SOCKETS,
        "Initiated: true",
        dynamic=True,
    ),
    Field(
        "LongestConnection",
        "s",
        "age of its oldest open connection",
        _SOCKETS,
        "LongestConnection|gte: 3600",
        dynamic=True,
    ),
    Field(
        "ServerName",
        "list",
        "names that its TLS connections asked for, of those that rules name",
        _FIRST_WORDS,
        "ServerName|endswith: .pool.example",
        dynamic=True,
    ),
    Field(
        "PoolWords",
        "list",
        "methods of stratum with which its connections began",
        _FIRST_WORDS,
        "PoolWords: [login, mining.subscribe]",
        dynamic=True,
    ),
    *_SESSIONS,
    *_POD,
)
