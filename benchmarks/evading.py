"""Ways to hide a hash function: what each costs the miner, and whether it hides from executed code.

    python -m benchmarks.evading [--samples 200] [--only PATTERN] [--write]      (root, gcc, cyrx)

Local hashing only. Each way runs until it has that many samples, and code that runs hot is named as
the agent does. Speed is hashes per second of CPU time and of sleep on purpose, in per cent of
``plain``, which has to run, too. ``--write`` puts the table into docs/detection.md; with ``--only``
other rows stay.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.computing import TARGETS, Computing
from benchmarks.executed_code import Table, computes, named, per_cent, publish
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Facts
from minerwatch.node.hot_code import HotCodeReader
from minerwatch.probes.hot_code import HotCode

BEGIN = "<!-- begin: python -m benchmarks.evading --write -->"
_SLEPT = {"yields": 0.01 * 19}
"""Share of the time that a way sleeps."""
_HEADS = (
    *("function, way", "speed", "hash code", "mixing", "float", "pairs", "anonymous", "pages"),
    *("MB moved a CPU second", "named", "rules"),
)
_SHARES = (
    *("HashCodeShare", "MixingCodeShare", "FloatCodeShare", "PairConversionShare"),
    "AnonymousCodeShare",
)
_WAYS = {
    "plain": "plain",
    "floats": "floats between the instructions",
    "copies": "64 copies of the loop",
    "reads": "reads /dev/zero",
    "yields": "sleeps around each sample",
    "unlinked": "code and data in unlinked files",
    "reset": "control word reset before each sleep",
    "interpreted": "without JIT, control word reset",
    "full": "with its whole data set",
    "decoy": "a thread of vectors, for a quarter of its CPU time",
    "masked": "other constants, denormals not flushed",
    "masked-interpreted": "without JIT, control word reset, other constants",
}


def ways(folder: Path) -> Iterator[Computing]:
    """Yield the ways that can be tried here."""
    if shutil.which("gcc") is not None:
        source, program, library = TARGETS / "evading.c", folder / "evading", folder / "evading.so"
        options = ("gcc", "-O2", "-fno-tree-vectorize", str(source), "-o")
        subprocess.run([*options, str(program)], check=True)
        subprocess.run([*options, str(library), "-shared", "-fPIC", "-DLIBRARY"], check=True)
        for function in ("sha256", "blake2b"):
            for way in ("plain", "floats", "copies"):
                yield _way(folder, function, way, str(program), function, way)
            for way in ("reads", "yields"):
                loads = _loading(library, way)
                yield _way(folder, function, way, *loads, str(program), function, "plain")
            copy = (
                f"cp {program} {folder}/{function}; {folder}/{function} {function} plain & sleep 2;"
            )
            unlinks = f"{copy} rm {folder}/{function}; wait"
            yield _way(folder, function, "unlinked", "sh", "-c", unlinks)
        if (binding := find_spec("cyrx._cyrx")) is not None and binding.origin is not None:
            target = (sys.executable, str(TARGETS / "randomx_evading.py"))
            for way in ("plain", "reset", "interpreted", "full"):
                yield _way(folder, "RandomX", way, *target, way, "1e9")
            for way in ("reads", "yields", "unlinked", "decoy"):
                loads = _loading(library, way)
                yield _way(folder, "RandomX", way, *loads, *target, "plain", "1e9")
            other = folder / "masked.so"
            other.write_bytes(masked(Path(binding.origin).read_bytes()))
            for way, shape in {"masked": "plain", "masked-interpreted": "interpreted"}.items():
                uses = ("env", f"RANDOMX_LIBRARY={other}")
                yield _way(folder, "RandomX", way, *uses, *target, shape, "1e9")


def masked(library: bytes) -> bytes:
    """Return the library with other constants than any rule names, and with denormals on.

    It computes another hash, by the same instructions.
    """
    for path in BUILT_IN_RULES.rglob("*.yar"):
        for text in re.findall(r"\{ ((?:[0-9A-F]{2} ){8,})\}", path.read_text()):
            constant = bytes.fromhex(text)
            library = library.replace(constant, bytes(each ^ 0x55 for each in constant))
    return re.sub(rb"(?<=[\x0d\xfc])\xc0\x9f\0\0", b"\xc0\x1f\0\0", library)


def _loading(library: Path, way: str) -> tuple[str, ...]:
    return ("env", f"LD_PRELOAD={library}", f"EVADING={way}")


def _way(folder: Path, function: str, way: str, *command: str) -> Computing:
    kind = "randomx" if function == "RandomX" else "hash"
    return Computing(kind, f"{function}, {way}", command, folder / f"{function}-{way}.out")


def speed(output: str, way: str) -> float | None:
    """Return hashes per second of CPU time and sleep, from the last whole line of the output."""
    for line in reversed(output.splitlines(keepends=True)):
        match = re.fullmatch(r"(\d+) (\d+\.\d{3})\n", line)
        if match and float(match[2]) > 0:
            return int(match[1]) / float(match[2]) * (1 - _SLEPT.get(way, 0.0))
    return None


def markdown(programs: Sequence[Computing], all_facts: Mapping[str, Facts]) -> str:
    """Return the table; shares and speed are in per cent."""
    matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
    lines = [f"| {' | '.join(_HEADS)} |", f"| --- |{' ---: |' * 8} --- | --- |"]
    speeds: dict[str, float | None] = {}
    for program in programs:
        function, _, way = program.name.partition(", ")
        facts = all_facts.get(program.name, {})
        now = speed(program.output.read_text() if program.output else "", way)
        if way == "plain":
            speeds[function] = now
        plain = speeds.get(function)
        moved = facts.get("IoBytesPerCpuSecond")
        cells = [
            f"{function}, {_WAYS[way]}",
            f"{100 * now / plain:.0f}" if now and plain else "",
            *(per_cent(facts.get(name)) for name in _SHARES),
            str(facts.get("HotCodePages", "")),
            f"{moved / 1e6:.2f}" if isinstance(moved, float) else "",
            named(facts),
            "; ".join(computes(matcher, facts)) or "**none**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", default="", help="functions and ways that match this")
    parser.add_argument("--write", action="store_true", help="into docs/detection.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = [each for each in ways(Path(folder)) if re.search(options.only, each.name)]
        book = rulebook.load((BUILT_IN_RULES,))
        table = Table(programs, options.samples, HotCode(HotCodeReader("/proc", book.content)))
        table.fill()
        text = markdown(programs, table.facts)
    publish(BEGIN, text, options)


if __name__ == "__main__":
    try:
        main()
    except SourceUnavailableError as error:
        sys.exit(str(error))
