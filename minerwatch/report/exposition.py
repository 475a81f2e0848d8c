"""Counters, gauges, histograms and summaries, and the text in which Prometheus scrapes them.

The names and calls are those of prometheus_client, of which this is the small part that an agent
needs: the whole brings HTTP servers and clients, TLS and mail with it, and 7 MiB. The tests hold
the two against each other. The format: "Text-based format" in Prometheus' documentation.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, Generic, Protocol, TypeVar

_LARGE_DIGITS = 6
"""Of a number before its point, from which on it is written with an exponent."""

_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str
    labels: _Labels
    value: float


class Metric:
    """All samples of one name, as they are now."""

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        value: float | None = None,
    ) -> None:
        """``value``: of a metric without labels."""
        self.name = name
        self.documentation = documentation
        self.samples: list[_Sample] = []
        self._label_names = tuple(labels)
        if value is not None:
            self.add_metric((), value)

    def add_metric(self, labels: Sequence[str], value: float) -> None:
        """Adds the sample with these values of the labels."""
        self.add_sample("", tuple(zip(self._label_names, labels, strict=True)), value)

    def add_sample(self, suffix: str, labels: _Labels, value: float) -> None:
        """Adds a sample whose name goes on after the metric's."""
        self.samples.append(_Sample(self.name + suffix, labels, value))


class CounterMetricFamily(Metric):
    """A counter; its name ends in ``_total``, whether it is given so or not."""

    kind = "counter"

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        value: float | None = None,
    ) -> None:
        super().__init__(name.removesuffix("_total") + "_total", documentation, labels, value)


class GaugeMetricFamily(Metric):
    """A gauge."""

    kind = "gauge"


class _HistogramFamily(Metric):
    kind = "histogram"


class _SummaryFamily(Metric):
    kind = "summary"


class Collector(Protocol):
    """Whatever knows some metrics when it is asked."""

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""


class CollectorRegistry:
    """All collectors of one exposition, in the order in which they came."""

    def __init__(self) -> None:
        self._collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Adds a collector."""
        self._collectors.append(collector)

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        for collector in self._collectors:
            yield from collector.collect()


def generate_latest(registry: CollectorRegistry) -> bytes:
    """The text format of all that a registry knows."""
    lines = []
    for metric in registry.collect():
        told = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines.append(f"# HELP {metric.name} {told}\n# TYPE {metric.name} {metric.kind}\n")
        lines += map(_line, metric.samples)
    return "".join(lines).encode()


def _line(sample: _Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in sorted(sample.labels))
    return f"{sample.name}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    """As Go writes it, and every client of Prometheus."""
    value = float(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    text = repr(value)
    digits = text.find(".")
    if value > 0 and digits > _LARGE_DIGITS:
        mantissa = f"{text[0]}.{text[1:digits]}{text[digits + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{digits - 1:02d}"
    return text


class _CounterValue:
    """One counter, with its labels' values given."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Adds ``amount``; raises ValueError for less than nothing."""
        if amount < 0:
            raise ValueError("a counter never falls")
        with self._lock:
            self._value += amount

    def put(self, metric: Metric, labels: _Labels) -> None:
        """Adds what it is now to ``metric``."""
        metric.add_sample("", labels, self._value)


class _GaugeValue:
    """One gauge, with its labels' values given."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._value = 0.0

    def set(self, value: float) -> None:
        """It is ``value`` from now on."""
        with self._lock:
            self._value = float(value)

    def inc(self, amount: float = 1) -> None:
        """Adds ``amount``."""
        with self._lock:
            self._value += amount

    def dec(self, amount: float = 1) -> None:
        """Takes ``amount`` away."""
        self.inc(-amount)

    def put(self, metric: Metric, labels: _Labels) -> None:
        """Adds what it is now to ``metric``."""
        metric.add_sample("", labels, self._value)


class _SummaryValue:
    """One summary, with its labels' values given."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        """Takes note of one more."""
        with self._lock:
            self._count += 1
            self._sum += amount

    def put(self, metric: Metric, labels: _Labels) -> None:
        """Adds what it is now to ``metric``."""
        with self._lock:
            count, total = self._count, self._sum
        metric.add_sample("_count", labels, count)
        metric.add_sample("_sum", labels, total)


