"""Actions on a host outside Kubernetes: signals to processes, and an engine's pause and stop.

The engine's are those of docker's API, which podman serves as well, over its Unix socket: ``POST
/containers/ID/pause``, ``/unpause`` and ``/stop``. Such a socket is as powerful as root, so none is
used unless it is configured. A cgroup may bear another container's id. So the container's first
process, which the engine names, must be in the cgroup that was judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

import msgspec

from minerwatch.api.client import UnixConnection
from minerwatch.config.schema import HostCulling
from minerwatch.culling.actions import ANSWER_S, STOP_S, EngineRequest, ProcessActions, SeenPod
from minerwatch.culling.context import Monitor
from minerwatch.culling.host_policy import engine_of, engine_socket
from minerwatch.culling.process_signals import PROC
from minerwatch.culling.records import ActionRecord
from minerwatch.errors import NOT_JSON
from minerwatch.kube.client import ApiError, Reason, one_line
from minerwatch.model import ContainerKey
from minerwatch.node.host_view import HostView

_MAX_ANSWER_BYTES = 1 << 20
_MISSING, _CONFLICT, _UNMODIFIED = 404, 409, 304


class EngineState(msgspec.Struct):
    """A container's state by its engine."""

    status: str = msgspec.field(name="Status", default="")
    pid: int = msgspec.field(name="Pid", default=0)
    paused: bool = msgspec.field(name="Paused", default=False)


class _Inspected(msgspec.Struct):
    state: EngineState = msgspec.field(name="State", default_factory=EngineState)


def engine_state(body: bytes) -> EngineState:
    """Parse an engine's answer about a container. Raises ApiError if it is none."""
    try:
        return msgspec.json.decode(body, type=_Inspected).state
    except NOT_JSON as error:
        raise ApiError("garbage", "the engine's answer is not a container") from error


class HostActions(ProcessActions):
    """Sends planned requests and signals on a host. For one thread."""

    def __init__(
        self,
        view: HostView,
        monitor: Monitor,
        settings: Callable[[], HostCulling],
        proc: Path = PROC,
        answer_s: float = ANSWER_S,
    ) -> None:
        """``settings`` returns those in force."""
        super().__init__(proc)
        self._view = view
        self._monitor = monitor
        self._settings = settings
        self._answer_s = answer_s

    def fetch(self, _namespace: str, _name: str, uid: str) -> SeenPod | None:
        """Return the container or unit with ``uid`` as it is now, None if it is gone."""
        container = self._view.seen(uid)
        identity = self._view.fresh_identity(container) if container is not None else None
        if container is None or identity is None:
            return None
        pod, engine = identity.pod, engine_of(identity.pod.name)
        if engine_socket(engine, self._settings()) and not pod.service_account:
            try:
                state = self._inspect(engine, container.container_id)
            except ApiError as error:
                if error.reason == "missing":
                    return None
                raise
            pod = replace(pod, phase="Paused" if state.paused else state.status.capitalize())
        return SeenPod(pod, "")

    def send(self, request: EngineRequest) -> None:
        """Send ``request`` once; in a dry run only check it. Raises ApiError."""
        self._check(request.engine, request.container_id, request.container)
        if not request.dry_run:
            self._request(request.engine, "POST", request.path)

    def unpause(self, record: ActionRecord) -> bool:
        """Continue a container that is paused; return False if it is not. Raises ApiError."""
        container, engine = self._view.seen(record.pod_uid), engine_of(record.pod)
        if container is None:
            return False
        if not engine_socket(engine, self._settings()):
            where = f"culling.hosts.{engine}_socket is not set"
            command = f"{engine} unpause {container.container_id[:12]}"
            raise ApiError("forbidden", f"{where}: continue it with {command}")
        if not self._inspect(engine, container.container_id).paused:
            return False
        self._check(engine, container.container_id, container.key)
        self._request(engine, "POST", f"/containers/{container.container_id}/unpause")
        return True

    def _check(self, engine: str, container_id: str, key: ContainerKey) -> None:
        """Raise ApiError unless the engine's container is the one that was judged."""
        pid = self._inspect(engine, container_id).pid
        found = self._monitor.container_of(pid) if pid > 1 else None
        if found is None or found.key != key:
            text = f"{engine}'s container {container_id[:12]} is not the cgroup that was judged"
            raise ApiError("server", text, status=_CONFLICT)

    def _inspect(self, engine: str, container_id: str) -> EngineState:
        return engine_state(self._request(engine, "GET", f"/containers/{container_id}/json"))

    def _request(self, engine: str, method: str, path: str) -> bytes:
        """Send one request to an engine; return the body. Raises ApiError."""
        socket = engine_socket(engine, self._settings())
        connection = UnixConnection(Path(socket), STOP_S + self._answer_s)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise ApiError("timeout", f"{engine} on {socket} did not answer") from error
        except (OSError, HTTPException, ValueError) as error:
            text = f"{engine} on {socket} cannot be asked: {one_line(error)}"
            raise ApiError("connection", text) from error
        finally:
            connection.close()
        if response.status > _UNMODIFIED:
            text = f"{method} {path}: {response.status} {one_line(body.decode('utf-8', 'replace'))}"
            reason: Reason = "missing" if response.status == _MISSING else "server"
            raise ApiError(reason, text, status=response.status)
        return body
