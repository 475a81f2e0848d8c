from __future__ import annotations

import gc
import subprocess
import sys
import weakref

from minerwatch.agent.heap import freeze_and_trim


class Node:
    other: Node


def test_what_is_set_aside_is_still_freed() -> None:
    kept, cycle = Node(), Node()
    cycle.other = cycle
    alone, in_a_cycle = weakref.ref(kept), weakref.ref(cycle)
    try:
        freeze_and_trim()
        del kept, cycle
        assert alone() is None  # by its reference count
        assert in_a_cycle() is not None
        freeze_and_trim()  # as after a change of rules
        assert in_a_cycle() is None
    finally:
        gc.unfreeze()


def test_threads_share_one_heap() -> None:
    """glibc names each further arena "heap N" in malloc_info(3)."""
    script = """
import ctypes, os, sys, threading
from minerwatch.agent.heap import keep_heap_small
keep_heap_small()
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


def test_a_large_table_is_given_back_whatever_lies_behind_it() -> None:
    script = """
import re
from pathlib import Path
from minerwatch.agent.heap import keep_heap_small
keep_heap_small()
def heap_kib():
    mapped = Path("/proc/self/smaps").read_text()
    found = re.search(r"\\[heap\\]\\nSize: +([0-9]+) kB", mapped)
    return int(found[1]) if found else 0
before, behind = heap_kib(), []
for _ in range(50):
    table = bytearray(1 << 20)  # freed as the next one has been made
    behind.append(bytearray(8192))
print(heap_kib() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1024


def test_the_heap_is_given_back_after_a_burst() -> None:
    script = """
from pathlib import Path
from minerwatch.agent.heap import keep_heap_small, trim_heap
keep_heap_small()
def resident_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
before = resident_kib()
burst = [bytearray(20_000) for _ in range(2000)]
behind = bytearray(20_000)
del burst
kept = resident_kib() - before
trim_heap()
print(kept, resident_kib() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, after = map(int, done.stdout.split())
    assert after < 4096
    assert after <= kept
