"""CPU time of matching: the shipped rules and made ones, over command lines they never saw.

    python -m benchmarks.matching [--rules 100 500 1000] [--lines 10000]

Each line is matched once; the figure is the median of several runs, each with a new matcher.
Hostile lines have 32 KiB; lines on which rules hold cost more, for evidence and planted words.
The matcher's memory is what a process grows by that compiles the shipped rules, its heap trimmed.
"""

from __future__ import annotations

import random
import statistics
import string
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec

from benchmarks.table import Budget, Row, cpu_ms, parser, show
from minerwatch.agent.heap import freeze_and_trim, keep_heap_small
from minerwatch.agent.rule_loader import load_in_child
from minerwatch.arguments import NO_BREAK_SPACE, command_line_of
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.condition import (
    All,
    Any,
    Comparison,
    Condition,
    How,
    Not,
    Number,
    Text,
    fields_of,
    predicates,
)
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.planted_words import with_arguments
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import LogSource, Rule
from minerwatch.model import Facts, Maturity, Signal

MEASURE = "Matching"
_REPEATS = 3

PROGRAMS = ("python3", "node", "java", "bash", "nginx", "postgres", "gcc", "cargo", "kubelet", "R")


def word(chance: random.Random, least: int = 4, most: int = 10) -> str:
    return "".join(chance.choices(string.ascii_lowercase, k=chance.randint(least, most)))


def made_rule(position: int, condition: Condition) -> Rule:
    return Rule(
        id=f"00000000-0000-4000-8000-{position:012d}",
        title=f"rule {position}",
        path=Path("rule.yml"),
        signal=Signal.IDENTITY,
        score=60,
        hold_s=0,
        level="high",
        maturity=Maturity.STABLE,
        logsource=LogSource("linux", "process_creation"),
        condition=condition,
        fields=fields_of(condition),
    )


def static_rules(chance: random.Random, count: int) -> list[Rule]:
    """Three literals a rule and a filter; every tenth rule has a regular expression as well."""
    rules = []
    for position in range(count):
        hits: list[Condition] = [
            Text("CommandLine", How.CONTAINS, f"--{word(chance)}-{word(chance)}"),
            Text("CommandLine", How.CONTAINS, f" -{word(chance)} {word(chance)}"),
            Text("Image", How.ENDSWITH, f"/{word(chance)}"),
        ]
        if position % 10 == 0:
            pattern = rf"(?i)\b{word(chance)}\S*\s+--{word(chance)}=[0-9a-f]+"
            hits.append(Text("CommandLine", How.REGEX, pattern, cased=True))
        unless = Not(Text("ParentImage", How.ENDSWITH, f"/{word(chance)}"))
        rules.append(made_rule(position, All((Any(tuple(hits)), unless))))
    return rules


def dynamic_rules(count: int) -> list[Rule]:
    """A rate, an age and a text, as behaviour rules have them."""
    return [
        made_rule(
            position,
            All(
                (
                    Number("CpuCores", Comparison.GREATER_OR_EQUAL, 0.9 + position / 100),
                    Number("Age", Comparison.GREATER, 60),
                    Not(Text("Image", How.ENDSWITH, "/ffmpeg")),
                )
            ),
        )
        for position in range(count)
    ]


def command_lines(chance: random.Random, count: int) -> list[str]:
    """Different from each other, 75 characters on average."""
    lines = []
    for number in range(count):
        arguments = [f"/usr/bin/{chance.choice(PROGRAMS)}"]
        while sum(map(len, arguments)) + len(arguments) < chance.randint(40, 90):
            arguments.append(
                chance.choice((f"--{word(chance)}={word(chance)}", f"/{word(chance)}"))
            )
        lines.append(" ".join([*arguments, str(number)]))
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rules", type=int, nargs="+", default=[100, 500, 1000])
    options.add_argument("--lines", type=int, default=10_000)
    chosen = options.parse_args()
    show(MEASURE, lambda: rows(chosen.rules, chosen.lines), is_json=chosen.json)


def rows(counts: Sequence[int], lines: int) -> list[Row]:
    """Measure unseen lines, hostile lines, and an idle process."""
    return [
        *_shipped_rows(lines),
        _memory_row(),
        *_hostile_rows(),
        *(row for count in counts for row in _static_rows(count, lines)),
        _dynamic_row(),
    ]


# The shipped rules.


