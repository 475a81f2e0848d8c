"""Classes of instructions, and windows of code; on recorded bytes and on this process."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minerwatch.detection.executed_code import CLASSES
from minerwatch.model import CODE_OF_32_BITS
from minerwatch.node.children import code_classifier as classifier
from minerwatch.node.children import mappings
from minerwatch.node.children.code_classifier import Classifier, Decoder, Question
from minerwatch.node.children.disassembler import Disassembler, Instruction
from minerwatch.node.children.instruction_classes import (
    BRANCH,
    CIPHER,
    FLOAT,
    MEDIA,
    MULTIPLY,
    OTHER,
    PAIRS,
    ROTATE,
    ROUNDING,
    VECTOR,
    XOR,
    arm_class,
    x86_class,
)
from minerwatch.node.executed_code import UNREADABLE
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.executed_code import CodeAnswer
from tests.waiting import until


@pytest.mark.parametrize(
    ("mnemonic", "operands", "expected"),
    [
        ("xor", "rax, rbx", XOR),
        ("xor", "eax, eax", OTHER),
        ("vpxor", "ymm0, ymm1, ymm1", XOR),
        ("vpxor", "xmm0, xmm0, xmm0", OTHER),
        ("vxorps", "zmm1, zmm2, zmm3", XOR),
        ("rorx", "eax, ebx, 7", ROTATE),
        ("vprold", "zmm0, zmm1, 13", ROTATE),
        ("imul", "rax, rbx", MULTIPLY),
        ("mulx", "rax, rbx, rcx", MULTIPLY),
        ("paddd", "xmm0, xmm1", VECTOR),
        ("vpternlogq", "zmm0, zmm1, zmm2, 0x96", VECTOR),
        ("vpsrlq", "ymm0, ymm1, 24", VECTOR),
        ("pmuludq", "xmm0, xmm1", VECTOR),
        ("psadbw", "xmm0, xmm1", MEDIA),
        ("vpmaddubsw", "ymm0, ymm1, ymm2", MEDIA),
        ("pavgb", "xmm0, xmm1", MEDIA),
        ("packuswb", "xmm0, xmm1", MEDIA),
        ("paddw", "xmm0, xmm1", MEDIA),
        ("aesenc", "xmm0, xmm1", CIPHER),
        ("vaesdec", "ymm0, ymm1, ymm2", CIPHER),
        ("sha256rnds2", "xmm0, xmm1", CIPHER),
        ("mulsd", "xmm0, xmm1", FLOAT),
        ("vfmadd231pd", "ymm0, ymm1, ymm2", FLOAT),
        ("cvtsi2sd", "xmm0, rax", FLOAT),
        ("cvtdq2pd", "xmm0, qword ptr [rsi]", PAIRS),
        ("cvtpi2pd", "xmm0, qword ptr [rsi]", PAIRS),
        ("fmul", "st(1)", FLOAT),
        ("sqrtpd", "xmm0, xmm1", FLOAT),
        ("ldmxcsr", "dword ptr [rsp]", ROUNDING),
        ("fldcw", "word ptr [rsp]", ROUNDING),
        ("vaddpd", "zmm0, zmm1, zmm2, {rz-sae}", ROUNDING),
        ("vmaxpd", "zmm0, zmm1, zmm2, {sae}", FLOAT),
        ("jne", "0x10", BRANCH),
        ("call", "rax", BRANCH),
        ("bnd jmp", "rax", BRANCH),
        ("lock xor", "qword ptr [rax], rbx", XOR),
        ("mov", "rax, rbx", OTHER),
        ("lfence", "", OTHER),
        ("movaps", "xmm0, xmm1", OTHER),
        ("add", "rax, rbx", OTHER),
    ],
)
def test_classes_on_x86(mnemonic: str, operands: str, expected: int) -> None:
    assert x86_class(mnemonic, operands) == expected


@pytest.mark.parametrize(
    ("mnemonic", "operands", "expected"),
    [
        ("eor", "x0, x1, x2", XOR),
        ("eor", "w0, w1, w2, ror #7", XOR),
        ("eor", "v0.16b, v1.16b, v2.16b", XOR),
        ("eor3", "v0.16b, v1.16b, v2.16b, v3.16b", XOR),
        ("ror", "w0, w1, #6", ROTATE),
        ("extr", "x0, x1, x1, #14", ROTATE),
        ("xar", "v0.2d, v1.2d, v2.2d, #63", ROTATE),
        ("umulh", "x0, x1, x2", MULTIPLY),
        ("madd", "x0, x1, x2, x3", MULTIPLY),
        ("add", "v0.4s, v1.4s, v2.4s", VECTOR),
        ("sri", "v0.4s, v1.4s, #25", VECTOR),
        ("uabd", "v0.16b, v1.16b, v2.16b", MEDIA),
        ("aese", "v0.16b, v1.16b", CIPHER),
        ("sha256h", "q0, q1, v2.4s", CIPHER),
        ("fmul", "d0, d1, d2", FLOAT),
        ("fmla", "v0.2d, v1.2d, v2.2d", FLOAT),
        ("scvtf", "d0, x0", FLOAT),
        ("scvtf", "v16.2d, v16.2d", PAIRS),
        ("fmov", "d0, x0", OTHER),
        ("msr", "fpcr, x0", ROUNDING),
        ("msr", "nzcv, x0", OTHER),
        ("b.ne", "#0x10", BRANCH),
        ("cbz", "x0, #0x10", BRANCH),
        ("ret", "", BRANCH),
        ("add", "x0, x1, x2", OTHER),
        ("bic", "x0, x1, x2", OTHER),
        ("ldr", "q0, [x1]", OTHER),
    ],
)
def test_classes_on_arm64(mnemonic: str, operands: str, expected: int) -> None:
    assert arm_class(mnemonic, operands) == expected


SALSA_QUARTER = bytes.fromhex("8d0c37c1c10731cb" * 8)
"""lea ecx,[rdi+rsi]; rol ecx,7; xor ebx,ecx"""
FLOATS = bytes.fromhex("f20f58c1f20f59d0" * 8)
"""addsd xmm0,xmm1; mulsd xmm2,xmm0"""
POINTERS = bytes.fromhex("488b004885c075f5" * 8)
"""mov rax,[rax]; test rax,rax; jne"""


def x86_window(code: bytes) -> classifier.Window:
    window = Decoder("x86_64").window(code)
    assert window is not None
    return window


def test_a_window_of_mixing_is_hashing() -> None:
    window = x86_window(SALSA_QUARTER)
    assert window.is_hashing
    assert sum(window.counts) == 16
    assert window.counts[XOR] >= 5
    assert window.counts[ROTATE] >= 5


def test_floats_and_pointers_are_not() -> None:
    assert not x86_window(FLOATS).is_hashing
    assert not x86_window(POINTERS).is_hashing
    mixed = SALSA_QUARTER[:8] + FLOATS[:4] + SALSA_QUARTER[:48]
    assert not x86_window(mixed).is_hashing


PAIRS_BETWEEN_INTEGERS = bytes.fromhex("f30fe60748c1c0074831d8480fafc3660f58c1" * 3)
"""cvtdq2pd xmm0,[rdi]; rol rax,7; xor rax,rbx; imul rax,rbx; addpd xmm0,xmm1"""
PAIRS_BETWEEN_VECTORS = bytes.fromhex("660fefc1660f72f205660fefd1660feff3f30fe607660f58c1" * 3)
"""pxor xmm0,xmm1; pslld xmm2,5; pxor xmm2,xmm1; pxor xmm6,xmm3; cvtdq2pd xmm0,[rdi]; addpd"""


def test_pairs_are_converted_between_integers_that_are_mixed_one_at_a_time() -> None:
    assert x86_window(PAIRS_BETWEEN_INTEGERS).mixes_pairs
    vectors = x86_window(PAIRS_BETWEEN_VECTORS)
    assert vectors.counts[PAIRS] >= 2
    assert vectors.counts[XOR] >= 6
    assert not vectors.mixes_pairs
    assert not x86_window(SALSA_QUARTER).mixes_pairs


@pytest.mark.parametrize(
    ("floats", "expected"),
    [
        pytest.param("660f58c1660f59d0660f5cc3", True, id="of pairs: addpd, mulpd, subpd"),
        pytest.param("660f58c1660f59d0", False, id="two"),
        pytest.param(
            "f20f58c1f20f59d0f20f5cc3", False, id="of single numbers: addsd, mulsd, subsd"
        ),
    ],
)
def test_pairs_are_computed_with_between_integers_that_are_mixed(
    floats: str, expected: bool
) -> None:
    """Two numbers, converted one at a time, are a pair in what follows."""
    integers = "48c1c0074831d8480fafc3" + "4801d0" * 8
    assert x86_window(bytes.fromhex(integers + floats + "90" * 80)).mixes_pairs is expected
    plain = "4801d8" * 6
    assert not x86_window(bytes.fromhex(plain + floats + "90" * 80)).mixes_pairs


MOVD, CONVERSION, MULSD, ADDPD = "660f6ec0", "f30fe6c0", "f20f59c1", "660f58c8"
"""movd xmm0,eax; cvtdq2pd xmm0,xmm0; mulsd xmm0,xmm1; addpd xmm1,xmm0"""


@pytest.mark.parametrize(
    ("floats", "expected"),
    [
        pytest.param(MOVD + CONVERSION + MULSD, False, id="one, as by HotSpot on AMD"),
        pytest.param(MOVD + CONVERSION, False, id="one, and its use is not seen"),
        pytest.param(CONVERSION + MULSD, False, id="one, from its conversion on"),
        pytest.param(MOVD + CONVERSION + ADDPD, True, id="used as a pair"),
        pytest.param(MOVD + "660f3a22c301" + CONVERSION + MULSD, True, id="pinsrd adds another"),
        pytest.param("f30f7e07" + CONVERSION + MULSD, True, id="movq loads two"),
        pytest.param(CONVERSION + ADDPD, True, id="a pair, from its conversion on"),
        pytest.param("f30fe607" + MULSD, True, id="two from memory"),
        pytest.param((MOVD + CONVERSION + MULSD) * 3, False, id="three, one after the other"),
    ],
)
def test_a_conversion_of_one_integer_is_none_of_a_pair(floats: str, expected: bool) -> None:
    integers = "48c1c0034831d8480fafc3" * 2  # rol, xor, imul
    window = x86_window(bytes.fromhex(floats + integers))
    assert (window.mixes_pairs, window.counts[PAIRS]) == (expected, int(expected))


ARM = json.loads((Path(__file__).parents[2] / "fixtures" / "code" / "aarch64.json").read_text())
"""Level -> function of tests/targets/kernels.c -> its machine code in hexadecimal."""


@pytest.mark.parametrize(
    ("function", "hashing"),
    [
        ("sha256", (0.4, 1.0)),
        ("blake2b", (0.8, 1.0)),
        ("keccak", (0.35, 1.0)),
        ("salsa20", (0.6, 1.0)),
        ("mixture", (0.0, 0.1)),
        ("differences", (0.0, 0.25)),
        *((each, (0.0, 0.0)) for each in ("dot", "stencil", "copy", "sort", "search")),
    ],
)
@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_functions_compiled_for_arm64(
    function: str, hashing: tuple[float, float], level: str
) -> None:
    windows = arm_windows(bytes.fromhex(ARM[level][function]))
    share = sum(each.is_hashing for each in windows) / len(windows)
    assert hashing[0] <= share <= hashing[1]
    assert function == "mixture" or not any(each.mixes_pairs for each in windows)


@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_a_mixture_as_randomx_has_it_compiled_for_arm64(level: str) -> None:
    windows = arm_windows(bytes.fromhex(ARM[level]["mixture"]))
    total = sum(sum(each.counts) for each in windows)
    of = [sum(each.counts[kind] for each in windows) / total for kind in range(len(CLASSES))]
    assert of[XOR] + of[ROTATE] + of[MULTIPLY] >= 0.2
    assert of[PAIRS] >= 0.01
    assert sum(each.mixes_pairs for each in windows) / len(windows) >= 0.2
    assert 0.01 <= of[FLOAT] + of[PAIRS] <= 0.3


def arm_windows(code: bytes) -> list[classifier.Window]:
    """The windows at all instructions of a function, as a loop."""
    decoder = Decoder("aarch64")
    repeated = code + code[: decoder.window_bytes] * 16
    windows = (
        decoder.window(repeated[at : at + decoder.window_bytes]) for at in range(0, len(code), 4)
    )
    return [each for each in windows if each is not None]


def test_bytes_that_are_no_code_say_nothing() -> None:
    decoder = Decoder("x86_64")
    assert decoder.window(b"") is None
    assert decoder.window(b"\x06" * 64) is None  # push es: not in 64-bit mode
    assert decoder.window(SALSA_QUARTER[:8]) is None  # three instructions


@given(st.binary(max_size=160), st.sampled_from(["x86_64", "aarch64"]))
def test_any_bytes_are_decoded_within_bounds(code: bytes, machine: str) -> None:
    window = Decoder(machine).window(code)
    assert window is None or 0 < sum(window.counts) <= 16


def test_what_was_decoded_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MAX_CACHED", 10)
    decoder = Decoder("x86_64")
    for number in range(25):
        decoder.window(SALSA_QUARTER + bytes([number]))
    assert len(decoder.windows) <= 10


MIXED_PAIRS = bytes.fromhex("4831c848c1c80b4801d04d31d149c1c9054c01c8f30fe6c1480fafc1" * 4)


def own_start_ticks() -> int:
    found = ProcessFiles("/proc", {}).stat(os.getpid())
    assert found is not None
    return found[0].id.start_ticks


@pytest.fixture
def anonymous_code() -> int:
    """The address of mixing code in memory of this process that no file backs."""
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(SALSA_QUARTER * 8)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _kept.append(memory)
    return address


_kept: list[mmap.mmap] = []


def answer(
    pid: int,
    start_ticks: int,
    spots: list[tuple[int, int, bytes]],
    *,
    is_relative: int = 0,
    tid: int = 0,
    proc: str = "/proc",
) -> dict[str, Any]:
    question = msgspec.json.encode((pid, start_ticks, is_relative, tid, spots))
    return Classifier(proc, Decoder("x86_64")).answer(Question(question))


def test_counts_of_a_real_process(anonymous_code: int) -> None:
    spots = [(anonymous_code, 3, b""), (anonymous_code + 8, 1, b""), (64, 2, b"")]
    found = answer(os.getpid(), own_start_ticks(), spots)
    assert (found["samples"], found["unread"]) == (4, 2)
    assert (found["hashing"], found["anonymous"]) == (4, 4)
    assert list(found["pages"].values()) == [4]
    assert found["pairs"] == 0
    assert sum(found["classes"]) == 4 * 16
    assert found["io_bytes"] > 0
    assert found["cpu_s"] > found["kernel_s"] >= 0


_MAPS = "00400000-00401000 r-xp 00000000 fe:01 1234                     /usr/bin/a\n"


@pytest.mark.parametrize(("new_pages", "kernel_s"), [(0, 4.4), (2_587_760, 0.52), (9**7, -2.77)])
def test_time_for_new_pages_is_not_that_of_the_kernel(
    new_pages: int, kernel_s: float, tmp_path: Path
) -> None:
    """The second is 10 s of Argon2 that allocates 64 MiB for each hash.

    The third has taken less time for a page: what the kernel does for it from then on still counts.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    stat = (
        f"7 (x) R 1 7 7 0 -1 0 {new_pages} 0 0 0 {5.6 * ticks:.0f} {4.4 * ticks:.0f} 0 0 20 0 1 0 5"
    )
    (tmp_path / "7").mkdir()
    files = {"stat": stat, "mem": "", "pagemap": "", "maps": _MAPS, "io": ""}
    for name, content in files.items():
        (tmp_path / "7" / name).write_text(content)
    found = answer(7, 5, [(64, 1, b"")], proc=str(tmp_path))
    assert found["cpu_s"] == pytest.approx(10.0)
    assert found["kernel_s"] == pytest.approx(kernel_s, abs=0.01)


