"""Machine code of x86-64 and arm64 as words that are the same for both, and the addresses it names.

Part of hot_code_scanner.py: code is hostile, so the agent itself never decodes any.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from minerwatch.node.children.disassembler import Disassembler

_ALIGNED_BYTES = 16
_FAR_BYTES = 4096
_MAX_REFERENCES = 4096
_MAX_OF_A_WORD = 64
_LOWEST_TABLE = 0x10000
_USER_SPACE_END = 1 << 63


class Instruction(NamedTuple):
    """One instruction, as text."""

    address: int
    size: int
    mnemonic: str
    operands: str


class Decoder:
    """Decodes code; bytes that are no code are instructions named ``.byte``."""

    def __init__(self, machine: str = platform.machine()) -> None:
        self.is_arm = machine == "aarch64"
        has_32_bits = machine == "i686"
        self._disassembler = Disassembler(is_arm=self.is_arm, skips=True, has_32_bits=has_32_bits)

    def decoded(self, code: bytes, address: int, most: int = 0) -> Iterator[Instruction]:
        """Yield the instructions of ``code``, which lies at ``address``; all, or the first."""
        return map(Instruction._make, self._disassembler.disassemble(code, address, most))


# Instructions -> where they lead.

_ENDS = re.compile(
    r"(?:bnd |notrack |rep[nz]* )?(?:jmp|ret[fq]?|iret\w*|ud[012]\w*|hlt|int3|b|br\w*|udf|\.byte)"
)
_JUMPS = re.compile(r"(?:bnd |notrack )?j\w+|loop\w*|b|b\.\w+|cbn?z|tbn?z")
_SAVES = re.compile(r"push|sub r?sp,|stp x29|paciasp|bti")
PADS = ("nop", "int3", "data16 nop", "cs nop")
_LAST_NUMBER = re.compile(r"#?(0x[0-9a-f]+|\d+)$")


def ends_flow(instruction: Instruction) -> bool:
    """Return True if the next instruction in memory is not the next to run."""
    return bool(_ENDS.fullmatch(instruction.mnemonic))


def jump_target(instruction: Instruction) -> int | None:
    """Return the address that a jump may lead to; None for calls and unknown addresses."""
    if not _JUMPS.fullmatch(instruction.mnemonic):
        return None
    target = _LAST_NUMBER.fullmatch(instruction.operands.rpartition(", ")[2])
    return int(target[1], 0) if target else None


def jumps_anywhere(instruction: Instruction) -> bool:
    """Return True for a jump to an address that is computed, as that of a case of a switch."""
    mnemonic, operands = instruction.mnemonic.rpartition(" ")[2], instruction.operands
    is_jump = mnemonic == "br" or (mnemonic == "jmp" and _number(operands) is None)
    return is_jump and "rip" not in operands


def call_target(instruction: Instruction) -> int | None:
    """Return the address that is called; None if it is not known, and for what is no call."""
    if instruction.mnemonic not in ("call", "bl"):
        return None
    return _number(instruction.operands)


def function_starts(instructions: Iterable[Instruction]) -> Iterator[int]:
    """Yield addresses at which functions probably start: aligned, after the end of another.

    A loop is aligned after a jump, too; so after a jump only if that leads far away, or if a
    register is saved.
    """
    has_ended = is_after_jump = False
    for instruction in instructions:
        address, _, mnemonic, operands = instruction
        if mnemonic in PADS:
            continue
        saves = bool(_SAVES.match(f"{mnemonic} {operands}"))
        may_start = has_ended and (saves or not is_after_jump)
        if mnemonic == "endbr64" or (may_start and address % _ALIGNED_BYTES == 0):
            yield address
        has_ended = ends_flow(instruction)
        target = jump_target(instruction)
        is_after_jump = target is not None and abs(target - address) <= _FAR_BYTES


# Instructions -> words, the same for all machines and compilers.


class Words:
    """Words for what instructions do, each as often as they do it.

    ``rol32.7`` is a rotation of 32 bits to the left by 7: by one instruction or by two shifts, of a
    register or of the parts of a vector, also written as a rotation to the right by 25. The others
    are products: ``wide32`` (32 by 32 bits in vectors, all 64 bits kept), ``wide64`` (64 by 64, all
    128 kept), ``mul64``, ``clmul`` (without carry), ``mulhrs`` (rounded, in vectors); and
    instructions made for ``aes``, ``sha1``, ``sha256`` and ``sha512``.
    """

    def __init__(self, *, is_arm: bool) -> None:
        self._word = arm_word if is_arm else x86_word
        self._counts: Counter[str] = Counter()

    def add(self, instruction: Instruction) -> bool:
        """Count an instruction; return True if it mixes: if it has a word, or is an xor."""
        word = self._word(instruction.mnemonic, instruction.operands)
        if word:
            self._counts[word] += 1
        return bool(word) or instruction.mnemonic in _XORS

    def text(self) -> str:
        """Return the words, each between a unit separator and a semicolon."""
        counts = Counter(self._counts)
        for word, count in self._counts.items():
            if word.startswith("shl"):
                width, by = map(int, word[3:].split("."))
                counts[f"rol{width}.{by}"] += min(count, self._counts[f"shr{width}.{width - by}"])
        # A shift by one may be an addition.
        counts["rol64.1"] = max(counts["rol64.1"], self._counts["shr64.63"])
        return "".join(
            f"\x1f{word};" * min(count, _MAX_OF_A_WORD)
            for word, count in sorted(counts.items())
            if not word.startswith(("shl", "shr"))
        )


_XORS = frozenset(
    (
        *("xor", "pxor", "vpxor", "vpxord", "vpxorq", "xorps", "vxorps", "vpternlogd"),
        *("vpternlogq", "eor", "eor3", "bcax"),
    )
)
_SIDES = {"shl": "shl", "sll": "shl", "sli": "shl", "shr": "shr", "srl": "shr", "sri": "shr"}


def _turned(name: str, width: int, by: int | None) -> str:
    """Return the word of a rotation or of a shift by a number."""
    if by is None or not 0 < by < width:
        return ""
    if name in _SIDES:
        return f"{_SIDES[name]}{width}.{by}"
    return f"rol{width}.{by if name == 'rol' else width - by}"


def _number(operand: str) -> int | None:
    with suppress(ValueError):
        return int(operand.lstrip("#"), 0)
    return None


_X86_WIDE = re.compile(r"r(?:[a-ds]|\d+(?![dwb\d]))|qword")
_X86_WORD = re.compile(
    r"(?P<turn>ro[lr]|sh[lr])x?|(?P<two>sh[lr])d"
    r"|v?p(?P<lanes>(?:s[lr]l|ro[lr])[dq])|v?(?P<swap>pshufd|pshuf[lh]w)"
    r"|v?p(?P<wide32>muludq)|(?P<wide64>mulx?)|(?P<mul64>imul)"
    r"|v?p(?P<clmul>clmul\w+)|v?p(?P<mulhrs>mulhrsw)"
    r"|v?(?P<aes>aes(?:enc|dec)(?:last)?)|v?(?P<sha>sha(?:1|256|512)).+"
)
_SWAPS = {
    ("pshufd", 0xB1): "rol64.32",
    ("pshuflw", 0xB1): "rol32.16",
    ("pshuflw", 0x39): "rol64.48",
    ("pshuflw", 0x93): "rol64.16",
}


def x86_word(mnemonic: str, operands: str) -> str:
    """Return the word of an instruction, or an empty text."""
    match = _X86_WORD.fullmatch(mnemonic)
    if not match:
        return ""
    kind = str(match.lastgroup)
    by = _number(operands.rpartition(", ")[2])
    width = 64 if _X86_WIDE.match(operands) else 32
    if kind == "turn":
        return _turned(match[kind], width, by)
    if kind == "two":
        first, second, *_ = operands.split(", ")
        return _turned("ro" + match[kind][2], width, by) if first == second else ""
    if kind == "lanes":
        return _turned(match[kind][:3], 32 if match[kind][3] == "d" else 64, by)
    if kind == "swap":
        return _SWAPS.get((match[kind], by or 0), "")
    if kind in ("wide64", "mul64"):
        return kind if width == 64 else ""
    return match[kind] if kind == "sha" else kind


_ARM_WORD = re.compile(
    r"(?P<ror>ror|extr)|(?P<lanes>shl|sli|ushr|usra|sri|xar)|(?P<swap>rev(?:32|64))"
    r"|(?P<wide32>um(?:ull|lal)2?)|(?P<wide64>umulh)|(?P<mul64>mul|madd|umaddl)"
    r"|(?P<clmul>pmull2?)|(?P<mulhrs>sqrdmulh)|(?P<aes>aes[ed])|(?P<sha>sha(?:1|256|512)).+"
)
_ARM_ROTATED = re.compile(r"([wx])\d.*, ror #(\d+)$")
_ARM_SIDES = {"shl": "shl", "sli": "shl", "ushr": "shr", "usra": "shr", "sri": "shr", "xar": "ror"}


def arm_word(mnemonic: str, operands: str) -> str:
    """Return the word of an instruction, or an empty text."""
    match = _ARM_WORD.fullmatch(mnemonic)
    is_vector = operands.startswith("v")
    if not match:
        turned = _ARM_ROTATED.match(operands)
        return _turned("ror", 64 if turned[1] == "x" else 32, int(turned[2])) if turned else ""
    kind = str(match.lastgroup)
    each = operands.split(", ")
    by = _number(each[-1])
    if kind == "ror":
        is_two = mnemonic == "extr" and each[1] != each[2]
        return "" if is_two else _turned("ror", 64 if operands.startswith("x") else 32, by)
    if kind == "lanes":
        width = {"s": 32, "d": 64}.get(each[0][-1], 0)
        return _turned(_ARM_SIDES[mnemonic], width, by) if is_vector else ""
    if kind == "swap":
        ends = (mnemonic, each[0][-2:])
        return {("rev32", "8h"): "rol32.16", ("rev64", "4s"): "rol64.32"}.get(ends, "")
    if kind == "wide32":
        return kind if is_vector else "mul64"
    if kind == "mul64":
        return kind if operands.startswith("x") else ""
    return match[kind] if kind == "sha" else kind


# Instructions -> addresses that they name.


class Reference(NamedTuple):
    """An address in memory that an instruction names."""

    by: int
    address: int
    size: int = 0  # bytes that it reads there; 0: it takes the address of more


class References:
    """Addresses of memory that instructions name, and numbers that they put together."""

    def __init__(self, *, is_arm: bool) -> None:
        self.tables: list[Reference] = []
        self.pointers: list[Reference] = []  # of addresses that lie in memory
        self.numbers: list[tuple[int, bytes]] = []  # by the instruction there, as in memory
        self._registers: dict[str, int] = {}
        self.add: Callable[[Instruction], None] = self._add_arm if is_arm else self._add_x86

    def _name(self, by: int, address: int, size: int = 0, *, is_pointer: bool = False) -> None:
        if len(self.tables) < _MAX_REFERENCES and _LOWEST_TABLE <= address < _USER_SPACE_END:
            self.tables.append(Reference(by, address, size))
            if is_pointer:
                self.pointers.append(Reference(by, address, size))

    def _add_x86(self, instruction: Instruction) -> None:
        address, size, mnemonic, operands = instruction
        if mnemonic.startswith(("j", "call", "loop")):
            return
        relative = _X86_RELATIVE.search(operands) if "[rip" in operands else None
        if relative:
            distance = int(relative[2], 0)
            named = address + size + (distance if relative[1] == "+" else -distance)
            loads = mnemonic == "mov" and operands.startswith("r")
            self._name(address, named, _x86_operand_bytes(operands), is_pointer=loads)
            return
        for digits in _X86_ADDRESS.findall(operands) if "0x" in operands else ():
            self._name(address, int(digits, 16))

    def _add_arm(self, instruction: Instruction) -> None:
        address, _, mnemonic, operands = instruction
        register, _, rest = operands.partition(", ")
        registers = self._registers
        value = _number(rest)
        if mnemonic in ("adrp", "adr", "ldr") and value is not None:
            if mnemonic != "adrp":
                self._name(address, value, _ARM_BYTES.get(register[0], 0) * (mnemonic == "ldr"))
            registers[register] = value
        elif mnemonic == "mov" and value is not None:
            registers[register] = value
        elif mnemonic == "movk" and register in registers:
            self._put_half(address, register, rest)
        elif mnemonic in ("and", "orr", "eor"):
            last = _number(rest.rpartition(", ")[2])
            self._put(address, register, last if last and last >= _LOWEST_TABLE else None)
        elif mnemonic in ("add", "ldr", "ldp", "ld1"):
            match = _ARM_OPERAND.search(operands)
            base = registers.get(match[1]) if match else None
            if match and base is not None:
                named = base + int(match[2] or "0", 0)
                size = _ARM_BYTES.get(register[0], 0) * (mnemonic == "ldr")
                self._name(address, named, size, is_pointer=mnemonic == "ldr" and size == 8)

    def _put_half(self, by: int, register: str, rest: str) -> None:
        match = _ARM_HALF.fullmatch(rest)
        if match:
            left = int(match[2] or "0")
            whole = self._registers[register] & ~(0xFFFF << left) | int(match[1], 0) << left
            self._registers[register] = whole
            self._put(by, register, whole)

    def _put(self, by: int, register: str, number: int | None) -> None:
        if number is not None and len(self.numbers) < _MAX_REFERENCES:
            size = 8 if register.startswith("x") else 4
            in_memory = (number & (1 << 8 * size) - 1).to_bytes(size, "little")
            self.numbers.append((by, in_memory))


_X86_BYTES = {"zmmword": 64, "ymmword": 32, "xmmword": 16, "qword": 8, "dword": 4, "byte": 1}
_ARM_BYTES = {"q": 16, "x": 8, "d": 8, "w": 4, "s": 4}


def _x86_operand_bytes(operands: str) -> int:
    """Return the bytes of the memory operand; 0 if only its address is taken."""
    before, is_read, _ = operands.partition(" ptr [")
    return _X86_BYTES.get(before.rpartition(" ")[2], 64) if is_read else 0


_X86_RELATIVE = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
_X86_ADDRESS = re.compile(r"\b0x([0-9a-f]{5,16})\b")
_ARM_OPERAND = re.compile(r", \[?(x\d+)(?:, #(0x[0-9a-f]+|\d+))?\]?$")
_ARM_HALF = re.compile(r"#(0x[0-9a-f]+|\d+)(?:, lsl #(\d+))?")


# Instructions -> text without addresses, for fingerprints.

_BRANCH = re.compile(r"j|call|loop|b$|bl$|b\.|cbn?z|tbn?z")


def masked(instruction: Instruction, page_bytes: int, is_mapped: Callable[[int], bool]) -> str:
    """Return the text of an instruction that was decoded at its offset in a page.

    Without what may differ each time that a program is linked or loaded: addresses relative to
    the instruction, ones that ``is_mapped`` knows, and branches that leave the page.
    """
    _, _, mnemonic, operands = instruction
    if _BRANCH.match(mnemonic):
        target = _LAST_NUMBER.search(operands)
        leaves = target is not None and int(target[1], 0) >= page_bytes
        return f"{mnemonic} {_LAST_NUMBER.sub('out', operands) if leaves else operands}"
    if mnemonic in ("adrp", "adr"):
        operands = operands.partition(", ")[0]
    operands = _X86_RELATIVE.sub("[rip]", operands)

    def mask(match: re.Match[str]) -> str:
        return "address" if is_mapped(int(match[1], 16)) else match[0]

    return f"{mnemonic} {_X86_ADDRESS.sub(mask, operands)}"
