"""Keeps the heap of a long-lived process small, by settings of malloc and the garbage collector."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h of glibc
_MIN_MMAP_BYTES = 128 * 1024  # glibc's own first threshold, but it lets this grow

_TRIM_EVERY_S = 60.0


def keep_heap_small() -> None:
    """Make malloc return freed memory to the kernel (mallopt(3)); call it before any thread.

    All threads share one heap: the interpreter's lock lets one allocate at a time, and with an
    arena each, a thread keeps what it has freed. Large tables are mapped outside of the heap:
    otherwise glibc puts them into it after the first is freed, and each new one leaves a gap (3 of
    48 MiB with 5,000 processes). Another C library is left as it is.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _MIN_MMAP_BYTES)


def freeze_and_trim() -> None:
    """Collect garbage, exempt what is left from later collections, and trim the heap.

    A full collection takes 20 ms with five thousand processes. It skips frozen objects
    (``gc.freeze``), which are still freed as soon as nothing refers to them.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim_heap()


def trim_heap() -> None:
    """Return the heap's free pages to the kernel (malloc_trim(3)).

    By itself glibc returns the end of the heap only, so that the heap would stay at the peak of a
    burst of processes. Takes 0.1 ms when there is nothing to return, 6 ms after such a burst.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class HeapKeeper:
    """Freezes the heap after the first tick and after each change of rules; trims it by minute."""

    def __init__(self) -> None:
        self._is_frozen = False
        self._trimmed_s = 0.0

    def unfreeze(self) -> None:
        """Freeze again at the next call of ``tend``: other objects are long-lived now."""
        self._is_frozen = False

    def tend(self, at_s: float) -> None:
        """Do what is due."""
        if not self._is_frozen:
            self._is_frozen = True
            freeze_and_trim()
        elif at_s - self._trimmed_s >= _TRIM_EVERY_S:
            trim_heap()
        else:
            return
        self._trimmed_s = at_s
