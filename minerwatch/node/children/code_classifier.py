"""Classifies the code at given addresses of a process, in a process that can be killed.

The agent runs this file by path and never imports it: reading another process's memory can hang,
and a decoder must not crash the agent. It answers with counts, never with code, by one JSON value a
line:

===================================================================  ==========================
standard input                                                       standard output
===================================================================  ==========================
``[pid, start_ticks, is_relative, tid, [[address, n, "code"], …]]``  ``{"samples", "unread", …}``
===================================================================  ==========================

``tid``: a thread that ran lately, by which memory is read if the first one has exited; 0: unknown.
``address``: bit 63 is set and bit 62 is not if the code ran in x86-64's mode of 32 bits.
``code``: in base64 what was copied while it was executed; if empty, it is read from the process. A
copy that is in no mapping any more, or that a file does not have there, counts as anonymous. With
``is_relative`` another process executed it: it counts where this one maps code, too.
``of_unknown_origin`` are other copies then, and all with the ``pid`` 0 (none is read) or of a
zombie, of which only pairs are counted: programs that come and go may move data. ``unread`` are
samples without a window of instructions; ``hidden`` those of them that no other process executed.

A window is the 16 instructions from a sampled address on. Windows tell more than averages: a hash
function is dense in exclusive or, rotation and additions of vectors, and has no floating point,
few branches and few of the vector instructions that media codecs are made of.

It imports neither ``re`` nor ``json``: it starts every few minutes, and they took half of a start.
"""

from __future__ import annotations

import os
import sys
import time
from binascii import a2b_base64

from minerwatch.node.children.disassembler import SKIPPED, Disassembler, is_amd, x86_end
from minerwatch.node.children.instruction_classes import (
    BRANCH,
    CIPHER,
    CLASSES,
    FLOAT,
    MEDIA,
    MULTIPLY,
    PAIRS,
    ROTATE,
    VECTOR,
    XOR,
    arm_class,
    x86_class,
)
from minerwatch.node.children.mappings import (
    CODE_OF_32_BITS,
    PAGE_BITS,
    Mapping,
    has_32_bits,
)
from minerwatch.node.children.sampled_process import SampledProcess, stat_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_WINDOW = 16
_WINDOW_BYTES = {"x86_64": 128, "i686": 128, "aarch64": 64}
_MIN_INSTRUCTIONS = 6
_IN_PAGE = (1 << PAGE_BITS) - 1
MAX_MAPS_CPU_S = 0.1
"""For the list of 65,000 mappings with ordinary names."""
MAPS_CPU_S_PER_SAMPLE = 0.01
"""So that processes with many mappings, and one sample each, do not use up their owner's time."""
MAX_CACHED = 20_000
_HASHING_SHARE = 0.25
_MAX_MEDIA_SHARE = 0.25
_MAX_BRANCH_SHARE = 0.2
_MAX_MULTIPLY_SHARE = 0.07
"""More is a generator of random numbers (Philox), or RandomX, which its pairs reveal."""
_CALLS = frozenset(("call", "bl"))
_JUMPS = frozenset(("jmp", "b", *_CALLS))
_LEAVES = frozenset(("jmp", "b", "br", "ret"))
_MAX_PIECES = 64
"""Of code without a jump, decoded for one window: jumps back and forth have no end."""
_CHECKED = SKIPPED[0] + "j"
"""First letters of what capstone does not know, and of jumps."""
_PASSED = frozenset(("nop", SKIPPED))
_MIN_MIXED = 3
"""Instructions that mix integers, in a window with pairs."""
_MIN_OF_PAIRS = 3
"""Instructions that compute with pairs of floats, in a window that converts none."""
_MOVES_OF_ONE = frozenset(("movd", "vmovd"))
_OF_ONE_FLOAT = ("sd", "ss", "2si")
"""Ends of the names of instructions that use one float."""


class Window:
    """The instructions from one address on: their number by class.

    ``mixes_pairs``: between instructions that mix integers one at a time, not in vectors, pairs of
    floats are converted from integers, or computed with.
    """

    __slots__ = ("counts", "is_hashing", "mixes_pairs")

    def __init__(self, counts: Sequence[int], *, is_hashing: bool, mixes_pairs: bool) -> None:
        self.counts = counts
        self.is_hashing = is_hashing
        self.mixes_pairs = mixes_pairs


_NO_WINDOW = Window((0,) * CLASSES, is_hashing=False, mixes_pairs=False)


