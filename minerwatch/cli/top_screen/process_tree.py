"""A container's processes, each below the one that started it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from minerwatch.api.types import ContainerStatus, ProcessStatus
from minerwatch.process_order import tree_order
from minerwatch.untrusted_text.display import printable, shortened, shown_command_line
from minerwatch.view.lines import cut, padded

_COMMAND_LENGTH = 600  # characters of one command line; findings show what rules saw of it
_NAME_LENGTH = 256
_USER_WIDTH = 10
_BRANCH, _LAST, _BESIDE, _BELOW = "├─ ", "└─ ", "│  ", "   "
_MAX_DEPTH = 20

TITLES = f"        PID    CPU  {padded('USER', _USER_WIDTH)}  COMMAND LINE"


def process_lines(status: ContainerStatus) -> Iterator[tuple[str, str]]:
    """Yield the start of each process's line and its command line, parents first.

    Processes with findings are marked.
    """
    found = {finding.pid for finding in status.findings}
    for process, path in tree_order(
        status.processes, lambda each: (each.pid, each.parent_pid), _MAX_DEPTH
    ):
        mark = "*" if process.pid in found else " "
        cores = "-" if process.cpu_cores is None else f"{process.cpu_cores:.2f}"
        user = cut(printable(process.user, _USER_WIDTH), _USER_WIDTH)
        head = f"  {mark} {process.pid:7d}  {cores:>5}  {padded(user, _USER_WIDTH)}  "
        yield head + _stem(path), _told(process)


def _told(process: ProcessStatus) -> str:
    command = shown_command_line(process.command_line, _COMMAND_LENGTH) or "(hidden or empty)"
    notes = []
    program = process.command_line.partition(" ")[0]
    if process.comm and process.comm != program.rpartition("/")[2][:15]:
        notes.append(f"named {printable(process.comm, 16)}")
    if process.image and process.image != program:
        notes.append(f"executable {printable(shortened(process.image, _NAME_LENGTH))}")
    return command + (f"  ({', '.join(notes)})" if notes else "")


def _stem(path: tuple[bool, ...]) -> str:
    """Return the branches before a process."""
    if not path:
        return ""
    above = "".join(_BELOW if is_last else _BESIDE for is_last in path[:-1])
    return above + (_LAST if path[-1] else _BRANCH)
