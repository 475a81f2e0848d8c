"""JupyterHub's REST API: stop a user's server, with a token that can do nothing else.

``DELETE /users/NAME/servers/SERVER`` or, for the default server, ``/users/NAME/server``. The API
takes no preconditions, so the server is read first: it must have been started before its pod was
created. ``GET /user`` lists the token's scopes; one that can do more than necessary is refused,
since every node holds it.

An agent with culling disabled does not import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec

from minerwatch import __version__
from minerwatch.config.hub import Hub
from minerwatch.culling.actions import ANSWER_S, HubRequest
from minerwatch.errors import NOT_JSON
from minerwatch.format import unix_s
from minerwatch.kube.client import ApiError, Reason, one_line
from minerwatch.report.one_request import FAILURES, send

_Kind = TypeVar("_Kind")

READ, STOP = "read:servers", "delete:servers"
_PERMITTED = frozenset((READ, STOP, "read:users:name"))
"""The last one is part of the first: ``scopes.py`` of JupyterHub."""

_MAX_ANSWER_BYTES = 4 << 20
"""A user chooses the options of a server, which the answer has in it."""

_MAX_TOKEN_BYTES = 4096
_CLOCK_SKEW_S = 60.0
_MAX_SHOWN = 5


class UnknownServerError(ApiError):
    """The hub runs no server in the pod."""


class _Token(msgspec.Struct):
    scopes: tuple[str, ...]


class _Server(msgspec.Struct):
    started: str | None = None


class _User(msgspec.Struct):
    servers: dict[str, _Server] = {}


class HubApi:
    """Asks the hub; for one thread. Every error is an ApiError in one line, without the token."""

    def __init__(self, settings: Callable[[], Hub], answer_s: float = ANSWER_S) -> None:
        self._settings = settings
        self.answer_s = answer_s

    def check(self, request: HubRequest) -> None:
        """Raise ApiError unless the token is right and the server is the one of the pod.

        UnknownServerError: the pod is not the hub's, or no longer.
        """
        self._check_scopes()
        server = self._servers(request).get(request.server.name)
        if server is None:
            raise UnknownServerError("server", "the hub runs no such server: the pod is left over")
        started_s = unix_s(server.started)
        if started_s is None or started_s > request.pod_created_unix_s + _CLOCK_SKEW_S:
            raise UnknownServerError("server", "the hub has started the server again since")

    def stop(self, request: HubRequest) -> str:
        """Stop the server; return what the hub answered. Raises ApiError."""
        self._call("DELETE", request.path)
        return "the hub has taken the request"

    def _servers(self, request: HubRequest) -> Mapping[str, _Server]:
        """Return the user's servers; what the user can garble must not save a server."""
        try:
            return _decoded(self._call("GET", request.user_path), _User).servers
        except ApiError as error:
            if error.reason == "garbage" or error.status == HTTPStatus.NOT_FOUND:
                raise UnknownServerError("server", str(error)) from error
            raise

    def _check_scopes(self) -> None:
        scopes = frozenset(_decoded(self._call("GET", "/user"), _Token).scopes)
        names = {scope.partition("!")[0] for scope in scopes}
        missing = sorted({READ, STOP} - names)
        if missing:
            text = f"the hub's token lacks the scope {' and '.join(missing)}"
            raise _refused(HTTPStatus.FORBIDDEN, text)
        wider = sorted(names - _PERMITTED)
        if wider:
            shown = ", ".join(wider[:_MAX_SHOWN]) + (", …" if len(wider) > _MAX_SHOWN else "")
            text = f"the hub's token can do more than {READ} and {STOP} ({shown}): make another"
            raise _refused(HTTPStatus.FORBIDDEN, one_line(text))

    def _call(self, method: str, path: str) -> bytes:
        settings = self._settings()
        try:
            answer = send(
                method, settings.url.rstrip("/") + path, _headers(settings),
                ca=settings.ca, answer_s=self.answer_s, max_bytes=_MAX_ANSWER_BYTES + 1,
            )  # fmt: skip
        except TimeoutError as error:
            raise _lost("timeout", error) from None
        except FAILURES as error:
            raise _lost("connection", error) from None
        if len(answer.body) > _MAX_ANSWER_BYTES:
            raise ApiError("garbage", f"{method} {path}: the hub's answer is too long")
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return answer.body
        why = _explained(answer.status, answer.body)
        raise _refused(answer.status, f"{method} {path}: {why}")


def _headers(settings: Hub) -> Mapping[str, str]:
    try:
        with Path(settings.token_file).open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not ASCII"
        text = f"culling.hub.token_file: {settings.token_file}: {why}"
        raise ApiError("unauthorized", text) from error
    if not token or not token.isprintable() or " " in token:
        text = f"culling.hub.token_file: {settings.token_file}: it must hold one token"
        raise ApiError("unauthorized", text)
    return {"Authorization": f"token {token}", "User-Agent": f"minerwatch/{__version__}"}


def _explained(status: int, body: bytes) -> str:
    """Return status and message of a refusal, and what to do about it."""
    try:
        said = msgspec.json.decode(body, type=dict[str, object]).get("message", "")
    except NOT_JSON:
        said = ""
    message = f" {one_line(said)}" if said else ""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"the hub refuses the token ({status}{message}): check culling.hub.token_file"
    return f"the hub answered {status}{message}"


def _refused(status: int, text: str) -> ApiError:
    reason: Reason = "forbidden" if status == HTTPStatus.FORBIDDEN else "server"
    return ApiError(reason, text, status=status)


def _lost(reason: Reason, error: Exception) -> ApiError:
    return ApiError(reason, f"the hub cannot be reached ({type(error).__name__})")


def _decoded(body: bytes, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise ApiError("garbage", f"the hub's answer is invalid: {one_line(error)}") from error
