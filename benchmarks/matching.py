"""CPU time that matching costs: 100, 500 and 1,000 rules over 10,000 different command lines.

python -m benchmarks.matching [--rules 100 500 1000] [--lines 10000]
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.table import Budget, Row, cpu_ms, parser, show
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
)
from minerwatch.detection.matching.matcher import Matcher
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
    """What a command line costs that was never seen before; and what an idle process costs."""
    return [row for count in counts for row in _static_rows(count, lines)] + [_dynamic_row()]


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
