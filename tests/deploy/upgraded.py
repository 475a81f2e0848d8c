"""As much of an API server as helm needs to look something up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

from tests.kube.listener import Listener, QuietHandler

Json = dict[str, Any]


class Upgraded:
    """A cluster that has these DaemonSets, and nothing else."""

    def __init__(self, daemon_sets: Sequence[Json]) -> None:
        objects = {_path(each): _owned(each) for each in daemon_sets}

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
                found = (_DISCOVERY | objects).get(self.path.partition("?")[0])
                body = json.dumps(found or _NOT_FOUND).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._listener = Listener(0, Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()


def _path(daemon_set: Json) -> str:
    metadata = daemon_set["metadata"]
    return f"/apis/apps/v1/namespaces/{metadata['namespace']}/daemonsets/{metadata['name']}"


def _owned(daemon_set: Json) -> Json:
    """Return it as helm has installed it."""
    metadata = daemon_set["metadata"]
    owner = {
        "meta.helm.sh/release-name": "minerwatch",
        "meta.helm.sh/release-namespace": metadata["namespace"],
    }
    annotations = {**metadata.get("annotations", {}), **owner}
    return {**daemon_set, "metadata": {**metadata, "annotations": annotations}}


_NOT_FOUND = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "reason": "NotFound",
    "message": "not found",
    "code": 404,
}
_KINDS = {
    "v1": ("ConfigMap", "Pod", "Service", "ServiceAccount"),
    "apps/v1": ("DaemonSet",),
    "batch/v1": ("Job",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "scheduling.k8s.io/v1": ("PriorityClass",),
    "admissionregistration.k8s.io/v1": (
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
}
"""What the chart renders, by API version."""

_PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "PriorityClass": "priorityclasses",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
}


def _resources(version: str) -> Json:
    resources = [
        {
            "name": _PLURALS.get(kind, f"{kind.lower()}s"),
            "namespaced": not kind.startswith(("Cluster", "Priority", "Validating")),
            "kind": kind,
            "verbs": ["get", "list"],
        }
        for kind in _KINDS[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _group(version: str) -> Json:
    names = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [names], "preferredVersion": names}


_GROUPS = [_group(version) for version in _KINDS if version != "v1"]
_DISCOVERY: Json = {
    "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": _resources("v1"),
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": _GROUPS},
    **{f"/apis/{version}": _resources(version) for version in _KINDS if version != "v1"},
}
