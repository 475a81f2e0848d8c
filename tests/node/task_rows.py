"""Records of the task iterator, by name."""

from __future__ import annotations

import os
from typing import NamedTuple

from minerwatch.model import ProcessId
from minerwatch.node.task_iterator import TaskIterator

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Task(NamedTuple):
    """``struct record`` of bpf/task_iterator.bpf.c."""

    started_ns: int
    cpu_ns: int
    exited_cpu_ns: int
    code: int
    stack: int
    arguments: int
    cgroup_inode: int
    tid: int
    pid: int
    flags: int
    fp_control: int
    has_fp_control: int
    switches: int
    parent_pid: int
    unused: int
    comm: bytes

    @property
    def process(self) -> ProcessId:
        """Of a first thread: its process."""
        return ProcessId(self.pid, self.started_ns // _NS_PER_TICK)


def tasks_of(iterator: TaskIterator) -> list[Task]:
    return [Task(*row) for row in iterator.rows()]
