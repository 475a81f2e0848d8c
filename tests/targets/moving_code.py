"""Hash code of x86-64 that hides where it is executed: ``moving_code.py WAY``.

``moves``: it goes to another place every few milliseconds. ``covers``: there is a file's page in
each place that it has left. ``segment``: it lies in a code segment of its own (modify_ldt(2)), and
at the same number without that segment's base there is a decoy. ``unreadable``: it lies in memory
that may be executed and not read (pkeys(7)), for a moment in each of many pages, then there are
floats. ``bits``: it is code of 32 bits, most of which looks like numbers in code of 64.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import sys
from collections.abc import Sequence
from itertools import cycle

MIXING = bytes.fromhex("8d0c37c1c10731cb")  # lea ecx,[rdi+rsi]; rol ecx,7; xor ebx,ecx
FLOATS = bytes.fromhex("f20f58c1f20f59d0")  # addsd xmm0,xmm1; mulsd xmm2,xmm0
NUMBERS = bytes.fromhex("48b80000000031cb31d1")  # dec eax; mov eax,0; xor ebx,ecx; xor ecx,edx
PAGE = 4096
EVERYTHING, EXECUTED, FIXED, OWN = 7, 4, 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
BASE, PLACE = 0x10000000, 0x20001000

libc = ctypes.CDLL(None)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p


def mapped(at: int | None, flags: int, file: int = -1, rights: int = EVERYTHING) -> int:
    """Return the address of a new page."""
    found = libc.mmap(ctypes.c_void_p(at), PAGE, rights, flags, file, ctypes.c_long(0))
    return int(found)


def loop(times: int, code: bytes = MIXING * 400) -> bytes:
    """Return a function: mov r8d,times; MIXING…; dec r8d; jnz; ret."""
    back = struct.pack("<i", -len(code) - 9)
    return b"\x41\xb8" + struct.pack("<I", times) + code + b"\x41\xff\xc8\x0f\x85" + back + b"\xc3"


def move(places: Sequence[int], file: int = -1) -> None:
    """Execute it here and there."""
    at = mapped(None, OWN)
    code = loop(5000)
    following = cycle(places)
    ctypes.memmove(at, code, len(code))
    for place in places if file >= 0 else ():
        mapped(place, mmap.MAP_PRIVATE | FIXED, file, 5)
    while True:
        ctypes.CFUNCTYPE(None)(at)()
        before, to = at, next(following)
        at = int(libc.mremap(ctypes.c_void_p(at), PAGE, PAGE, 3, ctypes.c_void_p(to)))
        if file >= 0:
            mapped(before, mmap.MAP_PRIVATE | FIXED, file, 5)


def endless(code: bytes) -> bytes:
    """Return a loop."""
    return code + b"\xe9" + struct.pack("<i", -len(code) - 5)


def enter(selector: int) -> None:
    """Go on at PLACE in another segment: ljmp *(%rdi)."""
    jump = mapped(None, OWN)
    ctypes.memmove(jump, b"\xff\x2f", 2)
    ctypes.CFUNCTYPE(None, ctypes.c_char_p)(jump)(struct.pack("<IH", PLACE, selector))


def enter_segment() -> None:
    """Execute it in a segment."""
    code = endless(MIXING * 400)
    at, decoy = mapped(BASE + PLACE, OWN | FIXED), mapped(PLACE, OWN | FIXED)
    ctypes.memmove(at, code, len(code))
    ctypes.memset(decoy, 0x90, PAGE)
    description = struct.pack("IIII", 0, BASE, 0xFFFFF, 0b1010101)
    if libc.syscall(154, 1, description, len(description)):
        sys.exit("modify_ldt is refused")
    enter(7)


def leave_64_bits() -> None:
    """Execute it in the segment for code of 32 bits."""
    code = endless(NUMBERS * 300)
    ctypes.memmove(mapped(PLACE, OWN | FIXED), code, len(code))
    enter(0x23)


def exchange() -> None:
    """Execute it in pages that cannot be read, and put floats there afterwards."""
    hashes, floats = loop(5000), loop(1, FLOATS * 400)
    for at in cycle([mapped(None, OWN) for _ in range(100)]):
        for code in (hashes, floats):
            libc.mprotect(ctypes.c_void_p(at), PAGE, EVERYTHING)
            ctypes.memmove(at, code, len(code))
            libc.mprotect(ctypes.c_void_p(at), PAGE, EXECUTED)
            if code == hashes:
                ctypes.CFUNCTYPE(None)(at)()


print(flush=True)
if sys.argv[1] == "segment":
    enter_segment()
elif sys.argv[1] == "bits":
    leave_64_bits()
elif sys.argv[1] == "unreadable":
    exchange()
elif sys.argv[1] == "covers":
    move([0x300000000000 + PAGE * each for each in range(40)], os.open("/bin/true", os.O_RDONLY))
else:
    move([0x200000000000 + PAGE * random.randrange(1 << 30) for _ in range(5000)])
