"""A server on an address of this machine, or the reason why there is none in one line."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from minerwatch.errors import ListenError
from minerwatch.report.http_server import (
    BACKLOG,
    DEFAULT_LIMITS,
    Authorize,
    Limits,
    Listener,
    RateLimited,
    Routes,
    ignore_error,
)
from minerwatch.report.tls import TlsEndpoint


def address_listener(
    host: str,
    port: int,
    routes: Routes,
    on_error: Callable[[Exception], None] = ignore_error,
    *,
    tls: TlsEndpoint | None = None,
    authorize: Authorize | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Listener, str]:
    """Listen on ``host:port``; return the listener and the address that it got.

    Host "" means every address of the machine, port 0 any free port. Without ``tls`` it speaks
    plain HTTP. Raises ListenError, for example if another agent has the port.
    """
    try:
        listening = _listening(host, port)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host}:{port}: {_remedy(error)}") from error
    got_host, got_port = listening.getsockname()[:2]
    shown = f"[{got_host}]:{got_port}" if ":" in got_host else f"{got_host}:{got_port}"
    limited = {path: RateLimited(route) for path, route in routes.items()}
    listener = Listener(listening, limited, on_error, tls=tls, authorize=authorize, limits=limits)
    return listener, shown


def _listening(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        everywhere = ("::", port)
        return socket.create_server(
            everywhere, family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)


def _remedy(error: OSError | UnicodeError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return f"{reason}; is another agent running? Give this one --listen with another port"
        case errno.EACCES:
            return f"{reason}; ports below 1024 are root's: give --listen with a higher one"
        case _:
            return f"{reason}; give --listen with an address of this machine"
