"""Parts of both scanners of code: their loop, the bounds of the process, rules of YARA."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import yara_x

MAX_DATA_BYTES = 192 << 20
"""Writable memory (22 MiB are used). Each scanner reserves far more address space."""
_MAX_MATCHES_PER_PATTERN = 4096
_MAX_CPU_S = 20
"""RLIMIT_CPU, in case a scan exceeds its own limit."""


def serve(
    answer: Callable[[dict[str, Any], list[yara_x.Scanner]], object], niceness: int, scan_s: int
) -> NoReturn:
    """Compile the rules of the first line, answer each line after it, and exit with the input."""
    with suppress(BrokenPipeError, StopIteration):
        _bound_itself(niceness)
        lines = iter(sys.stdin.buffer)
        scanners, broken = scanners_of(json.loads(next(lines))["rules"], scan_s)
        put({"broken": broken})
        for line in lines:
            _bound_cpu()
            put(answer(json.loads(line), scanners))
    os._exit(0)  # the agent has exited; an ordinary exit would flush, and fail, once more


def _bound_itself(niceness: int) -> None:
    """Yield the CPU to others, be killed first where memory is short, and do not grow."""
    # Not SCHED_IDLE: where a miner takes all cores, that would get one part in 300 of them.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _bound_cpu() -> None:
    """Bound the CPU time from now on: that of the next answer."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(spent.ru_utime + spent.ru_stime) + _MAX_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))


def put(answer: object) -> None:
    """Write an answer at once: what comes next may hang."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def scanners_of(
    rules: list[list[str]], scan_s: int
) -> tuple[list[yara_x.Scanner], list[tuple[int, int, str]]]:
    """Return a scanner for each file, of its earlier text if it is broken; and what is broken.

    Separate scanners are faster: few patterns are searched ten times faster than many (1 ms for
    4 MiB, not 17).
    """
    broken: list[tuple[int, int, str]] = []
    scanners: list[yara_x.Scanner] = []
    for number, (text, earlier) in enumerate(rules):
        compiled, error = compile_rules(text)
        if error is not None:
            broken.append((number, *error))
            compiled, _ = compile_rules(earlier)
        if compiled is not None:
            scanner = yara_x.Scanner(compiled)
            scanner.max_matches_per_pattern(_MAX_MATCHES_PER_PATTERN)
            scanner.set_timeout(scan_s)
            scanners.append(scanner)
    return scanners, broken


def compile_rules(text: str) -> tuple[yara_x.Rules | None, tuple[int, str] | None]:
    """Return the rules, or line and reason of the first error."""
    compiler = yara_x.Compiler(includes_enabled=False)
    try:
        compiler.add_source(text)
    except yara_x.CompileError as raised:
        errors = compiler.errors()
        if not errors:
            return None, (1, str(raised).partition("\n")[0])
        labels = [label["text"] for label in errors[0]["labels"] if label["text"]]
        return None, (errors[0]["line"], "; ".join((errors[0]["title"], *labels[:1])))
    return compiler.build(), None
