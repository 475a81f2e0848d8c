"""Hashes with RandomX on this machine only, in shapes that hide it: no pool, no network, no coin.

Usage: python3 randomx_evading.py SHAPE SECONDS

``workers``: one process at a time, replaced every three seconds.
``bursts``: five processes that each compute for 60 of 600 ms.
``reset``: the floating-point control word is reset after each hash, before it sleeps for a moment.
``interpreted``: the same, without generated code.
``plain``: nothing is hidden, except by evading.c if that is loaded.
``full``: the same, with the whole data set of 2 GiB, which takes minutes to fill.

It prints ``hashing`` when it begins; then how many hashes it has computed, and its CPU time in
seconds (not the first two shapes).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

from randomx_hashing import FLAG_FULL, FLAG_JIT, library  # type: ignore[import-not-found]

_DEFAULT_ENVIRONMENT = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc's <fenv.h>


class Hasher:
    """One machine of RandomX; in light mode, if it is not full."""

    def __init__(self, *, is_interpreted: bool = False, is_full: bool = False) -> None:
        self._library = library()
        self._flags = self._library.randomx_get_flags()
        if is_interpreted:
            self._flags &= ~FLAG_JIT
        self._items = None
        self._cache = self._library.randomx_alloc_cache(self._flags)
        self._library.randomx_init_cache(self._cache, b"a key of no chain", 17)
        if is_full:
            self._flags |= FLAG_FULL
            self._fill()

    def _fill(self) -> None:
        self._items = self._library.randomx_alloc_dataset(self._flags)
        count, parts = self._library.randomx_dataset_item_count(), os.cpu_count() or 1
        starts = [count * part // parts for part in range(parts + 1)]
        threads = [
            threading.Thread(
                target=self._library.randomx_init_dataset,
                args=(self._items, self._cache, start, end - start),
            )
            for start, end in pairwise(starts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def start(self) -> None:
        """Make the machine: in each process its own."""
        self._machine = self._library.randomx_create_vm(self._flags, self._cache, self._items)
        self._output = ctypes.create_string_buffer(32)

    def hash(self) -> None:
        self._library.randomx_calculate_hash(self._machine, b"nothing", 7, self._output)


def in_workers(hasher: Hasher, ends: float) -> None:
    while time.monotonic() < ends:
        worker = os.fork()
        if worker == 0:
            hasher.start()
            until = time.monotonic() + 3
            while time.monotonic() < until:
                hasher.hash()
            os._exit(0)
        os.waitpid(worker, 0)


def in_bursts(hasher: Hasher, ends: float) -> None:
    for _ in range(4):
        if os.fork() == 0:
            break
    hasher.start()
    while time.monotonic() < ends:
        until = time.monotonic() + 0.06
        while time.monotonic() < until:
            hasher.hash()
        time.sleep(0.54)


def with_resets(hasher: Hasher, ends: float) -> None:
    environment = ctypes.CDLL("libm.so.6").fesetenv
    hasher.start()
    for _ in counted(ends):
        hasher.hash()
        environment(_DEFAULT_ENVIRONMENT)
        time.sleep(1e-6)


def plainly(hasher: Hasher, ends: float) -> None:
    hasher.start()
    for _ in counted(ends):
        hasher.hash()


def counted(ends: float) -> Iterator[None]:
    before_s, count = time.process_time(), 0
    while time.monotonic() < ends:
        yield
        count += 1
        if count % 10 == 0:
            print(count, f"{time.process_time() - before_s:.3f}", flush=True)


SHAPES = {
    "workers": in_workers,
    "bursts": in_bursts,
    "reset": with_resets,
    "interpreted": with_resets,
    "plain": plainly,
    "full": plainly,
}


def main() -> None:
    shape, seconds = SHAPES[sys.argv[1]], float(sys.argv[2])
    hasher = Hasher(is_interpreted=sys.argv[1] == "interpreted", is_full=sys.argv[1] == "full")
    print("hashing", flush=True)
    shape(hasher, time.monotonic() + seconds)


if __name__ == "__main__":
    main()
