"""Use of a GPU's arithmetic units (pipes), by GPM on Hopper and newer; part of ``gpu_nvml``.

Two samples of a device's counters make means of the time between them, of all that runs on the
device. NVIDIA's engineers say that this disturbs no profiler; it was not tried.
"""

from __future__ import annotations

import ctypes as c
import math
import time
from collections.abc import Callable

METRICS = {
    "sm": 2, "integer": 4, "tensor": 5, "tensor_float": 7, "tensor_int8": 9, "dram": 10,
    "fp64": 11, "fp32": 12, "fp16": 13, "host_sent": 20, "host_received": 21,
}  # fmt: skip
"""Names here to NVML_GPM_METRIC_…: percent of cycles; of the last two MiB/s."""
_TRAFFIC = ("host_sent", "host_received")
_MAX_METRICS = 512  # the vendor's bound, which grows: only those that are asked for are written
_VERSION = 1
_MIN_APART_S = 0.1  # the counters are renewed no faster


class Support(c.Structure):
    """``nvmlGpmSupport_t``."""

    _fields_ = (("version", c.c_uint), ("is_supported", c.c_uint))


class Metric(c.Structure):
    """``nvmlGpmMetric_t``."""

    _fields_ = (
        *(("id", c.c_uint), ("code", c.c_uint), ("value", c.c_double)),
        ("texts", c.c_char_p * 3),  # its names and unit
    )


class Metrics(c.Structure):
    """``nvmlGpmMetricsGet_t``."""

    _fields_ = (
        *(("version", c.c_uint), ("count", c.c_uint)),
        *(("before", c.c_void_p), ("now", c.c_void_p)),
        ("metrics", Metric * _MAX_METRICS),
    )


class Pipes:
    """Two samples of one device, which the driver allocates."""

    def __init__(self, call: Callable[..., int]) -> None:
        """``call`` calls a function by its name and returns its code, 0 for success."""
        self._call = call
        self._samples: list[c.c_void_p] = []
        self._taken_s: float | None = None
        self._is_supported: bool | None = None

    def read(self, handle: c.c_void_p) -> dict[str, float]:
        """Return the means since the last reading, 0..1 or MiB/s; empty if they are not known."""
        if not self._is_ready(handle):
            return {}
        before, now = self._samples
        before_s, self._taken_s = self._taken_s, None
        if before_s is not None and time.monotonic() - before_s < _MIN_APART_S:
            self._taken_s = before_s
            return {}
        if self._call("nvmlGpmSampleGet", handle, now):
            return {}
        self._samples, self._taken_s = [now, before], time.monotonic()
        return {} if before_s is None else self._means(before, now)

    def forget(self) -> None:
        """Drop the last sample: the next two readings make the next figures."""
        self._taken_s = None

    def close(self) -> None:
        """Free the samples."""
        for sample in self._samples:
            self._call("nvmlGpmSampleFree", sample)
        self._samples, self._taken_s = [], None

    def _is_ready(self, handle: c.c_void_p) -> bool:
        if self._is_supported is None:
            support = Support(_VERSION)
            code = self._call("nvmlGpmQueryDeviceSupport", handle, c.byref(support))
            if code:
                return False
            self._is_supported = bool(support.is_supported)
        while self._is_supported and len(self._samples) < 2:
            sample = c.c_void_p()
            if self._call("nvmlGpmSampleAlloc", c.byref(sample)):
                return False
            self._samples.append(sample)
        return self._is_supported

    def _means(self, before: c.c_void_p, now: c.c_void_p) -> dict[str, float]:
        asked = Metrics(_VERSION, len(METRICS), before, now)
        for number, metric in enumerate(METRICS.values()):
            asked.metrics[number].id = metric
        if self._call("nvmlGpmMetricsGet", c.byref(asked)):
            return {}
        return {
            name: each.value if name in _TRAFFIC else min(each.value, 100.0) / 100
            for name, each in zip(METRICS, asked.metrics, strict=False)
            if not each.code and math.isfinite(each.value) and each.value >= 0
        }
