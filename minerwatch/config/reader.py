"""One YAML file -> the configuration, or every fault in it with its line and key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from minerwatch.config.faults import Checked, Checker
from minerwatch.config.hours import Hours, hours
from minerwatch.config.schema import Config
from minerwatch.config.selectors import Selector, selector
from minerwatch.config.values import (
    MODES,
    Duration,
    Mode,
    Network,
    PodLabel,
    duration_s,
    host_and_port,
    mode,
    network,
    pod_label,
)
from minerwatch.errors import ConfigError, ConfigFileError

Checks = Mapping[str, Callable[[Any], object]]


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, with a line number in every error."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Construct a value; PyYAML raises a bare ValueError for an impossible date."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            reason = f"not a value: {str(error).partition(';')[0] or type(error).__name__}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from error


def load(path: Path | None, checks: Checks | None = None) -> Config:
    """Read the configuration from ``path``; None: all defaults.

    ``checks`` are further ones, as for ``checked``. Raises ConfigFileError with all faults.
    """
    if path is None:
        return Config()
    found = checked(path, checks)
    if found.faults:
        raise ConfigFileError(f"{path}:{fault.line}: {fault}" for fault in found.faults)
    config: Config = found.value
    return config


def checked(path: Path, checks: Checks | None = None) -> Checked:
    """Return the file's configuration or its faults, and the line of each of its keys.

    ``checks`` maps keys, those of list entries as ``rules[]``, to functions that raise ConfigError.
    Raises ConfigError if the file cannot be read.
    """
    checker = Checker(
        Config, _decode, {"listen": host_and_port, **(checks or {})}, {Mode: MODES}, _REMOVED
    )
    try:
        return checker.check(_Loader(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_line_of(error)}: {_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error


_BY_CPU_TIME = "removed; CPU time of the container earns looks now. Use examination.cpu_per_look"

_REMOVED = {
    "examination.suspect_cpu_cores": _BY_CPU_TIME,
    "examination.suspect_after": _BY_CPU_TIME,
    "probes.ptrace": "removed; minerwatch no longer stops threads. Delete this key",
    "probes.resolve_pools": "removed; minerwatch no longer resolves names. Delete this key",
}

_DECODERS: dict[type, Callable[[Any], Any]] = {
    Duration: duration_s,
    Hours: hours,
    Mode: mode,
    Network: network,
    PodLabel: pod_label,
    Selector: selector,
}


def _decode(kind: type, value: Any) -> Any:
    if kind not in _DECODERS:
        raise NotImplementedError(kind)
    try:
        return _DECODERS[kind](value)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # msgspec adds the key to a ValueError only


def _line_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    return "a tab stands here: use spaces" if r"character '\t'" in problem else problem
