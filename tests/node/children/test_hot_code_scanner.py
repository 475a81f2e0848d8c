"""What a look at hot code reads, and what it leaves out; on memory of this process."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.model import CODE_OF_32_BITS
from minerwatch.node.children import hot_code_scanner as scanner
from minerwatch.node.children.hot_code_scanner import (
    HotCode,
    Process,
    answer,
    is_of_image,
    names_in,
    tags_of_matches,
)
from minerwatch.node.children.machine_code import Decoder
from minerwatch.node.children.mappings import Mapping
from minerwatch.node.children.scanning import scanners_of
from minerwatch.node.proc_files import ProcessFiles
from tests.examples import examples

PAGE = 4096
READ, WRITE, EXECUTE = 1, 2, 4
MARK = hashlib.sha256(b"a table of constants").digest()[:8]
OTHER = hashlib.sha256(b"what a process only keeps").digest()[:8]
SALSA = bytes.fromhex("c1c107 31cb c1c109 31cb c1c10d 31cb c1c112 31cb")
"""rol ecx, 7; xor ebx, ecx; and by 9, 13 and 18"""
LOADS_MARK = b"\x48\xb8" + MARK
RETURN = b"\xc3"

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 4, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Memory:
    """Mappings of this process, removed at the end."""

    def __init__(self) -> None:
        self.mapped: list[tuple[int, int]] = []

    def map(self, content: bytes, rights: int, *, pages: int = 0, at: int = 0, fd: int = -1) -> int:
        size = PAGE * (pages or -(-len(content) // PAGE))
        flags = mmap.MAP_PRIVATE | (0 if fd >= 0 else mmap.MAP_ANONYMOUS) | (0x10 if at else 0)
        first = rights if fd >= 0 else READ | WRITE
        address = libc.mmap(at, size, first, flags, fd & 0xFFFFFFFF if fd < 0 else fd, 0)
        assert address not in (None, ctypes.c_void_p(-1).value)
        self.mapped.append((address, size))
        if fd < 0:
            ctypes.memmove(address, content, len(content))
            assert libc.mprotect(address, size, rights) == 0
        elif pages:
            ctypes.string_at(address, size)  # so that it is present
        return int(address)

    def unmap(self, address: int, size: int) -> None:
        assert libc.munmap(address, size) == 0

    def close(self) -> None:
        for address, size in self.mapped:
            libc.munmap(address, size)


@pytest.fixture
def memory() -> Iterator[Memory]:
    found = Memory()
    yield found
    found.close()


def start_ticks() -> int:
    found = ProcessFiles("/proc", {}).stat(os.getpid())
    assert found is not None
    return found[0].id.start_ticks


@pytest.fixture
def look() -> Iterator[Look]:
    found = Look()
    yield found
    found.close()


class Look:
    """Looks at this process."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def at(self, *addresses: int, times: int = 10) -> HotCode:
        process = Process("/proc", str(os.getpid()), os.getpid(), start_ticks())
        self.processes.append(process)
        assert process.is_same
        return HotCode(process, Decoder("x86_64"), [(each, times) for each in addresses])

    def close(self) -> None:
        for process in self.processes:
            process.close()


def loads(at: int, address: int, opcode: str = "48 8d 05") -> bytes:
    """lea rax, [rip + …], to be put at ``at``; ``48 8b 05`` is mov rax."""
    return bytes.fromhex(opcode) + struct.pack("<i", address - at - 7)


def test_the_page_and_the_words_of_its_instructions(memory: Memory, look: Look) -> None:
    code = memory.map(SALSA * 4 + LOADS_MARK + RETURN + OTHER, READ | EXECUTE)
    text = look.at(code).text()
    assert MARK in text
    assert OTHER not in text
    assert all(text.count(f"rol32.{by};".encode()) == 4 for by in (7, 9, 13, 18))


def test_a_read_only_table_that_the_code_addresses(memory: Memory, look: Look) -> None:
    table = memory.map(bytes(300) + MARK + bytes(2000) + OTHER, READ)
    code = memory.map(SALSA, READ | WRITE)
    ctypes.memmove(code + 64, loads(code + 64, table + 300), 7)
    libc.mprotect(code, PAGE, READ | EXECUTE)
    text = look.at(code).text()
    assert MARK in text
    assert OTHER not in text


