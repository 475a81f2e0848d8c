"""The past by Prometheus, for `minerwatch report`: instant queries over the agents' metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from minerwatch.api.history import Incident, NodeHistory
from minerwatch.api.types import Unanswered
from minerwatch.cli.web_client import fetched
from minerwatch.errors import NOT_JSON, SnapshotError
from minerwatch.format import rfc3339
from minerwatch.kinds import Level
from minerwatch.view.abuse_report import ActionCount, Delay, Measured, RuleCount

_ANSWER_S = 120.0
_MAX_ANSWER_BYTES = 64 << 20
_MAX_STEPS = 10_080  # a minute each in a week
_MIN_STEP_S = 15
_MAX_VALUE = 1e15  # no figure here is larger, or less than zero
_STALE_S = 300  # since the agent's last tick
_CONTAINER = ("cluster", "instance", "namespace", "pod", "container")
_BY_CONTAINER = ", ".join(_CONTAINER)
_OWNERS = ("user", "repository", "controller")  # labels, the most telling first

Labels = dict[str, str]
_Ask = Callable[[str], list[tuple[Labels, float]]]


class _Sample(msgspec.Struct):
    metric: Labels
    value: tuple[float, str]


class _Vector(msgspec.Struct):
    result: tuple[_Sample, ...]


class _Answer(msgspec.Struct):
    data: _Vector


@dataclass(frozen=True, slots=True)
class Past:
    """Everything that Prometheus knows of a time."""

    histories: list[NodeHistory]
    missing: list[Unanswered]
    measured: Measured


def decoded(body: bytes) -> list[tuple[Labels, float]]:
    """Return the series of an answer with their values. Raises SnapshotError."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        found = [(each.metric, float(each.value[1])) for each in answer.data.result]
    except NOT_JSON as error:
        raise SnapshotError(f"Prometheus's answer cannot be parsed: {error}") from error
    return [(labels, value) for labels, value in found if 0 <= value <= _MAX_VALUE]


class Prometheus:
    """One Prometheus, or what answers like one."""

    def __init__(self, url: str, token_file: Path | None, ca: Path | None) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._ca = ca

    def read(self, since_s: float, until_s: float) -> Past:
        """Return what the metrics say. Raises SnapshotError."""
        past = past_of(lambda expression: self._asked(expression, until_s), since_s, until_s)
        if not past.histories:
            raise SnapshotError(
                f"{self._url}: no metrics of an agent in this time: check the address, and that"
                " agents are scraped (docs/alerting.md)"
            )
        return past

    def _asked(self, expression: str, at_s: float) -> list[tuple[Labels, float]]:
        query = urlencode({"query": expression, "time": f"{at_s:.3f}"})
        body = fetched(
            f"{self._url}/api/v1/query?{query}", self._token_file, ca=self._ca,
            timeout_s=_ANSWER_S, max_bytes=_MAX_ANSWER_BYTES,
        )  # fmt: skip
        return decoded(body)


def past_of(ask: _Ask, since_s: float, until_s: float) -> Past:
    """Return what the answers of ``ask`` to queries say."""
    span_s = until_s - since_s
    step_s = _MIN_STEP_S * max(1, ceil(span_s / _MAX_STEPS / _MIN_STEP_S))
    queries = _Queries(ask, f"{span_s:.0f}s", step_s)
    recorded = queries.recorded()
    if not recorded:
        return Past([], [], queries.measured())
    incidents = queries.incidents(until_s)
    unlisted = queries.unlisted()
    histories = [
        NodeHistory(
            node=node,
            since=rfc3339(since_s),
            until=rfc3339(until_s),
            recorded_s=max(0.0, min(span_s, steps * step_s)),
            cores=0,
            cpu_hours=0.0,
            flagged_cpu_hours=0.0,
            gaps=(),
            unlisted_gaps=0,
            days=(),
            incidents=tuple(incidents.get(node, ())),
            unlisted=int(unlisted.get(node, 0)),
            unlisted_cpu_hours=None,
            left_out=0,
        )
        for node, steps in sorted(recorded.items())
    ]
    return Past(histories, queries.missing(set(recorded)), queries.measured())


