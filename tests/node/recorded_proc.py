"""A folder like /proc whose command lines may hang for real: a FIFO that is not written to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from minerwatch.model import Process
from minerwatch.node.processes import ProcessReader


def stat_line(pid: int, comm: bytes = b"worker", start_ticks: int = 100, code: int = 4096) -> bytes:
    fields = ["S", *["0"] * 49]
    fields[1], fields[17], fields[19], fields[23] = "1", "1", str(start_ticks), str(code)
    return b"%d (%s) %s\n" % (pid, comm, " ".join(fields).encode())


class RecordedProc:
    """A folder like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, command_line: bytes | None = b"worker\0-v\0") -> Path:
        folder = self.root / str(pid)
        (folder / "task").mkdir(parents=True, exist_ok=True)
        (folder / "stat").write_bytes(stat_line(pid))
        (folder / "status").write_text("Name:\tworker\nUid:\t1\t7\t1\t1\nVmRSS:\t  2048 kB\n")
        (folder / "exe").symlink_to("/opt/worker")
        (folder / "cwd").symlink_to("(unreachable)/srv")
        if command_line is None:
            os.mkfifo(folder / "cmdline")
        else:
            (folder / "cmdline").write_bytes(command_line)
        return folder

    def release(self, pid: int, command_line: bytes = b"worker\0released\0") -> None:
        """Let the read that hangs on ``pid``, if any, and all later ones return."""
        fifo = self.root / str(pid) / "cmdline"
        answer = fifo.with_name("cmdline.new")
        answer.write_bytes(command_line)
        old = fifo.with_name("cmdline.old")
        fifo.rename(old)
        answer.rename(fifo)
        descriptor = os.open(old, os.O_RDWR | os.O_NONBLOCK)
        time.sleep(0.05)  # whoever was opening it has it open now, and reads its end
        os.close(descriptor)


def read_one(reader: ProcessReader, pid: int) -> Process:
    return reader.read([pid])[pid]
