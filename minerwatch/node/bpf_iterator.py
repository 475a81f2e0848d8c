"""A BPF iterator over tasks or files, loaded with libbpf through ctypes, read as whole rows.

The programs are prebuilt objects in bpf/, one for each machine. They need a kernel with BTF
(CONFIG_DEBUG_INFO_BTF, Linux 5.8 or later) and the capabilities BPF and PERFMON. Nothing is
attached to the kernel and no task is disturbed: reading an iterator walks the task list
(Documentation/bpf/bpf_iterators.rst).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from ctypes import c_char_p, c_int, c_uint32, c_void_p
from pathlib import Path

from minerwatch.errors import SourceUnavailableError
from minerwatch.node.capabilities import effective_capabilities

BPF_FOLDER = Path(__file__).parent / "bpf"
_ROWS_PER_READ = 1024
_MAX_READS = 4096
_MAX_EMPTY_READS = 64
"""Reads that end with EAGAIN: the kernel passes a million objects, none of which has a row."""
_LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
_CAPABILITIES = ("BPF", "PERFMON")
_MEMLOCK = resource.RLIMIT_MEMLOCK

OUTSIDE_HOST_PIDS = "the agent is not in the host's pid namespace: set hostPID on the agent's pod"


class _OneProcess(ctypes.Structure):
    """``union bpf_iter_link_info`` for tasks (include/uapi/linux/bpf.h): those of one process."""

    _fields_ = (
        ("tid", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("pid_fd", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    )


class _AttachOptions(ctypes.Structure):
    """``struct bpf_iter_attach_opts`` (libbpf's bpf/libbpf.h)."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("info", ctypes.POINTER(_OneProcess)),
        ("info_size", ctypes.c_uint32),
    )


class BpfIterator:
    """The program of bpf/NAME.bpf.c, in the kernel; for one thread at a time.

    ``failures`` counts reads that failed since the start: ``unreadable``.
    """

    def __init__(
        self,
        name: str,
        row_bytes: int,
        *,
        needs: str = "Linux 5.8",
        library: ctypes.CDLL | None = None,
        what: str = "task iterator",
    ) -> None:
        """Load the program, which ``needs`` this kernel or later. Raises SourceUnavailableError.

        ``what``: its name in the reason.
        """
        self.failures = {"unreadable": 0}
        self._row_bytes = row_bytes
        self._needs = needs
        self._what = what
        self._library = library or load_libbpf()
        self._object: int | None = None
        self._program: int | None = None
        self._link: int | None = None
        try:
            self._load(object_path(name, needs, what))
        except SourceUnavailableError:
            self.close()
            raise

    def pieces(self) -> Iterator[bytes]:
        """Read all tasks or files of the node; yield whole rows, as many as one read(2) returns."""
        return self._pieces(self._link)

    def pieces_of(self, pid: int) -> Iterator[bytes]:
        """Read the tasks or files of one process; kernels before 6.1 refuse, or return all."""
        process = _OneProcess(pid=pid)
        options = _AttachOptions(
            ctypes.sizeof(_AttachOptions), ctypes.pointer(process), ctypes.sizeof(_OneProcess)
        )
        link = self._library.bpf_program__attach_iter(self._program, ctypes.byref(options))
        if not link:
            return
        try:
            yield from self._pieces(link)
        finally:
            self._library.bpf_link__destroy(link)

    def close(self) -> None:
        """Remove the program from the kernel."""
        if self._link is not None:
            self._library.bpf_link__destroy(self._link)
        if self._object is not None:
            self._library.bpf_object__close(self._object)
        self._link = self._object = None

    def _load(self, path: Path) -> None:
        library = self._library
        opened = library.bpf_object__open_file(os.fsencode(path), None)
        if not opened:
            raise SourceUnavailableError(
                f"{path.name} cannot be opened: {os.strerror(ctypes.get_errno())}"
            )
        self._object = opened
        if library.bpf_object__load(opened):
            raise SourceUnavailableError(refusal(ctypes.get_errno(), self._needs, self._what))
        self._program = program = library.bpf_object__next_program(opened, None)
        self._link = library.bpf_program__attach_iter(program, None) if program else None
        if not self._link:
            raise SourceUnavailableError(refusal(ctypes.get_errno(), self._needs, self._what))

    def _pieces(self, link: int | None) -> Iterator[bytes]:
        fd = self._library.bpf_iter_create(self._library.bpf_link__fd(link))
        if fd < 0:
            self.failures["unreadable"] += 1
            return
        try:
            empty_reads = 0
            for _ in range(_MAX_READS):
                try:
                    content = os.read(fd, _ROWS_PER_READ * self._row_bytes)
                except BlockingIOError:  # the next read goes on from there
                    empty_reads += 1
                    if empty_reads > _MAX_EMPTY_READS:
                        raise
                    continue
                if not content:
                    break
                whole = len(content) - len(content) % self._row_bytes
                yield content[:whole]
        except OSError:
            self.failures["unreadable"] += 1
        finally:
            os.close(fd)


