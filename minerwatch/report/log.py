"""Structured logs on stderr: JSON lines for machines, one short line for a person's terminal.

structlog formats tracebacks with rich where it is installed. The agent does not need that, so rich
is hidden from it: that saves 5 MiB.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from minerwatch.api.types import ContainerStatus, FindingStatus
from minerwatch.format import one_decimal
from minerwatch.untrusted_text.display import printable
from minerwatch.untrusted_text.redaction import redacted

MAX_EVIDENCE_LENGTH = 256
_MAX_SAID = 200  # of one event; a tenant that causes many must not silence others
_MAX_FIELD_LENGTH = 4096
_CUT_START = re.compile(r"…\S*\s+\S+")
"""An excerpt's first two words: what named them as a secret may have been cut off."""


class Log(Protocol):
    """The logger that the rest of minerwatch uses."""

    def info(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def warning(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def error(self, event: str, **fields: Any) -> Any: ...  # noqa: D102


def logger(*, as_json: bool) -> Log:
    """A logger to stderr, for machines or for a terminal."""
    with _absent("rich"):
        import structlog

    last = structlog.processors.JSONRenderer() if as_json else _terminal_line
    log: Log = structlog.wrap_logger(
        _Lines(sys.stderr),
        processors=[
            _with_severity,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            last,
        ],
    )
    return log


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """As if ``module`` were not installed, unless it has been imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # its import fails (importlib)
    try:
        yield
    finally:
        del sys.modules[module]


_Fields = MutableMapping[str, Any]


class _Lines:
    """Write lines; a full disk or a closed pipe is ignored."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def info(self, line: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # ValueError: the file has been closed
            self._file.write(line + "\n")
            self._file.flush()

    warning = error = info


class Once:
    """Log an event the first time only; what recurs every tick belongs in a metric."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said: dict[str, set[str]] = {}

    def warning(self, event: str, about: str = "", **fields: Any) -> None:
        """Log ``event``, unless it was logged ``about`` the same before."""
        if self._is_news(event, about):
            self._log.warning(event, **fields)

    def failure(self, event: str, error: Exception) -> None:
        """Log an unexpected error, with its place."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        if self._is_news(event, f"{place} {type(error).__name__}"):
            self._log.error(event, error=repr(error), place=place)

    def _is_news(self, event: str, about: str) -> bool:
        said = self._said.setdefault(event, set())
        if about in said or len(said) > _MAX_SAID:
            return False
        said.add(about)
        if len(said) > _MAX_SAID:
            self._log.warning("no more of these are logged until a restart", about=event)
            return False
        return True


def verdict_line(status: ContainerStatus, previous_level: str) -> dict[str, Any]:
    """Return the fields of a verdict's log line: secrets redacted, names escaped.

    ``status`` must be public (``api.snapshot``): logs are read by outsiders.
    """
    return {
        "node": status.node,
        "namespace": printable(status.namespace, 256),
        "pod": printable(status.pod, 256),
        "container": printable(status.container, 256),
        "cgroup": printable(status.cgroup, 512),
        "image": printable(status.image, 256),
        "owner": printable(redacted(status.owner), 256),
        "level": status.level,
        "previous_level": previous_level,
        "score": status.score,
        "cpu_cores": round(status.cpu_cores, 2),
        "signals": status.signals,
        "findings": [_finding_line(finding) for finding in status.findings[:10]],
    }


def _with_severity(_log: Any, method: str, line: _Fields) -> _Fields:
    """The log's own level; ``level`` is a verdict's."""
    line["severity"] = method
    return line


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


def _terminal_line(_log: Any, _method: str, line: _Fields) -> str:
    """One line for a person: time, event, then the fields; findings as short reasons."""
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
    place = "/".join(part for part in (line["namespace"], line["pod"], line["container"]) if part)
    reasons = "; ".join(dict.fromkeys(f"{f['signal']}: {f['title']}" for f in line["findings"]))
    text = (
        f"{line['level'].upper():10} {one_decimal(line['score']):>5}  {printable(place, 60)}"
        f"  {line['cpu_cores']:.2f} cores"
    )
    reasons = printable(reasons, _MAX_FIELD_LENGTH)
    return text + (f"  {reasons}" if reasons else f"  (was {line['previous_level']})")
