"""The screen, driven as a person would: recorded polls in, keys in, pictures and text out."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import structs
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from minerwatch.api.snapshot import decode
from minerwatch.api.types import (
    AgentStatus,
    ConnectionStatus,
    ContainerStatus,
    CullStatus,
    Unanswered,
)
from minerwatch.cli.top_screen.app import TopApp
from minerwatch.cli.top_screen.proposal import ByHand, ProposalError, Proposer
from minerwatch.cli.top_screen.screens import PageScreen
from minerwatch.cli.top_screen.terminal import Terminal
from minerwatch.errors import MinerwatchError
from minerwatch.view.overview import Coverage
from minerwatch.view.screen.containers import Row, View
from minerwatch.view.screen.history import key_of
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presentation
from tests.report.samples import MINER, NODE, NOW
from tests.waiting import PATIENCE_S

UNICODE = Terminal(has_unicode=True, is_dumb=False)
ASCII = Terminal(has_unicode=False, is_dumb=False)
AGENT = AgentStatus(
    "node-7", "0.1.0", "2026-11-23T00:10:00Z", 10.0, {"stable": 96, "test": 16}, 0, "off"
)
CLUSTER = Path(__file__).parents[2] / "fixtures" / "clusters" / "three-nodes"
CRASHING = Unanswered(
    "node-3", "minerwatch/minerwatch-9zlpd", "its agent does not run: CrashLoopBackOff"
)
OFF = CullStatus("off", "observe", "observe", True, 0, ("Culling is off.",))
TALKING = structs.replace(
    MINER,
    culling=OFF,
    started="2026-11-22T23:04:10Z",
    processes=(
        structs.replace(
            MINER.processes[0],
            connections=(ConnectionStatus("203.0.113.7", 3333, "2026-11-23T02:18:00Z"),),
        ),
        structs.replace(MINER.processes[1], cpu_cores=0.0),
        MINER.processes[2],
    ),
)
ROUNDS = 12
"""Polls of two minutes: as long a past as a picture shows."""
_FEW = 3
"""Polls of other screens: each is drawn as it comes."""


def nobody(_node: str, _path: str, _order: bytes) -> bytes:
    """An agent that takes no orders."""
    raise ProposalError("it takes no orders")


class Recorded:
    """Polls that follow each other at once, the last of them for ever."""

    refresh_s = 5.0
    step_s = 10.0
    waits_for = "asking the agent on /run/minerwatch/agent.sock"

    def __init__(self, polls: Sequence[Poll | MinerwatchError]) -> None:
        self.rounds = list(polls)
        self.asked = 0
        self.wants_processes = False
        self.closed = False

    def polls(self) -> Iterator[Poll]:
        """All of them the first time, then the last."""
        self.asked += 1
        if self.asked > 1:
            self.rounds = self.rounds[-1:]
        for poll in self.rounds:
            if isinstance(poll, MinerwatchError):
                raise poll
            yield poll

    def whole(self, status: ContainerStatus) -> ContainerStatus:
        """As it was recorded."""
        last = self.rounds[-1]
        every = last.statuses if isinstance(last, Poll) else ()
        return next((each for each in every if key_of(each) == key_of(status)), status)

    def want_processes(self, *, is_wanted: bool) -> bool:
        """Poll again for them, as an agent's node does."""
        is_new, self.wants_processes = is_wanted != self.wants_processes, is_wanted
        return is_new

    def close(self) -> None:
        """Say that it was called."""
        self.closed = True


def moving(
    statuses: Sequence[ContainerStatus], now: datetime = NOW, rounds: int = ROUNDS, **changes: Any
) -> tuple[Poll, ...]:
    """Return polls in which some use more and more CPU; the last is as ``statuses`` say."""
    polls = []
    for step in range(ROUNDS - rounds, ROUNDS):
        left = ROUNDS - 1 - step
        share = {0: 1.0, 1: 0.97, 2: 1.0}.get(left % 3, 1.0) if left < 7 else 0.1 * step
        at = now - timedelta(seconds=10 * left)
        every = tuple(
            structs.replace(each, cpu_cores=each.cpu_cores * (share if each.findings else 1.0))
            for each in statuses
        )
        polls.append(Poll(every, at, **changes))
    return tuple(polls)


def node(
    statuses: Sequence[ContainerStatus] = (TALKING, *NODE[1:]), rounds: int = _FEW
) -> Recorded:
    """One node, with an agent that says what it is."""
    return Recorded(moving(statuses, rounds=rounds, agents=(AGENT,)))


