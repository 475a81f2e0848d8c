"""What the deep probes say of ordinary programs, and of RandomX; all at once, in one run.

    python -m benchmarks.innocents [--seconds 90]

Runs each program that is there for the whole time, with everything it forks a suspect, and prints
what was seen of it: samples, rounding modes, shares, YARA rules, and the rules that held.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.orphan import Orphan
from minerwatch.config.schema import BUILT_IN_RULES, Config
from minerwatch.config.schema import Probes as Settings
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Facts, ProcessId, Signal
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.probes.base import Suspect
from minerwatch.probes.registry import Probes

LOOK_EVERY_S = 5.0
DEEP = (Signal.COMPUTE, Signal.CONTENT)

_C = {
    "two rounding modes": """
#include <fenv.h>
int main(void) {
  volatile double x = 1.0;
  for (;;) {
    fesetround(FE_DOWNWARD);
    for (int i = 0; i < 100000; i++) x = x / 3 + 1;
    fesetround(FE_UPWARD);
    for (int i = 0; i < 100000; i++) x = x / 3 + 1;
  }
}
""",
    "three rounding modes": """
#include <fenv.h>
int main(void) {
  static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD};
  volatile double x = 1.0;
  for (unsigned n = 0;; n++) {
    fesetround(modes[n % 3]);
    for (int i = 0; i < 100000; i++) x = x / 3 + 1;
  }
}
""",
    "a rounding mode held": """
#include <fenv.h>
int main(void) {
  volatile double x = 1.0;
  fesetround(FE_TOWARDZERO);
  for (;;) x = x / 3 + 1;
}
""",
    "-ffast-math": """
int main(void) {
  volatile double x = 1.0;
  for (;;) x = x / 3 + 1e-310;
}
""",
}

_MANY_FUNCTIONS = "\n".join(
    f"double f{n}(double x, int n) {{ while (n--) x = x * {n}.5 + n / (x + {n}); return x; }}"
    for n in range(20_000)
)
"""A source that keeps a compiler busy for some seconds."""

_PYTHON = {
    "numpy matrix products": (
        "numpy",
        "import numpy\na = numpy.random.rand(600, 600)\nwhile True: a = a @ a / 600",
    ),
    "mpmath intervals": (
        "mpmath",
        "from mpmath import iv\nx = iv.mpf([1, 1.5])\nwhile True: x = iv.sin(x) + iv.mpf(1) / 3",
    ),
    "python-flint balls": (
        "flint",
        "from flint import arb\nx = arb(1)\nwhile True: x = (x.sin() + arb(1) / 3)",
    ),
    "a Python loop": ("sys", "x = 1.0\nwhile True: x = x / 3 + 1"),
}

_SHELL = {
    "a C compiler": ("cc", 'while :; do cc -O2 -o "$0.out" "$0.c"; done'),
    "openssl speed": ("openssl", "while :; do openssl speed -seconds 5 >/dev/null 2>&1; done"),
    "zstd": ("zstd", "zstd --ultra -19 -T1 -c </dev/urandom >/dev/null"),
    "xz": ("xz", "xz -9e -c </dev/urandom >/dev/null"),
    "stress-ng float": ("stress-ng", "exec stress-ng --cpu 1 --cpu-method float -q"),
    "stress-ng matrix": ("stress-ng", "exec stress-ng --matrix 1 -q"),
    "stress-ng fp": ("stress-ng", "exec stress-ng --fp 1 -q"),
    "node": ("node", "exec node -e 'let x = 1; for (;;) x = x / 3 + Math.sin(x)'"),
    "x264": (
        "x264",
        "while :; do x264 --demuxer raw --input-res 640x360 -o /dev/null /dev/urandom; done",
    ),
}

TARGET = Path(__file__).parent.parent / "tests" / "targets" / "randomx_hashing.py"


@dataclass(frozen=True, slots=True)
class Workload:
    """A program that burns CPU until it is killed."""

    name: str
    command: tuple[str, ...]
    is_randomx: bool = False


@dataclass(slots=True)
class Seen:
    """What the probes saw of a workload's processes."""

    workload: Workload
    cpu_s: dict[tuple[int, int], float] = field(default_factory=dict)  # of each process
    modes: int = 0
    rounding_share: float = 0.0
    flush_to_zero_share: float = 0.0
    content: set[str] = field(default_factory=set)
    findings: dict[str, tuple[Signal, float]] = field(default_factory=dict)
    """Titles of compute and content rules that held, with their scores."""


