"""Use of GPUs' arithmetic units (pipes), of a device that one container alone uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minerwatch.detection.facts import measured
from minerwatch.model import ContainerKey, Facts
from minerwatch.node.gpu_use import GpuDevice

Users = Sequence[set[ContainerKey | None]]
"""Containers on each device; None: a process that is not known."""
_COUNTED = ("integer", "fp16", "fp32", "fp64", "tensor")
"""Pipes that ``GpuIntegerShare`` is a share of; ``tensor`` is any use of tensor cores."""


def sole_pipes(
    now: tuple[Sequence[GpuDevice], Users], before: tuple[Sequence[GpuDevice], Users]
) -> dict[int, Mapping[str, float]]:
    """Return the figures by device that one container alone used when they began and ended.

    They are of all that ran on the device, and are never divided.
    """
    users_before = {device.id: users for device, users in zip(*before, strict=True)}
    return {
        index: device.pipes
        for index, (device, users) in enumerate(zip(*now, strict=True))
        if device.id
        and len(users) == 1
        and None not in users
        and users == users_before.get(device.id)
        and not (device.is_split or device.left_out)
        and device.pipes
    }


def pipe_facts(of_devices: Sequence[Mapping[str, float]]) -> Facts:
    """Return the facts by the figures of the busiest device, so that idle ones dilute nothing."""
    pipes = max(of_devices, key=lambda each: each.get("sm", 0.0), default={})
    counted = [pipes[name] for name in _COUNTED if name in pipes]
    is_complete = len(counted) == len(_COUNTED) and sum(counted) > 0
    sent, received = pipes.get("host_sent"), pipes.get("host_received")
    return measured(
        GpuInteger=pipes.get("integer"),
        GpuIntegerShare=pipes["integer"] / sum(counted) if is_complete else None,
        GpuFp16=pipes.get("fp16"),
        GpuFp32=pipes.get("fp32"),
        GpuFp64=pipes.get("fp64"),
        GpuTensor=pipes.get("tensor"),
        GpuTensorFloat=pipes.get("tensor_float"),
        GpuTensorInt8=pipes.get("tensor_int8"),
        GpuDram=pipes.get("dram"),
        GpuHostTraffic=None if sent is None or received is None else sent + received,
    )
