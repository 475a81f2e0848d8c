"""The application: it wires polling, what is shown, and what keys do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rich.traceback import Traceback
from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.copies import copy_of
from minerwatch.cli.top_screen.dialogs import export_copy, propose
from minerwatch.cli.top_screen.feed import Feed, in_thread, reason_of
from minerwatch.cli.top_screen.filters import AsciiFilter, HarmlessFilter
from minerwatch.cli.top_screen.pager import Prompt
from minerwatch.cli.top_screen.proposal import Proposer
from minerwatch.cli.top_screen.screens import ChoiceScreen, MainScreen, PagerScreen, PageScreen
from minerwatch.cli.top_screen.sources import Watched
from minerwatch.cli.top_screen.terminal import Terminal
from minerwatch.untrusted_text.display import printable
from minerwatch.view.screen import words
from minerwatch.view.screen.containers import Group, Kind, Row, View
from minerwatch.view.screen.history import key_of
from minerwatch.view.screen.nodes import NodeRow
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presentation, Presenter

T = TypeVar("T")


class _Polled(Message):
    """The feed has something newer."""

    def __init__(self, poll: Poll) -> None:
        super().__init__()
        self.poll = poll


class TopApp(App[None]):
    """``minerwatch top`` until it is quit."""

    ESCAPE_TO_MINIMIZE = False
    TITLE = "minerwatch"
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "copy what is selected, or quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "suspend", show=False, priority=True),
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
        super().__init__(driver_class, ansi_color=bool(os.environ.get("NO_COLOR")) or None)
        self.theme = "ansi-dark"  # the terminal's own sixteen colours
        self.animation_level = "none"
        self.view = view
        self.shown: Presentation | None = None
        self._watched = watched
        self._has_unicode = terminal.has_unicode
        self._proposer = proposer
        self._folder = folder
        self._poll: Poll | None = None  # that is shown
        self._polls: list[Poll] = []  # that are not yet in the history
        self._newest: Poll | None = None
        self._presenter = Presenter(watched.step_s)
        self._changed = asyncio.Event()
        self._working = 0
        self._is_paused = False
        self._is_reading_page = False
        self.main = MainScreen(watched.refresh_s, watched.waits_for)
        self._feed = Feed(watched, self._deliver)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return Textual's own; nothing that a terminal obeys; where it knows no more, ASCII."""
        filters = [*super().get_line_filters(), HarmlessFilter()]
        return filters if self._has_unicode else [*filters, AsciiFilter()]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield what the command palette finds: everything that a key does here, and themes."""
        for node, binding, enabled, _ in screen.active_bindings.values():
            if enabled and binding.show:
                title = f"{binding.description[:1].upper()}{binding.description[1:]}"
                run = partial(self.run_action, binding.action, node)
                yield SystemCommand(title, binding.tooltip, run)
        for letter, sort, said in words.SORTS if screen is self.main else ():
            yield SystemCommand(f"Sort by {said}", letter, partial(self.action_sort, sort))
        yield SystemCommand("Theme", "change the colours", self.action_change_theme)

    async def on_mount(self) -> None:
        """Ask, and show what comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
                loop.add_signal_handler(number, self.exit)
        await self.push_screen(self.main)
        self._watched.want_processes(is_wanted=self.view.kind is Kind.PROCESSES)
        self._present_changes()
        self._feed.start()

    def on_unmount(self) -> None:
        """Ask no more."""
        self._feed.close()

    @property
    def is_at_rest(self) -> bool:
        """Return True if nothing is being computed in another thread."""
        return not self._working and not self._changed.is_set()

    def _deliver(self, poll: Poll) -> None:
        """Receive a poll from the feed's thread."""
        with suppress(RuntimeError):  # the screen is closing
            self.post_message(_Polled(poll))

    @on(_Polled)
    def _polled(self, message: _Polled) -> None:
        self._newest = message.poll
        self._polls.append(message.poll)
        if not self._is_paused:
            self._poll = message.poll
            self._changed.set()

    @work
    async def _present_changes(self) -> None:
        """Present what has changed, apart from this thread; changes meanwhile come next."""
        while await self._changed.wait():
            self._changed.clear()
            if self._poll is not None:
                polls, self._polls = self._polls, []
                work = partial(self._presenter.present, self._poll, self.view, polls)
                shown = await self.done(work)
                if shown is not None:
                    self.shown = shown
                    self.main.show(shown, is_paused=self._is_paused)
                    self._read_pages()

    async def done(self, work: Callable[[], T]) -> T | None:
        """Return the result of ``work``, done in another thread; None: it failed, as is shown."""
        self._working += 1
        try:
            return await in_thread(work)
        except Exception as error:  # noqa: BLE001 - shown, and the screen goes on
            self.say(reason_of(error), severity="error")
            return None
        finally:
            self._working -= 1

    def say(self, text: str, severity: Any = "information") -> None:
        """Show a notice for some seconds."""
        self.notify(printable(text), severity=severity, markup=False)

    def see(self, **changes: Any) -> None:
        """Change what is shown."""
        self.view = replace(self.view, **changes)
        self._changed.set()
        if self._watched.want_processes(is_wanted=self.view.kind is Kind.PROCESSES):
            self._feed.hurry()

    def action_sort(self, key: str) -> None:
        """Sort by another column; by the same one, reversed."""
        is_same = self.shown is not None and self.shown.sort == key == self.view.sort
        self.see(sort=key, is_reversed=is_same and not self.view.is_reversed)

    @work
    async def action_choose_sort(self) -> None:
        """Ask for the column."""
        key = await self.push_screen_wait(ChoiceScreen("Sort by", words.SORTS))
        if key is not None:
            self.action_sort(key)

    def action_tree(self) -> None:
        """Group by owner, by campaign, or not; fold processes that are alike, or not."""
        if self.view.kind is Kind.PROCESSES:
            self.see(is_folded=not self.view.is_folded)
        else:
            self.see(tree=self.view.tree.next, closed=frozenset(), kind=Kind.CONTAINERS)

    def action_show_all(self) -> None:
        """Show idle ones too, or not."""
        self.see(show_all=not self.view.show_all)

    def action_kind(self, name: str) -> None:
        """Show another table, or again that of containers."""
        kind = Kind[name]
        self.see(kind=Kind.CONTAINERS if kind is self.view.kind else kind)

    def action_next_kind(self, step: int) -> None:
        """Show the next table."""
        kinds = list(Kind)
        self.see(kind=kinds[(kinds.index(self.view.kind) + step) % len(kinds)])

    def action_leave(self) -> None:
        """Go back to the containers, or quit."""
        if self.view.kind is Kind.CONTAINERS:
            self.exit()
        else:
            self.see(kind=Kind.CONTAINERS)

    @on(Prompt.Typed)
    def _filter(self, event: Prompt.Typed) -> None:
        if event.text != self.view.text:
            self.see(text=event.text)

    def action_fold(self, is_open: bool) -> None:
        """Open or close the selected group."""
        row = self.main.table.selected
        if isinstance(row, Row) and row.group is not None:
            key = frozenset([row.key])
            self.see(closed=self.view.closed - key if is_open else self.view.closed | key)

    def action_pause(self) -> None:
        """Hold still, or go on with the newest poll."""
        self._is_paused = not self._is_paused
        self._feed.pause(is_paused=self._is_paused)
        if not self._is_paused:
            self._poll = self._newest
        self._changed.set()

    def action_hurry(self) -> None:
        """Poll again now."""
        if self._is_paused:
            self.say("It is paused: space goes on.")
        else:
            self._feed.hurry()

    def action_help(self) -> None:
        """Show keys, columns, levels."""
        self.push_screen(PagerScreen(words.help_sections))

    async def action_interrupt(self) -> None:
        """Copy what is selected by the mouse; quit if nothing is."""
        selected = self.screen.get_selected_text()
        if selected:
            self.copy_to_clipboard(selected)
            self.say("copied")
        else:
            self.exit()

    @on(DataTable.RowSelected)
    def _show_selected(self) -> None:
        """Show everything about the selected row."""
        row, shown = self.main.table.selected, self.shown
        if row is None or shown is None:
            return
        if isinstance(row, NodeRow):
            self.push_screen(PagerScreen(partial(words.node_sections, row, shown.poll)))
        elif isinstance(row, Row) and row.group is not None:
            self.action_fold(not row.group.is_open)
        else:
            self.push_screen(PageScreen(self._presenter.subject(shown, row.status)))
            self._read_pages()

    @property
    def _pages(self) -> list[PageScreen]:
        return [screen for screen in self.screen_stack if isinstance(screen, PageScreen)]

    @work
    async def _read_pages(self) -> None:
        """Show on a page what the last poll says, with all processes; one question at a time."""
        shown = self.shown
        if shown is None or self._is_reading_page:
            return
        self._is_reading_page = True
        for page in self._pages:
            status = shown.container(key_of(page.subject.status))
            if status is None:
                page.show(replace(page.subject, is_gone=True))
                continue
            whole = await self._whole(status)
            if page in self._pages and not (self._is_paused and shown is not self.shown):
                page.show(self._presenter.subject(shown, whole))
        self._is_reading_page = False

    async def _whole(self, status: ContainerStatus) -> ContainerStatus:
        """Return it with all its processes, as far as they can be had."""
        self._working += 1
        try:
            return await in_thread(partial(self._watched.whole, status))
        except Exception:  # noqa: BLE001 - the poll has said it
            return status
        finally:
            self._working -= 1

    @property
    def _group(self) -> Group | None:
        """The selected group, if keys are about one."""
        row = self.main.table.selected if self.screen is self.main else None
        return row.group if isinstance(row, Row) else None

    def _selected(self) -> ContainerStatus | None:
        """Return the container that keys are about, or say that there is none."""
        if isinstance(self.screen, PageScreen):
            return self.screen.subject.status
        row = self.main.table.selected
        if row is None or isinstance(row, NodeRow):
            self.say(words.NO_ROW)
            return None
        return row.status

    @work
    async def action_copy(self) -> None:
        """Ask in which form, then copy or save what explains the row."""
        status, group = self._selected(), self._group
        if status is not None and self.shown is not None:
            members = group.members if group else (status,)
            subjects = [self._presenter.subject(self.shown, each) for each in members]
            if not group:
                subjects = [replace(subjects[0], status=await self._whole(status))]
            await export_copy(self, copy_of(subjects, group), self._folder or Path.cwd())

    @work
    async def action_act(self) -> None:
        """Ask which action, then the policy, then for the name; do it then."""
        if self._group is not None:
            self.say(words.GROUP)
            return
        status = self._selected()
        if status is not None:
            agent = self.shown.agent(status.node) if self.shown else None
            if await propose(self, self._proposer, status, agent):
                self._feed.hurry()

    def _fatal_error(self) -> None:
        """Show a traceback without what was in memory: that may be a tenant's secrets."""
        self.panic(Traceback(show_locals=False))
