"""Asks a running agent, over its Unix socket."""

from __future__ import annotations

import socket
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

from minerwatch.errors import OrderError, SnapshotError

ORDER_TIMEOUT_S = 120.0
_TIMEOUT_S = 10.0
_TRIAL_S = 1.0
_MAX_WORDS_BYTES = 4096
_MAX_REASON_CHARS = 300
_MAX_ANSWER_BYTES = 256 << 20
_ACTING = ("/cull", "/release")


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class BrokenAnswerError(SnapshotError):
    """The agent was reached, and did not answer to the end."""


class NoAgentError(SnapshotError):
    """Nobody listens on the socket."""


def listens(path: Path) -> bool:
    """Whether an agent listens on the socket ``path``: one that was killed leaves its file behind.

    A socket that this user may see and not open counts as one that is listened on.
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
    except OSError:  # a folder that is closed to this user
        return False


def answer(path: Path, route: str) -> bytes:
    """What the agent that listens on the socket ``path`` answers to GET ``route``.

    Raises NoAgentError if nobody listens there, SnapshotError for everything else.
    """
    response, body = _asked(_UnixConnection(path, _TIMEOUT_S), path, "GET", route)
    if response.status != HTTPStatus.OK:
        raise SnapshotError(f"the agent on {path} answered {route} with status {response.status}")
    return body


def ordered(path: Path, route: str, order: bytes) -> bytes:
    """What the agent that listens on the socket ``path`` answers to POST ``order``.

    An action may take a minute. Raises NoAgentError if nobody listens there, OrderError with the
    agent's own words if it does not do what it is told, SnapshotError for everything else.
    """
    connection = _UnixConnection(path, ORDER_TIMEOUT_S)
    try:
        response, body = _asked(connection, path, "POST", route, order)
    except BrokenAnswerError as error:
        raise OrderError(f"{error}{may_have_happened(route)}") from error
    if response.status != HTTPStatus.OK:
        from minerwatch.untrusted_text.display import printable  # not for those that only ask

        words = body[:_MAX_WORDS_BYTES].decode("utf-8", "replace").strip()
        raise OrderError(printable(words) or f"the agent answered with status {response.status}")
    return body


def may_have_happened(route: str) -> str:
    """Return what to add to the error where the answer to an order was lost."""
    if route not in _ACTING:
        return ""
    return (
        "; it may have been done all the same: look at the pod, and at `minerwatch cull"
        " --simulate 1` once the agent is back"
    )


def _asked(
    connection: _UnixConnection, path: Path, method: str, route: str, sent: bytes | None = None
) -> tuple[HTTPResponse, bytes]:
    try:
        connection.request(method, route, sent)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAgentError(f"no agent is listening on {path}") from error
    except PermissionError as error:
        raise SnapshotError(
            f"{path}: {error.strerror}; only the agent's user may ask it"
        ) from error
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        # the last two: http.client takes any number for the length of a piece
        reason = repr(error)[:_MAX_REASON_CHARS]
        raise BrokenAnswerError(f"the agent on {path} did not answer: {reason}") from error
    finally:
        connection.close()
    if response.length:
        raise BrokenAnswerError(f"the agent on {path} broke off in the middle of its answer")
    return response, body
