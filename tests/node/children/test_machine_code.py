"""Instructions as words, and the addresses that they name; on recorded bytes of both machines."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node.children.machine_code import (
    Decoder,
    Instruction,
    Reference,
    References,
    Words,
    arm_word,
    masked,
    x86_word,
)


@pytest.mark.parametrize(
    ("mnemonic", "operands", "expected"),
    [
        ("rol", "eax, 7", "rol32.7"),
        ("rol", "r8d, 7", "rol32.7"),
        ("rol", "r8, 7", "rol64.7"),
        ("rol", "rdi, 7", "rol64.7"),
        ("rol", "dword ptr [rsp + 8], 7", "rol32.7"),
        ("rol", "qword ptr [rsp + 8], 7", "rol64.7"),
        ("ror", "eax, 0x19", "rol32.7"),
        ("rorx", "rax, rbx, 63", "rol64.1"),
        ("shld", "eax, eax, 9", "rol32.9"),
        ("shrd", "rax, rax, 9", "rol64.55"),
        ("shld", "eax, ebx, 9", ""),
        ("rol", "eax, cl", ""),
        ("rol", "eax, 1", "rol32.1"),
        ("rol", "rax", ""),
        ("shl", "eax, 7", "shl32.7"),
        ("shr", "rax, 63", "shr64.63"),
        ("shlx", "eax, ebx, ecx", ""),
        ("pslld", "xmm0, 7", "shl32.7"),
        ("vpsrlq", "ymm0, ymm1, 0x3f", "shr64.63"),
        ("psllq", "xmm0, xmm1", ""),
        ("pslldq", "xmm0, 8", ""),
        ("vprold", "zmm0, zmm1, 13", "rol32.13"),
        ("vprorq", "zmm0, zmm1, 24", "rol64.40"),
        ("pshufd", "xmm0, xmm1, 0xb1", "rol64.32"),
        ("pshufd", "xmm0, xmm1, 0x39", ""),
        ("vpshuflw", "ymm0, ymm1, 0xb1", "rol32.16"),
        ("pmuludq", "xmm0, xmm1", "wide32"),
        ("vpmuludq", "zmm0, zmm1, zmm2", "wide32"),
        ("mul", "rax", "wide64"),
        ("mulx", "rax, rbx, rcx", "wide64"),
        ("mul", "ecx", ""),
        ("imul", "rax, rbx", "mul64"),
        ("imul", "eax, ebx, 0x1000193", ""),
        ("aesenc", "xmm0, xmm1", "aes"),
        ("vaesenclast", "ymm0, ymm1, ymm2", "aes"),
        ("aeskeygenassist", "xmm0, xmm1, 1", ""),
        ("sha256rnds2", "xmm0, xmm1", "sha256"),
        ("vsha512msg1", "ymm0, xmm1", "sha512"),
        ("pclmulqdq", "xmm0, xmm1, 0x11", "clmul"),
        ("vpclmulhqlqdq", "xmm0, xmm1, xmm2", "clmul"),
        ("pmulhrsw", "xmm0, xmm1", "mulhrs"),
        ("mov", "rax, rbx", ""),
        (".byte", "0x06", ""),
    ],
)
def test_words_of_x86(mnemonic: str, operands: str, expected: str) -> None:
    assert x86_word(mnemonic, operands) == expected


@pytest.mark.parametrize(
    ("mnemonic", "operands", "expected"),
    [
        ("ror", "w0, w1, #25", "rol32.7"),
        ("ror", "x0, x1, #63", "rol64.1"),
        ("ror", "w0, w1, w2", ""),
        ("extr", "w0, w1, w1, #25", "rol32.7"),
        ("extr", "w0, w1, w2, #25", ""),
        ("eor", "w0, w1, w2, ror #25", "rol32.7"),
        ("eor", "x10, x1, x2, ror #0x3f", ""),
        ("shl", "v0.4s, v1.4s, #7", "shl32.7"),
        ("sri", "v0.4s, v1.4s, #25", "shr32.25"),
        ("ushr", "v0.2d, v1.2d, #63", "shr64.63"),
        ("xar", "v0.2d, v1.2d, v2.2d, #63", "rol64.1"),
        ("rev32", "v0.8h, v1.8h", "rol32.16"),
        ("rev64", "v0.4s, v1.4s", "rol64.32"),
        ("rev32", "x0, x1", ""),
        ("umull", "v0.2d, v1.2s, v2.2s", "wide32"),
        ("umlal2", "v0.2d, v1.4s, v2.4s", "wide32"),
        ("umull", "x0, w1, w2", "mul64"),
        ("umulh", "x0, x1, x2", "wide64"),
        ("madd", "x0, x1, x2, x3", "mul64"),
        ("mul", "w0, w1, w2", ""),
        ("aese", "v0.16b, v1.16b", "aes"),
        ("aesmc", "v0.16b, v1.16b", ""),
        ("sha256h", "q0, q1, v2.4s", "sha256"),
        ("sha512su0", "v0.2d, v1.2d", "sha512"),
        ("pmull2", "v0.1q, v1.2d, v2.2d", "clmul"),
        ("add", "x0, x1, x2", ""),
        ("ret", "", ""),
    ],
)
def test_words_of_arm64(mnemonic: str, operands: str, expected: str) -> None:
    assert arm_word(mnemonic, operands) == expected


def words_of(code: bytes, machine: str) -> Counter[str]:
    words = Words(is_arm=machine == "aarch64")
    for instruction in Decoder(machine).decoded(code, 0x400000):
        words.add(instruction)
    return Counter(word[1:] for word in words.text().split(";")[:-1])


X86_SALSA = bytes.fromhex(
    "66 0f 72 f1 07  66 0f 72 d2 19"  # pslld xmm1, 7; psrld xmm2, 25
    "c1 c0 09  41 c1 c8 13  c4 e3 7b f0 c3 0e"  # rol eax, 9; ror r8d, 19; rorx eax, ebx, 14
)
ARM_SALSA = struct.pack(
    "<5I",
    *(0x4F275420, 0x6F270440),  # shl v0.4s, v1.4s, #7; ushr v0.4s, v2.4s, #25
    *(0x13815C20, 0x138E4DCE, 0x4AC23820),  # ror w0, w1, #23; ror #19; eor w0, w1, w2, ror #14
)
SALSA = {"rol32.7": 1, "rol32.9": 1, "rol32.13": 1, "rol32.18": 1}


def test_the_same_words_on_both_machines() -> None:
    assert words_of(X86_SALSA, "x86_64") == SALSA
    assert words_of(ARM_SALSA, "aarch64") == SALSA


def test_a_shift_alone_is_no_rotation() -> None:
    assert words_of(X86_SALSA[:5] * 9, "x86_64") == {}
    assert words_of(X86_SALSA[:5] * 9 + X86_SALSA[5:10] * 2, "x86_64") == {"rol32.7": 2}


def test_many_of_a_word_are_enough() -> None:
    assert words_of(bytes.fromhex("c1c007") * 5000, "x86_64") == {"rol32.7": 64}


@given(st.binary(max_size=400), st.sampled_from(["x86_64", "aarch64"]))
def test_any_bytes_have_words_and_references(code: bytes, machine: str) -> None:
    words, references = Words(is_arm=machine == "aarch64"), References(is_arm=machine == "aarch64")
    end = 0x400000
    for instruction in Decoder(machine).decoded(code, 0x400000):
        assert instruction.address == end
        end += instruction.size
        words.add(instruction)
        references.add(instruction)
        masked(instruction, 4096, bool)
    assert end - 0x400000 <= len(code)
    assert len(words.text()) <= 64 * 10 * len(code)


def references_of(code: bytes, machine: str, address: int = 0x401000) -> References:
    references = References(is_arm=machine == "aarch64")
    for instruction in Decoder(machine).decoded(code, address):
        references.add(instruction)
    return references


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("48 8d 2d 10 20 00 00", [0x403017]),  # lea rbp, [rip + 0x2010]
        ("66 0f 6f 05 f8 ff ff ff", [0x401000]),  # movdqa xmm0, [rip - 8]
        ("8b 04 85 80 5c 4a 00", [0x4A5C80]),  # mov eax, [rax*4 + 0x4a5c80]
        ("be 80 5c 4a 00", [0x4A5C80]),  # mov esi, 0x4a5c80
        ("48 b8 f0 0f 00 00 f0 0f 00 00", [0xFF000000FF0]),  # movabs rax, 0xff000000ff0
        ("e8 10 20 00 00", []),  # call
        ("ff 15 10 20 00 00", []),  # call [rip + 0x2010]
        ("0f 84 00 20 00 00", []),  # je
        ("83 c0 7f", []),  # add eax, 0x7f
    ],
)
def test_addresses_that_x86_names(code: str, named: list[int]) -> None:
    references = references_of(bytes.fromhex(code), "x86_64")
    assert [each.address for each in references.tables] == named
    assert references.pointers == []


def test_a_pointer_that_x86_loads() -> None:
    references = references_of(bytes.fromhex("48 8b 05 10 20 00 00"), "x86_64")
    assert references.pointers == [Reference(0x401000, 0x403017, 8)]


def test_addresses_and_numbers_that_arm64_names() -> None:
    code = struct.pack(
        "<8I",
        *(0xB0000000, 0x91008000),  # adrp x0, 0x402000; add x0, x0, #0x20
        *(0x58000080,),  # ldr x0, 0x401018
        *(0xB0000001, 0xF9401022),  # adrp x1, 0x402000; ldr x2, [x1, #0x20]
        *(0x52810148, 0x72A10008),  # mov w8, #0x80a; movk w8, #0x800, lsl #16
        *(0x927C400A,),  # and x10, x0, #0x1ffff0
    )
    references = references_of(code, "aarch64")
    assert [each.address for each in references.tables] == [0x402020, 0x401018, 0x402020]
    assert references.pointers == [Reference(0x401010, 0x402020, 8)]
    assert [each.size for each in references.tables] == [0, 8, 8]
    numbers = b"".join(number for _, number in references.numbers)
    assert numbers == struct.pack("<IQ", 0x0800080A, 0x1FFFF0)


def test_ten_thousand_addresses_are_some_thousands() -> None:
    code = b"".join(b"\x48\x8d\x05" + struct.pack("<i", 4096 * n) for n in range(10_000))
    assert len(references_of(code, "x86_64").tables) == 4096


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (Instruction(16, 7, "lea", "rbp, [rip + 0x2010]"), "lea rbp, [rip]"),
        (Instruction(16, 2, "jne", "0x10"), "jne 0x10"),
        (Instruction(16, 5, "call", "0x4000"), "call out"),
        (Instruction(16, 5, "jmp", "0xfffffffffffff000"), "jmp out"),
        (Instruction(16, 5, "mov", "esi, 0x4a5c80"), "mov esi, address"),
        (Instruction(16, 5, "mov", "esi, 0x428a2f98"), "mov esi, 0x428a2f98"),
        (Instruction(16, 4, "adrp", "x0, #0x402000"), "adrp x0"),
        (Instruction(16, 4, "b.ne", "#0x9000"), "b.ne out"),
        (Instruction(16, 4, "cbz", "x0, #0x20"), "cbz x0, #0x20"),
    ],
)
def test_what_differs_from_copy_to_copy_is_masked(instruction: Instruction, expected: str) -> None:
    assert masked(instruction, 4096, lambda address: address < 1 << 24) == expected
