"""Asks a running agent, over its Unix socket."""

from __future__ import annotations

import socket
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from minerwatch.errors import SnapshotError

_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 256 << 20


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


class NoAgentError(SnapshotError):
    """Nobody listens on the socket."""


def answer(path: Path, route: str) -> bytes:
    """What the agent that listens on the socket ``path`` answers to GET ``route``.

    Raises NoAgentError if nobody listens there, SnapshotError for everything else.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", route)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAgentError(f"no agent is listening on {path}") from error
    except PermissionError as error:
        raise SnapshotError(
            f"{path}: {error.strerror}; only the agent's user may ask it"
        ) from error
    except (OSError, HTTPException) as error:
        raise SnapshotError(f"the agent on {path} did not answer: {error!r}") from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise SnapshotError(f"the agent on {path} answered {route} with status {response.status}")
    if response.length:
        raise SnapshotError(f"the agent on {path} broke off in the middle of its answer")
    return body