def _shipped_rows(lines: int) -> Iterator[Row]:
    measure = "Matching, the shipped rules"
    rules = rulebook.load((BUILT_IN_RULES,)).rules
    chance = random.Random(20261129)
    cases = {
        "generated words": [
            _without_parent(_facts(chance, line)) for line in command_lines(chance, lines)
        ],
        "words of the benign corpus": corpus_lines(chance, lines),
        "the same, all facts of a process": [*map(_as_read, corpus_lines(chance, lines))],
    }
    for case, unseen in cases.items():
        matcher = Matcher(rules)
        held = [each for each in unseen if matcher.static_matches(each)]
        unheld = [each for each in unseen if not matcher.static_matches(each)]
        budget = None if "Arguments" in unseen[0] else Budget(5.0)
        yield Row(measure, case, "no rule holds", _median_us(rules, unheld), "µs", budget)
        if held:
            note = f"{len(held) / len(unseen):.1%} of the lines"
            yield Row(measure, case, "a rule holds", _median_us(rules, held), "µs", note=note)


def _memory_row() -> Row:
    """Measure in processes of their own, as the heap of this one is full of lines."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        grown_mib = statistics.median(fresh.map(_grown_mib, range(_RUNS)))
    return Row("Matching, the shipped rules", "", "memory of the matcher", grown_mib, "MiB")


def _grown_mib(_: int) -> float:
    keep_heap_small()
    rules = load_in_child((BUILT_IN_RULES,), (), None).rules
    freeze_and_trim()
    before_kib = _anonymous_kib()
    matcher = Matcher(rules)
    freeze_and_trim()
    assert len(matcher.rules) == len(rules)  # it is alive
    return (_anonymous_kib() - before_kib) / 1024


def _anonymous_kib() -> int:
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(rollup.split("Pss_Anon:")[1].split()[0])


def _without_parent(facts: Facts) -> Facts:
    return {name: facts[name] for name in ("CommandLine", "Image", "Comm")}


def _as_read(facts: Facts) -> Facts:
    """Return the facts that the agent has of a process, besides those of its container."""
    flags = ("CommandLineHidden", "CommDiffers", "ExeDeleted", "ExeInMemory", "KernelThreadName")
    return with_arguments(
        {
            **facts,
            **dict.fromkeys(flags, False),
            "CurrentDirectory": "/srv",
            "ParentImage": "/usr/bin/bash",
            "ParentCommandLine": "bash",
        }
    )


def _median_us(rules: Sequence[Rule], facts: Sequence[Facts]) -> float:
    """Return the cost of a line to a matcher that has compiled its expressions."""
    chance = random.Random(1)
    warm = corpus_lines(chance, 1000)
    costs = []
    for _ in range(_RUNS):
        matcher = Matcher(rules)
        _microseconds(matcher.static_matches, warm)
        costs.append(_microseconds(matcher.static_matches, facts))
    return statistics.median(costs)


_RUNS = 5


def corpus_lines(chance: random.Random, count: int) -> list[Facts]:
    """Lines of the benign corpus's programs, most arguments replaced; each with a word of its own.

    The corpus has what resembles miners on purpose: ordinary nodes have fewer near misses.
    """
    programs: list[tuple[str, str, list[str]]] = []
    with BENIGN_CORPUS.open(encoding="utf-8") as recordings:
        for recording in recordings:
            facts = msgspec.json.decode(recording)["facts"]
            line = command_line_of(facts.get("Arguments") or facts.get("CommandLine", "").split())
            arguments = line.split(" ")
            if sum(map(len, arguments)) < _LONGEST_LINE:
                programs.append((str(facts["Image"]), str(facts["Comm"]), arguments))
    words = [word for _, _, arguments in programs for word in arguments[1:]]
    lines: list[Facts] = []
    for number in range(count):
        image, comm, (name, *arguments) = chance.choice(programs)
        kept = [_argument(chance, argument, words) for argument in arguments]
        line = " ".join((name, *kept, f"{word(chance)}-{number}"))
        lines.append({"CommandLine": line, "Image": image, "Comm": comm})
    return lines


def _argument(chance: random.Random, argument: str, words: Sequence[str]) -> str:
    """Keep an argument (40 %), or replace it by another one's (20 %) or a made one."""
    share = chance.random()
    if share < 0.4:
        return argument
    if share < 0.6:
        return chance.choice(words)
    return chance.choice(
        (
            f"--{word(chance)}={word(chance)}",
            f"/{word(chance)}/{word(chance)}.{chance.choice(('py', 'json', 'so', 'log'))}",
            f"{chance.randint(0, 99_999)}",
            f"-{chance.choice(string.ascii_lowercase)}",
            word(chance),
        )
    )


