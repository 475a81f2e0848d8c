"""``make fuzz``: every target for its share of some minutes; what broke is made small and shown.

Guided by coverage where atheris is installed, else by which lines are reached now and then. New
inputs that lead somewhere new stay in build/fuzz/corpus for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.corpus import BUILD
from tests.fuzz.places import in_memory
from tests.fuzz.registry import Target, targets
from tests.fuzz.worker import (
    ATHERIS,
    HUNG_S,
    MUTATION,
    HungError,
    left_behind,
    place_of,
    within,
)

_MIN_S = 2.0
_MINIMISED_S = 20.0
_GRACE_S = 9 * HUNG_S
"""For a busy machine, where what is nice gets one part in a hundred of a core."""
_COVERAGE = re.compile(r"\b(INITED|NEW|REDUCE|RELOAD|pulse|DONE)\s+cov: (\d+)")
_RUNS = re.compile(r"stat::number_of_executed_units: (\d+)")
_ADDED = re.compile(r"stat::new_units_added: +(\d+)")
_ARTIFACT = re.compile(r"(timeout|oom|crash|leak)-[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of fuzzing one target."""

    runs: int
    seconds: float
    coverage: tuple[int, int]  # at first, at last
    added: int  # inputs to the corpus
    finds: tuple[Path, ...]


def main(words: Sequence[str] | None = None) -> int:
    """How many findings there are, as an exit status of 0 or 1."""
    asked = _arguments(words)
    if asked.replay:
        return _replayed(targets()[asked.targets[0]], Path(asked.replay))
    chosen = [targets()[name] for name in asked.targets] or list(targets().values())
    engine = asked.engine or (ATHERIS if find_spec("atheris") else MUTATION)
    seconds = max(_MIN_S, 60 * asked.minutes / len(chosen))
    print(f"{len(chosen)} targets, {seconds:.1f} s each, by {engine}", flush=True)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="minerwatch-fuzz-", dir=in_memory()) as folder:
        for target in chosen:
            result = results[target.name] = _fuzzed(target, seconds, engine, folder)
            print(_line(target, result), flush=True)
    finds = [(name, find) for name, result in results.items() for find in result.finds]
    print(_sum(results, finds))
    for name, find in finds:
        _show(targets()[name], find)
    return 1 if finds else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.campaign", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=" ".join(targets()))
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("--engine", choices=(ATHERIS, MUTATION))
    parser.add_argument("--replay", metavar="FILE", help="try one input on one target")
    asked = parser.parse_args(words)
    unknown = [name for name in asked.targets if name not in targets()]
    if unknown or (asked.replay and len(asked.targets) != 1):
        parser.error(f"no such target: {' '.join(unknown)}" if unknown else "--replay of what?")
    return asked


def _fuzzed(target: Target, seconds: float, engine: str, folder: str) -> Result:
    crashes = BUILD / "crashes" / target.name
    shutil.rmtree(crashes, ignore_errors=True)
    command = [sys.executable, "-m", "tests.fuzz.worker", target.name, str(seconds), engine]
    environment = {**os.environ, "MINERWATCH_FUZZ_FOLDER": folder, "TMPDIR": folder}
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment,
            timeout=seconds + _GRACE_S, check=False,
        )  # fmt: skip
        said, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        said, status = f"not done after {error.timeout:.0f} s", -1
        present = crashes / "present"
        if present.is_file():
            (crashes / "hung").write_bytes(left_behind(present))
    (crashes / "present").unlink(missing_ok=True)
    finds = tuple(sorted(_finds(crashes)))
    if status != 0 and not finds:
        crashes.mkdir(parents=True, exist_ok=True)
        (crashes / "log.txt").write_text(said)
        finds = (crashes / "log.txt",)
    runs, coverage, added = figures(said)
    return Result(runs, time.monotonic() - began_s, coverage, added, finds)


def _finds(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.suffix != ".txt")


def figures(said: str) -> tuple[int, tuple[int, int], int]:
    """Inputs tried, coverage at first and at last, inputs added."""
    with suppress(ValueError, IndexError, KeyError):
        told = json.loads(said.strip().splitlines()[-1])
        return told["runs"], (told["cov_at_first"], told["cov"]), told["added"]
    levels = [int(number) for _, number in _COVERAGE.findall(said)]
    runs, added = _RUNS.search(said), _ADDED.search(said)
    coverage = (levels[0], levels[-1]) if levels else (0, 0)
    return int(runs[1]) if runs else 0, coverage, int(added[1]) if added else 0


def _line(target: Target, result: Result) -> str:
    first, last = result.coverage
    return (
        f"{target.name:20} {result.runs:9,} inputs {result.runs / result.seconds:8,.0f}/s"
        f"  coverage {first:5} -> {last:5}  {result.added:4} kept"
        + (f"  {len(result.finds)} FOUND" if result.finds else "")
    )


def _sum(results: dict[str, Result], finds: Sequence[tuple[str, Path]]) -> str:
    runs = sum(each.runs for each in results.values())
    seconds = sum(each.seconds for each in results.values())
    return f"{runs:,} inputs in {seconds:,.0f} s, {runs / seconds:,.0f}/s; {len(finds)} findings"


# One finding.


def _show(target: Target, find: Path) -> None:
    print(f"\n{target.name}: {find.name}")
    if find.suffix == ".txt":
        print("\n".join(find.read_text(errors="replace").splitlines()[-30:]))
        return
    is_slow = find.name == "hung" or _ARTIFACT.fullmatch(find.name) is not None
    if not is_slow:
        small = minimised(target, find.read_bytes())
        find.write_bytes(small)
        print(f"  {len(small)} bytes: {small[:400]!r}")
        error = _error(target, small)
        if error is not None:
            print(f"  {type(error).__name__}: {ascii(str(error))[:400]}")
    file = os.path.relpath(find)
    print(f"  replay: {Path(sys.executable).parent.name}/python -m tests.fuzz.campaign"
          f" {target.name} --replay {file}")  # fmt: skip
    print(f"  keep it once it is mended: tests/fuzz/corpus/{target.name}/WHAT-IT-IS")


def _error(target: Target, data: bytes) -> BaseException | None:
    try:
        within(HUNG_S, target, data)
    except (Exception, HungError) as error:  # noqa: BLE001 - that is what is asked for
        return error
    return None


def minimised(target: Target, data: bytes, seconds: float = _MINIMISED_S) -> bytes:
    """The smallest input found in some seconds that breaks in the same place."""
    error = _error(target, data)
    if error is None:
        return data
    place, until_s = place_of(error), time.monotonic() + seconds

    def still_breaks(candidate: bytes) -> bool:
        found = _error(target, candidate)
        return found is not None and place_of(found) == place

    size = len(data) // 2
    while size and time.monotonic() < until_s:
        at = 0
        while at < len(data) and time.monotonic() < until_s:
            candidate = data[:at] + data[at + size :]
            if still_breaks(candidate):
                data = candidate
            else:
                at += size
        size //= 2
    return data


def _replayed(target: Target, file: Path) -> int:
    target.run(file.read_bytes())
    print(f"{target.name}: {file} breaks nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
