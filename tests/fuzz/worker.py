"""Fuzzes one target for some seconds: a process of its own, so that it may hang or die.

``python -m tests.fuzz.worker TARGET SECONDS ENGINE``. It imports nothing of minerwatch before
atheris is there to watch which branches are taken. What breaks the contract is kept, once for each
place that it comes from, and the search goes on.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tests.fuzz.registry import Target

ATHERIS, MUTATION = "atheris", "mutation"
HUNG_S = 20
"""An input that takes longer hangs; all take milliseconds."""
_MEMORY_MIB = 2048
_TRACED_EVERY = 8
_OWN_SHARE = 0.5
_SIZE = 8  # bytes that say how long the present input is
_ROOT = Path(__file__).parents[2]
_PLACE = re.compile(r"[^A-Za-z0-9_.-]+")


class HungError(BaseException):
    """An input that hangs; no parser that suppresses errors may keep it."""


def main(name: str, seconds: float, engine: str) -> None:
    """Fuzz until the time is over; the last line of standard output says what came of it."""
    from tests.fuzz.corpus import BUILD

    finds = Finds(BUILD / "crashes" / name)
    if engine == ATHERIS:
        _with_atheris(name, seconds, finds)
    found = _target(name)
    fuzz_with_mutation(found, seconds, finds)


def _target(name: str) -> Target:
    from tests.fuzz.registry import named

    return named(name)


class Finds:
    """Inputs that broke the contract, one for each place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.places: set[str] = set()

    def add(self, data: bytes, error: BaseException) -> None:
        """Keeps ``data``, unless another broke in the same place."""
        place = place_of(error)
        if place in self.places:
            return
        self.places.add(place)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / place).write_bytes(data)
        told = "".join(traceback.format_exception(error))
        (self._folder / f"{place}.txt").write_text(told, encoding="utf-8", errors="replace")


def place_of(error: BaseException) -> str:
    """Kind of the error and where it comes from: the last function of the project, and its line."""
    last = "nowhere"
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and ".venv" not in path.parts:
            last = f"{path.stem}.{frame.f_code.co_name}.{line}"
    return _PLACE.sub("", f"{type(error).__name__}-{last}")


def _with_atheris(name: str, seconds: float, finds: Finds) -> NoReturn:
    import atheris

    from tests.fuzz.corpus import BUILD, FOLDER, kept
    from tests.fuzz.mutation import mutated

    with atheris.instrument_imports(include=["minerwatch"]):
        target = _target(name)

    def once(data: bytes) -> None:
        try:
            target.run(data)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            finds.add(data, error)

    seeds = [*kept(name).values()] or [b""]

    def changed(data: bytes, max_bytes: int, seed: int) -> bytes:
        """The fuzzer's own changes in turns with ours, which know what parsers trip over."""
        chance = Random(seed)
        if chance.random() < _OWN_SHARE:
            return mutated(data, seeds, chance, max_bytes)
        return bytes(atheris.Mutate(data, max_bytes))

    corpus = BUILD / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = BUILD / "crashes" / name
    artifacts.mkdir(parents=True, exist_ok=True)
    _warm_up(target, finds)
    words = _dictionary(BUILD / "words.dict")
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={target.max_bytes}",
        f"-timeout={HUNG_S}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-artifact_prefix={artifacts}/",
        f"-dict={words}",
        "-print_final_stats=1",
        str(corpus),
        str(folder),
    ]
    atheris.Setup(arguments, once, custom_mutator=changed)
    atheris.Fuzz()
    sys.exit(0)


def _warm_up(target: Target, finds: Finds) -> None:
    """Try nothing at first: what is read once (rules) takes longer than an input may."""
    guarded(target, b"", finds, 9 * HUNG_S)


def _dictionary(path: Path) -> Path:
    """What the mutation inserts, as libFuzzer reads it."""
    from tests.fuzz.mutation import WORDS

    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in WORDS)
    path.write_text("\n".join(lines) + "\n")
    return path


def fuzz_with_mutation(target: Target, seconds: float, finds: Finds) -> None:
    """Without atheris: inputs that reach new lines are kept, but only some are asked for that."""
    from tests.fuzz.corpus import BUILD, digest, found, kept
    from tests.fuzz.mutation import mutated

    (BUILD / "corpus" / target.name).mkdir(parents=True, exist_ok=True)
    (BUILD / "crashes" / target.name).mkdir(parents=True, exist_ok=True)
    seeds = [*kept(target.name).values(), *found(target.name).values()] or [b""]
    chance = Random(time.time_ns())
    reached: set[tuple[str, int]] = set()
    _warm_up(target, finds)
    for seed in seeds:
        reached |= _lines_of(target, seed, finds)
    at_first, runs, added = len(reached), 0, 0
    present = _Present(BUILD / "crashes" / target.name / "present", target.max_bytes)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        data = mutated(chance.choice(seeds), seeds, chance, target.max_bytes)
        present.put(data)
        runs += 1
        if runs % _TRACED_EVERY:
            guarded(target, data, finds)
            continue
        lines = _lines_of(target, data, finds)
        if lines - reached:
            reached |= lines
            seeds.append(data)
            added += 1
            (BUILD / "corpus" / target.name / digest(data)).write_bytes(data)
    present.remove()
    told = {"runs": runs, "added": added, "cov": len(reached), "cov_at_first": at_first}
    print(json.dumps(told))


class _Present:
    """The input that is tried now, where it can be found when this process is killed."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        path.write_bytes(bytes(_SIZE + max_bytes))
        with path.open("r+b") as file:
            self._held = mmap.mmap(file.fileno(), 0)

    def put(self, data: bytes) -> None:
        self._held[:_SIZE] = len(data).to_bytes(_SIZE)
        self._held[_SIZE : _SIZE + len(data)] = data

    def remove(self) -> None:
        self._path.unlink()


def left_behind(path: Path) -> bytes:
    """The input that a process was at when it was killed."""
    content = path.read_bytes()
    return content[_SIZE : _SIZE + int.from_bytes(content[:_SIZE])]


def guarded(target: Target, data: bytes, finds: Finds, seconds: float = HUNG_S) -> None:
    """Runs ``data``; what breaks, and what hangs in Python, is found."""
    try:
        within(seconds, target, data)
    except (Exception, HungError) as error:  # noqa: BLE001 - that is what is looked for
        finds.add(data, error)


def within(seconds: float, target: Target, data: bytes) -> None:
    """Runs ``data``; raises HungError if that takes longer. For the main thread."""

    def give_up(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise HungError(f"{target.name}: an input that takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        target.run(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lines_of(target: Target, data: bytes, finds: Finds) -> set[tuple[str, int]]:
    """The lines of minerwatch that ``data`` reaches."""
    lines: set[tuple[str, int]] = set()

    def in_function(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return in_function

    def at_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return in_function if "/minerwatch/" in frame.f_code.co_filename else None

    sys.settrace(at_call)
    try:
        guarded(target, data, finds)
    finally:
        sys.settrace(None)
    return lines


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
