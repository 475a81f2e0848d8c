"""Matches that rest on words an outsider may have chosen. Pure.

An outsider chooses single arguments of innocent programs: the name of a file to convert, a title, a
prompt, an address to fetch. Such a match may still be a miner's, so it is kept, but counts as words
only (``judge``). The test does not know programs: a match rests on one argument if the rule holds
on an ordinary program with that argument alone, and does not hold on the process without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from typing import Generic, TypeVar

from minerwatch.arguments import (
    NO_BREAK_SPACE,
    arguments_of,
    command_line_of,
    with_script_words,
)
from minerwatch.model import Facts

COMMAND_FIELDS = frozenset(("CommandLine", "Arguments", "ParentCommandLine"))

DELAY_CPU_S = 30.0
"""CPU time before a match on one argument counts as a finding: readers of words use less."""

FORGOTTEN_CORES = 0.01
"""Rate at which CPU time counted towards the delay is forgotten."""

_PROGRAM = "program"
_PATH = "/usr/bin/program"

T = TypeVar("T")

_Pair = tuple[str, str]
"""An argument, after the one before it."""

_Argument = tuple[str, str]
"""Field and argument."""


def cpu_s_after(counted_s: float, used_s: float, passed_s: float) -> float:
    """Return the CPU time counted towards the delay, ``passed_s`` seconds after the last count.

    It is counted by container, so that restarting a process does not reset it, and forgotten
    slowly, so that a month of short commands does not add up.
    """
    left_s = max(0.0, counted_s - FORGOTTEN_CORES * passed_s)
    return min(left_s + used_s, 2 * DELAY_CPU_S)


def has_computed(facts: Facts, seconds: float) -> bool:
    """Return True if a recorded process has used the CPU time of the delay.

    CPU time used before the recording counts in full. A process that uses less than is forgotten
    never reaches the delay.
    """
    cpu_s, cores = facts.get("CpuSeconds"), facts.get("CpuCores")
    if not isinstance(cpu_s, int | float):
        return isinstance(cores, int | float) and cores * seconds >= DELAY_CPU_S
    if not isinstance(cores, int | float):
        return cpu_s >= DELAY_CPU_S
    before_s = max(0.0, cpu_s - cores * seconds) if cores > FORGOTTEN_CORES else 0.0
    used_s = max(0.0, cores - FORGOTTEN_CORES) * seconds
    return min(cpu_s, before_s + used_s) >= DELAY_CPU_S


def with_arguments(facts: Facts) -> Facts:
    """Return recorded facts as a live process would show them.

    ``CommandLine`` follows from ``Arguments``; if these were not recorded, the line is split at
    its blanks.
    """
    arguments, line = facts.get("Arguments"), facts.get("CommandLine")
    if isinstance(arguments, tuple):
        line = command_line_of(arguments)
        return {**facts, "CommandLine": line, "Arguments": arguments_of(line)}
    if isinstance(line, str) and line:
        return {**facts, "Arguments": arguments_of(line)}
    return facts


def facts_with_script_words(facts: Facts) -> Facts | None:
    """Return the facts with the script or title in the arguments split into words; None: none.

    A script is the argument after ``-c`` of a shell; a title is written over the arguments by the
    process.
    """
    arguments = facts.get("Arguments")
    if not isinstance(arguments, tuple):
        return None
    if facts.get("CommandLineHidden") is True:
        words: tuple[str, ...] | None = tuple(" ".join(arguments).split())
    elif NO_BREAK_SPACE not in "".join(arguments):  # quicker than one by one
        return None
    else:
        words = with_script_words(arguments)
    if words is None or words == arguments:
        return None
    return {**facts, "CommandLine": " ".join(words), "Arguments": words}


def facts_as_others_join_them(facts: Facts) -> Facts | None:
    """Return the facts with plain blanks inside arguments; None: there are no blanks inside.

    Rules of other collections are written for such lines: ``import pty`` in a Python script.
    """
    joined = {
        field: line.replace(NO_BREAK_SPACE, " ")
        for field in ("CommandLine", "ParentCommandLine")
        if isinstance(line := facts.get(field), str) and NO_BREAK_SPACE in line
    }
    return {**facts, **joined} if joined else None


class PlantedArguments(Generic[T]):
    """Trials of the arguments in one process's facts, shared by all rules that hold on them.

    Each trial replaces the process by an ordinary program with some of its arguments. ``prepare``
    makes of such facts what the rules' ``holds`` takes, once for each trial.
    """

    def __init__(self, facts: Facts, prepare: Callable[[Facts], T], min_length: int) -> None:
        """``min_length``: shorter arguments cannot make a rule hold."""
        self._facts = facts
        self._prepare = prepare
        self._min_length = min_length
        self._trials: dict[tuple[str, str, str], T] = {}
        self._blocks: dict[tuple[str, str, range], T] = {}
        self._rests: dict[frozenset[_Argument], T] = {}

    def rests_on_one(self, holds: Callable[[T], bool]) -> bool:
        """Return True if a rule that holds does so by one argument of any program."""
        return self._rests_on(
            holds, partial(self._is_enough, holds), partial(self._may_be_enough, holds)
        )

    def rests_on_launched(self, holds: Callable[[T], bool]) -> bool:
        """Return True if it does so in a line that starts another program, like ``docker run``."""
        starts = self._launchers

        def is_enough(field: str, pair: _Pair) -> bool:
            return starts[field] != "" and holds(self._trial(field, pair[1], starts[field]))

        def may_be_enough(field: str, block: range) -> bool:
            return starts[field] != "" and holds(self._block(field, block, starts[field]))

        return any(starts.values()) and self._rests_on(holds, is_enough, may_be_enough)

    @cached_property
    def _own(self) -> dict[str, tuple[str, ...]]:
        return {field: _own_words(self._facts.get(field)) for field in _LINES}

    @cached_property
    def _launchers(self) -> dict[str, str]:
        return {field: _launcher(self._facts.get(field)) for field in _LINES}

    @cached_property
    def _pairs(self) -> dict[str, list[_Pair]]:
        pairs: dict[str, list[_Pair]] = {}
        for field, option, argument in _foreign_arguments(self._facts):
            if len(argument) >= self._min_length:
                pairs.setdefault(field, []).append((option, argument))
        return pairs

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        """Each pair's words: the argument, and the option before it if that is a common one."""
        return {
            field: [
                f"{option} {argument}" if _COMMON_OPTION.fullmatch(option) else argument
                for option, argument in pairs
            ]
            for field, pairs in self._pairs.items()
        }

    def _rests_on(
        self,
        holds: Callable[[T], bool],
        is_enough: Callable[[str, _Pair], bool],
        may_be_enough: Callable[[str, range], bool],
    ) -> bool:
        planted = frozenset(
            (field, argument)
            for field in self._pairs
            for _, argument in self._planted(
                field, partial(is_enough, field), partial(may_be_enough, field)
            )
        )
        if not planted:
            return False
        if planted not in self._rests:
            self._rests[planted] = self._prepare(_without(self._facts, planted))
        return not holds(self._rests[planted])

    def _is_enough(self, holds: Callable[[T], bool], field: str, pair: _Pair) -> bool:
        """Return True if the rule holds by the argument, or with a common option before it.

        Tried alone, beside a login, and beside what the program has of its own.
        """
        option, argument = pair
        words = (argument, f"{option} {argument}")[: 1 + bool(_COMMON_OPTION.fullmatch(option))]
        own = self._own[field]
        beside = " ".join(each for each in own if each not in (argument, f"{option} {argument}"))
        tried = [*words, f"{_LOGIN} {argument}"]
        if beside:
            tried += [f"{beside} {each}" for each in words]
        return any(holds(self._trial(field, each)) for each in tried)

    def _may_be_enough(self, holds: Callable[[T], bool], field: str, block: range) -> bool:
        return holds(self._block(field, block, " ".join((_PROGRAM, _LOGIN, *self._own[field]))))

    def _trial(self, field: str, arguments: str, program: str = _PROGRAM) -> T:
        key = (field, program, arguments)
        trial = self._trials.get(key)
        if trial is None:
            facts = _ordinary(self._facts, field, arguments, program)
            trial = self._trials[key] = self._prepare(facts)
        return trial

    def _block(self, field: str, block: range, program: str) -> T:
        key = (field, program, block)
        trial = self._blocks.get(key)
        if trial is None:
            words = " ".join(self._words[field][block.start : block.stop])
            trial = self._blocks[key] = self._prepare(_ordinary(self._facts, field, words, program))
        return trial

    def _planted(
        self,
        field: str,
        is_enough: Callable[[_Pair], bool],
        may_be_enough: Callable[[range], bool],
    ) -> Iterator[_Pair]:
        """Yield the arguments that are enough alone, as far as the trials last.

        A long line is halved as long as the rule holds on the half: if it does not, it holds on no
        single argument there. One by one, a line of thousands takes a second.
        """
        pairs = self._pairs[field]
        yield from filter(is_enough, pairs[:_FEW_PAIRS])
        todo = [range(_FEW_PAIRS, len(pairs))] if len(pairs) > _FEW_PAIRS else []
        trials = _MAX_TRIALS
        while todo and trials > 0:
            block = todo.pop()
            is_small = len(block) <= _FEW_PAIRS
            trials -= 1
            if not may_be_enough(block):
                continue
            if is_small:
                trials -= len(block)
                yield from filter(is_enough, pairs[block.start : block.stop])
            else:
                half = len(block) // 2
                todo += [block[half:], block[:half]]


