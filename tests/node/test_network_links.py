"""Links between network namespaces, of this kernel."""

from __future__ import annotations

import os

import pytest

from benchmarks.bridge import bridge, in_namespace
from benchmarks.networks import NoNetworksError
from minerwatch.node.network_links import NetworkLinks
from tests.conftest import needs_root

GONE = 1 << 22
"""No process has this PID (/proc/sys/kernel/pid_max)."""


@needs_root
def test_each_pod_has_its_own_interface() -> None:
    try:
        with bridge() as node, node.saying(0, b"{}") as first, node.saying(1, b"{}") as second:
            links = in_namespace(node.host, NetworkLinks)
            peers = links.peers()
            assert peers["veth0"] == links.number_of(first.pid) >= 0
            assert peers["veth1"] == links.number_of(second.pid) >= 0
            assert peers.keys() == {"veth0", "veth1", "uplink"}
            assert len(set(peers.values())) == 3
            assert links.number_of(os.getpid()) not in peers.values()
            links.close()
    except NoNetworksError as error:
        pytest.skip(f"{error}: run it as root")


def test_a_process_that_is_gone_has_no_network() -> None:
    links = NetworkLinks()
    with pytest.raises(OSError, match="rtnetlink refuses"):
        links.number_of(GONE)
    assert links.number_of(os.getpid()) < 0
    assert "lo" not in links.peers()
    links.close()
