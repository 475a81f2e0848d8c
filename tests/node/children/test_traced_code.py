"""Which code is taken for running, from an address in it; on bytes of x86-64."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.node.children.machine_code import Decoder
from minerwatch.node.children.traced_code import MAX_INSTRUCTIONS, PAGE, TracedCode, joined
from tests.examples import examples

BASE = 0x400000
NOP, RET, PUSH = b"\x90", b"\xc3", b"\x55"
MIX = bytes.fromhex("c1c107")
"""rol ecx, 7"""
JUMP_RAX = bytes.fromhex("ffe0")


def padded(code: bytes, size: int = 16) -> bytes:
    return code.ljust(-(-len(code) // size) * size, NOP)


def jump(by: int) -> bytes:
    """jmp by so many bytes from its end; ``jne`` is the same after 0x75."""
    return b"\xeb" + by.to_bytes(1, "little", signed=True)


def jne(by: int) -> bytes:
    return b"\x75" + by.to_bytes(1, "little", signed=True)


def call(by: int) -> bytes:
    return b"\xe8" + by.to_bytes(4, "little", signed=True)


def traced(code: bytes, *starts: int, machine: str = "x86_64") -> TracedCode:
    pages = {
        BASE // PAGE + number: code[number * PAGE : (number + 1) * PAGE].ljust(PAGE, b"\xcc")
        for number in range(-(-len(code) // PAGE))
    }
    return TracedCode(
        Decoder(machine), lambda page: pages.get(page, b""), [BASE + each for each in starts]
    )


def reached(code: bytes, *starts: int) -> set[int]:
    return {each.address - BASE for each in traced(code, *starts).reached}


def before(code: bytes, *starts: int) -> set[int]:
    return {each.address - BASE for each in traced(code, *starts).before}


def test_jumps_are_followed_both_ways_and_calls_are_not() -> None:
    code = MIX + jump(3) + b"\xcc" * 3 + MIX + call(100) + jne(-18) + RET + MIX
    assert reached(code, 8) == {8, 11, 16, 0, 3, 18}


def test_the_function_before_and_the_one_after_are_left_out() -> None:
    other = padded(PUSH + MIX * 3 + RET)
    own = padded(PUSH + MIX + MIX + jne(-5) + RET)  # a loop from 20 on
    code = other + own + other
    assert reached(code, 20) == {20, 23, 25}
    assert before(code, 20) == {16, 17}


def test_what_stands_before_a_loop_that_is_entered_by_a_jump() -> None:
    early_return = padded(PUSH + MIX + jne(11) + RET)  # to the setup of the loop, at 16
    setup = MIX + MIX
    loop = MIX + jne(-5) + RET
    code = padded(PUSH + RET) + early_return + setup + loop
    assert before(code, 38) == {16, 17, 20, 22, *range(23, 32), 32, 35}


def test_the_begin_of_the_second_of_two_functions_that_run() -> None:
    first = padded(PUSH + MIX + jne(-5) + RET)
    second = PUSH + MIX + MIX + jne(-5) + RET
    assert before(first + second, 1, 20) == {0, *range(7, 16), 16, 17}


def test_a_call_close_by_shows_what_was_loaded_for_it() -> None:
    hot = padded(MIX + jne(-5) + RET)
    caller = PUSH + MIX + MIX
    code = hot + caller + call(-len(hot + caller) - 5) + MIX + RET
    filler = set(range(6, 16))
    assert before(code, 0) - filler == {16, 17, 20}
    another = PUSH + call(1000) + MIX
    code = hot + another + call(-len(hot + another) - 5) + RET
    assert before(code, 0) - filler == {22}


def test_the_cases_of_a_switch_belong_to_its_function() -> None:
    cases = MIX + RET + MIX * 2 + PUSH * 2 + RET + MIX + RET  # the last at 16, as a function would
    after = PUSH + MIX + RET
    switch = padded(PUSH + JUMP_RAX + cases) + after
    assert before(switch, 3) == {0, 1, 7, 10, 13, 14, 15, 16, 19, *range(20, 32)}
    assert before(padded(PUSH * 3 + cases) + after, 3) == {0, 1, 2}


def test_code_across_pages() -> None:
    code = NOP * (PAGE - 1) + MIX + RET
    assert max(reached(code, PAGE - 1)) == PAGE + 2
    cut = traced(code[:PAGE], PAGE - 1)
    assert [each.address - BASE for each in cut.reached] == [PAGE - 1]


@pytest.mark.parametrize("start", [0, 1, 17, PAGE, -BASE, (1 << 63) - BASE, (1 << 64) - 1 - BASE])
def test_addresses_without_code(start: int) -> None:
    assert traced(b"", start).reached == []
    assert [*traced(b"", start).contents()] == []


def test_hostile_jumps_cost_a_bounded_time() -> None:
    """Each byte begins an instruction that jumps to another one."""
    rng = random.Random(3)
    jumps = [b"\x75", b"\xeb", b"\x0f\x84"]
    code = b"".join(rng.choice(jumps) + rng.randbytes(1) for _ in range(90_000))
    began_s = time.process_time()
    found = traced(code, *rng.sample(range(100_000), 256))
    assert time.process_time() - began_s < 5.0
    assert len(found.reached) + len(found.before) <= MAX_INSTRUCTIONS
    assert sum(len(content) for _, content in found.contents()) <= len(code)


@settings(max_examples=examples(50))
@given(
    code=st.binary(max_size=3 * PAGE),
    starts=st.lists(st.integers(-20, 3 * PAGE + 20), max_size=20),
    machine=st.sampled_from(["x86_64", "aarch64"]),
)
def test_any_code(code: bytes, starts: list[int], machine: str) -> None:
    found = traced(code, *starts, machine=machine)
    addresses = [each.address for each in (*found.reached, *found.before)]
    assert len(addresses) == len(set(addresses))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9))), st.integers(0, 5))
def test_ranges_are_joined(ranges: list[tuple[int, int]], gap: int) -> None:
    found = [*joined(((start, start + size) for start, size in ranges), gap)]
    covered = {at for start, size in ranges for at in range(start, start + size)}
    assert covered <= {at for start, end in found for at in range(start, end)}
    assert all(one[1] + gap < other[0] for one, other in pairwise(found))
