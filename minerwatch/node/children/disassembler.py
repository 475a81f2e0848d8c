"""Disassemble by the C library of capstone, without its Python module, which is slow to import.

The module takes 60 ms of CPU time for tables of all kinds of machines; the library takes 2.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAJOR = 5
_ENDS = ("", f".{_MAJOR}")
_ARM64, _X86 = 1, 3  # enum cs_arch
_LITTLE_ENDIAN, _MODE_32, _MODE_64 = 0, 1 << 2, 1 << 3  # enum cs_mode
_SKIP_DATA, _ON = 5, 3  # enum cs_opt_type, cs_opt_value


class _Instruction(ctypes.Structure):
    """``struct cs_insn`` (include/capstone/capstone.h)."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", ctypes.c_ubyte * 24),
        ("mnemonic", ctypes.c_char * 32),
        ("operands", ctypes.c_char * 160),
        ("detail", ctypes.c_void_p),
    )


SKIPPED = ".byte"
"""The name of what is no instruction."""
_PREFIXES = frozenset(b"\x66\x67\xf2\xf3\xf0\x2e\x36\x3e\x26\x64\x65") | {*range(0x40, 0x50)}
_MAX_PREFIXES = 14
_WITH_NUMBER = frozenset(bytes((each,)) for each in b"pqrs\xa4\xac\xba\xc2\xc4\xc5\xc6")
"""Second bytes of the opcodes after 0f that have a number of one byte after their operands."""
_WITH_OPERANDS = frozenset((0x63, *range(0xD8, 0xE0)))
"""First bytes of opcodes with operands, some of which only processors know (of x87, for one)."""
_JUMPS = frozenset(bytes((each,)) for each in range(0x80, 0x90))
"""Second bytes of conditional jumps to anywhere."""
_VECTOR_PREFIXES = {0xC5: 2, 0xC4: 3, 0x62: 4}
"""First bytes of instructions of x86-64 on vectors (VEX, EVEX), and the bytes before the opcode."""

_Instructions = ctypes.POINTER(_Instruction)
Instruction = tuple[int, int, str, str]
"""Address, size in bytes, mnemonic, operands."""


class Disassembler:
    """Disassembles code of one kind of machine."""

    def __init__(self, *, is_arm: bool, skips: bool = False, has_32_bits: bool = False) -> None:
        """``skips``: what is no code is an instruction named ``.byte``, instead of the end.

        ``has_32_bits``: x86's code of 32 bits.

        Raises OSError if the library is not there or of another version.
        """
        self._library = _library()
        self._handle = ctypes.c_size_t()
        kind = (_ARM64, _LITTLE_ENDIAN) if is_arm else (_X86, _MODE_32 if has_32_bits else _MODE_64)
        if self._library.cs_open(*kind, ctypes.byref(self._handle)):
            raise OSError("capstone cannot disassemble code of this machine")
        if skips:
            self._library.cs_option(self._handle, _SKIP_DATA, ctypes.c_size_t(_ON))

    def disassemble(self, code: bytes, address: int, count: int) -> Iterator[Instruction]:
        """Yield the first ``count`` instructions, or fewer; 0: all."""
        found = _Instructions()
        number = self._library.cs_disasm(
            self._handle, code, len(code), address, count, ctypes.byref(found)
        )
        if not number:
            return
        try:
            for each in found[:number]:
                yield each.address, each.size, each.mnemonic.decode(), each.operands.decode()
        finally:
            self._library.cs_free(found, number)


def _library() -> ctypes.CDLL:
    """Load the library that the wheel brings, or the system's."""
    paths = [f"{folder}/capstone/lib/libcapstone.so{end}" for folder in sys.path for end in _ENDS]
    path = next(filter(os.path.exists, paths), f"libcapstone.so.{_MAJOR}")
    library = ctypes.CDLL(path)
    library.cs_disasm.restype = ctypes.c_size_t
    library.cs_disasm.argtypes = (
        *(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_size_t),
        ctypes.POINTER(_Instructions),
    )
    library.cs_free.argtypes = (_Instructions, ctypes.c_size_t)
    library.cs_free.restype = None
    if library.cs_version(None, None) >> 8 != _MAJOR:
        raise OSError(f"{path} is not capstone {_MAJOR}")
    return library


def x86_end(code: bytes, at: int, size: int, *, is_known: bool, has_short_jumps: bool) -> int:
    """Return the end of a jump, or of an instruction that capstone does not know.

    Among these are no-operations that cost a program nothing: 0f 0d and 0f 18 to 0f 1e, x87's
    aliases. A conditional jump with the prefix 66 costs as little where its number has two bytes,
    for it leads nowhere: by AMD's processors, and in code of 32 bits (``has_short_jumps``).
    By Intel's it has four, and capstone takes now the one, now the other (AMD64 manual volume 3,
    1.2.4; Intel SDM volume 2, Jcc).
    """
    opcode = _end_of_prefixes(code, at)
    if code[opcode : opcode + 1] == b"\x0f" and code[opcode + 1 : opcode + 2] in _JUMPS:
        prefixes = code[at:opcode]
        is_short = has_short_jumps and b"\x66" in prefixes and not 0x48 <= prefixes[-1] < 0x50
        return opcode + (4 if is_short else 6)
    return at + size if is_known else _end_of_unknown(code, at)


def _end_of_unknown(code: bytes, at: int) -> int:
    """Return the end of an instruction that x86-64 has and capstone does not know."""
    first, second = code[at : at + 2].ljust(2, b"\0")
    if first in _VECTOR_PREFIXES:
        opcode = at + _VECTOR_PREFIXES[first]
        table = 1 if first == 0xC5 else second & 7
    else:
        opcode, table = _end_of_prefixes(code, at), 0
        first, second = code[opcode : opcode + 2].ljust(2, b"\0")
        if first == 0x0F:
            table = {0x38: 2, 0x3A: 3}.get(second, 1)
            opcode += 1 if table == 1 else 2
        elif first not in _WITH_OPERANDS:
            return max(at + 1, opcode + (first == 0x90))
    has_number = table == 3 or (table == 1 and code[opcode : opcode + 1] in _WITH_NUMBER)
    return opcode + 1 + _operand_bytes(code[opcode + 1 : opcode + 3]) + has_number


def is_amd() -> bool:
    """Return True if AMD made this machine's processor, or Hygon after its design."""
    try:
        with open("/proc/cpuinfo", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            begin = file.read(64)
    except OSError:
        return False
    return b"AuthenticAMD" in begin or b"HygonGenuine" in begin


def _end_of_prefixes(code: bytes, at: int) -> int:
    ends = at
    while code[ends : ends + 1] and code[ends] in _PREFIXES and ends - at < _MAX_PREFIXES:
        ends += 1
    return ends


def _operand_bytes(begin: bytes) -> int:
    """Return the size of ModR/M, SIB and displacement (Intel SDM volume 2, 2.1.5)."""
    modes, scaled = begin.ljust(2, b"\0")
    mode, base = modes >> 6, modes & 7
    if mode == 3:
        return 1
    has_scaled = base == 4
    base = scaled & 7 if has_scaled else base
    return 1 + has_scaled + (4 if mode == 2 or (mode == 0 and base == 5) else mode)
