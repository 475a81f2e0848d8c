"""The page of processes: those of the whole node by CPU, flagged or not; those alike as one row."""

from __future__ import annotations

from minerwatch.untrusted_text.display import printable, shown_command_line
from minerwatch.view.executed_code import one_word
from minerwatch.view.screen.containers import View as Choice
from minerwatch.view.screen.processes import ProcessRow, process_rows
from minerwatch.view.selection import full_name
from minerwatch.web.html import Markup, tag
from minerwatch.web.layout import (
    View,
    cell,
    container_link,
    level_mark,
    more,
    page,
    page_key,
    table,
)

_MAX_ROWS = 200
_COMMAND_LENGTH = 300
_NAME_LENGTH = 64
_REFRESH_S = 30
_CHOICE = Choice(is_folded=True)


def processes_page(view: View) -> str:
    """Return the page."""
    rows = process_rows(view.statuses, _CHOICE)
    has_gpus = any(each.gpus is not None for each in rows)
    title = "Processes by CPU"
    numbers = ("CPU", "GPU", "PID") if has_gpus else ("CPU", "PID")
    titles = (*numbers, "Process", "Executes", "Container", "Owner")
    listed = [_row(each, view, has_gpus=has_gpus) for each in rows[:_MAX_ROWS]]
    return page(
        view,
        title,
        tag("h1", title),
        table(titles, listed, numbers) if rows else tag("p", "No process is busy or flagged."),
        more(len(rows) - _MAX_ROWS, ": minerwatch top --processes lists them"),
        path="/processes",
        refresh_s=_REFRESH_S,
    )


def _row(row: ProcessRow, view: View, *, has_gpus: bool) -> Markup:
    status, first, count = row.status, row.first, len(row.processes)
    if view.shows_arguments:
        command = shown_command_line(first.command_line, _COMMAND_LENGTH) or "(hidden or empty)"
    else:
        command = printable(first.image, _COMMAND_LENGTH)
    signals = f" {'+'.join(row.signals)}" if row.signals else None
    return tag(
        "tr",
        cell(f"{row.cpu_cores:.2f}", "n", "cores"),
        [cell("-" if row.gpus is None else f"{row.gpus:.2f}", "n", "GPUs")] if has_gpus else None,
        cell(str(first.pid) if count == 1 else f"{count} ×", "n", "pid" if count == 1 else ""),
        cell(
            (
                printable(first.comm, _NAME_LENGTH),
                tag("span", signals, class_="level suspicious") if signals else None,
                tag("div", tag("code", command), class_="why") if command else None,
            ),
            "name",
        ),
        cell(one_word(first.executed), "", "executes"),
        cell(
            (
                container_link(full_name(status), page_key(status)),
                " ",
                level_mark(status.level) if row.signals else None,
            ),
            "text",
        ),
        cell(printable(status.owner, _NAME_LENGTH), "text", "owner"),
    )