class _Queries:
    """The queries over one time, in steps of seconds."""

    def __init__(self, ask: _Ask, span: str, step_s: int) -> None:
        self._ask = ask
        self._span = span
        self._step_s = step_s
        self._steps = f"{span}:{step_s}s"

    def recorded(self) -> dict[str, float]:
        """Return in how many steps each node's agent had ticked a moment ago."""
        alive = f"time() - minerwatch_last_tick_timestamp_seconds < {_STALE_S}"
        found = self._ask(f"max by (cluster, instance) (count_over_time(({alive})[{self._steps}]))")
        return {_node(labels): value for labels, value in found}

    def incidents(self, until_s: float) -> dict[str, list[Incident]]:
        """Return the flagged containers of each node."""
        peaks: dict[tuple[str, ...], tuple[float, str]] = {}
        for labels, score in self._ask(
            f"max by ({_BY_CONTAINER}, abuse)"
            f" (max_over_time(minerwatch_container_abuse_score[{self._span}]))"
        ):
            key = _key(labels)
            peaks[key] = max(peaks.get(key, (-1.0, "")), (score, labels.get("abuse", "")))
        cores = f"sum_over_time(minerwatch_container_cpu_cores[{self._steps}])"
        cpu_h = self._by_container(f"{cores} * {self._step_s} / 3600")
        gpus = f"sum_over_time(minerwatch_container_gpus[{self._steps}])"
        gpu_h = self._by_container(f"{gpus} * {self._step_s} / 3600")
        at = "timestamp(minerwatch_container_score"
        flagged = self._by_container(f"min_over_time({at})[{self._steps}])")
        detected = self._by_container(f"min_over_time({at} >= 70)[{self._steps}])")
        last = self._by_container(f"max_over_time({at})[{self._steps}])")
        owners = self._owners()
        found: dict[str, list[Incident]] = {}
        for key, (score, abuse) in peaks.items():
            labels = dict(zip(_CONTAINER, key, strict=True))
            last_s = last.get(key)
            is_over = last_s is not None and last_s < until_s - 2 * self._step_s - _STALE_S
            incident = Incident(
                key="",
                namespace=labels["namespace"],
                pod=labels["pod"],
                container=labels["container"],
                image=owners.get(key, {}).get("image", ""),
                owner=next((n for l in _OWNERS if (n := owners.get(key, {}).get(l))), ""),  # noqa: E741
                abuse=abuse,
                level=Level.of(score).label,
                score=score,
                rules=(),
                started="",
                flagged=_time(flagged.get(key)),
                detected=_time(detected.get(key)),
                delay_s=None,
                ended=_time(last_s) if is_over else "",
                cpu_hours=cpu_h.get(key),
                gpu_hours=gpu_h.get(key) or None,
            )
            if Level.of(score):
                found.setdefault(_node(labels), []).append(incident)
        return found

    def unlisted(self) -> dict[str, float]:
        """Return how many flagged containers of each node had no series, at most at once."""
        series = f"max_over_time(minerwatch_container_series_overflow[{self._span}])"
        return {_node(labels): value for labels, value in self._ask(f"{series} > 0")}

    def missing(self, known: set[str]) -> list[Unanswered]:
        """Return nodes that Prometheus knows, but no tick of their agents."""
        jobs = f'max_over_time(up{{job=~".*minerwatch.*"}}[{self._span}])'
        tried = {_node(labels) for labels, _ in self._ask(f"max by (cluster, instance) ({jobs})")}
        found = [
            Unanswered(node, "", "scraped, but no tick of its agent was seen")
            for node in sorted(tried - known)
        ]
        nodes = {
            _node({"cluster": labels.get("cluster", ""), "instance": labels.get("node", "")})
            for labels, _ in self._ask(
                f"max by (cluster, node) (last_over_time(kube_node_info[{self._span}]))"
            )
        }
        if nodes & known:  # else instances are not named after nodes
            found += [
                Unanswered(node, "", "no agent's metrics are known")
                for node in sorted(nodes - known - tried)
            ]
        return found

    def measured(self) -> Measured:
        """Return counts of the whole cluster."""
        delay = "minerwatch_detection_delay_seconds"
        rate = f"sum by (le) (increase({delay}_bucket[{self._span}]))"
        median = self._ask(f"histogram_quantile(0.5, {rate})")
        count = self._ask(f"sum(increase({delay}_count[{self._span}]))")
        return Measured(
            detection=Delay(
                known=round(count[0][1]) if count else 0,
                unknown=0,
                median_s=median[0][1] if median else None,
                longest_s=None,
            ),
            actions=tuple(self._actions()),
            rules=tuple(self._rules()),
        )

    def _actions(self) -> Iterator[ActionCount]:
        counts = f"sum by (action, outcome) (increase(minerwatch_actions_total[{self._span}]))"
        for labels, value in sorted(self._ask(f"{counts} >= 0.5"), key=lambda each: -each[1]):
            outcome = labels.get("outcome", "")
            yield ActionCount(
                action=labels.get("action", ""),
                outcome=outcome,
                dry_run=outcome == "dry-run",
                count=round(value),
            )

    def _rules(self) -> Iterator[RuleCount]:
        info = f"max by (rule, title) (last_over_time(minerwatch_rule_info[{self._span}]))"
        titles = {labels.get("rule", ""): labels.get("title", "") for labels, _ in self._ask(info)}
        counts = f"sum by (rule, signal) (increase(minerwatch_findings_total[{self._span}]))"
        for labels, value in sorted(self._ask(f"{counts} >= 0.5"), key=lambda each: -each[1]):
            rule = labels.get("rule", "")
            yield RuleCount(
                rule=rule,
                title=titles.get(rule, ""),
                signal=labels.get("signal", ""),
                count=round(value),
            )

    def _owners(self) -> dict[tuple[str, ...], Labels]:
        found = self._ask(f"last_over_time(minerwatch_flagged_owner_info[{self._span}])")
        return {_key(labels): labels for labels, _ in found}

    def _by_container(self, expression: str) -> dict[tuple[str, ...], float]:
        found = self._ask(f"max by ({_BY_CONTAINER}) ({expression})")
        return {_key(labels): value for labels, value in found}


def _key(labels: Labels) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in _CONTAINER)


def _node(labels: Labels) -> str:
    """Return the node, after its cluster where there is one."""
    return "/".join(filter(None, (labels.get("cluster", ""), labels.get("instance", ""))))


def _time(unix_s: float | None) -> str:
    return "" if unix_s is None else rfc3339(unix_s)
