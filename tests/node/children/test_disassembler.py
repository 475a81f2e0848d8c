"""The library of capstone, called without its Python module."""

from __future__ import annotations

import subprocess
import sys

import capstone
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.node.children.disassembler import Disassembler
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
