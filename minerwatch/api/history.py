"""A node's incidents over some time, as its agent returns them. Times are RFC 3339 in UTC.

``None`` is a figure that is not known; nothing is known of a gap.
"""

from __future__ import annotations

import msgspec

from minerwatch.api.journal import RuleScore
from minerwatch.config.schema import Report


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Prices by which costs are computed; None: no price is configured."""

    core_hour: float | None = None
    gpu_hour: float | None = None
    currency: str = ""


def configured_prices(settings: Report) -> Prices | None:
    """Return the prices of a configuration; None if it has none."""
    if settings.price_per_core_hour is None and settings.price_per_gpu_hour is None:
        return None
    return Prices(
        core_hour=settings.price_per_core_hour,
        gpu_hour=settings.price_per_gpu_hour,
        currency=settings.currency,
    )


CORES_PER_GPU = 16
"""About as many as a node has for each of its GPUs: to compare hours of both."""


def weight(cpu_hours: float | None, gpu_hours: float | None) -> float:
    """Return the weight of what was used, to put the worst first."""
    return (cpu_hours or 0.0) + CORES_PER_GPU * (gpu_hours or 0.0)


class Gap(msgspec.Struct, frozen=True):
    """A time in which nothing was recorded."""

    since: str
    until: str


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One day, in UTC; only ``recorded_s`` of it were recorded."""

    date: str
    recorded_s: float
    cpu_hours: float
    flagged_cpu_hours: float


class IncidentAction(msgspec.Struct, frozen=True, kw_only=True):
    """An action on the pod of an incident, done, tried or undone."""

    at: str
    action: str
    outcome: str
    dry_run: bool


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A container that was at suspicious or above."""

    key: str  # ``api.journal.container_key``
    namespace: str
    pod: str
    container: str
    image: str
    owner: str
    abuse: str  # of the highest score; "": not recorded
    level: str  # the highest
    score: float | None
    rules: tuple[RuleScore, ...]  # of the highest score, strongest first
    started: str  # when the pod was made; "": unknown
    flagged: str  # when it was first suspicious or above
    detected: str  # when it was first likely or above; "": never
    delay_s: float | None  # from the start of its process, or else its pod, to ``detected``
    ended: str  # "": still flagged at the end
    cpu_hours: float | None  # while flagged, as far as recorded
    gpu_hours: float | None = None  # the same of GPUs; None: it used none, or that is not known
    energy_kwh: float | None = None  # of GPUs that only this container used
    actions: tuple[IncidentAction, ...] = ()


class NodeHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents of one node and what its journal lacks."""

    node: str
    since: str
    until: str
    recorded_s: float
    cores: int  # of the machine; 0: unknown
    cpu_hours: float  # of all containers
    flagged_cpu_hours: float
    gaps: tuple[Gap, ...]  # the longest, in the order of time
    unlisted_gaps: int
    days: tuple[Day, ...]
    incidents: tuple[Incident, ...]
    unlisted: int  # incidents beyond the bound of ``incidents``
    unlisted_cpu_hours: float | None
    left_out: int  # changes of level that were not recorded: their owners had too many
    unlisted_gpu_hours: float = 0.0
    crashes: int = 0  # starts of the agent without a stop before
    lost: dict[str, int] = {}  # reason -> lines not written since the agent's start
    audit: str = ""  # why the audit log was not read; "": it was
    prices: Prices | None = None
