"""Fields about the sockets of a process, and about the network counters of its pod."""

from __future__ import annotations

from minerwatch.detection.field_types import Field, Source

_SOCKETS = Source(
    "the socket iterator (BPF), or /proc/PID/net/tcp and fd",
    "BPF, PERFMON; or SYS_PTRACE, DAC_READ_SEARCH",
)
_FIRST_WORDS = Source("first words of connections (packet sockets)", "NET_RAW, BPF, PERFMON")
_COUNTERS = Source("/proc/PID/net/snmp, snmp6, dev of the pod", "SYS_PTRACE")


def _sockets(name: str, unit: str, meaning: str, example: str) -> Field:
    return Field(name, unit, meaning, _SOCKETS, example, dynamic=True)


def _first_words(name: str, unit: str, meaning: str, example: str) -> Field:
    return Field(name, unit, meaning, _FIRST_WORDS, example, dynamic=True)


def _counter(name: str, unit: str, meaning: str, example: str) -> Field:
    return Field(name, unit, meaning, _COUNTERS, example, dynamic=True)


_SESSIONS: tuple[Field, ...] = (
    _sockets(
        "SessionCount",
        "count",
        "open TCP connections that the process opened itself",
        "SessionCount|lte: 3",
    ),
    _sockets(
        "SessionAge",
        "s",
        "age of the session: the quietest lasting connection, outside the cluster if any is",
        "SessionAge|gte: 120",
    ),
    _sockets(
        "SessionBytesPerHour",
        "B/h",
        "data in both directions on the session (see SessionAge)",
        "SessionBytesPerHour|lte: 4000000",
    ),
    _sockets(
        "SessionSegmentsPerHour",
        "1/h",
        "segments with data in both directions on the session",
        "SessionSegmentsPerHour|lte: 20000",
    ),
    _sockets(
        "SessionOutsideCluster",
        "bool",
        "the session leads out of the cluster's networks",
        "SessionOutsideCluster: true",
    ),
    _sockets(
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
    _sockets(
        "PeerCount",
        "count",
        "addresses outside the cluster to which the pod has opened connections",
        "PeerCount|gte: 12",
    ),
    _sockets(
        "PodAcceptsConnections",
        "bool",
        "the pod has a connection that another host opened",
        "PodAcceptsConnections: false",
    ),
    _sockets(
        "ShortLoginsPerMinute",
        "count",
        "short logins: the pod's connections to login services that end within 30 s",
        "ShortLoginsPerMinute|gte: 120",
    ),
    _sockets(
        "ShortLoginCount",
        "count",
        "addresses and ports that short logins lead to",
        "ShortLoginCount|lte: 10",
    ),
    _sockets(
        "ShortLoginIp", "list", "addresses with most short logins", "ShortLoginIp|exists: true"
    ),
    _sockets("ShortLoginPort", "list", "ports with most short logins", "ShortLoginPort: 22"),
    _sockets(
        "UnansweredCount",
        "count",
        "addresses and ports that the pod waits for; read if many tries to connect fail",
        "UnansweredCount|gte: 6",
    ),
    _sockets(
        "UnansweredSpread",
        "0..1",
        "UnansweredCount for each connect that was seen: 1 if each leads elsewhere",
        "UnansweredSpread|gte: 0.5",
    ),
    _sockets(
        "UnansweredIp",
        "list",
        "addresses that most unanswered connects lead to",
        "UnansweredIp|exists: true",
    ),
    _sockets(
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
    _sockets(
        "DestinationIp",
        "list",
        "remote addresses of the process's connections",
        "DestinationIp|cidr: 203.0.113.0/24",
    ),
    _sockets(
        "DestinationPort",
        "list",
        "remote ports of the process's connections",
        "DestinationPort: [3333, 14444]",
    ),
    _sockets(
        "DestinationCount",
        "count",
        "distinct remote addresses or ports of the process's connections",
        "DestinationCount|gte: 6",
    ),
    _first_words(
        "DestinationHostname",
        "list",
        "the same as ServerName, by Sigma's name",
        "DestinationHostname|endswith: .pool.example",
    ),
    _sockets(
        "Initiated",
        "bool",
        "the process opened at least one of its connections itself",
        "Initiated: true",
    ),
    _sockets(
        "LongestConnection",
        "s",
        "age of the process's oldest open connection",
        "LongestConnection|gte: 3600",
    ),
    _first_words(
        "ServerName",
        "list",
        "server names in TLS handshakes; only names that a rule has are kept",
        "ServerName|endswith: .pool.example",
    ),
    _first_words(
        "PoolWords",
        "list",
        "stratum methods in the first words of the process's connections",
        "PoolWords: [login, mining.subscribe]",
    ),
    *_SESSIONS,
    *_POD,
)
