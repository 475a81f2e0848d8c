"""Requests to a running agent over its Unix socket."""

from __future__ import annotations

import os
import socket
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

from minerwatch.errors import OrderError, SnapshotError

ORDER_TIMEOUT_S = 120.0
TIMEOUT_S = 5.0
_TRIAL_S = 1.0
_MAX_REFUSAL_BYTES = 4096
_MAX_REASON_CHARS = 300
_MAX_ANSWER_BYTES = 256 << 20
_ACTING = ("/cull", "/release", "/ban", "/ban/lift")


class UnixConnection(HTTPConnection):
    """HTTP over the Unix socket at ``path``."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class BrokenAnswerError(SnapshotError):
    """The agent was reached, but gave no complete response."""


class NoAgentError(SnapshotError):
    """No agent listens on the socket."""


def listens(path: Path) -> bool:
    """Return True if an agent listens on the socket ``path``, or this user may not open it.

    The file alone proves nothing: an agent that was killed leaves it behind.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(_TRIAL_S)
        try:
            trial.connect(str(path))
        except PermissionError:
            return _is_socket(path)
        except TimeoutError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # this user may not enter the folder
        return False


def answer(path: Path, route: str) -> bytes:
    """Send GET ``route`` to the agent on the socket ``path``; return the response's body.

    Raises NoAgentError if no agent listens there, SnapshotError for every other failure.
    """
    response, body = exchange(UnixConnection(path, TIMEOUT_S), path, "GET", route)
    if response.status != HTTPStatus.OK:
        raise SnapshotError(f"the agent on {path} answered {route} with status {response.status}")
    return body


def ordered(path: Path, route: str, order: bytes) -> bytes:
    """Send POST ``order`` to the agent on the socket ``path``; return the response's body.

    An action may take a minute. Raises NoAgentError if no agent listens there, OrderError with the
    agent's reason if it refuses, SnapshotError for every other failure.
    """
    connection = UnixConnection(path, ORDER_TIMEOUT_S)
    try:
        response, body = exchange(connection, path, "POST", route, order)
    except BrokenAnswerError as error:
        raise OrderError(f"{error}{may_have_happened(route)}") from error
    if response.status != HTTPStatus.OK:
        from minerwatch.untrusted_text.display import printable  # costs a GET nothing

        reason = body[:_MAX_REFUSAL_BYTES].decode("utf-8", "replace").strip()
        raise OrderError(printable(reason) or f"the agent answered with status {response.status}")
    return body


def may_have_happened(route: str) -> str:
    """Return an addition to the error of an order whose response was lost."""
    if route not in _ACTING:
        return ""
    return (
        "; the action may have been carried out: look at the pod, and at `minerwatch cull"
        " --simulate 1` once the agent is back"
    )


def _delay_reason() -> str:
    """Return why an agent may be slow, and what to do."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load < 2 * cpus:
        return "its log says what holds it up"
    return (
        f"this node is short of CPU (load {load:.0f} on {cpus} CPUs), and the agent waits for its"
        " share. Try again; a shell on the node can do without it: minerwatch top --once --local"
    )


def exchange(
    connection: UnixConnection, path: Path, method: str, route: str, sent: bytes | None = None
) -> tuple[HTTPResponse, bytes]:
    """Send one request; return the response and its body. Raises SnapshotError."""
    try:
        connection.request(method, route, sent)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAgentError(f"no agent is listening on {path}") from error
    except PermissionError as error:
        raise SnapshotError(
            f"{path}: {error.strerror}; only the agent's user may connect to it"
        ) from error
    except TimeoutError as error:
        raise BrokenAnswerError(
            f"the agent on {path} did not answer within {connection.timeout:g} s: {_delay_reason()}"
        ) from error
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        # http.client raises the last two for a malformed chunk length
        reason = repr(error)[:_MAX_REASON_CHARS]
        raise BrokenAnswerError(f"the agent on {path} did not answer: {reason}") from error
    finally:
        connection.close()
    if response.length:
        raise BrokenAnswerError(f"the agent on {path} sent an incomplete response")
    return response, body