def test_no_page_is_fetched() -> None:
    """A tenant may serve the page itself, as late as it likes."""
    memory = mmap.mmap(-1, 8192, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(SALSA_QUARTER * 128)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None)
    assert libc.madvise(ctypes.c_void_p(address), 8192, mmap.MADV_REMOVE) == 0
    memory[4096:4160] = SALSA_QUARTER
    found = answer(os.getpid(), own_start_ticks(), [(address, 3, b""), (address + 4096, 2, b"")])
    assert (found["unread"], found["samples"]) == (3, 2)
    _kept.append(memory)


def test_a_process_whose_first_thread_has_ended() -> None:
    script = f"""
import ctypes, mmap, threading, time
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex({(SALSA_QUARTER * 8).hex()!r}))
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            address = int(process.stdout.readline())
            stat = Path(f"/proc/{process.pid}/stat")
            until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
            ticks = int(stat.read_text().rpartition(")")[2].split()[19])
            found = answer(process.pid, ticks, [(address, 3, b"")])
            assert (found["samples"], found["hashing"]) == (3, 3)
        finally:
            process.kill()


def test_another_process_under_the_same_number_is_not_read(anonymous_code: int) -> None:
    """What was copied may be of the other one: an outsider's code would be an innocent's."""
    spots = [(anonymous_code, 3, b""), (anonymous_code, 2, SALSA_QUARTER * 8)]
    assert answer(os.getpid(), 1, spots) == {"unread": 5}
    assert answer(2**22, 1, spots) == {"unread": 5}  # it has exited


def test_copies_of_a_process_that_is_a_zombie_count_for_pairs() -> None:
    """It still has its number, so they are of no other process."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        ticks = int(stat.rpartition(")")[2].split()[19])
        found = answer(process.pid, ticks, [(0x200000000000, 3, MIXED_PAIRS)])
    assert (found.get("of_unknown_origin"), found.get("pairs")) == (3, 3)


