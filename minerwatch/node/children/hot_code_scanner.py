"""Name what the code that runs hot in a process computes, in a process that can be killed.

The agent runs this file by path and never imports it. No code leaves it, only names of YARA rules
and hashes of pages. One JSON value a line:

============================================================  =====================================
standard input                                                standard output
============================================================  =====================================
``{"rules": [[text, earlier text], …]}``                      ``{"broken": [[number, line, …], …]}``
``{"proc", "task_path", "pid", "start_ticks", "addresses"}``  ``{"is_there", "names", …}``
============================================================  =====================================

Rules match one text, made of

- the code that the sampled addresses lie in, as far as jumps lead from there and back to the begin
  of its function, where a loop finds its constants;
- the read-only memory that it addresses: tables;
- numbers that arm64 puts together from halves, and the words of ``Words``.

Data that a process only keeps is never a part of it. Rules with the tag ``files`` match only what
lies in files: an engine puts numbers that an outsider names into the code that it generates.
Whatever the code looks like, the work is bounded: in pages, instructions, addresses and bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import yara_x

from minerwatch.node.children.machine_code import Decoder, Reference, References, Words, masked
from minerwatch.node.children.mappings import (
    CODE_OF_32_BITS,
    PRESENT,
    Mapping,
    Mappings,
    has_32_bits,
)
from minerwatch.node.children.scanning import serve
from minerwatch.node.children.traced_code import PAGE, TracedCode, joined

MAX_HOT_PAGES = 16
_MIN_SHARE = 0.02
"""Of the samples, in a page that counts as hot."""
MAX_TABLE_BYTES = 16 * PAGE
_NEAR_BYTES = 256
"""Around a sampled address: code that surely runs."""
_TABLE_BYTES = 256
"""Of a table whose address is taken: its length does not show, and what follows is another's."""
_GAP = bytes(512)
"""Put between parts that are not adjacent: no pattern matches across it."""
MAX_MAPS_CPU_S = 1.0
"""For the list of all mappings that a process may have, with ordinary names."""
_MAX_MOUNTS_BYTES = 1 << 20
_MAX_NAMES = 64
_OF_FILES = "files"

FINGERPRINT_LENGTH = 32
_MAX_FINGERPRINTS = 4
_MIN_SHARE_OF_FINGERPRINT = 0.1
"""Of the samples in hot pages, in a page with a fingerprint."""
_MIN_MIXING = 0.15
"""Of the instructions around the samples in a page with a fingerprint."""

_SCAN_S = 5


# The memory of a process.


