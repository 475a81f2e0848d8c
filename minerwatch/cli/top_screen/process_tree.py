"""A container's processes, each below the one that started it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minerwatch.api.types import ContainerStatus, ProcessStatus
from minerwatch.untrusted_text.display import printable, shortened, shown_command_line
from minerwatch.view.lines import cut, padded

_COMMAND_LENGTH = 600  # characters of one command line; findings show what rules saw of it
_NAME_LENGTH = 256
_USER_WIDTH = 10
_BRANCH, _LAST, _BESIDE, _BELOW = "├─ ", "└─ ", "│  ", "   "
_MAX_DEPTH = 20

TITLES = f"        PID    CPU  {padded('USER', _USER_WIDTH)}  COMMAND LINE"


def process_lines(status: ContainerStatus) -> Iterator[tuple[str, str]]:
    """For each process that is known, parents first: what stands before its command line, and that.

    Those in which something was found are marked. Whoever says that it is its own grandparent
    is shown once, like everybody else.
    """
    found = {finding.pid for finding in status.findings}
    for process, stem in _in_order(status.processes):
        mark = "*" if process.pid in found else " "
        cores = "-" if process.cpu_cores is None else f"{process.cpu_cores:.2f}"
        user = cut(printable(process.user, _USER_WIDTH), _USER_WIDTH)
        head = f"  {mark} {process.pid:7d}  {cores:>5}  {padded(user, _USER_WIDTH)}  "
        yield head + stem, _told(process)


def _told(process: ProcessStatus) -> str:
    command = shown_command_line(process.command_line, _COMMAND_LENGTH) or "(hidden or empty)"
    notes = []
    program = process.command_line.partition(" ")[0]
    if process.comm and process.comm != program.rpartition("/")[2][:15]:
        notes.append(f"named {printable(process.comm, 16)}")
    if process.image and process.image != program:
        notes.append(f"executable {printable(shortened(process.image, _NAME_LENGTH))}")
    return command + (f"  ({', '.join(notes)})" if notes else "")


def _in_order(processes: Sequence[ProcessStatus]) -> Iterator[tuple[ProcessStatus, str]]:
    """Depth first, in the order given among those of one parent; and the branches before each."""
    listed = {process.pid for process in processes}
    children: dict[int, list[ProcessStatus]] = {}
    for process in processes:
        is_root = process.parent_pid not in listed or process.parent_pid == process.pid
        children.setdefault(0 if is_root else process.parent_pid, []).append(process)
    told: set[int] = set()
    todo = [(process, "", "") for process in reversed(children.get(0, []))]
    rest = iter(processes)
    while len(told) < len(listed):
        if not todo:  # those that are left are each other's parents
            todo = [(next(each for each in rest if each.pid not in told), "", "")]
        process, stem, below = todo.pop()
        if process.pid in told:
            continue
        told.add(process.pid)
        yield process, stem
        under = [each for each in children.get(process.pid, []) if each.pid not in told]
        if len(below) >= _MAX_DEPTH * len(_BELOW):  # as deep as it is drawn
            below = below[: -len(_BELOW)]
        for place, child in enumerate(reversed(under)):
            branch, beside = (_LAST, _BELOW) if place == 0 else (_BRANCH, _BESIDE)
            todo.append((child, below + branch, below + beside))
