"""The frame of every page, and what several pages share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from minerwatch.api.journal import container_key
from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.format import age, counted
from minerwatch.kinds import MachineTotals
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.agent_summary import agents_line
from minerwatch.view.journal_history import History
from minerwatch.web.html import Child, Markup, document, tag
from minerwatch.web.style import CSS

NO_JOURNAL = (
    "No history: the agent keeps no journal. Start it with --journal FOLDER, or set report.journal."
)
NO_HISTORY = "Nothing is recorded yet: the journal gets its first CPU usage after five minutes."
DAY_S = 86400.0

_LINKS = (("Now", "/"), ("Processes", "/processes"), ("Last week", "/week"))
_STALE_TICKS, _STALE_S = 3, 15.0


@dataclass(frozen=True, slots=True)
class View:
    """State of the node that a page shows."""

    statuses: Sequence[ContainerStatus]
    agent: AgentStatus
    machine: MachineTotals
    history: History | None  # None: there is no journal
    now: datetime
    shows_arguments: bool = False
    tick_age_s: float | None = 0.0  # None: no tick has ended yet


def page(view: View, title: str, *children: Child, path: str = "", refresh_s: int = 0) -> str:
    """Return a page with its head, links and foot."""
    node = shown_name(view.agent.node)
    hidden = "" if view.shows_arguments else " · arguments, connections and users are hidden"
    return document(
        f"{title} · {node} · minerwatch",
        CSS,
        tag("header", tag("nav", tag("strong", f"minerwatch on {node}"), _links(path))),
        tag("main", _staleness(view), *children),
        tag(
            "footer",
            tag("p", f"{agents_line([view.agent])}{hidden}"),
            tag("p", f"as of {view.now:%Y-%m-%d %H:%M:%S} UTC"),
        ),
        meta=tag("meta", http_equiv="refresh", content=refresh_s) if refresh_s else None,
    )


def error_page(title: str, text: str) -> str:
    """Return a page with an error."""
    now = tag("p", tag("a", "Now", href="/"))
    return document(
        f"{title} · minerwatch", CSS, tag("main", tag("h1", title), tag("p", text), now)
    )


def table(
    titles: Iterable[Child], rows: Iterable[Markup], numbers: Collection[Child] = ()
) -> Markup:
    """Return a table, on a phone a block for each row; ``numbers``: titles of such columns."""
    heads = (
        tag("th", each, class_="n" if each in numbers else None, scope="col") for each in titles
    )
    return tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows))


def more(count: int, advice: str = "", *, of: str = "") -> Markup | None:
    """Return a line on rows that are left out; None: there are none."""
    left_out = counted(count, of) if of else f"{count:,}"
    return tag("p", f"… and {left_out} more{advice}", class_="dim") if count > 0 else None


def cell(text: Child, class_: str = "", label: str | None = None) -> Markup:
    """Return a cell; ``label`` stands before it on a phone, where titles are not shown."""
    return tag("td", text, class_=class_ or None, data_label=label)


def level_mark(level: str) -> Markup:
    """Return a level in its colour."""
    shown = printable(level, 16)
    return tag("span", shown, class_=f"level {shown}")


def container_link(text: str, key: str) -> Markup:
    """Return a link to a container's page; ``key`` is ``container_key``'s."""
    return tag("a", shown_name(text), href=f"/container/{quote(key, safe='')}")


def page_key(status: ContainerStatus) -> str:
    """Return the last part of the address of a container's page."""
    return container_key(status.cgroup)


def chart_key(*, with_flagged: bool = True) -> Markup:
    """Return the meaning of a chart's colours."""
    meanings = [("hatched", "not recorded")]
    if with_flagged:
        meanings.insert(0, ("flagged", "of these, flagged"))
    meanings.insert(0, ("busy", "cores busy"))
    return tag(
        "p",
        [tag("span", tag("span", class_=f"key {name}"), text) for name, text in meanings],
        class_="dim keys",
    )


def ago(at: str, now: datetime) -> Markup:
    """Return how long ago something was, with the time as a tip."""
    return tag("time", f"{age(at, now)} ago", datetime=printable(at, 32), title=printable(at, 32))


def _staleness(view: View) -> Markup | None:
    """Return the age of the state if it is too old to count as current."""
    if view.tick_age_s is None:
        return tag(
            "p", "The agent has not ended its first tick: nothing is known yet.", class_="notice"
        )
    if view.tick_age_s <= _STALE_TICKS * view.agent.interval_s + _STALE_S:
        return None
    text = f"The last tick ended {view.tick_age_s:.0f} s ago, and this page shows what it found."
    return tag("p", f"{text} The node is overloaded, or the agent hangs.", class_="notice")


def _links(path: str) -> list[Markup]:
    return [
        tag("a", text, href=href, aria_current="page" if href == path else None)
        for text, href in _LINKS
    ]
