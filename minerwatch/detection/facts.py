"""The facts of a process in its container, which rules are matched against.

Field names are Sigma's if it has one. A field that was not measured is absent.
"""

from __future__ import annotations

import re

from minerwatch.arguments import arguments_of
from minerwatch.model import Container, Facts, FactValue, Process

_KERNEL_THREAD_NAME = re.compile(
    r"(?:kworker|ksoftirqd|migration|cpuhp|jbd2|scsi_eh|irq)[/_]"
    r"|kswapd\d|kcompactd\d|rcu_(?:sched|preempt|tasks|par_gp|gp)\b|kworkerds?$"
    r"|(?:kworker|ksoftirqd|kswapd|kthreadd|khugepaged|kdevtmpfs|kauditd|khungtaskd|oom_reaper)$",
    re.DOTALL,
)
"""Names of kernel threads in Linux 4.19 to 6.x that no program has."""

_IN_BRACKETS = re.compile(
    r"\[(?:k[a-z0-9_]*d[a-z]{0,2}\d*"  # kauditd, kswapd0, and their imitations: kthreaddk
    r"|(?:kworker|ksoftirqd|migration|cpuhp|jbd2|scsi_(?:eh|tmf)|irq|idle_inject|xfs\w*|kdmflush"
    r"|flush|card\d+|events|aio)[/:_-][\w./:+-]*"
    r"|rcu_\w+|nvme-[\w-]+|loop\d+|\w+_(?:wq|flushwq)|ext4(?:-[\w-]+)?|dm_bufio_cache|mm_percpu_wq"
    r"|oom_reaper|watchdogd?|writeback|netns|bioset|crypto|cryptd|md|edac-poller|ata_sff|kdevtmpfs"
    r"|blkcg_punt_bio|acpi_thermal_pm|mld|ipv6_addrconf|kstrp|zswap-shrink|khugepaged|rpciod"
    r"|xprtiod|nfsiod|nfsd|lockd|psimon|kworker|pdflush|sync_supers|scan)\]$"
)
"""ps shows processes without arguments in brackets. Programs may choose such a title ([trainer],
[celeryd: …]), so the word must be a kernel thread's or close to one."""

_COMM_BYTES = 15
_MAX_WORDS = 16
"""Words of a command line that may be a script's name."""


def static_facts(process: Process, parent: Process | None) -> Facts:
    """Return the facts that never change while the process runs this program."""
    facts: dict[str, FactValue] = {
        "ProcessId": process.id.pid,
        "User": process.user,
        "Comm": process.comm,
        "CommandLineHidden": process.command_line_hidden,
        "KernelThreadName": is_kernel_thread_name(process),
    }
    if process.command_line:
        facts["CommandLine"] = process.command_line
        facts["Arguments"] = arguments_of(process.command_line)
    if process.image:
        facts["Image"] = process.image
        facts["ExeDeleted"] = process.exe_deleted
        facts["ExeInMemory"] = process.exe_in_memory
        facts["CommDiffers"] = _comm_differs(process)
    if process.current_directory:
        facts["CurrentDirectory"] = process.current_directory
    if parent is not None:
        facts.update(_parent_facts(parent))
    return facts


def container_facts(
    container: Container,
    *,
    cpu_cores: float | None,
    cpu_s: float,
    cpu_limit_cores: float | None = None,
    hidden_cpu_share: float | None = None,
    cgroups_over_bound: bool | None = None,
) -> Facts:
    """Return the facts that all processes of a container share; ``cpu_s``: its total CPU time."""
    return {
        "ContainerName": container.container_id,
        "ContainerCpuHours": cpu_s / 3600,
        **measured(
            ContainerCpuCores=cpu_cores,
            ContainerCpuLimit=cpu_limit_cores,
            HiddenCpuShare=hidden_cpu_share,
            CgroupsOverBound=cgroups_over_bound,
        ),
    }


def measured(**values: FactValue | None) -> dict[str, FactValue]:
    """Return the values that were measured."""
    return {field: value for field, value in values.items() if value is not None}


def with_destination_count(facts: Facts) -> Facts:
    """Return facts on connections with the number of remote ends, if it is missing.

    Rules cannot count: they hold on a list if they hold on any element.
    """
    ends = [facts.get(name) for name in ("DestinationIp", "DestinationPort")]
    counts = [len(each) for each in ends if isinstance(each, tuple) and each]
    if not counts or "DestinationCount" in facts:
        return facts
    return {**facts, "DestinationCount": max(counts)}


def is_kernel_thread_name(process: Process) -> bool:
    """Return True if a user process is named like a kernel thread, by comm or first argument."""
    if process.kernel_thread:
        return False
    names = (process.comm, process.command_line.partition(" ")[0])
    return any(_KERNEL_THREAD_NAME.match(name) or _IN_BRACKETS.match(name) for name in names)


def _comm_differs(process: Process) -> bool:
    """Return True if comm is the name of neither the executable nor an argument.

    execve(2) names a process after its file, which for a script is an argument of its interpreter.
    """
    words = (process.image, *process.command_line.split(" ", _MAX_WORDS)[:_MAX_WORDS])
    names = {word.rpartition("/")[2].lstrip("-").rstrip(":") for word in words}
    own = process.comm.lstrip("-").rstrip(":").encode()[:_COMM_BYTES]
    return all(name.encode()[:_COMM_BYTES] != own for name in names)


def _parent_facts(parent: Process) -> dict[str, FactValue]:
    facts: dict[str, FactValue] = {}
    if parent.image:
        facts["ParentImage"] = parent.image
    if parent.command_line:
        facts["ParentCommandLine"] = parent.command_line
    return facts
