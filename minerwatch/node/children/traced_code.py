"""Code that probably runs, from addresses that were sampled: it follows the jumps from there.

Part of hot_code_scanner.py. A page holds several functions, and only one of them may run. Calls are
not followed: what is called and hot was sampled itself. Before a loop stands the begin of its
function, which no jump leads back to, so it is searched for backwards; and code close by that calls
the function may have loaded the address of its table. The cases of a switch are searched for as far
as the function reaches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from minerwatch.node.children.machine_code import (
    PADS,
    Decoder,
    Instruction,
    call_target,
    ends_flow,
    function_starts,
    jump_target,
    jumps_anywhere,
)

PAGE = 4096
MAX_INSTRUCTIONS = 32_768
MAX_PAGES = 64
_BLOCK = 16
_LONGEST = 15
"""Bytes of an x86 instruction."""
_NEAR_BYTES = 32_768
_SAME_FUNCTION_BYTES = 64
_MAX_FUNCTIONS = 16
_USER_SPACE_END = 1 << 63
_MAX_STEPS_BACK = 8
_BEFORE_CALL = 32
"""Instructions before a call that may load what the function uses, as far as there is no other."""
_CALLS = ("call", "bl", "blr")
_UNCONDITIONAL = ("jmp", "b")


class TracedCode:
    """Instructions that jumps lead to from ``starts``, and others of their functions.

    ``before``: what stands before these in the same function; if a switch is there, also the rest
    of the function.
    """

    def __init__(
        self, decoder: Decoder, page_of: Callable[[int], bytes], starts: Sequence[int]
    ) -> None:
        """``page_of`` returns the content of a page by its number, nothing if it is no code."""
        self.reached: list[Instruction] = []
        self.before: list[Instruction] = []
        self._decoder = decoder
        self._page_of = page_of
        self._pages: dict[int, bytes] = {}
        self._known: set[int] = set()
        self._left = MAX_INSTRUCTIONS
        self._trace(starts)
        for start, end in self._functions(starts):
            self._trace_back(start, end)
        self._fill_gaps()

    def contents(self) -> Iterator[tuple[int, bytes]]:
        """Yield where instructions begin, and their bytes, those that are adjacent in one piece."""
        ends = ((each.address, each.address + each.size) for each in (*self.reached, *self.before))
        for start, end in joined(ends, _LONGEST):
            yield start, self._content(start, end)

    def _trace(self, starts: Iterable[int]) -> None:
        pending = deque(starts)
        while pending and self._left > 0:
            pending += self._trace_from(pending.popleft())

    def _trace_from(self, address: int) -> list[int]:
        """Take the instructions from an address on; return where they may jump to."""
        targets: list[int] = []
        while self._left > 0:
            block = self._content(address, address + _BLOCK * _LONGEST)
            for instruction in self._decoder.decoded(block, address, _BLOCK):
                if instruction.address in self._known or self._left <= 0:
                    return targets
                self._add(instruction, self.reached)
                target = jump_target(instruction)
                if target is not None and abs(target - instruction.address) <= _NEAR_BYTES:
                    targets.append(target)
                if ends_flow(instruction):
                    return targets
                address = instruction.address + instruction.size
            if not block:
                return targets
        return targets

    def _add(self, instruction: Instruction, to: list[Instruction]) -> None:
        self._left -= 1
        self._known.add(instruction.address)
        to.append(instruction)

    def _functions(self, starts: Iterable[int]) -> list[tuple[int, int]]:
        """Return ranges that were reached, in the order of ``starts``, one of which each holds."""
        ends = [(each.address, each.address + each.size) for each in self.reached]
        ranges = [*joined(ends, _SAME_FUNCTION_BYTES)]
        indexes = [bisect_right(ranges, (start, _USER_SPACE_END)) - 1 for start in starts]
        return [ranges[index] for index in dict.fromkeys(indexes) if index >= 0][:_MAX_FUNCTIONS]

    def _trace_back(self, start: int, end: int) -> None:
        """Take what stands before ``start`` in the same function, and before calls of it."""
        lead = max(0, (start // PAGE - 1) * PAGE)
        while lead < start and not self._page(lead // PAGE):
            lead += PAGE
        earlier = self._decoded(lead, start + _LONGEST)
        begin = _begin_of(start, end, lead, earlier)
        own, later = self._decoded(begin, start), self._decoded(end, end + PAGE)
        if any(map(jumps_anywhere, own)):
            own += _up_to_padding(later)
        self._add_before(own)
        for instructions in (earlier, later):
            first = 0
            for number, instruction in enumerate(instructions):
                target = call_target(instruction)
                if target is not None and begin <= target < end:
                    self._add_before(instructions[max(first, number - _BEFORE_CALL) : number])
                if instruction.mnemonic in _CALLS or ends_flow(instruction):
                    first = number + 1

    def _fill_gaps(self) -> None:
        """Take what no jump leads to between two functions that run, such as the begin of one."""
        reached = ((each.address, each.address + each.size) for each in self.reached)
        for (_, end), (start, _) in pairwise(joined(reached)):
            if start - end <= _SAME_FUNCTION_BYTES:
                self._add_before(self._decoded(end, start))

    def _decoded(self, start: int, end: int) -> list[Instruction]:
        if self._left <= 0:
            return []
        instructions = [*self._decoder.decoded(self._content(start, end), start)]
        self._left -= len(instructions)
        return instructions

    def _add_before(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            if instruction.address not in self._known:
                self._add(instruction, self.before)

    def _content(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` to ``end``, or as far as there is code."""
        content = b""
        for page in range(start // PAGE, (end - 1) // PAGE + 1):
            code = self._page(page)
            content += code
            if len(code) < PAGE:
                break
        return content[start % PAGE :][: end - start]

    def _page(self, page: int) -> bytes:
        if page not in self._pages:
            if len(self._pages) >= MAX_PAGES:
                return b""
            self._pages[page] = self._page_of(page)
        return self._pages[page]


def _begin_of(start: int, end: int, lead: int, earlier: Sequence[Instruction]) -> int:
    """Return where the function begins that ``start`` lies in, ``lead`` if that does not show."""
    begins = [each for each in function_starts(earlier) if each <= start]
    first = begin = start
    for _ in range(_MAX_STEPS_BACK):
        begin = max((each for each in begins if each <= first), default=lead)
        inward = [
            each.address
            for each in earlier
            if each.address < begin and _leads_into(each, begin, end)
        ]
        if not inward:
            break
        first = min(inward)
    return begin


def _up_to_padding(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Return those of the same function: the next one begins after bytes that only fill up.

    Without these it may be a case of the switch that begins at such an address by chance.
    """
    starts = {*function_starts(instructions)}
    for number, (last, instruction) in enumerate(pairwise(instructions), 1):
        if instruction.address in starts and last.mnemonic in PADS:
            return [*instructions[:number]]
    return [*instructions]


def _leads_into(instruction: Instruction, begin: int, end: int) -> bool:
    """Return True for a jump from before: to the begin only if it is no call of a function."""
    target = jump_target(instruction)
    if target is None or not begin <= target < end:
        return False
    return target > begin or instruction.mnemonic not in _UNCONDITIONAL


def joined(ranges: Iterable[tuple[int, int]], gap: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the ranges in order, as one those that overlap or are no more than ``gap`` apart."""
    last: tuple[int, int] | None = None
    for start, end in sorted(ranges):
        if last is not None and start <= last[1] + gap:
            last = last[0], max(last[1], end)
            continue
        if last is not None:
            yield last
        last = start, end
    if last is not None:
        yield last