class _HistogramValue:
    """One histogram, with its labels' values given."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._lock = Lock()
        self._buckets = buckets
        self._counts = [0] * len(buckets)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        """Takes note of one more."""
        with self._lock:
            self._counts[bisect_left(self._buckets, amount)] += 1
            self._sum += amount

    def put(self, metric: Metric, labels: _Labels) -> None:
        """Adds what it is now to ``metric``."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        count = 0
        for bucket, more in zip(self._buckets, counts, strict=True):
            count += more
            metric.add_sample("_bucket", (*labels, ("le", _number(bucket))), count)
        metric.add_sample("_count", labels, count)
        metric.add_sample("_sum", labels, total)


V = TypeVar("V", _CounterValue, _GaugeValue, _SummaryValue, _HistogramValue)


class _Instrument(Generic[V]):
    """A metric that is told what happens; one value for each choice of its labels."""

    family: ClassVar[type[Metric]]

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label_names = tuple(labelnames)
        self._lock = Lock()
        self._values: dict[tuple[str, ...], V] = {}
        if not self._label_names:
            self.labels()
        registry.register(self)

    def labels(self, *values: object) -> V:
        """The one with these values of the labels; made when it is first asked for."""
        key = tuple(str(value) for value in values)
        if len(key) != len(self._label_names):
            raise ValueError(f"{self._name} has the labels {', '.join(self._label_names)}")
        with self._lock:
            found = self._values.get(key)
            if found is None:
                found = self._values[key] = self._new()
            return found

    def remove(self, *values: object) -> None:
        """Forgets the one with these values of the labels."""
        with self._lock:
            self._values.pop(tuple(str(value) for value in values), None)

    def collect(self) -> Iterator[Metric]:
        """All values as they are now."""
        metric = self.family(self._name, self._documentation)
        with self._lock:
            values = list(self._values.items())
        for key, value in values:
            value.put(metric, tuple(zip(self._label_names, key, strict=True)))
        yield metric

    def _new(self) -> V:
        raise NotImplementedError


class Counter(_Instrument[_CounterValue]):
    """What only grows."""

    family = CounterMetricFamily

    def inc(self, amount: float = 1) -> None:
        """Adds ``amount``, where there are no labels."""
        self.labels().inc(amount)

    def _new(self) -> _CounterValue:
        return _CounterValue()


class Gauge(_Instrument[_GaugeValue]):
    """What rises and falls."""

    family = GaugeMetricFamily

    def set(self, value: float) -> None:
        """It is ``value`` from now on, where there are no labels."""
        self.labels().set(value)

    def inc(self, amount: float = 1) -> None:
        """Adds ``amount``, where there are no labels."""
        self.labels().inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Takes ``amount`` away, where there are no labels."""
        self.labels().dec(amount)

    def _new(self) -> _GaugeValue:
        return _GaugeValue()


class Summary(_Instrument[_SummaryValue]):
    """How many, and how much in all."""

    family = _SummaryFamily

    def observe(self, amount: float) -> None:
        """Takes note of one more, where there are no labels."""
        self.labels().observe(amount)

    def _new(self) -> _SummaryValue:
        return _SummaryValue()


class Histogram(_Instrument[_HistogramValue]):
    """How many of each size."""

    family = _HistogramFamily

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """``buckets``: upper bounds, rising; what is above the last one is counted, too."""
        self._buckets = (*buckets, math.inf) if buckets[-1] < math.inf else tuple(buckets)
        super().__init__(name, documentation, labelnames, registry=registry)

    def observe(self, amount: float) -> None:
        """Takes note of one more, where there are no labels."""
        self.labels().observe(amount)

    def _new(self) -> _HistogramValue:
        return _HistogramValue(self._buckets)