@pytest.mark.nightly  # makes thousands of threads
@pytest.mark.parametrize(
    ("ended", "before", "is_sampled"), [(1100, 1100, False), (1100, 0, False), (2000, 1000, True)]
)
def test_a_thousand_threads_that_stay_as_zombies_hide_nothing(
    tmp_path: Path, ended: int, before: int, is_sampled: bool
) -> None:
    """A hash function beside them was clear: it had no samples."""
    program = str(tmp_path / "ended_threads")
    source = Path(__file__).parents[2] / "targets" / "ended_threads.c"
    subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True)
    command = [program, str(ended), str(before)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        try:
            task = Path(f"/proc/{int(tracer.stdout.readline())}/task")
            until(lambda: _states(task).count("Z") > ended)
            lives = next(each for each in task.iterdir() if _state(each) != "Z")
            start = next(
                int(line.partition("-")[0], 16)
                for line in (lives / "maps").read_text().splitlines()
                if " r-xp " in line and line.endswith(program)
            )
            pid = int(task.parent.name)
            ticks = int((task.parent / "stat").read_text().rpartition(")")[2].split()[19])
            tid = int(lives.name) if is_sampled else 0
            found = answer(pid, ticks, [(start, 1, b"")], tid=tid)
        finally:
            tracer.kill()
    assert found.get("samples") == 1
    assert found["io_bytes"] > 0


def _states(task: Path) -> list[str]:
    return [_state(each) for each in task.iterdir()]


def _state(folder: Path) -> str:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]


