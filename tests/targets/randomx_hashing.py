"""Hashes with RandomX on this machine only, as a target: no pool, no network, no coin.

Usage: python3 randomx_hashing.py THREADS SECONDS [nojit]
RANDOMX_LIBRARY names a library; without it cyrx's is used.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
import time

FLAG_FULL = 4
FLAG_JIT = 8


def library() -> ctypes.CDLL:
    path = os.environ.get("RANDOMX_LIBRARY")
    if path is None:
        spec = importlib.util.find_spec("cyrx._cyrx")
        assert spec is not None
        assert spec.origin is not None
        path = spec.origin
    found = ctypes.CDLL(path)
    pointer, number, count = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    found.randomx_alloc_cache.restype = pointer
    found.randomx_alloc_cache.argtypes = [number]
    found.randomx_init_cache.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t]
    found.randomx_alloc_dataset.restype = pointer
    found.randomx_alloc_dataset.argtypes = [number]
    found.randomx_dataset_item_count.restype = count
    found.randomx_init_dataset.argtypes = [pointer, pointer, count, count]
    found.randomx_create_vm.restype = pointer
    found.randomx_create_vm.argtypes = [number, pointer, pointer]
    found.randomx_calculate_hash.argtypes = [
        pointer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p
    ]  # fmt: skip
    return found


def main() -> None:
    threads, seconds = int(sys.argv[1]), float(sys.argv[2])
    randomx = library()
    flags = randomx.randomx_get_flags()
    flags = flags & ~FLAG_JIT if "nojit" in sys.argv else flags
    cache = randomx.randomx_alloc_cache(flags)
    randomx.randomx_init_cache(cache, b"a key of no chain", 17)
    ends = time.monotonic() + seconds

    def hash_on() -> None:
        machine = randomx.randomx_create_vm(flags, cache, None)
        output = ctypes.create_string_buffer(32)
        while time.monotonic() < ends:
            randomx.randomx_calculate_hash(machine, b"nothing", 7, output)

    workers = [threading.Thread(target=hash_on) for _ in range(threads)]
    for worker in workers:
        worker.start()
    print("hashing", flush=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
