"""Memory mappings of suspects.

Reading /proc/PID/smaps (proc_pid_smaps(5)) takes up to 8 ms and the memory lock of the process,
which that process can hold. A thread reads one process at a time; its callers never wait.
Containers take turns. A thread that hangs is left behind until its read returns, and another one
continues. With two left behind in one container, no process of that container is read; with many,
none at all until one returns.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

from minerwatch.model import ProcessId
from minerwatch.node.proc_files import is_alive, living_task_path
from minerwatch.node.question_queue import Question, QueuedReader
from minerwatch.worker import Worker

_MAX_SMAPS_BYTES = 64 << 20
"""Room for the 65,530 mappings that a process may have by default (vm.max_map_count)."""
_PIECE_BYTES = 256 << 10
_LAST_LINE = b"\nVmFlags:"  # of a mapping
_MAX_LEFT = 16
_MAX_LEFT_OF_ONE = 2
_STALLED_S = 10.0
"""A read that takes so long hangs."""
_AVOIDED_S = 1800.0
"""A process that hung a read is skipped for so long; it would hang one thread after another."""

_MAPPING = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) \S+ (\S+) (\d+) *([^\n]*)\n"
    rb"((?:[A-Z]\w*:[^\n]*\n)*)",
    re.MULTILINE,
)
_LIBRARIES = {
    f"lib{stem}".encode(): name
    for name, stems in {
        "cuda": "cuda cudart",
        "hip": "amdhip64 hsa-runtime64",
        "level_zero": "ze_loader",
        "nvml": "nvidia-ml",
        "nvrtc": "nvrtc",
        "opencl": "OpenCL nvidia-opencl amdocl64 igdrcl",
        "cublas": "cublas cublasLt",
        "cudnn": "cudnn",
        "cufft": "cufft hipfft rocfft",
        "curand": "curand hiprand rocrand",
        "cusolver": "cusolver rocsolver",
        "cusparse": "cusparse rocsparse",
        "ggml": "ggml-cuda ggml-hip ggml-vulkan",
        "miopen": "MIOpen",
        "mpi": "mpi",
        "nccl": "nccl rccl",
        "nvcuvid": "nvcuvid",
        "nvenc": "nvidia-encode",
        "onednn": "dnnl mkl_sycl",
        "onnxruntime": "onnxruntime_providers_cuda onnxruntime_providers_rocm",
        "optix": "nvoptix",
        "rocblas": "rocblas hipblas hipblaslt",
        "tensorflow": "tensorflow_framework tensorflow_cc",
        "tensorrt": "nvinfer",
        "torch": "torch_cuda torch_hip",
    }.items()
    for stem in stems.split()
}
"""Libraries by which programs use GPUs: file names before .so, and before a digest of a wheel."""

_RESIDENT = re.compile(rb"^(?:Rss|Private_Hugetlb|Shared_Hugetlb): +(\d{1,18}) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mappings:
    """Sums over the memory mappings of a process, in MiB."""

    jit_mib: float  # anonymous and executable
    largest_anonymous_mib: float  # resident, huge pages counted
    largest_file_mib: float = 0.0  # of a file on a disk, in address space
    gpu_libraries: frozenset[str] = frozenset()  # by the names of files, which anyone can choose

    def joined(self, more: Mappings) -> Mappings:
        """Return the sums over these mappings and others of the same process."""
        return Mappings(
            self.jit_mib + more.jit_mib,
            max(self.largest_anonymous_mib, more.largest_anonymous_mib),
            max(self.largest_file_mib, more.largest_file_mib),
            self.gpu_libraries | more.gpu_libraries,
        )


@dataclass(slots=True, eq=False)
class _Reading:
    """A thread's current read."""

    question: Question | None = None
    since_s: float = 0.0
    is_left: bool = False  # the thread was left behind: its answer is dropped