class Process:
    """One process, open for reading. Raises OSError if it cannot be read."""

    def __init__(self, proc: str, task_path: str, pid: int, start_ticks: int) -> None:
        self._folder = f"{proc}/{task_path}"
        self._mappings = Mappings(f"{self._folder}/maps", MAX_MAPS_CPU_S)
        self._memory = self._pages = -1
        try:
            self._memory = os.open(f"{self._folder}/mem", os.O_RDONLY | os.O_CLOEXEC)
            self._pages = os.open(f"{self._folder}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123 - as below
                fields = file.read().rpartition(b")")[2].split()  # proc_pid_stat(5)
            self.is_same = int(fields[19]) == start_ticks
        except BaseException:
            self.close()
            raise

    def mapping(self, address: int) -> Mapping | None:
        """Return the executable or read-only mapping of an address."""
        found = self._mappings.of(address)
        is_code_or_table = found is not None and (
            found.is_executable or (found.is_readable and not found.is_writable)
        )
        return found if is_code_or_table else None

    def mount_table(self) -> bytes:
        """Return the mounts that it sees (proc_pid_mountinfo(5))."""
        with suppress(OSError), open(f"{self._folder}/mountinfo", "rb") as file:  # noqa: PTH123
            return file.read(_MAX_MOUNTS_BYTES)
        return b""

    def content(self, start: int, size: int) -> bytes:
        """Return the memory from ``start`` on, as far as its pages are present.

        To fetch one can take as long as a tenant likes. Bit 63 of a page map entry says present
        (proc_pid_pagemap(5)).
        """
        first, last = start // PAGE, (start + size - 1) // PAGE
        with suppress(OSError, OverflowError):
            entries = os.pread(self._pages, 8 * (last - first + 1), 8 * first)
            readable = self._readable(range(first, last + 1))
            present = re.match(b"(?s)(?:.{7}[" + readable + b"])*", entries)
            end = (first + (present.end() // 8 if present else 0)) * PAGE
            if end > start:
                return os.pread(self._memory, min(size, end - start), start)
        return b""

    def _readable(self, pages: range) -> bytes:
        """Return the highest bytes of entries that can be read in all of these pages."""
        found = (self._mappings.of(page * PAGE) for page in pages)
        return min((each.readable for each in found if each is not None), key=len, default=PRESENT)

    def close(self) -> None:
        """Close its memory."""
        self._mappings.close()
        for fd in (self._memory, self._pages):
            if fd >= 0:
                os.close(fd)


# Hot code.


class HotCode:
    """The code that runs at sampled addresses, and what it names."""

    def __init__(
        self, process: Process, decoder: Decoder, samples: Iterable[tuple[int, int]]
    ) -> None:
        self._process = process
        self._decoder = decoder
        counts = Counter(dict(samples))
        self._sampled = sorted(counts)
        pages: Counter[int] = Counter()
        for address, count in counts.items():
            pages[address // PAGE] += count
        least = max(_MIN_SHARE * pages.total(), min(2, pages.total()))
        hot = [each for each in pages.most_common(MAX_HOT_PAGES) if each[1] >= least]
        self.hot = Counter(dict(hot))
        starts = [each for each, _ in counts.most_common() if each // PAGE in self.hot]
        self._code = TracedCode(decoder, self._page, starts)
        self._words = Words(is_arm=decoder.is_arm)
        self._references = References(is_arm=decoder.is_arm)
        self._executed: Counter[int] = Counter()  # instructions by page
        self._mixing: Counter[int] = Counter()
        self._read()

    def text(self, *, only_files: bool = False) -> bytes:
        """Return the text that rules are matched against; ``only_files``: of what lies in files."""
        tables = (
            (start, self._process.content(start, end - start)) for start, end in self._tables()
        )
        parts = [*self._code.contents(), *tables]
        numbers = self._references.numbers
        if only_files:
            parts = [(at, self._without_generated(at, content)) for at, content in parts]
            numbers = [each for each in numbers if self._is_in_file(each[0])]
        own = (b"".join(number for _, number in numbers), self._words.text().encode())
        return _GAP.join((*(content for _, content in parts), *own))

    def _without_generated(self, at: int, content: bytes) -> bytes:
        """Return the content with zeros in place of what lies in no file."""
        kept = bytearray(content)
        for page in range(at - at % PAGE, at + len(content), PAGE):
            if not self._is_in_file(page):
                start, end = max(0, page - at), min(len(kept), page + PAGE - at)
                kept[start:end] = bytes(end - start)
        return bytes(kept)

    def _is_in_file(self, address: int) -> bool:
        mapping = self._process.mapping(address)
        return mapping is not None and not mapping.is_anonymous

    def fingerprints(self) -> Iterator[tuple[str, Mapping]]:
        """Yield the hash of each page that mixes and that a file holds, and its mapping.

        Generated code changes; unpacked code is in no file either, so neither has a fingerprint.
        """
        least = _MIN_SHARE_OF_FINGERPRINT * self.hot.total()
        for page, count in self.hot.most_common(_MAX_FINGERPRINTS):
            mapping = self._process.mapping(page * PAGE)
            if count < least or mapping is None or mapping.is_writable or not mapping.file:
                continue
            if self._mixing[page] >= _MIN_MIXING * self._executed[page] > 0:
                yield self._fingerprint(page), mapping

    def _fingerprint(self, page: int) -> str:
        digest = hashlib.sha256()
        for instruction in self._decoder.decoded(self._process.content(page * PAGE, PAGE), 0):
            text = masked(instruction, PAGE, self._is_mapped)
            digest.update(text.encode() + b"\n")
        return digest.hexdigest()[:FINGERPRINT_LENGTH]

    def _is_mapped(self, address: int) -> bool:
        return self._process.mapping(address) is not None

    def _page(self, page: int) -> bytes:
        """Return a page of code."""
        mapping = self._process.mapping(page * PAGE)
        if mapping is not None and mapping.is_executable:
            return self._process.content(page * PAGE, PAGE)
        return b""

    def _read(self) -> None:
        for instruction in self._code.reached:
            self._references.add(instruction)
            mixes = self._words.add(instruction)
            if self._distance(instruction.address) <= _NEAR_BYTES:
                page = instruction.address // PAGE
                self._executed[page] += 1
                self._mixing[page] += mixes
        for instruction in self._code.before:
            self._references.add(instruction)

    def _tables(self) -> list[tuple[int, int]]:
        """Return the read-only memory that is named nearest to the sampled addresses."""
        found: list[tuple[int, int]] = []
        left = MAX_TABLE_BYTES
        for _, address, size in self._named():
            mapping = self._process.mapping(address)
            if mapping is None or mapping.is_writable:
                continue
            end = min(mapping.end, address + (size or _TABLE_BYTES))
            left -= end - address
            if left < 0:
                break
            found.append((address, end))
        return [*joined(found)]

    def _named(self) -> list[Reference]:
        """Return each address once, those first that are named nearest to a sample."""
        named = [*self._references.tables, *self._followed()]
        named.sort(key=lambda each: self._distance(each.by))
        return [*{(each.address, each.size): each for each in named}.values()]

    def _followed(self) -> Iterator[Reference]:
        """Yield the addresses that read-only memory holds, mostly a library's offset table."""
        for by, address, _ in self._references.pointers:
            mapping = self._process.mapping(address)
            if mapping is not None and not mapping.is_writable:
                content = self._process.content(address, 8)
                if len(content) == 8:
                    yield Reference(by, int.from_bytes(content, "little"))

    def _distance(self, address: int) -> int:
        index = bisect_left(self._sampled, address)
        return min(abs(address - each) for each in self._sampled[max(0, index - 1) : index + 1])


def hot_codes(
    process: Process, decoder: Decoder, samples: Iterable[tuple[int, int]]
) -> Iterator[HotCode]:
    """Yield the code of ``decoder``, and that of 32 bits if it was sampled."""
    of_32_bits = {at ^ CODE_OF_32_BITS: count for at, count in samples if has_32_bits(at)}
    yield HotCode(process, decoder, [each for each in samples if not has_32_bits(each[0])])
    if of_32_bits:
        yield HotCode(process, Decoder("i686"), of_32_bits.items())


# Rules.


def names_in(codes: Sequence[HotCode], scanners: Sequence[yara_x.Scanner]) -> list[str]:
    """Return the names of the rules that match. The tag ``files``: only where files hold it."""
    found = tags_of_matches(_GAP.join(code.text() for code in codes), scanners)
    of_files = {name for name, tags in found.items() if _OF_FILES in tags}
    if of_files:
        text = _GAP.join(code.text(only_files=True) for code in codes)
        of_files -= tags_of_matches(text, scanners).keys()
    return sorted(found.keys() - of_files)[:_MAX_NAMES]


def tags_of_matches(text: bytes, scanners: Iterable[yara_x.Scanner]) -> dict[str, tuple[str, ...]]:
    """Return the rules that match by name, with their tags."""
    found: dict[str, tuple[str, ...]] = {}
    for scanner in scanners:
        with suppress(yara_x.TimeoutError):
            found |= {each.identifier: each.tags for each in scanner.scan(text).matching_rules}
    return found


# Files that are not in the image of the container.


class _Mount(NamedTuple):
    point: bytes
    kind: bytes
    upper: bytes  # where an overlay's changes are, as the host sees it


def is_of_image(process: Process, mapping: Mapping, proc: str) -> bool:
    """Return False if the file came after the container was made.

    It did if it has no name any more, lies on a volume, or in the upper layer of an overlay. On a
    host, where there is no image, only what lies in memory did.
    """
    if mapping.is_in_memory:
        return False
    name = mapping.name
    mounts = sorted(_mounts(process.mount_table()), key=lambda each: len(each.point))
    above = [each for each in mounts if _lies_below(name, each.point)]
    if not above:
        return True
    mount = above[-1]
    if mount.kind == b"overlay":
        path = os.fsencode(f"{proc}/1/root") + mount.upper + name[len(mount.point.rstrip(b"/")) :]
        try:
            return not (mount.upper and stat.S_ISREG(os.lstat(path).st_mode))
        except OSError:
            return True
    is_in_container = above[0].kind == b"overlay"
    return mount.point == b"/" or not (is_in_container or mount.kind in (b"tmpfs", b"ramfs"))


_MOUNT = re.compile(
    rb"^\d+ \d+ \S+ \S+ (\S+) [^\n]*? - (\S+) \S+ (?:\S*?,upperdir=([^,\s]+))?", re.MULTILINE
)


def _mounts(table: bytes) -> Iterator[_Mount]:
    """Yield the mounts of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    for point, kind, upper in _MOUNT.findall(table):
        yield _Mount(_unescaped(point), kind, _unescaped(upper))


def _unescaped(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), path)


def _lies_below(name: bytes, point: bytes) -> bool:
    return name.startswith(point.rstrip(b"/") + b"/")


# Questions.


def answer(
    decoder: Decoder, question: dict[str, Any], scanners: list[yara_x.Scanner]
) -> dict[str, Any]:
    """Return the names of the rules that match the hot code of a process, and its fingerprints."""
    proc: str = question["proc"]
    try:
        process = Process(
            proc, question["task_path"], int(question["pid"]), int(question["start_ticks"])
        )
    except (OSError, ValueError, IndexError):
        return {"is_there": False}
    try:
        if not process.is_same:
            return {"is_there": False}
        codes = [*hot_codes(process, decoder, question["addresses"])]
        found = {name: mapping for code in codes for name, mapping in code.fingerprints()}
        foreign = [each for each in found if not is_of_image(process, found[each], proc)]
        return {
            "is_there": any(code.hot for code in codes),
            "names": names_in(codes, scanners),
            "fingerprints": sorted(found),
            "foreign": sorted(foreign),
        }
    finally:
        process.close()


if __name__ == "__main__":
    serve(partial(answer, Decoder()), niceness=10, scan_s=_SCAN_S)
