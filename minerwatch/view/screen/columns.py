"""The columns of the table of containers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from operator import attrgetter

from minerwatch.api.types import ContainerStatus
from minerwatch.format import age
from minerwatch.untrusted_text.display import shown_name
from minerwatch.view import columns
from minerwatch.view.columns import LEVEL_STYLES, reasons, tags
from minerwatch.view.lines import cut, fitted
from minerwatch.view.screen.containers import Row
from minerwatch.view.screen.history import key_of, sparkline, total
from minerwatch.view.screen.layout import NARROW, Column, Scene
from minerwatch.view.selection import abuse_of, full_name, is_busy

_SUMMED_MEMBERS = 500  # of a group, the first in order
_THROTTLED_SHARE = 0.01  # of the periods, from which on it is marked
_OPEN, _CLOSED, _INDENT = "▾ ", "▸ ", "  "


def container_columns(width: int, step_s: float) -> tuple[Column[Row], ...]:
    """Return all columns, for a terminal of ``width``; ``step_s`` is the history's."""
    steps, signals_width = (8, 12) if width < NARROW else (12, 16)
    return (
        _column(columns.SCORE_COLUMN, 5, sort="score", is_level=True),
        _column(columns.LEVEL_COLUMN, 10, is_level=True),
        _column(columns.ABUSE_COLUMN, 11, leaves=8, needs=abuse_of),
        Column("SIGNALS", lambda row, _, width: cut(tags(row.status), width), signals_width),
        _column(columns.CPU_COLUMN, 6, sort="cpu"),
        Column(
            f"LAST {span(steps * step_s)}", _draw_history, steps, 10,
            style=lambda _: "not reverse",  # also where it is selected: a bar is what is filled
        ),
        Column("%LIMIT ", _draw_limit, 7, leaves=8, is_number=True, sort="limit"),
        _column(columns.HOURS_COLUMN, 7, leaves=7, sort="hours"),
        _column(columns.GPU_COLUMN, 7, leaves=9, sort="gpu", needs=attrgetter("gpu")),
        _column(columns.GPU_HOURS_COLUMN, 7, leaves=4, sort="gpu-hours", needs=attrgetter("gpu")),
        _column(columns.SINCE_COLUMN, 6, leaves=6),
        _column(columns.AGE_COLUMN, 6, leaves=3, sort="age", needs=attrgetter("started")),
        _column(columns.EXECUTES_COLUMN, 9, leaves=2, needs=attrgetter("executed")),
        Column(columns.NAME, _draw_name, sort="name", is_name=True),
        _column(columns.OWNER_COLUMN, 16, leaves=9, sort="owner", needs=attrgetter("owner")),
        Column(
            "NODE", lambda row, _, width: fitted(shown_name(row.status.node), width),
            14, 5, sort="node", exists=lambda rows: len({row.status.node for row in rows}) > 1,
        ),
        _column(columns.IMAGE_COLUMN, 34, leaves=1, sort="image", needs=attrgetter("image")),
        Column(
            "REASONS", lambda row, _, width: cut(reasons(row.status), width), 30, 4,
            exists=lambda rows: any(row.status.findings for row in rows), is_rest=True,
        ),
    )  # fmt: skip


def row_style(row: Row, scene: Scene) -> str:
    """Return the style of a whole row."""
    if row.group is not None:
        return "bold"
    is_idle = not row.status.findings and not is_busy(row.status)
    return "dim" if is_idle or row.status.node in scene.stale else ""


def level_style(row: Row) -> str:
    """Return the colour of a row's level."""
    return LEVEL_STYLES.get(row.status.level, "")


def span(seconds: float) -> str:
    """Return a length of time, as short as a title: ``80s``, ``2m``."""
    return f"{seconds:.0f}s" if seconds < 100 else f"{seconds / 60:.0f}m"


def named(name: str, node: str, scene: Scene, width: int) -> str:
    """Return a name in ``width``, with how long its node has not answered."""
    answered = scene.stale.get(node)
    stale = f"[{age(answered.isoformat(), scene.now)} ago] " if answered else ""
    return fitted(stale + name, width)


def _column(
    column: columns.Column,
    width: int,
    leaves: int = 0,
    *,
    sort: str = "",
    needs: Callable[[ContainerStatus], object] | None = None,
    is_level: bool = False,
) -> Column[Row]:
    """Return one that `top --once` has too; ``needs``: where rows have this of a status."""

    def draw(row: Row, scene: Scene, width: int) -> str:
        return fitted(column.cell(row.status, scene.now), width)

    return Column(
        column.title,
        draw,
        width,
        leaves,
        column.is_number,
        sort,
        style=level_style if is_level else None,
        exists=(lambda rows: any(needs(row.status) for row in rows)) if needs else None,
    )


def _draw_name(row: Row, scene: Scene, width: int) -> str:
    if row.group is not None:
        return cut((_OPEN if row.group.is_open else _CLOSED) + row.group.title, width)
    name = _INDENT * row.depth + shown_name(full_name(row.status))
    return named(name, row.status.node, scene, width)


def _draw_history(row: Row, scene: Scene, width: int) -> str:
    if row.group is None:
        cores = scene.history.of(row.key)
    else:
        members = islice(row.group.members, _SUMMED_MEMBERS)
        cores = total(scene.history.of(key_of(member)) for member in members)
    return sparkline(cores, width, row.status.cpu_limit_cores)


def _draw_limit(row: Row, scene: Scene, _width: int) -> str:
    is_throttled = (row.status.throttled_share or 0.0) >= _THROTTLED_SHARE
    return columns.LIMIT_COLUMN.cell(row.status, scene.now) + ("!" if is_throttled else " ")
