"""The screens: the table, a container's page, lines to read, a question, a proposal to confirm.

They show what has been worked out elsewhere, and say what keys were pressed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, cast

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen, Screen
from textual.widgets import Input

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen import words
from minerwatch.cli.top_screen.banner import Heading, banner_lines
from minerwatch.cli.top_screen.cells import Scene
from minerwatch.cli.top_screen.details import detail_lines
from minerwatch.cli.top_screen.nodes import node_lines
from minerwatch.cli.top_screen.page import Subject, page_lines
from minerwatch.cli.top_screen.presentation import Presentation
from minerwatch.cli.top_screen.proposal import Proposal
from minerwatch.cli.top_screen.rows import Row
from minerwatch.cli.top_screen.widgets import Grid, Lines
from minerwatch.untrusted_text.display import printable

_TALL = 36  # rows of a terminal, from which on there is room for more than the table
_BANNER_HEIGHTS = (5, 7)
_DETAIL_HEIGHTS = (4, 7)
_SAID_S = 6.0

_SCROLLING: list[BindingType] = [
    Binding("up", "scroll_lines(-1)"),
    Binding("down", "scroll_lines(1)"),
    Binding("pageup", "scroll_pages(-1)"),
    Binding("pagedown", "scroll_pages(1)"),
    Binding("home", "scroll_lines(-1000000)"),
    Binding("end", "scroll_lines(1000000)"),
    Binding("escape,q,left,backspace", "back"),
]


class Actions(Protocol):
    """Actions of the app that its screens start."""

    def fold(self, row: Row, *, is_open: bool) -> None:
        """Open or close a group."""

    def open_page(self, row: Row) -> None:
        """Show the page of a container."""

    def copy(self, row: Row) -> None:
        """Copy the command that explains a row."""

    def act(self, status: ContainerStatus) -> None:
        """Propose an action on a container."""

    def filter(self, text: str) -> None:
        """Show only rows with each word of ``text``."""


class _Base(Screen[None]):
    """What all full screens have: a line of keys at the bottom, in which answers are told."""

    keys: ClassVar[Sequence[tuple[str, str]]] = ()

    @property
    def actions(self) -> Actions:
        """Return the app, as far as screens use it."""
        return cast("Actions", self.app)

    def say(self, text: str) -> None:
        """Tell something in the last line, for some seconds."""
        foot = self.query_one("#foot", Lines)
        foot.show([Text(f" {printable(text)}", "bold")])
        self.set_timer(_SAID_S, self.show_keys)

    def show_keys(self) -> None:
        """The keys, in the last line."""
        foot = self.query_one("#foot", Lines)
        foot.show([words.keys_line(self.keys, foot.size.width)])

    def on_resize(self, _event: events.Resize) -> None:
        """Fit what is shown to the terminal."""
        self.call_after_refresh(self.fit)

    def fit(self) -> None:
        """Show everything anew in the size that there is now."""
        self.show_keys()


class TableScreen(_Base):
    """The containers, worst first."""

    keys = words.TABLE_KEYS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)"),
        Binding("down", "move(1)"),
        Binding("pageup", "move_pages(-1)"),
        Binding("pagedown", "move_pages(1)"),
        Binding("home", "first"),
        Binding("end", "move(1000000000)"),
        Binding("enter", "open"),
        Binding("right", "fold(True)"),
        Binding("left", "fold(False)"),
        Binding("slash", "filter"),
        Binding("escape", "unfilter"),
        Binding("s", "app.choose_sort"),
        *(Binding(key, f"app.sort('{sort}')") for key, sort, _ in words.SORT_CHOICES),
        Binding("t", "app.tree"),
        Binding("a", "app.show_all"),
        Binding("n", "app.nodes"),
        Binding("e", "copy"),
        Binding("k", "act"),
        Binding("space", "app.pause"),
        Binding("r", "app.hurry"),
        Binding("question_mark", "app.help"),
        Binding("q", "app.quit"),
    ]

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self._step_s = step_s
        self._heading: Heading | None = None
        self._scene: Scene | None = None

    def compose(self) -> ComposeResult:
        """Banner, rows, details of the selected one, keys; and where the filter is typed."""
        yield Lines(id="banner")
        yield Grid(self._step_s, id="grid")
        yield Lines(id="rule")
        yield Lines(id="details")
        yield Lines(id="foot")
        with Horizontal(id="filtering") as filtering:
            yield Lines([Text(" filter:", "bold")], id="filter-title")
            field = Input(id="filter", placeholder=words.FILTER_HINT)
            field.cursor_blink = False
            yield field
        filtering.display = False

    @property
    def grid(self) -> Grid:
        """The rows."""
        return self.query_one(Grid)

    def wait(self, text: Sequence[Text]) -> None:
        """Before anything is known: whom it is waited for."""
        self.grid.say(text)

    def show(
        self, shown: Presentation, heading: Heading, scene: Scene, empty: Sequence[Text]
    ) -> None:
        """Show something newer."""
        self._heading, self._scene = heading, scene
        self._show_banner()
        self.grid.say(empty)
        self.grid.show(shown.arrangement.rows, shown.traits, scene, shown.view)

    def fit(self) -> None:
        """Show everything anew in the size that there is now."""
        self.show_keys()
        self._show_banner()
        self._show_details()

    def _show_banner(self) -> None:
        if self._heading is None:
            return
        banner = self.query_one("#banner", Lines)
        width, height = self.app.size
        lines = banner_lines(self._heading, width, _BANNER_HEIGHTS[height >= _TALL])
        banner.styles.height = len(lines)
        banner.show(lines)

    @on(Grid.Selected)
    def _show_details(self) -> None:
        details = self.query_one("#details", Lines)
        rule = self.query_one("#rule", Lines)
        width, height = self.app.size
        room = _DETAIL_HEIGHTS[height >= _TALL]
        row = self.grid.selected
        details.styles.height = room
        rule.show([words.span_line(*self.grid.span, width)])
        now = self._scene.now if self._scene else None
        details.show(detail_lines(row, now, width, room) if row and now else [])

    # Keys.

    def action_move(self, rows: int) -> None:
        """Choose a row further down, or up."""
        self.grid.move(rows)

    def action_move_pages(self, pages: int) -> None:
        """The same by what is in sight."""
        self.grid.move(pages * self.grid.page)

    def action_first(self) -> None:
        """Choose nothing: the worst is shown."""
        self.grid.let_go()

    def action_open(self) -> None:
        """Show the container's page, or the group's members."""
        row = self.grid.selected
        if row is not None and row.group is not None:
            self.actions.fold(row, is_open=not row.group.is_open)
        elif row is not None:
            self.actions.open_page(row)

    def action_fold(self, is_open: bool) -> None:
        """Open or close the group under the cursor."""
        row = self.grid.selected
        if row is not None and row.group is not None:
            self.actions.fold(row, is_open=is_open)

    def action_copy(self) -> None:
        """Copy what explains the row."""
        self._with_row(self.actions.copy)

    def action_act(self) -> None:
        """Ask what the policy would do about the container."""
        row = self.grid.selected
        if row is not None and row.group is not None:
            self.say("A group cannot be acted upon: choose one container.")
        else:
            self._with_row(lambda row: self.actions.act(row.status))

    def _with_row(self, work: Callable[[Row], None]) -> None:
        row = self.grid.selected
        if row is None:
            self.say("There is no container to choose.")
        else:
            work(row)

    def action_filter(self) -> None:
        """Type what rows have to hold."""
        field = self.query_one("#filter", Input)
        self.query_one("#filtering").display = True
        self.query_one("#foot").display = False
        self.set_focus(field, scroll_visible=False)  # now: the next key may be here already

    def action_unfilter(self) -> None:
        """Show all again."""
        self.query_one("#filter", Input).value = ""
        self.end_filter()

    def end_filter(self) -> None:
        """Back to the rows."""
        self.query_one("#filtering").display = False
        self.query_one("#foot").display = True
        self.set_focus(None)

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.actions.filter(event.value)

    @on(Input.Submitted, "#filter")
    def _filter_submitted(self) -> None:
        self.end_filter()

    def on_key(self, event: events.Key) -> None:
        """While the filter is typed, escape ends it and arrows move in the rows."""
        if not self.query_one("#filtering").display:
            return
        if event.key == "escape":
            self.action_unfilter()
        elif event.key in ("up", "down"):
            self.grid.move(1 if event.key == "down" else -1)
        else:
            return
        event.stop()
        event.prevent_default()


class _Reading(_Base):
    """Lines that are scrolled."""

    BINDINGS: ClassVar[list[BindingType]] = _SCROLLING

    def compose(self) -> ComposeResult:
        """The lines, how far they go, and the keys below them."""
        yield Lines(id="lines")
        yield Lines(id="rule")
        yield Lines(id="foot")

    @property
    def lines(self) -> Lines:
        """What is read."""
        return self.query_one("#lines", Lines)

    def read(self, lines: Sequence[Text]) -> None:
        """Show ``lines``, scrolled as they were."""
        self.lines.show(lines)
        self._show_span()

    def action_scroll_lines(self, lines: int) -> None:
        """Go down, or up."""
        self.lines.scroll_by(lines)
        self._show_span()

    def action_scroll_pages(self, pages: int) -> None:
        """The same by what is in sight."""
        self.action_scroll_lines(pages * max(1, self.lines.size.height - 1))

    def _show_span(self) -> None:
        rule = self.query_one("#rule", Lines)
        rule.show([words.span_line(*self.lines.span, self.app.size.width)])

    def action_back(self) -> None:
        """Leave."""
        self.app.pop_screen()


class TextScreen(_Reading):
    """Help, or the nodes."""

    keys = words.TEXT_KEYS

    def __init__(self, lines_for: Callable[[int], list[Text]]) -> None:
        """``lines_for``: what is to be read, for a width."""
        super().__init__()
        self._lines_for = lines_for

    def fit(self) -> None:
        """Break the lines anew."""
        self.show_keys()
        self.read(self._lines_for(self.app.size.width))


class PageScreen(_Reading):
    """Everything about one container."""

    keys = words.PAGE_KEYS
    BINDINGS: ClassVar[list[BindingType]] = [
        *_SCROLLING,
        Binding("e", "copy"),
        Binding("k", "act"),
        Binding("space", "app.pause"),
        Binding("r", "app.hurry"),
        Binding("question_mark", "app.help"),
    ]

    def __init__(self, row: Row, subject: Subject) -> None:
        super().__init__()
        self.row = row
        self.subject = subject

    def show(self, subject: Subject) -> None:
        """Show something newer, scrolled as it was."""
        self.subject = subject
        self.read(page_lines(subject, self.app.size.width))

    def fit(self) -> None:
        """Break the lines anew."""
        self.show_keys()
        self.show(self.subject)

    def action_copy(self) -> None:
        """Copy what explains the container."""
        self.actions.copy(self.row)

    def action_act(self) -> None:
        """Ask what the policy would do about it."""
        self.actions.act(self.subject.status)


class ChoiceScreen(ModalScreen[str | None]):
    """One question, answered by one key."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)")]

    def __init__(self, question: str, choices: Sequence[tuple[str, str, str]]) -> None:
        """``choices``: key, answer, and the answer in words."""
        super().__init__()
        self._question = question
        self._choices = choices

    def compose(self) -> ComposeResult:
        """A panel at the bottom, the table behind it."""
        panel = Lines(id="panel")
        panel.styles.height = len(self._choices) + 3
        yield panel

    def on_mount(self) -> None:
        """Show the choices."""
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        """Show them anew."""
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        panel = self.query_one("#panel", Lines)
        lines = [Text("─" * self.app.size.width, "dim"), Text(f" {self._question}", "bold")]
        lines += [Text.assemble((f"   {key}  ", "bold"), said) for key, _, said in self._choices]
        panel.show([*lines, Text.assemble(("   Esc", "bold"), " nothing")])

    def on_key(self, event: events.Key) -> None:
        """The answer, if it is one."""
        answer = next((each for key, each, _ in self._choices if key == event.character), None)
        if answer is not None:
            event.stop()
            self.dismiss(answer)