class MappingReader(QueuedReader[Mappings]):
    """Read mappings below ``proc`` in a thread.

    ``failures`` counts by reason since the start: ``unreadable`` and ``too_large`` files;
    ``timeout``, reads that hang, or were skipped because too many hang in their container;
    ``crowded``, questions refused because their container has too many pending.
    """

    def __init__(
        self,
        proc: str = "/proc",
        *,
        stall_s: float = _STALLED_S,
        max_left: int = _MAX_LEFT,
        max_smaps_bytes: int = _MAX_SMAPS_BYTES,
    ) -> None:
        """``stall_s``: a read that takes so long hangs; ``max_left``: threads left hanging."""
        super().__init__("unreadable", "too_large", "timeout")
        self._proc = proc
        self._stall_s = stall_s
        self._max_left = max_left
        self._max_smaps_bytes = max_smaps_bytes
        self._avoided: dict[ProcessId, float] = {}
        self._left: list[tuple[Worker, Hashable]] = []  # threads, and where they hang
        self._lock = threading.Lock()
        self._start()

    def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
        """Queue a question, unless the process has hung a read lately; False: ask again later."""
        if self._avoided.get(process, 0.0) > time.monotonic():
            return True
        return super().ask(process, owner)

    def answers(self) -> dict[ProcessId, Mappings]:
        """Return the answers since the last call; never wait."""
        found = super().answers()
        self._leave_what_hangs()
        return found

    def _start(self) -> None:
        self._reading = _Reading()
        self._thread = Worker("mappings", partial(self._serve, self._reading)).start()

    def _leave_what_hangs(self) -> None:
        self._left = [each for each in self._left if each[0].is_alive()]
        now_s, reading = time.monotonic(), self._reading
        with self._lock:
            question = reading.question
            is_stalled = question is not None and now_s - reading.since_s >= self._stall_s
            if question is None or not is_stalled or len(self._left) >= self._max_left:
                return
            reading.is_left = True
        self._thread.close()
        self.failures["timeout"] += 1
        self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
        self._avoided[question.process] = now_s + _AVOIDED_S
        self.questions.close(question.process)
        self._left.append((self._thread, question.owner))
        self._start()

    def _serve(self, own: _Reading) -> None:
        while not own.is_left and (question := self.questions.pop()) is not None:
            with self._lock:
                own.question, own.since_s = question, time.monotonic()
            mappings = None
            try:
                mappings = self._read(question)
            finally:
                with self._lock:
                    own.question = None
                    if not own.is_left:
                        self._finish(question.process, mappings)

    def _read(self, question: Question) -> Mappings | None:
        process, owner = question
        if sum(each == owner for _, each in self._left) >= _MAX_LEFT_OF_ONE:
            self.failures["timeout"] += 1
            return None
        try:
            found = self._sums(living_task_path(self._proc, process.pid))
            return found if is_alive(self._proc, process) else None
        except (FileNotFoundError, ProcessLookupError):
            return None
        except Exception:  # noqa: BLE001 - whatever was read, the thread goes on
            self.failures["unreadable"] += 1
            return None

    def _sums(self, task_path: str) -> Mappings:
        """Sum up piece by piece, to bound the agent's memory.

        If a process has more mappings than are read, those that were read count.
        """
        found, rest, size = Mappings(0.0, 0.0), b"", 0
        fd = os.open(f"{self._proc}/{task_path}/smaps", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(fd, _PIECE_BYTES):
                rest += piece
                size += len(piece)
                last = rest.rfind(_LAST_LINE) if len(rest) >= _PIECE_BYTES else -1
                if last >= 0 and (at := rest.find(b"\n", last + 1) + 1):
                    found, rest = found.joined(parse_smaps(rest[:at])), rest[at:]
                if size > self._max_smaps_bytes:
                    self.failures["too_large"] += 1
                    break
        finally:
            os.close(fd)
        return found.joined(parse_smaps(rest))


def parse_smaps(content: bytes) -> Mappings:
    """Sum up the text of /proc/PID/smaps."""
    jit_bytes = 0
    largest_kib = 0
    file_bytes = 0
    libraries = set()
    for match in _MAPPING.finditer(content):
        start, end, rights, _device, inode, name, rest = match.groups()
        if not _is_anonymous(inode, name):
            if inode != b"0":
                file_bytes = max(file_bytes, int(end, 16) - int(start, 16))
                libraries.add(_gpu_library(name))
            continue
        if b"x" in rights:
            jit_bytes += max(0, int(end, 16) - int(start, 16))
        resident_kib = sum(int(number) for number in _RESIDENT.findall(rest))
        largest_kib = max(largest_kib, resident_kib)
    return Mappings(
        jit_bytes / (1 << 20),
        largest_kib / 1024,
        file_bytes / (1 << 20),
        frozenset(filter(None, libraries)),
    )


def _gpu_library(path: bytes) -> str | None:
    stem = path[path.rfind(b"/") + 1 :].partition(b".so")[0]
    return _LIBRARIES.get(stem) or _LIBRARIES.get(stem.rpartition(b"-")[0])


def _is_anonymous(inode: bytes, name: bytes) -> bool:
    """Return True for memory without a file on a disk: huge pages, memfds, shared memory, too."""
    if name.startswith((b"[v", b"[stack")):  # vdso, vvar, vsyscall: the kernel's
        return False
    return inode == b"0" or name.startswith(
        (b"/anon_hugepage", b"/memfd:", b"/dev/zero", b"/dev/shm/", b"/SYSV")
    )
