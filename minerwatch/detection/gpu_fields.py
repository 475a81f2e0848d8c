"""Fields on the use of GPUs, of a process and of a container."""

from __future__ import annotations

from minerwatch.detection.field_types import Field, Source

_NEEDS = "the driver; SYS_PTRACE for the files"
_GPU = Source("NVML; fdinfo and KFD of AMD and Intel", _NEEDS)
_CONTAINER = Source("NVML or dcgm-exporter; fdinfo and KFD of AMD and Intel", _NEEDS)
_PODS = Source("the API server", "list and watch on pods (RBAC)")

_PIPES = Source(
    "GPM of NVIDIA's driver (Hopper and newer), if the container alone uses the GPU",
    "the driver; probes.gpu_pipes, which is off",
)

_MEASURED = (
    ("GpuDevices", "count", "GPUs, or instances of GPUs, on which it has a context", "1"),
    ("GpuBusy", "GPUs", "GPUs that the process keeps busy, as a sum of shares", "0.8"),
    ("GpuBusyFor", "s", "time for which GpuBusy has been 0.5 or more", "600"),
    ("GpuHours", "h", "GPU time of the process since it was first seen", "24"),
    ("GpuFlatness", "0..1", "evenness of the GPU use over the window: 1 if it did not vary", "0.9"),
    ("GpuMemoryMiB", "MiB", "memory of GPUs that the process uses", "1000"),
    ("ContainerGpuBusy", "GPUs", "GPUs that the container keeps busy, as a sum of shares", "0.2"),
    ("ContainerGpuHours", "h", "the container's GPU time since it was first seen", "24"),
    ("ContainerGpuDevices", "count", "GPUs, or instances of GPUs, that the container uses", "2"),
    ("ContainerGpuMemoryMiB", "MiB", "memory of GPUs that the container uses", "1000"),
    ("ContainerGpusOverRequest", "GPUs", "whole GPUs kept busy beyond those the pod requests", "1"),
    ("ContainerGpuJoules", "J", "energy of GPUs that only the container uses", "1000000"),
)

_PIPES_MEASURED = (
    ("GpuInteger", "0..1", "use of the GPU's integer units", "0.5"),
    ("GpuIntegerShare", "0..1", "GpuInteger as a share of the use of all arithmetic units", "0.6"),
    ("GpuFp16", "0..1", "use of the GPU's units for half precision", "0.1"),
    ("GpuFp32", "0..1", "use of the GPU's units for single precision", "0.1"),
    ("GpuFp64", "0..1", "use of the GPU's units for double precision", "0.1"),
    ("GpuTensor", "0..1", "use of the GPU's tensor cores", "0.1"),
    ("GpuTensorFloat", "0..1", "use of the GPU's tensor cores for floating point", "0.1"),
    ("GpuTensorInt8", "0..1", "use of the GPU's tensor cores for integers", "0.3"),
    ("GpuDram", "0..1", "use of the bandwidth of the GPU's memory", "0.6"),
    ("GpuHostTraffic", "MiB/s", "traffic between the GPU and the host, both directions", "5"),
)

GPU_FIELDS = (
    *(
        Field(
            name,
            unit,
            meaning,
            _CONTAINER if name.startswith("Container") else _GPU,
            f"{name}|gte: {least}",
            dynamic=True,
        )
        for name, unit, meaning, least in _MEASURED
    ),
    *(
        Field(name, unit, meaning, _PIPES, f"{name}|gte: {least}", dynamic=True)
        for name, unit, meaning, least in _PIPES_MEASURED
    ),
    _PODS.fixed(
        "GpuRequested",
        "bool",
        "the pod requests a GPU; absent if it claims devices by name",
        ": false",
    ),
    _PODS.fixed(
        "ContainerGpuLimit",
        "GPUs",
        "GPUs that the pod requests; absent if it claims devices by name",
        "|lt: 1",
    ),
)

CONTAINER_GPU_FIELDS = tuple(name for name, *_ in _MEASURED if name.startswith("Container"))
"""Measured; shared by all processes of a container."""
PROCESS_GPU_FIELDS = tuple(name for name, *_ in _MEASURED if not name.startswith("Container"))
PIPE_FIELDS = tuple(name for name, *_ in _PIPES_MEASURED)
REQUEST_FIELDS = ("GpuRequested", "ContainerGpuLimit")