def main() -> None:
    """Runs all that is there and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here, missing = workloads(Path(folder))
        seen = observe(here, arguments.seconds)
    print(f"{arguments.seconds:g} s each, all at once\n")
    print(f"{'program':26} {'CPU s':>6} modes  other than nearest  flush  highest scores")
    for each in seen:
        cpu_s = sum(each.cpu_s.values())
        print(
            f"{each.workload.name:26} {cpu_s:6.1f} {each.modes:5} {each.rounding_share:19.2f}"
            f" {each.flush_to_zero_share:6.2f}  {_highest(each) or '-'}"
        )
    if missing:
        print(f"\nnot here: {', '.join(missing)}")


def _highest(seen: Seen) -> str:
    scores: dict[Signal, float] = {}
    for signal, score in seen.findings.values():
        scores[signal] = max(score, scores.get(signal, 0.0))
    return ", ".join(f"{signal.value} {score:g}" for signal, score in sorted(scores.items()))


def workloads(folder: Path) -> tuple[list[Workload], list[str]]:
    """Those that can run here, and the names of those that cannot."""
    (folder / "long.c").write_text("int main(void) { return 0; }\n" + _MANY_FUNCTIONS)
    found: list[Workload] = []
    missing: list[str] = []
    for name, source in _C.items():
        if shutil.which("cc") is None:
            missing.append(name)
            continue
        program = folder / name.replace(" ", "_").strip("-")
        program.with_suffix(".c").write_text(source)
        fast = ["-Ofast"] if "fast" in name else ["-O1", "-frounding-math"]
        command = ["cc", *fast, "-o", str(program), f"{program}.c", "-lm"]
        subprocess.run(command, check=True)
        found.append(Workload(name, (str(program),)))
    for name, (module, source) in _PYTHON.items():
        if find_spec(module) is None:
            missing.append(name)
        else:
            found.append(Workload(name, (sys.executable, "-c", source)))
    for name, (program_name, script) in _SHELL.items():
        if shutil.which(program_name) is None:
            missing.append(name)
        else:
            found.append(Workload(name, ("sh", "-c", script, str(folder / "long"))))
    for threads, how in (("1", ""), ("2", ""), ("1", "nojit"), ("2", "nojit")):
        name = f"RandomX, {threads} thread{'s' * (threads != '1')}{', no JIT' * bool(how)}"
        if find_spec("cyrx") is None:
            missing.append(name)
        else:
            command = [sys.executable, str(TARGET), threads, "1e9", how]
            found.append(Workload(name, tuple(command), is_randomx=True))
    return found, missing


def observe(
    here: Sequence[Workload],
    seconds: float,
    goes_on: Callable[[Sequence[Seen]], bool] = lambda _seen: False,
) -> list[Seen]:
    """Run ``here`` for ``seconds``, and while ``goes_on``, all at once; return what was seen.

    Raises SourceUnavailableError where there is no task iterator.
    """
    book = rulebook.load((BUILT_IN_RULES,))
    with ExitStack() as stack:
        probes = stack.enter_context(_opened(book))
        running = [
            (Seen(each), psutil.Process(stack.enter_context(Orphan(each.command)).pid))
            for each in here
        ]
        matcher = Matcher(book.rules)
        ends_s = time.monotonic() + seconds
        looked_s = 0.0
        seen = [each for each, _ in running]
        while (now_s := time.monotonic()) < ends_s or goes_on(seen):
            if now_s - looked_s >= LOOK_EVERY_S:
                looked_s = now_s
                _look(probes, running, matcher, now_s)
            if probes.wants_samples:
                probes.sample(now_s)
            time.sleep(0.5)
        _look(probes, running, matcher, time.monotonic())
    return seen


class _Opened:
    """Probes, opened as the agent opens them."""

    def __init__(self, probes: Probes, tasks: TaskIterator) -> None:
        self._probes, self._tasks = probes, tasks

    def __enter__(self) -> Probes:
        return self._probes

    def __exit__(self, *_: object) -> None:
        self._probes.close()
        self._tasks.close()


def _opened(book: RuleBook) -> _Opened:
    tasks = TaskIterator()
    settings = Settings(connections=False)
    return _Opened(Probes(Config(probes=settings), content_rules=book.content, tasks=tasks), tasks)


def _look(
    probes: Probes,
    running: Sequence[tuple[Seen, psutil.Process]],
    matcher: Matcher,
    at_s: float,
) -> None:
    families = [(seen, list(_family(seen, root))) for seen, root in running]
    suspects = [
        Suspect(process, 0, is_for_all_probes=True) for _, family in families for process in family
    ]
    probes.examine(suspects, at_s)
    for seen, family in families:
        for process in family:
            _note(seen, probes.facts(process), matcher)


def _family(seen: Seen, root: psutil.Process) -> Iterator[ProcessId]:
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            if times.user + times.system < 0.05:
                continue
            stat = Path(f"/proc/{process.pid}/stat").read_bytes()
            start_ticks = int(stat.rpartition(b")")[2].split()[19])
        except (psutil.Error, OSError):
            continue
        seen.cpu_s[process.pid, start_ticks] = times.user + times.system
        yield ProcessId(process.pid, start_ticks)


def _note(seen: Seen, facts: Facts, matcher: Matcher) -> None:
    seen.modes = max(seen.modes, int(_number(facts, "RoundingModes")))
    seen.rounding_share = max(seen.rounding_share, _number(facts, "RoundingShare"))
    seen.flush_to_zero_share = max(seen.flush_to_zero_share, _number(facts, "FlushToZeroShare"))
    content = facts.get("ContentMatches")
    if isinstance(content, tuple):
        seen.content.update(content)
    seen.findings.update(
        (match.rule.title, (match.rule.signal, match.rule.score))
        for match in matcher.matches(facts)
        if match.rule.signal in DEEP
    )


def _number(facts: Facts, name: str) -> float:
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


if __name__ == "__main__":
    try:
        main()
    except SourceUnavailableError as error:
        sys.exit(str(error))