def test_copied_code_that_is_nowhere_any_more_was_in_no_file(anonymous_code: int) -> None:
    copy = SALSA_QUARTER * 8
    spots = [(0x200000000000, 3, copy), (0x200000000000, 2, b""), (anonymous_code, 4, copy)]
    found = answer(os.getpid(), own_start_ticks(), spots)
    assert (found["unread"], found["hidden"], found["samples"]) == (2, 2, 7)
    assert (found["hashing"], found["anonymous"]) == (7, 7)
    assert sorted(found["pages"].values()) == [3, 4]
    found = answer(os.getpid(), own_start_ticks(), spots, is_relative=1)
    assert (found["unread"], found["hidden"], found["of_unknown_origin"]) == (2, 0, 3)
    assert (found["samples"], found["hashing"], found["anonymous"]) == (4, 4, 4)


def test_pairs_count_of_a_process_that_has_exited_wherever_its_code_was() -> None:
    """RandomX in workers of 20 ms, each at addresses of its own, was clear."""
    spots = [(0x200000000000, 3, MIXED_PAIRS), (0x200000000000, 2, b"")]
    found = answer(os.getpid(), own_start_ticks(), spots, is_relative=1)
    assert (found["samples"], found["of_unknown_origin"], found["pairs"], found["unread"]) == (
        0,
        3,
        3,
        2,
    )
    assert answer(0, 0, spots, is_relative=1) == {
        name: value for name, value in found.items() if name in CodeAnswer.__struct_fields__[:9]
    }


