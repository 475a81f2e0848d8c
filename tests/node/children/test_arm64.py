"""The loops of tests/targets/kernels.c, compiled for arm64 and run by qemu-user, classified."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.node.children.code_classifier import Decoder
from minerwatch.node.children.disassembler import Disassembler

SOURCE = Path(__file__).parents[2] / "targets" / "run_kernels.c"
NEEDED = ("qemu-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objcopy", "gcc")
SHARES = {
    "sha256": (0.5, 1.0),
    "blake2b": (0.8, 1.0),
    "keccak": (0.25, 1.0),
    "salsa20": (0.6, 1.0),
    "differences": (0.0, 0.25),
    **dict.fromkeys(("dot", "stencil", "copy"), (0.0, 0.0)),
}
"""Of what is executed, that begins a window of hash code. Keccak by the book, -O2: 0.28."""
_TRACED = re.compile(r"^Trace .*?\[[0-9a-f]+/([0-9a-f]+)/.*\] (\w+)[\w.]*$", re.MULTILINE)
_ENDS = re.compile(r"b(\..+)?|bl|blr|br|ret|cbn?z|tbn?z")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)),
    reason="runs arm64: apt install qemu-user gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
)


class Kernels:
    """The loops as a program for arm64, and as one for this machine."""

    def __init__(self, level: str, folder: Path) -> None:
        self._arm, self._here, self._log = folder / "arm", folder / "here", folder / "log"
        options = (level, "-fno-inline", "-ffp-contract=off", str(SOURCE), "-o")
        for command in (
            ("aarch64-linux-gnu-gcc", "-static", *options, str(self._arm)),
            ("gcc", *options, str(self._here)),
            ("aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", str(self._arm), "text"),
        ):
            subprocess.run(command, check=True, cwd=folder)
        sections = _output("aarch64-linux-gnu-objdump", "-h", str(self._arm))
        found = re.search(r" \.text +\S+ +([0-9a-f]+)", sections)
        assert found is not None
        self._base, self._text = int(found[1], 16), (folder / "text").read_bytes()

    def here(self, name: str, times: int) -> str:
        """Return the sum that this machine prints."""
        return _output(str(self._here), name, str(times))

    def on_arm(self, name: str, times: int) -> str:
        """Return the sum that arm64 prints; the log then has each block that ran."""
        log = ("-d", "exec,nochain", "-D", str(self._log))
        return _output("qemu-aarch64", *log, str(self._arm), name, str(times))

    def executed(self, name: str) -> Counter[int]:
        """Return the addresses that were executed in a function, and how often."""
        blocks = Counter(
            int(place, 16)
            for place, function in _TRACED.findall(self._log.read_text())
            if function == name
        )
        return Counter(
            {
                address: count
                for place, count in blocks.items()
                for address in self._addresses(place)
            }
        )

    def _addresses(self, block: int) -> Iterator[int]:
        code = self._text[block - self._base :][:4096]
        for address, _, mnemonic, _ in Disassembler(is_arm=True).disassemble(code, block, 0):
            yield address
            if _ENDS.fullmatch(mnemonic):
                return

    def hashing_share(self, name: str) -> float:
        """Return the share of what was executed that begins a window of hash code."""
        decoder, hashing, executed = Decoder("aarch64"), 0, self.executed(name)
        for address, count in executed.items():
            at = address - self._base
            window = decoder.window(self._text[at : at + decoder.window_bytes])
            hashing += count * (window is not None and window.is_hashing)
        return hashing / executed.total()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=["-O2", "-O3"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(request.param, tmp_path_factory.mktemp("arm64"))


@pytest.mark.parametrize("name", SHARES)
def test_what_runs_hot_on_arm64(kernels: Kernels, name: str) -> None:
    assert kernels.on_arm(name, 50) == kernels.here(name, 50)
    share = kernels.hashing_share(name)
    print(f"{name}: {share:.2f}")
    least, most = SHARES[name]
    assert least <= share <= most