@pytest.mark.parametrize("rights", [READ | WRITE, READ | WRITE | EXECUTE])
def test_memory_that_can_be_written_is_data(memory: Memory, look: Look, rights: int) -> None:
    table = memory.map(MARK, rights)
    code = memory.map(SALSA, READ | WRITE)
    ctypes.memmove(code + 64, loads(code + 64, table) + RETURN, 8)
    libc.mprotect(code, PAGE, READ | EXECUTE)
    assert MARK not in look.at(code).text()


def test_a_table_by_a_librarys_offset_table(memory: Memory, look: Look) -> None:
    table = memory.map(MARK, READ)
    offsets = memory.map(struct.pack("<Q", table), READ)
    code = memory.map(SALSA, READ | WRITE)
    ctypes.memmove(code + 64, loads(code + 64, offsets, "48 8b 05"), 7)
    libc.mprotect(code, PAGE, READ | EXECUTE)
    assert MARK in look.at(code).text()


def test_a_table_of_a_program_at_a_fixed_place(memory: Memory, look: Look) -> None:
    table = memory.map(MARK, READ, at=0x2A5C8000)
    load = bytes.fromhex("8b 04 85") + struct.pack("<I", table)  # mov eax, [rax * 4 + table]
    code = memory.map(SALSA + load, READ | EXECUTE)
    assert MARK in look.at(code).text()


def test_the_page_before_belongs_to_the_loop(memory: Memory, look: Look) -> None:
    table = memory.map(MARK, READ)
    code = memory.map(b"\x90" * PAGE + SALSA, READ | WRITE)
    ctypes.memmove(code + PAGE - 7, loads(code + PAGE - 7, table), 7)
    libc.mprotect(code, 2 * PAGE, READ | EXECUTE)
    assert MARK in look.at(code + PAGE).text()


