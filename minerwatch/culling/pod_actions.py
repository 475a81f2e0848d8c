"""What is done about a pod and its processes, and how it is undone.

An action is planned first: a request or a signal that can be shown, word for word, before anything
happens. Each names whom it means (the pod's uid, its resource version, pid and start time), so
that it hits that one or none. In a dry run the same request is sent with ``dryRun=All``: the API
server asks authentication, RBAC, admission and PodDisruptionBudgets, and stores nothing ("Dry-run"
in the API concepts of the Kubernetes documentation); signals are asked for with kill(2)'s zero.

What API servers do beyond their documentation, from Kubernetes' own source:

- A DELETE with a body takes ``dryRun`` from the body only; in the query it is passed over
  (DeleteResource in apiserver/pkg/endpoints/handlers/delete.go). So it is always in both.
- An eviction is answered with HTTP 201 and a Status that says ``Failure`` where a pod has more than
  one PodDisruptionBudget (EvictionREST.Create in pkg/registry/core/pod/storage/eviction.go).
- A grace period of 0 seconds does not wait for the kubelet to end anything: 0 is never sent.
- A patch with another ``metadata.uid`` or ``resourceVersion`` than the object's is refused.

Nothing of this is imported by an agent whose culling is off.
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
from minerwatch.culling.process_signals import PROC, STOPPED, Hits, is_own_proc, send_all, state
from minerwatch.errors import NOT_JSON
from minerwatch.kube.client import ApiError, Cluster, one_line, refusal
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Action, Pod, ProcessId

ANSWER_S = 15.0
FIELD_MANAGER = "minerwatch"

_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_ALL = "All"
_SIGNALS = {Action.STOP: signal.SIGSTOP, Action.KILL: signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request as it is sent."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, object]
    content_type: str = _JSON

    def __str__(self) -> str:
        """One line for a person."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.method} {self.path}{query} {msgspec.json.encode(self.body).decode()}"


@dataclass(frozen=True, slots=True)
class SignalRequest:
    """A signal as it is sent."""

    number: signal.Signals
    processes: tuple[ProcessId, ...]
    dry_run: bool

    def __str__(self) -> str:
        """One line for a person."""
        to = ", ".join(f"{pid} (start time {ticks})" for pid, ticks in self.processes)
        sent = f"{self.number.name} to {to or 'no process'}"
        return f"signal 0, to ask for {sent}" if self.dry_run else sent


Request = ApiRequest | SignalRequest


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod as the API server has just shown it."""

    pod: Pod
    resource_version: str


class _Versioned(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Head(msgspec.Struct):
    metadata: _Versioned


class _Status(msgspec.Struct):
    kind: str = ""
    status: str = ""
    message: str = ""
    code: int = 0


def planned(decision: Decision, label: PodLabel, resource_version: str = "") -> Request | None:
    """What is sent for ``decision``, also where something speaks against it; None: nothing.

    ``resource_version`` is that of the pod as it was last seen.
    """
    action = decision.action if decision.acts else decision.proposed
    if action in _SIGNALS:
        return SignalRequest(_SIGNALS[action], decision.processes, decision.dry_run)
    if action is Action.LABEL:
        return _labelling(decision, label, resource_version)
    if action is Action.EVICT:
        return _eviction(decision)
    if action is Action.DELETE:
        path = _pod_path(decision.namespace, decision.pod)
        return ApiRequest("DELETE", path, _query(decision), _delete_options(decision))
    return None


def unlabelling(pod: Pod, label: PodLabel, resource_version: str) -> ApiRequest:
    """What takes the quarantine label off ``pod``."""
    metadata = {"uid": pod.uid, "resourceVersion": resource_version, "labels": {label.key: None}}
    query = {"fieldManager": FIELD_MANAGER}
    path = _pod_path(pod.namespace, pod.name)
    return ApiRequest("PATCH", path, query, {"metadata": metadata}, _MERGE_PATCH)


class Actions:
    """Carries out what was planned. For one thread."""

    def __init__(
        self, cluster: Cluster, keep: PodFields, proc: Path = PROC, answer_s: float = ANSWER_S
    ) -> None:
        """Configure the pod's ``keep`` fields, and the ``proc`` with the pids of decisions."""
        self._cluster = cluster
        self._parser = PodParser(keep)
        self._proc = proc
        self._answer_s = answer_s

    def fetch(self, namespace: str, name: str) -> SeenPod | None:
        """The pod as the API server knows it now; None if there is none. Raises ApiError."""
        try:
            body = self._cluster.call("GET", _pod_path(namespace, name), timeout_s=self._answer_s)
        except ApiError as error:
            if error.reason == "missing":
                return None
            raise
        pod, version = self._parser.pod(body), _resource_version(body)
        if pod is None or version is None:
            raise ApiError("garbage", f"{namespace}/{name}: the API server's answer is no pod")
        return SeenPod(pod, version)

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
                with suppress(ApiError):  # then the next request fails for the same reason
                    self._cluster.renew_credentials()
            raise
        with suppress(*NOT_JSON):
            status = msgspec.json.decode(answer, type=_Status)
            if status.kind == "Status" and status.status == "Failure":
                text = f"{request.method} {request.path}: {status.code} {one_line(status.message)}"
                raise refusal(status.code or 500, text)

    def signal(self, request: SignalRequest) -> Hits:
        """Signal the processes; in a dry run ask whether that may be done."""
        if not is_own_proc(self._proc):
            why = f"{self._proc} is not this kernel's: its pids cannot be signalled"
            return Hits(failed=tuple((process, why) for process in request.processes))
        return send_all(request.processes, None if request.dry_run else request.number)

    def resume(self, processes: tuple[ProcessId, ...]) -> Hits:
        """Let stopped processes go on: the undo of ``stop``."""
        return self.signal(SignalRequest(signal.SIGCONT, processes, dry_run=False))

    def is_stopped(self, process: ProcessId) -> bool:
        """Whether ``process`` is there and stands still."""
        return state(process, self._proc) == STOPPED


def _resource_version(json: bytes) -> str | None:
    """That of an object, "" where it does not say; None where it is none."""
    try:
        return msgspec.json.decode(json, type=_Head).metadata.resource_version
    except NOT_JSON:
        return None


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
    return ApiRequest("PATCH", path, query, {"metadata": metadata}, _MERGE_PATCH)
