"""Classifies the code at given addresses of a process, in a process that can be killed.

The agent runs this file by path and never imports it: reading another process's memory can hang,
and a decoder must not crash the agent. No code is kept or sent, only counts. One JSON value a line:

=========================================================  ====================================
standard input                                             standard output
=========================================================  ====================================
``{"pid", "start_ticks", "addresses": [[address, n], …]}`` ``{"samples", "unread", "hashing", …}``
=========================================================  ====================================

A window is the 16 instructions from a sampled address on. Windows tell more than averages: a hash
function is dense in exclusive or, rotation and additions of vectors, and has no floating point,
few branches and few of the vector instructions that media codecs are made of.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from bisect import bisect_right
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from minerwatch.node.children.disassembler import Disassembler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # it takes a tenth of the child's start to import

_WINDOW = 16
_WINDOW_BYTES = {"x86_64": 128, "aarch64": 64}
_LEAST_INSTRUCTIONS = 6
_PAGE_BITS = 12
_ENTRY_BYTES = 8
_ENDED = (b"Z", b"X")
_MAX_THREADS = 1000
_MAX_PAGES = 64
"""Of one process, kept while a question about it is answered."""
_MAX_MAPS_BYTES = 4 << 20
MAX_CACHED = 20_000
_MAX_NAMES = 4096
"""Of instructions; there are fewer."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FAULT_S = 1.5e-6
"""Of the kernel, for a new page of memory: what hashes in memory that it allocates for each hash
spends two fifths of its time so, and is no server that the kernel sends and receives for. Where
a page takes less, the time left may be below zero; what is added to it later is right."""
_IO_FIELDS = (b"rchar", b"wchar", b"read_bytes", b"write_bytes")  # proc_pid_io(5)
_HASHING_SHARE = 0.25
_MAX_MEDIA_SHARE = 0.25
_MAX_BRANCH_SHARE = 0.2
_MAX_MULTIPLY_SHARE = 0.07
"""More is a generator of random numbers (Philox), or RandomX, which its pairs reveal."""
_LEAST_MIXED = 3
"""Instructions that mix integers, in a window that converts pairs of them."""

(XOR, ROTATE, MULTIPLY, VECTOR, MEDIA, CIPHER, FLOAT, PAIRS, ROUNDING, BRANCH, OTHER) = range(11)
CLASSES = 11
"""PAIRS: conversions of two integers to two floats. They are rare, and RandomX makes one for each
number that it reads (its specification, 4.3.1 and 5.3.1)."""


# x86-64 (Intel SDM volume 2).

_X86_ROTATES = frozenset(["rol", "ror", "rorx", "rcl", "rcr", "shld", "shrd"])
_X86_XORS = frozenset(
    ("xor", "pxor", "vpxor", "vpxord", "vpxorq", "xorps", "xorpd", "vxorps", "vxorpd")
)
_X86_MULTIPLIES = frozenset(["mul", "imul", "mulx"])
_X86_PAIRS = frozenset(["cvtdq2pd", "vcvtdq2pd"])
_X86_ROUNDING = frozenset(["ldmxcsr", "vldmxcsr", "fldcw"])
_X86_CIPHER = re.compile(r"v?aes|sha(?:1|256|512)|vsha512|vsm[34]")
_X86_BRANCH = re.compile(r"j|call|ret|loop|syscall|int|bnd|notrack")
_X86_VECTOR = re.compile(
    r"v?p(?:add[dq]|sub[dq]|s[lr]l[dqv]\w*|sra[dv]\w*|or[dq]?|and[dqn]*|ternlog[dq]|rol\w+|ror\w+"
    r"|muludq|madd52\w+|alignr)$"
)
_X86_MEDIA = re.compile(
    r"v?p(?:shuf|unpck|avg|sad|madd(?!52)|max|min|abs|hadd|hsub|sign|mul[hlr]|blend|add[bwu]|adds"
    r"|sub[bwu]|subs|cmp|movmskb|s[lr]l(?:w|dq)|sraw|ins|ext|mov[sz]x|perm|broadcast|test)\w*"
    r"|v?(?:pack|mpsadbw|dbpsadbw|movmsk\w+)"
)
_X86_FLOAT = re.compile(
    r"v?(?:add|sub|mul|div|sqrt|max|min|rcp|rsqrt|dp|cmp|ucomi|comi|addsub|hadd|hsub|round|fn?m\w+)\w*"
    r"[sp][sd]$|v?cvt\w+|v?f\w*m(?:add|sub)\w+"
    r"|f(?!ence|ldcw|xsave|xrstor)\w+"
)


