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
        "SessionCount",
        "count",
        "open TCP connections that the process opened itself",
        "SessionCount|lte: 3",
    ),
    _session(
        "SessionAge",
        "s",
        "age of the session: the quietest lasting connection, outside the cluster if any is",
        "SessionAge|gte: 120",
    ),
    _session(
        "SessionBytesPerHour",
        "B/h",
        "data in both directions on the session (see SessionAge)",
        "SessionBytesPerHour|lte: 4000000",
    ),
    _session(
        "SessionSegmentsPerHour",
        "1/h",
        "segments with data in both directions on the session",
        "SessionSegmentsPerHour|lte: 20000",
    ),
    _session(
        "SessionOutsideCluster",
        "bool",
        "the session leads out of the cluster's networks",
        "SessionOutsideCluster: true",
    ),
    _session(
        "AcceptsConnections",
        "bool",
        "the process listens for TCP connections, or has accepted one",
        "AcceptsConnections: false",
    ),
)

_POD: tuple[Field, ...] = (
    _counter(
        "ConnectsPerSecond",
        "1/s",
        "TCP connections that the pod tries to open, loopback left out",
        "ConnectsPerSecond|gte: 10",
    ),
    _counter(
        "FailedConnectShare",
        "0..1",
        "share of the pod's tries to connect that are refused, time out or get no answer",
        "FailedConnectShare|gte: 0.6",
    ),
    _counter(
        "SegmentsPerConnect",
        "segments",
        "TCP segments that the pod receives for each try to connect",
        "SegmentsPerConnect|lte: 1.5",
    ),
    _counter(
        "DatagramsPerSecond",
        "1/s",
        "UDP datagrams and pings that the pod sends, loopback left out",
        "DatagramsPerSecond|gte: 5000",
    ),
    _counter(
        "DatagramAnswerShare",
        "0..1",
        "datagrams that the pod receives for each that it sends",
        "DatagramAnswerShare|lte: 0.02",
    ),
    _counter(
        "UnreachablePerSecond",
        "1/s",
        "ICMP answers to the pod that a destination is unreachable",
        "UnreachablePerSecond|gte: 5",
    ),
    _counter(
        "RawPacketsPerSecond",
        "1/s",
        "packets of the pod that were not sent by the kernel's TCP, UDP or ICMP",
        "RawPacketsPerSecond|gte: 20",
    ),
    _counter(
        "RawSocketCount",
        "count",
        "raw and packet sockets of the pod; counted if it sends raw packets",
        "RawSocketCount|gte: 1",
    ),
    _counter(
        "LoopbackPacketsPerSecond",
        "1/s",
        "packets that the pod sends to itself over loopback",
        "LoopbackPacketsPerSecond|lt: 20",
    ),
    _counter(
        "SentBytesPerSecond",
        "B/s",
        "bytes that the pod sends, loopback left out",
        "SentBytesPerSecond|gte: 1000000",
    ),
    _counter(
        "ReceivedBytesPerSecond",
        "B/s",
        "bytes that the pod receives, loopback left out",
        "ReceivedBytesPerSecond|gte: 1000000",
    ),
    _counter(
        "RelayedShare",
        "0..1",
        "bytes sent by bytes received, or the reverse: the one that is below 1",
        "RelayedShare|gte: 0.7",
    ),
    _connect(
        "PeerCount",
        "count",
        "addresses outside the cluster to which the pod has opened connections",
        "PeerCount|gte: 12",
    ),
    _connect(
        "PodAcceptsConnections",
        "bool",
        "the pod has a connection that another host opened",
        "PodAcceptsConnections: false",
    ),
    _connect(
        "ShortLoginsPerMinute",
        "count",
        "short logins: the pod's connections to login services that end within 30 s",
        "ShortLoginsPerMinute|gte: 120",
    ),
    _connect(
        "ShortLoginCount",
        "count",
        "addresses and ports that short logins lead to",
        "ShortLoginCount|lte: 10",
    ),
    _connect(
        "ShortLoginIp", "list", "addresses with most short logins", "ShortLoginIp|exists: true"
    ),
    _connect("ShortLoginPort", "list", "ports with most short logins", "ShortLoginPort: 22"),
    _connect(
        "UnansweredCount",
        "count",
        "addresses and ports that the pod waits for; read if many tries to connect fail",
        "UnansweredCount|gte: 6",
    ),
    _connect(
        "UnansweredSpread",
        "0..1",
        "UnansweredCount for each connect that was seen: 1 if each leads elsewhere",
        "UnansweredSpread|gte: 0.5",
    ),
    _connect(
        "UnansweredIp",
        "list",
        "addresses that most unanswered connects lead to",
        "UnansweredIp|exists: true",
    ),
    _connect(
        "UnansweredPort",
        "list",
        "ports that most unanswered connects lead to",
        "UnansweredPort|exists: true",
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
        "remote addresses of the process's connections",
        _SOCKETS,
        "DestinationIp|cidr: 203.0.113.0/24",
        dynamic=True,
    ),
    Field(
        "DestinationPort",
        "list",
        "remote ports of the process's connections",
        _SOCKETS,
        "DestinationPort: [3333, 14444]",
        dynamic=True,
    ),
    Field(
        "DestinationCount",
        "count",
        "distinct remote addresses or ports of the process's connections",
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
        "the process opened at least one of its connections itself",
        _SOCKETS,
        "Initiated: true",
        dynamic=True,
    ),
    Field(
        "LongestConnection",
        "s",
        "age of the process's oldest open connection",
        _SOCKETS,
        "LongestConnection|gte: 3600",
        dynamic=True,
    ),
    Field(
        "ServerName",
        "list",
        "server names in TLS handshakes; only names that a rule has are kept",
        _FIRST_WORDS,
        "ServerName|endswith: .pool.example",
        dynamic=True,
    ),
    Field(
        "PoolWords",
        "list",
        "stratum methods in the first words of the process's connections",
        _FIRST_WORDS,
        "PoolWords: [login, mining.subscribe]",
        dynamic=True,
    ),
    *_SESSIONS,
    *_POD,
)
