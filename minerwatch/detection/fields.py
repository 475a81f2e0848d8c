"""The fields that conditions may name, with unit and meaning."""

from __future__ import annotations

from difflib import get_close_matches

from minerwatch.detection.field_types import Field, Source
from minerwatch.detection.gpu_fields import (
    CONTAINER_GPU_FIELDS,
    GPU_FIELDS,
    PIPE_FIELDS,
    PROCESS_GPU_FIELDS,
    REQUEST_FIELDS,
)
from minerwatch.detection.network_fields import (
    COUNTER_FIELDS,
    NETWORK_FIELDS,
    SESSION_FIELDS,
)
from minerwatch.detection.owner_fields import ROWS

_EXE = Source("/proc/PID/exe", "SYS_PTRACE")
_CMDLINE = Source("/proc/PID/cmdline")
_STAT = Source("/proc/PID/stat")
_STATUS = Source("/proc/PID/status")
_CWD = Source("/proc/PID/cwd", "SYS_PTRACE")
_PARENT_EXE = Source("/proc/PID/exe of the parent", "SYS_PTRACE")
_PARENT_CMDLINE = Source("/proc/PID/cmdline of the parent")
_PODS = Source("the API server", "list and watch on pods (RBAC)")
_CPU = Source("/proc/PID/stat, or the task iterator", "BPF, PERFMON for the iterator")
_SMAPS = Source("/proc/PID/smaps", "SYS_PTRACE")
_OVERLAY = Source("layers of the container's overlay", "SYS_PTRACE, DAC_READ_SEARCH")
_TASKS = Source("the task iterator (BPF)", "BPF, PERFMON")
_CODE = Source("what CPUs execute, sampled", "PERFMON, SYS_PTRACE, DAC_READ_SEARCH")
_YARA = Source("YARA rules on executable and memory", "SYS_PTRACE, DAC_READ_SEARCH")
_CGROUP = Source("the container's cgroup")

