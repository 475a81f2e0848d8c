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
_LITTLE_ENDIAN, _MODE_64 = 0, 1 << 3  # enum cs_mode
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
_RESERVED = frozenset(b"\x0d\x18\x19\x1a\x1b\x1c\x1d\x1e")
"""After 0f, before a register: no-operations of three bytes that only x86-64's decoders know."""
_VECTOR_PREFIXES = {0xC5: 2, 0xC4: 3, 0x62: 4}
"""First bytes of instructions of x86-64 on vectors (VEX, EVEX), and the bytes before the opcode."""

_Instructions = ctypes.POINTER(_Instruction)
Instruction = tuple[int, int, str, str]
"""Address, size in bytes, mnemonic, operands."""


class Disassembler:
    """Disassembles code of one kind of machine."""

    def __init__(self, *, is_arm: bool, skips: bool = False) -> None:
        """``skips``: what is no code is an instruction named ``.byte``, instead of the end.

        Raises OSError if the library is not there or of another version.
        """
        self._library = _library()
        self._handle = ctypes.c_size_t()
        kind = (_ARM64, _LITTLE_ENDIAN) if is_arm else (_X86, _MODE_64)
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


def end_of_unknown(code: bytes, at: int, size: int) -> int:
    """Return where the instruction after one begins that capstone does not know, or ``size`` on."""
    first, second, third = code[at : at + 3].ljust(3, b"\0")
    if first in _VECTOR_PREFIXES and size == 1:
        opcode = at + _VECTOR_PREFIXES[first]
        has_number = first != 0xC5 and second & 7 == 3
        return opcode + 1 + _operand_bytes(code[opcode + 1 : opcode + 3]) + has_number
    is_reserved = first == 0x0F and second in _RESERVED and third >= 0xC0
    return at + max(size, 3 if is_reserved else 0)


def _operand_bytes(begin: bytes) -> int:
    """Return the size of ModR/M, SIB and displacement (Intel SDM volume 2, 2.1.5)."""
    modes, scaled = begin.ljust(2, b"\0")
    mode, base = modes >> 6, modes & 7
    if mode == 3:
        return 1
    has_scaled = base == 4
    base = scaled & 7 if has_scaled else base
    return 1 + has_scaled + (4 if mode == 2 or (mode == 0 and base == 5) else mode)
