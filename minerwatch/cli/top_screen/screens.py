"""The screens: the tables, a container's page, text to read, a question, a proposal to confirm.

They show what was computed elsewhere; keys start actions of the app by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Footer, Input, Label, OptionList, Static, Tab, Tabs
from textual.widgets.option_list import Option

from minerwatch.cli.top_screen.keys import key
from minerwatch.cli.top_screen.pager import Chart, Pager, Prompt
from minerwatch.cli.top_screen.proposal import Choice, Proposal, proposal_sections
from minerwatch.cli.top_screen.table import LongTable
from minerwatch.view.screen import words
from minerwatch.view.screen.banner import banner_lines, state_of
from minerwatch.view.screen.containers import Kind, View
from minerwatch.view.screen.page import Section, Subject, page_sections
from minerwatch.view.screen.presentation import Presentation

_TALL = 36  # rows of a terminal, from which on there is room for more than the table
_BANNER_HEIGHTS = (5, 7)
_DETAIL_HEIGHTS = (4, 7)

_COPY = key("e", "app.copy", "copy")
_ACT = key("k", "app.act", "act")
_PAUSE = key("space", "app.pause", "pause")
_NOW = key("r", "app.hurry", "now")
_HELP = key("question_mark", "app.help", "help")


class MainScreen(Screen[None]):
    """Containers, processes, or nodes: the worst first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        _HELP,
        key("slash", "search", "filter"),
        key("s", "app.choose_sort", "sort"),
        key("t", "app.tree", "tree"),
        _COPY,
        _ACT,
        key("q", "app.leave", "quit"),
        key("p", "app.kind('PROCESSES')", "processes"),
        key("n", "app.kind('NODES')", "nodes"),
        key("a", "app.show_all", "idle too"),
        _PAUSE,
        _NOW,
        *(key(letter, f"app.sort('{sort}')") for letter, sort, _ in words.SORTS),
        key("tab", "app.next_kind(1)"),
        key("shift+tab", "app.next_kind(-1)"),
        key("right", "app.fold(True)"),
        key("left", "app.fold(False)"),
        key("escape", "unfilter"),
        key("down", "move(1)"),  # while a filter is typed
        key("up", "move(-1)"),
    ]

    def __init__(self, refresh_s: float, waits_for: str) -> None:
        super().__init__()
        self.table = LongTable()
        self.shown: Presentation | None = None
        self._refresh_s = refresh_s
        self._waits_for = waits_for
        self._is_paused = False
        self._tabs = Tabs(*(Tab(kind.value, id=kind.name) for kind in Kind))
        self._tabs.can_focus = False
        self._banner, self._empty = Static(id="banner"), Static(id="empty")
        self._span, self._details = Static(id="span"), Static(id="details")
        self._prompt = Prompt("filter:", words.FILTER_HINT)

    def compose(self) -> ComposeResult:
        """Banner, rows, details of the selected one, keys; and where the filter is typed."""
        yield from (self._banner, self._empty, self.table)
        yield Horizontal(self._tabs, self._span, id="bar")
        yield from (self._details, self._prompt, Footer(compact=True))

    def on_mount(self) -> None:
        """Show what is pending."""
        self._empty.update(Text(words.empty_text(None, None, View(), self._waits_for)))
        self.set_focus(self.table)

    def show(self, shown: Presentation, *, is_paused: bool) -> None:
        """Show a newer presentation."""
        self.shown, self._is_paused = shown, is_paused
        self._empty.display = not shown.rows
        self._empty.update(Text(words.empty_text(shown.poll, shown, shown.view, self._waits_for)))
        name = shown.view.kind.name
        if self._tabs.query(f"#{name}"):  # a busy machine may answer before they are mounted
            self._tabs.active = name
        self._show_banner()
        self.table.show(shown)

    def on_resize(self, _event: events.Resize) -> None:
        """Fit everything to the terminal."""
        self._show_banner()
        self._show_details()

    def _show_banner(self) -> None:
        width, height = self.app.size
        if self.shown is not None:
            state = state_of(self.shown.poll, self._refresh_s, width, is_paused=self._is_paused)
            lines = banner_lines(self.shown, state, width, _BANNER_HEIGHTS[height >= _TALL])
            self._banner.update(Text("\n").join(lines))

    @on(LongTable.Moved)
    def _show_details(self) -> None:
        room = _DETAIL_HEIGHTS[self.app.size.height >= _TALL]
        row = self.table.selected
        lines = list(self.shown.lines(row))[:room] if row and self.shown else []
        self._details.styles.height = room
        self._details.update(Text("\n").join(lines))
        first, last, count = self.table.span
        is_part = count > last - first + 1
        self._span.update(Text(f"{first:,}–{last:,} of {count:,}" if is_part else ""))

    @on(Tabs.TabActivated)
    async def _tab_activated(self, event: Tabs.TabActivated) -> None:
        if self.shown is not None and event.tab.id != self.shown.view.kind.name:
            await self.run_action(f"app.kind('{event.tab.id}')")

    def action_move(self, rows: int) -> None:
        """Select a row further down, or up."""
        self.table.action_move(rows)

    def action_search(self) -> None:
        """Type what rows have to hold."""
        self._prompt.open(self.shown.view.text if self.shown else "")

    def action_unfilter(self) -> None:
        """Show all again."""
        self._prompt.action_clear()