def test_copied_code_that_a_file_covers_was_in_no_file() -> None:
    """It had moved, and mapped a file where it had been."""
    of_file = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0
    page = of_file & ~0xFFF
    copies = [
        (page + offset, ctypes.string_at(page + offset, 128)) for offset in range(0, 4096, 62)
    ]
    assert b"".join(copy for _, copy in copies)  # its pages are present
    spots = [(address, 1, copy) for address, copy in copies]
    found = answer(os.getpid(), own_start_ticks(), spots)
    assert found["samples"] >= 40
    assert found["anonymous"] == 0  # also of the copies that go on in the next page
    found = answer(os.getpid(), own_start_ticks(), [(page + 64, 2, SALSA_QUARTER * 8)])
    assert (found["samples"], found["anonymous"], found["hashing"]) == (2, 2, 2)


def test_code_without_enough_instructions_is_hidden(anonymous_code: int) -> None:
    found = answer(os.getpid(), own_start_ticks(), [(anonymous_code, 3, b"\x06" * 128)])
    assert (found["unread"], found["hidden"]) == (3, 3)


DECOY = "98" * 15
"""cwde: not executed."""


@pytest.mark.parametrize(
    "strewn",
    [
        pytest.param("0f1dc0", id="a reserved no-operation"),
        pytest.param("0f1ee8", id="one whose last byte begins a call"),
        pytest.param("eb0248b8", id="a jump over the begin of a long instruction"),
        pytest.param("eb0b" + "06" * 11, id="a jump over no instructions"),
        pytest.param("ebffc0", id="a jump into itself"),
        pytest.param("e80200000048b8", id="a call over the begin of a long instruction"),
        pytest.param("e802000000eb10c3" + DECOY, id="a function that returns, before a decoy"),
        pytest.param("e802000000eb11f3c3" + DECOY, id="one that returns with a prefix"),
        pytest.param("e802000000eb1258ffe0" + DECOY, id="one that returns by pop and jump"),
        pytest.param("e802000000eb1258ebfb" + DECOY, id="one that jumps back"),
        pytest.param("e802000000eb14e900010000" + DECOY, id="one that goes on elsewhere"),
        pytest.param("eb02eb11ebfc" + DECOY, id="a jump, and one back"),
        pytest.param("f2eb0f" + DECOY, id="a jump with a prefix"),
        pytest.param("90" * 16, id="no-operations"),
        pytest.param("c4e27950c1", id="an instruction on vectors that capstone does not know"),
        pytest.param("62f574485848c1", id="one of vectors of 512 bits"),
        pytest.param("0f0d38", id="a reserved no-operation on memory"),
        pytest.param("dcd1", id="an alias of the x87's"),
        pytest.param("c4e1f9c4c010", id="an instruction on vectors with a number"),
        pytest.param("660f820000", id="a jump that AMD's processors take for two bytes shorter"),
        pytest.param("66f20f820000", id="the same, with two prefixes"),
    ],
)
def test_what_is_strewn_in_hides_no_conversion_of_pairs(strewn: str) -> None:
    """It costs a program nothing, and a miner's generator four bytes."""
    mixing = "4831c848c1c80b4801d04d31d149c1c9054c01c8"
    conversion = "f30fe6c1480fafc1"
    decoder = Decoder("x86_64", of_amd=True)
    plain = decoder.window(bytes.fromhex((mixing + conversion + mixing) * 4)[:128])
    hidden = decoder.window(bytes.fromhex((mixing + strewn + conversion + mixing) * 4)[:128])
    assert plain is not None
    assert hidden is not None
    assert hidden.mixes_pairs is plain.mixes_pairs is True
    assert sum(hidden.counts) >= 12


