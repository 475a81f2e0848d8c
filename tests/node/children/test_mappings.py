"""The mapping that holds an address: asked of the kernel, and found in recorded lists."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node.children import mappings
from minerwatch.node.children.mappings import (
    ORDINARY,
    PRESENT,
    Mapping,
    Mappings,
    largest_file_mib,
    mapping_of,
)

MAPS = b"""\
00400000-00401000 r-xp 00000000 fe:01 1234                               /usr/bin/a
00600000-00601000 rw-p 00000000 fe:01 1234                               /usr/bin/a
7f0000000000-7f0000100000 r-xp 00002000 fe:01 99                         /usr/lib/b.so (deleted)
7f1000000000-7f1000001000 rwxp 00000000 00:00 0
7f2000000000-7f2000001000 r-xs 00000000 00:01 77                         /memfd:x (deleted)
7f3000000000-7f3000001000 r-xs 00000000 00:19 78                         /dev/shm/x
7f4000000000-7f4000001000 r-xs 00000000 00:06 12                         /dev/mem
7f5000000000-7f5000001000 r-xs 00000000 00:0e 13                         anon_inode:[gpu]
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_the_largest_file_that_is_mapped_lies_on_a_disk() -> None:
    of_maps = MAPS.splitlines()
    assert largest_file_mib(of_maps) == 1.0
    larger = b"7e0000000000-7e000c000000 r--s 00000000 fe:01 5      /data/a file\n"
    in_memory = b"7e1000000000-7e100f000000 r--s 00000000 00:19 6      /dev/shm/y\n"
    assert largest_file_mib([*of_maps, larger, in_memory]) == 192.0
    assert largest_file_mib([]) == 0.0
    too_long = b"0-%s r 0 1 1 /a" % (b"a" * 300)  # no kernel writes it, and 300 digits are no float
    assert largest_file_mib([too_long]) == 2.0**44
    assert largest_file_mib([b"half a line of a file /y", *of_maps]) == 1.0


def test_of_many_files_only_larger_ones_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """65,000 mappings took 0.24 s more than their list, which no bound counts."""
    parsed: list[int] = []

    class Counted(Mapping):
        def __init__(self, start: int, end: int, *others: Any) -> None:
            parsed.append(end - start)
            super().__init__(start, end, *others)

    monkeypatch.setattr(mappings, "Mapping", Counted)
    sizes = [0x1000, 0x1000, 0x3000, 0x2000, *[0x1000] * 1000]
    lines = [_line(at << 16, size) for at, size in enumerate(sizes, start=1)]
    assert largest_file_mib(lines) == 3 / 256
    assert parsed == [0x1000, 0x3000]


def test_the_largest_file_is_looked_for_within_bounds() -> None:
    """Each of these is larger than the one before."""
    lines = [_line(at << 32, at << 12) for at in range(1, 5000)]
    assert 0 < largest_file_mib(lines, 0.001) < largest_file_mib(lines[-1:])


def _line(start: int, size: int) -> bytes:
    return b"%x-%x r--p 00000000 fe:01 1234      /usr/share/a\n" % (start, start + size)


@pytest.mark.parametrize(
    ("address", "is_anonymous"),
    [
        (0x400010, False),
        (0x7F0000000010, True),
        (0x7F1000000FFF, True),
        (0x7F2000000000, True),
        (0x7F3000000000, True),
        (0x7FFD00000000, False),
        (0xFFFFFFFFFF600000, False),
    ],
)
def test_which_code_no_file_backs(address: int, is_anonymous: bool) -> None:
    mapping = mapping_of(address, MAPS.splitlines(keepends=True))
    assert mapping is not None
    assert mapping.is_executable
    assert mapping.is_anonymous is is_anonymous


@pytest.mark.parametrize("address", [0, 0x401000, 1 << 63, (1 << 64) - 1])
def test_an_address_between_mappings(address: int) -> None:
    assert mapping_of(address, MAPS.splitlines()) is None


@pytest.mark.parametrize("address", [0x7F4000000000, 0x7F5000000000])
def test_mappings_of_devices(address: int) -> None:
    mapping = mapping_of(address, MAPS.splitlines())
    assert mapping is not None
    assert mapping.readable == ORDINARY
    assert mapping.is_anonymous  # it is on no disk


def test_memory_of_no_device_in_their_folder() -> None:
    for rights, name, readable in (
        (b"rwxp", b"/dev/zero", PRESENT),
        (b"rwxp", b"/dev/shm/x", PRESENT),
        (b"rwxs", b"/dev/zero (deleted)", ORDINARY),
        (b"rwxp", b"/dev/card", ORDINARY),
        (b"rwxp", b"/usr/bin/a", PRESENT),
    ):
        assert Mapping(0, 4096, rights, 0, "00:05:6", name).readable == readable


