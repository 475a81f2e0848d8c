"""Scans from a container with a network of its own, from the kernel to the verdict."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from benchmarks.networks import Networks, namespace_of
from minerwatch.agent.monitor import MonitoredNode, now_s, open_node
from minerwatch.config.schema import Config, Node, Probes
from minerwatch.model import Abuse, Level, Observation
from tests import shipped
from tests.conftest import TOP, CgroupFolders, container_id, needs_root, private_sys
from tests.networks import two_networks
from tests.waiting import until

NETWORK_ONLY = Config(
    probes=Probes(
        tasks=False, connections=False, mappings=False, content=False, drift=False, rounding=False,
        executed_code=False,
    )
)  # fmt: skip


def opened(config: Config) -> Iterator[MonitoredNode]:
    found = open_node(config, shipped.book(), matcher=shipped.matcher())
    if any(each.name == "pod_network" and each.off for each in found.probes):
        found.watch.close()
        pytest.skip("network counters need SYS_PTRACE: run it as root")
    yield found
    found.watch.close()


@pytest.fixture
def node() -> Iterator[MonitoredNode]:
    yield from opened(NETWORK_ONLY)


@pytest.fixture
def own_node(cgroups: CgroupFolders, tmp_path: Path) -> Iterator[MonitoredNode]:
    """A node without the containers of other tests."""
    cgroups.make(f"{TOP}/docker")
    folder = str(private_sys(tmp_path, cgroups.root))
    yield from opened(structs.replace(NETWORK_ONLY, node=Node(sys=folder)))


def flagged(node: MonitoredNode, found: Networks, cgroups: CgroupFolders, case: str) -> Observation:
    """Run a case in a container until it is ``likely``; a second counts for five."""
    folder = cgroups.make(f"{TOP}/docker/{container_id('b7')}")
    cgroup = f"/{folder.relative_to(cgroups.root)}"
    at_s = now_s()
    with found.running(found.client, case, "300") as client:
        cgroups.put(client, folder)

        def likely() -> Observation | None:
            nonlocal at_s
            at_s += 5.0
            node.watch.tick(at_s)
            return next(
                (
                    each
                    for each in node.watch.observations(10)
                    if each.container.cgroup == cgroup and each.verdict.level >= Level.LIKELY
                ),
                None,
            )

        observation = until(likely, every_s=1.0)
    assert observation is not None
    return observation


@needs_root
@pytest.mark.slow
def test_a_scan_is_likely_and_says_of_what(node: MonitoredNode, cgroups: CgroupFolders) -> None:
    with two_networks() as found:
        observation = flagged(node, found, cgroups, "scanning: silent hosts, 300 at once")
    (finding,) = (f for f in observation.verdict.findings if f.abuse is Abuse.SCANNING)
    assert finding.process is None
    evidence = {each.field: each.observed for each in finding.evidence}
    assert "198.51.100." in str(evidence["UnansweredIp"])
    assert "ConnectsPerSecond" in evidence


@needs_root
@pytest.mark.slow
def test_a_flood_is_likely(node: MonitoredNode, cgroups: CgroupFolders) -> None:
    with two_networks() as found:
        observation = flagged(node, found, cgroups, "flooding: datagrams")
    assert observation.verdict.findings[0].abuse is Abuse.FLOODING


@needs_root
def test_a_container_in_the_hosts_network_is_said_to_be(
    own_node: MonitoredNode, cgroups: CgroupFolders
) -> None:
    ids = [container_id(digits) for digits in ("b8", "b9")]

    def uses() -> list[bool]:
        own_node.watch.tick(now_s())
        found = {
            each.container.container_id: each.uses_host_network
            for each in own_node.watch.observations(10)
            if each.process_count
        }
        return [found[each] for each in ids if each in found]

    with two_networks() as found, found.running(found.client, "package mirror", "60") as own:
        shared = subprocess.Popen(["sh", "-c", "while :; do sleep 0.05; done"])
        for identity, process in zip(ids, (shared, own), strict=True):
            cgroups.put(process, cgroups.make(f"{TOP}/docker/{identity}"))
        namespace_of(own.pid)
        until(lambda: len(uses()) == 2, every_s=0.2)
        assert uses() == [True, False]
        until(lambda: own_node.watch.tick(now_s()).host_network_users == 1, every_s=0.2)
        shared.kill()
        shared.wait()


@needs_root
def test_failures_of_the_counters_are_in_the_metrics(node: MonitoredNode) -> None:
    assert ("pod_network", "unreadable", 0) in node.watch.failures()
