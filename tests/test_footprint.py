from __future__ import annotations

import gc
import subprocess
import sys
import weakref

from minerwatch.footprint import settle


class Node:
    other: Node


def test_what_is_set_aside_is_still_freed() -> None:
    kept, cycle = Node(), Node()
    cycle.other = cycle
    alone, in_a_cycle = weakref.ref(kept), weakref.ref(cycle)
    try:
        settle()
        del kept, cycle
        assert alone() is None  # by its reference count
        assert in_a_cycle() is not None
        settle()  # as after a change of rules
        assert in_a_cycle() is None
    finally:
        gc.unfreeze()


def test_threads_share_one_heap() -> None:
    """glibc names each further arena "heap N" in malloc_info(3)."""
    script = """
import ctypes, os, sys, threading
from minerwatch.footprint import use_one_arena
use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=lambda: libc.malloc(10_000)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<heap nr=") in (0, 1)  # 0: another C library