@given(st.binary(max_size=200), st.integers(0, (1 << 64) - 1))
def test_any_content_of_the_list(content: bytes, address: int) -> None:
    lines = (content + MAPS).splitlines(keepends=True)
    largest_file_mib(lines)
    found = mapping_of(address, lines)
    assert found is None or found.start <= address < found.end


def shown(mapping: Mapping | None) -> object:
    return mapping and [getattr(mapping, name) for name in Mapping.__slots__]


@pytest.fixture
def unlinked(tmp_path: Path) -> int:
    """Return the address of code in a file without a name, mapped by this process."""
    (tmp_path / "file").write_bytes(bytes(4096))
    with (tmp_path / "file").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=7)
    (tmp_path / "file").unlink()
    _kept.append(memory)
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


_kept: list[mmap.mmap] = []


@pytest.mark.parametrize("asks_kernel", [True, False])
def test_this_process(asks_kernel: bool, unlinked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the kernel is asked or its list is read makes no difference."""
    if not asks_kernel:
        monkeypatch.setattr(mappings, "PROCMAP_QUERY", 0)  # as before Linux 6.11
    lines = Path("/proc/self/maps").read_bytes().splitlines(keepends=True)
    found = Mappings("/proc/self/maps", 1.0)
    assert found.exist()
    assert found.are_all_known
    for line in lines[:-1]:  # the last is [vsyscall], which is no mapping of the process
        start = int(line.partition(b"-")[0], 16)
        assert shown(found.of(start)) in (shown(mapping_of(start, lines)), None)  # it may change
    mapping = found.of(unlinked + 10)
    assert mapping is not None
    assert mapping.is_anonymous
    assert mapping.name.endswith(b"/file (deleted)")
    assert found.of(0) is found.of((1 << 64) - 1) is found.of(1 << 64) is found.of(-1) is None
    assert found.largest_file_mib() == largest_file_mib(lines) > 1
    found.close()


LONG_NAME = """
import ctypes, mmap, os
for _ in range(20):
    os.mkdir(250 * "x")
    os.chdir(250 * "x")
with open("code", "w+b") as file:
    file.write(bytes(4096))
    file.flush()
    memory = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=7)
os.unlink("code")
for _ in range(20):
    os.chdir("..")
    os.rmdir(250 * "x")
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
input()
"""


def test_a_file_with_too_long_a_name_may_be_any(tmp_path: Path) -> None:
    """The kernel does not say its name; one such mapping made the whole list be read instead."""
    own = Mappings("/proc/self/maps", -1.0)
    if own.of(0) is None and not own.are_all_known:
        pytest.skip("run it on Linux 6.11")
    own.close()
    with subprocess.Popen(
        [sys.executable, "-c", LONG_NAME],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        address = int(process.stdout.readline())
        found = Mappings(f"/proc/{process.pid}/maps", -1.0)
        mapping = found.of(address)
        assert found.are_all_known
        assert mapping is not None
        assert mapping.is_anonymous
        assert mapping.readable == ORDINARY
        found.close()
        process.kill()


@pytest.mark.parametrize(
    ("last", "is_listed"), [(errno.ENOENT, False), (errno.ESRCH, True), (errno.ENAMETOOLONG, True)]
)
def test_a_mapping_that_changes_between_two_queries(
    last: int, is_listed: bool, unlinked: int
) -> None:
    """A tenant mapped and unmapped a file with too long a name, and the child exited."""
    errors = [last, errno.ENAMETOOLONG]

    def fail(*_: object) -> None:
        raise OSError(errors.pop(), "")

    found = Mappings("/proc/self/maps", 1.0, query=fail)
    assert (found.of(unlinked) is not None) is is_listed
    assert errors == []
    found.close()


def test_a_process_that_was_waited_for_has_none() -> None:
    """Its list cannot be read any more, and the child exited."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = Mappings(f"/proc/{process.pid}/maps", 1.0)
        process.kill()
    assert not found.exist()
    assert found.of(1 << 12) is None
    assert found.largest_file_mib() == 0.0
    found.close()


def test_a_process_that_has_exited_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = Mappings(f"/proc/{process.pid}/maps", 1.0)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not found.exist()
        assert found.of(1 << 12) is None
        found.close()


def test_mappings_beyond_those_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "PROCMAP_QUERY", 0)
    monkeypatch.setattr(mappings, "CHUNK_BYTES", 1)
    found = Mappings("/proc/self/maps", -1.0)
    assert found.exist()
    assert not found.are_all_known
    found.close()
