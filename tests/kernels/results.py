"""Outcome of the agent on one kernel, as a line of JSON and as a row of the table in docs/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from minerwatch.api.types import ProbeReport

LAYOUTS = ("v2", "hybrid", "v1")
RESULT = b"result: "
"""Begins the line of a guest's output that holds its result."""
BEGIN = "<!-- begin: make kernels ARGS=--write -->"
END = "<!-- end of the kernels -->"

_HEAD = (
    *("kernel", "cgroups", "read from", "off or unavailable", "miner by its arguments"),
    *("RandomX", "by these rules", "a tick", "memory", "run"),
)

_WHATEVER_THE_KERNEL = ("switched off", "this kernel knows no GPU")


@dataclass(frozen=True, slots=True)
class Found:
    """How soon a target was `likely`, by the guest's clock; None: not while it was watched."""

    after_s: float | None
    cpu_s: float  # of the target in all
    level: str = "clear"  # its last one
    rules: tuple[str, ...] = ()  # their titles


@dataclass(frozen=True, slots=True)
class Sampling:
    """Source of executed code, with the chart's capabilities, under perf_event_paranoid."""

    paranoid: int
    source: str
    reason: str  # why it is not a better one


@dataclass(frozen=True, slots=True)
class Result:
    """What a guest found; with ``failure`` the rest is missing."""

    kernel: str = ""  # uname -r
    machine: str = ""  # uname -m
    layout: str = ""
    source: str = ""  # of containers
    probes: tuple[ProbeReport, ...] = ()
    blind_spots: tuple[str, ...] = ()
    started_s: float | None = None
    miner: Found | None = None
    randomx: Found | None = None
    tick_s: float | None = None  # on average
    rss_mib: float | None = None
    sampling: tuple[Sampling, ...] = ()
    failure: str = ""
    accelerator: str = ""  # KVM or TCG, by what the guest sees
    # what the host adds
    suite: str = ""
    package: str = ""
    date: str = ""
    host: str = ""

    @property
    def is_good(self) -> bool:
        """True if both targets were found."""
        return all(each and each.after_s is not None for each in (self.miner, self.randomx))

    @property
    def is_refused(self) -> bool:
        """True if the agent said that it cannot work: v1 has no cpuacct on newer kernels."""
        return self.layout == "v1" and self.failure.startswith("the agent does not start")

    def summary(self) -> str:
        """Return the outcome in one line."""
        if self.failure:
            return self.failure
        found = f"miner {_found(self.miner)}, RandomX {_found(self.randomx)}"
        return f"{self.kernel}: {found}; started in {self.started_s or 0:.0f} s"


def decoded(line: str | bytes) -> Result:
    """Return the result that a line holds. Raises ValueError."""
    try:
        return msgspec.json.decode(line, type=Result)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a result: {error}") from error


def latest(results: Iterable[Result]) -> list[Result]:
    """Return the last result of each kernel and layout, in the order of their first ones."""
    by_place: dict[tuple[str, str, str], Result] = {}
    for each in results:
        by_place[each.suite, each.machine, each.layout] = each
    return list(by_place.values())


def table(results: Sequence[Result]) -> str:
    """Return the table for docs/, with what it needs to be read."""
    lines = [_row(_HEAD), _row(["---"] * len(_HEAD)), *(_row(_cells(each)) for each in results)]
    return "\n".join(lines) + "\n" + _sampling_table(results)


def report(results: Sequence[Result]) -> str:
    """Return what the page says of the results."""
    hosts = "; ".join(sorted({each.host for each in results}))
    return f"\nqemu on {hosts}: `make kernels ARGS=--write`.\n\n{table(results)}\n"


def with_table(document: str, report: str) -> str:
    """Return ``document`` with ``report`` between its marks. Raises ValueError without them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    return f"{before}{begin}\n{report}{end}{after}"


def _cells(result: Result) -> list[str]:
    name = f"{result.suite} {result.kernel}, {result.machine}"
    run = f"{result.date}, {result.accelerator}"
    if result.failure:
        return [name, result.layout, "", result.failure, *[""] * (len(_HEAD) - 5), run]
    off = [
        f"{each.name}: {each.reason}"
        for each in result.probes
        if each.state != "on" and not each.reason.startswith(_WHATEVER_THE_KERNEL)
    ]
    return [
        name,
        result.layout,
        result.source,
        "; ".join((*off, *result.blind_spots)) or "nothing",
        _found(result.miner),
        _found(result.randomx),
        "; ".join(result.randomx.rules) if result.randomx else "",
        "" if result.tick_s is None else f"{result.tick_s * 1000:.0f} ms",
        "" if result.rss_mib is None else f"{result.rss_mib:.0f} MiB",
        run,
    ]


def _found(found: Found | None) -> str:
    if found is None:
        return ""
    if found.after_s is None:
        return f"not within {found.cpu_s:.0f} s of its CPU time"
    return f"{found.after_s:.0f} s"


def _sampling_table(results: Sequence[Result]) -> str:
    rows = [
        _row([each.suite, each.kernel, str(one.paranoid), one.source, _cause(one.reason)])
        for each in results
        for one in each.sampling
    ]
    if not rows:
        return ""
    head = ("suite", "kernel", "`perf_event_paranoid`", "executed code by", "because")
    return "\n" + "\n".join([_row(head), _row(["---"] * len(head)), *rows]) + "\n"


def _cause(blind_spot: str) -> str:
    return blind_spot.rpartition("because of this: ")[2]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"
