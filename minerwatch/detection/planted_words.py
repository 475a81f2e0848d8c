"""Matches that rest on words an outsider may have chosen. Pure.

An outsider chooses single arguments of innocent programs: the name of a file to convert, a title, a
prompt, an address to fetch. Such a match may still be a miner's, so it is kept, but counts as words
only (``judge``). The test does not know programs: a match rests on one argument if the rule holds
on an ordinary program with that argument alone, and does not hold on the process without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from minerwatch.arguments import NO_BREAK_SPACE, arguments_of, command_line_of, with_script_words
from minerwatch.model import Facts

COMMAND_FIELDS = frozenset(("CommandLine", "Arguments", "ParentCommandLine"))

DELAY_CPU_S = 30.0
"""CPU time before a match on one argument counts as a finding: readers of words use less."""

FORGOTTEN_CORES = 0.01
"""Rate at which CPU time counted towards the delay is forgotten."""

_PROGRAM = "program"
_PATH = "/usr/bin/program"

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

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
    if NO_BREAK_SPACE not in f"{facts.get('CommandLine')}{facts.get('ParentCommandLine')}":
        return None  # quicker than one by one
    joined = {
        field: line.replace(NO_BREAK_SPACE, " ")
        for field in ("CommandLine", "ParentCommandLine")
        if isinstance(line := facts.get(field), str)
    }
    return {**facts, **joined}


class HeldRule(Protocol[T_contra]):
    """A rule that holds on a process, for trials."""

    def holds(self, trial: T_contra, /) -> bool:
        """Return True if it holds."""

    def may_hold(self, trial: T_contra, /) -> bool:
        """Return False, quickly, if something that it needs is missing."""


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
        self._trials: dict[tuple[str, str], T] = {}
        self._blocks: dict[tuple[str, str, range], T] = {}
        self._rests: dict[frozenset[_Argument], T] = {}

    def rests_on_one(self, rule: HeldRule[T]) -> bool:
        """Return True if a rule that holds does so by one argument of any program."""
        return self._rests_on(rule, self._programs, self._tries)

    def rests_on_launched(self, rule: HeldRule[T]) -> bool:
        """Return True if it does so in a line that starts another program, like ``docker run``."""
        starts = self._launchers
        return self._rests_on(rule, starts, lambda field, pair: [f"{starts[field]} {pair[1]}"])

    @cached_property
    def _own(self) -> dict[str, tuple[str, ...]]:
        return {field: _own_words(self._facts.get(field)) for field in _LINES}

    @cached_property
    def _programs(self) -> dict[str, str]:
        return {field: " ".join((_PROGRAM, _LOGIN, *own)) for field, own in self._own.items()}

    @cached_property
    def _launchers(self) -> dict[str, str]:
        found = {field: _launcher(self._facts.get(field)) for field in _LINES}
        return {field: launcher for field, launcher in found.items() if launcher}

    @cached_property
    def _pairs(self) -> dict[str, list[_Pair]]:
        pairs: dict[str, list[_Pair]] = {field: [] for field in _LINES}
        for field, option, argument in _foreign_arguments(self._facts):
            if len(argument) >= self._min_length:
                pairs[field].append((option, argument))
        return pairs

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        return {field: [*map(_after_option, pairs)] for field, pairs in self._pairs.items()}

    def _rests_on(
        self,
        rule: HeldRule[T],
        programs: Mapping[str, str],
        tries: Callable[[str, _Pair], Iterable[str]],
    ) -> bool:
        planted = frozenset(
            (field, pair[1])
            for field, program in programs.items()
            for pair in self._possible(rule, field, program)
            if any(rule.holds(self._trial(field, line)) for line in tries(field, pair))
        )
        if not planted:
            return False
        if planted not in self._rests:
            self._rests[planted] = self._prepare(_without(self._facts, planted))
        return not rule.holds(self._rests[planted])

    def _possible(self, rule: HeldRule[T], field: str, program: str) -> Iterator[_Pair]:
        """Yield the arguments that may be enough alone, as far as the trials last.

        A long line is halved as long as the rule holds on the half: if it does not, it holds on no
        single argument there. One by one, a line of thousands takes a second.
        """
        pairs = self._pairs[field]

        def single(block: range) -> Iterator[_Pair]:
            for at in block:
                if rule.may_hold(self._block(field, program, range(at, at + 1))):
                    yield pairs[at]

        yield from single(range(min(_FEW_PAIRS, len(pairs))))
        todo = [range(_FEW_PAIRS, len(pairs))]
        trials = _MAX_TRIALS
        while todo and trials > 0:
            block = todo.pop()
            if not block:
                continue
            trials -= 1
            if not rule.holds(self._block(field, program, block)):
                continue
            if len(block) <= _FEW_PAIRS:
                trials -= len(block)
                yield from single(block)
            else:
                half = len(block) // 2
                todo += [block[half:], block[:half]]

    def _tries(self, field: str, pair: _Pair) -> Iterator[str]:
        """Yield the lines of an ordinary program with an argument.

        Alone or with a common option before it, beside a login, and beside what the program has of
        its own.
        """
        words = (pair[1], _after_option(pair))[: 1 + bool(_COMMON_OPTION.fullmatch(pair[0]))]
        yield from (f"{_PROGRAM} {each}" for each in words)
        yield f"{_PROGRAM} {_LOGIN} {pair[1]}"
        beside = " ".join(
            each for each in self._own[field] if each not in (pair[1], " ".join(pair))
        )
        if beside:
            yield from (f"{_PROGRAM} {beside} {each}" for each in words)

    def _trial(self, field: str, line: str) -> T:
        trial = self._trials.get((field, line))
        if trial is None:
            trial = self._trials[field, line] = self._prepare(_ordinary(self._facts, field, line))
        return trial

    def _block(self, field: str, program: str, block: range) -> T:
        trial = self._blocks.get((field, program, block))
        if trial is None:
            line = " ".join((program, *self._words[field][block.start : block.stop]))
            trial = self._prepare(_ordinary(self._facts, field, line))
            self._blocks[field, program, block] = trial
        return trial


def _after_option(pair: _Pair) -> str:
    """Return an argument, with the option before it if that is a common one."""
    return " ".join(pair) if _COMMON_OPTION.fullmatch(pair[0]) else pair[1]


_FEW_PAIRS = 8
"""So many arguments are tried one by one; the first ones always: rules may name their position."""

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
    r"|--threads[ =][0-9]{1,4}|--url[ =]http://localhost(?:[:/]\S*)?"
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
    found = [each for each in (*pairs, *arguments) if each[:1] == "-" and _OWN.fullmatch(each)]
    return tuple(dict.fromkeys(found))[:_MAX_OWN]


def _foreign_arguments(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield the arguments after a program's own name: field, the argument before, argument.

    A title that overwrote the arguments has no name: an outsider may have chosen it all.
    """
    title = facts.get("CommandLine")
    if facts.get("CommandLineHidden") is True and isinstance(title, str):
        yield "CommandLine", "", arguments_of(title)[0] if title else ""
    for field in ("CommandLine", "ParentCommandLine"):
        line = facts.get(field)
        if isinstance(line, str):
            arguments = arguments_of(line)
            yield from ((field, *pair) for pair in dict.fromkeys(pairwise(arguments)))


def _ordinary(facts: Facts, field: str, line: str) -> Facts:
    """Return the facts with an ordinary program instead of the process's, with this line."""
    lines = {**dict.fromkeys(_LINES, _PROGRAM), field: line}
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
    for field in _LINES:
        line = facts.get(field)
        if isinstance(line, str):
            first, *others = arguments_of(line) or ("",)
            gone = {argument for of_field, argument in planted if of_field == field}
            name = _PROGRAM if first in gone else first
            left[field] = " ".join((name, *[each for each in others if each not in gone]))
    line = left.get("CommandLine")
    if isinstance(line, str):
        left["Arguments"] = arguments_of(line)
    return left