def test_calls_hide_no_hash_function() -> None:
    """Each was of a function that only returned, before floats, and the windows were of these."""
    floats = FLOATS[:32]
    called = b"\xe8\x02\0\0\0\xeb" + bytes([1 + len(floats)]) + b"\xc3" + floats
    assert x86_window(((SALSA_QUARTER[:16] + called) * 3)[:128]).is_hashing


@pytest.mark.parametrize(
    "strewn",
    [
        pytest.param("05000094" + "0028611e" * 4, id="bl, over fadd"),
        pytest.param("02000094 06000014 c0035fd6" + "0028611e" * 4, id="bl, b; ret, before fadd"),
        pytest.param("02000014 06000014 ffffff17" + "0028611e" * 4, id="b, b, back to the second"),
    ],
)
def test_calls_hide_no_hash_function_on_arm64(strewn: str) -> None:
    mixing = bytes.fromhex("2000024a" * 4)  # eor w0, w1, w2
    window = Decoder("aarch64").window((mixing + bytes.fromhex(strewn) + mixing * 3)[:64])
    assert window is not None
    assert window.is_hashing
    assert window.counts[FLOAT] == 0
    assert window.counts[XOR] >= 8


JUMPING = [
    *(b"\xe8" + bytes([at, 0, 0, 0]) for at in (0, 1, 2, 30)),
    b"\xc3",
    b"\x58\xff\xe0",
    b"\x90",
]
JUMPING += [b"\xeb" + bytes([at & 0xFF]) for at in (-60, -7, -3, -2, -1, 0, 1, 20)]


