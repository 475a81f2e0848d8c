"""Fields about the sockets of a process, and about the network counters of its pod."""

from __future__ import annotations

from minerwatch.detection.field_types import Field, Source

_SOCKETS = Source(
    "the socket iterator (BPF), or /proc/PID/net/tcp and fd",
    "BPF, PERFMON; or SYS_PTRACE, DAC_READ_SEARCH",
)
_FIRST_WORDS = Source("first words of connections (packet sockets)", "NET_RAW, BPF, PERFMON")
_COUNTERS = Source("/proc/PID/net/snmp, snmp6, dev of the pod", "SYS_PTRACE")


_SESSIONS: tuple[Field, ...] = (
    _SOCKETS.dynamic(
        "SessionCount", "count", "open TCP connections that the process opened itself", "|lte: 3"
    ),
    _SOCKETS.dynamic(
        "SessionAge",
        "s",
        "age of the session: the quietest lasting connection, outside the cluster if any is",
        "|gte: 120",
    ),
    _SOCKETS.dynamic(
        "SessionBytesPerHour",
        "B/h",
        "data in both directions on the session (see SessionAge)",
        "|lte: 4000000",
    ),
    _SOCKETS.dynamic(
        "SessionSegmentsPerHour",
        "1/h",
        "segments with data in both directions on the session",
        "|lte: 20000",
    ),
    _SOCKETS.dynamic(
        "SessionOutsideCluster", "bool", "the session leads out of the cluster's networks", ": true"
    ),
    _SOCKETS.dynamic(
        "AcceptsConnections",
        "bool",
        "the process listens for TCP connections, or has accepted one",
        ": false",
    ),
)

_POD: tuple[Field, ...] = (
    _COUNTERS.dynamic(
        "ConnectsPerSecond",
        "1/s",
        "TCP connections that the pod tries to open, loopback left out",
        "|gte: 10",
    ),
    _COUNTERS.dynamic(
        "FailedConnectShare",
        "0..1",
        "share of the pod's tries to connect that are refused, time out or get no answer",
        "|gte: 0.6",
    ),
    _COUNTERS.dynamic(
        "SegmentsPerConnect",
        "segments",
        "TCP segments that the pod receives for each try to connect",
        "|lte: 1.5",
    ),
    _COUNTERS.dynamic(
        "DatagramsPerSecond",
        "1/s",
        "UDP datagrams and pings that the pod sends, loopback left out",
        "|gte: 5000",
    ),
    _COUNTERS.dynamic(
        "DatagramAnswerShare",
        "0..1",
        "datagrams that the pod receives for each that it sends",
        "|lte: 0.02",
    ),
    _COUNTERS.dynamic(
        "UnreachablePerSecond",
        "1/s",
        "ICMP answers to the pod that a destination is unreachable",
        "|gte: 5",
    ),
    _COUNTERS.dynamic(
        "RawPacketsPerSecond",
        "1/s",
        "packets of the pod that were not sent by the kernel's TCP, UDP or ICMP",
        "|gte: 20",
    ),
    _COUNTERS.dynamic(
        "RawSocketCount",
        "count",
        "raw and packet sockets of the pod; counted if it sends raw packets",
        "|gte: 1",
    ),
    _COUNTERS.dynamic(
        "LoopbackPacketsPerSecond",
        "1/s",
        "packets that the pod sends to itself over loopback",
        "|lt: 20",
    ),
    _COUNTERS.dynamic(
        "SentBytesPerSecond", "B/s", "bytes that the pod sends, loopback left out", "|gte: 1000000"
    ),
    _COUNTERS.dynamic(
        "ReceivedBytesPerSecond",
        "B/s",
        "bytes that the pod receives, loopback left out",
        "|gte: 1000000",
    ),
    _COUNTERS.dynamic(
        "RelayedShare",
        "0..1",
        "bytes sent by bytes received, or the reverse, without headers, pings, answered datagrams",
        "|gte: 0.7",
    ),
    _SOCKETS.dynamic(
        "PeerCount",
        "count",
        "addresses outside the cluster to which the pod has opened connections",
        "|gte: 12",
    ),
    _SOCKETS.dynamic(
        "PodAcceptsConnections",
        "bool",
        "the pod has a connection that another host opened",
        ": false",
    ),
    _SOCKETS.dynamic(
        "ShortLoginsPerMinute",
        "count",
        "short logins: the pod's connections to login services that end within 30 s",
        "|gte: 120",
    ),
    _SOCKETS.dynamic(
        "ShortLoginCount", "count", "addresses and ports that short logins lead to", "|lte: 10"
    ),
    _SOCKETS.dynamic("ShortLoginIp", "list", "addresses with most short logins", "|exists: true"),
    _SOCKETS.dynamic("ShortLoginPort", "list", "ports with most short logins", ": 22"),
    _SOCKETS.dynamic(
        "UnansweredCount",
        "count",
        "addresses and ports that the pod waits for; read if many tries to connect fail",
        "|gte: 6",
    ),
    _SOCKETS.dynamic(
        "UnansweredSpread",
        "0..1",
        "UnansweredCount for each connect that was seen: 1 if each leads elsewhere",
        "|gte: 0.5",
    ),
    _SOCKETS.dynamic(
        "UnansweredIp", "list", "addresses that most unanswered connects lead to", "|exists: true"
    ),
    _SOCKETS.dynamic(
        "UnansweredPort", "list", "ports that most unanswered connects lead to", "|exists: true"
    ),
    _SOCKETS.dynamic(
        "ClosedCount",
        "count",
        "addresses and ports of connections that the pod closed within a minute; read if these"
        " bring little",
        "|gte: 500",
    ),
    _SOCKETS.dynamic(
        "ClosedSpread",
        "0..1",
        "ClosedCount for each of these connections: 1 if each led elsewhere",
        "|gte: 0.97",
    ),
    _SOCKETS.dynamic(
        "ClosedIp", "list", "addresses that most closed connections led to", "|exists: true"
    ),
    _SOCKETS.dynamic(
        "ClosedPort", "list", "ports that most closed connections led to", "|exists: true"
    ),
)

SESSION_FIELDS = tuple(each.name for each in _SESSIONS)
COUNTER_FIELDS = tuple(each.name for each in _POD)

NETWORK_FIELDS = (
    _SOCKETS.dynamic(
        "DestinationIp",
        "list",
        "remote addresses of the process's connections",
        "|cidr: 203.0.113.0/24",
    ),
    _SOCKETS.dynamic(
        "DestinationPort", "list", "remote ports of the process's connections", ": [3333, 14444]"
    ),
    _SOCKETS.dynamic(
        "DestinationCount",
        "count",
        "distinct remote addresses or ports of the process's connections",
        "|gte: 6",
    ),
    _FIRST_WORDS.dynamic(
        "DestinationHostname",
        "list",
        "the same as ServerName, by Sigma's name",
        "|endswith: .pool.example",
    ),
    _SOCKETS.dynamic(
        "Initiated", "bool", "the process opened at least one of its connections itself", ": true"
    ),
    _SOCKETS.dynamic(
        "LongestConnection", "s", "age of the process's oldest open connection", "|gte: 3600"
    ),
    _FIRST_WORDS.dynamic(
        "ServerName",
        "list",
        "server names in TLS handshakes; only names that a rule has are kept",
        "|endswith: .pool.example",
    ),
    _FIRST_WORDS.dynamic(
        "PoolWords",
        "list",
        "stratum methods in the first words of the process's connections",
        ": [login, mining.subscribe]",
    ),
    *_SESSIONS,
    *_POD,
)