_FIELDS = (
    Field("Image", "", "path of the executable", _EXE, "Image|endswith: /xmrig"),
    Field(
        "CommandLine",
        "",
        "arguments joined by one blank each; blanks inside are no-break spaces",
        _CMDLINE,
        "CommandLine|contains: 'stratum+tcp://'",
    ),
    Field(
        "Arguments",
        "list",
        "the arguments, one by one, the program's name first",
        _CMDLINE,
        "Arguments|startswith: --donate-level",
    ),
    Field(
        "CurrentDirectory", "", "working directory", _CWD, "CurrentDirectory|startswith: /dev/shm"
    ),
    Field("User", "", "name of the user on the node, or its number", _STATUS, "User: root"),
    Field("ProcessId", "", "pid as the node sees it", _STAT, "ProcessId: 1"),
    Field(
        "ParentImage",
        "",
        "path of the parent's executable",
        _PARENT_EXE,
        "ParentImage|endswith: /nginx",
    ),
    Field(
        "ParentCommandLine",
        "",
        "the parent's arguments",
        _PARENT_CMDLINE,
        "ParentCommandLine|contains: crond",
    ),
    Field("Comm", "", "name of the process, 15 bytes at most", _STAT, "Comm: xmrig"),
    Field("ExeDeleted", "bool", "the executable has been unlinked", _EXE, "ExeDeleted: true"),
    Field("ExeInMemory", "bool", "the executable is a memfd", _EXE, "ExeInMemory: true"),
    Field(
        "CommDiffers",
        "bool",
        "Comm is neither the executable's name nor an argument's",
        _EXE,
        "CommDiffers: true",
    ),
    Field(
        "CommandLineHidden",
        "bool",
        "the arguments are empty or cannot be read",
        _CMDLINE,
        "CommandLineHidden: true",
    ),
    Field(
        "KernelThreadName",
        "bool",
        "named like a kernel thread, without being one",
        _CMDLINE,
        "KernelThreadName: true",
    ),
    *(Field(name, unit, meaning, _PODS, example) for name, unit, meaning, example in ROWS),
    Field(
        "ContainerImage",
        "",
        "image that the container was made from",
        _PODS,
        "ContainerImage|startswith: 'docker.io/'",
    ),
    Field("ContainerName", "", "the container's name in its pod", _PODS, "ContainerName: notebook"),
    Field("PodNamespace", "", "the pod's namespace", _PODS, "PodNamespace|startswith: jhub"),
    Field("PodName", "", "the pod's name", _PODS, "PodName|startswith: jupyter-"),
    *NETWORK_FIELDS,
    Field("Age", "s", "time since the process started", _STAT, "Age|gte: 600", dynamic=True),
    Field(
        "CpuCores",
        "cores",
        "CPU usage of the process over the last window",
        _CPU,
        "CpuCores|gte: 0.5",
        dynamic=True,
    ),
    Field("CpuSeconds", "s", "CPU time of the process", _CPU, "CpuSeconds|gte: 30", dynamic=True),
    Field(
        "CpuFlatness",
        "0..1",
        "evenness of the CPU usage over the window: 1 if it did not vary",
        _CPU,
        "CpuFlatness|gte: 0.9",
        dynamic=True,
    ),
    Field("Threads", "count", "threads of the process", _CPU, "Threads|gte: 4", dynamic=True),
    Field(
        "SaturatedThreads",
        "count",
        "threads at 95 % of a core or more",
        _CPU,
        "SaturatedThreads|gte: 4",
        dynamic=True,
    ),
    Field("RssMiB", "MiB", "resident memory", _STATUS, "RssMiB|lt: 64", dynamic=True),
    Field("HugepagesMiB", "MiB", "huge pages", _STATUS, "HugepagesMiB|gte: 4", dynamic=True),
    Field(
        "GpuLibraries",
        "list",
        "libraries for GPUs that are mapped, by file name: cuda, opencl, hip, cublas, torch, …",
        _SMAPS,
        "GpuLibraries: cuda",
        dynamic=True,
    ),
    Field("JitMiB", "MiB", "anonymous executable mappings", _SMAPS, "JitMiB|gt: 0", dynamic=True),
    Field(
        "ExeNotInImage",
        "bool",
        "the executable was written after its container started",
        _OVERLAY,
        "ExeNotInImage: true",
        dynamic=True,
    ),
    Field(
        "RoundingShare",
        "0..1",
        "share of samples that do not round to nearest, of threads that ever did not",
        _TASKS,
        "RoundingShare|gte: 0.2",
        dynamic=True,
    ),
    Field(
        "RoundingModes",
        "count",
        "rounding modes seen, of the four that there are",
        _TASKS,
        "RoundingModes|gte: 4",
        dynamic=True,
    ),
    Field(
        "FlushToZeroShare",
        "0..1",
        "share of samples that flush denormals, of those that do not round to nearest",
        _TASKS,
        "FlushToZeroShare|gte: 0.9",
        dynamic=True,
    ),
    Field(
        "HashCodeShare",
        "0..1",
        "share of samples in code that is dense in xor, rotations and integer vectors",
        _CODE,
        "HashCodeShare|gte: 0.3",
        dynamic=True,
    ),
    Field(
        "MixingCodeShare",
        "0..1",
        "share of xor, rotations and integer multiplications among executed instructions",
        _CODE,
        "MixingCodeShare|gte: 0.15",
        dynamic=True,
    ),
    Field(
        "FloatCodeShare",
        "0..1",
        "share of floating point among executed instructions",
        _CODE,
        "FloatCodeShare|gte: 0.2",
        dynamic=True,
    ),
    Field(
        "PairConversionShare",
        "0..1",
        "share of samples in generated code that turns pairs of integers into floats and mixes",
        _CODE,
        "PairConversionShare|gte: 0.01",
        dynamic=True,
    ),
    Field(
        "RoundingCodeShare",
        "0..1",
        "share of changes of the rounding mode among executed instructions",
        _CODE,
        "RoundingCodeShare|gt: 0",
        dynamic=True,
    ),
    Field(
        "VectorCodeShare",
        "0..1",
        "share of integer vectors among executed instructions",
        _CODE,
        "VectorCodeShare|gte: 0.2",
        dynamic=True,
    ),
    Field(
        "AnonymousCodeShare",
        "0..1",
        "share of samples in executable memory that no file backs",
        _CODE,
        "AnonymousCodeShare|gte: 0.8",
        dynamic=True,
    ),
    Field(
        "HotCodePages",
        "count",
        "pages of code that hold 90 % of the samples",
        _CODE,
        "HotCodePages|lte: 4",
        dynamic=True,
    ),
    Field(
        "IoBytesPerCpuSecond",
        "B/s",
        "bytes read and written (files, pipes, sockets) per second of CPU time",
        _CODE,
        "IoBytesPerCpuSecond|lte: 1000000",
        dynamic=True,
    ),
    Field(
        "KernelCpuShare",
        "0..1",
        "share of the CPU time that is spent in the kernel",
        _CODE,
        "KernelCpuShare|lt: 0.4",
        dynamic=True,
    ),
    Field(
        "ContentInHotCode",
        "list",
        "YARA rules that matched the hottest code, or tables that it addresses",
        _CODE,
        "ContentInHotCode: name_of_a_yara_rule",
        dynamic=True,
    ),
    Field(
        "CodeFingerprints",
        "list",
        "hashes of hot pages with hash code, addresses masked",
        _CODE,
        "CodeFingerprints|exists: true",
        dynamic=True,
    ),
    Field(
        "ForeignCodeFingerprints",
        "list",
        "CodeFingerprints of pages of files that were not in the image",
        _CODE,
        "ForeignCodeFingerprints|exists: true",
        dynamic=True,
    ),
    Field(
        "LargestAnonymousMiB",
        "MiB",
        "largest resident anonymous mapping",
        _SMAPS,
        "LargestAnonymousMiB|gte: 250",
        dynamic=True,
    ),
    Field(
        "LargestFileMiB",
        "MiB",
        "largest mapped file on a disk; of a container the average over samples, 128 at most",
        _SMAPS,
        "LargestFileMiB|gte: 1024",
        dynamic=True,
    ),
    Field(
        "ContentMatches",
        "list",
        "YARA rules that matched the executable or the memory",
        _YARA,
        "ContentMatches: name_of_a_yara_rule",
        dynamic=True,
    ),
    Field(
        "ContainerCpuCores",
        "cores",
        "CPU usage of the container",
        _CGROUP,
        "ContainerCpuCores|gte: 0.3",
        dynamic=True,
    ),
    Field(
        "ContainerCpuLimit",
        "cores",
        "the container's CPU limit",
        _CGROUP,
        "ContainerCpuLimit|lte: 1",
        dynamic=True,
    ),
    Field(
        "ContainerCpuHours",
        "h",
        "CPU time that the container has used since it started",
        _CGROUP,
        "ContainerCpuHours|gte: 8",
        dynamic=True,
    ),
    Field(
        "CgroupsOverBound",
        "bool",
        "the container has more or deeper cgroups than the agent tracks one by one",
        _CGROUP,
        "CgroupsOverBound: true",
        dynamic=True,
    ),
    Field(
        "HiddenCpuShare",
        "0..1",
        "share of the container's CPU usage that no visible process accounts for",
        _CGROUP,
        "HiddenCpuShare|gte: 0.6",
        dynamic=True,
    ),
    *GPU_FIELDS,
)

