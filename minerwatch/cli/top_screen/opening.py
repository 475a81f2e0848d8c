"""Opens the screen on this terminal; the only module that imports it, and only then."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

os.environ.setdefault("TEXTUAL_DISABLE_KITTY_KEY", "1")
# Every key that is used here is one that all terminals send alike.

from textual.drivers.linux_driver import LinuxDriver

from minerwatch.cli.top_screen.app import TopApp
from minerwatch.cli.top_screen.proposal import Proposer
from minerwatch.cli.top_screen.sources import Watched
from minerwatch.cli.top_screen.terminal import Terminal
from minerwatch.view.screen.containers import View

_COLLECTED_AFTER = (50_000, 20, 1_000)
"""Objects, then collections. A large cluster is millions of objects without a cycle among them: to
scan them again and again, as by default, takes a second each time."""


class _OnStandardOutput(LinuxDriver):
    """Draws on standard output, which is a terminal; Textual would on standard error."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        self._file = open(  # noqa: SIM115 - open until the process ends
            sys.__stdout__.fileno() if sys.__stdout__ else 1,
            "w",
            encoding="utf-8",
            errors="backslashreplace",
            closefd=False,
        )


def show(watched: Watched, view: View, terminal: Terminal, proposer: Proposer) -> None:
    """Show the screen until it is quit."""
    gc.set_threshold(*_COLLECTED_AFTER)
    if not os.environ.get("NO_COLOR"):
        os.environ.pop("NO_COLOR", None)  # empty means unset (no-color.org); Textual differs
    TopApp(watched, view, terminal, proposer, driver_class=_OnStandardOutput).run()
