"""Runs every measure that takes no more than minutes, and writes one table.

    python -m benchmarks [--to build/bench] [--within 300] [MEASURE…]

Each measure is a process of its own, for memory and garbage of one are not to weigh on another.
What cannot be measured here, fails or finds no time is a row that says so. Writes bench.md and
bench.json, and prints the former. Those that take longer are run by themselves: miners, innocents,
detection, screen.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import Row, Run, as_json, as_markdown, machine, missing, rows_from_json

MEASURES = ("matching", "probes", "pods", "whole", "hot", "scan")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("measures", nargs="*", default=MEASURES, metavar="MEASURE")
    options.add_argument("--to", type=Path, default=Path("build/bench"), help="a folder")
    options.add_argument("--within", type=float, default=300.0, help="seconds, for all of it")
    chosen = options.parse_args()
    began_s = time.monotonic()
    rows: list[Row] = []
    for name in chosen.measures:
        rows += measured(_command(name), name, chosen.within - (time.monotonic() - began_s))
    run = Run(
        machine=machine(),
        command=" ".join(["python -m benchmarks", *chosen.measures])
        if chosen.measures is not MEASURES
        else "make bench",
        load=os.getloadavg()[0],
        took_s=time.monotonic() - began_s,
        rows=tuple(rows),
    )
    chosen.to.mkdir(parents=True, exist_ok=True)
    (chosen.to / "bench.json").write_bytes(as_json(run))
    (chosen.to / "bench.md").write_text(as_markdown(run), encoding="utf-8")
    print(as_markdown(run))


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}", "--json"]


def _heed_interrupts() -> None:
    """Else a measure ignores SIGINT where the shell has started all of it in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def measured(command: Sequence[str], name: str, within_s: float) -> list[Row]:
    """What a measure brings, or a row that says why it brings nothing."""
    if within_s <= 0:
        return [missing(name, "all of it", "there was no time left: run it by itself")]
    print(f"{name} …", file=sys.stderr, flush=True)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    try:
        said, complaint = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that it takes its cgroups away
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        return [missing(name, "all of it", f"took more than {within_s:.0f} s")]
    if process.returncode != 0:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        return [missing(name, "all of it", f"failed: {last or process.returncode}")]
    return rows_from_json(said)


if __name__ == "__main__":
    main()
