"""Page of one container: its explanation, its processes, its CPU over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from minerwatch.api.types import ContainerStatus, ProcessStatus
from minerwatch.format import byte_size, counted
from minerwatch.untrusted_text.display import printable, shortened, shown_command_line, shown_name
from minerwatch.view.executed_code import one_word
from minerwatch.view.explanation import FACT_INDENT, PROCESSES, headline, sections
from minerwatch.view.gpu_text import process_gpus
from minerwatch.view.journal_history import History
from minerwatch.view.lines import Line
from minerwatch.view.selection import full_name
from minerwatch.web.chart import cpu_chart
from minerwatch.web.html import Child, Markup, tag
from minerwatch.web.layout import DAY_S, View, ago, cell, chart_key, level_mark, more, page, table

_MAX_PROCESSES = 50
_COMMAND_LENGTH = 600
_BUCKETS_PER_BAR = 4
_PROSE = frozenset(("What this does not prove", "Culling"))


def container_page(view: View, status: ContainerStatus, key: str) -> str:
    """Return the page; ``key`` is the container's in the journal."""
    _name, verdict, *meaning = headline(status, view.now, None)
    every = sections(status, view.now)
    facts, rest = every[:1], every[1:]
    return page(
        view,
        shown_name(full_name(status)),
        tag("h1", shown_name(full_name(status))),
        tag("p", level_mark(status.level), verdict.plain.removeprefix(status.level.upper())),
        [tag("p", line.plain) for line in meaning],
        [_section(title, lines, status) for title, lines in facts],
        _history(view.history, key),
        [_section(title, lines, status) for title, lines in rest],
    )


def past_page(view: View, key: str, history: History) -> str:
    """Return the page of a container that is gone, from the journal alone."""
    found = history.containers.get(key)
    lines = [line for line in history.verdicts if line.key == key][::-1]
    names = (
        [found.full_name]
        if found is not None
        else ["/".join(filter(None, (each.namespace, each.pod, each.container))) for each in lines]
    )
    name = shown_name(names[0])
    return page(
        view,
        name,
        tag("h1", name),
        tag("p", "It is not on the node now; the journal has its past.", class_="notice"),
        _history(history, key),
        tag("h2", "Changes of level, newest first") if lines else None,
        [
            tag("p", ago(each.at, view.now), " ", level_mark(each.level),
                f", was {printable(each.previous, 16)}, score {int(each.score)}",
                tag("div", "; ".join(shown_name(rule.title) for rule in each.rules),
                    class_="why"))
            for each in lines
        ],
    )  # fmt: skip


def _section(title: str, lines: Iterable[Line], status: ContainerStatus) -> Child:
    lines = tuple(lines)
    if title == PROCESSES:
        return _processes(status)
    if not lines:
        return None
    if not title:
        return tag("dl", [_fact(line.text) for line in lines])
    if title in _PROSE:
        return (tag("h2", title), [tag("p", line.text.strip()) for line in lines])
    text = "\n".join(line.text.removeprefix("  ") for line in lines)
    return (tag("h2", title), tag("pre", *_text_lines(text)))


def _text_lines(text: str) -> Iterator[Child]:
    """Yield lines apart: all other line feeds are escaped."""
    for number, line in enumerate(text.split("\n")):
        if number:
            yield tag("br")
        yield line


def _fact(line: str) -> Child:
    return (tag("dt", line[:FACT_INDENT].strip()), tag("dd", line[FACT_INDENT:]))


def _processes(status: ContainerStatus) -> Child:
    listed = status.processes[:_MAX_PROCESSES]
    if not listed:
        return None
    found = {finding.pid for finding in status.findings}
    rows = [_process(each, is_found=each.pid in found) for each in listed]
    titles = ("PID", "CPU", "Name", "Executes", "User", "Command line")
    return (
        tag("h2", counted(status.process_count, "process", "processes")),
        table(titles, rows, ("PID", "CPU")),
        more(status.process_count - len(listed), ": minerwatch explain lists them"),
    )


def _process(process: ProcessStatus, *, is_found: bool) -> Markup:
    cores = "-" if process.cpu_cores is None else f"{process.cpu_cores:.2f}"
    memory = "" if process.memory_bytes is None else f", {byte_size(process.memory_bytes)}"
    gpus = process_gpus(process)
    mark = tag("span", " has findings", class_="level suspicious") if is_found else None
    command = shown_command_line(process.command_line, _COMMAND_LENGTH) or "(hidden or empty)"
    image = printable(shortened(process.image, _COMMAND_LENGTH))
    connections = ", ".join(
        f"{printable(each.address, 64)}:{each.port}" for each in process.connections
    )
    return tag(
        "tr",
        cell(process.pid, "n", "pid"),
        cell(f"{cores}{memory}", "n", "cores"),
        cell((printable(process.comm, 16), mark)),
        cell(one_word(process.executed), "", "executes"),
        cell(printable(process.user, 32), "text", "user"),
        cell(
            (
                tag("code", command),
                tag("div", image, class_="why") if image else None,
                tag("div", gpus, class_="why") if gpus else None,
                tag("div", f"connected to {connections}", class_="why") if connections else None,
            ),
            "name",
        ),
    )


def _history(history: History | None, key: str) -> Child:
    if history is None or key not in history.containers:
        return None
    container = history.containers[key]
    series = (("busy", container.buckets),)
    day_s = max(history.since_s, history.until_s - DAY_S)
    return (
        tag("h2", "CPU over time"),
        tag(
            "p",
            f"{container.core_s / 3600:.1f} CPU hours in the last week while it was among the"
            " busiest or flagged; at other times nothing is drawn.",
            class_="dim",
        ),
        tag(
            "div",
            cpu_chart("The last day, UTC", history, series, day_s),
            cpu_chart(
                "The last week, means of an hour, UTC",
                history,
                series,
                history.since_s,
                per_bar=_BUCKETS_PER_BAR,
            ),
            class_="pair",
        ),
        chart_key(with_flagged=False),
    )  # fmt: skip
