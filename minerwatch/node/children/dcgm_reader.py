"""Reads the metrics of dcgm-exporter, in a process of its own: no answer of it is trusted.

The agent starts this file as a child (``dcgm_reader.py URL``); it exits when its input ends. Each
line of that is a question. The answer is as that of ``gpu_sampler``, but has ``pods`` instead of
``uses``: ``[device, namespace, pod, container, memory_bytes]``. An exporter knows to which pod the
kubelet gave a device, not which process uses it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

MAX_BYTES = 4 << 20
MAX_DEVICES = 64
MAX_PODS = 128
MAX_S = 5.0
_BUSY, _ACTIVE = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_WATTS, _MEMORY = "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_FB_USED"
_NAMES = "|".join((_BUSY, _ACTIVE, _WATTS, _MEMORY))
_SERIES = re.compile(
    rf'^({_NAMES})\{{(?:gpu="[^"\n]*",)?UUID="([^"\n]+)"(?:,(?:pci_bus_id|device)="[^"\n]*")*'
    r'(?:,modelName="([^"\n]*)")?(?:,GPU_I_PROFILE="[^"\n]*",GPU_I_ID="([^"\n]*)")?'
    r"([^\n]*)\} ([0-9.eE+-]{1,32})",
    re.MULTILINE,
)
"""A device's own labels are the first. Labels of the pod may follow, under names that its tenant
chooses, these included; the pod's names are the last."""
_MAX_LABELS = 4000  # characters, from the end
_LABEL = re.compile(r',(\w{1,40})="([^"\\]{0,256})"')
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NOT_PLAIN = re.compile(r"[^ -~]")
_MAX_TEXT = 64

_Pod = tuple[str, str, str]


class _Device:
    """A device, or an instance of one (MIG)."""

    def __init__(self, uuid: str, instance: str, name: str) -> None:
        self.uuid = uuid
        self.instance = instance
        self.name = name
        self.figures: dict[str, float] = {}
        self.pods: dict[_Pod, None] = {}

    def shown(self) -> dict[str, Any]:
        """Return it as in an answer; power of the whole card is of none of its instances."""
        name = f"{self.uuid}/{self.instance}" if self.instance else self.uuid
        percent = None if self.instance else self.figures.get(_BUSY)
        return {
            "id": _NOT_PLAIN.sub("?", name)[:_MAX_TEXT],
            "name": _NOT_PLAIN.sub("?", self.name)[:_MAX_TEXT],
            "busy": self.figures.get(_ACTIVE) if percent is None else percent / 100,
            "watts": None if self.instance else self.figures.get(_WATTS),
        }


def parsed(text: str) -> dict[str, Any]:
    """Return the devices and their pods in the text of a scrape."""
    found: dict[tuple[str, str], _Device] = {}
    driver = ""
    for metric, uuid, name, instance, labels_text, value in _SERIES.findall(text):
        labels = dict(_LABEL.findall(labels_text[-_MAX_LABELS:]))
        key = uuid, instance
        if key not in found and len(found) < MAX_DEVICES:
            found[key] = _Device(uuid, instance, name)
        if key in found:
            driver = driver or labels.get("DCGM_FI_DRIVER_VERSION", "")
            _add(found[key], metric, labels, value)
    split = {uuid for uuid, instance in found if instance}
    devices = [*found.values()]
    pods = sorted(  # of each device in turn
        (rank, number, pod)
        for number, device in enumerate(devices)
        for rank, pod in enumerate(device.pods)
    )
    left_out = Counter(number for _, number, _ in pods[MAX_PODS:])
    return {
        "sources": [f"dcgm {_NOT_PLAIN.sub('?', driver)}"[:_MAX_TEXT].strip()] if devices else [],
        "devices": [
            {
                **each.shown(),
                "is_split": not each.instance and each.uuid in split,
                "left_out": left_out[number],
            }
            for number, each in enumerate(devices)
        ],
        "pods": [
            [number, *pod, _memory_bytes(devices[number])] for _, number, pod in pods[:MAX_PODS]
        ],
    }


def _add(device: _Device, metric: str, labels: dict[str, str], value: str) -> None:
    try:
        number = float(value)
    except ValueError:
        return
    if isfinite(number) and number >= 0:
        device.figures[metric] = number
    pod = labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", "")
    if len(device.pods) <= MAX_PODS and all(map(_KUBERNETES_NAME.fullmatch, pod)):
        device.pods[pod] = None


def _memory_bytes(device: _Device) -> int | None:
    """Return its memory in use, if that is of one pod."""
    mib = device.figures.get(_MEMORY)
    return (
        int(mib * (1 << 20))
        if mib is not None and mib < 1 << 30 and len(device.pods) == 1
        else None
    )


def fetched(url: str) -> str:
    """Return the body of the answer. Raises OSError or HTTPException."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port or 80)
    signal.setitimer(signal.ITIMER_REAL, MAX_S)  # of all steps together
    try:
        connection.request("GET", parts.path or "/metrics", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES + 1) if answer.status == 200 else b""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.close()
    if answer.status != 200 or len(body) > MAX_BYTES:
        raise OSError("refused, or too large")
    return body.decode("utf-8", "replace")


def _expire(*_: object) -> None:
    raise TimeoutError("no answer in time")


def _answer(url: str, failures: Counter[str]) -> dict[str, Any]:
    at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    found: dict[str, Any] = {}
    try:
        found = parsed(fetched(url))
    except (OSError, ValueError, HTTPException):
        failures["exporter"] += 1
    else:
        failures["exporter_without_gpus"] += not found["devices"]
    namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - pathlib is slow to import
    return {"at_s": at_s, "pid_namespace": namespace, "failures": failures, **found}


def serve(url: str) -> None:
    """Answer each line of the input."""
    signal.signal(signal.SIGALRM, _expire)
    failures: Counter[str] = Counter()
    while sys.stdin.buffer.readline():
        sys.stdout.write(json.dumps(_answer(url, failures)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
