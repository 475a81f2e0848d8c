"""Views of made-up nodes, and what a browser would make of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

from minerwatch.api.journal import AnyLine, RuleScore, Usage, UsageLine, VerdictLine
from minerwatch.api.types import AgentStatus
from minerwatch.format import rfc3339
from minerwatch.model import MachineTotals
from minerwatch.view.journal_history import History, history
from minerwatch.web.layout import View, page_key
from tests.report.samples import HELD, HOST, LIKELY, MINER, NOW, SIMULATION, SUSPICIOUS

DAY_S = 86400.0
UNTIL_S = NOW.timestamp()
SINCE_S = UNTIL_S - 7 * DAY_S
AGENT = AgentStatus(
    node="node-7", version="1.2.3", rules={"stable": 100, "test": 12}, culling="off",
    blind_spots=("/proc hides other users' processes",), troubles=("the API server is down",),
)  # fmt: skip
MACHINE = MachineTotals(16, 11.9, 64 << 30, 19 << 30)
STATUSES = (MINER, LIKELY, SUSPICIOUS, HELD, SIMULATION, HOST)


def usage(at_s: float, *used: Usage, cpu_cores: float) -> UsageLine:
    flagged = sum(each.cpu_cores for each in used if each.level != "clear")
    return UsageLine(
        at=rfc3339(at_s), node="node-7", seconds=300, cores=16, cpu_cores=cpu_cores,
        flagged_cpu_cores=flagged, containers=used,
    )  # fmt: skip


def change(at_s: float, level: str, previous: str, **changes: Any) -> VerdictLine:
    names = {
        "key": page_key(MINER), "namespace": "binder", "pod": MINER.pod, "pod_uid": "u",
        "container": "notebook", "container_id": MINER.container_id, "image": MINER.image,
        "owner": "alice",
    }  # fmt: skip
    rules = (RuleScore("r", "RandomX is executed", "compute", 88.0),)
    return VerdictLine(
        **{
            "at": rfc3339(at_s), "node": "node-7", **names, "level": level, "previous": previous,
            "score": 91.5, "abuse": "mining", "since": rfc3339(at_s), "started": "",
            "cpu_cores": 1.98, "cpu_hours": 2.5, "rules": rules, **changes,
        }
    )  # fmt: skip


@cache
def made_up_week() -> tuple[AnyLine, ...]:
    """A week with a miner on two days and half a day without the agent."""
    lines: list[AnyLine] = []
    at_s = SINCE_S
    while at_s + 300 <= UNTIL_S:
        at_s += 300
        day = (at_s - SINCE_S) / DAY_S
        if 2.1 < day < 2.6:
            continue
        is_mined = 3.2 < day < 3.6 or day > 6.7
        used = [Usage(key=page_key(SIMULATION), container="simulation.service", cpu_cores=1.5)]
        if is_mined:
            used.append(
                Usage(
                    key=page_key(MINER), namespace="binder", pod=MINER.pod, container="notebook",
                    owner="alice", level="confirmed", cpu_cores=1.98,
                )
            )  # fmt: skip
        lines.append(usage(at_s, *used, cpu_cores=1.8 + 2 * is_mined + (day % 1)))
    lines += [
        change(SINCE_S + 3.2 * DAY_S, "confirmed", "clear"),
        change(SINCE_S + 3.6 * DAY_S, "gone", "confirmed", cpu_cores=0.0),
        change(SINCE_S + 6.7 * DAY_S, "confirmed", "clear"),
    ]
    return (*lines,)


def week(lines: Sequence[AnyLine] | None = None) -> History:
    return history(made_up_week() if lines is None else lines, SINCE_S, UNTIL_S)


def view(**changes: Any) -> View:
    return replace(View(STATUSES, AGENT, MACHINE, week(), NOW), **changes)


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)
