"""What agents tell `top` and `explain`, what logs hold, and how any text is shown."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families
from rich.text import Text

from minerwatch.api.snapshot import decode_agent, decode_report, encode
from minerwatch.api.types import NodeReport
from minerwatch.cli.canary import last_seen_unix_s
from minerwatch.cli.top_screen.terminal import to_ascii
from minerwatch.culling import audit_log
from minerwatch.culling.history import History
from minerwatch.culling.records import Moment
from minerwatch.errors import SnapshotError, TargetError
from minerwatch.report import metrics, since
from minerwatch.report.log import evidence_text, verdict_line
from minerwatch.untrusted_text.display import printable, shortened
from minerwatch.untrusted_text.excerpts import MAX_EXCERPT_CHARS, matched_words
from minerwatch.untrusted_text.redaction import redacted
from minerwatch.view.agent_summary import agents_line
from minerwatch.view.campaigns import campaigns
from minerwatch.view.culling_text import simulation_text
from minerwatch.view.explanation import explanation
from minerwatch.view.lines import cut, fitted, wrapped
from minerwatch.view.overview import Coverage, overview
from minerwatch.view.screen.banner import banner_lines
from minerwatch.view.screen.containers import Kind, Tree, View
from minerwatch.view.screen.page import page_sections
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presenter
from minerwatch.view.selection import SORT_KEYS, filtered, found, sorted_by
from tests.fuzz.contract import (
    are_lines,
    is_finite,
    is_line,
    is_publishable,
    is_told,
    is_unicode,
)
from tests.fuzz.places import folder, put
from tests.fuzz.registry import target
from tests.report.samples import NOW

_WIDTH = 100
_BOOT = "3f0e0000-0000-4000-8000-000000000001"


@target("report.since")
def since_file(data: bytes) -> None:
    """What an agent finds of the one before: it is of use, or it is not."""
    state = since.decoded(data)
    assert state is None or all(each.container is not None for each in state.containers)


@target(
    *("api.snapshot", "view.table", "view.overview", "view.explanation"),
    *("view.campaigns", "view.selection", "view.columns", "view.agent_summary", "format"),
    max_bytes=8192,
    cost=16,
)
def snapshot(data: bytes) -> None:
    """What `minerwatch snapshot` printed in an agent's pod, as the commands show it."""
    report = _report(data)
    if report is None:
        return
    statuses, alike = report.statuses, campaigns(report.statuses)
    agents = (report.agent,) if report.agent else ()
    coverage = Coverage("lab", "", 1, (), agents=agents)
    told = {"coverage": coverage, "now": NOW, "colour": False}
    for width in (None, 40, _WIDTH):
        are_lines(overview(statuses, statuses, alike, width=width, **told))  # type: ignore[arg-type]
    for key in SORT_KEYS:
        assert len(sorted_by(statuses, key)) == len(statuses)
    filtered(statuses, "a b")
    for status in statuses:
        are_lines(explanation(status, now=NOW, width=_WIDTH))
        is_publishable(verdict_line(status, "clear"))
        with suppress(TargetError):
            found(statuses, status.pod or status.cgroup)
    encode(statuses)


@target(
    *("api.snapshot", "view.screen.containers", "view.screen.columns", "view.screen.page"),
    *("view.screen.history", "view.screen.details", "view.screen.processes"),
    *("view.screen.nodes", "view.screen.layout"),
    max_bytes=8192,
    cost=16,
)
def snapshot_on_screen(data: bytes) -> None:
    """The same on the screen of `top`."""
    report = _report(data)
    if report is None:
        return
    presenter = Presenter(1.0)
    poll = Poll(report.statuses, NOW, agents=(report.agent,) if report.agent else ())
    for second in range(2):
        presenter.add(replace(poll, at=NOW + timedelta(seconds=second)))
    views = [View(kind=kind, show_all=True) for kind in Kind]
    for view in (*views, *(View(tree=tree, show_all=True) for tree in Tree)):
        shown = presenter.present(poll, view)
        layout = shown.layout(_WIDTH)
        for row in shown.rows:
            is_line("".join(text for text, _ in shown.cells(row, layout)))
            _are_lines(shown.lines(row))
        _are_lines(banner_lines(shown, "now", _WIDTH, 7))
    for status in report.statuses:
        for is_tree in (False, True):
            subject = presenter.subject(shown, status)
            for _, lines in page_sections(subject, _WIDTH, is_tree=is_tree):
                _are_lines(lines)
                for each in lines:
                    is_line(to_ascii(each.plain))


