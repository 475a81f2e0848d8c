"""Parts of the report for people: facts, tables and notes, which each format draws. Pure.

``Name`` marks text that tenants or nodes may have chosen; each format makes it harmless.
"""

from __future__ import annotations

from dataclasses import dataclass

from minerwatch.api.history import Day, Prices
from minerwatch.format import by_signal, counted, duration, unix_s
from minerwatch.kinds import Outcome
from minerwatch.view.abuse_report import JOURNAL, Delay, Report, ReportedIncident, Sum, shown_time

UNKNOWN = "unknown"
_NOT_IN_METRICS = "Not known: metrics do not say."
_MAX_RULES_SHOWN = 4
_DAY_S = 86400.0
_MAX_CURRENCY = 8


class Name(str):
    """Text of others."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title; ``is_number``: aligned to the right."""

    title: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Cells in the order of columns; ``below`` stands under them, such as the reasons."""

    cells: tuple[str, ...]
    below: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A part with a table; ``empty`` is shown instead if there is no row."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    empty: str
    more: int = 0  # rows that are left out
    about: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the summary."""

    label: str
    value: str


def title(report: Report) -> str:
    """Return the report's title, without its scope."""
    return f"Abuse of compute, {shown_time(report.since)} to {shown_time(report.until)} UTC"


def coverage(report: Report) -> str:
    """Return how much the figures are of."""
    nodes = len(report.nodes)
    if report.recorded_share is None:
        text = "Nothing is recorded of any node"
    else:
        text = f"{report.recorded_share:.0%} of the time of {counted(nodes, 'node')} is recorded"
    if report.missing:
        text += f"; {counted(len(report.missing), 'node')} missing"
    if not report.recorded_share or report.missing or report.recorded_share < 0.995:
        text += ". What is missing is in no figure"
    return f"{text}."


def facts(report: Report) -> list[Fact]:
    """Return the summary."""
    total = report.total
    count = counted(total.incidents, "container")
    abuse = "none found"
    if total.incidents:
        kinds = (f"{each.abuse or 'not recorded'} {each.incidents}" for each in report.abuses)
        abuse = f"{count} of {counted(report.owner_count, 'owner')}: {', '.join(kinds)}"
    found = [
        Fact("Abuse", Name(abuse)),
        Fact("CPU", _cpu(report)),
        Fact("GPU", _figure(total.gpu_hours, "GPU hours", total.incidents)),
        Fact("Energy", _figure(total.energy_kwh, "kWh of GPUs", total.incidents)),
        Fact("Cost", _total_cost(total, report.prices)),
        Fact("From start to detection", _delay(report.detection)),
        Fact("From detection to action", _action_delay(report)),
        Fact("False alarms", _false_alarms(report)),
    ]
    if report.suspicious.incidents:
        more = report.suspicious
        gpu = "" if more.gpu_hours is None else f", {hours(more.gpu_hours)} GPU hours"
        found.append(
            Fact(
                "Suspicious only",
                f"{counted(more.incidents, 'container')}, {hours(more.cpu_hours)} CPU hours{gpu};"
                " not counted above",
            )
        )
    return found


def tables(report: Report, most: int) -> list[Table]:
    """Return the tables, with at most so many rows each."""
    return [
        _owners(report, most),
        _incidents(report, most),
        _actions(report, most),
        _released(report, most),
        _rules(report, most),
        _days(report),
    ]


def hours(value: float | None) -> str:
    """Return hours as text."""
    if value is None:
        return UNKNOWN
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def money(value: float | None, prices: Prices | None) -> str:
    """Return a cost as text; "": there is no price."""
    if prices is None:
        return ""
    if value is None:
        return UNKNOWN
    return f"{value:,.2f} {_currency(prices)}".rstrip()


def _currency(prices: Prices) -> str:
    """Return the currency if it is a short word: an agent may say anything."""
    word = prices.currency[:_MAX_CURRENCY]
    return word if word.isascii() and word.isalpha() else ""


def seconds(value: float | None) -> str:
    """Return a delay as text."""
    return UNKNOWN if value is None else duration(value)


def name_of(incident: ReportedIncident) -> str:
    """Return namespace, pod and container."""
    parts = (incident.namespace, incident.pod, incident.container)
    return "/".join(part for part in parts if part)


def lasted(incident: ReportedIncident, until: str) -> str:
    """Return how long the container was flagged; with a plus: it still was in the end."""
    flagged_s, ended_s = unix_s(incident.flagged), unix_s(incident.ended or until)
    if flagged_s is None or ended_s is None:
        return UNKNOWN
    return duration(ended_s - flagged_s) + ("" if incident.ended else "+")


