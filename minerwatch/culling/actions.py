"""Actions on a pod, its processes, a container of an engine or a server of a hub, and their undo.

An action is planned first: a request or a signal that can be shown before it is sent. It has the
pod's uid and resource version, or pid and start time, as preconditions, so it cannot hit another
target. A dry run sends the same request with ``dryRun=All``: the API server checks authentication,
RBAC, admission and PodDisruptionBudgets, and stores nothing ("Dry-run" in the API concepts of the
Kubernetes documentation). For signals, a dry run sends signal 0 (kill(2)).

Behaviour of API servers beyond their documentation, from Kubernetes' own source:

- A DELETE with a body reads ``dryRun`` from the body and ignores the query (DeleteResource in
  apiserver/pkg/endpoints/handlers/delete.go). So it is always in both.
- An eviction of a pod with more than one PodDisruptionBudget returns HTTP 201 and a Status
  ``Failure`` (EvictionREST.Create in pkg/registry/core/pod/storage/eviction.go).
- A grace period of 0 seconds does not wait for the kubelet: 0 is never sent.
- A patch with another ``metadata.uid`` or ``resourceVersion`` than the object's is refused.

An agent with culling disabled does not import this module.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec

from minerwatch.config.values import PodLabel
from minerwatch.culling.decision import Decision
from minerwatch.culling.host_policy import engine_of
from minerwatch.culling.process_signals import PROC, STOPPED, Hits, is_own_proc, send_all, state
from minerwatch.culling.records import ENGINE_ACTIONS
from minerwatch.errors import NOT_JSON
from minerwatch.kube.attributions import HubServer
from minerwatch.kube.client import JSON, MERGE_PATCH, ApiError, Cluster, decoded, one_line, refusal
from minerwatch.kube.objects import Head, Status
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Action, ContainerKey, Pod, ProcessId

ANSWER_S = 15.0
STOP_S = 10  # before an engine kills what does not end
FIELD_MANAGER = "minerwatch"
_ALL = "All"
_SIGNALS = {Action.STOP: signal.SIGSTOP, Action.KILL: signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to the API server."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, object]
    content_type: str = JSON

    def __str__(self) -> str:
        """Return it in one line, as shown to people."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.method} {self.path}{query} {msgspec.json.encode(self.body).decode()}"


@dataclass(frozen=True, slots=True)
class SignalRequest:
    """A signal to processes."""

    number: signal.Signals
    processes: tuple[ProcessId, ...]
    dry_run: bool

    def __str__(self) -> str:
        """Return it in one line, as shown to people."""
        to = ", ".join(f"{pid} (start time {ticks})" for pid, ticks in self.processes)
        sent = f"{self.number.name} to {to or 'no process'}"
        return f"signal 0, to check {sent}" if self.dry_run else sent


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request to a host's container engine, over its socket."""

    engine: str  # docker, podman
    container_id: str
    container: ContainerKey  # the cgroup that was judged
    path: str
    dry_run: bool

    def __str__(self) -> str:
        """Return it in one line, as shown to people."""
        sent = f"POST {self.path} to {self.engine}"
        return (
            f"GET /containers/{self.container_id}/json, to check {sent}" if self.dry_run else sent
        )


@dataclass(frozen=True, slots=True)
class HubRequest:
    """A request to a JupyterHub to stop a user's server."""

    server: HubServer
    pod_created_unix_s: float  # of the server's pod: a precondition
    dry_run: bool

    @property
    def path(self) -> str:
        """Return the path below the hub's API."""
        if not self.server.name:
            return f"{self.user_path}/server"
        return f"{self.user_path}/servers/{_segment(self.server.name)}"

    @property
    def user_path(self) -> str:
        """Return the user's path below the hub's API."""
        return f"/users/{_segment(self.server.user)}"

    def __str__(self) -> str:
        """Return it in one line, as shown to people."""
        sent = f"DELETE {self.path} to the hub"
        return f"GET /user and the server, to check {sent}" if self.dry_run else sent


