"""The use of GPUs as text."""

from __future__ import annotations

from minerwatch.api.types import ContainerStatus, ProcessStatus
from minerwatch.format import byte_size, counted

_JOULES_PER_KWH = 3.6e6


def gpu_sentence(status: ContainerStatus) -> str:
    """Return what the container uses of GPUs, and what it requested; "": it has used none."""
    gpu = status.gpu
    if gpu is None:
        return ""
    busy = "not known how busy" if gpu.busy is None else f"{gpu.busy:.2f} busy"
    devices = f"{busy}, {counted(gpu.devices, 'device')}"
    parts = [devices if gpu.devices else "none known to be in use now"]
    if gpu.requested is False:
        parts.append("requested none")
    elif gpu.limit:
        parts.append(f"{gpu.limit:g} requested")
    if gpu.memory_bytes:
        parts.append(f"{byte_size(gpu.memory_bytes)} of their memory")
    energy = f", {gpu.energy_joules / _JOULES_PER_KWH:.2f} kWh" if gpu.energy_joules else ""
    parts.append(f"{gpu.hours:.2f} GPU hours{energy} since the agent first saw it")
    return "; ".join(parts)


def process_gpus(process: ProcessStatus) -> str:
    """Return what the process uses of GPUs; "": none is known."""
    memory = byte_size(process.gpu_memory_bytes) if process.gpu_memory_bytes else ""
    known = (
        "" if process.gpus is None else f"keeps {process.gpus:.2f} GPUs busy",
        f"{memory} of their memory" if memory else "",
    )
    return ", ".join(filter(None, known))