def reasons(incident: ReportedIncident) -> str:
    """Return the strongest rules by signal."""
    shown = incident.rules[:_MAX_RULES_SHOWN]
    return by_signal((each.signal, each.title) for each in shown)


def done(incident: ReportedIncident) -> str:
    """Return the actions with their outcomes."""
    found = dict.fromkeys(
        _action_text(each.action, each.outcome, dry_run=each.dry_run) for each in incident.actions
    )
    return ", ".join(found) or "nothing"


def _action_text(action: str, outcome: str, *, dry_run: bool) -> str:
    if outcome == "released":
        return f"{action} undone"
    if dry_run or outcome == "dry-run":
        return f"{action} (dry run)"
    return action if outcome == "done" else f"{action} {outcome}"


def _cpu(report: Report) -> str:
    total = report.total
    if not total.incidents:
        return "0 hours"
    text = f"{hours(total.cpu_hours)} hours while flagged"
    all_hours = sum(each.cpu_hours for each in report.nodes)
    if total.cpu_hours is not None and all_hours > 0 and not report.namespace:
        text += f", {min(1.0, total.cpu_hours / all_hours):.1%} of all CPU hours recorded"
    if total.without_cpu:
        text += f"; not known of {counted(total.without_cpu, 'container')}"
    return text


def _figure(value: float | None, unit: str, incidents: int) -> str:
    if value is None:
        return "not measured" if incidents else "-"
    return f"{hours(value)} {unit}"


def _total_cost(total: Sum, prices: Prices | None) -> str:
    if prices is None:
        return "no price is configured: report.price_per_core_hour"
    if not total.incidents:
        return money(0.0, prices)
    rates = [
        f"{price:g} {_currency(prices)}".rstrip() + f" per {unit} hour"
        for price, unit in ((prices.core_hour, "core"), (prices.gpu_hour, "GPU"))
        if price is not None
    ]
    text = f"{money(total.cost, prices)} at {', '.join(rates)}"
    if prices.gpu_hour is not None and total.gpu_hours is None:
        text += "; without GPUs, which are not measured"
    if prices.gpu_hour is None and total.gpu_hours is not None:
        text += "; without GPU hours: report.price_per_gpu_hour is not configured"
    return text


def _delay(delay: Delay) -> str:
    if not delay.known:
        return UNKNOWN if delay.unknown else "-"
    text = f"{seconds(delay.median_s)} (median)"
    if delay.longest_s is not None and delay.known > 1:
        text += f", {seconds(delay.longest_s)} at most"
    return text + (f"; not known of {delay.unknown}" if delay.unknown else "")


def _action_delay(report: Report) -> str:
    if report.action.known:
        return _delay(report.action)
    if report.source != JOURNAL and any(each.outcome == "done" for each in report.actions):
        return f"{UNKNOWN}: metrics do not say on which container an action was"
    return "no action was carried out" if report.total.incidents else "-"


def _false_alarms(report: Report) -> str:
    if report.source != JOURNAL:
        undone = sum(each.count for each in report.actions if each.outcome == Outcome.RELEASED)
        return f"{UNKNOWN}; {counted(undone, 'action')} undone"
    count = report.false_alarms.incidents
    return f"{count:,} released, not counted above" if count else "none released"


def _gpu_column(report: Report) -> tuple[Column, ...]:
    return () if report.total.gpu_hours is None else (Column("GPU hours", is_number=True),)


def _gpu_cell(value: float | None, report: Report) -> tuple[str, ...]:
    """Return a cell; no GPU use and no measurement look the same."""
    shown = "-" if value is None else hours(value)
    return () if report.total.gpu_hours is None else (shown,)


def _cost_column(report: Report) -> tuple[Column, ...]:
    if report.prices is None:
        return ()
    currency = _currency(report.prices)
    return (Column(f"Cost, {currency}" if currency else "Cost", is_number=True),)


def _cost_cell(value: float | None, report: Report) -> tuple[str, ...]:
    shown = UNKNOWN if value is None else f"{value:,.2f}"
    return (shown,) if report.prices else ()


def _owners(report: Report, most: int) -> Table:
    rows = (
        Row(
            (
                Name(each.owner),
                Name(each.namespace or "-"),
                Name(", ".join(each.abuses) or UNKNOWN),
                str(each.incidents),
                hours(each.cpu_hours),
                *_gpu_cell(each.gpu_hours, report),
                *_cost_cell(each.cost, report),
            )
        )
        for each in report.owners[:most]
    )
    columns = (
        *(Column("Owner"), Column("Namespace"), Column("Abuse")),
        *(Column("Containers", is_number=True), Column("CPU hours", is_number=True)),
        *_gpu_column(report),
        *_cost_column(report),
    )
    more = len(report.owners) - most
    return Table("Owners", columns, tuple(rows), "None.", max(0, more))