_FEW_PAIRS = 8
"""So many arguments are tried one by one; the first ones always, for some rules ask for a place."""

_MAX_TRIALS = 128
"""Blocks and arguments that are tried of one line, for one rule. Beyond that an argument counts as
the program's own: an outsider would have to choose dozens of one line."""

_LINES = ("CommandLine", "ParentCommandLine")


_COMMON_OPTION = re.compile(
    "-[A-Za-z]|--(?:address|algo|algorithm|host|input|name|output|password|proxy|server|title|url"
    "|user|username|wallet)"
)


_LOGIN = "-u user -p secret --user user --password secret"


_LAUNCHER = re.compile(
    r"(?:\S*/)?(?:docker(?:-buildx|-compose)?|podman|nerdctl|ctr|crictl|buildah|buildctl|img|executor"
    r"|kaniko|(?:jupyter-)?repo2docker|kubectl|oc|(?:auto)?ssh|socat|ncat|npx|npm|pnpm|yarn|bunx?|uvx?"
    r"|pipx|(?:ba|da|z|k)?sh|su|sudo|env|nice|ionice|nohup|timeout|setsid|stdbuf|taskset|unshare|watch"
    r"|xargs|flock|screen|tmux|script|systemd-run|firejail)"
)
_STARTING = re.compile(
    r"--|-[cdeinuy]|-[el]c|-it|--(?:build-arg|env|rm)|[0-9]+[smh]?|build|compose|create|dlx|exec|run"
    r"|tool|x"
)
_MAX_STARTING = 8


