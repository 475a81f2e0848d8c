from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.network_rates import network_facts
from minerwatch.network_totals import DeviceCounters, NetworkCounters

DEVICES = DeviceCounters(0.0, 0, 0, 0, 0, 0, 0)
START = NetworkCounters(DEVICES, 0, 0, 0, 0, 0, 0, 0)


def after(
    seconds: float, sent: int, received: int, *, loopback: int = 0, busiest: int | None = None,
    **protocols: Any,
) -> NetworkCounters:  # fmt: skip
    devices = DeviceCounters(
        seconds, loopback, sent if busiest is None else busiest, sent, received, 60 * sent, 0
    )
    return replace(START, devices=devices, **protocols)


def test_connects_that_are_refused() -> None:
    now = after(10.0, 270, 270, connects=270, failed_connects=270, segments=270)
    facts = network_facts(START, now)
    assert facts["ConnectsPerSecond"] == 27.0
    assert facts["FailedConnectShare"] == 1.0
    assert facts["SegmentsPerConnect"] == 1.0


def test_what_is_tried_over_loopback_does_not_count() -> None:
    now = after(10.0, 5, 5, loopback=6000, connects=3000, failed_connects=3000, segments=6000)
    facts = network_facts(START, now)
    assert facts["ConnectsPerSecond"] == 0.5
    assert "FailedConnectShare" not in facts


def test_few_connects_say_nothing_about_shares() -> None:
    facts = network_facts(START, after(10.0, 100, 100, connects=19, failed_connects=19))
    assert "FailedConnectShare" not in facts
    assert "SegmentsPerConnect" not in facts
    assert "DatagramAnswerShare" not in facts


def test_datagrams_and_their_answers() -> None:
    now = after(10.0, 1000, 300, datagrams=1000, answers=200, unreachables=100)
    facts = network_facts(START, now)
    assert facts["DatagramsPerSecond"] == 100.0
    assert facts["DatagramAnswerShare"] == 0.2
    assert facts["UnreachablePerSecond"] == 10.0


def test_packets_that_no_protocol_sent() -> None:
    now = after(10.0, 2200, 100, explained_packets=200, ip_received=100)
    assert network_facts(START, now)["RawPacketsPerSecond"] == 200.0


def test_answers_to_a_neighbours_arp_are_explained() -> None:
    now = after(10.0, 2200, 2100, explained_packets=200, ip_received=100)
    assert network_facts(START, now)["RawPacketsPerSecond"] == 0.0


def test_a_connect_without_any_answer_has_failed() -> None:
    now = after(10.0, 900, 300, connects=300, failed_connects=60, segments=120)
    assert network_facts(START, now)["FailedConnectShare"] == 0.8


def relayed_share(packets: int, sent: int, received: int, **protocols: int) -> float:
    """Return the share where so many packets each way carry so many bytes besides headers."""
    now = after(10.0, packets, packets, **protocols)
    devices = replace(
        now.devices, sent_bytes=66 * packets + sent, received_bytes=66 * packets + received
    )
    share = network_facts(START, replace(now, devices=devices))["RelayedShare"]
    assert isinstance(share, float)
    return share


@pytest.mark.parametrize(
    ("answered", "share"),
    [
        ({}, 0.75),
        ({"icmp_sent": 100}, 0.0),
        ({"datagrams": 1000, "answers": 900}, 0.0),
        # A resolver is asked for each site
        ({"datagrams": 10, "answers": 10, "icmp_sent": 1}, 0.73),
        # What is not answered was not asked
        ({"datagrams": 1000}, 0.75),
    ],
)
def test_what_is_answered_is_not_relayed(answered: dict[str, int], share: float) -> None:
    assert relayed_share(10_000, 400_000, 300_000, **answered) == pytest.approx(share, abs=0.01)


def test_headers_are_not_relayed() -> None:
    assert relayed_share(10_000, 20_000, 400_000) == 0.05
    assert relayed_share(10_000, 0, 0) == 0.0


def test_a_tunnels_packets_leave_twice() -> None:
    now = after(10.0, 2000, 100, busiest=1000, explained_packets=1000)
    assert network_facts(START, now)["RawPacketsPerSecond"] == 0.0


def test_a_large_upload_in_few_packets_is_no_negative_rate() -> None:
    now = after(10.0, 3500, 700, explained_packets=136_000)
    assert network_facts(START, now)["RawPacketsPerSecond"] == 0.0


def test_no_time_no_rate() -> None:
    assert network_facts(START, after(0.0, 100, 100, connects=100)) == {}


counts = st.integers(0, 1 << 40)


@given(st.lists(counts, min_size=28, max_size=28), st.floats(0.001, 1e6))
def test_whatever_is_counted_rates_are_not_negative(numbers: list[int], seconds: float) -> None:
    def reading(at_s: float, values: list[int]) -> NetworkCounters:
        devices = DeviceCounters(at_s, *values[:6])
        connects, failed, segments, datagrams, answers, unreachables, explained = values[6:13]
        return NetworkCounters(
            devices, connects, failed, segments, datagrams, answers, unreachables, explained
        )

    facts = network_facts(reading(0.0, numbers[:14]), reading(seconds, numbers[14:]))
    for name, value in facts.items():
        assert isinstance(value, int | float)
        assert value >= 0
        if name.endswith("Share"):
            assert value <= 1
