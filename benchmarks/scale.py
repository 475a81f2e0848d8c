"""What minerwatch asks of a cluster of 50, 500 and 5,000 nodes.

    python -m benchmarks.scale [--write | --simulate]

The tables are reckoned from the agent's own constants and the configuration's defaults, so that
they cannot be out of date: docs/scale.md quotes them (``--write`` renews it), and a test compares.
With ``--simulate`` the API server restarts, too, once for each row (``benchmarks.restart``): that
takes minutes.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.restart import SLOW, Scenario, Seen, run
from minerwatch.config.schema import BUILT_IN_RULES, Config, CullBudget
from minerwatch.culling.lease_budget import BudgetPace
from minerwatch.culling.records import HOUR_S
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import Rule
from minerwatch.kube import fleet
from minerwatch.kube.cluster_view import event_pace
from minerwatch.kube.events import DROPPED
from minerwatch.kube.pods import REASONS, Pace
from minerwatch.model import Abuse, Level, Signal
from minerwatch.report.metrics import MAX_ABUSES, FlaggedContainer, Metrics

NODES = (50, 500, 5000)
PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
VALUES = Path(__file__).parent.parent / "deploy" / "helm" / "minerwatch" / "values.yaml"
PROBES = ("execs", "connections", "mappings", "tasks", "rounding", "content", "canary")
TIMED = ("cgroups", "processes", "rules", *PROBES[:-1])
_ANSWER_S = (0.5, 2.0)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulate", action="store_true", help="let the API server restart")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments = parser.parse_args()
    print(on_paper())
    if arguments.write:
        PAGE.write_text(with_paper(PAGE.read_text(encoding="utf-8"), on_paper()), encoding="utf-8")
    if arguments.simulate:
        print(f"\n{RESTART_HEAD}")
        for scenario in RESTARTS:
            print(restart_row(run(scenario)), flush=True)
        print(f"\n{LEASE_HEAD}")
        for scenario in CROWDS:
            print(lease_row(run(scenario)), flush=True)


# On paper.


def with_paper(page: str, paper: str) -> str:
    """The page with ``paper`` as the first block under "On paper"."""
    before, heading, after = page.partition("\n## On paper\n")
    block = re.compile(r"(?<=^```\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
    return before + heading + block.sub(lambda _: paper.rstrip("\n") + "\n", after, count=1)


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity, for a number of nodes."""

    name: str
    of: Callable[[int], float]


def on_paper() -> str:
    """The table for ``NODES``."""
    head = f"{'':46}" + "".join(f"{nodes:>12,}" for nodes in NODES) + "   nodes"
    lines = [head]
    for title, rows in _sections():
        lines.append(title)
        lines += [
            f"  {row.name:44}" + "".join(f"{_figure(row.of(nodes)):>12}" for nodes in NODES)
            for row in rows
        ]
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, Sequence[Row]]]:
    config = Config()
    yield "API server, nothing flagged", _quiet(Pace(), BudgetPace())
    yield "API server, at the most", _busy(config, BudgetPace())
    yield "Prometheus, by the chart's PodMonitor", _series(config)
    yield "minerwatch top, one look", _look()


def _quiet(pace: Pace, budget: BudgetPace) -> Sequence[Row]:
    mean_watch_s = (pace.shortest_watch_s + pace.longest_watch_s) / 2
    return (
        Row("watches open", lambda nodes: nodes),
        Row("watches renewed, a second", lambda nodes: nodes / mean_watch_s),
        Row("reads of the Lease, a second, culling on", lambda nodes: nodes / budget.idle_s),
    )


def _busy(config: Config, budget: BudgetPace) -> Sequence[Row]:
    events, limits = event_pace(config.kubernetes), config.culling.budget
    an_hour = events.burst + events.per_minute * HOUR_S / 60
    return (
        Row("Events at once", lambda nodes: nodes * events.burst),
        Row("Events a second, in the long run", lambda nodes: nodes * events.per_minute / 60),
        Row("Events in the first hour", lambda nodes: nodes * an_hour),
        Row("reads of the Lease, a second, slots left", lambda nodes: nodes / budget.needed_s),
        Row("reads of the Lease, a second, none left", lambda nodes: nodes / budget.spent_s),
        Row("actions an hour", lambda nodes: min(limits.per_cluster, limits.per_node * nodes)),
    )


def _series(config: Config) -> Sequence[Row]:
    quiet = series_of(flagged=0)
    rules = len(_rules())
    one = series_of(flagged=1) - quiet
    most = series_of(flagged=config.report.max_container_series, signals=len(Signal)) - quiet
    interval_s = _scrape_interval_s()
    return (
        Row("series, nothing flagged", lambda nodes: nodes * quiet),
        Row("  of that minerwatch_rule_info", lambda nodes: nodes * rules),
        Row("  of that minerwatch_findings_total", lambda nodes: nodes * rules),
        Row("series without these two", lambda nodes: nodes * (quiet - 2 * rules)),
        Row("series more, one container flagged a node", lambda nodes: nodes * one),
        Row("series more, at the most", lambda nodes: nodes * most),
        Row(f"samples a second, every {interval_s:g} s", lambda nodes: nodes * quiet / interval_s),
    )


