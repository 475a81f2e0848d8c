"""What programs execute, and which rules hold on it: hash functions, RandomX, ordinary work.

    python -m benchmarks.executed_code [--samples 300] [--only PATTERN] [--write]

Runs three programs at a time (root), samples them five times as often as the agent does, and counts
each on its own. ``--write`` puts the table into docs/detection.md; with ``--only`` other rows stay.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.computing import Computing, computing, start
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ContainerKey, Facts, ProcessId, Signal
from minerwatch.node.executed_code import copying_sampler
from minerwatch.node.hot_code import HotCodeReader
from minerwatch.probes.code_schedule import Place
from minerwatch.probes.executed_code import ExecutedCode
from minerwatch.probes.hot_code import HotCode

BEGIN = "<!-- begin: python -m benchmarks.executed_code --write -->"
END = "<!-- end -->"
PAGE = Path(__file__).parents[1] / "docs" / "detection.md"
_HZ = 97.0
_AT_ONCE = 3
_LIMIT_S = 900.0
_MIN_SCORE = 15.0
"""Rules below only explain."""
_START_S, _START_CPU_S = 30.0, 10.0
"""For so long, and so much CPU time, it is not looked at: it imports, reads and compiles."""
_RANDOMX_S = 90.0
"""It fills its cache by Argon2 first."""
_NAMED_S = 90.0
"""For so long the code that runs hot may remain without a name."""
_COLUMNS = {
    "HashCodeShare": "hash code",
    "MixingCodeShare": "mixing",
    "FloatCodeShare": "float",
    "PairConversionShare": "pairs",
    "VectorCodeShare": "vector",
    "AnonymousCodeShare": "anonymous",
    "KernelCpuShare": "kernel",
}


@dataclass(slots=True)
class Running:
    """A program that runs, and the processes that it has started so far."""

    program: Computing
    process: subprocess.Popen[bytes]
    container: ContainerKey
    started_s: float = field(default_factory=time.monotonic)
    pids: set[int] = field(default_factory=set)

    def update(self) -> None:
        """Add the processes that it has started since."""
        self.pids.add(self.process.pid)
        with suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            self.pids.update(child.pid for child in root.children(recursive=True))

    @property
    def has_begun(self) -> bool:
        """Return True if it probably computes what is to be seen; its output says so, if kept."""
        if self.program.output is not None and self.program.kind == "randomx":
            return self.program.output.stat().st_size > 0
        return time.monotonic() - self.started_s >= _START_S and self._cpu_s() >= _START_CPU_S

    def _cpu_s(self) -> float:
        used_s = 0.0
        for pid in self.pids:
            with suppress(psutil.Error):
                used_s += sum(
                    psutil.Process(pid).cpu_times()[:4]
                )  # with children that it waited for
        return used_s

    def end(self) -> None:
        """Kill all of them."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Table:
    """Runs programs and keeps the facts about each."""

    def __init__(self, programs: Sequence[Computing], samples: int, hot: HotCode) -> None:
        self.facts: dict[str, Facts] = {}
        self._hot = hot
        self._waiting = [*programs]
        self._running: list[Running] = []
        self._samples = samples

    def fill(self) -> None:
        """Run all. Raises SourceUnavailableError."""
        code = ExecutedCode(copying_sampler(_HZ), self, hot=self._hot)
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < _AT_ONCE:
                    self._start(self._waiting.pop(0))
                time.sleep(0.5)
                code.end_tick({running.container for running in self._running})
                for running in [*self._running]:
                    running.update()
                    self._end_if_known(running, code)
        finally:
            for running in self._running:
                running.end()
            code.close()

    def _start(self, program: Computing) -> None:
        key = ContainerKey(program.name, len(self.facts) + len(self._running))
        self._running.append(Running(program, start(program), key))

    def _end_if_known(self, running: Running, code: ExecutedCode) -> None:
        ran_s = time.monotonic() - running.started_s
        starts_slowly = running.program.kind == "randomx" and ran_s < _RANDOMX_S
        is_known = code.samples_of(running.container) >= self._samples and not starts_slowly
        if not self._hot.facts(running.container):
            is_known = is_known and ran_s >= _NAMED_S
        if not is_known and ran_s < _LIMIT_S:
            return
        self.facts[running.program.name] = code.facts(running.container)
        running.end()
        self._running.remove(running)
        print(f"{running.program.name}: {dict(self.facts[running.program.name])}", file=sys.stderr)

    def locate(self, pid: int) -> Place | None:
        """Return the program that a process belongs to."""
        for running in self._running:
            if pid in running.pids and running.has_begun:
                with suppress(OSError, IndexError):
                    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
                    start_ticks = int(stat.rpartition(")")[2].split()[19])
                    return Place(ProcessId(pid, start_ticks), running.container, pid)
        return None

    def relatives(self, cgroup: int) -> list[Place]:
        """Return nothing: all programs run in one cgroup."""
        del cgroup
        return []