@given(st.lists(st.sampled_from(JUMPING), max_size=128))
@example([b"\xe8\0\0\0\0"] * 25 + [b"\xc3"])
@example([b"\x90", b"\xeb\xfd"])
def test_jumps_back_and_forth_are_followed_within_bounds(parts: list[bytes]) -> None:
    """Calls within calls that return took 0.4 s, a window."""
    decoded = []

    class Counting(Disassembler):
        def disassemble(self, code: bytes, address: int, count: int) -> Iterator[Instruction]:
            decoded.append(address)
            return super().disassemble(code, address, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "Disassembler", Counting)
        window = Decoder("x86_64", of_amd=True).window(b"".join(parts)[:128])
    assert len(decoded) <= 64
    assert window is None or sum(window.counts) <= 16


def test_a_page_of_a_file_that_was_written_is_in_no_file(tmp_path: Path) -> None:
    """A program can be written into a private mapping of a named file, and into a shared one."""
    (tmp_path / "file").write_bytes(SALSA_QUARTER * 128)
    for flags, is_written, is_anonymous in (
        (mmap.MAP_PRIVATE, False, False),
        (mmap.MAP_PRIVATE, True, True),
        (mmap.MAP_SHARED, False, True),
    ):
        with (tmp_path / "file").open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 4096, flags=flags, prot=7)
        if is_written:
            memory[4000] = 1
        assert memory[0] >= 0  # the page is present
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        spots = [(address, 3, b""), (address, 4, SALSA_QUARTER * 8)]
        found = answer(os.getpid(), own_start_ticks(), spots)
        assert (found["samples"], found["anonymous"]) == (7, 7 * is_anonymous)
        _kept.append(memory)


def test_pairs_count_wherever_their_code_lies(tmp_path: Path) -> None:
    """One mapping of a file may be executed while it is written by another way."""
    (tmp_path / "file").write_bytes(PAIRS_BETWEEN_INTEGERS * 50)
    with (tmp_path / "file").open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=7)
    assert memory[0] > 0  # the page is present
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _kept.append(memory)
    copy = bytes(memory[:128])
    found = answer(os.getpid(), own_start_ticks(), [(address, 3, copy)])
    assert (found["pairs"], found["anonymous"]) == (3, 0)


WRITES_VDSO = """
import ctypes, sys, time
line = next(each for each in open("/proc/self/maps") if "[vdso]" in each)
start, end = (int(each, 16) for each in line.split()[0].split("-"))
if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), end - start, 7):
    sys.exit("refused")
time.time()  # its first page is present
code = bytes.fromhex(sys.argv[1])
ctypes.memmove(end - len(code), code, len(code))
print(start + 64, end - len(code), flush=True)
sys.stdin.read()
"""