def test_pages_that_rarely_run_are_left_out(memory: Memory, look: Look) -> None:
    code = memory.map((SALSA + RETURN).ljust(2 * PAGE) + LOADS_MARK, READ | EXECUTE, pages=4)
    process = look.at(code).text()
    assert MARK not in process
    mostly = look.at(*(code + at for at in range(0, 13 * 60, 13)), code + 2 * PAGE, times=2)
    assert mostly.hot.keys() == {code // PAGE}
    assert MARK in look.at(code, code + 2 * PAGE).text()


def test_a_page_that_is_gone_meanwhile(memory: Memory, look: Look) -> None:
    code = memory.map(SALSA.ljust(PAGE) + bytes(PAGE) + LOADS_MARK + SALSA, READ | EXECUTE)
    memory.unmap(code + PAGE, PAGE)
    text = look.at(code, code + PAGE - 3, code + PAGE + 8, code + 2 * PAGE).text()
    assert MARK in text
    assert SALSA in text


def test_addresses_that_are_nowhere(look: Look) -> None:
    for address in (0, 1, 1 << 47, (1 << 63) - 1, (1 << 64) - 1):
        look.at(address).text()


def test_hostile_code_costs_a_bounded_time(memory: Memory, look: Look) -> None:
    """Every byte the begin of another instruction, and thousands of tables named."""
    far = memory.map(b"", READ, pages=1 << 14)
    code = memory.map(b"", READ | WRITE, pages=40)
    content = b"".join(
        loads(code + at, far + 4096 * (at // 7 % (1 << 14))) for at in range(0, 40 * PAGE - 7, 7)
    )
    ctypes.memmove(code, content, len(content))
    libc.mprotect(code, 40 * PAGE, READ | EXECUTE)
    places = random.Random(1).sample(range(20 * PAGE), 256)
    began_s = time.process_time()
    hot = look.at(*(code + 1000 + place for place in places))
    text = hot.text()
    assert time.process_time() - began_s < 5.0
    pages = 2 * scanner.MAX_HOT_PAGES * PAGE
    assert len(text) < 2 * pages + scanner.MAX_TABLE_BYTES


@settings(max_examples=examples(20))
@given(code=st.binary(min_size=1, max_size=PAGE), places=st.lists(st.integers(0, PAGE - 1)))
def test_any_code_at_any_places(code: bytes, places: list[int]) -> None:
    memory, look = Memory(), Look()
    try:
        address = memory.map(code, READ | EXECUTE)
        hot = look.at(*{address + each for each in places})
        hot.text()
        assert list(hot.fingerprints()) == []
    finally:
        look.close()
        memory.close()


def test_pages_that_are_not_present_are_not_fetched(
    memory: Memory, look: Look, tmp_path: Path
) -> None:
    fd = program(tmp_path, SALSA * 20 + LOADS_MARK)
    try:
        code = memory.map(SALSA, READ | EXECUTE, fd=fd)
    finally:
        os.close(fd)
    assert MARK not in look.at(code).text()
    ctypes.string_at(code, 1)
    assert MARK in look.at(code).text()


@pytest.mark.parametrize("is_written", [False, True])
def test_a_program_in_the_folder_of_devices_is_read(
    is_written: bool, memory: Memory, look: Look
) -> None:
    """In a container that is memory like /tmp: a miner started from there had no name."""
    path = Path(f"/dev/minerwatch-test-{os.getpid()}")
    try:
        path.write_bytes((SALSA * 20 + LOADS_MARK).ljust(PAGE, b"\x90"))
    except PermissionError:
        pytest.skip("run it as root")
    try:
        with path.open("rb") as file:
            code = memory.map(b"", READ | WRITE | EXECUTE, pages=1, fd=file.fileno())
    finally:
        path.unlink()
    if is_written:
        ctypes.memmove(code, SALSA, 1)
    assert MARK in look.at(code).text()


@pytest.mark.parametrize(
    ("rights", "name", "entry", "is_read"),
    [
        ("r-xp", "/usr/bin/a", 0x80, True),
        ("r-xp", "/usr/bin/a", 0xA0, True),
        ("r-xp", "/usr/bin/a", 0x00, False),
        ("r-xp", "/dev/card", 0xA0, True),
        ("r-xp", "/dev/card", 0x80, False),
        ("r-xs", "/devices/card", 0xA0, True),
        ("r-xs", "/devices/card", 0x80, False),
        ("r-xp", "anon_inode:card", 0x80, False),
        ("rwxp", "/dev/zero", 0x80, True),
    ],
)
def test_memory_of_a_device_is_not_read(
    rights: str, name: str, entry: int, is_read: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (a) R " + " ".join(["1"] * 40))
    before, after = (f"{at:x}000-{at + 1:x}000 r-xp 0 00:00 0\n" for at in (1, 3))
    (folder / "maps").write_text(f"{before}2000-3000 {rights} 0 00:05 6 {name}\n{after}")
    (folder / "mem").write_bytes(bytes(range(256)) * 64)
    (folder / "pagemap").write_bytes(
        b"".join(bytes(7) + bytes([each]) for each in (0, 0x81, entry, 0x81))
    )
    process = Process(str(tmp_path), "7", 7, 1)
    assert len(process.content(0x2000, PAGE)) == PAGE * is_read
    assert len(process.content(0x1000, PAGE)) == len(process.content(0x3000, PAGE)) == PAGE
    assert len(process.content(0x1800, 2 * PAGE)) == (2 * PAGE if is_read else PAGE // 2)
    process.close()


def test_many_mappings_with_long_names_come_before_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six thousand of them filled what was read of the mappings, and the code had no name."""
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (a) R " + " ".join(["1"] * 40))
    names = ["/" + "a" * 3600] * 6000 + ["/" + "b" * 3600]
    lines = [
        f"{at:x}000-{at:x}800 r-xp 0 00:05 6 {name}\n" for at, name in enumerate(names, 0x10000)
    ]
    (folder / "maps").write_text("".join([*lines, "7f0000000000-7f0000001000 r-xp 0 00:00 0\n"]))
    (folder / "mem").touch()
    (folder / "pagemap").touch()
    monkeypatch.setattr(scanner, "MAX_MAPS_CPU_S", 60.0)
    process = Process(str(tmp_path), "7", 7, 1)
    found = [process.mapping(at) for at in (0x10000000, 0x10000000 + (6000 << 12), 0x7F0000000010)]
    process.close()
    assert [each and each.name.decode() for each in found] == [names[0], names[-1], ""]
    monkeypatch.setattr(scanner, "MAX_MAPS_CPU_S", -1.0)
    bounded = Process(str(tmp_path), "7", 7, 1)
    assert bounded.mapping(0x10000000) is not None
    assert bounded.mapping(0x7F0000000010) is None
    bounded.close()


# Fingerprints.


def program(folder: Path, code: bytes) -> int:
    path = folder / "a"
    path.write_bytes(code.ljust(2 * PAGE, b"\x90"))
    return os.open(path, os.O_RDONLY)


def test_a_page_of_a_file_has_the_same_fingerprint_everywhere(
    memory: Memory, look: Look, tmp_path: Path
) -> None:
    fd = program(tmp_path, SALSA * 20)
    try:
        one, other = (memory.map(b"", READ | EXECUTE, pages=2, fd=fd) for _ in range(2))
        found = [[each for each, _ in look.at(at, at + 26).fingerprints()] for at in (one, other)]
    finally:
        os.close(fd)
    assert found[0] == found[1]
    assert len(found[0]) == 1
    assert len(found[0][0]) == scanner.FINGERPRINT_LENGTH


def test_generated_code_and_code_that_does_not_mix_have_none(
    memory: Memory, look: Look, tmp_path: Path
) -> None:
    generated = memory.map(SALSA * 20, READ | EXECUTE)
    assert [*look.at(generated).fingerprints()] == []
    fd = program(tmp_path, bytes.fromhex("488b00 4885c0") * 100)
    try:
        ordinary = memory.map(b"", READ | EXECUTE, pages=2, fd=fd)
        assert [*look.at(ordinary).fingerprints()] == []
    finally:
        os.close(fd)


def test_another_page_has_another_fingerprint(memory: Memory, look: Look, tmp_path: Path) -> None:
    found = []
    for content in (SALSA * 20, SALSA * 20 + SALSA[:5]):
        fd = program(tmp_path, content)
        at = memory.map(b"", READ | EXECUTE, pages=2, fd=fd)
        os.close(fd)
        (tmp_path / "a").unlink()
        found += [each for each, _ in look.at(at).fingerprints()]
    assert len(set(found)) == 2


IN_CONTAINER = b"""\
700 600 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/var/up\\040per,workdir=/w
701 700 0:51 / /proc rw - proc proc rw
702 700 8:1 /vol /home/jovyan rw,relatime - ext4 /dev/sda1 rw
703 700 0:52 / /dev/shm rw - tmpfs shm rw
"""
READ_ONLY_IN_CONTAINER = b"700 600 0:50 / / ro - overlay overlay ro,lowerdir=/l:/m\n"
ON_HOST = b"""\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:21 / /tmp rw - tmpfs tmpfs rw
24 22 8:2 / /usr rw - ext4 /dev/sda2 rw
"""


class Mounts:
    """Stands in for a process that sees some mounts."""

    def __init__(self, table: bytes) -> None:
        self.table = table

    def mount_table(self) -> bytes:
        return self.table


@pytest.mark.parametrize(
    ("table", "name", "expected"),
    [
        (IN_CONTAINER, b"/usr/bin/python3", True),
        (IN_CONTAINER, b"/opt/added", False),
        (IN_CONTAINER, b"/opt/removed", True),  # a character device in the upper layer
        (IN_CONTAINER, b"/home/jovyan/a", False),
        (IN_CONTAINER, b"/home/jovyanother", True),
        (IN_CONTAINER, b"/dev/shm/a", False),
        (IN_CONTAINER, b"/memfd:a (deleted)", False),
        (IN_CONTAINER, b"/usr/bin/a (deleted)", False),
        (READ_ONLY_IN_CONTAINER, b"/opt/added", True),
        (ON_HOST, b"/usr/bin/python3", True),
        (ON_HOST, b"/home/u/a", True),
        (ON_HOST, b"/tmp/a", False),
        (b"", b"/usr/bin/a", True),
        (b"nonsense", b"/usr/bin/a", True),
    ],
)
def test_files_that_came_after_the_container(
    table: bytes, name: bytes, expected: bool, tmp_path: Path
) -> None:
    upper = tmp_path / "1" / "root" / "var" / "up per" / "opt"
    upper.mkdir(parents=True)
    (upper / "added").touch()
    (upper / "removed").mkdir()
    mapping = Mapping(0, PAGE, b"r-xp", 0, "fe:01:1", name)
    assert is_of_image(Mounts(table), mapping, str(tmp_path)) is expected  # type: ignore[arg-type]


# Answers.


def question(address: int, **changes: object) -> dict[str, object]:
    process = {"proc": "/proc", "task_path": str(os.getpid()), "pid": os.getpid()}
    return {**process, "start_ticks": start_ticks(), "addresses": [[address, 9]], **changes}


RULE = f"rule Marked {{ strings: $a = {{ {MARK.hex(' ')} }} condition: $a }}"


def test_an_answer_has_names_and_no_code(memory: Memory) -> None:
    code = memory.map(SALSA + LOADS_MARK, READ | EXECUTE)
    scanners, broken = scanners_of([[RULE, ""]], 5)
    assert broken == []
    found = answer(Decoder("x86_64"), question(code), scanners)
    assert found == {"is_there": True, "names": ["Marked"], "fingerprints": [], "foreign": []}


TURNS = r'rule Turns { strings: $a = "\x1frol32.7;" condition: $a }'


def test_hot_code_of_32_bits_is_decoded_as_such(memory: Memory) -> None:
    """dec eax; mov eax, 0; rol ecx, 7; nop: of 64 bits it is one number, and had no name."""
    code = memory.map(bytes.fromhex("48b800000000c1c10790") * 9, READ | EXECUTE)
    scanners, _ = scanners_of([[TURNS, ""]], 5)
    for address, names in ((code, []), (code | CODE_OF_32_BITS, ["Turns"])):
        found = answer(Decoder("x86_64"), question(address), scanners)
        assert (found["is_there"], found["names"]) == (True, names)
    both = question(code, addresses=[[code, 9], [code | CODE_OF_32_BITS, 1]])
    assert answer(Decoder("x86_64"), both, scanners)["names"] == ["Turns"]
    nowhere = question((1 << 64) - 1)
    assert answer(Decoder("x86_64"), nowhere, scanners)["names"] == []


FLOATS = bytes.fromhex("f30fe6c0660f5800 f30fe6c9660f5cc1 f3410fe6c0660f5ec8")
ROOT = bytes.fromhex("660f5100")
"""sqrtpd xmm0, [rax]"""


@pytest.mark.parametrize(("end", "names"), [(b"", ["RandomX_Interpreter"]), (RETURN, [])])
def test_two_functions_close_by_are_not_one(end: bytes, names: list[str], memory: Memory) -> None:
    """What a rule expects in one function was in two, and they were put closer than they are."""
    first = (FLOATS + end).ljust(256, b"\xcc" if end else b"\x90")
    code = memory.map(first + ROOT + RETURN, READ | EXECUTE)
    rules = (BUILT_IN_RULES / "compute" / "functions.hot.yar").read_text()
    scanners, broken = scanners_of([[rules, ""]], 5)
    assert broken == []
    addresses = [[code, 9], [code + len(first), 9]]
    found = answer(Decoder("x86_64"), question(code, addresses=addresses), scanners)
    assert found["names"] == names


def test_rules_of_files_match_nothing_that_was_generated(
    tmp_path: Path, memory: Memory, look: Look
) -> None:
    """A database's query had numbers of RandomX, and was compiled: likely."""
    scanners, _ = scanners_of([[RULE, ""], [RULE.replace("Marked", "InFile : files"), ""]], 5)
    file = tmp_path / "program"
    file.write_bytes((SALSA * 4 + LOADS_MARK + RETURN).ljust(PAGE, b"\x90"))
    with file.open("rb") as opened:
        of_file = memory.map(b"", READ | EXECUTE, pages=1, fd=opened.fileno())
    generated = memory.map(SALSA * 4 + LOADS_MARK + RETURN, READ | EXECUTE)
    assert names_in([look.at(generated)], scanners) == ["Marked"]
    assert names_in([look.at(of_file)], scanners) == ["InFile", "Marked"]
    assert names_in([look.at(generated, of_file)], scanners) == ["InFile", "Marked"]


@pytest.mark.parametrize("changes", [{"start_ticks": 1}, {"pid": 1 << 22, "task_path": "4194304"}])
def test_another_process_is_not_read(changes: dict[str, object], memory: Memory) -> None:
    code = memory.map(SALSA + LOADS_MARK, READ | EXECUTE)
    assert answer(Decoder("x86_64"), question(code, **changes), []) == {"is_there": False}


def test_a_broken_file_keeps_its_last_rules() -> None:
    scanners, broken = scanners_of([["rule A {", RULE], ["rule B {", "rule C {"]], 5)
    assert [(number, line) for number, line, _ in broken] == [(0, 1), (1, 1)]
    assert tags_of_matches(MARK, scanners) == {"Marked": ()}
