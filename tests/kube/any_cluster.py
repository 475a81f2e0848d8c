"""Any API server, the tests' own or a real one, with a namespace and a node of the test's own.

Nothing is assumed but what a conformant API server of 1.27 or later does: no kubelet, no images,
any default of Pod Security. The account is an administrator's.
Pods are bound to a node that does not exist, and their status is written as its kubelet would.
A controller manager removes such pods after some 40 s, so a test has to be done with one by then.
"""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig
from tests.waiting import PATIENCE_S

Json = dict[str, Any]

KUBECONFIG = os.environ.get("MINERWATCH_TEST_KUBECONFIG", "")
EVENTS = "/apis/events.k8s.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"

Rules = Sequence[Mapping[str, Sequence[str]]]

MANIFEST = Path(__file__).parent.parent.parent / "deploy" / "manifests" / "minerwatch.yaml"


def shipped_rules(*roles: str) -> Rules:
    """What those roles permit that minerwatch is installed with."""
    documents = yaml.load_all(MANIFEST.read_text(), yaml.CSafeLoader)
    chosen = [
        document
        for document in documents
        if document["kind"] in ("Role", "ClusterRole") and document["metadata"]["name"] in roles
    ]
    return [rule for document in chosen for rule in document["rules"]]


AGENT_RULES = shipped_rules("minerwatch-observe", "minerwatch-events")
EXEC = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]}  # onCall.exec
ON_CALL_RULES = (*shipped_rules("minerwatch-on-call"), EXEC)

needs_real_cluster = pytest.mark.skipif(
    not KUBECONFIG,
    reason="asks a real cluster: name its kubeconfig in MINERWATCH_TEST_KUBECONFIG",
)


class AnyCluster:
    """What a test does on an API server, as its administrator."""

    def __init__(self, kubeconfig: Path, *, is_real: bool) -> None:
        self.kubeconfig = kubeconfig
        self.is_real = is_real
        self.api = from_kubeconfig(kubeconfig)
        self.namespace = self.node = f"minerwatch-test-{uuid.uuid4().hex[:8]}"
        self.cluster_wide: list[str] = []  # paths of what is in no namespace, to be removed
        self.pods_path = f"/api/v1/namespaces/{self.namespace}/pods"

    def send(
        self, method: str, path: str, body: object, content_type: str = "application/json"
    ) -> Any:
        """The answer's JSON; raises ApiError."""
        sent = msgspec.json.encode(body)
        return msgspec.json.decode(
            self.api.call(method, path, body=sent, content_type=content_type)
        )

    def create_pod(
        self,
        name: str,
        *,
        node: str | None = None,
        container: str = "main",
        env: Mapping[str, str] | None = None,
        account: str = "default",
        **metadata: Any,
    ) -> Json:
        """A pod on the test's node, without a status; as the server has stored it."""
        variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, **metadata},
            "spec": {
                "nodeName": self.node if node is None else node,
                "serviceAccountName": account,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {"name": container, "image": "registry.k8s.io/pause:3.10", "env": variables}
                ],
            },
        }
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return dict(self.send("POST", self.pods_path, pod))
            except ApiError as error:
                # a new namespace's service account is made some moments later
                if error.reason != "forbidden" or time.monotonic() > until_s:
                    raise
                time.sleep(0.1)

    def start_container(self, name: str, container_id: str, container: str = "main") -> None:
        """Write into a pod's status that its container runs, as its kubelet would."""
        running = {
            "name": container,
            "image": "registry.k8s.io/pause:3.10",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "containerID": f"containerd://{container_id}",
            "state": {"running": {"startedAt": "2026-11-23T10:00:00Z"}},
        }
        self.set_status(name, {"phase": "Running", "containerStatuses": [running]})

    def write_kubeconfig(
        self, path: Path, account: str, rules: Rules, *, in_pod: bool = False
    ) -> Path:
        """For an account that may do no more than ``rules``; needs RBAC and TokenRequest.

        ``in_pod``: with the token of a pod on the test's node, which has the account's name.
        """
        accounts = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        name = f"{self.namespace}-{account}"
        subject = {"kind": "ServiceAccount", "name": account, "namespace": self.namespace}
        reference = {"apiGroup": RBAC.split("/")[2], "kind": "ClusterRole", "name": name}
        self.cluster_wide += [f"{RBAC}/clusterrolebindings/{name}", f"{RBAC}/clusterroles/{name}"]
        self.send("POST", accounts, {"metadata": {"name": account, "namespace": self.namespace}})
        self.send("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        self.send("POST", f"{RBAC}/clusterrolebindings", binding)
        spec: Json = {"expirationSeconds": 3600}
        if in_pod:
            uid = self.create_pod(account, account=account)["metadata"]["uid"]
            pod = {"apiVersion": "v1", "kind": "Pod", "name": account, "uid": uid}
            spec["boundObjectRef"] = pod
        asked = {"spec": spec}
        token = self.send("POST", f"{accounts}/{account}/token", asked)["status"]["token"]
        configuration = self.api.client.configuration
        server: Json = {"server": self.api.server}
        if configuration.ssl_ca_cert:
            server["certificate-authority"] = str(configuration.ssl_ca_cert)
        if data := getattr(configuration, "ca_cert_data", None):
            text = data.encode() if isinstance(data, str) else data
            server["certificate-authority-data"] = base64.b64encode(text).decode()
        if not configuration.verify_ssl:
            server["insecure-skip-tls-verify"] = True
        if configuration.tls_server_name:
            server["tls-server-name"] = configuration.tls_server_name
        written = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": server}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": account}}],
            "current-context": "here",
        }
        path.write_bytes(msgspec.json.encode(written))
        path.chmod(0o600)
        _await_rights(path, rules)
        return path

    def set_status(self, name: str, status: Json) -> None:
        patch = {"status": status}
        kind = "application/merge-patch+json"
        self.send("PATCH", f"{self.pods_path}/{name}/status", patch, kind)

    def set_metadata(self, name: str, **metadata: Any) -> None:
        kind = "application/merge-patch+json"
        self.send("PATCH", f"{self.pods_path}/{name}", {"metadata": metadata}, kind)

    def delete_pod(self, name: str) -> None:
        self.send("DELETE", f"{self.pods_path}/{name}", {"gracePeriodSeconds": 0})

    def events(self) -> list[Json]:
        """Those that minerwatch has written: controllers write events, too."""
        path = f"{EVENTS}/namespaces/{self.namespace}/events"
        listed = msgspec.json.decode(self.api.call("GET", path))
        return [
            item
            for item in listed["items"]
            if item.get("reportingController") == "minerwatch.io/agent"
        ]


