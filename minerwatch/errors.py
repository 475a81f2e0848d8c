"""Exceptions that minerwatch raises on purpose.

A failure of one process, container, rule or probe raises none of these: it is counted, logged once
and skipped, and the agent goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_MAX_FAULTS = 50

NOT_JSON = (ValueError, RecursionError)
"""What msgspec raises where bytes are not the JSON that was asked for.

Its own errors are ValueErrors, and so is that for text which is not UTF-8.
"""


class MinerwatchError(Exception):
    """Something that a person has to mend; ``str()`` is the one line that they read."""


class ConfigError(MinerwatchError):
    """A configuration file, key or option that cannot be used."""


class ConfigFileError(ConfigError):
    """A configuration file with faults: ``lines`` has a line for each, of the first ones."""

    def __init__(self, lines: Iterable[str]) -> None:
        every = tuple(lines)
        more = len(every) - _MAX_FAULTS
        self.lines = (*every[:_MAX_FAULTS], *([f"and {more:,} more faults"] if more > 0 else ()))
        super().__init__("; ".join(self.lines))


class RuleError(MinerwatchError):
    """A rule file or list that cannot be used; the rules loaded before stay in force.

    ``str()`` is ``path:line: reason``, the form that editors and CI logs make clickable.
    """

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason

    def __reduce__(self) -> tuple[type[RuleError], tuple[Path, int, str]]:
        return type(self), (self.path, self.line, self.reason)


class NodeError(MinerwatchError):
    """The node cannot be read at all: no cgroup hierarchy, no /proc."""


class SourceUnavailableError(Exception):
    """A kernel source cannot be opened; ``str()`` is one line: the reason, and the remedy."""


class MissingExtraError(NodeError):
    """Only the client is installed: a module of the extra ``agent`` is missing."""


class ListenError(MinerwatchError):
    """An address or socket that cannot be listened on, mostly because another agent does."""


class SnapshotError(MinerwatchError):
    """An agent's snapshot that cannot be fetched or parsed."""


class OrderError(MinerwatchError):
    """An order, to cull or to release, that an agent refuses or cannot parse."""


class ClusterError(MinerwatchError):
    """A cluster that cannot be reached or refuses: no configuration, no connection, no right."""


class TargetError(MinerwatchError):
    """A pod, container or pid that the node does not have."""