KNOWN_FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
"""The fields that minerwatch measures."""

_OF_CONTAINER = frozenset(
    (
        *("ContainerImage", "ContainerName", "PodNamespace", "PodName"),
        *(name for name, *_ in ROWS),
        *("ContainerCpuCores", "ContainerCpuLimit", "ContainerCpuHours", "HiddenCpuShare"),
        *("CgroupsOverBound", *COUNTER_FIELDS, *CONTAINER_GPU_FIELDS, *REQUEST_FIELDS),
    )
)

_POOLED = frozenset(
    (
        *("HashCodeShare", "MixingCodeShare", "FloatCodeShare", "PairConversionShare"),
        "RoundingCodeShare",
        *("VectorCodeShare", "AnonymousCodeShare", "HotCodePages", "IoBytesPerCpuSecond"),
        "KernelCpuShare",
        *("ContentInHotCode", "CodeFingerprints", "ForeignCodeFingerprints"),
    )
)

PROBE_FIELDS = {
    "executed_code": tuple(sorted(_POOLED)),
    "connections": (
        *("DestinationIp", "DestinationPort", "DestinationCount", "Initiated"),
        *("LongestConnection", *SESSION_FIELDS),
    ),
    "pod_network": COUNTER_FIELDS,
    "first_words": ("DestinationHostname", "ServerName", "PoolWords"),
    "mappings": ("JitMiB", "LargestAnonymousMiB", "LargestFileMiB", "GpuLibraries"),
    "rounding": ("RoundingShare", "RoundingModes", "FlushToZeroShare"),
    "content": ("ContentMatches",),
    "drift": ("ExeNotInImage",),
    "gpu": (*PROCESS_GPU_FIELDS, *CONTAINER_GPU_FIELDS),
    "gpu_pipes": PIPE_FIELDS,
}
"""The fields that each deep probe measures."""

SIGMA_FIELDS = frozenset(
    (
        *("ProcessGuid", "ParentProcessGuid", "ParentProcessId", "ParentUser", "LogonGuid"),
        *("LogonId", "TerminalSessionId", "IntegrityLevel", "Hashes", "md5", "sha1", "sha256"),
        *("FileVersion", "Description", "Product", "Company", "OriginalFileName", "Imphash"),
        *("Protocol", "SourceIp", "SourceIsIpv6", "SourceHostname", "SourcePort"),
        *("SourcePortName", "DestinationIsIpv6", "DestinationPortName", "UtcTime", "RuleName"),
    )
)
"""Sigma's fields that minerwatch does not measure: rules with them load, the fields are absent."""


def is_dynamic(name: str) -> bool:
    """Return True if the field may change while the process runs; unknown fields never appear."""
    field = KNOWN_FIELDS.get(name)
    return field is not None and field.dynamic


def is_of_container(name: str) -> bool:
    """Return True if all processes of a container share the field."""
    return name in _OF_CONTAINER


def is_pooled(name: str) -> bool:
    """Return True if the field is measured of a process, and of all of a container together."""
    return name in _POOLED or name == "LargestFileMiB"


def nearest_field(name: str) -> str | None:
    """Return the known field that ``name`` is probably a misspelling of."""
    for names in (KNOWN_FIELDS, SIGMA_FIELDS):  # a measured field is more likely
        by_lower = {known.lower(): known for known in names}
        close = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
        if close:
            return by_lower[close[0]]
    return None
