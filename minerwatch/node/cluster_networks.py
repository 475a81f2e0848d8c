"""Networks inside the cluster: private ranges, those that the node routes, those of the operator.

A node has a route to the networks of its pods and of its neighbours (route(8), proc_net(5)); all
else goes by the default route. Pods and services with public addresses elsewhere in the cluster are
known only if the operator lists them (``node.cluster_networks``).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from minerwatch.node.proc_files import read_whole

_PRIVATE = tuple(
    ip_network(each)
    for each in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("127.0.0.0/8", "0.0.0.0/8", "fc00::/7", "fe80::/10", "::/128", "::1/128"),
    )
)
_MAX_ROUTES_BYTES = 256 << 10
_MIN_PREFIX = {4: 9, 6: 17}
"""Routes of fewer bits are parts of a default route: 0.0.0.0/1 of a VPN, 2000::/3."""
_REFRESH_S = 600.0
_MAX_KNOWN = 4096

_Network = IPv4Network | IPv6Network
_Prefixes = dict[tuple[int, int], set[int]]
"""Version and bits after the prefix -> prefixes: a router has thousands of networks."""


class ClusterNetworks:
    """Recognises addresses inside the cluster; the routes are read every ten minutes."""

    def __init__(self, listed: Iterable[str] = (), proc: str = "/proc") -> None:
        """``listed``: networks as text, valid ones."""
        self._proc = proc
        self._listed = tuple(map(ip_network, listed))
        self._networks: _Prefixes = {}
        self._known: dict[str, bool] = {}
        self._read_s = float("-inf")

    def is_outside(self, address: str, at_s: float) -> bool:
        """Return True if ``address`` is in none of the networks."""
        if at_s >= self._read_s + _REFRESH_S:
            self._networks = _by_prefix((*_PRIVATE, *self._listed, *_routes(self._proc)))
            self._known, self._read_s = {}, at_s
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[address] = not _is_in(self._networks, address)
        return known


def _by_prefix(networks: Iterable[_Network]) -> _Prefixes:
    found: _Prefixes = {}
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        start = int(network.network_address) >> shift
        found.setdefault((network.version, shift), set()).add(start)
    return found


def _is_in(networks: _Prefixes, address: str) -> bool:
    parsed = ip_address(address)
    number = int(parsed)
    return any(
        version == parsed.version and number >> shift in starts
        for (version, shift), starts in networks.items()
    )


def _routes(proc: str) -> Iterator[_Network]:
    for name, parse in (("route", _route_v4), ("ipv6_route", _route_v6)):
        with suppress(OSError):
            lines = read_whole(f"{proc}/1/net/{name}", _MAX_ROUTES_BYTES).splitlines()
            for line in lines:
                with suppress(ValueError, IndexError, struct.error):
                    network = parse(line.split())
                    if network.prefixlen >= _MIN_PREFIX[network.version]:
                        yield network


def _route_v4(fields: list[bytes]) -> IPv4Network:
    address, mask = (
        socket.inet_ntoa(struct.pack("=I", int(fields[index], 16))) for index in (1, 7)
    )
    return IPv4Network((address, mask))


def _route_v6(fields: list[bytes]) -> IPv6Network:
    return IPv6Network((int(fields[0], 16), int(fields[1], 16)))