class PagerScreen(Screen[bool]):
    """Sections of text that are scrolled and searched: help, a node, the result of an action."""

    BINDINGS: ClassVar[list[BindingType]] = [
        key("escape,q,left,backspace", "back", "back"),
        key("slash", "search", "search"),
        key("n", "find(1)", "next"),
        key("N", "find(-1)"),
    ]

    def __init__(self, sections: Callable[[int], list[Section]], chart: Chart | None = None):
        """``sections``: what is to be read, for a width."""
        super().__init__()
        self.pager = Pager(chart)
        self.fields: Sequence[Widget] = ()  # below it
        self._sections = sections

    def compose(self) -> ComposeResult:
        """Yield the text, the search's prompt, and the keys."""
        yield self.pager
        yield from self.fields
        yield Prompt("search:", "text on this page; n the next, N the one before")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Let keys scroll, or be typed where there is a field."""
        fields = self.query("#typed").results(Input)
        self.set_focus(next(fields, self.pager))

    def on_resize(self, _event: events.Resize) -> None:
        """Break the lines for this width."""
        self.fit()

    def fit(self) -> None:
        """Show the text as it is now, scrolled as it was."""
        self.pager.show(self._sections(max(1, self.app.size.width - 1)))

    @on(Prompt.Typed)
    def _typed(self, event: Prompt.Typed) -> None:
        event.stop()
        self.pager.search(event.text)

    def action_search(self) -> None:
        """Type what is searched."""
        self.query_one(Prompt).open(self.pager.searched)

    def action_find(self, step: int) -> None:
        """Go to the next line that was searched, or the one before."""
        self.pager.find(step)

    def action_back(self) -> None:
        """Leave."""
        self.app.pop_screen()


class PageScreen(PagerScreen):
    """Everything about one container."""

    BINDINGS: ClassVar[list[BindingType]] = [
        key("t", "tree", "tree"),
        _COPY,
        _ACT,
        _PAUSE,
        _NOW,
        _HELP,
    ]

    def __init__(self, subject: Subject) -> None:
        self._chart = Chart()
        super().__init__(self._page, self._chart)
        self.subject = subject
        self._is_tree = False

    def _page(self, width: int) -> list[Section]:
        self._chart.show(self.subject)
        return page_sections(self.subject, width, is_tree=self._is_tree)

    def show(self, subject: Subject) -> None:
        """Show a newer presentation."""
        self.subject = subject
        self.fit()

    def action_tree(self) -> None:
        """Show processes as a tree, or by CPU."""
        self._is_tree = not self._is_tree
        self.fit()


class ChoiceScreen(ModalScreen[str | None]):
    """One question; its answer is a key, or chosen from the list."""

    BINDINGS: ClassVar[list[BindingType]] = [key("escape,q", "dismiss(None)", "nothing")]

    def __init__(self, question: str, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._question = question
        self._choices = choices

    def compose(self) -> ComposeResult:
        """Yield a panel for the bottom; the table stays behind it."""
        lines = (Text.assemble((f" {key}  ", "bold"), said) for key, _, said in self._choices)
        panel = OptionList(*(Option(line) for line in lines), markup=False)
        panel.border_title = Text(self._question)
        panel.border_subtitle = "Esc nothing"
        yield panel

    def on_key(self, event: events.Key) -> None:
        """Take a key that is an answer."""
        for letter, answer, _ in self._choices:
            if letter == event.character:
                event.stop()
                self.dismiss(answer)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index][1])


class ProposalScreen(PagerScreen):
    """A proposal; dismissed with True once the name has been typed."""

    def __init__(self, proposal: Proposal) -> None:
        super().__init__(partial(proposal_sections, proposal))
        self._proposal = proposal
        if proposal.is_permitted:
            name = Input(id="typed", compact=True)
            name.cursor_blink = False  # each blink is drawn again, over a slow line too
            self.fields = (Horizontal(Label(" name: "), name, id="confirmation"),)

    @on(Input.Submitted, "#typed")
    def _submitted(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._proposal.confirmation:
            self.dismiss(True)
        else:
            self.notify(words.NOT_ITS_NAME, severity="warning", markup=False)