class Decoder:
    """Decodes windows of code; what was decoded before is looked up by its bytes."""

    def __init__(self, machine: str = os.uname().machine, *, of_amd: bool | None = None) -> None:
        """Raises KeyError for a machine that it does not know. ``of_amd``: if not this one."""
        self.window_bytes = _WINDOW_BYTES[machine]
        self.windows: dict[bytes, Window] = {}
        is_arm, is_32_bits = machine == "aarch64", machine == "i686"
        self._disassembler = Disassembler(is_arm=is_arm, skips=True, has_32_bits=is_32_bits)
        self._class_of = arm_class if is_arm else x86_class
        self._is_x86 = not is_arm
        self._has_short_jumps = is_32_bits or (is_amd() if of_amd is None else of_amd)
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
        mixed = of_pairs = 0
        instructions = [*self._instructions(code)]
        for at, (mnemonic, operands) in enumerate(instructions):
            kind = self._class_of(mnemonic, operands)
            if kind == PAIRS and _converts_one(instructions, at):
                counts[FLOAT] += 1
                continue
            counts[kind] += 1
            mixed += kind <= MULTIPLY and not operands.startswith(self._vectors)
            of_pairs += kind == FLOAT and (mnemonic.endswith("pd") or ".2d" in operands)
        total = sum(counts)
        if total < _MIN_INSTRUCTIONS:
            return _NO_WINDOW
        has_pairs = counts[PAIRS] > 0 or of_pairs >= _MIN_OF_PAIRS
        mixes_pairs = has_pairs and mixed >= _MIN_MIXED
        return Window(counts, is_hashing=_is_hashing(counts, total), mixes_pairs=mixes_pairs)

    def _instructions(self, code: bytes) -> Iterator[tuple[str, str]]:
        """Yield instructions in the order of execution, without what anyone may strew in.

        That is no-operations, jumps and calls within the copy, over bytes that decode as something
        else or into the jump itself, and what capstone does not know, as reserved no-operations.
        After a call, a return or a jump out of the copy leads back behind the call.
        """
        begins, left, pieces = 0, _WINDOW, _MAX_PIECES
        callers: list[int] = []
        while left and pieces and begins < len(code):
            ends = len(code)
            pieces -= 1
            for at, size, mnemonic, operands in self._disassembler.disassemble(
                code[begins:], begins, left
            ):
                ends = at + size
                name = mnemonic.rpartition(" ")[2]  # without prefixes
                target = _target(operands) if name in _JUMPS else at
                if target != at and 0 <= target < len(code):
                    callers += (ends,) * (name in _CALLS)
                    ends = target
                elif callers and name in _LEAVES:
                    ends = callers.pop()
                elif mnemonic not in _PASSED:
                    yield mnemonic, operands
                    left -= 1
                if self._is_x86 and ends == at + size and mnemonic[0] in _CHECKED:
                    is_known, is_short = mnemonic != SKIPPED, self._has_short_jumps
                    ends = x86_end(code, at, size, is_known=is_known, has_short_jumps=is_short)
                if ends != at + size:
                    break
            begins = ends


def _target(operands: str) -> int:
    """Return where a jump leads; -1 if not to a number."""
    number = operands.removeprefix("#")
    return int(number, 16) if number.startswith("0x") else -1


def _converts_one(instructions: Sequence[tuple[str, str]], at: int) -> bool:
    """Return True if a conversion of pairs has one integer, and what uses it next is of one float.

    So Java's compiler converts each int to a double on AMD's processors (HotSpot's UseXmmI2D): movd
    clears the upper half of the register. Where a window begins after that, only the use shows it.
    """
    target, _, source = instructions[at][1].partition(", ")
    later = instructions[at + 1 :]
    use = next((name for name, operands in later if target in operands.split(", ")), None)
    if at == 0:
        return source[:1] == "x" and use is not None and use.endswith(_OF_ONE_FLOAT)
    name, operands = instructions[at - 1]
    is_moved = name in _MOVES_OF_ONE and operands.startswith(f"{source}, ")
    return is_moved and (use is None or use.endswith(_OF_ONE_FLOAT))


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