@contextmanager
def own_namespace(kubeconfig: Path, *, is_real: bool) -> Iterator[AnyCluster]:
    """A cluster with a namespace, which is removed again."""
    cluster = AnyCluster(kubeconfig, is_real=is_real)
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    head = {"name": cluster.namespace, "labels": labels}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": head}
    cluster.send("POST", "/api/v1/namespaces", namespace)
    try:
        yield cluster
    finally:
        for path in (*cluster.cluster_wide, f"/api/v1/namespaces/{cluster.namespace}"):
            _remove(cluster.api, path)
        cluster.api.close()


def _await_rights(kubeconfig: Path, rules: Rules) -> None:
    """New accounts and roles come into force some moments after they were made."""
    api = from_kubeconfig(kubeconfig)
    until_s = time.monotonic() + PATIENCE_S
    for rule in rules:
        for verb in rule["verbs"]:
            resource, _, subresource = rule["resources"][0].partition("/")
            asked = {"group": rule["apiGroups"][0], "resource": resource, "verb": verb}
            asked["name"] = rule.get("resourceNames", [""])[0]
            attributes = {**asked, "subresource": subresource}
            while not _may(api, attributes) and time.monotonic() < until_s:
                time.sleep(0.2)
    api.close()


def _may(api: Cluster, attributes: Json) -> bool:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = msgspec.json.encode({"spec": {"resourceAttributes": attributes}})
    try:
        answer = msgspec.json.decode(api.call("POST", path, body=body))
    except ApiError as error:
        if error.reason != "unauthorized":
            raise
        return False
    return bool(answer.get("status", {"allowed": True})["allowed"])


def _remove(api: Cluster, path: str) -> None:
    with suppress(ApiError):
        api.call("DELETE", path)
