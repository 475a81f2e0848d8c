"""Questions in a row: a copy, and an action by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from textual.screen import Screen

from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.cli.top_screen.copies import Copy, destination, put_into_tmux, saved
from minerwatch.cli.top_screen.proposal import Proposer
from minerwatch.cli.top_screen.screens import ChoiceScreen, PagerScreen, ProposalScreen
from minerwatch.view.screen import words

T = TypeVar("T")


class Asking(Protocol):
    """The application, as far as dialogs use it."""

    async def push_screen_wait(self, screen: Screen[T]) -> T | Any:
        """Show a screen; return its answer."""

    def push_screen(self, screen: Screen[Any]) -> object:
        """Show a screen."""

    async def done(self, work: Callable[[], T]) -> T | None:
        """Return the result of work in another thread; None: it failed, as is shown."""

    def say(self, text: str) -> None:
        """Show a notice."""

    def copy_to_clipboard(self, text: str) -> None:
        """Put text on the terminal's clipboard."""


async def export_copy(app: Asking, copy: Copy, folder: Path) -> None:
    """Ask in which form, then copy or save."""
    form = await app.push_screen_wait(ChoiceScreen("Copy", words.COPY_CHOICES))
    if form == "save":
        files = await app.done(partial(saved, copy.files, copy.name, folder))
        if files is not None:
            app.say("saved: " + ", ".join(map(str, files)))
    elif form is not None:
        text = copy.text if form == "text" else copy.json
        app.copy_to_clipboard(text)
        in_tmux = bool(os.environ.get("TMUX")) and await app.done(partial(put_into_tmux, text))
        app.say("copied to " + destination(text, in_tmux=bool(in_tmux)))


async def propose(
    app: Asking, proposer: Proposer, status: ContainerStatus, agent: AgentStatus | None
) -> bool:
    """Ask which action, then the policy, then for the name; return True if it was tried then."""
    choices = await app.done(partial(proposer.choices, status, agent))
    if choices is None:
        return False
    action = await app.push_screen_wait(ChoiceScreen(words.ACTION_QUESTION, choices))
    if action is None:
        return False
    proposal = await app.done(partial(proposer.propose, status, action))
    if proposal is None or not await app.push_screen_wait(ProposalScreen(proposal)):
        return False
    result = await app.done(partial(proposer.carry_out, proposal))
    if result is not None:
        app.push_screen(PagerScreen(lambda width: [("", words.text_lines(result, width))]))
    return True