def _are_lines(lines: Iterable[Text]) -> None:
    for each in lines:
        is_line(each.plain)


def _report(data: bytes) -> NodeReport | None:
    try:
        return decode_report(data)
    except SnapshotError as error:
        is_told(error)
        return None


@target("api.snapshot", "view.agent_summary")
def agent_status(data: bytes) -> None:
    """What an agent says of itself."""
    try:
        status = decode_agent(data)
    except SnapshotError as error:
        is_told(error)
    else:
        is_line(agents_line([status]))
        is_publishable(status)


@target("culling.audit_log", "view.culling_text", "culling.history", max_bytes=16384, cost=4)
def audit(data: bytes) -> None:
    """The audit log: what can be read of it, and the history that it restores."""
    written = audit_log.read(put(folder("audit") / "audit.jsonl", data))
    assert written.torn + len(written.damaged) + len(written.lines) <= data.count(b"\n") + 1
    are_lines(simulation_text(written.lines, 24))
    records = [each.record for each in written.lines if each.record is not None]
    history = History.restored(records, Moment(1.8e9, 5e5, _BOOT))
    for record in history.records():
        history.is_pending(record.pod_uid)
    history.stopped(_BOOT)
    is_publishable([*history.records(), history.anchor("n", Moment(1.8e9, 5e5, _BOOT))])


@target("cli.canary")
def canary_metrics(data: bytes) -> None:
    """What an agent's metrics say of the canary."""
    try:
        is_finite(last_seen_unix_s(data.decode(errors="replace")))
    except SnapshotError as error:
        is_told(error)


@target("report.metrics", cost=2)
def metric_labels(data: bytes) -> None:
    """Names in labels: one line a series, and read back as they were written."""
    name = data.decode("utf-8", "backslashreplace")
    flagged = metrics.FlaggedContainer(name, name, name, 91.0, 1.0, {(name, name): 88.0})
    told = metrics.Metrics(probe_failures=lambda: [(name, name, 1)])
    told.tick_done(duration_s=0.1, at_s=1.0, containers={}, flagged=(flagged,), processes=1)
    text = told.exposition().decode()
    are_lines(text)
    wanted = metrics.label(name)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = families["minerwatch_container_score"].samples
    assert set(sample.labels.values()) == {wanted}
    assert len(wanted) <= 10 * metrics.MAX_LABEL_LENGTH


@target("untrusted_text.display", "report.log", "view.lines")
def shown_text(data: bytes) -> None:
    """Any text made fit for a terminal, a log, a column."""
    text = data.decode("utf-8", "backslashreplace")
    escaped = printable(text)
    is_line(escaped)
    assert printable(escaped) == escaped
    assert len(escaped) <= 10 * len(text)
    hidden = redacted(text)
    is_unicode(hidden)
    assert len(matched_words(text, [(len(text) // 3, len(text) // 2)])) <= MAX_EXCERPT_CHARS + 2
    is_line(evidence_text(text), most=10 * 256)
    assert len(shortened(text, 100)) <= max(100, min(len(text), 100))
    for width in (0, 1, 7, 80):
        for piece in (
            *wrapped(escaped, max(1, width)),
            cut(escaped, width),
            fitted(escaped, width),
        ):
            is_line(piece)
