"""One YAML file -> one typed tree; every key has a safe default, every error names its key.

Durations are numbers of seconds or texts such as ``10s``, ``2m``, ``1h``; they are held in seconds.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from minerwatch.errors import ConfigError

BUILT_IN_RULES = next(
    folder
    for folder in (
        Path(__file__).parent / "built_in_rules",  # in the wheel
        Path(__file__).parent.parent / "rules",  # in a checkout
    )
    if folder.is_dir() or folder.name == "rules"
)
DEFAULT_LISTEN = "127.0.0.1:9797"

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """A length of time in seconds."""

    __slots__ = ()


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the kernel's files are, and what counts as a container."""

    name: str = ""  # "" means the host's name
    proc: str = "/proc"
    sys: str = "/sys"
    units: bool = True  # systemd units and the host itself count as containers


class Examination(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom the agent looks at more closely."""

    hot_cpu_cores: Positive = 0.1  # processes are measured one by one in containers above this
    suspect_cpu_cores: Positive = 0.3  # a process that burns this much ...
    suspect_after: Duration = Duration(30)  # ... for this long is a suspect
    window: Duration = Duration(60)  # over which CpuFlatness is taken
    recheck_processes: Count = 64  # idle processes asked each tick whether they are still the same
    read_deadline: Duration = Duration(0.1)  # for all reads of a tick that a process can hold up


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Further sources of evidence; each is off where the kernel or a capability is missing."""

    execs: bool = True  # look at programs as soon as they start (needs NET_ADMIN before Linux 6.6)
    execs_cpu_share: Share = 0.02  # of one core, at most, for programs between two ticks
    connections: bool = True  # whom suspects are connected to (needs SYS_PTRACE)
    resolve_pools: bool = False  # look up lists/pool_servers.txt: others may see that
    mappings: bool = True  # what suspects keep in memory (needs SYS_PTRACE)
    tasks: bool = True  # all processes in one read (needs BPF and PERFMON, and a kernel with BTF)
    rounding: bool = True  # how suspects round floating-point numbers (needs tasks, or ptrace)
    ptrace: bool = False  # where there is no tasks: stop suspects for 0.1 ms to see (SYS_PTRACE)
    rounding_cpu_share: Share = 0.005  # of one core, at most, for samples between two ticks
    content: bool = True  # what is in executables and memory of suspects (needs SYS_PTRACE)
    budget: Duration = Duration(0.05)  # for all looks at suspects in one tick


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How findings become a level."""

    ticks_below: Count = 3  # a container leaves a level after this many ticks below it


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is published, and how much of it."""

    max_container_series: Count = 500
    processes_per_container: Count = 20  # in the snapshot


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that an operator can set."""

    interval: Duration = Duration(10)
    listen: str = DEFAULT_LISTEN
    socket: str = ""  # "" means default_socket()
    built_in_rules: bool = True
    rules: tuple[str, ...] = ()  # further folders; a later rule replaces one with the same id
    node: Node = Node()
    examination: Examination = Examination()
    probes: Probes = Probes()
    judgement: Judgement = Judgement()
    report: Report = Report()

    def rule_folders(self) -> tuple[Path, ...]:
        """The rule folders in the order in which they stack."""
        built_in = (BUILT_IN_RULES,) if self.built_in_rules else ()
        return (*built_in, *(Path(folder) for folder in self.rules))


def duration_s(text: str | float) -> Duration:
    """``text`` such as ``10s``, ``1.5m`` or ``2h`` (a bare number is seconds) in seconds.

    Raises ConfigError for anything else, and for nothing or less.
    """
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"{text!r} is not a duration: write it like 30s, 5m or 1h")
    return Duration(float(match[1]) * _SECONDS_PER_UNIT[match[2] or "s"])


def host_and_port(listen: str) -> tuple[str, int]:
    """``127.0.0.1:9797``, ``:9797`` or ``[::1]:9797`` taken apart.

    Raises ConfigError if it is none of these.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"listen: {listen!r} is not ADDRESS:PORT, such as {DEFAULT_LISTEN}")
    return host.strip("[]"), int(port)


def default_socket() -> Path:
    """The Unix socket that agent and commands meet at, unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/run/minerwatch/agent.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path.home() / ".local" / "state"
    return folder / "minerwatch" / "agent.sock"


def load(path: Path | None) -> Config:
    """The configuration of ``path``, or all defaults where there is none.

    Raises ConfigError: file, line or key, and what is wrong with it.
    """
    if path is None:
        return Config()
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)}: {_problem(error)}") from error
    return parse({} if tree is None else tree, str(path))


def parse(tree: Any, source: str) -> Config:
    """The typed form of a parsed YAML ``tree``; raises ConfigError, its text led by ``source``."""
    try:
        config = msgspec.convert(tree, Config, dec_hook=_decode)
        host_and_port(config.listen)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_in_words(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def _decode(kind: type, value: Any) -> Any:
    if kind is not Duration:
        raise NotImplementedError(kind)
    try:
        return duration_s(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # msgspec adds the key to these only


def _in_words(error: msgspec.ValidationError) -> str:
    """msgspec's ``… - at `$.node.proc``` turned round: the key comes first."""
    text, _, path = str(error).partition(" - at ")
    key = path.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        where = f"below {key!r}" if key else "at the top"
        return f"there is no key {unknown[1]!r} {where}"
    return f"{key or 'the whole file'}: {text[:1].lower()}{text[1:]}"


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
