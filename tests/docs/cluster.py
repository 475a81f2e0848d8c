"""The tests' API server with what kubectl and helm want besides: discovery, logs, a kubelet."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sysconfig
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kube.api_server import (
    ApiServer,
    Json,
    Request,
    StatusError,
    Stream,
    encode,
    merged,
    pod_json,
    put_daemon_set,
)
from tests.kube.exec_endpoint import Printing
from tests.report.samples import MINER

CLUSTER = Path(__file__).parents[1] / "fixtures" / "clusters" / "three-nodes"
POD, NODE, AGENT = MINER.pod, "node-1", "minerwatch-bxq4t"
DEBUGGER = "node-debugger-node-1-abcde"
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_KINDS = {
    "v1": """pods=Pod nodes=Node namespaces=Namespace events=Event services=Service
        serviceaccounts=ServiceAccount configmaps=ConfigMap secrets=Secret
        replicationcontrollers=ReplicationController resourcequotas=ResourceQuota
        limitranges=LimitRange pods/log=Pod pods/exec=PodExecOptions pods/attach=PodAttachOptions
        pods/ephemeralcontainers=Pod pods/eviction=Eviction""",
    "apps/v1": """daemonsets=DaemonSet deployments=Deployment replicasets=ReplicaSet
        statefulsets=StatefulSet controllerrevisions=ControllerRevision deployments/scale=Scale""",
    "batch/v1": "jobs=Job cronjobs=CronJob",
    "authorization.k8s.io/v1": "selfsubjectaccessreviews=SelfSubjectAccessReview",
    "coordination.k8s.io/v1": "leases=Lease",
    "events.k8s.io/v1": "events=Event",
    "metrics.k8s.io/v1beta1": "pods=PodMetrics nodes=NodeMetrics",
    "networking.k8s.io/v1": "networkpolicies=NetworkPolicy",
    "policy/v1": "poddisruptionbudgets=PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1": """clusterroles=ClusterRole roles=Role
        clusterrolebindings=ClusterRoleBinding rolebindings=RoleBinding""",
    "scheduling.k8s.io/v1": "priorityclasses=PriorityClass",
}
_OF_THE_CLUSTER = {"nodes", "namespaces", "clusterroles", "clusterrolebindings", "priorityclasses"}
_KIND_OF = {
    (group, name): kind
    for group, resources in _KINDS.items()
    for name, _, kind in (each.partition("=") for each in resources.split())
}


class KubectlServer(ApiServer):
    """Answers real clients well enough for the commands of the pages."""

    agent = Path()  # the socket that commands in pods use

    def parsed(self, body: bytes) -> Any:
        return _unpacked(body) if body.startswith(_PROTOBUF) else super().parsed(body)

    def answer(self, request: Request) -> tuple[int, bytes]:
        path = request.path
        if path == "/openapi/v2":
            return 200, b""  # in protobuf a document without schemas: nothing is validated
        if path.endswith(("/log", "/proxy/readyz")):
            return 200, b'{"event":"tick failed","level":"error","error":"none"}\n'
        if found := _discovered(path) or self._done(request):
            return 200, encode(found)
        if request.method == "PUT":  # in protobuf the namespace is in the path only
            request.body["metadata"].setdefault("namespace", path.split("/")[4])
        status, body = super().answer(request)
        if request.method == "GET":
            body = _typed(path, body)
        elif request.method == "POST" and path.endswith("/pods"):
            self.put(_started(json.loads(body)))
        return status, body

    def _done(self, request: Request) -> Json | None:
        """Carry out what the tests' other server cannot; None if it can."""
        path = request.path
        if path.endswith("/selfsubjectaccessreviews"):
            return {**request.body, "status": {"allowed": True}}
        if path.endswith("/scale"):
            return self._scaled(request)
        if path.endswith("/ephemeralcontainers"):
            return self._with_debugger(request)
        if request.method == "DELETE" and path == "/api/v1/namespaces/minerwatch":
            self.remove("", "minerwatch", resource="namespaces")  # what is in it ends later
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if request.headers.get("content-type") == "application/apply-patch+yaml":
            return self._applied(request)
        return None

    def open_stream(self, request: Request) -> Stream:
        if "sendInitialEvents" in request.query:
            raise StatusError(422, "Invalid", "sendInitialEvents: not supported")
        return super().open_stream(request)

    def printing(self, request: Request) -> Printing:
        """What the command really prints if it is minerwatch; it has the recorded node's agent."""
        if request.command[:1] != ("minerwatch",) or "canary" in request.command:
            return Printing(_tar() if "tar" in request.command else b"printed\n")
        program = Path(sysconfig.get_path("scripts")) / "minerwatch"
        done = subprocess.run(
            [program, *request.command[1:]],
            env={**os.environ, "MINERWATCH_SOCKET": str(self.agent)},
            capture_output=True,
            check=False,
        )
        return Printing(done.stdout, done.stderr, done.returncode)

    def _applied(self, request: Request) -> Json:
        """Server-side apply: made if it is not there."""
        collection, _, name = request.path.rpartition("/")
        prefix, _, resource = re.sub("/namespaces/[^/]+(?=/)", "", collection).rpartition("/")
        found = [
            each
            for each in self.items(resource, prefix)
            if each["metadata"]["name"] == name
            and each["metadata"].get("namespace") == request.body["metadata"].get("namespace")
        ]
        item = merged(found[0] if found else {}, request.body)
        return self.put(_started(item) if resource == "pods" else item, prefix, resource)

    def _scaled(self, request: Request) -> Json:
        namespace, name = request.path.split("/")[5], request.path.split("/")[7]
        metadata = {"name": name, "namespace": namespace, "resourceVersion": self.version}
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata}
        found: Json = merged({**scale, "spec": {"replicas": 1}}, request.body or {})
        return found

    def _with_debugger(self, request: Request) -> Json:
        """A kubelet starts what was added to the pod."""
        pod_path = request.path.removesuffix("/ephemeralcontainers")
        asked = Request("GET", pod_path, {}, {}, None, 0.0)
        pod: Json = json.loads(super().answer(asked)[1])
        if request.method == "GET":
            return pod
        (added,) = request.body["spec"]["ephemeralContainers"]
        pod["spec"]["ephemeralContainers"] = [added]
        running = {"name": added["name"], "state": {"running": {}}}
        pod["status"]["ephemeralContainerStatuses"] = [running]
        return self.put(pod)


