"""``python -m tests.soak [--minutes 5] [--seed N]``: the agent among all that can go wrong."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from benchmarks.table import machine
from tests.soak.chaos import Limits, Outcome, Soak

_FORMS = {"node": 80, "cluster": 128}
"""By itself and in a cluster: MiB that its cgroup may have, children and page cache included."""


def main() -> int:
    """0 if the agent kept all that it promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of each form")
    parser.add_argument("--form", choices=[*_FORMS, "both"], default="both")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds from tick to tick")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--log", type=Path, help="where the agents' logs are kept")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("a soak makes cgroups and limits the agent: run it as root")
    print(f"{machine()}; {chosen.minutes:g} minutes, seed {chosen.seed}", flush=True)
    forms = [form for form in _FORMS if chosen.form in (form, "both")]
    broken = [form for form in forms if not _has_kept(chosen, form)]
    if broken:
        print(f"\nto repeat it: make soak ARGS='--minutes {chosen.minutes:g} --seed {chosen.seed}'")
    return 1 if broken else 0


def _has_kept(chosen: argparse.Namespace, form: str) -> bool:
    """Return True if the agent kept all that it promises."""
    in_cluster = form == "cluster"
    limits = Limits(memory_mib=_FORMS[form])
    print(f"\n{form}, {limits}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(
            Path(name),
            seed=chosen.seed,
            interval_s=chosen.interval,
            limits=limits,
            in_cluster=in_cluster,
        )
        try:
            outcome = soak.run(chosen.minutes * 60)
        except Exception:  # noqa: BLE001 - told with the seed, and the other form has its turn
            traceback.print_exc()
            print(f"BROKE OFF (seed {chosen.seed})", flush=True)
            return False
        finally:
            if chosen.log is not None:
                shutil.copy(Path(name) / "log", f"{chosen.log}-{form}")
    print_outcome(outcome)
    broken = outcome.broken_promises(in_cluster=in_cluster)
    for promise in broken:
        print(f"BROKEN (seed {chosen.seed}): {promise}")
    if not broken:
        print("kept all that it promises", flush=True)
    return not broken


def print_outcome(outcome: Outcome) -> None:
    """A table of what happened, and the agent's own counters."""
    planted = outcome.planted
    print(f"ticks                     {outcome.ticks}")
    print(f"miners planted, missed    {len(planted) + len(outcome.missed)}, {len(outcome.missed)}")
    if planted:
        by_ticks = Counter(each.ticks for each in planted)
        counts = ", ".join(f"{ticks}: {count}" for ticks, count in sorted(by_ticks.items()))
        print(f"ticks ended until told    {counts}")
        seconds = [each.seconds for each in planted]
        median, longest = statistics.median(seconds), max(seconds)
        print(f"seconds until told        {median:.2f}, at most {longest:.2f}")
    print(f"resident, agent alone     {outcome.peak_resident_mib:.1f} MiB at most")
    print(f"charged to its cgroup     {outcome.peak_memory_mib:.1f} MiB at most")
    print(f"killed for want of memory {outcome.out_of_memory_kills}")
    print(f"periods throttled         {outcome.throttled_periods}")
    print(f"clock off by              {outcome.clock_off_s:.0f} s at most")
    print(f"liveness probes failed    {outcome.kubelet_failures} in a row at most")
    print(f"exit status               {outcome.exit_status}")
    done = ", ".join(f"{name} {count}" for name, count in outcome.done.items())
    print(f"done to it                {done}")
    for name, value in outcome.counted.items():
        print(f"  {name} {value:g}")


if __name__ == "__main__":
    sys.exit(main())