class ProposalScreen(_Reading):
    """What would be done; it is done once the pod's name has been typed."""

    AUTO_FOCUS = "#typed"
    keys = (("Esc", "back: nothing is done"), ("↑↓", "scroll"))

    def __init__(self, proposal: Proposal, carry_out: Callable[[Proposal], None]) -> None:
        super().__init__()
        self._proposal = proposal
        self._carry_out = carry_out

    def compose(self) -> ComposeResult:
        """The proposal, and where the name is typed if anything is permitted."""
        yield Lines(id="lines")
        yield Lines(id="rule")
        if self._proposal.is_permitted:
            with Horizontal(id="confirmation"):
                yield Lines([Text(" name:", "bold")], id="question")
                field = Input(id="typed")
                field.cursor_blink = False
                yield field
        yield Lines(id="foot")

    def fit(self) -> None:
        """Break the lines anew."""
        self.show_keys()
        self.read(words.proposal_lines(self._proposal, self.app.size.width))

    @on(Input.Submitted, "#typed")
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip() != self._proposal.confirmation:
            self.say("That is not its name: nothing was done.")
            return
        self.app.pop_screen()
        self._carry_out(self._proposal)


def help_screen() -> TextScreen:
    """Keys, columns, levels."""
    return TextScreen(words.help_lines)


def nodes_screen(shown: Presentation) -> TextScreen:
    """Which nodes answered, and what their agents say."""
    return TextScreen(lambda width: node_lines(shown.look, width))
