"""Notifies systemd that the agent is ready, alive, stopping (sd_notify(3)), if there is one.

The watchdog is fed by ticks that succeed, as /healthz is: an agent that hangs is restarted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

from minerwatch.agent.tick import TickSummary
from minerwatch.model import Level

_TICKS_PER_WATCHDOG = 3
_GRACE_S = 15.0


class Systemd:
    """Sends datagrams to the socket that systemd names in ``NOTIFY_SOCKET``."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Take the socket's name out of ``environ``, so that no child inherits it."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        usec = environ.pop("WATCHDOG_USEC", "")
        self._watchdog_s = int(usec) / 1e6 if usec.isdecimal() else None
        self._is_ready = False

    def ticked(self, summary: TickSummary, interval_s: float) -> None:
        """Report a tick; the first one means that the agent is ready."""
        state = [f"STATUS={_status(summary)}", "WATCHDOG=1"]
        if self._watchdog_s is not None:
            needed_s = _TICKS_PER_WATCHDOG * interval_s + _GRACE_S
            if needed_s > self._watchdog_s:  # the interval is longer than the unit expects
                self._watchdog_s = needed_s
                state.append(f"WATCHDOG_USEC={needed_s * 1e6:.0f}")
        if not self._is_ready:
            state.append("READY=1")
            self._is_ready = True
        self._send(*state)

    def stopping(self) -> None:
        """Report that the agent stops."""
        self._send("STOPPING=1")

    def _send(self, *state: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0.0)  # systemd may be busy, and a tick must not wait for it
            sender.sendto("\n".join(state).encode(), self._address)


def _status(summary: TickSummary) -> str:
    flagged = [
        f"{summary.levels[level]} {level.label}"
        for level in reversed(Level)
        if level is not Level.CLEAR and summary.levels.get(level)
    ]
    containers = sum(summary.levels.values())
    seen = f"{containers} containers and units, {summary.process_count} processes"
    return f"{seen}; {', '.join(flagged) or 'nothing flagged'}"
