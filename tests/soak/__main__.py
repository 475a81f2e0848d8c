"""``python -m tests.soak [--minutes 5] [--seed N]``: the agent among all that can go wrong."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.scan import machine
from tests.soak.chaos import TOLD_WITHIN_TICKS, Limits, Outcome, Soak


def main() -> int:
    """0 if the agent kept all that it promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds from tick to tick")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--log", type=Path, help="where the agents' logs are kept")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("a soak makes cgroups and limits the agent: run it as root")
    print(f"{machine()}; {chosen.minutes:g} minutes, seed {chosen.seed}", flush=True)
    kept = [_kept(chosen, in_cluster=False), _kept(chosen, in_cluster=True)]
    return 0 if all(kept) else 1


def _kept(chosen: argparse.Namespace, *, in_cluster: bool) -> bool:
    """Whether the agent kept all that it promises."""
    limits = Limits(memory_mib=128 if in_cluster else 80)
    print(f"\n{'in a cluster' if in_cluster else 'by itself'}, {limits}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(
            Path(name),
            seed=chosen.seed,
            interval_s=chosen.interval,
            limits=limits,
            in_cluster=in_cluster,
        )
        try:
            outcome = soak.run(chosen.minutes * 30)
        finally:
            if chosen.log is not None:
                shutil.copy(
                    Path(name) / "log", f"{chosen.log}-{'cluster' if in_cluster else 'node'}"
                )
    _print(outcome)
    late = [each for each in outcome.planted if each.ticks > TOLD_WITHIN_TICKS]
    is_good = not (late or outcome.missed or outcome.faults or outcome.exit_status)
    print("kept all that it promises" if is_good else "BROKE ITS PROMISES")
    return is_good


def _print(outcome: Outcome) -> None:
    planted = outcome.planted
    print(f"ticks                     {outcome.ticks}")
    print(f"miners planted, missed    {len(planted) + len(outcome.missed)}, {len(outcome.missed)}")
    if planted:
        seconds = [each.seconds for each in planted]
        print(f"told within ticks         at most {max(each.ticks for each in planted)}")
        median = statistics.median(seconds)
        print(f"told within seconds       {median:.2f}, {max(seconds):.2f} at most")
    print(f"resident, agent alone     {outcome.peak_resident_mib:.1f} MiB at most")
    print(f"charged to its cgroup     {outcome.peak_memory_mib:.1f} MiB at most")
    print(f"killed for want of memory {outcome.out_of_memory_kills}")
    print(f"periods throttled         {outcome.throttled_periods}")
    print(f"exit status               {outcome.exit_status}")
    for fault in outcome.faults:
        print(f"fault: {fault}")
    for name, value in outcome.counted.items():
        print(f"  {name} {value:g}")


if __name__ == "__main__":
    sys.exit(main())