def x86_class(mnemonic: str, operands: str) -> int:
    """Return the class of one instruction."""
    name = mnemonic.rpartition(" ")[2]  # without lock, rep, bnd
    if name in _X86_XORS:
        return OTHER if _is_one_register(operands) else XOR
    if "-sae}" in operands and not operands.endswith("{sae}"):
        return ROUNDING
    return _x86_class_of(name)


def _is_one_register(operands: str) -> bool:
    """Return True if all operands are the same: the result is zero, and nothing is mixed."""
    first, _, rest = operands.partition(", ")
    return all(each == first for each in rest.split(", "))


@lru_cache(_MAX_NAMES)
def _x86_class_of(name: str) -> int:
    if name in _X86_ROUNDING:
        return ROUNDING
    if name in _X86_PAIRS:
        return PAIRS
    if name in _X86_ROTATES:
        return ROTATE
    if name in _X86_MULTIPLIES:
        return MULTIPLY
    if name.startswith(("vprol", "vpror")):
        return ROTATE
    for pattern, kind in (
        (_X86_CIPHER, CIPHER),
        (_X86_BRANCH, BRANCH),
        (_X86_VECTOR, VECTOR),
        (_X86_MEDIA, MEDIA),
        (_X86_FLOAT, FLOAT),
    ):
        if pattern.match(name):
            return kind
    return OTHER


# arm64 (Arm ARM, C6 and C7).

_ARM_XORS = frozenset(["eor", "eon", "eor3", "bcax", "veor"])
_ARM_ROTATES = frozenset(["ror", "rorv", "extr", "xar", "rax1"])
_ARM_MULTIPLIES = re.compile(r"[us]?m(?:ul|ulh|ull|add|addl|sub|subl|neg)$")
_ARM_CIPHER = re.compile(r"aes|sha(?:1|256|512)|sm[34]")
_ARM_BRANCH = re.compile(r"b$|b\.|bl|br$|ret|cbn?z|tbn?z|svc")
_ARM_VECTOR = frozenset(
    (
        *("add", "sub", "shl", "ushr", "sshr", "sli", "sri", "orr", "and", "bic", "bsl", "bit"),
        *("bif", "ext", "rev32", "umlal", "umull", "ushl"),
    )
)
_ARM_MOVES = re.compile(r"ld|st|mov|dup|ins|umov|smov")
_ARM_FLOAT = re.compile(r"f(?!mov)\w+|[us]cvtf")


def arm_class(mnemonic: str, operands: str) -> int:
    """Return the class of one instruction."""
    is_vector = operands.startswith(("v", "q"))
    if mnemonic in _ARM_XORS:
        return OTHER if _is_one_register(operands) else XOR
    if mnemonic in _ARM_ROTATES:
        return ROTATE
    if mnemonic == "msr":
        return ROUNDING if operands.startswith("fpcr") else OTHER
    if _ARM_CIPHER.match(mnemonic):
        return CIPHER
    if _ARM_BRANCH.match(mnemonic):
        return BRANCH
    if _ARM_FLOAT.match(mnemonic):
        return PAIRS if mnemonic == "scvtf" and ".2d" in operands else FLOAT
    if _ARM_MOVES.match(mnemonic):
        return OTHER
    if is_vector:
        return VECTOR if mnemonic in _ARM_VECTOR else MEDIA
    return MULTIPLY if _ARM_MULTIPLIES.match(mnemonic) else OTHER


Window = namedtuple("Window", ["counts", "is_hashing", "converts_pairs"])
"""The instructions from one address on: their number by class; do they hash; do they convert pairs
between instructions that mix integers one at a time, not in vectors."""


_NO_WINDOW = Window((0,) * CLASSES, is_hashing=False, converts_pairs=False)


class Decoder:
    """Decodes windows of code; what was decoded before is looked up by its bytes."""

    def __init__(self, machine: str = os.uname().machine) -> None:
        """Raises KeyError for a machine that it does not know."""
        self.window_bytes = _WINDOW_BYTES[machine]
        self.windows: dict[bytes, Window] = {}
        is_arm = machine == "aarch64"
        self._disassembler = Disassembler(is_arm=is_arm)
        self._class_of = arm_class if is_arm else x86_class
        self._vectors = ("v", "q") if is_arm else ("mm", "xmm", "ymm", "zmm")

    def window(self, code: bytes) -> Window | None:
        """Return what the first instructions of ``code`` are; None if too few can be decoded."""
        known = self.windows.get(code)
        if known is None:
            if len(self.windows) >= MAX_CACHED:
                self.windows.clear()
            known = self.windows[code] = self._decoded(code)
        return None if known is _NO_WINDOW else known

    def _decoded(self, code: bytes) -> Window:
        counts = [0] * CLASSES
        mixed = 0
        for _, _, mnemonic, operands in self._disassembler.disassemble(code, 0, _WINDOW):
            kind = self._class_of(mnemonic, operands)
            counts[kind] += 1
            mixed += kind <= MULTIPLY and not operands.startswith(self._vectors)
        total = sum(counts)
        if total < _LEAST_INSTRUCTIONS:
            return _NO_WINDOW
        converts_pairs = counts[PAIRS] > 0 and mixed >= _LEAST_MIXED
        return Window(tuple(counts), _is_hashing(counts, total), converts_pairs)