def _incidents(report: Report, most: int) -> Table:
    found = [
        each
        for each in report.incidents
        if each.level in ("likely", "confirmed") and not each.released
    ]
    rows = [_incident_row(each, report) for each in found[:most]]
    about = "The worst first; a plus: still flagged in the end."
    more = max(0, len(found) - most)
    return Table("Containers", _incident_columns(report), tuple(rows), "None.", more, about)


def _incident_columns(report: Report) -> tuple[Column, ...]:
    return (
        *(Column("Container"), Column("Node"), Column("Owner"), Column("Abuse"), Column("Level")),
        *(Column("Flagged (UTC)"), Column("For", is_number=True)),
        *(Column("Found after", is_number=True), Column("CPU hours", is_number=True)),
        *_gpu_column(report),
        *_cost_column(report),
        Column("Done"),
    )


def _incident_row(each: ReportedIncident, report: Report) -> Row:
    return Row(
        (
            Name(name_of(each)),
            Name(each.node),
            Name(each.owner or "-"),
            Name(each.abuse or UNKNOWN),
            Name(each.level),
            shown_time(each.flagged),
            lasted(each, report.until),
            seconds(each.delay_s),
            hours(each.cpu_hours),
            *_gpu_cell(each.gpu_hours, report),
            *_cost_cell(each.cost, report),
            Name(done(each)),
        ),
        Name(reasons(each)),
    )


def _actions(report: Report, most: int) -> Table:
    rows = (
        Row(
            (Name(_action_text(each.action, each.outcome, dry_run=each.dry_run)), f"{each.count:,}")
        )
        for each in report.actions[:most]
    )
    columns = Column("Action"), Column("Times", is_number=True)
    more = max(0, len(report.actions) - most)
    return Table("What was done", columns, tuple(rows), "Nothing.", more)


def _released(report: Report, most: int) -> Table:
    found = [each for each in report.incidents if each.released]
    rows = (
        Row(
            (
                Name(name_of(each)),
                Name(each.node),
                Name(each.owner or "-"),
                Name(each.level),
                shown_time(each.released),
                Name(done(each)),
            ),
            Name(reasons(each)),
        )
        for each in found[:most]
    )
    titles = ("Container", "Node", "Owner", "Level", "Released (UTC)", "Done")
    columns = tuple(Column(each) for each in titles)
    more = max(0, len(found) - most)
    about = "Released by an operator, so counted as false alarms."
    empty = "None." if report.source == JOURNAL else _NOT_IN_METRICS
    return Table("False alarms", columns, tuple(rows), empty, more, about if found else "")


def _rules(report: Report, most: int) -> Table:
    rows = (
        Row((Name(each.title or each.rule), Name(each.signal), f"{each.count:,}"))
        for each in report.rules[:most]
    )
    what = "Containers" if report.source == JOURNAL else "Findings"
    columns = Column("Rule"), Column("Signal"), Column(what, is_number=True)
    return Table("Rules", columns, tuple(rows), "None.", max(0, len(report.rules) - most))


def _days(report: Report) -> Table:
    rows = tuple(
        Row(
            (
                Name(each.date),
                f"{recorded_share(each, report):.0%}",
                hours(each.cpu_hours) if each.recorded_s else UNKNOWN,
                hours(each.flagged_cpu_hours) if each.recorded_s else UNKNOWN,
            )
        )
        for each in report.days
    )
    titles = ("Recorded", "CPU hours", "while suspicious or above")
    columns = (Column("Day (UTC)"), *(Column(each, is_number=True) for each in titles))
    empty = "Nothing is recorded." if report.source == JOURNAL else _NOT_IN_METRICS
    return Table("Days", columns, rows, empty)


def recorded_share(day: Day, report: Report) -> float:
    """Return the share of a day that is recorded, of the part that the report is about."""
    start_s = unix_s(f"{day.date}T00:00:00Z")
    since_s, until_s = unix_s(report.since), unix_s(report.until)
    if start_s is None or since_s is None or until_s is None:
        return 0.0
    part_s = min(until_s, start_s + _DAY_S) - max(since_s, start_s)
    return max(0.0, min(1.0, day.recorded_s / max(1.0, part_s * max(1, len(report.nodes)))))


def left_out(table: Table) -> str:
    """Return how many rows are left out; "": none."""
    return f"and {table.more:,} more: use --format csv or json" if table.more else ""
