"""The screen itself: it wires what is asked, what is shown, and what keys do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rich.traceback import Traceback
from textual.app import App
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.filter import LineFilter
from textual.message import Message

from minerwatch.api.snapshot import encode
from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen import words
from minerwatch.cli.top_screen.banner import Heading
from minerwatch.cli.top_screen.cells import Scene
from minerwatch.cli.top_screen.clipboard import copied, saved
from minerwatch.cli.top_screen.feed import Feed, in_background, reason_of
from minerwatch.cli.top_screen.history import key_of
from minerwatch.cli.top_screen.look import Look
from minerwatch.cli.top_screen.page import Subject
from minerwatch.cli.top_screen.pages import (
    ChoiceScreen,
    PageScreen,
    ProposalScreen,
    TableScreen,
    TextScreen,
    help_screen,
    nodes_screen,
)
from minerwatch.cli.top_screen.presentation import Presentation, Presenter
from minerwatch.cli.top_screen.proposal import Choice, Proposal, Proposer
from minerwatch.cli.top_screen.rows import Row, View
from minerwatch.cli.top_screen.sources import Watched
from minerwatch.cli.top_screen.terminal import Terminal
from minerwatch.cli.top_screen.widgets import AsciiFilter, Grid, HarmlessFilter
from minerwatch.view.explanation import explanation
from minerwatch.view.selection import place

_COPY_WIDTH = 100

T = TypeVar("T")


class _Looked(Message):
    """The feed has something newer."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class _Done(Message):
    """Work that another thread did; ``then`` is called with its result."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self.then = then


class TopApp(App[None]):
    """``minerwatch top`` until it is quit."""

    ENABLE_COMMAND_PALETTE = False
    ESCAPE_TO_MINIMIZE = False
    AUTO_FOCUS = None
    TITLE = "minerwatch"
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    ChoiceScreen { background: transparent; }
    #banner { height: 2; }
    #grid, #lines { height: 1fr; }
    #rule { height: 1; }
    #foot, #filtering { height: 1; }
    #filter-title { width: 8; }
    #panel { dock: bottom; background: ansi_default; }
    #confirmation { height: 1; }
    #question { width: 6; }
    Input, Input:focus { height: 1; border: none; padding: 0 1; background: ansi_default; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", priority=True),
        Binding("ctrl+q", "quit", priority=True),
        Binding("ctrl+z", "suspend_process", priority=True),
    ]

    def __init__(
        self,
        watched: Watched,
        view: View,
        terminal: Terminal,
        proposer: Proposer,
        folder: Path | None = None,
        driver_class: type[Driver] | None = None,
    ) -> None:
        """``folder``: where files are saved; None: the current one."""
        super().__init__(driver_class=driver_class, ansi_color=True)
        self.animation_level = "none"
        self.view = view
        self.shown: Presentation | None = None
        self._watched = watched
        self._terminal = terminal
        self._proposer = proposer
        self._folder = folder
        self._ascii = AsciiFilter()
        self._harmless = HarmlessFilter()
        self._look: Look | None = None  # that is shown
        self._newest: Look | None = None
        self._untaken: list[Look] = []  # into the history
        self._presenter = Presenter(watched.step_s)
        self._working = 0
        self._is_presenting = False
        self._is_behind = False
        self._is_paused = False
        self._is_asking_whole = False
        self._table = TableScreen(watched.step_s)
        self._feed = Feed(watched, lambda look: self._tell(_Looked(look)))

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own; nothing that a terminal obeys; where it knows no more, ASCII."""
        filters = [*super().get_line_filters(), self._harmless]
        return filters if self._terminal.has_unicode else [*filters, self._ascii]

    async def on_mount(self) -> None:
        """Show that something is asked for, and ask."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
                loop.add_signal_handler(number, self.exit)
        await self.push_screen(self._table)
        self._table.wait(
            words.empty_lines(None, self.view, 0, self._watched.waits_for, self.size.width)
        )
        self._feed.start()

    def on_unmount(self) -> None:
        """Ask no more."""
        self._feed.close()

    @property
    def grid(self) -> Grid:
        """The rows."""
        return self._table.grid

    @property
    def page(self) -> PageScreen:
        """The container's page that is open; raises IndexError if none is."""
        return self._pages()[-1]

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is being worked out in another thread."""
        return self._working == 0

    # What comes from other threads.

    def _tell(self, message: Message) -> None:
        with suppress(RuntimeError):  # the screen is closing: nobody listens
            self.post_message(message)

    def _do(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Does ``work`` in another thread, then ``then`` in this one."""

        def done(result: T | Exception) -> None:
            self._working -= 1
            then(result)

        self._working += 1
        in_background(work, lambda result: self._tell(_Done(lambda: done(result))), "work")

    def on__looked(self, message: _Looked) -> None:
        """Take it, and show it unless it is paused."""
        self._newest = message.look
        self._untaken.append(message.look)
        if not self._is_paused:
            self._look = message.look
            self._present()

    def on__done(self, message: _Done) -> None:
        """Go on with the result."""
        message.then()

    def _present(self) -> None:
        """Work out what is shown, apart from this thread; what is asked meanwhile comes next."""
        if self._look is None:
            return
        if self._is_presenting:
            self._is_behind = True
            return
        self._is_presenting = True
        look, view = self._look, self.view
        untaken, self._untaken = self._untaken, []

        def work() -> Presentation:
            for each in untaken:
                self._presenter.take(each)
            return self._presenter.present(look, view)

        self._do(work, self._presented)

    def _presented(self, result: Presentation | Exception) -> None:
        self._is_presenting = False
        if isinstance(result, Exception):
            self._say(reason_of(result))
            return
        self.shown = result
        self._show(result)
        for page in self._pages():
            self._refresh_page(page)
        if self._is_behind:
            self._is_behind = False
            self._present()

    def _show(self, shown: Presentation) -> None:
        look, arrangement = shown.look, shown.arrangement
        heading = Heading(
            look,
            shown.view,
            arrangement.every,
            arrangement.shown,
            shown.campaigns,
            self._watched.refresh_s,
            self._is_paused,
        )
        hidden = len(arrangement.every) - arrangement.shown
        empty = words.empty_lines(
            look, shown.view, hidden, self._watched.waits_for, self.size.width
        )
        scene = Scene(look.at, self._presenter.history, look.stale)
        self._table.show(shown, heading, scene, empty)

    def _say(self, text: str) -> None:
        screen = self.screen
        if isinstance(screen, TableScreen | PageScreen | ProposalScreen):
            screen.say(text)

    # What is seen.

    def action_sort(self, key: str) -> None:
        """By another column; by the same one, the other way round."""
        is_reversed = self.view.sort == key and not self.view.is_reversed
        self._see(sort=key, is_reversed=is_reversed)

    def action_choose_sort(self) -> None:
        """Ask by what."""

        def chosen(key: str | None) -> None:
            if key is not None:
                self.action_sort(key)

        self.push_screen(ChoiceScreen("Sort by", words.SORT_CHOICES), chosen)

    def action_tree(self) -> None:
        """Group by owner, by campaign, or not."""
        self._see(tree=self.view.tree.next, closed=frozenset())

    def action_show_all(self) -> None:
        """Idle containers too, or not."""
        self._see(show_all=not self.view.show_all)

    def filter(self, text: str) -> None:
        """Only what holds each word of ``text``."""
        if text != self.view.text:
            self._see(text=text)

    def fold(self, row: Row, *, is_open: bool) -> None:
        """Open or close a group."""
        closed = self.view.closed - {row.key} if is_open else self.view.closed | {row.key}
        self._see(closed=closed)

    def _see(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)
        self._present()

    def action_pause(self) -> None:
        """Hold still, or go on with what is newest."""
        self._is_paused = not self._is_paused
        self._feed.pause(is_paused=self._is_paused)
        if not self._is_paused:
            self._look = self._newest
        self._present()

    def action_hurry(self) -> None:
        """Look again now."""
        if self._is_paused:
            self._say("It is paused: space goes on.")
        else:
            self._feed.hurry()

    def action_help(self) -> None:
        """Keys, columns, levels."""
        self.push_screen(help_screen())

    def action_nodes(self) -> None:
        """Which nodes answered, which did not."""
        if self.shown is not None:
            self.push_screen(nodes_screen(self.shown))

    # One container.

    def open_page(self, row: Row) -> None:
        """Show everything about it."""
        if self.shown is not None:
            page = PageScreen(row, self._subject(self.shown, row.status))
            self.push_screen(page)
            self._refresh_page(page)

    def _pages(self) -> list[PageScreen]:
        return [screen for screen in self.screen_stack if isinstance(screen, PageScreen)]

    def _refresh_page(self, page: PageScreen) -> None:
        """What the last look says of it, with all its processes; one question at a time."""
        shown = self.shown
        if shown is None or self._is_asking_whole:
            return
        status = shown.container(page.row.key)
        if status is None:
            page.show(replace(page.subject, is_gone=True))
            return
        self._is_asking_whole = True

        def told(result: ContainerStatus | Exception) -> None:
            self._is_asking_whole = False
            if page in self._pages() and not self._is_paused_since(shown):
                whole = status if isinstance(result, Exception) else result
                page.show(self._subject(shown, whole))

        self._do(lambda: self._watched.whole(status), told)

    def _is_paused_since(self, shown: Presentation) -> bool:
        return self._is_paused and shown is not self.shown

    def _subject(self, shown: Presentation, status: ContainerStatus) -> Subject:
        key = key_of(status)
        alike = (
            campaign
            for campaign in shown.campaigns
            if any(key_of(member) == key for member in campaign.members)
        )
        return Subject(
            status,
            shown.look.at,
            self._presenter.history.of(key),
            self._presenter.history.step_s,
            self._presenter.journal.of(key),
            next(alike, None),
            shown.agent(status.node),
            shown.look.stale.get(status.node),
        )

    def copy(self, row: Row) -> None:
        """Ask in which form, then copy it."""
        shown = self.shown
        if shown is None:
            return

        def chosen(form: str | None) -> None:
            if form is not None:
                self._do(lambda: self._taken_out(shown, row, form), self._said)

        self.push_screen(ChoiceScreen("Copy", words.COPY_CHOICES), chosen)

    def _taken_out(self, shown: Presentation, row: Row, form: str) -> str:
        """Where it went."""
        members = row.group.members if row.group else (self._watched.whole(row.status),)
        name = row.group.title if row.group else place(row.status)
        text = "\n".join(self._explained(shown, member) for member in members)
        json = encode(members) if row.group else encode(members)[1:-1]
        if form == "save":
            stem = f"{name}-{shown.look.at:%Y%m%dT%H%M%SZ}"
            files = saved(
                {".txt": text.encode("utf-8", "backslashreplace"), ".json": json + b"\n"},
                stem,
                self._folder or Path.cwd(),
            )
            return "saved: " + ", ".join(str(file) for file in files)
        content = text if form == "text" else json.decode()
        return "copied to " + copied(content, self._write, os.environ)

    def _explained(self, shown: Presentation, status: ContainerStatus) -> str:
        campaign = self._subject(shown, status).campaign
        return explanation(status, now=shown.look.at, width=_COPY_WIDTH, campaign=campaign)

    def _write(self, sequence: str) -> None:
        """Sends what is no text to the terminal; from any thread."""
        if self._driver is not None:
            self._driver.write(sequence)

    def _said(self, result: str | Exception) -> None:
        self._say(reason_of(result) if isinstance(result, Exception) else result)

    # Actions.

    def act(self, status: ContainerStatus) -> None:
        """Ask which action, then what the policy says of it, and show that."""
        proposer = self._proposer
        agent = self.shown.agent(status.node) if self.shown else None

        def offered(result: Sequence[Choice] | Exception) -> None:
            if isinstance(result, Exception):
                self._say(reason_of(result))
            else:
                self.push_screen(ChoiceScreen(words.ACTION_QUESTION, result), chosen)

        def chosen(action: str | None) -> None:
            if action is not None:
                self._say("asking the policy …")
                self._do(lambda: proposer.propose(status, action), proposed)

        def proposed(result: Proposal | Exception) -> None:
            if isinstance(result, Exception):
                self._say(reason_of(result))
            else:
                self.push_screen(ProposalScreen(result, self._carry_out))

        self._do(lambda: proposer.choices(status, agent), offered)

    def _carry_out(self, proposal: Proposal) -> None:
        self._say(f"asking for it, {proposal.mode} …")

        def done(result: str | Exception) -> None:
            self._feed.hurry()
            if isinstance(result, Exception):
                self._say(reason_of(result))
            else:
                self.push_screen(TextScreen(lambda width: words.told_lines(result, width)))

        self._do(lambda: self._proposer.carry_out(proposal), done)

    def _fatal_error(self) -> None:
        """A traceback without what was in memory: that may be somebody's secrets."""
        self.panic(Traceback(show_locals=False))