_PROTOBUF = b"k8s\0"


def _unpacked(body: bytes) -> Json:
    """Of an object in protobuf what is needed here (generated.proto of k8s.io/api and runtime)."""
    unknown = dict(_fields(body.removeprefix(_PROTOBUF)))
    kind, raw = dict(_fields(unknown[1])), dict(_fields(unknown[2]))
    named = {1: "name", 2: "generateName", 3: "namespace"}
    metadata = dict(_fields(raw.get(1, b"")))
    item: Json = {
        "apiVersion": kind[1].decode(),
        "kind": kind[2].decode(),
        "metadata": {name: metadata[n].decode() for n, name in named.items() if metadata.get(n)},
    }
    if labels := [dict(_fields(each)) for n, each in _fields(raw.get(1, b"")) if n == 11]:
        item["metadata"]["labels"] = {each[1].decode(): each[2].decode() for each in labels}
    if item["kind"] == "Secret":
        entries = [dict(_fields(each)) for n, each in _fields(unknown[2]) if n == 2]
        item["data"] = {each[1].decode(): b64encode(each[2]).decode() for each in entries}
    if item["kind"] == "Pod":
        containers = (dict(_fields(each)) for n, each in _fields(raw[2]) if n == 2)
        item["spec"] = {"containers": [{"name": each[1].decode()} for each in containers]}
    return item


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field; numbers and the like are left out."""
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 2:
            size = number()
            yield key >> 3, message[at : at + size]
            at += size
        else:
            number()


def _discovered(path: str) -> Json | None:
    """The API's list of groups or of resources, if ``path`` is one."""
    if path == "/version":
        return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for each in (name for name in _KINDS if "/" in name):
            version = {"groupVersion": each, "version": each.partition("/")[2]}
            groups.append(
                {
                    "name": each.partition("/")[0],
                    "versions": [version],
                    "preferredVersion": version,
                }
            )
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    group = path.removeprefix("/api/").removeprefix("/apis/")
    if group not in _KINDS:
        return None
    resources = [
        {
            "name": name,
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": name not in _OF_THE_CLUSTER,
            "verbs": _VERBS,
            **({"shortNames": ["ns"]} if name == "namespaces" else {}),
            **({"group": "policy", "version": "v1"} if name == "pods/eviction" else {}),
        }
        for (of, name), kind in _KIND_OF.items()
        if of == group
    ]
    return {"kind": "APIResourceList", "groupVersion": group, "resources": resources}