def _is_hashing(counts: list[int], total: int) -> bool:
    mixing = counts[XOR] + counts[ROTATE] + counts[VECTOR] + counts[CIPHER]
    return (
        mixing >= _HASHING_SHARE * total
        and not counts[FLOAT]
        and not counts[PAIRS]
        and counts[MULTIPLY] <= _MAX_MULTIPLY_SHARE * total
        and counts[MEDIA] <= _MAX_MEDIA_SHARE * total
        and counts[BRANCH] <= _MAX_BRANCH_SHARE * total
    )


# Where code lies.

_EXECUTABLE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ..x. ([0-9a-f]+) (\S+) (\d+) *([^\n]*)", re.MULTILINE
)
_OF_THE_KERNEL = (b"[vdso]", b"[vsyscall]")
_OF_DEVICES = (b"/dev/", b"/sys/", b"anon_inode:")
_OF_NO_FILE = (b"/memfd:", b"/dev/shm/", b"/SYSV", b"/dev/zero")


_OF_A_FILE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) r\S+ [0-9a-f]+ \S+ [1-9]\d* +(/[^\n]*)", re.MULTILINE
)


_Mapping = namedtuple("_Mapping", ["start", "end", "offset", "file", "is_anonymous"])
"""``file``: device and inode; empty: no file backs it."""


class Mappings:
    """The executable mappings of a process, as /proc/PID/maps has them (proc_pid_maps(5))."""

    def __init__(self, content: bytes) -> None:
        self._mappings = sorted(_mappings(content))
        self._starts = [each.start for each in self._mappings]
        self.content = content

    def of(self, address: int) -> _Mapping | None:
        """Return the mapping that holds ``address``."""
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._mappings[place].end:
            return None
        return self._mappings[place]


def largest_file_mib(content: bytes) -> float:
    """Return the size of the largest mapping of a file on a disk."""
    not_on_disk = (*_OF_DEVICES, *_OF_NO_FILE)
    sizes = (
        int(end, 16) - int(start, 16)
        for start, end, name in _OF_A_FILE.findall(content)
        if not name.startswith(not_on_disk)
    )
    return max(sizes, default=0) / (1 << 20)


def _mappings(content: bytes) -> Iterator[_Mapping]:
    for start, end, offset, device, inode, name in _EXECUTABLE.findall(content):
        if name.startswith(_OF_DEVICES) and not name.startswith(_OF_NO_FILE):
            continue  # reading a device's memory could set off what the device does
        has_file = inode != b"0"
        is_anonymous = not name.startswith(_OF_THE_KERNEL) and (
            not has_file or name.startswith(_OF_NO_FILE) or name.endswith(b" (deleted)")
        )
        file = device + b":" + inode if has_file else b""
        yield _Mapping(int(start, 16), int(end, 16), int(offset, 16), file, is_anonymous)


