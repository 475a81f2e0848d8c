"""Reads floating-point control words of running threads by ptrace(2), in a process of its own.

The agent runs this file by path and never imports it: whoever traces may be killed at any moment,
and the kernel then lets all that it traced go on. It needs nothing but the interpreter. Questions
and answers are lines of text:

========================================  =====================================================
standard input                            standard output
========================================  =====================================================
..                                        once: ``ready``, or ``refused`` and the reason
``PID START_TICKS PID START_TICKS …``     ``sample PID START_TICKS TID WORD`` for each sample,
..                                        ``failure REASON PID START_TICKS`` for each failure,
..                                        then ``done``
========================================  =====================================================

What keeps others from harm:

- **A thread that waits is never touched.** Some waits, epoll_wait(2) for one, do not go on after a
  stop: the program would see EINTR (signal(7)). So a thread is stopped only while it runs, and only
  if it has not waited once since the question before.
- **Nobody else is stopped.** PTRACE_SEIZE does not stop; from then on the thread's id cannot be
  used again, and it is looked at once more before PTRACE_INTERRUPT. The kernel refuses a thread
  that somebody traces already.
- **Every stop ends.** Each is made by a thread of its own. However that ends, the kernel then lets
  its target go on, also one that has not stopped yet. A signal that was about to be delivered is
  passed on.
- **Stops are short.** That thread runs at real-time priority where it may, for a busy node would
  otherwise let it wait while its target stands still.
- **Nothing is written to a target**: no register, no memory, no option.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

_SEIZE = 0x4206  # include/uapi/linux/ptrace.h
_INTERRUPT = 0x4207
_GETREGSET = 0x4204
_DETACH = 17
_EVENT_STOP = 128
_WALL = 0x40000000  # include/uapi/linux/wait.h
_NT_PRSTATUS = 1  # include/uapi/linux/elf.h
_NT_PRFPREG = 2
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = 0x20080522  # include/uapi/linux/capability.h
_KEPT_CAPABILITIES = 1 << 19 | 1 << 23  # SYS_PTRACE, SYS_NICE

_NOT_A_PROGRAMS = 0x200000 | 0x10 | 0x4000 | 0x4
"""PF_KTHREAD, PF_IO_WORKER, PF_USER_WORKER, PF_EXITING (include/linux/sched.h)."""

_CONTROL_WORDS = {"x86_64": (512, 24), "aarch64": (528, 516)}
"""Size of the register set and where MXCSR (user_fpregs_struct) or FPCR (user_fpsimd_state) is.

