"""Share of the samples of short-lived workers whose code is read, by how often samples are read.

    python -m benchmarks.short_lived      (root; half a minute a row)

Workers hash (hashlib) and are replaced again and again: forked, or programs of their own. With
``once a second`` the pace of the agent is switched off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from minerwatch.model import ContainerKey
from minerwatch.node.executed_code import copying_sampler
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.code_schedule import Pace, Place
from minerwatch.probes.executed_code import ExecutedCode

_SECONDS = 30.0
_HERE = ContainerKey("/here", 1)
_FORKS = """
import hashlib, os, time
while True:
    child = os.fork()
    if child == 0:
        ends = time.process_time() + {life}
        while time.process_time() < ends:
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1000)
        os._exit(0)
    os.waitpid(child, 0)
"""
_PROGRAMS = """
import subprocess
while True:
    subprocess.run(["timeout", "{life}", "openssl", "speed", "-seconds", "9", "sha512"],
                   capture_output=True)
"""


class _Steady(Pace):
    """The usual pause after each read."""

    def pause_s(self, usual_s: float, calm_s: float, cost_s: float, now_s: float) -> float:
        """Return ``usual_s``."""
        del calm_s, cost_s, now_s
        return usual_s


class _Session:
    """Places the processes of one session."""

    def __init__(self, pid: int) -> None:
        self._sid = pid
        self._files = ProcessFiles("/proc", {})

    def locate(self, pid: int) -> Place | None:
        """Return the place of a process of the session."""
        with suppress(OSError):
            if os.getsid(pid) == self._sid and (found := self._files.stat(pid)) is not None:
                return Place(found[0].id, _HERE, "pod")
        return None

    def relatives(self, cgroup: int) -> list[Place]:
        """Return nothing: on a node without v2 no container is found by its id."""
        del cgroup
        return []


def main() -> None:
    """Print one line for each kind of workers."""
    for name, script in (("forks", _FORKS), ("programs", _PROGRAMS)):
        for life in (0.2, 0.05):
            for pace in (_Steady(), Pace()):
                _measure(f"{name} of {life} s", script.format(life=life), pace)


def _measure(name: str, script: str, pace: Pace) -> None:
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as workers:
        session = _Session(workers.pid)
        code = ExecutedCode(copying_sampler(), session, pace=pace)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        children_s = _cpu_s_of_children(workers.pid)
        taken = 0.0
        while time.monotonic() < began_s + _SECONDS:
            time.sleep(1.0)
            taken = max(taken, code.samples_of(_HERE))
            if taken >= 200:
                break
        took_s = time.monotonic() - began_s
        used_s = _cpu_s_of_children(workers.pid) - children_s
        cost = (time.process_time() - began_cpu_s) / took_s
        code.close()
        os.killpg(workers.pid, signal.SIGKILL)
    way = "once a second" if isinstance(pace, _Steady) else "at the agent's pace"
    per_s = taken / used_s if used_s else 0.0
    print(
        f"{name}, {way}: {per_s:.1f} samples read a second of their CPU time,"
        f" {100 / per_s if per_s else float('inf'):.0f} s until 100; cost {cost:.2%} of a core",
        flush=True,
    )


def _cpu_s_of_children(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
