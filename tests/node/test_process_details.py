"""Details that psutil reads, of real processes."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from minerwatch.node.process_details import machine_totals, process_details


def test_memory_threads_and_open_files_of_a_process() -> None:
    script = "import sys; kept = bytearray(64 << 20); print(len(kept), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        found = process_details(started.pid, psutil.Process(started.pid).name())
        started.communicate(b"\n")
    assert found is not None
    assert found.memory_bytes is not None
    assert 64 << 20 < found.memory_bytes < 256 << 20
    assert found.threads == 1
    assert found.open_files is not None
    assert found.open_files >= 3


def test_a_process_that_exited_or_is_another_program_has_none() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert process_details(ended.pid, "true") is None
    assert process_details(os.getpid(), "another-name") is None


def test_the_machine_has_cores_and_memory() -> None:
    totals = machine_totals()
    assert totals.cores == os.cpu_count()
    assert 0 < totals.memory_used_bytes < totals.memory_bytes