def _look() -> Sequence[Row]:
    at_once = fleet.AT_ONCE
    pages = fleet._PAGE_ITEMS  # noqa: SLF001 - no other way to know

    def seconds(answer_s: float, at_once: int) -> Callable[[int], float]:
        return lambda nodes: math.ceil(nodes / at_once) * answer_s

    return (
        Row("requests for lists", lambda nodes: 2 * math.ceil(nodes / pages)),
        *(
            Row(
                f"seconds, an answer takes {answer_s:g} s, {number} at once",
                seconds(answer_s, number),
            )
            for answer_s in _ANSWER_S
            for number in (at_once, 4 * at_once)
        ),
    )


def series_of(flagged: int, signals: int = 2) -> int:
    """Series that an agent has whose probes are all on and which has seen no failure."""
    lines = _metrics(flagged, signals).exposition().decode().splitlines()
    return sum(not line.startswith("#") for line in lines)


def _metrics(flagged: int, signals: int) -> Metrics:
    failures = [("pods", reason, 0) for reason in REASONS]
    failures += [("events", reason, 0) for reason in (*REASONS, "missing", "conflict", DROPPED)]
    limit = Config().report.max_container_series
    metrics = Metrics(max_container_series=limit, probe_failures=lambda: failures)
    metrics.rules_loaded(_rules(), 0, 0.0)
    for probe in PROBES:
        metrics.probe_opened(probe, is_on=True)
    for probe in TIMED:
        metrics.probe_took(probe, 0.001)
    metrics.expect_canaries()
    abuses = [abuse.value for abuse in [*Abuse][: MAX_ABUSES if signals > 2 else 1]]
    scores = {(abuse, signal.value): 88.0 for abuse in abuses for signal in [*Signal][:signals]}
    by_abuse = dict.fromkeys(abuses, 98.0)
    metrics.tick_done(
        duration_s=0.001,
        at_s=0.0,
        containers={Level.CLEAR: 50},
        flagged=[
            FlaggedContainer(
                "hub", f"pod-{n}", "main", 98.0, 1.0, scores, by_abuse, owners={"image": "i"}
            )
            for n in range(flagged)
        ],
        processes=500,
    )
    return metrics


@cache
def _rules() -> Sequence[Rule]:
    return rulebook.load((BUILT_IN_RULES,)).rules


def chart_values() -> dict[str, Any]:
    """The defaults of the chart's values."""
    values: dict[str, Any] = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return values


def _scrape_interval_s() -> float:
    return float(chart_values()["podMonitor"]["interval"].removesuffix("s"))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2f}"


# A restart of the API server.

RESTARTS = (
    Scenario(50, 5),
    Scenario(500, 50),
    Scenario(5000, 50, away_s=0.0),
    Scenario(5000, 50, away_s=0.0, is_orderly=True),
    Scenario(5000, 50, away_s=5.0),
    Scenario(5000, 50),
    Scenario(5000, 50, away_s=300.0),
)
CROWDS = (
    Scenario(50, 50),
    Scenario(500, 500),
    Scenario(5000, 500),
    Scenario(5000, 5000),
    Scenario(5000, 500, away_s=0.0, limits=CullBudget(per_cluster=100)),
    Scenario(5000, 500, away_s=0.0, limits=CullBudget(per_cluster=1000)),
    Scenario(200, 200, away_s=0.0, falters=5, limits=CullBudget(per_cluster=40), server=SLOW),
)

RESTART_HEAD = """\
              requests a second            requests                 watches back after, s
nodes  away s  most  after 5 min    lists  watches  refused          half   95 %    all"""

LEASE_HEAD = """\
                       the Lease: reads/s  writes         most of  tries   gave   spent
nodes  acting  budget   most   later      in all  refused     one  in all    up   after s  acted"""


def restart_row(seen: Seen) -> str:
    """What a restart cost, and how long it took."""
    scenario = seen.scenario
    away = f"{scenario.away_s:g}{'*' if scenario.is_orderly else ''}"
    back = "".join(f"{_seconds(seen.following_after_s(share)):>7}" for share in (0.5, 0.95, 1.0))
    return (
        f"{scenario.nodes:5}  {away:>6}  {seen.peak_per_s():4}  {seen.rate_per_s(300, 600):11.1f}"
        f"  {seen.total('list'):7}  {seen.total('watch'):7}  {sum(seen.refused.values()):7}"
        f"       {back}"
    )


def lease_row(seen: Seen) -> str:
    """How a crowd shared the budget."""
    scenario = seen.scenario
    mark = "*" if scenario.server == SLOW else " "
    return (
        f"{scenario.nodes:5}{mark} {scenario.acting:6}  {scenario.limits.per_cluster:6}"
        f"  {seen.peak_per_s(['lease read']):5}  {seen.rate_per_s(300, 600, ['lease read']):6.1f}"
        f"  {seen.total('lease write'):10}  {seen.conflicts:7}  {max(seen.tries):6}"
        f"  {seen.wants:6}  {sum(seen.gave_up.values()):4}  {_seconds(seen.spent_after_s()):>8}"
        f"  {len(seen.acted):5}"
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    began_s = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - began_s:.0f} s")