def cluster(rounds: int = _FEW, **changes: Any) -> Recorded:
    """The recorded cluster: of its three nodes one does not answer."""
    answers = [(CLUSTER / f"node-{number}.json").read_bytes() for number in (1, 2)]
    statuses = tuple(status for answer in answers for status in decode(answer))
    agents = tuple(structs.replace(AGENT, node=f"node-{number}") for number in (1, 2))
    coverage = Coverage("lab", "", 2, (CRASHING,), "", agents)
    recorded = Recorded(
        moving(statuses, rounds=rounds, coverage=coverage, agents=agents, **changes)
    )
    recorded.step_s, recorded.refresh_s = 30.0, 30.0
    return recorded


@dataclass(frozen=True, slots=True)
class Driven:
    """The screen that is driven."""

    app: TopApp
    pilot: Pilot[None]
    notices: list[str] = field(default_factory=list)
    """All that the screen has told: on a busy machine a notice has gone before it is looked for."""

    def __post_init__(self) -> None:
        notify = self.app.notify

        def noted(message: str, **how: Any) -> None:
            self.notices.append(message)
            notify(message, **how)

        self.app.notify = noted  # type: ignore[method-assign]

    @property
    def shown(self) -> Presentation:
        """What is shown."""
        assert self.app.shown is not None
        return self.app.shown

    @property
    def selected(self) -> Row:
        """The row of a container under the cursor."""
        row = self.app.main.table.selected
        assert isinstance(row, Row)
        return row

    @property
    def line(self) -> int:
        """The line of the table that the selected row stands on."""
        table = self.app.main.table
        return table.cursor_row - int(table.scroll_y)

    @property
    def statuses(self) -> list[ContainerStatus]:
        """The containers of all rows."""
        return [row.status for row in self.shown.rows if isinstance(row, Row)]

    @property
    def page(self) -> PageScreen:
        """The container's page that is open."""
        page = self.app.screen
        assert isinstance(page, PageScreen)
        return page

    @property
    def text(self) -> str:
        """What is to be read on it."""
        return text_of(self.app.export_screenshot())

    @property
    def footer(self) -> str:
        """What the footer says."""
        return " ".join(str(key.render()).strip() for key in self.app.screen.query(FooterKey))

    async def told(self, text: str) -> None:
        """Wait for a notice."""
        await self.until(lambda: self.has_told(text))

    def has_told(self, text: str) -> bool:
        """Return True if there was a notice with the text."""
        return any(text in each for each in self.notices)

    async def press(self, *keys: str) -> None:
        """Press keys, and let them have their effect."""
        await self.pilot.press(*keys)
        await self.settle()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that comes from another thread."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + PATIENCE_S
        while not holds():
            assert loop.time() < end_s, self.text
            await self.pilot.pause(0.01)
        await self.pilot.pause()

    async def settle(self) -> None:
        """Wait until nothing is being worked out any more."""
        await self.pilot.pause()
        await self.until(lambda: self.app.is_at_rest)


@asynccontextmanager
async def driven(
    watched: Recorded,
    size: tuple[int, int] = (120, 40),
    *,
    view: View | None = None,
    terminal: Terminal = UNICODE,
    proposer: Proposer | None = None,
    folder: Path | None = None,
) -> AsyncIterator[Driven]:
    """A screen of ``size`` that has shown all that was recorded."""
    app = TopApp(watched, view or View(), terminal, proposer or ByHand(nobody), folder)
    async with app.run_test(size=size, notifications=True) as pilot:
        screen = Driven(app, pilot)
        last = watched.rounds[-1]
        if isinstance(last, Poll):
            await screen.until(lambda: app.shown is not None and app.shown.poll is last)
        else:
            await screen.until(lambda: app.shown is not None and app.shown.poll.failure != "")
        await screen.settle()
        yield screen


def text_of(svg: str) -> str:
    """The text of a picture, line by line."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for match in re.finditer(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        if "-title" in match[0]:
            continue
        x, y, text = float(match[1]), float(match[2]), html.unescape(match[3])
        lines.setdefault(y, []).append((x, text.replace("\N{NO-BREAK SPACE}", " ")))
    return "\n".join(
        "".join(text for _, text in sorted(pieces)).rstrip() for _, pieces in sorted(lines.items())
    )


def normal(svg: str) -> str:
    """A picture without what differs from run to run, and without fonts of other places."""
    named = re.sub(r"terminal-\d+-", "terminal-", svg)
    own = re.sub(r"\s*@font-face \{.*?\n    \}", "", named, flags=re.DOTALL)
    return own.replace("Fira Code, monospace", "DejaVu Sans Mono, Menlo, Consolas, monospace")


Scenario = Callable[[Driven], Awaitable[None]]


def run(
    watched: Recorded, scenario: Scenario, size: tuple[int, int] = (120, 40), **how: Any
) -> None:
    """Drive a screen as ``scenario`` says."""

    async def drive() -> None:
        async with driven(watched, size, **how) as screen:
            await scenario(screen)

    asyncio.run(drive())
