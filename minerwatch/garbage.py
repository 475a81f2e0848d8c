"""Python's garbage collector, kept away from objects that live until the process ends."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector while modules are imported or rules compiled: little of that is garbage.

    It would look through all of it again and again, a tenth of the CPU time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def skip_collection_at_exit() -> None:
    """Collect nothing at the exit, a fifth of a short command's CPU time; the kernel frees it."""
    atexit.register(gc.freeze)
