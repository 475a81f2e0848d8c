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
    _EXE.fixed("Image", "", "path of the executable", "|endswith: /xmrig"),
    _CMDLINE.fixed(
        "CommandLine",
        "",
        "arguments joined by one blank each; blanks inside are no-break spaces",
        "|contains: 'stratum+tcp://'",
    ),
    _CMDLINE.fixed(
        "Arguments",
        "list",
        "the arguments, one by one, the program's name first",
        "|startswith: --donate-level",
    ),
    _CWD.fixed("CurrentDirectory", "", "working directory", "|startswith: /dev/shm"),
    _STATUS.fixed("User", "", "name of the user on the node, or its number", ": root"),
    _STAT.fixed("ProcessId", "", "pid as the node sees it", ": 1"),
    _PARENT_EXE.fixed("ParentImage", "", "path of the parent's executable", "|endswith: /nginx"),
    _PARENT_CMDLINE.fixed("ParentCommandLine", "", "the parent's arguments", "|contains: crond"),
    _STAT.fixed("Comm", "", "name of the process, 15 bytes at most", ": xmrig"),
    _EXE.fixed("ExeDeleted", "bool", "the executable has been unlinked", ": true"),
    _EXE.fixed("ExeInMemory", "bool", "the executable is a memfd", ": true"),
    _EXE.fixed(
        "CommDiffers", "bool", "Comm is neither the executable's name nor an argument's", ": true"
    ),
    _CMDLINE.fixed(
        "CommandLineHidden", "bool", "the arguments are empty, a title, or unreadable", ": true"
    ),
    _CMDLINE.fixed(
        "KernelThreadName", "bool", "named like a kernel thread, without being one", ": true"
    ),
    *(Field(name, unit, meaning, _PODS, example) for name, unit, meaning, example in ROWS),
    _PODS.fixed(
        "ContainerImage", "", "image that the container was made from", "|startswith: 'docker.io/'"
    ),
    _PODS.fixed("ContainerName", "", "the container's name in its pod", ": notebook"),
    _PODS.fixed("PodNamespace", "", "the pod's namespace", "|startswith: jhub"),
    _PODS.fixed("PodName", "", "the pod's name", "|startswith: jupyter-"),
    *NETWORK_FIELDS,
    _STAT.dynamic("Age", "s", "time since the process started", "|gte: 600"),
    _CPU.dynamic("CpuCores", "cores", "CPU usage of the process since the last tick", "|gte: 0.5"),
    _CPU.dynamic("CpuSeconds", "s", "CPU time of the process", "|gte: 30"),
    _CPU.dynamic(
        "CpuFlatness",
        "0..1",
        "evenness of the CPU usage over the window: 1 if it did not vary",
        "|gte: 0.9",
    ),
    _CPU.dynamic("Threads", "count", "threads of the process", "|gte: 4"),
    _CPU.dynamic("SaturatedThreads", "count", "threads at 95 % of a core or more", "|gte: 4"),
    _STATUS.dynamic("RssMiB", "MiB", "resident memory", "|lt: 64"),
    _STATUS.dynamic("HugepagesMiB", "MiB", "huge pages", "|gte: 4"),
    _SMAPS.dynamic(
        "GpuLibraries",
        "list",
        "libraries for GPUs that are mapped, by file name: cuda, opencl, hip, cublas, torch, …",
        ": cuda",
    ),
    _SMAPS.dynamic("JitMiB", "MiB", "anonymous executable mappings", "|gt: 0"),
    _OVERLAY.dynamic(
        "ExeNotInImage", "bool", "the executable was written after its container started", ": true"
    ),
    _TASKS.dynamic(
        "RoundingShare",
        "0..1",
        "share of samples that do not round to nearest, of threads that ever did not",
        "|gte: 0.2",
    ),
    _TASKS.dynamic(
        "RoundingModes", "count", "rounding modes seen, of the four that there are", "|gte: 4"
    ),
    _TASKS.dynamic(
        "FlushToZeroShare",
        "0..1",
        "share of samples that flush denormals, of those that do not round to nearest",
        "|gte: 0.9",
    ),
    _CODE.dynamic(
        "HashCodeShare",
        "0..1",
        "share of samples in code that is dense in xor, rotations and integer vectors",
        "|gte: 0.3",
    ),
    _CODE.dynamic(
        "MixingCodeShare",
        "0..1",
        "share of xor, rotations and integer multiplications among executed instructions",
        "|gte: 0.15",
    ),
    _CODE.dynamic(
        "FloatCodeShare", "0..1", "share of floating point among executed instructions", "|gte: 0.2"
    ),
    _CODE.dynamic(
        "PairConversionShare",
        "0..1",
        "share of samples that mix integers one at a time, and compute with pairs of floats",
        "|gte: 0.01",
    ),
    _CODE.dynamic(
        "RoundingCodeShare",
        "0..1",
        "share of changes of the rounding mode among executed instructions",
        "|gt: 0",
    ),
    _CODE.dynamic(
        "VectorCodeShare",
        "0..1",
        "share of integer vectors among executed instructions",
        "|gte: 0.2",
    ),
    _CODE.dynamic(
        "AnonymousCodeShare",
        "0..1",
        "share of samples in executable memory that no file backs",
        "|gte: 0.8",
    ),
    _CODE.dynamic(
        "HotCodePages", "count", "pages of code that hold 90 % of the samples", "|lte: 4"
    ),
    _CODE.dynamic(
        "IoBytesPerCpuSecond",
        "B/s",
        "bytes read and written (files, pipes, sockets) per second of CPU time",
        "|lte: 1000000",
    ),
    _CODE.dynamic(
        "KernelCpuShare",
        "0..1",
        "share of the CPU time that is spent in the kernel, less 1.5 µs for each new page",
        "|lt: 0.3",
    ),
    _CODE.dynamic(
        "HiddenCodeShare",
        "0..1",
        "share of samples whose code cannot be read, not even while it is executed",
        "|gte: 0.05",
    ),
    _CODE.dynamic(
        "ContentInHotCode",
        "list",
        "YARA rules that matched the hottest code, or tables that it addresses",
        ": name_of_a_yara_rule",
    ),
    _CODE.dynamic(
        "CodeFingerprints",
        "list",
        "hashes of hot pages with hash code, addresses masked",
        "|exists: true",
    ),
    _CODE.dynamic(
        "ForeignCodeFingerprints",
        "list",
        "CodeFingerprints of pages of files that were not in the image",
        "|exists: true",
    ),
    _SMAPS.dynamic("LargestAnonymousMiB", "MiB", "largest resident anonymous mapping", "|gte: 250"),
    _SMAPS.dynamic(
        "LargestFileMiB",
        "MiB",
        "largest mapped file on a disk; of a container the average over samples, 128 at most",
        "|gte: 1024",
    ),
    _YARA.dynamic(
        "ContentMatches",
        "list",
        "YARA rules that matched the executable or the memory",
        ": name_of_a_yara_rule",
    ),
    _CGROUP.dynamic(
        "ContainerCpuCores", "cores", "CPU usage of the container since the last tick", "|gte: 0.3"
    ),
    _CGROUP.dynamic("ContainerCpuLimit", "cores", "the container's CPU limit", "|lte: 1"),
    _CGROUP.dynamic(
        "ContainerCpuHours", "h", "CPU time that the container has used since it started", "|gte: 8"
    ),
    _CGROUP.dynamic(
        "CgroupsOverBound",
        "bool",
        "the container has more or deeper cgroups than the agent tracks one by one",
        ": true",
    ),
    _CGROUP.dynamic(
        "HiddenCpuShare",
        "0..1",
        "share of the container's CPU usage that no visible process accounts for",
        "|gte: 0.6",
    ),
    *GPU_FIELDS,
)

KNOWN_FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
"""The fields that minerwatch measures."""

_OF_CONTAINER = frozenset(
    (
        *(field.name for field in _FIELDS if field.source in (_PODS, _CGROUP)),
        *(*COUNTER_FIELDS, *CONTAINER_GPU_FIELDS, *REQUEST_FIELDS),
    )
)

CPU_FIELDS = frozenset(
    field.name
    for field in _FIELDS
    if field.dynamic and field.source in (_STAT, _CPU, _CGROUP) and field.unit != "bool"
)
"""The fields that measure only CPU usage."""

_POOLED = frozenset(
    (
        *("HashCodeShare", "MixingCodeShare", "FloatCodeShare", "PairConversionShare"),
        "RoundingCodeShare",
        *("VectorCodeShare", "AnonymousCodeShare", "HotCodePages", "IoBytesPerCpuSecond"),
        *("KernelCpuShare", "HiddenCodeShare"),
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
