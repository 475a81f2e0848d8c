"""The exposition beside that of prometheus_client: the same calls bring the same text."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import core
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector as TheirCollector

from minerwatch.report import exposition

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

NUMBERS = st.floats(min_value=0, max_value=1e18)
ANY_NUMBER = st.one_of(st.floats(), st.integers(-(2**60), 2**60))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LABELS = st.tuples(TEXTS, TEXTS)
BUCKETS = (0.001, 0.5, 1.0, 2.5, 10_000_000.0)


@given(
    st.lists(st.tuples(LABELS, NUMBERS), max_size=10),
    st.lists(st.tuples(LABELS, ANY_NUMBER), max_size=10),
    st.lists(NUMBERS, max_size=10),
    TEXTS,
)
def test_the_same_calls_bring_the_same_text(
    counted: list[tuple[tuple[str, str], float]],
    gauged: list[tuple[tuple[str, str], float]],
    observed: list[float],
    documentation: str,
) -> None:
    def told(library: Any, families: Any, collector: type) -> bytes:
        registry = library.CollectorRegistry()
        counter = library.Counter("c", documentation, ["b", "a"], registry=registry)
        gauge = library.Gauge("g", documentation, ["b", "a"], registry=registry)
        plain = library.Gauge("plain", documentation, registry=registry)
        summary = library.Summary("s", documentation, ["x"], registry=registry)
        histogram = library.Histogram("h", documentation, buckets=BUCKETS, registry=registry)
        for labels, amount in counted:
            counter.labels(*labels).inc(amount)
        for labels, value in gauged:
            gauge.labels(*labels).set(value)
            plain.set(value)
        for amount in observed:
            histogram.observe(amount)
            summary.labels("y").observe(amount)

        class Elsewhere(collector):  # type: ignore[misc]
            def collect(self) -> Iterator[Any]:
                family = families.CounterMetricFamily("e", documentation, labels=["l", "k"])
                for labels, amount in counted:
                    family.add_metric(labels, amount)
                yield family
                yield families.GaugeMetricFamily("one", documentation, value=len(observed))

        registry.register(Elsewhere())
        text: bytes = library.generate_latest(registry)
        return text

    ours = told(exposition, exposition, object)
    assert ours == told(prometheus_client, core, TheirCollector)
    list(text_string_to_metric_families(ours.decode()))


@pytest.mark.parametrize("number", [0, 1, -1.5, 1e6, 1234567.0, 1e21, math.inf, -math.inf, 1e-9])
def test_numbers_read_as_they_were_written(number: float) -> None:
    registry = exposition.CollectorRegistry()
    exposition.Gauge("g", "", registry=registry).set(number)
    (family,) = text_string_to_metric_families(exposition.generate_latest(registry).decode())
    assert family.samples[0].value == number


def test_what_would_be_wrong_is_refused() -> None:
    registry = exposition.CollectorRegistry()
    counter = exposition.Counter("c", "", ["a"], registry=registry)
    with pytest.raises(ValueError, match="falls"):
        counter.labels("x").inc(-1)
    for labels in ((), ("x", "y")):
        with pytest.raises(ValueError, match="labels"):
            counter.labels(*labels)


def test_a_removed_series_is_gone() -> None:
    registry = exposition.CollectorRegistry()
    gauge = exposition.Gauge("g", "", ["a"], registry=registry)
    gauge.labels("x").inc(3)
    gauge.labels("x").dec()
    assert b'g{a="x"} 2.0\n' in exposition.generate_latest(registry)
    gauge.remove("x")
    assert b"a=" not in exposition.generate_latest(registry)


def test_nothing_is_lost_between_threads() -> None:
    registry = exposition.CollectorRegistry()
    counter = exposition.Counter("c", "", ["a"], registry=registry)
    histogram = exposition.Histogram("h", "", buckets=[1], registry=registry)

    def work() -> None:
        for _ in range(2000):
            counter.labels("x").inc()
            histogram.observe(0.5)
            exposition.generate_latest(registry) if _ % 100 == 0 else None

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = exposition.generate_latest(registry)
    assert b'c_total{a="x"} 8000.0\n' in text
    assert b"h_count 8000.0\n" in text
