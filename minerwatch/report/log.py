"""Structured logs on stderr: JSON lines for machines, one short line for a person's terminal."""

from __future__ import annotations

import json
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TextIO

from minerwatch.api.types import ContainerStatus, FindingStatus
from minerwatch.format import by_signal, one_decimal
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.untrusted_text.redaction import redacted

MAX_EVIDENCE_LENGTH = 256
_MAX_LOGGED = 200  # of one event; a tenant that causes many must not silence others
_MAX_FIELD_LENGTH = 4096
_MAX_REASONS_LENGTH = 1024
_MAX_FINDINGS = 10
_HOUR_S = 3600.0
_MAX_REMEMBERED = 4096
_CUT_START = re.compile(r"…\S*\s+\S+")
"""An excerpt's first two words: what named them as a secret may have been cut off."""


class Log(Protocol):
    """The logger that the rest of minerwatch uses."""

    def info(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def warning(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def error(self, event: str, **fields: Any) -> Any: ...  # noqa: D102


def logger(*, as_json: bool) -> Log:
    """Return a logger to stderr, for machines or for a terminal."""
    return _Logger(sys.stderr, _json_line if as_json else _terminal_line)


_Fields = dict[str, Any]


class _Logger:
    """Writes lines; a full disk or a closed pipe is ignored."""

    def __init__(self, file: TextIO, line_of: Callable[[_Fields], str]) -> None:
        self._file = file
        self._line_of = line_of
        self._lock = threading.Lock()

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, severity: str, event: str, fields: _Fields) -> None:
        """Add the event; ``level`` is a verdict's, ``severity`` the log's own."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = self._line_of({**fields, "event": event, "severity": severity, "timestamp": now})
        with self._lock, suppress(OSError, ValueError):  # ValueError: the file has been closed
            self._file.write(line + "\n")
            self._file.flush()


class Once:
    """Log an event the first time only; what recurs every tick belongs in a metric."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._logged: dict[str, set[str]] = {}

    def warning(self, event: str, about: str = "", **fields: Any) -> None:
        """Log ``event``, unless it was logged ``about`` the same before."""
        if self._is_news(event, about):
            self._log.warning(event, **fields)

    def failure(self, event: str, error: Exception) -> None:
        """Log an unexpected error, with the file and line that raised it."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        location = f"{Path(frame.filename).name}:{frame.lineno}"
        if self._is_news(event, f"{location} {type(error).__name__}"):
            self._log.error(event, error=repr(error), place=location)

    def _is_news(self, event: str, about: str) -> bool:
        logged = self._logged.setdefault(event, set())
        if about in logged or len(logged) > _MAX_LOGGED:
            return False
        logged.add(about)
        if len(logged) > _MAX_LOGGED:
            self._log.warning("no more of these are logged until a restart", about=event)
            return False
        return True


class Rate(NamedTuple):
    """Lines that may be logged in one burst, and per hour on average."""

    burst: int
    per_hour: int


PER_CONTAINER: Final = Rate(burst=12, per_hour=30)
PER_NAMESPACE: Final = Rate(burst=240, per_hour=1000)


@dataclass(slots=True)
class _Bucket:
    """Lines that a container or a namespace may still log."""

    lines: float
    at_s: float
    left_out: int = 0
    logged_at_s: dict[str, float] = field(default_factory=dict)  # level -> when it was logged last


class LogLimit:
    """Decides which verdicts are logged, by container and by namespace.

    A level that was not logged for an hour is news whatever the container has used up.
    """

    def __init__(
        self, per_container: Rate = PER_CONTAINER, per_namespace: Rate = PER_NAMESPACE
    ) -> None:
        self.left_out = 0
        self._per_container = per_container
        self._per_namespace = per_namespace
        self._containers: dict[str, _Bucket] = {}
        self._namespaces: dict[str, _Bucket] = {}

    def lines_before(self, container: str, namespace: str, level: str, at_s: float) -> int | None:
        """Return how many lines about ``container`` were left out before this one.

        None: this one is left out as well. ``at_s`` is monotonic.
        """
        own = _refilled(self._containers, container, self._per_container, at_s)
        shared = _refilled(self._namespaces, namespace, self._per_namespace, at_s)
        is_news = at_s - own.logged_at_s.get(level, -_HOUR_S) >= _HOUR_S
        if shared.lines < 1 or (own.lines < 1 and not is_news):
            own.left_out += 1
            self.left_out += 1
            return None
        shared.lines -= 1
        own.lines = max(0.0, own.lines - 1)
        own.logged_at_s[level] = at_s
        left_out, own.left_out = own.left_out, 0
        return left_out


def _refilled(held: dict[str, _Bucket], key: str, rate: Rate, at_s: float) -> _Bucket:
    """Return the bucket of ``key`` as it is at ``at_s``; those not used for longest give way."""
    bucket = held.pop(key, None) or _Bucket(float(rate.burst), at_s)
    gained = max(0.0, at_s - bucket.at_s) * rate.per_hour / _HOUR_S
    bucket.lines, bucket.at_s = min(float(rate.burst), bucket.lines + gained), at_s
    held[key] = bucket
    while len(held) > _MAX_REMEMBERED:
        del held[next(iter(held))]
    return bucket


def verdict_line(status: ContainerStatus, previous_level: str) -> dict[str, Any]:
    """Return the fields of a verdict's log line: secrets redacted, names escaped.

    ``status`` must be public (``container_status``): logs are read by outsiders.
    """
    return {
        "node": status.node,
        "namespace": shown_name(status.namespace),
        "pod": shown_name(status.pod),
        "container": shown_name(status.container),
        "cgroup": printable(status.cgroup, 512),
        "image": shown_name(status.image),
        "owner": shown_name(redacted(status.owner)),
        "owners": [
            {
                "kind": each.kind,
                "name": shown_name(redacted(each.name)),
                "source": printable(each.source, 128),
                **({"claimed": True} if each.claimed else {}),
            }
            for each in status.owners
        ],
        "level": status.level,
        "previous_level": previous_level,
        "abuse": status.abuse,
        "score": status.score,
        "cpu_cores": round(status.cpu_cores, 2),
        "signals": status.signals,
        "reasons": printable(
            by_signal((each.signal, each.title) for each in status.findings if each.counted),
            _MAX_REASONS_LENGTH,
        ),
        "findings": [_finding_line(finding) for finding in _foremost(status.findings)],
    }


def _foremost(findings: Sequence[FindingStatus]) -> list[FindingStatus]:
    """Return a few findings, with the strongest of each signal among them, strongest first."""
    strongest = {each.signal: each for each in reversed(findings) if each.counted}
    ranked = sorted(
        findings, key=lambda each: (each is not strongest.get(each.signal), -each.score)
    )
    kept = {id(each) for each in ranked[:_MAX_FINDINGS]}
    return [each for each in findings if id(each) in kept]


def _finding_line(finding: FindingStatus) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "title": finding.title,
        "signal": finding.signal,
        "score": finding.score,
        "since": finding.since,
        "pid": finding.pid,
        "evidence": {
            field: evidence_text(value) if isinstance(value, str) else value
            for field, value in finding.evidence.items()
        },
    }


def evidence_text(observed: str) -> str:
    """Return evidence as text for a log: secrets redacted, escaped, cut to 256 characters."""
    whole_words = _CUT_START.sub("…", observed, count=1) if observed[:1] == "…" else observed
    return printable(redacted(whole_words), MAX_EVIDENCE_LENGTH)


def _json_line(line: _Fields) -> str:
    return json.dumps(line, default=repr)


def _terminal_line(line: _Fields) -> str:
    """Return one line for a person: time, event, then the fields; findings as short reasons."""
    time = str(line.pop("timestamp"))[11:19]
    severity, event = line.pop("severity"), line.pop("event")
    if event == "verdict":
        return f"{time} {_verdict_in_words(line)}"
    mark = "" if severity == "info" else f"{severity}: "
    fields = "".join(
        f" {name}={printable(str(value), _MAX_FIELD_LENGTH)}" for name, value in line.items()
    )
    return f"{time} {mark}{event}{fields}"


def _verdict_in_words(line: _Fields) -> str:
    name = "/".join(part for part in (line["namespace"], line["pod"], line["container"]) if part)
    text = (
        f"{line['level'].upper():10} {one_decimal(line['score']):>5}  {name}"
        f"  {line['cpu_cores']:.2f} cores"
    )
    text += f"  {line['abuse']}" if line["abuse"] else ""
    return f"{text}  {line['reasons'] or '(was ' + line['previous_level'] + ')'}"
