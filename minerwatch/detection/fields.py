"""The fields that conditions may name, with unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the facts, as documented for rule authors."""

    name: str
    unit: str
    meaning: str
    dynamic: bool = False  # may change from tick to tick for the same process


_FIELDS = (
    Field("Image", "", "path of the executable"),
    Field(
        "CommandLine", "", "arguments joined by one blank each; blanks inside are no-break spaces"
    ),
    Field("Arguments", "list", "the arguments, one by one, the program's name first"),
    Field("CurrentDirectory", "", "working directory"),
    Field("User", "", "name of the user on the node, or its number"),
    Field("ProcessId", "", "pid as the node sees it"),
    Field("ParentImage", "", "path of the parent's executable"),
    Field("ParentCommandLine", "", "the parent's arguments"),
    Field("Comm", "", "the kernel's 15-byte name"),
    Field("ExeDeleted", "bool", "the executable has been unlinked"),
    Field("ExeInMemory", "bool", "the executable is a memfd"),
    Field("CommDiffers", "bool", "Comm is neither the executable's name nor an argument's"),
    Field("CommandLineHidden", "bool", "the arguments are empty or cannot be read"),
    Field("KernelThreadName", "bool", "named like a kernel thread, but is none"),
    Field("ContainerImage", "", "image that the container was made from"),
    Field("ContainerName", "", "the container's name in its pod"),
    Field("PodNamespace", "", "the pod's namespace"),
    Field("PodName", "", "the pod's name"),
    Field("DestinationIp", "list", "remote addresses that it is connected to", dynamic=True),
    Field("DestinationPort", "list", "remote ports that it is connected to", dynamic=True),
    Field("DestinationCount", "count", "distinct remote addresses or ports", dynamic=True),
    Field("DestinationHostname", "list", "names of the remote addresses", dynamic=True),
    Field("Initiated", "bool", "it opened its connections itself: true if any", dynamic=True),
    Field("LongestConnection", "s", "age of its oldest open connection", dynamic=True),
    Field("Age", "s", "since the process started", dynamic=True),
    Field("CpuCores", "cores", "CPU rate over the last window", dynamic=True),
    Field("CpuSeconds", "s", "CPU time in all", dynamic=True),
    Field("CpuFlatness", "0..1", "how even the CPU rate was over the window", dynamic=True),
    Field("Threads", "count", "threads", dynamic=True),
    Field("SaturatedThreads", "count", "threads at 95 % of a core or more", dynamic=True),
    Field("RssMiB", "MiB", "resident memory", dynamic=True),
    Field("HugepagesMiB", "MiB", "huge pages", dynamic=True),
    Field("JitMiB", "MiB", "anonymous executable mappings", dynamic=True),
    Field(
        "ExeNotInImage",
        "bool",
        "the executable was written after its container started",
        dynamic=True,
    ),
    Field(
        "RoundingShare",
        "0..1",
        "samples that do not round to nearest, in threads that do so",
        dynamic=True,
    ),
    Field("RoundingModes", "count", "distinct rounding modes seen, of 4", dynamic=True),
    Field(
        "FlushToZeroShare",
        "0..1",
        "samples that flush denormals, of those that round otherwise",
        dynamic=True,
    ),
    Field(
        "HashCodeShare",
        "0..1",
        "samples of what it executes that are dense in xor, rotations and integer vectors",
        dynamic=True,
    ),
    Field(
        "MixingCodeShare",
        "0..1",
        "xor, rotations and multiplications of integers, of the instructions it executes",
        dynamic=True,
    ),
    Field(
        "FloatCodeShare", "0..1", "floating point, of the instructions it executes", dynamic=True
    ),
    Field(
        "PairConversionShare",
        "0..1",
        "conversions of two integers to two floats, of the instructions it executes",
        dynamic=True,
    ),
    Field(
        "RoundingCodeShare",
        "0..1",
        "changes of the rounding mode, of the instructions it executes",
        dynamic=True,
    ),
    Field(
        "VectorCodeShare", "0..1", "integer vectors, of the instructions it executes", dynamic=True
    ),
    Field(
        "AnonymousCodeShare",
        "0..1",
        "samples of what it executes in memory that no file backs",
        dynamic=True,
    ),
    Field("HotCodePages", "count", "pages that hold 90 % of what it executes", dynamic=True),
    Field(
        "IoBytesPerCpuSecond",
        "B/s",
        "bytes read and written, files, pipes and sockets, per second of CPU",
        dynamic=True,
    ),
    Field(
        "ContentInHotCode",
        "list",
        "names of the YARA rules that matched in the code that runs hot, and in its tables",
        dynamic=True,
    ),
    Field(
        "CodeFingerprints",
        "list",
        "hashes of the pages of hash code that run hot, without addresses",
        dynamic=True,
    ),
    Field(
        "ForeignCodeFingerprints",
        "list",
        "those of files that came after the container was made",
        dynamic=True,
    ),
    Field("LargestAnonymousMiB", "MiB", "largest resident anonymous mapping", dynamic=True),
    Field(
        "LargestFileMiB",
        "MiB",
        "largest mapping of a file on disk; of a container its samples' average, at most 128",
        dynamic=True,
    ),
    Field("ContentMatches", "list", "names of the YARA rules that matched", dynamic=True),
    Field("ContainerCpuCores", "cores", "the container's CPU rate", dynamic=True),
    Field("ContainerCpuLimit", "cores", "the container's CPU limit", dynamic=True),
    Field("ContainerCpuHours", "h", "the container's CPU time in all", dynamic=True),
    Field(
        "CgroupsOverBound",
        "bool",
        "the container has more cgroups, or deeper ones, than are kept apart",
        dynamic=True,
    ),
    Field(
        "HiddenCpuShare",
        "0..1",
        "CPU that no visible process accounts for",
        dynamic=True,
    ),
)

KNOWN_FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
"""The fields that minerwatch measures."""

_OF_CONTAINER = frozenset(
    (
        *("ContainerImage", "ContainerName", "PodNamespace", "PodName"),
        *("ContainerCpuCores", "ContainerCpuLimit", "ContainerCpuHours", "HiddenCpuShare"),
        "CgroupsOverBound",
    )
)

_POOLED = frozenset(
    (
        *("HashCodeShare", "MixingCodeShare", "FloatCodeShare", "PairConversionShare"),
        "RoundingCodeShare",
        *("VectorCodeShare", "AnonymousCodeShare", "HotCodePages", "IoBytesPerCpuSecond"),
        *("ContentInHotCode", "CodeFingerprints", "ForeignCodeFingerprints"),
    )
)

PROBE_FIELDS = {
    "executed_code": tuple(sorted(_POOLED)),
    "connections": (
        *("DestinationIp", "DestinationPort", "DestinationCount", "Initiated"),
        "LongestConnection",
    ),
    "mappings": ("JitMiB", "LargestAnonymousMiB", "LargestFileMiB"),
    "rounding": ("RoundingShare", "RoundingModes", "FlushToZeroShare"),
    "content": ("ContentMatches",),
    "drift": ("ExeNotInImage",),
}
"""The fields that each deep probe measures."""

UNMEASURED_FIELDS = frozenset(("DestinationHostname",))
"""Fields that no source measures yet."""

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
