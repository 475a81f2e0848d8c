"""Types of settings: durations, labels, modes, addresses."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

from minerwatch.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:9797"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_PORT = re.compile(r"[0-9]{1,5}")
_LABEL = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-\w.]{0,61}[A-Za-z0-9])?"
    r"=(?P<value>[A-Za-z0-9](?:[-\w.]*[A-Za-z0-9])?)",
    re.ASCII,
)
_MAX_LABEL_CHARS = 63
_MAX_DURATION_S = 3653 * 86400.0
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """A length of time in seconds."""

    __slots__ = ()


class PodLabel(str):
    """One label of a pod, as ``key=value``."""

    __slots__ = ()

    @property
    def key(self) -> str:
        """Return the part before the equals sign."""
        return self.partition("=")[0]

    @property
    def value(self) -> str:
        """Return the part after the equals sign."""
        return self.partition("=")[2]


class Network(str):
    """A network as ``address/bits``."""

    __slots__ = ()


class Mode(str):
    """A mode of culling: ``off``, ``dry-run`` or ``enforce``."""

    __slots__ = ()


OFF, DRY_RUN, ENFORCE = MODES = (Mode("off"), Mode("dry-run"), Mode("enforce"))


def duration_s(text: str | float) -> Duration:
    """Parse ``10s``, ``1.5m``, ``2h`` or a number of seconds.

    Raises ConfigError for anything else, and for zero.
    """
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"invalid duration {text!r}: use 30s, 5m or 1h")
    seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2] or "s"]
    if seconds > _MAX_DURATION_S:
        raise ConfigError(f"invalid duration {text!r}: use at most ten years")
    return Duration(seconds)


def duration_text(seconds: float) -> str:
    """Return a duration in the largest unit without a fraction, as ``duration`` parses it."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _SECONDS_PER_UNIT[unit]
        if count >= 1 and count.is_integer():
            return f"{count:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"


def network(text: str) -> Network:
    """Parse a network; raises ConfigError."""
    try:
        return Network(ip_network(str(text)))
    except ValueError as error:
        reason = "use 203.0.113.0/24 or 2001:db8::/32, without bits after the prefix"
        raise ConfigError(f"invalid network {text!r}: {reason}") from error


def mode(text: str | bool) -> Mode:  # noqa: FBT001 - YAML 1.1 reads a bare "off" as false
    """Parse a mode; raises ConfigError."""
    if text is False:
        return OFF
    if text not in MODES:
        raise ConfigError(f"invalid mode {text!r}: use off, dry-run or enforce")
    return Mode(text)


def pod_label(text: str) -> PodLabel:
    """Parse a label such as ``example.org/quarantine=true``; raises ConfigError."""
    match = _LABEL.fullmatch(text) if isinstance(text, str) else None
    if match is None or len(match["value"]) > _MAX_LABEL_CHARS:
        raise ConfigError(f"invalid label {text!r}: use a form like example.org/quarantine=true")
    return PodLabel(text)


def host_and_port(listen: str) -> tuple[str, int]:
    """Split ``127.0.0.1:9797``, ``:9797`` or ``[::1]:9797``; raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ConfigError(f"invalid address {listen!r}: use ADDRESS:PORT")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Return True if only the node itself can reach ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
