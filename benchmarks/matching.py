"""Microseconds that matching costs: 1,000 rules over 10,000 different command lines.

Run: ``python -m benchmarks.matching [--rules 1000] [--lines 10000]``.
"""

from __future__ import annotations

import argparse
import platform
import random
import string
import time
from pathlib import Path

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
from minerwatch.detection.match import Matcher
from minerwatch.detection.rule import LogSource, Rule
from minerwatch.model import Facts, Maturity, Signal

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


def microseconds(match: object, facts: list[Facts]) -> float:
    assert callable(match)
    start = time.perf_counter()
    for each in facts:
        match(each)
    return (time.perf_counter() - start) / len(facts) * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rules", type=int, default=1000)
    options.add_argument("--lines", type=int, default=10_000)
    chosen = options.parse_args()
    chance = random.Random(20261123)
    lines = command_lines(chance, chosen.lines)
    alone: list[Facts] = [{"CommandLine": line} for line in lines]
    four: list[Facts] = [
        {
            "CommandLine": line,
            "Image": line.split(" ", 1)[0],
            "ParentImage": f"/usr/bin/{chance.choice(PROGRAMS)}",
            "Comm": line.split(" ", 1)[0][-15:],
        }
        for line in lines
    ]
    idle: list[Facts] = [{**facts, "CpuCores": 0.01, "Age": 600.0} for facts in four]
    rules = static_rules(chance, chosen.rules)
    start = time.perf_counter()
    Matcher(rules)
    compiling = time.perf_counter() - start
    average = sum(map(len, lines)) / len(lines)
    print(f"{platform.machine()}, Python {platform.python_version()}")
    print(f"{len(rules)} rules, {len(lines)} command lines of {average:.0f} characters on average")
    print(f"{'compiling all rules':<44}{compiling * 1e3:8.1f} ms")
    more = command_lines(chance, chosen.lines)
    for name, facts in (
        ("CommandLine alone", alone),
        ("CommandLine, Image, ParentImage, Comm", four),
    ):
        matcher = Matcher(rules)
        first = microseconds(matcher.static_matches, facts)
        unseen: list[Facts] = [
            {**each, "CommandLine": line} for each, line in zip(facts, more, strict=True)
        ]
        later = microseconds(matcher.static_matches, unseen)
        print(f"{name:<44}{first:8.2f} µs a process; {later:.2f} for the next, once warm")
    matcher = Matcher(dynamic_rules(30))
    cost = microseconds(matcher.dynamic_matches, idle)
    print(f"{'30 dynamic rules, an idle process':<44}{cost:8.2f} µs a process and tick")


if __name__ == "__main__":
    main()