def object_path(name: str, needs: str, what: str, *, reads_kernel: bool = True) -> Path:
    """Return the path of an object. Raises SourceUnavailableError if it cannot be loaded here."""
    machine = platform.machine()
    path = BPF_FOLDER / f"{name}.{machine}.bpf.o"
    if not path.is_file():
        raise SourceUnavailableError(f"there is no {what} for this machine ({machine})")
    if reads_kernel and not Path("/sys/kernel/btf/vmlinux").exists():
        raise SourceUnavailableError(
            f"this kernel has no BTF: it needs {needs} or later with CONFIG_DEBUG_INFO_BTF"
        )
    return path


def load_libbpf() -> ctypes.CDLL:
    """Load the library. Raises SourceUnavailableError."""
    for name in _LIBRARIES:
        with suppress(OSError):
            library = ctypes.CDLL(name, use_errno=True)
            break
    else:
        raise SourceUnavailableError("libbpf is missing: install it (Debian: apt install libbpf1)")
    signatures: dict[str, tuple[object, list[object]]] = {
        "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
        "bpf_object__load": (c_int, [c_void_p]),
        "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
        "bpf_object__close": (None, [c_void_p]),
        "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
        "bpf_link__fd": (c_int, [c_void_p]),
        "bpf_link__destroy": (c_int, [c_void_p]),
        "bpf_iter_create": (c_int, [c_int]),
        "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
        "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
        "bpf_map__fd": (c_int, [c_void_p]),
        "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
        "bpf_program__fd": (c_int, [c_void_p]),
        "libbpf_set_print": (c_void_p, [c_void_p]),
        "libbpf_set_strict_mode": (c_int, [c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            raise SourceUnavailableError(f"libbpf is too old: it has no {name}; update it")
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # it would write to standard error
    library.libbpf_set_strict_mode(0xFFFFFFFF)  # before 1.0: errors are null and errno, as after
    return library


def refusal(number: int, needs: str, what: str) -> str:
    """Return why the kernel refuses a program, and how to permit it."""
    if number in (errno.EPERM, errno.EACCES):
        own = effective_capabilities()
        missing = [name for name in _CAPABILITIES if name not in own]
        if len(missing) > 1:
            return (
                f"the capabilities {' and '.join(missing)} are missing: grant them to the agent,"
                " or run it as root"
            )
        if missing:
            return (
                f"the capability {missing[0]} is missing: grant it to the agent, or run it as root"
            )
        if reason := locked_memory_refusal(os.uname().release, *resource.getrlimit(_MEMLOCK)):
            return reason
        return (
            "bpf(2) is forbidden though the capabilities are there: by the runtime's seccomp"
            " profile (update the runtime, or give the pod a profile that permits bpf), or by"
            " kernel lockdown"
        )
    reason = os.strerror(number) if number else "unknown"
    return f"this kernel refused the {what}, which needs {needs} or later: {reason}"


def locked_memory_refusal(release: str, limit_bytes: int, hard_limit_bytes: int) -> str:
    """Return why a kernel may refuse BPF by the limit on locked memory; empty if it cannot.

    Before Linux 5.11 all programs and maps of root, also systemd's and runtimes', count as locked
    memory. libbpf raises the soft limit where the hard one or SYS_RESOURCE permits it.
    """
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is None or tuple(map(int, version.groups())) >= (5, 11):
        return ""
    if resource.RLIM_INFINITY in (limit_bytes, hard_limit_bytes):
        return ""
    return (
        f"bpf(2) is forbidden, probably because Linux {version[0]} counts all BPF of root as locked"
        f" memory, limited to {limit_bytes // 1024} KiB here: set LimitMEMLOCK=infinity in the unit"
        " of the container runtime, or in the agent's own"
    )
