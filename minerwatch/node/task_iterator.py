"""All tasks of the node in one read: a BPF task iterator, loaded with libbpf through ctypes.

bpf/tasks.bpf.c defines a record. The iterator needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF, Linux
5.8 or later) and the capabilities BPF and PERFMON. Nothing is attached to the kernel and no task
is disturbed: reading the iterator walks the task list (Documentation/bpf/bpf_iterators.rst).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from array import array
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from ctypes import c_char_p, c_int, c_void_p
from heapq import nlargest
from operator import itemgetter
from pathlib import Path
from struct import Struct

from minerwatch.model import FpSample, ProcessId, ProcessStat
from minerwatch.node.capabilities import effective_capabilities
from minerwatch.node.proc_files import decoded

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
RECORD = Struct("=QQQQQQQIIIIIIII16s")
"""As struct record in bpf/tasks.bpf.c."""
_TASK = Struct("=8xQQ32xIII36x")
"""Fields of a record that are read of every task: CPU ns, CPU ns of ended threads, tid, pid, flags.
"""
_PROGRAM = Struct("=8s16x24s40x16s")
"""Fields of a record that change with the process, its program and its name."""
_READ_BYTES = RECORD.size * 1024
_MAX_READS = 4096
_MAX_THREADS = 4096
"""Threads of one process that are returned, as many as without the iterator."""
_MAX_FP_THREADS = 256
"""Threads of one process with their control words: those that have used most CPU."""
_TASKS_PER_PROCESS = 15
"""So many tasks, read with all others, cost as much as reading the tasks of one process alone
(`python -m benchmarks.probes`)."""
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
_MIN_KERNEL = "Linux 5.8"
_CAPABILITIES = ("BPF", "PERFMON")


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


_Record = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, bytes]
"""Start and CPU time in ns, CPU ns of exited threads, addresses of code, stack and arguments, inode
of the cgroup, tid, pid, flags, fp_control, has_fp_control, switches, parent pid, unused, comm."""


class TaskTable:
    """Every process of the node, as one read of the iterator found it.

    Records are parsed on demand: a node has tens of thousands of threads, and few are looked up.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._leaders: dict[int, int] = {}  # pid -> where its record begins
        self._others: dict[int, int] = {}  # pid -> how many threads it has besides the first
        self.cpu_ns: dict[int, int] = {}
        """CPU time of each process, with that of threads that have exited."""
        self._places: dict[int, array[int]] | None = None
        self._programs: dict[int, int] = {}
        for number, (cpu_ns, ended_ns, tid, pid, flags) in enumerate(_TASK.iter_unpack(content)):
            if flags & _PF_KTHREAD:
                continue
            if tid == pid:
                self._leaders[pid] = number * RECORD.size
                cpu_ns += ended_ns
            else:
                self._others[pid] = self._others.get(pid, 0) + 1
            self.cpu_ns[pid] = self.cpu_ns.get(pid, 0) + cpu_ns

    def stat(self, pid: int) -> ProcessStat | None:
        """Return the fields of /proc/PID/stat; None if there is no such process of user space."""
        at = self._leaders.get(pid)
        if at is None:
            return None
        record: _Record = RECORD.unpack_from(self._content, at)
        started_ns, _, _, code, stack, arguments = record[:6]
        return ProcessStat(
            id=ProcessId(pid, started_ns // _NS_PER_TICK),
            parent_pid=record[13],
            comm=decoded(record[15].partition(b"\0")[0]),
            cpu_s=self.cpu_ns[pid] / 1e9,
            threads=1 + self._others.get(pid, 0),
            kernel_thread=False,
            program=(code, stack, arguments),
        )

    def thread_cpu(self, pid: int) -> dict[int, float]:
        """Return the CPU seconds of the threads of ``pid`` that used most; empty if it is gone."""
        at = self._leaders.get(pid)
        if at is None:
            return {}
        places = (at, *self._thread_places().get(pid, ()))
        threads = (_TASK.unpack_from(self._content, place) for place in places)
        busiest = nlargest(_MAX_THREADS, ((cpu_ns, tid) for cpu_ns, _, tid, _, _ in threads))
        return {tid: cpu_ns / 1e9 for cpu_ns, tid in busiest}

    def replaced_since(self, before: TaskTable) -> set[int]:
        """Return the pids with another name, program or process than in ``before``."""
        earlier = before._known_programs()
        programs = self._known_programs()
        return {pid for pid, now in programs.items() if earlier.get(pid, now) != now}

    def forget_tasks(self) -> None:
        """Keep only what a later table is compared with; all lookups then find nothing."""
        self._known_programs()
        self._content = b""
        self._leaders, self._others, self.cpu_ns, self._places = {}, {}, {}, None

    def _known_programs(self) -> dict[int, int]:
        """Return a number of each process that changes with its start, name and program."""
        if not self._programs:
            parse, content = _PROGRAM.unpack_from, self._content
            self._programs = {pid: hash(parse(content, at)) for pid, at in self._leaders.items()}
        return self._programs

    def _thread_places(self) -> dict[int, array[int]]:
        """Return the offsets of records by pid, except those of first threads."""
        if self._places is None:
            self._places = {}
            for number, (_, _, tid, pid, _) in enumerate(_TASK.iter_unpack(self._content)):
                if tid != pid:
                    at = number * RECORD.size
                    self._places.setdefault(pid, array("L")).append(at)
        return self._places


class TasksUnavailableError(Exception):
    """The iterator is unavailable; ``str()`` is one line: the reason, and how to grant it."""


class TaskIterator:
    """Reads all tasks repeatedly; for one thread at a time.

    ``failures`` counts what went wrong since the start, by reason: ``unreadable``.
    ``has_fp_control``: it knows where this kernel keeps floating-point control words.
    """

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        """Load the program into the kernel. Raises TasksUnavailableError."""
        self.failures = {"unreadable": 0}
        self.has_fp_control = False
        self._library = library or load_libbpf()
        self._object: int | None = None
        self._program: int | None = None
        self._link: int | None = None
        self._reads_one_process = False
        self._task_count = 0  # when all were last read
        try:
            self._load(_object_path())
        except TasksUnavailableError:
            self.close()
            raise

    def table(self) -> TaskTable | None:
        """Read every process of the node; return None if that fails."""
        failed = self.failures["unreadable"]
        content = b"".join(self._pieces(self._link))
        table = TaskTable(content)
        self._task_count = len(content) // RECORD.size
        return table if self.failures["unreadable"] == failed else None

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        """Return the control words of the threads of ``processes``, if the kernel shows them.

        Of a process with hundreds of threads, those that have used most CPU: idle threads do not
        hide the ones that hash.
        """
        wanted = {process.pid: process for process in processes}
        found: dict[int, list[_Record]] = {}
        for record in self._records_of(tuple(wanted)):
            tid, pid, _flags, _fp_control, has_fp_control = record[7:12]
            if pid not in wanted or not has_fp_control:
                continue
            if tid == pid and record[0] // _NS_PER_TICK != wanted[pid].start_ticks:
                del wanted[pid]
                continue
            found.setdefault(pid, []).append(record)
        return [
            FpSample(wanted[pid], record[7], record[12], record[10])
            for pid, records in found.items()
            if pid in wanted
            for record in nlargest(_MAX_FP_THREADS, records, key=itemgetter(1))
        ]

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
            reason = os.strerror(ctypes.get_errno())
            raise TasksUnavailableError(f"{path.name} cannot be opened: {reason}")
        self._object = opened
        if library.bpf_object__load(opened):
            raise TasksUnavailableError(_refusal(ctypes.get_errno()))
        self._program = program = library.bpf_object__next_program(opened, None)
        self._link = library.bpf_program__attach_iter(program, None) if program else None
        if not self._link:
            raise TasksUnavailableError(_refusal(ctypes.get_errno()))
        own_pid = os.getpid()
        own = [each for each in self.records() if each[7:9] == (own_pid, own_pid)]
        if not own:
            raise TasksUnavailableError(
                "the agent is not in the host's pid namespace: set hostPID on the agent's pod"
            )
        self.has_fp_control = bool(own[0][11])
        # Kernels before 6.1 refuse, or return all processes.
        pids = {
            record[8] for piece in self._pieces_of(own_pid) for record in RECORD.iter_unpack(piece)
        }
        self._reads_one_process = pids == {own_pid}

    def records(self) -> Iterator[_Record]:
        """Read every thread of the node, the kernel's own included."""
        count = 0
        for piece in self._pieces(self._link):
            count += len(piece) // RECORD.size
            yield from RECORD.iter_unpack(piece)
        self._task_count = count

    def _records_of(self, pids: Collection[int]) -> Iterator[_Record]:
        """Read the records of some processes, and maybe of others, in the cheaper way."""
        if not self._reads_one_process or len(pids) * _TASKS_PER_PROCESS > self._task_count:
            yield from self.records()
            return
        for pid in pids:
            for piece in self._pieces_of(pid):
                yield from RECORD.iter_unpack(piece)

    def _pieces_of(self, pid: int) -> Iterator[bytes]:
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

    def _pieces(self, link: int | None) -> Iterator[bytes]:
        """Yield whole records, as many at once as one read(2) returns."""
        fd = self._library.bpf_iter_create(self._library.bpf_link__fd(link))
        if fd < 0:
            self.failures["unreadable"] += 1
            return
        try:
            for _ in range(_MAX_READS):
                content = os.read(fd, _READ_BYTES)
                if not content:
                    break
                whole = len(content) - len(content) % RECORD.size
                yield content[:whole]
        except OSError:
            self.failures["unreadable"] += 1
        finally:
            os.close(fd)


def _object_path() -> Path:
    machine = platform.machine()
    path = Path(__file__).parent / "bpf" / f"tasks.{machine}.bpf.o"
    if not path.is_file():
        raise TasksUnavailableError(f"there is no task iterator for this machine ({machine})")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        raise TasksUnavailableError(
            f"this kernel has no BTF: it needs {_MIN_KERNEL} or later with CONFIG_DEBUG_INFO_BTF"
        )
    return path


def load_libbpf() -> ctypes.CDLL:
    """Load the library. Raises TasksUnavailableError."""
    for name in _LIBRARIES:
        with suppress(OSError):
            library = ctypes.CDLL(name, use_errno=True)
            break
    else:
        raise TasksUnavailableError("libbpf is missing: install it (Debian: apt install libbpf1)")
    signatures: dict[str, tuple[object, list[object]]] = {
        "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
        "bpf_object__load": (c_int, [c_void_p]),
        "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
        "bpf_object__close": (None, [c_void_p]),
        "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
        "bpf_link__fd": (c_int, [c_void_p]),
        "bpf_link__destroy": (c_int, [c_void_p]),
        "bpf_iter_create": (c_int, [c_int]),
        "libbpf_set_print": (c_void_p, [c_void_p]),
        "libbpf_set_strict_mode": (c_int, [c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            raise TasksUnavailableError(f"libbpf is too old: it has no {name}")
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # it would write to standard error
    library.libbpf_set_strict_mode(0xFFFFFFFF)  # before 1.0: errors are null and errno, as after
    return library


def _refusal(number: int) -> str:
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
        return (
            "bpf(2) is forbidden though the capabilities are there: by the runtime's seccomp"
            " profile (update the runtime, or give the pod a profile that permits bpf), or by"
            " kernel lockdown"
        )
    return f"this kernel refused the task iterator: {os.strerror(number) if number else 'unknown'}"
