"""CPU over time as a picture (SVG): bars by time, gaps hatched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil, isfinite

from minerwatch.view.journal_history import BUCKET_S, History
from minerwatch.web.html import Markup, tag

_WIDTH, _HEIGHT = 720, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 10, 24
_PLOT_WIDTH = _WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM
_DAY_S = 86400.0
_MIN_GAP_PX = 0.8


def cpu_chart(
    title: str,
    history: History,
    series: Sequence[tuple[str, Mapping[int, float]]],
    since_s: float,
    *,
    per_bar: int = 1,
) -> Markup:
    """Return a chart from ``since_s`` to the history's end.

    ``series``: CSS class and core seconds by bucket, each drawn over the one before. ``per_bar``:
    buckets in one bar.
    """
    first = max(0, int((since_s - history.since_s) // BUCKET_S))
    last = int((history.until_s - history.since_s) // BUCKET_S)
    bars = [
        (
            name,
            [
                (bar, _mean(history, core_s, bar, per_bar))
                for bar in range(first, last + 1, per_bar)
            ],
        )
        for name, core_s in series
    ]
    highest = max((value for _, values in bars for _, value in values if value), default=0.0)
    top = rounded_up(highest)
    scale_x = _PLOT_WIDTH / max(1.0, history.until_s - since_s)

    def x(unix_s: float) -> float:
        return _LEFT + min(_PLOT_WIDTH, max(0.0, (unix_s - since_s) * scale_x))

    def bar_path(values: Sequence[tuple[int, float | None]]) -> str:
        pieces = []
        for bar, value in values:
            if value:
                start = x(history.since_s + bar * BUCKET_S)
                end = x(min(history.until_s, history.since_s + (bar + per_bar) * BUCKET_S))
                height = min(1.0, value / top) * _PLOT_HEIGHT
                pieces.append(
                    f"M{start:.1f} {_TOP + _PLOT_HEIGHT}v-{height:.1f}H{end:.1f}v{height:.1f}z"
                )
        return "".join(pieces)

    gaps = [(x(start), x(end)) for start, end in history.gaps if end > since_s]
    return tag(
        "figure",
        tag("figcaption", title),
        tag(
            "svg",
            gap_pattern(),
            [
                tag("rect", class_="gap", x=f"{start:.1f}", y=_TOP, width=f"{end - start:.1f}",
                    height=_PLOT_HEIGHT, fill="url(#gap)")
                for start, end in gaps
                if end - start >= _MIN_GAP_PX
            ],
            [tag("path", class_=name, d=bar_path(values)) for name, values in bars],
            _axes(top, since_s, history.until_s, scale_x),
            viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
            role="img",
            aria_label=f"{title}; at most {highest:.2f} cores",
        ),
    )  # fmt: skip


def _mean(history: History, core_s: Mapping[int, float], bar: int, per_bar: int) -> float | None:
    """Return the mean of the buckets of a bar in which the node was watched; None: in none."""
    watched = [history.mean(core_s, bucket) for bucket in range(bar, bar + per_bar)]
    known = [value for value in watched if value is not None and isfinite(value)]
    return max(0.0, sum(known) / len(known)) if known else None


def rounded_up(highest: float) -> float:
    """Return the top of the scale: 0.1, 0.2, 0.5, 1, 2, 5, … cores, above 10 a multiple of 4."""
    for top in (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0):
        if highest <= top:
            return top
    return float(ceil(highest / 4) * 4)


def gap_pattern() -> Markup:
    """Return the hatching of gaps, as ``url(#gap)``."""
    return tag(
        "defs",
        tag(
            "pattern",
            tag("path", class_="hatch", d="M0 8L8 0"),
            id="gap", width=8, height=8, patternUnits="userSpaceOnUse",
        ),
    )  # fmt: skip


def _axes(top: float, since_s: float, until_s: float, scale_x: float) -> list[Markup]:
    base = _TOP + _PLOT_HEIGHT
    drawn = []
    for value in (top, top / 2, 0.0):
        y = base - value / top * _PLOT_HEIGHT
        drawn.append(tag("path", class_="grid", d=f"M{_LEFT} {y:.1f}h{_PLOT_WIDTH}"))
        drawn.append(
            tag("text", f"{value:g}", class_="tick", x=_LEFT - 6, y=f"{y + 4:.1f}",
                text_anchor="end")
        )  # fmt: skip
    is_day = until_s - since_s <= 1.5 * _DAY_S
    step = timedelta(hours=6) if is_day else timedelta(days=1)
    moment = datetime.fromtimestamp(since_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while moment.timestamp() < until_s:
        at = _LEFT + (moment.timestamp() - since_s) * scale_x
        if _LEFT <= at <= _WIDTH - 40:
            text = f"{moment:%H:%M}" if is_day else f"{moment:%a %d}"
            drawn.append(tag("path", class_="grid", d=f"M{at:.1f} {_TOP}v{_PLOT_HEIGHT}"))
            drawn.append(tag("text", text, class_="tick", x=f"{at + 3:.1f}", y=_HEIGHT - 8))
        moment += step
    return drawn
