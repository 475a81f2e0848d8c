"""The library of capstone, called without its Python module."""

from __future__ import annotations

import subprocess
import sys

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.node.children.disassembler import SKIPPED, Disassembler, x86_end
from tests.examples import examples

OWN = {
    (is_arm, skips): Disassembler(is_arm=is_arm, skips=skips)
    for is_arm in (False, True)
    for skips in (False, True)
}


@settings(max_examples=examples(200))
@given(st.booleans(), st.booleans(), st.binary(max_size=200), st.integers(0, 1 << 63))
def test_instructions_are_those_of_the_module(
    is_arm: bool, skips: bool, code: bytes, address: int
) -> None:
    kind = (
        (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
        if is_arm
        else (capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    )
    module = capstone.Cs(*kind)
    module.skipdata = skips
    for count in (0, 5):
        found = [*OWN[is_arm, skips].disassemble(code, address, count)]
        assert found == [*module.disasm_lite(code, address, count)]


@pytest.mark.parametrize(
    ("code", "of_amd"),
    [
        *(
            (code, True)
            for code in ("0f0d38", "0f0d7b10", "666666660f0d19", "0f1a21", "0f1ca448" + "00" * 4)
        ),
        *(
            (code, True)
            for code in ("0f18c0", "40480f1ac0", "f366f20f1c4810", "0faee9", "f20fbc4110")
        ),
        *((code, True) for code in ("6763c0", "66f390", "dcd1", "66666666dfd9")),
        *((code, True) for code in ("c4e1f9c4c010", "62f17d1870c010", "62f1ff48c2481010")),
        *(
            (code, True)
            for code in ("660f82c010", "48660f87f810", "f366f20f8f7b10", "666666660f804810")
        ),
        *((code, True) for code in ("0f8210101010", "66480f8210101010")),
        *((code, False) for code in ("660f8210101010", "660f8010101010", "f2660f8210101010")),
    ],
)
def test_instructions_end_where_a_processor_of_amd_or_intel_ends_them(
    code: str, of_amd: bool
) -> None:
    """Each ran alone on an EPYC, one step; those of Intel are by its manual."""
    begins = bytes.fromhex(code)
    content = begins + bytes.fromhex("480fc8") * 4
    _, size, mnemonic, _ = next(iter(OWN[False, True].disassemble(content, 0, 1)))
    found = x86_end(content, 0, size, is_known=mnemonic != SKIPPED, has_short_jumps=of_amd)
    assert found == len(begins)


def test_the_module_is_not_imported() -> None:
    """It takes three times as long to start as the child that classifies code."""
    program = (
        "import sys\n"
        "from minerwatch.node.children import code_classifier, hot_code_scanner\n"
        "code_classifier.Decoder().window(bytes(128))\n"
        "sys.exit('capstone' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_child_that_starts_often_imports_little() -> None:
    """``re`` and ``json``, with what they import, take longer than all else that it imports."""
    program = (
        f"import sys\nsys.path = {sys.path!r}\n"
        "from minerwatch.node.children import code_classifier\n"
        "code_classifier.Decoder().window(bytes(128))\n"
        "slow = {'re', 'json', 'enum', 'functools', 'collections', 'contextlib', 'typing'}\n"
        "print(*slow & sys.modules.keys())"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"\n"