A thread in 32-bit mode has another set, of another size.
"""
_X86_RAX = 10 * 8  # user_regs_struct, arch/x86/include/asm/user_64.h
_X86_ORIG_RAX = 15 * 8
_EINTR = 4

_MOST_STOPS = 4  # a question
_MOST_WAIT_S = 0.05
_LONG_S = 0.02
_HUNG_S = 0.25
_MOST_TREAD_S = 0.1  # of real-time priority without a pause; then the kernel ends this process
_MOST_CPU_S = 3  # a question
_MOST_TRIAL_CPU_S = 20  # of the child that the trial stops: it ends by itself if all else fails
_MOST_LISTED = 4096
_MOST_LOOKED_AT = 64
_MOST_KEPT = 16
_MOST_PARENTS = 64
_USUAL_BYTES = 8192
_MOST_BYTES = 1 << 20
_TRIES = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Miss(Exception):  # noqa: N818 - nothing is wrong: there is no sample, and a reason
    """No sample; ``str()`` is the reason in one word."""


def main() -> None:
    """Answers until its input ends."""
    agent = int(sys.argv[1])
    _bound_itself(agent)
    reason = _trial()
    _put(f"refused {reason}" if reason else "ready")
    if reason:
        return
    known: dict[tuple[int, int], _Process] = {}
    for line in sys.stdin:
        numbers = [int(word) for word in line.split()]
        asked = list(zip(numbers[::2], numbers[1::2], strict=True))
        known = {each: known.get(each) or _Process(*each, agent) for each in asked}
        _limit_cpu()
        _answer(list(known.values()))


def _answer(processes: Sequence[_Process]) -> None:
    """Those that were not stopped at the last question come first."""
    stops = 0
    for process in sorted(processes, key=lambda each: each.was_stopped):
        process.was_stopped = False
        said = f"{process.pid} {process.start_ticks}"
        try:
            with process.opened():
                sample = process.look(may_stop=stops < _MOST_STOPS)
            if sample is not None:
                _put(f"sample {said} {sample[0]} {sample[1]}")
        except _Miss as miss:
            _put(f"failure {miss} {said}")
            if str(miss) == "hung":
                os._exit(0)  # the thread that hangs goes with it
        except OSError:
            _put(f"failure gone {said}")
        except (ValueError, IndexError):
            _put(f"failure unreadable {said}")
        stops += process.was_stopped
    _put("done")


def _put(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # each at once: what comes next may hang


# Itself.


def _bound_itself(agent: int) -> None:
    """It goes when the agent does, and may trace and run at once, but nothing else."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != agent:
        sys.exit(1)  # it went before this was asked for
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # it is waited for
    threading.stack_size(256 << 10)
    limits = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_RTTIME, int(_MOST_TREAD_S * 1e6)),
    )
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data):
        return
    kept = [word & _KEPT_CAPABILITIES for word in struct.unpack_from("=2I", data)]
    _libc.capset(header, struct.pack("=6I", *kept, 0, 0, 0, 0))


def _limit_cpu() -> None:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most_s = int(spent.ru_utime + spent.ru_stime) + _MOST_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, resource.RLIM_INFINITY))


