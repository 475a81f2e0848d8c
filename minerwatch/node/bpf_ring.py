"""A BPF program that writes records of one size into a ring buffer, loaded as iterators are.

The ring is memory that is shared with the kernel (Documentation/bpf/ringbuf.rst): a page with the
offset up to which it was read, a page with the offset up to which it was written, and the data,
which is mapped twice so that no record is cut in two.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from minerwatch.errors import SourceUnavailableError
from minerwatch.node.bpf_iterator import load_libbpf, object_path, refusal

_HEADER_BYTES = 8
_STATE = 3
"""The byte of a header whose highest bit says that the record is being written."""


class BpfRing:
    """The program of bpf/NAME.bpf.c with its maps ``records`` and ``lost``; for one thread.

    ``program_fd``: to attach it by.
    """

    def __init__(
        self, name: str, record_bytes: int, records: int, *, needs: str, what: str
    ) -> None:
        """Load the program, with room for ``records`` at least. Raises SourceUnavailableError."""
        self._library = load_libbpf()
        self._stride = _HEADER_BYTES + record_bytes
        self._size = 1 << (max(mmap.PAGESIZE, records * self._stride) - 1).bit_length()
        path = object_path(name, needs, what, reads_kernel=False)
        self._object = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise SourceUnavailableError(f"{path.name}: {os.strerror(ctypes.get_errno())}")
        self._lost = 0
        self._memories: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        try:
            self._load(needs, what)
        except BaseException:
            self.close()
            raise

    def take(self) -> bytes:
        """Return the records since the last call, each after a header of eight bytes."""
        tail, head = self._read_to[0], self._written_to[0]
        if head == tail:
            return b""
        begins = mmap.PAGESIZE + tail % self._size
        number = finished(self._data[begins + _STATE : begins + head - tail : self._stride])
        # A system call, and so a barrier: headers are read before it, records after.
        self._lost = self._read_lost()
        ends = begins + number * self._stride
        content = self._data[begins:ends]
        self._read_to[0] = tail + len(content)
        return content

    def lost(self) -> int:
        """Return the number of records that there was no room for, from the start to a read."""
        return self._lost

    def _read_lost(self) -> int:
        first, count = ctypes.c_uint32(), ctypes.c_uint64()
        self._library.bpf_map_lookup_elem(self._lost_fd, ctypes.byref(first), ctypes.byref(count))
        return count.value

    def close(self) -> None:
        """Remove the program from the kernel, once nothing is attached to it any more."""
        for view in self._views:
            view.release()
        for memory in self._memories:
            memory.close()
        self._views, self._memories = [], []
        if self._object is not None:
            self._library.bpf_object__close(self._object)
        self._object = None

    def _load(self, needs: str, what: str) -> None:
        library, page = self._library, mmap.PAGESIZE
        records = library.bpf_object__find_map_by_name(self._object, b"records")
        library.bpf_map__set_max_entries(records, self._size)
        if library.bpf_object__load(self._object):
            raise SourceUnavailableError(refusal(ctypes.get_errno(), needs, what))
        lost = library.bpf_object__find_map_by_name(self._object, b"lost")
        program = library.bpf_object__next_program(self._object, None)
        self.program_fd: int = library.bpf_program__fd(program)
        self._lost_fd: int = library.bpf_map__fd(lost)
        fd = library.bpf_map__fd(records)
        try:
            reader = mmap.mmap(fd, page)
            self._memories.append(reader)
            self._data = mmap.mmap(fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)
            self._memories.append(self._data)
        except OSError as error:
            raise SourceUnavailableError(f"the {what}'s ring: {error.strerror}") from error
        self._read_to = memoryview(reader).cast("Q")
        self._written_to = memoryview(self._data)[:page].cast("Q")
        self._views = [self._read_to, self._written_to]


def finished(states: bytes) -> int:
    """Return the number of records before the first one that is still being written."""
    return len(states) - len(states.lstrip(b"\0"))