def test_code_that_was_written_over_the_kernels_is_in_no_file() -> None:
    command = [sys.executable, "-c", WRITES_VDSO, SALSA_QUARTER.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        addresses = [int(each) for each in writer.stdout.readline().split()]
        if not addresses:
            pytest.skip("run it on a kernel that lets the vdso be written")
        stat = ProcessFiles("/proc", {}).stat(writer.pid)
        assert stat is not None
        anonymous = [
            answer(writer.pid, stat[0].id.start_ticks, [(address, 3, b"")])["anonymous"]
            for address in addresses
        ]
        writer.kill()
    assert anonymous == [0, 3]


@pytest.mark.parametrize("bound", ["MAX_MAPS_CPU_S", "MAPS_CPU_S_PER_SAMPLE"])
def test_code_behind_more_mappings_than_are_read(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand mappings of a file with a long name came before all code, and hid it."""
    monkeypatch.setattr(mappings, "PROCMAP_QUERY", 0)  # as before Linux 6.11
    monkeypatch.setattr(mappings, "CHUNK_BYTES", 1)
    monkeypatch.setattr(classifier, bound, -1.0)
    memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    memory.write(SALSA_QUARTER * 8)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _kept.append(memory)
    copy = SALSA_QUARTER * 8
    found = answer(os.getpid(), own_start_ticks(), [(address, 3, copy), (address, 2, b"")])
    assert (found["samples"], found["hashing"], found["anonymous"]) == (3, 3, 3)
    assert found["unread"] == 2  # it may be a device
    assert found["is_cut"] == 1
    of_file = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0
    found = answer(os.getpid(), own_start_ticks(), [(of_file, 3, copy)])
    assert (found["samples"], found["anonymous"]) == (3, 0)  # a library comes after other mappings


def test_instructions_that_the_decoder_does_not_know_hide_no_others() -> None:
    """A reserved no-operation (0f 1d c0) every few instructions costs a program nothing."""
    window = Decoder("x86_64").window(bytes.fromhex("8d0c37c1c10731ca0f1dc0") * 11)
    assert window is not None
    assert window.is_hashing


def test_a_program_in_the_folder_of_devices_is_read_and_on_no_disk() -> None:
    """In a container that is memory like /tmp, and no device's."""
    path = Path(f"/dev/minerwatch-test-{os.getpid()}")
    try:
        path.write_bytes(SALSA_QUARTER * (4096 // len(SALSA_QUARTER)))
    except PermissionError:
        pytest.skip("run it as root")
    try:
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=7)
    finally:
        path.unlink()
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _kept.append(memory)
    assert memory[0] == SALSA_QUARTER[0]
    found = answer(os.getpid(), own_start_ticks(), [(address, 3, b"")])
    assert (found["hashing"], found["anonymous"], found["unread"]) == (3, 3, 0)


@pytest.mark.parametrize(("entry", "read"), [(0xA0, 3), (0x81, 3), (0x80, 0), (0x00, 0)])
def test_memory_of_a_device_is_not_read(entry: int, read: int, tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (a) R " + " ".join(["1"] * 40))
    (folder / "maps").write_text("2000-3000 r-xp 0 00:05 6 /dev/card\n")
    (folder / "mem").write_bytes(SALSA_QUARTER * 3000)
    (folder / "pagemap").write_bytes(bytes(16 + 7) + bytes([entry]))
    found = answer(7, 1, [(0x2000, 3, b"")], proc=str(tmp_path))
    assert (found["samples"], found["unread"]) == (read, 3 - read)


FORKS = """
import ctypes, mmap, os, sys, time
try:
    with open("/dev/zero", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=7)
except PermissionError:
    sys.exit("refused")
memory.write(bytes.fromhex(sys.argv[1]))
if not os.fork():
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
"""


def test_memory_of_dev_zero_that_fork_shares_is_read() -> None:
    """Its pages are of no file, nor of one process alone, as those of a device."""
    command = [sys.executable, "-c", FORKS, SALSA_QUARTER.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forked:
        assert forked.stdout is not None
        address = forked.stdout.readline()
        if not address:
            pytest.skip("run it where /dev may hold programs")
        stat = ProcessFiles("/proc", {}).stat(forked.pid)
        assert stat is not None
        found = answer(forked.pid, stat[0].id.start_ticks, [(int(address), 3, b"")])
    assert (found["samples"], found["hashing"], found["anonymous"]) == (3, 3, 3)


def test_code_of_32_bits_is_decoded_as_such(anonymous_code: int) -> None:
    """A segment selector chooses it (0x23), at no cost; all processors' jumps are short there.

    dec eax; mov eax,0; xor ebx,ecx; xor ecx,edx: of 64 bits it is one number.
    """
    code = bytes.fromhex("48b80000000031cb31d1" * 12)
    of_32 = anonymous_code | CODE_OF_32_BITS
    found = answer(os.getpid(), own_start_ticks(), [(of_32, 3, code), (anonymous_code, 2, code)])
    assert (found["samples"], found["hashing"], found["anonymous"]) == (5, 3, 5)
    assert list(found["pages"].values()) == [5]
    nowhere = answer(os.getpid(), own_start_ticks(), [((1 << 64) - 1, 3, UNREADABLE)])
    assert (nowhere["samples"], nowhere["hidden"]) == (0, 3)
    window = Decoder("i686").window(bytes.fromhex("660f820000" + "31cb31d1" * 3) * 7)
    assert window is not None
    assert window.is_hashing


def test_code_at_the_end_of_its_memory_is_seen() -> None:
    """LuaJIT's loops end there: 26 % of its samples looked like code that cannot be read."""
    memory = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    memory.write(SALSA_QUARTER * (4096 // len(SALSA_QUARTER)))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 4096 - 8
    _kept.append(memory)
    last = SALSA_QUARTER[-8:]
    other, uncopied = (address, 5, last[::-1]), (address + 7, 2, last[-1:])
    spots = [(address, 3, last), (address, 4, b""), other, uncopied]
    found = answer(os.getpid(), own_start_ticks(), spots)
    assert (found["samples"], found["hashing"], found["unread"]) == (7, 7, 7)


def test_memory_that_is_no_code_is_not_read_in_place_of_a_short_copy() -> None:
    """It may be a device's."""
    memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=3)
    memory.write(SALSA_QUARTER * (4096 // len(SALSA_QUARTER)))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 4096 - 8
    _kept.append(memory)
    found = answer(os.getpid(), own_start_ticks(), [(address, 3, SALSA_QUARTER[-8:])])
    assert (found["samples"], found["unread"]) == (0, 3)
