"""A neighbour's packets make no scanner of a pod; in network namespaces of this kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks import networks as bench
from benchmarks.neighbours import ATTACKS, UNPROVABLE
from benchmarks.networks import Networks
from minerwatch.detection.network_rates import network_facts
from minerwatch.model import Facts, Level
from minerwatch.network_totals import NetworkCounters
from minerwatch.node.network_counters import CounterReader
from tests import shipped
from tests.conftest import needs_root
from tests.networks import two_networks
from tests.waiting import until

ATTACK_PACKETS = 60
"""A neighbour sends 200 a second."""
WORST: Facts = {
    "UnansweredCount": 1024,
    "UnansweredSpread": 1.0,
    "UnansweredIp": ("203.0.113.7",),
    "UnansweredPort": ("443",),
    "ClosedCount": 3000,
    "ClosedSpread": 1.0,
    "ClosedIp": ("203.0.113.7",),
    "ClosedPort": ("443",),
    "RawSocketCount": 1,
    "PeerCount": 16,
    "PodAcceptsConnections": False,
}
"""As if each connect that was seen led elsewhere, packets were captured and peers were many."""


@pytest.fixture(scope="module")
def pods() -> Iterator[Networks]:
    with two_networks() as found:
        yield found


def facts_under(attack: str, pods: Networks) -> Facts:
    """Return the facts about the victim while it is attacked."""
    reader = CounterReader()
    with pods.running(pods.client, attack, "60") as victim:
        bench.namespace_of(victim.pid)

        def read() -> NetworkCounters:
            devices = reader.devices(victim.pid, time.monotonic())
            assert devices is not None
            counters = reader.protocols(victim.pid, devices)
            assert counters is not None
            return counters

        began = read()
        until(lambda: read().devices.sent_packets >= began.devices.sent_packets + 20)
        with pods.running(pods.world, f"against: {attack}", "60"):
            quiet = read()
            until(lambda: sends(read(), quiet))
            before = read()
            until(lambda: after(read(), before))
            return network_facts(before, read())


def sends(now: NetworkCounters, before: NetworkCounters) -> bool:
    return now.devices.received_packets >= before.devices.received_packets + ATTACK_PACKETS


def after(now: NetworkCounters, before: NetworkCounters) -> bool:
    """Return True if both the victim and its neighbour have sent enough."""
    has_worked = now.connects + now.datagrams >= before.connects + before.datagrams + 25
    return has_worked and sends(now, before)


@needs_root
@pytest.mark.parametrize("attack", [*ATTACKS])
def test_what_a_neighbour_sends_makes_no_scanner_or_relay_of_a_pod(
    attack: str, pods: Networks
) -> None:
    facts = facts_under(attack, pods)
    scores = bench.found_on(shipped.matcher(), {**WORST, **facts})
    if attack == UNPROVABLE:
        # Nothing in the kernel shows that the answers are false
        assert Level.of(max(scores.values(), default=0.0)) <= Level.SUSPICIOUS
    else:
        assert scores == {}, facts