def _hostile_rows() -> Iterator[Row]:
    measure = "Matching, hostile lines of 32 KiB"
    rules = rulebook.load((BUILT_IN_RULES,)).rules
    matcher = Matcher(rules)
    for case, line in hostile_lines(rules).items():
        costs = []
        for number in range(_RUNS):
            unseen = with_arguments({"CommandLine": f"{line} {number}", "Image": "/usr/bin/x"})
            costs.append(cpu_ms(partial(matcher.static_matches, unseen)))
        held = len(matcher.static_matches(unseen))
        budget = None if held else Budget(2.0)
        note = f"{held} rules hold" if held else ""
        yield Row(measure, case, "a line", statistics.median(costs), "ms", budget, note)


def hostile_lines(rules: Sequence[Rule]) -> dict[str, str]:
    """Lines made to cost much, by their shape."""
    chance = random.Random(20261129)
    texts = {each for rule in rules for each in predicates(rule.condition)}
    literals = sorted(
        each.pattern for each in texts if isinstance(each, Text) and each.how is How.CONTAINS
    )
    chance.shuffle(literals)
    made = [word(chance) for _ in range(8000)]
    base64 = "".join(chance.choices(string.ascii_letters + string.digits + "+/", k=_HOSTILE_CHARS))
    lines = {
        "blanks": "x" + " " * _HOSTILE_CHARS,
        "no-break spaces after sh -c": "sh -c " + NO_BREAK_SPACE * _HOSTILE_CHARS,
        "3,000 options": "x " + " ".join(f"--{each}={each}" for each in made),
        "-o again and again": "x " + "-o " * _HOSTILE_CHARS,
        "base64": f"x {base64}",
        "2,000 arguments": "x " + " ".join(made[:2000]),
        "a pool's option, 3,000 decoys": "./a " + " ".join(f"-o=stratum-{each}" for each in made),
        "near misses of literals": "x " + " ".join(each[:-1].strip() for each in literals),
        "all literals": "x " + " ".join(each.strip() for each in literals),
        "an option of a miner's 3,000 times": "x "
        + " ".join(f"--donate-level={each}" for each in made),
    }
    return {shape: line[:_HOSTILE_CHARS] for shape, line in lines.items()}


_HOSTILE_CHARS = 32 << 10
_LONGEST_LINE = 400
BENIGN_CORPUS = Path(__file__).parents[1] / "tests/corpus/benign.jsonl"


# Made rules.


def _static_rows(count: int, lines: int) -> Iterator[Row]:
    chance = random.Random(20261123)
    rules = static_rules(chance, count)
    alone = [_facts(chance, line) for line in command_lines(chance, lines)]
    more = [_facts(chance, line) for line in command_lines(chance, lines)]
    case = f"{count:,} rules"
    compiling_ms = cpu_ms(lambda: Matcher(rules))
    first = min(_microseconds(Matcher(rules).static_matches, alone) for _ in range(_REPEATS))
    matcher = Matcher(rules)
    _microseconds(matcher.static_matches, alone)
    later = _microseconds(matcher.static_matches, more)
    only_lines: list[Facts] = [{"CommandLine": facts["CommandLine"]} for facts in alone]
    budget = Budget(5.0) if count == 1000 else None
    alone_us = min(
        _microseconds(Matcher(rules).static_matches, only_lines) for _ in range(_REPEATS)
    )
    yield Row(MEASURE, case, "a command line", alone_us, "µs", budget)
    yield Row(MEASURE, case, "a process of four facts", first, "µs")
    yield Row(MEASURE, case, "once warm", later, "µs")
    yield Row(MEASURE, case, "compiling", compiling_ms, "ms")


def _dynamic_row() -> Row:
    chance = random.Random(20261123)
    lines = command_lines(chance, 10_000)
    idle: list[Facts] = [{**_facts(chance, line), "CpuCores": 0.01, "Age": 600.0} for line in lines]
    cost = _microseconds(Matcher(dynamic_rules(30)).dynamic_matches, idle)
    return Row("Matching, dynamic rules", "", "30 rules, an idle process", cost, "µs")


def _facts(chance: random.Random, line: str) -> Facts:
    program = line.split(" ", 1)[0]
    return {
        "CommandLine": line,
        "Image": program,
        "ParentImage": f"/usr/bin/{chance.choice(PROGRAMS)}",
        "Comm": program[-15:],
    }


def _microseconds(match: Callable[[Facts], object], facts: Sequence[Facts]) -> float:
    def all_of_them() -> None:
        for each in facts:
            match(each)

    return cpu_ms(all_of_them) / len(facts) * 1000


if __name__ == "__main__":
    main()
