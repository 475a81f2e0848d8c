"""Reports of a made-up cluster: three nodes in a week, one of them without an agent."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from minerwatch.api.history import Gap, NodeHistory, Prices
from minerwatch.api.journal import (
    ActionLine,
    AgentLine,
    AnyLine,
    RuleScore,
    Usage,
    UsageLine,
    VerdictLine,
)
from minerwatch.api.types import Unanswered
from minerwatch.format import rfc3339
from minerwatch.report.incidents import node_history
from minerwatch.view.abuse_report import Report, report

DAY_S = 86400.0
UNTIL_S = 1_795_500_000.0  # 2026-11-24 06:00 UTC
SINCE_S = UNTIL_S - 7 * DAY_S
PRICES = Prices(core_hour=0.04, gpu_hour=2.5, currency="EUR")
RANDOMX = RuleScore("0d5b6a1c", "Rounds and flushes like RandomX", "compute", 88.0)
CODE = RuleScore("1f2e3d4c", "RandomX in the executable or in memory", "content", 55.0)
POOL = RuleScore("9a8b7c6d", "Connected to a known mining pool", "network", 60.0)
CONNECTS = RuleScore("5e4f3a2b", "Connects that fail, by the thousand", "network", 75.0)


def verdict(node: str, day: float, key: str, level: str, **changes: Any) -> VerdictLine:
    """A change of level so many days after the beginning."""
    at = rfc3339(SINCE_S + day * DAY_S)
    known = {
        "at": at, "node": node, "key": key, "namespace": "binder", "pod": f"jupyter-{key}",
        "pod_uid": f"uid-{key}", "container": "notebook", "container_id": f"id-{key}",
        "image": "registry.example/notebook:1", "owner": key, "level": level, "previous": "clear",
        "score": {"confirmed": 94.6, "likely": 88.0}.get(level, 45.0), "abuse": "mining",
        "since": at, "started": "", "cpu_cores": 2.0, "cpu_hours": 0.5, "rules": (RANDOMX, CODE),
    }  # fmt: skip
    return VerdictLine(**{**known, **changes})


def action(node: str, day: float, key: str, done: str, outcome: str = "done") -> ActionLine:
    return ActionLine(
        at=rfc3339(SINCE_S + day * DAY_S), node=node, id=f"{key}/{done}/{outcome}",
        namespace="binder", pod=f"jupyter-{key}", pod_uid=f"uid-{key}", owner=key, action=done,
        outcome=outcome, dry_run=outcome == "dry-run",
    )  # fmt: skip


def usages(
    node: str, flagged: dict[str, tuple[float, float, str]], gaps: tuple[tuple[float, float], ...]
) -> Iterator[UsageLine]:
    """Five minutes a line; ``flagged``: key -> first and last day, level."""
    for number in range(1, 7 * 288 + 1):
        day = number / 288
        if any(first < day <= last for first, last in gaps):
            continue
        used = tuple(
            Usage(key=key, namespace="binder", pod=f"jupyter-{key}", container="notebook",
                  owner=key, level=level, cpu_cores=2.0)
            for key, (first, last, level) in flagged.items()
            if first < day <= last
        )  # fmt: skip
        yield UsageLine(
            at=rfc3339(SINCE_S + day * DAY_S), node=node, seconds=300.0, cores=16,
            cpu_cores=3.5 + 2.0 * len(used), flagged_cpu_cores=2.0 * len(used), containers=used,
        )  # fmt: skip


def lines_of_node_1() -> list[AnyLine]:
    node = "node-1"
    flagged = {
        "alice": (1.25, 1.5, "confirmed"),
        "bob": (5.0, 5.05, "likely"),
        "carol": (4.0, 4.5, "likely"),
        "dave": (6.0, 6.2, "suspicious"),
    }
    scan = {"abuse": "scanning", "rules": (CONNECTS,), "score": 75.0}
    events: list[AnyLine] = [
        AgentLine(at=rfc3339(SINCE_S - 60), node=node, event="start", version="1"),
        verdict(node, 1.25, "alice", "confirmed", delay_s=45.0, cpu_hours=0.02),
        action(node, 1.2535, "alice", "evict"),
        verdict(node, 1.5, "alice", "gone", previous="confirmed", cpu_hours=12.0),
        AgentLine(at=rfc3339(SINCE_S + 2.5 * DAY_S), node=node, event="start", version="1"),
        verdict(node, 4.0, "carol", "likely", delay_s=900.0, rules=(CODE,), score=71.0),
        action(node, 4.4, "carol", "stop"),
        action(node, 4.5, "carol", "stop", "released"),
        verdict(node, 4.5, "carol", "clear", previous="likely", cpu_hours=24.5),
        verdict(node, 5.0, "bob", "likely", delay_s=130.0, left_out=3, **scan),
        action(node, 5.01, "bob", "label", "dry-run"),
        verdict(node, 5.05, "bob", "gone", previous="likely", cpu_hours=2.9, **scan),
        verdict(node, 6.0, "dave", "suspicious", rules=(POOL,)),
        verdict(node, 6.2, "dave", "clear", previous="suspicious"),
    ]
    return sorted(
        [*events, *usages(node, flagged, ((2.0, 2.5), (3.9, 3.92)))], key=lambda line: line.at
    )


def lines_of_node_2() -> list[AnyLine]:
    node = "node-2"
    pool = {"owner": "https://github.com/example-mallory/notebooks", "rules": (RANDOMX, POOL)}
    events: list[AnyLine] = [
        AgentLine(at=rfc3339(SINCE_S - DAY_S), node=node, event="start", version="1"),
        verdict(node, -0.5, "mallory-1", "confirmed", cpu_hours=1.0, **pool),
        verdict(node, 6.999, "mallory-2", "confirmed", cpu_hours=0.1, delay_s=62.0, **pool),
    ]
    flagged = {"mallory-1": (0.0, 7.0, "confirmed")}
    return sorted([*events, *usages(node, flagged, ())], key=lambda line: line.at)


@cache
def histories() -> tuple[NodeHistory, ...]:
    lost = {"ENOSPC": 12}
    return (
        node_history(lines_of_node_1(), SINCE_S, UNTIL_S),
        msgspec.structs.replace(node_history(lines_of_node_2(), SINCE_S, UNTIL_S), lost=lost),
    )


MISSING = (Unanswered("node-3", "minerwatch/minerwatch-9zlpd", "CrashLoopBackOff"),)


def made(**changes: Any) -> Report:
    """The report of all of them."""
    options = {"since_s": SINCE_S, "until_s": UNTIL_S, "scope": "context lab", "prices": PRICES}
    return report(histories(), MISSING, **{**options, **changes})


def hostile(text: str) -> Report:
    """A report in which all that tenants and nodes may choose is ``text``."""
    (first, *_) = histories()
    rule = RuleScore(text, text, text, 50.0)
    incidents = tuple(
        msgspec.structs.replace(
            each, key=text, namespace=text, pod=text, container=text, image=text, owner=text,
            abuse=text, rules=(rule,), started=text, flagged=text if number else each.flagged,
            actions=tuple(
                msgspec.structs.replace(done, action=text, outcome=done.outcome if number else text)
                for done in each.actions
            ),
        )
        for number, each in enumerate(first.incidents)
    )  # fmt: skip
    node = msgspec.structs.replace(
        first, node=text, incidents=incidents, audit=text, lost={text: 1},
        gaps=(Gap(text, text), *first.gaps),
        days=tuple(msgspec.structs.replace(each, date=text) for each in first.days[:2]),
        prices=Prices(core_hour=1.0, gpu_hour=1.0, currency=text),
    )  # fmt: skip
    missing = (Unanswered(text, text, text),)
    return report([node], missing, since_s=SINCE_S, until_s=UNTIL_S, scope=text, namespace=text)