def _typed(path: str, body: bytes) -> bytes:
    """A list with the kind that typed clients want."""
    found = json.loads(body)
    if found.get("kind") != "List":
        return body
    _, root, *rest = path.split("/")
    group = rest[0] if root == "api" else "/".join(rest[:2])
    kind = _KIND_OF[group, path.rpartition("/")[2]]
    items = [{"apiVersion": group, "kind": kind, **each} for each in found["items"]]
    return encode({**found, "kind": f"{kind}List", "apiVersion": group, "items": items})


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("host/root/evidence"))
    return file.getvalue()


def _started(pod: Json) -> Json:
    """The pod after the kubelet has seen it: a test of helm's has ended, others run."""
    is_test = "test" in (pod["metadata"].get("annotations") or {}).get("helm.sh/hook", "")
    state = {"terminated": {"exitCode": 0}} if is_test else {"running": {}}
    statuses = [{"name": each["name"], "state": state} for each in pod["spec"]["containers"]]
    phase = "Succeeded" if is_test else "Running"
    return {**pod, "status": {"phase": phase, "containerStatuses": statuses}}


def _pod(namespace: str, name: str = POD) -> Json:
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u"}
    pod = pod_json(
        name,
        node=NODE,
        namespace=namespace,
        containers={"agent": "1"},
        labels={"minerwatch.io/quarantine": "true"},
        ownerReferences=[{**reference, "controller": True}],
    )
    pod["spec"]["securityContext"] = {}
    return pod


@contextmanager
def cluster(*, is_installed: bool = True) -> Iterator[KubectlServer]:
    """One node, with an agent if it is installed, and a pod of one name where pages name one."""
    server = KubectlServer()
    with server:
        for node in json.loads((CLUSTER / "nodes.json").read_text())[:1]:
            server.put({"apiVersion": "v1", "kind": "Node", **node}, resource="nodes")
        for name in ("binder", "default", "monitoring", *(["minerwatch"] if is_installed else [])):
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            server.put(namespace, resource="namespaces")
            server.put(_pod(name))
        server.put(_pod("default", DEBUGGER))
        if is_installed:
            put_daemon_set(server)
            for pod in json.loads((CLUSTER / "pods.json").read_text())[:1]:
                server.put(pod)
        metadata = {"name": POD, "namespace": "binder"}
        template = {"metadata": {}, "spec": {"containers": [{"name": "main", "image": "a:1"}]}}
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
        server.put({**deployment, "spec": spec}, "/apis/apps/v1", "deployments")
        used = {"name": "main", "usage": {"cpu": "1980m", "memory": "300Mi"}}
        measured = {"timestamp": "2026-11-25T00:00:00Z", "window": "15s", "containers": [used]}
        server.put({"metadata": metadata, **measured}, "/apis/metrics.k8s.io/v1beta1")
        yield server