Request = ApiRequest | SignalRequest | EngineRequest | HubRequest


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod as just fetched from the API server."""

    pod: Pod
    resource_version: str


def planned(
    decision: Decision, label: PodLabel, resource_version: str = "", pod_created_unix_s: float = 0.0
) -> Request | None:
    """Return the request of ``decision``, even if it is not to act; None: nothing to send."""
    action = decision.action if decision.acts else decision.proposed
    if action in _SIGNALS:
        return SignalRequest(_SIGNALS[action], decision.processes, decision.dry_run)
    if action is Action.LABEL:
        return _labelling(decision, label, resource_version)
    if action in ENGINE_ACTIONS:
        return _engine_request(decision, action)
    if action is Action.STOP_SERVER and decision.server is not None:
        return HubRequest(decision.server, pod_created_unix_s, decision.dry_run)
    if action is Action.EVICT:
        return _eviction(decision)
    if action is Action.DELETE:
        path = _pod_path(decision.namespace, decision.pod)
        return ApiRequest("DELETE", path, _query(decision), _delete_options(decision))
    return None


def unlabelling(pod: Pod, label: PodLabel, resource_version: str) -> ApiRequest:
    """Return the request that removes the quarantine label from ``pod``."""
    metadata = {"uid": pod.uid, "resourceVersion": resource_version, "labels": {label.key: None}}
    query = {"fieldManager": FIELD_MANAGER}
    path = _pod_path(pod.namespace, pod.name)
    return ApiRequest("PATCH", path, query, {"metadata": metadata}, MERGE_PATCH)


class ProcessActions:
    """Sends planned signals."""

    def __init__(self, proc: Path = PROC) -> None:
        """``proc`` has the pids of decisions."""
        self._proc = proc

    def signal(self, request: SignalRequest) -> Hits:
        """Signal the processes; in a dry run check the permission."""
        if not is_own_proc(self._proc):
            why = f"{self._proc} has other pids than this process: they cannot be signalled"
            return Hits(failed=tuple((process, why) for process in request.processes))
        return send_all(request.processes, None if request.dry_run else request.number)

    def resume(self, processes: tuple[ProcessId, ...]) -> Hits:
        """Continue stopped processes: the undo of ``stop``."""
        return self.signal(SignalRequest(signal.SIGCONT, processes, dry_run=False))

    def is_stopped(self, process: ProcessId) -> bool:
        """Return True if ``process`` is stopped."""
        return state(process, self._proc) == STOPPED


class Actions(ProcessActions):
    """Sends planned requests and signals. For one thread."""

    def __init__(
        self, cluster: Cluster, keep: PodFields, proc: Path = PROC, answer_s: float = ANSWER_S
    ) -> None:
        """``keep``: fields of pods to parse; ``proc``: has the pids of decisions."""
        super().__init__(proc)
        self._cluster = cluster
        self._parser = PodParser(keep)
        self._answer_s = answer_s

    def fetch(self, namespace: str, name: str, _uid: str = "") -> SeenPod | None:
        """Return the pod, None if it does not exist. Raises ApiError."""
        try:
            body = self._cluster.call("GET", _pod_path(namespace, name), timeout_s=self._answer_s)
        except ApiError as error:
            if error.reason == "missing":
                return None
            raise
        pod = self._parser.pod(body)
        if pod is None:
            raise ApiError("garbage", f"{namespace}/{name}: the API server's answer is not a pod")
        return SeenPod(pod, decoded(body, Head, "a pod").metadata.resource_version)

    def send(self, request: ApiRequest) -> None:
        """Send ``request`` once. Raises ApiError; after a 401 the credentials are renewed."""
        try:
            answer = self._cluster.call(
                request.method,
                request.path,
                request.query,
                body=msgspec.json.encode(request.body),
                content_type=request.content_type,
                timeout_s=self._answer_s,
            )
        except ApiError as error:
            if error.reason == "unauthorized":
                self._cluster.renew_credentials()
            raise
        with suppress(*NOT_JSON):
            status = msgspec.json.decode(answer, type=Status)
            if status.kind == "Status" and status.status == "Failure":
                why = one_line(status.message or "")
                text = f"{request.method} {request.path}: {status.code} {why}"
                raise refusal(status.code or 500, text)


def _segment(name: str) -> str:
    """Return ``name`` as one segment of a path, never one that leads up."""
    quoted = quote(name, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


def _engine_request(decision: Decision, action: Action) -> EngineRequest:
    verb = "pause" if action is Action.PAUSE else f"stop?t={STOP_S}"
    return EngineRequest(
        engine=engine_of(decision.pod),
        container_id=decision.container_id,
        container=decision.container,
        path=f"/containers/{decision.container_id}/{verb}",
        dry_run=decision.dry_run,
    )


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"


def _query(decision: Decision) -> dict[str, str]:
    return {"dryRun": _ALL} if decision.dry_run else {}


def _delete_options(decision: Decision) -> dict[str, object]:
    options: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": decision.pod_uid},
    }
    if decision.grace_period_s is not None:
        options["gracePeriodSeconds"] = max(1, math.ceil(decision.grace_period_s))
    if decision.dry_run:
        options["dryRun"] = [_ALL]
    return options


def _eviction(decision: Decision) -> ApiRequest:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": decision.namespace, "name": decision.pod},
        "deleteOptions": _delete_options(decision),
    }
    path = f"{_pod_path(decision.namespace, decision.pod)}/eviction"
    return ApiRequest("POST", path, _query(decision), body)


def _labelling(decision: Decision, label: PodLabel, resource_version: str) -> ApiRequest:
    metadata: dict[str, object] = {"uid": decision.pod_uid, "labels": {label.key: label.value}}
    if resource_version:
        metadata["resourceVersion"] = resource_version
    query = {"fieldManager": FIELD_MANAGER, **_query(decision)}
    path = _pod_path(decision.namespace, decision.pod)
    return ApiRequest("PATCH", path, query, {"metadata": metadata}, MERGE_PATCH)
