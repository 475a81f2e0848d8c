from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node.cluster_networks import ClusterNetworks

ROUTES = b"""Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0
cni0\t007100CB\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ROUTES6 = (
    b"20010db8000100000000000000000000 40 " + b"0" * 32 + b" 00 " + b"0" * 32 + b" 0 0 0 0 cni0\n"
    b"20000000000000000000000000000000 03 " + b"0" * 32 + b" 00 " + b"0" * 32 + b" 0 0 0 0 eth0\n"
)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    net = tmp_path / "1" / "net"
    net.mkdir(parents=True)
    (net / "route").write_bytes(ROUTES)
    (net / "ipv6_route").write_bytes(ROUTES6)
    return tmp_path


@pytest.mark.parametrize(
    ("address", "is_outside"),
    [
        ("10.96.0.1", False),
        ("100.64.3.4", False),
        ("127.0.0.1", False),
        ("fd00::1", False),
        ("203.0.113.9", False),  # by a route
        ("2001:db8:1::7", False),
        ("192.0.2.7", False),  # listed
        ("198.51.100.7", True),
        ("8.8.8.8", True),
        ("2001:db8:2::7", True),
    ],
)
def test_what_is_outside(proc: Path, address: str, is_outside: bool) -> None:
    networks = ClusterNetworks(["192.0.2.0/24"], str(proc))
    assert networks.is_outside(address, 1.0) is is_outside


def test_routes_are_read_again(proc: Path) -> None:
    networks = ClusterNetworks(proc=str(proc))
    assert not networks.is_outside("203.0.113.9", 1.0)
    (proc / "1" / "net" / "route").write_bytes(b"")
    assert not networks.is_outside("203.0.113.9", 300.0)
    assert networks.is_outside("203.0.113.9", 700.0)


def test_routes_of_many_pages_are_read(proc: Path, small_pages: None) -> None:
    assert not ClusterNetworks(proc=str(proc)).is_outside("203.0.113.9", 1.0)


def test_without_routes_private_ranges_remain(tmp_path: Path) -> None:
    networks = ClusterNetworks(proc=str(tmp_path))
    assert not networks.is_outside("192.168.1.1", 1.0)
    assert networks.is_outside("203.0.113.9", 1.0)


@given(st.binary(max_size=200))
def test_no_routes_stop_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("proc")
    (folder / "1" / "net").mkdir(parents=True)
    (folder / "1" / "net" / "route").write_bytes(content)
    (folder / "1" / "net" / "ipv6_route").write_bytes(content)
    assert not ClusterNetworks(proc=str(folder)).is_outside("10.0.0.1", 1.0)