def _trial() -> str:
    """Why nobody can be sampled, tried on a child of its own; "" where nothing speaks against it.

    On a busy node that child may not be stopped in time: that says nothing.
    """
    if platform.machine() not in _CONTROL_WORDS:
        return "machine"
    sampler = os.getpid()
    child = os.fork()
    if child == 0:
        _spin(sampler)
    folder = os.open(f"/proc/{child}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(_TRIES):
            try:
                _in_a_thread(_Stop(folder, child))
            except _Miss as miss:
                if str(miss) in ("refused", "other_registers"):
                    return str(miss)
            else:
                break
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        os.close(folder)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return ""


def _spin(sampler: int) -> None:
    """Runs until it is killed, by whoever forked it or as that goes."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != sampler:
        os._exit(1)  # it went before this was asked for: nobody would end this loop
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_TRIAL_CPU_S, _MOST_TRIAL_CPU_S))
    while True:
        pass


# Processes and threads.


class _Thread:
    """What the kernel says of a thread now."""

    def __init__(self, stat: bytes, status: bytes) -> None:
        fields = stat.rpartition(b")")[2].split()
        self.state = fields[0]
        self.parent = int(fields[1])
        self.flags = int(fields[6])
        self.start_ticks = int(fields[19])
        self.tracer = _number(status, b"TracerPid")
        self.waits = _number(status, b"voluntary_ctxt_switches")

    @property
    def is_running(self) -> bool:
        """On a CPU, or ready for one; a thread that waits or stands still is neither."""
        return self.state == b"R" and self.tracer == 0 and not self.flags & _NOT_A_PROGRAMS


def _number(status: bytes, name: bytes) -> int:
    return int(status.partition(b"\n" + name + b":")[2].split(None, 1)[0])


class _Process:
    """A process that the agent asks for, from question to question."""

    def __init__(self, pid: int, start_ticks: int, agent: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.was_stopped = False
        self._agent = agent
        self._is_exempt: bool | None = None
        self._ran: dict[int, tuple[int, int]] = {}  # thread that ran -> start ticks, waits
        self._folder = -1

    @contextmanager
    def opened(self) -> Iterator[None]:
        """With its folder open, which stays its own, whoever bears the pid later."""
        self._folder = os.open(f"/proc/{self.pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield
        finally:
            os.close(self._folder)

    def look(self, *, may_stop: bool) -> tuple[int, int] | None:
        """A thread and its control word; None at the first look. Raises _Miss and OSError."""
        leader = self._thread(self.pid)
        if leader.start_ticks != self.start_ticks:
            raise _Miss("gone")
        if self._is_exempt is None:
            self._is_exempt = self._exempt(leader)
        if self._is_exempt:
            raise _Miss("exempt")
        if leader.tracer:
            raise _Miss("traced")
        is_first = not self._ran
        before, self._ran = self._ran, {}
        steady = [tid for tid, noted in before.items() if self._note(tid) == noted]
        self._note_others()
        if not may_stop or is_first:
            return None
        if not steady:
            raise _Miss("waits")
        tid = random.choice(steady)  # noqa: S311
        self.was_stopped = True
        try:
            return tid, _in_a_thread(_Stop(self._folder, tid, before[tid]))
        finally:
            self._note(tid)  # the stop counts as a wait

    def _note(self, tid: int) -> tuple[int, int] | None:
        """When a thread that runs now began and how often it has waited; it is kept in mind."""
        with suppress(OSError):
            thread = self._thread(tid)
            if thread.is_running:
                self._ran[tid] = (thread.start_ticks, thread.waits)
        return self._ran.get(tid)

    def _note_others(self) -> None:
        """Some more threads that run now, by chance, for the next question."""
        folder = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._folder)
        try:
            with os.scandir(folder) as entries:
                listed = [int(entry.name) for entry in islice(entries, _MOST_LISTED)]
        finally:
            os.close(folder)
        for tid in random.sample(listed, min(len(listed), _MOST_LOOKED_AT)):
            if len(self._ran) >= _MOST_KEPT:
                break
            if tid not in self._ran:
                self._note(tid)

    def _thread(self, tid: int) -> _Thread:
        return _Thread(
            *(_content(self._folder, f"task/{tid}/{name}") for name in ("stat", "status"))
        )

    def _exempt(self, leader: _Thread) -> bool:
        """The first process, the kernel's own, the agent, and whatever the agent has started."""
        if self.pid == 1 or leader.flags & _NOT_A_PROGRAMS:
            return True
        pid, parent = self.pid, leader.parent
        for _ in range(_MOST_PARENTS):
            if self._agent in (pid, parent):
                return True
            if parent <= 1:
                return False
            try:
                with open(f"/proc/{parent}/stat", "rb", buffering=0) as file:  # noqa: PTH123
                    pid, parent = parent, int(file.read(4096).rpartition(b")")[2].split()[1])
            except OSError:  # the parent has just ended; by the next question there is another
                raise _Miss("waits") from None
        return True


def _content(folder: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return _whole(fd)
    finally:
        os.close(fd)


def _whole(fd: int) -> bytes:
    """What a file of /proc says now; a process with 65,536 groups has 700 KiB of status."""
    content = os.pread(fd, _USUAL_BYTES, 0)
    return content if len(content) < _USUAL_BYTES else os.pread(fd, _MOST_BYTES, 0)


# One stop.


class _Stop:
    """Stops one thread for as long as it takes to read a word."""

    def __init__(self, folder: int, tid: int, noted: tuple[int, int] | None = None) -> None:
        """``noted``: start and waits, which must still be so; None: of a child of its own."""
        self._folder = folder
        self._tid = tid
        self._noted = noted
        self._registers = ctypes.create_string_buffer(1024)
        self._vector = _Vector(ctypes.addressof(self._registers), 1024)

    def word(self) -> int:
        """The control word. Raises _Miss and OSError."""
        names = ("stat", "status", "schedstat")
        files = {name: self._opened(f"task/{self._tid}/{name}") for name in names}
        try:
            _hurry()
            if self._ptrace(_SEIZE):
                raise _Miss("refused" if os.path.exists(f"/proc/{self._tid}") else "gone")  # noqa: PTH110
            queued_s = _queued_s(files["schedstat"])
            if not self._is_as_noted(files["status"], files["stat"]):
                raise _Miss("waits")
            return self._word_at_the_stop(files["schedstat"], queued_s)
        finally:
            for fd in files.values():
                os.close(fd)

    def _is_as_noted(self, status: int, stat: int) -> bool:
        """What is asked last counts: between it and the stop lie some microseconds."""
        waits = _number(_whole(status), b"voluntary_ctxt_switches")
        rest = os.pread(stat, 4096, 0).rpartition(b")")[2]
        if not rest.startswith(b" R "):
            return False
        return self._noted is None or self._noted == (int(rest.split()[19]), waits)

    def _word_at_the_stop(self, schedstat: int, queued_s: float) -> int:
        began_s = time.monotonic()
        if self._ptrace(_INTERRUPT):
            raise _Miss("gone")
        passed_on = self._wait_for_stop(began_s + _MOST_WAIT_S)
        try:
            size, at = _CONTROL_WORDS[platform.machine()]
            found = self._set_of(_NT_PRFPREG)
            word = int.from_bytes(found[at : at + 4], sys.byteorder)
            is_cut_short = self._is_cut_short()
        finally:
            self._ptrace(_DETACH, data=passed_on)
        # What is not waiting for a CPU is standing still for our sake.
        held_s = time.monotonic() - began_s - (_queued_s(schedstat) - queued_s)
        if is_cut_short:
            raise _Miss("interrupted")
        if held_s > _LONG_S:
            raise _Miss("slow")
        if len(found) != size:
            raise _Miss("other_registers")
        return word

    def _wait_for_stop(self, until_s: float) -> int:
        """The signal that the stop held up, to be passed on; 0 for none."""
        while True:
            pid, status = os.waitpid(self._tid, os.WNOHANG | _WALL)
            if pid and not os.WIFSTOPPED(status):
                raise _Miss("gone")
            if pid:
                # A stop for an event, also for a group's stop, holds no signal up (ptrace(2)).
                return 0 if status >> 16 else os.WSTOPSIG(status)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise _Miss("not_stopped")
            signal.sigtimedwait([signal.SIGCHLD], left_s)

    def _is_cut_short(self) -> bool:
        """Whether the stop ended a system call that does not go on by itself.

        On arm64 the kernel has hidden by then that there was a call (arch/arm64/kernel/signal.c).
        """
        if platform.machine() != "x86_64":
            return False
        found = self._set_of(_NT_PRSTATUS)
        result = int.from_bytes(found[_X86_RAX : _X86_RAX + 8], sys.byteorder, signed=True)
        call = int.from_bytes(found[_X86_ORIG_RAX : _X86_ORIG_RAX + 8], sys.byteorder, signed=True)
        return call >= 0 and result == -_EINTR

    def _set_of(self, kind: int) -> bytes:
        self._vector.length = len(self._registers)
        if self._ptrace(_GETREGSET, kind, ctypes.addressof(self._vector)):
            return b""
        return self._registers.raw[: self._vector.length]

    def _ptrace(self, request: int, address: int = 0, data: int = 0) -> int:
        result: int = _libc.ptrace(request, self._tid, address, data)
        return result

    def _opened(self, name: str) -> int:
        return os.open(name, os.O_RDONLY, dir_fd=self._folder)


def _hurry() -> None:
    """The thread that calls this gets a CPU before all others, as far as it is allowed to."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)


def _queued_s(schedstat: int) -> float:
    """How long a thread has been ready and waited for a CPU (sched-stats.rst)."""
    return int(os.pread(schedstat, 256, 0).split()[1]) / 1e9


def _in_a_thread(stop: _Stop) -> int:
    """The word, by a thread that ends, and whose targets the kernel then lets go."""
    words: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            words.append(stop.word())
        except (OSError, ValueError, IndexError, _Miss) as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_HUNG_S)
    if thread.is_alive():
        raise _Miss("hung")
    if errors:
        raise errors[0] if isinstance(errors[0], _Miss | OSError) else _Miss("gone")
    return words[0]


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
    os._exit(0)  # the agent is gone; a usual exit would flush, and fail, once more
