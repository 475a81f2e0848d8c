"""Check with the API server that a pod's controller is the one that the pod claims.

A tenant that creates a pod may give it any owner reference and, unless a quota forbids it, any
priority class. A reference counts if the object exists with its uid, its selector selects the pod,
and the container runs what the object's template says.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from urllib.parse import quote

import msgspec

from minerwatch.kube import objects
from minerwatch.kube.client import ApiError, Cluster, decoded
from minerwatch.kube.pod_parsing import bare_container_id
from minerwatch.model import OwnerReference, Pod

ANSWER_S = 10.0
KNOWN_S = 60.0
RETRY_S = 15.0
_MAX_KNOWN = 1000
_API_VERSION = "apps/v1"
_RESOURCES: Mapping[str, str] = {
    "DaemonSet": "daemonsets",
    "ReplicaSet": "replicasets",
    "StatefulSet": "statefulsets",
}


class _Requirement(msgspec.Struct):
    key: str
    operator: str
    values: list[str] | None = None

    def holds(self, labels: Mapping[str, str]) -> bool:
        value, values = labels.get(self.key), self.values or ()
        return {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }.get(self.operator, False)


class _Selector(msgspec.Struct, rename="camel"):
    match_labels: dict[str, str] | None = None
    match_expressions: list[_Requirement] | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if it selects ``labels``; an empty selector selects nothing."""
        required = self.match_labels or {}
        expressions = self.match_expressions or ()
        return (
            bool(required or expressions)
            and all(labels.get(key) == value for key, value in required.items())
            and all(each.holds(labels) for each in expressions)
        )


class _Template(msgspec.Struct):
    spec: objects.PodSpec


class _ControllerSpec(msgspec.Struct):
    selector: _Selector
    template: _Template


class _Controller(msgspec.Struct):
    metadata: objects.Metadata
    spec: _ControllerSpec


class ControllerCheck:
    """Asks the API server and caches the answer for a minute. For one thread, except ``known``."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        on_error: Callable[[str, Exception], None] = lambda _reason, _error: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_error`` is called with every check that fails."""
        self.failures: dict[str, int] = {}
        self._cluster = cluster
        self._on_error = on_error
        self._monotonic_s = monotonic_s
        self._known: OrderedDict[tuple[str, str], tuple[bool | None, float]] = OrderedDict()

    def known(self, pod: Pod, container_id: str) -> bool | None:
        """Return the cached answer; None: there is none, or it has expired."""
        found = self._known.get((pod.uid, container_id))
        if found is None or self._monotonic_s() - found[1] > KNOWN_S:
            return None
        return found[0]

    def checked(self, pod: Pod, container_id: str) -> bool | None:
        """Return True if the pod's controller is real; None if the API server does not answer."""
        now_s, key = self._monotonic_s(), (pod.uid, container_id)
        found = self._known.get(key)
        if found is not None and now_s - found[1] < (RETRY_S if found[0] is None else KNOWN_S):
            return found[0]
        answer = self._ask(pod, container_id)
        self._known[key] = (answer, now_s)
        self._known.move_to_end(key)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return answer

    def _ask(self, pod: Pod, container_id: str) -> bool | None:
        owner = next((each for each in pod.owners if each.is_controller), None)
        if owner is None or owner.kind not in _RESOURCES:
            return False
        namespace = quote(pod.namespace, safe="")
        name = quote(owner.name, safe="")
        path = f"/apis/{_API_VERSION}/namespaces/{namespace}/{_RESOURCES[owner.kind]}/{name}"
        pod_path = f"/api/v1/namespaces/{namespace}/pods/{quote(pod.name, safe='')}"
        try:
            controller = self._cluster.call("GET", path, timeout_s=ANSWER_S)
            seen = self._cluster.call("GET", pod_path, timeout_s=ANSWER_S)
            return controls(controller, seen, pod.uid, owner, container_id)
        except ApiError as error:
            if error.reason == "missing":
                return False
            self.failures[error.reason] = self.failures.get(error.reason, 0) + 1
            self._on_error(f"controllers {error.reason}", error)
            return None


def controls(
    controller_json: bytes, pod_json: bytes, pod_uid: str, owner: OwnerReference, container_id: str
) -> bool:
    """Return True if the controller's template made the container. Raises ApiError."""
    controller = decoded(controller_json, _Controller, f"the {owner.kind} {owner.name}")
    pod = decoded(pod_json, objects.Pod, "the pod")
    template = controller.spec.template.spec
    is_referred_to = any(
        (each.uid, each.kind, each.api_version, each.controller)
        == (controller.metadata.uid, owner.kind, _API_VERSION, True)
        for each in pod.metadata.owner_references or ()
    )
    name = _container_name(pod, container_id)
    program = _program(pod.spec, name)
    return (
        pod.metadata.uid == pod_uid
        and controller.metadata.uid == owner.uid
        and is_referred_to
        and controller.spec.selector.matches(pod.metadata.labels or {})
        and (pod.spec.priority_class_name or "") == (template.priority_class_name or "")
        and program is not None
        and program == _program(template, name)
    )


def _container_name(pod: objects.Pod, container_id: str) -> str:
    status = pod.status or objects.PodStatus()
    every = (*(status.container_statuses or ()), *(status.init_container_statuses or ()))
    found = (
        each.name for each in every if bare_container_id(each.container_id or "") == container_id
    )
    return next(found, "") if container_id else ""


def _program(spec: objects.PodSpec, name: str) -> tuple[object, ...] | None:
    """Return image, command and arguments of the container ``name``; None if there is none."""
    every = (*(spec.containers or ()), *(spec.init_containers or ()))
    found = (
        (each.image or "", each.command or [], each.args or [])
        for each in every
        if each.name == name
    )
    return next(found, None)
