"""How soon a renamed miner is told: real RandomX as ``python3 train.py``, beside the real agent.

    python -m benchmarks.miners [--limit 180]

Needs root and a RandomX binding (pip install cyrx). Each miner runs alone, in a container of its
own, with 1 and 2 threads, with and without its compiler. The
agent has its usual settings. Seconds from the start of the program to the log lines that say
``likely`` and ``confirmed``, and the signals that had spoken by then.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from benchmarks.crowd import TOP, own_container_id, writable_root
from benchmarks.innocents import TARGET
from benchmarks.orphan import Orphan
from benchmarks.table import machine

_WAYS = (("1", ""), ("2", ""), ("1", "nojit"), ("2", "nojit"))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for each miner")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this benchmark makes cgroups and reads others' processes: run it as root")
    print(f"{machine()}\n")
    print(f"{'miner':24} {'likely':>7} {'confirmed':>10}  signals")
    with tempfile.TemporaryDirectory() as folder, _agent(Path(folder)) as log:
        for number, way in enumerate(_WAYS):
            container = own_container_id(number)
            told = _told(log, Path(folder), way, container, arguments.limit)
            threads, how = way
            name = f"{threads} thread{'s' * (threads != '1')}{', no JIT' * bool(how)}"
            print(f"{name:24} {told}", flush=True)


def _told(log: int, folder: Path, way: tuple[str, str], container: str, limit_s: float) -> str:
    cgroup = writable_root() / TOP / "docker" / container
    cgroup.mkdir(parents=True)
    script = folder / "train.py"
    script.write_bytes(TARGET.read_bytes())
    threads, how = way
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    joins = 'echo $$ >"$0/cgroup.procs"; cd "$1"; shift; exec python3 train.py "$@"'
    command = ["sh", "-c", joins, str(cgroup), str(folder), threads, "1e9", how]
    began_unix_s, levels = time.time(), dict[str, float]()
    signals = "-"
    with Orphan(command, environment={**os.environ, "PATH": path}):
        for line in _lines(log, time.monotonic() + limit_s):
            if line.get("event") == "verdict" and line.get("container") == container[:12]:
                at_unix_s = datetime.fromisoformat(str(line["timestamp"])).timestamp()
                levels.setdefault(str(line["level"]), at_unix_s - began_unix_s)
                signals = ", ".join(f"{name} {score:g}" for name, score in line["signals"].items())  # type: ignore[attr-defined]
                if "confirmed" in levels:
                    break
    time.sleep(0.5)
    with suppress(OSError):
        cgroup.rmdir()
    seconds = [f"{levels[each]:.1f}" if each in levels else "-" for each in ("likely", "confirmed")]
    return f"{seconds[0]:>7} {seconds[1]:>10}  {signals}"


def _lines(log: int, until_s: float) -> Iterator[dict[str, object]]:
    rest = b""
    while (left_s := until_s - time.monotonic()) > 0:
        if not select.select([log], [], [], left_s)[0]:
            return
        rest += os.read(log, 1 << 16)
        *whole, rest = rest.split(b"\n")
        yield from map(json.loads, whole)


@contextmanager
def _agent(folder: Path) -> Iterator[int]:
    # So that a hybrid host's agent reads the hierarchy that is written to.
    parent = writable_root() / TOP
    (parent / "docker").mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "minerwatch", "agent", "--no-kubernetes"),
        *("--listen", "127.0.0.1:0", "--socket", str(folder / "agent.sock")),
        *("--log-format", "json"),
    ]
    agent = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert agent.stderr
    try:
        for line in _lines(agent.stderr.fileno(), time.monotonic() + 20):
            if line.get("probe") == "rounding":
                if line["event"] == "probe is off":
                    print(f"not here: {line['reason']}")
                break
        yield agent.stderr.fileno()
    finally:
        agent.terminate()
        agent.wait()
        agent.stderr.close()
        for each in (*parent.glob("docker/*/"), parent / "docker", parent):
            with suppress(OSError):
                each.rmdir()


if __name__ == "__main__":
    main()
