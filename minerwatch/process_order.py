"""Processes in the order of their tree. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Process = TypeVar("_Process")


def tree_order(
    processes: Sequence[_Process], ids: Callable[[_Process], tuple[int, int]], max_depth: int
) -> Iterator[tuple[_Process, tuple[bool, ...]]]:
    """Yield parents before their children, each with its path from the root.

    ``ids`` returns the pids of a process and of its parent. The path has one element a level: True
    for the last child of its parent; it stays at ``max_depth``. Processes that claim to be each
    other's ancestors are yielded once, the first of them as a root.
    """
    listed = {ids(each)[0] for each in processes}
    children: dict[int | None, list[_Process]] = {}
    for each in processes:
        pid, parent = ids(each)
        is_root = parent == pid or parent not in listed
        children.setdefault(None if is_root else parent, []).append(each)
    seen: set[int] = set()
    for root in (*children.get(None, ()), *processes):
        waiting: list[tuple[_Process, tuple[bool, ...]]] = [(root, ())]
        while waiting:
            process, path = waiting.pop()
            pid, _ = ids(process)
            if pid in seen:
                continue
            seen.add(pid)
            yield process, path
            below = [each for each in children.get(pid, ()) if ids(each)[0] not in seen]
            above = path[: max_depth - 1]
            waiting += [(each, (*above, each is below[-1])) for each in reversed(below)]