class _Process:
    """One process, open for reading. Raises OSError if it cannot be read."""

    def __init__(self, proc: str, pid: int, start_ticks: int) -> None:
        self._folder = f"{proc}/{pid}"
        stat = self._stat()
        self.is_same = int(stat[19]) == start_ticks
        system_s = int(stat[12]) / _TICKS_PER_S
        self.kernel_s = system_s - int(stat[7]) * _FAULT_S
        self.cpu_s = int(stat[11]) / _TICKS_PER_S + system_s
        if stat[0] in _ENDED:  # memory is then read through another thread
            self._folder = self._living_thread()
        self._code: dict[int, bytes] = {}  # of pages
        self._memory = os.open(f"{self._folder}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._pages = -1
        try:
            self._pages = os.open(f"{self._folder}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self.update_mappings()
        except BaseException:
            self.close()
            raise

    def _stat(self) -> list[bytes]:
        return self._content("stat").rpartition(b")")[2].split()  # proc_pid_stat(5)

    def _living_thread(self) -> str:
        process = self._folder
        for tid in os.listdir(f"{process}/task")[:_MAX_THREADS]:  # noqa: PTH208 - as above
            self._folder = f"{process}/task/{tid}"
            with suppress(OSError, IndexError):
                if self._stat()[0] not in _ENDED:
                    break
        return self._folder

    def update_mappings(self) -> None:
        self.mappings = Mappings(self._content("maps"))

    def io_bytes(self) -> int | None:
        """Return all bytes that it has read and written, from files, pipes or sockets."""
        try:
            fields = dict(line.split(b": ") for line in self._content("io").splitlines())
            return sum(int(fields[name]) for name in _IO_FIELDS)
        except (OSError, ValueError, KeyError):
            return None

    def _content(self, name: str) -> bytes:
        with open(f"{self._folder}/{name}", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            return file.read(_MAX_MAPS_BYTES)

    def code(self, address: int, size_bytes: int) -> bytes:
        """Return code, if its page is present: to fetch one can take as long as a tenant likes."""
        page = address >> _PAGE_BITS
        if page not in self._code:
            if len(self._code) >= _MAX_PAGES:
                self._code.clear()
            self._code[page] = self._page(page)
        begins = address - (page << _PAGE_BITS)
        return self._code[page][begins : begins + size_bytes]

    def _page(self, page: int) -> bytes:
        """Bit 63 of a page map entry says present (proc_pid_pagemap(5))."""
        with suppress(OSError, OverflowError):
            entry = os.pread(self._pages, _ENTRY_BYTES, page * _ENTRY_BYTES)
            if len(entry) == _ENTRY_BYTES and entry[-1] & 0x80:
                return os.pread(self._memory, 1 << _PAGE_BITS, page << _PAGE_BITS)
        return b""

    def close(self) -> None:
        os.close(self._memory)
        if self._pages >= 0:
            os.close(self._pages)


class Classifier:
    """Answers questions about processes."""

    def __init__(self, proc: str, decoder: Decoder) -> None:
        self._proc = proc
        self._decoder = decoder

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return counts over the samples of one process; ``unread``: samples without code."""
        addresses: list[tuple[int, int]] = question["addresses"]
        try:
            process = _Process(self._proc, question["pid"], question["start_ticks"])
        except (OSError, IndexError, ValueError):
            return _nothing(addresses)
        try:
            if process.is_same:
                return self._counts(process, addresses)
        finally:
            process.close()
        return _nothing(addresses)

    def _counts(self, process: _Process, addresses: list[tuple[int, int]]) -> dict[str, Any]:
        unread = samples = hashing = anonymous = pairs = 0
        classes = [0] * CLASSES
        pages: dict[str, int] = {}
        is_current = False
        for address, count in addresses:
            mapping = process.mappings.of(address)
            if mapping is None and not is_current:
                is_current = True
                with suppress(OSError):
                    process.update_mappings()
                mapping = process.mappings.of(address)
            code = process.code(address, self._decoder.window_bytes) if mapping else b""
            window = self._decoder.window(code)
            if mapping is None or window is None:
                unread += count
                continue
            samples += count
            hashing += count * window.is_hashing
            anonymous += count * mapping.is_anonymous
            pairs += count * (mapping.is_anonymous and window.converts_pairs)
            page = _page(address, mapping)
            pages[page] = pages.get(page, 0) + count
            for kind, number in enumerate(window.counts):
                classes[kind] += number * count
        return {
            "samples": samples,
            "unread": unread,
            "hashing": hashing,
            "anonymous": anonymous,
            "pairs": pairs,
            "classes": classes,
            "pages": pages,
            "io_bytes": process.io_bytes(),
            "cpu_s": process.cpu_s,
            "kernel_s": process.kernel_s,
            "file_mib": largest_file_mib(process.mappings.content) if hashing else 0.0,
        }


def _nothing(addresses: list[tuple[int, int]]) -> dict[str, Any]:
    return {"unread": sum(count for _, count in addresses)}


def _page(address: int, mapping: _Mapping) -> str:
    """Return a name of the page: the same in all processes that map the same file."""
    if not mapping.file:
        return f"{address >> _PAGE_BITS:x}"
    place = address - mapping.start + mapping.offset
    return f"{mapping.file.decode(errors='replace')}:{place >> _PAGE_BITS:x}"


def main() -> None:
    """Answer until the input ends."""
    with suppress(OSError):
        os.nice(10)
    classifier = Classifier(sys.argv[1], Decoder())
    for line in sys.stdin.buffer:
        began_s = time.process_time()
        answer = classifier.answer(json.loads(line))
        answer["took_s"] = time.process_time() - began_s
        os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