def markdown(programs: Iterable[Computing], facts: dict[str, Facts]) -> str:
    """Return the table; shares are in per cent."""
    matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
    heads = ["program", "kind", *_COLUMNS.values(), "pages", "MB moved a CPU second"]
    heads += ["named", "rules"]
    lines = [
        f"| {' | '.join(heads)} |",
        f"| --- | --- |{' ---: |' * (len(_COLUMNS) + 2)} --- | --- |",
    ]
    for program in programs:
        own = facts.get(program.name, {})
        shares = [per_cent(own.get(name)) for name in _COLUMNS]
        moved = own.get("IoBytesPerCpuSecond")
        cells = [
            *(program.name, program.kind, *shares, str(own.get("HotCodePages", ""))),
            f"{moved / 1e6:.2f}" if isinstance(moved, float) else "",
            named(own),
            "; ".join(computes(matcher, own)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def named(facts: Facts) -> str:
    """Return what the code that runs hot was recognised as."""
    names = facts.get("ContentInHotCode", ())
    return ", ".join(names) if isinstance(names, tuple) else ""


def computes(matcher: Matcher, facts: Facts) -> list[str]:
    """Return the rules on what is computed that hold, with their scores."""
    return [
        f"{match.rule.title} ({match.rule.score:g})"
        for match in matcher.matches(facts)
        if match.rule.signal is Signal.COMPUTE and match.rule.score >= _MIN_SCORE
    ]


def put(begin: str, text: str) -> None:
    """Put a table into the page, after the line ``begin``."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n{END}{after}", encoding="utf-8")


def merged(old: str, new: str) -> str:
    """Return the old table with the rows of the new one."""
    lines = [line for line in (old + new).splitlines() if line.startswith("| ")]
    return "\n".join({line.split("|")[1]: line for line in lines}.values()) + "\n"


def per_cent(value: object) -> str:
    """Return a share as text."""
    return f"{100 * value:.1f}" if isinstance(value, float) else ""


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", default="", help="programs whose names match this")
    parser.add_argument("--write", action="store_true", help="into docs/detection.md")
    options = parser.parse_args()
    programs, missing = computing()
    programs = [each for each in programs if re.search(options.only, each.name)]
    content = rulebook.load((BUILT_IN_RULES,)).content
    table = Table(programs, options.samples, HotCode(HotCodeReader("/proc", content)))
    table.fill()
    text = markdown(programs, table.facts)
    if missing:
        text += f"\nNot here: {', '.join(missing)}.\n"
    publish(BEGIN, text, options)


def publish(begin: str, text: str, options: argparse.Namespace) -> None:
    """Print the table, or write it into the page, where rows that were not asked for stay."""
    if not options.write:
        print(text)
        return
    if options.only:
        text = merged(PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(END)[0], text)
    put(begin, text)


if __name__ == "__main__":
    try:
        main()
    except SourceUnavailableError as error:
        sys.exit(str(error))