def _launcher(line: object) -> str:
    """Return the beginning of a line that starts another program: the launcher and its options."""
    if not isinstance(line, str):
        return ""
    first, *others = arguments_of(line) or ("",)
    if not _LAUNCHER.fullmatch(first):
        return ""
    return " ".join(
        (first, *(each for each in others[:_MAX_STARTING] if _STARTING.fullmatch(each)))
    )


# Options of ordinary programs: a miner's login is a wallet or a worker, its password is x.
_OWN = re.compile(
    r"(?:-[uUl]|--user|--username|--login) (?:[0-9]{1,6}|[A-Za-z][A-Za-z_-]{1,15}(?::\S*)?)"
    r"|(?:--user|--username|--name) \w{1,16}"
    r"|(?:-[pP]|--pass|--password|--port) (?:[0-9]{1,5}|[A-Za-z]\w{1,15})"
    r"|(?:--user|--username|--pass|--password)=[A-Za-z]\w{1,15}"
    r"|--url[ =]https://\S+|--(?:host|server) [\w.-]+:(?:21|22|25|143|465|587|993)"
    r"|-a|--algo(?:rithm)? (?:ppo|dqn|sac|a2c|scrypt)"
)
_MAX_OWN = 8


def _own_words(line: object) -> tuple[str, ...]:
    """Return the options in a line that ordinary clients and tools have, with ordinary values."""
    if not isinstance(line, str):
        return ()
    arguments = arguments_of(line)
    pairs = (" ".join(pair) for pair in pairwise(arguments))
    found = [each for each in (*pairs, *arguments) if _OWN.fullmatch(each)]
    return tuple(dict.fromkeys(found))[:_MAX_OWN]


def _foreign_arguments(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield the arguments after a program's own name: field, the argument before, argument.

    A title over the arguments has no name: an outsider may have chosen all of it.
    """
    title = facts.get("CommandLine")
    if facts.get("CommandLineHidden") is True and isinstance(title, str):
        yield "CommandLine", "", arguments_of(title)[0] if title else ""
    for field in ("CommandLine", "ParentCommandLine"):
        line = facts.get(field)
        if isinstance(line, str):
            arguments = arguments_of(line)
            yield from ((field, *pair) for pair in dict.fromkeys(pairwise(arguments)))


def _ordinary(facts: Facts, field: str, arguments: str, program: str = _PROGRAM) -> Facts:
    """Return the facts with an ordinary program in place of the process, with these arguments."""
    lines = {"CommandLine": _PROGRAM, "ParentCommandLine": _PROGRAM}
    lines[field] = f"{program} {arguments}"
    return {
        **facts,
        **lines,
        "Arguments": arguments_of(lines["CommandLine"]),
        "Image": _PATH,
        "ParentImage": _PATH,
        "Comm": _PROGRAM,
        "CurrentDirectory": "/",
    }


def _without(facts: Facts, planted: frozenset[_Argument]) -> Facts:
    left = dict(facts)
    for field in ("CommandLine", "ParentCommandLine"):
        line = facts.get(field)
        if isinstance(line, str):
            first, *others = arguments_of(line) or ("",)
            name = _PROGRAM if (field, first) in planted else first
            left[field] = " ".join(
                (name, *(each for each in others if (field, each) not in planted))
            )
    line = left.get("CommandLine")
    if isinstance(line, str):
        left["Arguments"] = arguments_of(line)
    return left