class Classifier:
    """Answers questions about processes."""

    def __init__(self, proc: str, decoder: Decoder) -> None:
        self._proc = proc
        self._decoder = self._ordinary = decoder
        self._of_32_bits: Decoder | None = None

    def answer(self, question: Question) -> dict[str, Any]:
        """Return counts over the samples of one process; ``unread``: samples without code."""
        try:
            process = self._opened(question) if question.pid else None
        except (OSError, IndexError, ValueError):
            return {"unread": sum(count for _, count, _ in question.spots)}
        try:
            return self._counts(process, question)
        finally:
            if process is not None:
                process.close()

    def _opened(self, question: Question) -> SampledProcess | None:
        """Return the process; None if it is a zombie, whose number nothing else has had.

        Raises OSError, IndexError or ValueError if it has exited.
        """
        folder = f"{self._proc}/{question.pid}"
        stat = stat_of(folder)
        if int(stat[19]) != question.start_ticks:
            raise ValueError("another process")
        samples = sum(count for _, count, _ in question.spots)
        maps_s = min(MAX_MAPS_CPU_S, MAPS_CPU_S_PER_SAMPLE * samples)
        try:
            return SampledProcess(folder, stat, question.tid, maps_s)
        except ProcessLookupError:
            return None

    def _counts(self, process: SampledProcess | None, question: Question) -> dict[str, Any]:
        unread = samples = hashing = anonymous = pairs = of_unknown_origin = 0
        classes = [0] * CLASSES
        pages: dict[str, int] = {}
        for flagged, count, copy in question.spots:
            address = self._choose_decoder(flagged)
            mapping, is_anonymous = _origin(process, address, copy)
            is_mapped = mapping is not None and is_anonymous == mapping.is_anonymous
            is_from_there = is_mapped or not (process is None or question.is_relative)
            window = self._window(process, mapping, address, copy)
            if window is None or not (is_from_there or copy):
                unread += count
                continue
            pairs += count * window.mixes_pairs
            if not is_from_there:
                of_unknown_origin += count
                continue
            samples += count
            hashing += count * window.is_hashing
            anonymous += count * is_anonymous
            page = _page(address, mapping) if mapping and is_mapped else ""
            pages[page] = pages.get(page, 0) + count
            for kind, number in enumerate(window.counts):
                classes[kind] += number * count
        counts = {
            "samples": samples,
            "unread": unread,
            "of_unknown_origin": of_unknown_origin,
            "hidden": 0 if process is None or question.is_relative else unread,
            "hashing": hashing,
            "anonymous": anonymous,
            "pairs": pairs,
            "classes": classes,
            "pages": pages,
        }
        return counts if process is None else counts | process.totals(has_hashed=hashing > 0)

    def _choose_decoder(self, flagged: int) -> int:
        """Return the address without what says how many bits its code has."""
        self._decoder = self._ordinary
        if not has_32_bits(flagged):
            return flagged
        self._of_32_bits = self._decoder = self._of_32_bits or Decoder("i686")
        return flagged ^ CODE_OF_32_BITS

    def _window(
        self, process: SampledProcess | None, mapping: Mapping | None, address: int, copy: bytes
    ) -> Window | None:
        """Return the instructions from the address on, or those before the end of its page.

        LuaJIT fills its memory from the end: the loop that runs hot may be the last 20 bytes.
        """
        size_bytes = self._decoder.window_bytes
        code = copy or (process.code(address, size_bytes) if process and mapping else b"")
        window = self._decoder.window(code)
        end = address + len(code)
        # Nothing is read of a device, nor in place of what could not be copied, which is one byte.
        if window is None and process and mapping and len(code) > 1 and end & _IN_PAGE == 0:
            before = process.code(end - size_bytes, size_bytes)
            if before.endswith(code):
                return self._decoder.window(before)
        return window


def _origin(
    process: SampledProcess | None, address: int, copy: bytes
) -> tuple[Mapping | None, bool]:
    """Return the mapping of an address, and True if what was executed there is in no file."""
    if process is None:
        return None, False
    mapping = process.mapping(address)
    return mapping, _is_anonymous(process, mapping, address, copy)


def _is_anonymous(
    process: SampledProcess, mapping: Mapping | None, address: int, copy: bytes
) -> bool:
    """Return True if what was executed is in no file, whatever is mapped there now."""
    if mapping is None:
        return process.mappings.are_all_known or process.is_own_page(address)
    if mapping.is_anonymous:
        return True
    if not mapping.file:  # the kernel's, which may be made writable, and written
        return process.is_own_page(address)
    there = process.code(address, len(copy) or 1)  # to the end of the page at most
    return process.is_own_page(address) or (copy != b"" and not (there and copy.startswith(there)))


def _page(address: int, mapping: Mapping) -> str:
    """Return a name of the page: the same in all processes that map the same file."""
    if not mapping.file:
        return f"{address >> PAGE_BITS:x}"
    file_offset = address - mapping.start + mapping.offset
    return f"{mapping.file}:{file_offset >> PAGE_BITS:x}"


class Question:
    """One line of the standard input."""

    __slots__ = ("is_relative", "pid", "spots", "start_ticks", "tid")

    def __init__(self, line: bytes) -> None:
        fields = line.translate(None, b'[]"\n').split(b",")
        self.pid, self.start_ticks, self.is_relative, self.tid = map(int, fields[:4])
        spots = zip(fields[4::3], fields[5::3], fields[6::3])  # noqa: B905 - one empty field if there is none
        self.spots = [(int(at), int(count), a2b_base64(code)) for at, count, code in spots]


def _json(answer: dict[str, Any]) -> bytes:
    """Return numbers, and names without quotes or backslashes, as JSON, without what is None."""
    known = {name: value for name, value in answer.items() if value is not None}
    return repr(known).replace("'", '"').encode()


def main() -> None:
    """Answer until the input ends."""
    try:  # noqa: SIM105 - as above
        os.nice(10)
    except OSError:
        pass
    classifier = Classifier(sys.argv[1], Decoder())
    for line in sys.stdin.buffer:
        began_s = time.process_time()
        answer = classifier.answer(Question(line))
        answer["took_s"] = time.process_time() - began_s
        os.write(1, _json(answer) + b"\n")


if __name__ == "__main__":
    main()
