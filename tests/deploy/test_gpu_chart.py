"""The chart on GPU nodes: a second DaemonSet, by each way to the driver, and never two agents."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest

from generate.manifests import CHART
from minerwatch.kube.fleet import DEFAULT_SELECTOR
from tests.deploy.chart import (
    NEWEST,
    OLDEST,
    Manifest,
    Release,
    check_as_the_api_server,
    helm,
    refusal,
    rendered,
)

ON = "--set=gpu.enabled=true"
GKE_NODES = (
    '--set-json=gpu.nodes={"nvidia.com/gpu.present":null,"cloud.google.com/gke-accelerator":"*"}'
)
ACCESS: dict[str, tuple[str, ...]] = {
    "runtimeClass": (),
    "mig": ("--set=gpu.migMonitor=true",),
    "cdi": ("--set=gpu.access=cdi",),
    "privileged": ("--set=gpu.access=privileged", "--set=gpu.driverRoot=/run/nvidia/driver"),
    "gke": (
        "--set=gpu.access=privileged",
        "--set=gpu.driverRoot=/home/kubernetes/bin/nvidia",
        "--set=gpu.library=/lib64/libnvidia-ml.so.1",
        GKE_NODES,
    ),
}
each_access = pytest.mark.parametrize("access", ACCESS)
EXPORTER = "http://$(NODE_IP):9400/metrics"
DCGM = ("--set=gpu.access=dcgm", f"--set=gpu.exporter={EXPORTER}")
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def chart(access: str = "runtimeClass", *options: str, kubernetes: str = NEWEST) -> Release:
    return Release(rendered(ON, *ACCESS[access], *options, f"--kube-version={kubernetes}"))


def pod_of(found: Release, name: str = "minerwatch-gpu") -> Manifest:
    pod: Manifest = found.named("DaemonSet", name)["spec"]["template"]["spec"]
    return pod


def containers(found: Release) -> dict[str, Manifest]:
    return {each["name"]: each for each in pod_of(found)["containers"]}


def environment(container: Manifest) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


@each_access
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_the_api_server_takes_it(access: str, kubernetes: str) -> None:
    for manifest in chart(access, kubernetes=kubernetes).of_kind("DaemonSet"):
        check_as_the_api_server(manifest, kubernetes)


@each_access
def test_helm_finds_no_fault(access: str) -> None:
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART), ON, *ACCESS[access]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_one_daemon_set_unless_gpus_are_asked_for() -> None:
    (only,) = Release(rendered()).of_kind("DaemonSet")
    assert only["metadata"]["name"] == "minerwatch"
    spec = only["spec"]["template"]["spec"]
    assert "affinity" not in spec
    assert [each["name"] for each in spec["containers"]] == ["agent"]


@each_access
def test_the_sampler_has_no_token_and_only_the_socket_and_the_driver(access: str) -> None:
    found = chart(access)
    pod, sampler, agent = pod_of(found), containers(found)["gpu"], containers(found)["agent"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["hostPID"] is True, "PIDs of the driver are then those of the agent"
    mounts = {each["name"]: each["mountPath"] for each in sampler["volumeMounts"]}
    is_privileged = access in ("privileged", "gke")
    assert mounts == {
        "gpu": "/run/minerwatch-gpu",
        **({"gpu-driver": "/driver"} if is_privileged else {}),
    }
    assert _TOKEN in {each["mountPath"] for each in agent["volumeMounts"]}
    security = sampler["securityContext"]
    assert security["privileged"] is is_privileged
    assert security["readOnlyRootFilesystem"] is True
    if not is_privileged:
        assert security["capabilities"] == {
            "drop": ["ALL"],
            **({"add": ["SYS_ADMIN"]} if access == "mig" else {}),
        }
        assert security["allowPrivilegeEscalation"] is False
    assert agent["securityContext"]["privileged"] is False


@pytest.mark.parametrize(
    ("access", "runtime", "variables"),
    [
        (
            "runtimeClass",
            "nvidia",
            {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "utility"},
        ),
        (
            "mig",
            "nvidia",
            {
                "NVIDIA_VISIBLE_DEVICES": "all",
                "NVIDIA_DRIVER_CAPABILITIES": "utility",
                "NVIDIA_MIG_MONITOR_DEVICES": "all",
            },
        ),
        (
            "cdi",
            "nvidia",
            {
                "NVIDIA_VISIBLE_DEVICES": "management.nvidia.com/gpu=all",
                "NVIDIA_DRIVER_CAPABILITIES": "utility",
            },
        ),
    ],
)
def test_a_runtime_class_brings_the_driver(
    access: str, runtime: str, variables: Mapping[str, str]
) -> None:
    found = chart(access)
    assert pod_of(found)["runtimeClassName"] == runtime
    assert environment(containers(found)["gpu"]) == variables
    assert "runtimeClassName" not in pod_of(found, "minerwatch"), "other nodes do not have it"


@pytest.mark.parametrize(
    ("access", "root", "library"),
    [
        (
            "privileged",
            "/run/nvidia/driver",
            "/driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        ),
        ("gke", "/home/kubernetes/bin/nvidia", "/driver/lib64/libnvidia-ml.so.1"),
    ],
)
def test_a_privileged_sampler_loads_the_nodes_driver(access: str, root: str, library: str) -> None:
    found = chart(access)
    assert "runtimeClassName" not in pod_of(found)
    (volume,) = (each for each in pod_of(found)["volumes"] if each["name"] == "gpu-driver")
    assert volume["hostPath"] == {"path": root, "type": "Directory"}
    assert containers(found)["gpu"]["args"][-1] == library


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_by_dcgm_exporter_there_is_no_sampler_and_the_agent_may_reach_it(kubernetes: str) -> None:
    found = Release(
        rendered(ON, *DCGM, "--set=config.probes.execs=false", f"--kube-version={kubernetes}")
    )
    pod = pod_of(found)
    check_as_the_api_server(found.named("DaemonSet", "minerwatch-gpu"), kubernetes)
    assert [each["name"] for each in pod["containers"]] == ["agent"]
    assert pod["automountServiceAccountToken"] is True
    assert "runtimeClassName" not in pod
    variables = environment(containers(found)["agent"])
    assert variables["MINERWATCH_GPU_EXPORTER"] == EXPORTER
    names = [*variables]
    assert names.index("NODE_IP") < names.index("MINERWATCH_GPU_EXPORTER"), "or it is not expanded"
    assert "MINERWATCH_GPU_SOCKET" not in variables
    plain = pod_of(found, "minerwatch")["containers"][0]
    assert "MINERWATCH_GPU_EXPORTER" not in environment(plain)
    assert not {"gpu", "token"} & {each["name"] for each in pod["volumes"]}
    (policy,) = found.of_kind("NetworkPolicy")
    ports = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert 9400 in ports


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://exporter.gpu-operator/metrics", 80),
        ("http://[fd00::7]:9401/", 9401),
        ("http://[$(NODE_IP)]:9400/metrics", 9400),
    ],
)
def test_the_port_of_the_exporter_is_in_the_network_policy(url: str, port: int) -> None:
    options = ("--set=gpu.access=dcgm", f"--set-string=gpu.exporter={url}")
    found = Release(rendered(ON, *options, "--set=config.probes.execs=false"))
    (policy,) = found.of_kind("NetworkPolicy")
    assert {"port": port, "protocol": "TCP"} in [
        each for rule in policy["spec"]["egress"] for each in rule["ports"]
    ]


def test_both_agree_on_the_socket() -> None:
    found = chart()
    path = environment(containers(found)["agent"])["MINERWATCH_GPU_SOCKET"]
    assert path in containers(found)["gpu"]["args"]


def test_clients_services_and_policies_find_both() -> None:
    wanted = dict(pair.split("=") for pair in DEFAULT_SELECTOR.split(","))
    for each in chart().of_kind("DaemonSet"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert wanted.items() <= labels.items()
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
    first, second = (
        chart().named("DaemonSet", name)["spec"]["selector"]["matchLabels"]
        for name in ("minerwatch", "minerwatch-gpu")
    )
    assert first != second


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--set=gpu.access=privileged",), "gpu.driverRoot"),
        (("--set=gpu.access=magic",), "gpu"),
        (("--set=gpu.access=dcgm",), "gpu.exporter"),
        (("--set=gpu.access=dcgm", "--set=gpu.exporter=file:///etc/passwd"), "gpu"),
        (("--set=gpu.access=dcgm", "--set=gpu.exporter=http://user@evil/"), "gpu"),
        (("--set=gpu.access=dcgm", "--set=gpu.exporter=http://node:port/"), "gpu"),
        (("--set=gpu.library=/etc/passwd",), "gpu"),
        (('--set-json=gpu.nodes={"nvidia.com/gpu.present":null}',), "gpu"),
    ],
)
def test_what_could_not_work_is_refused(options: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(ON, *options)


@pytest.mark.parametrize(
    ("access", "is_privileged", "more"),
    [("runtimeClass", False, set()), ("mig", False, {"SYS_ADMIN"}), ("privileged", True, set())],
)
def test_openshift_permits_what_the_sampler_asks_for(
    access: str, is_privileged: bool, more: set[str]
) -> None:
    on = "--set=securityContextConstraints.create=true"
    (allowed,) = chart(access, on).of_kind("SecurityContextConstraints")
    (without,) = Release(rendered(on)).of_kind("SecurityContextConstraints")
    assert allowed["allowPrivilegedContainer"] is is_privileged
    assert {*allowed["allowedCapabilities"]} - {*without["allowedCapabilities"]} == more


# No node gets both.

LABELS: dict[str, tuple[str | None, ...]] = {
    "nvidia.com/gpu.present": (None, "true", "false"),
    "cloud.google.com/gke-accelerator": (None, "nvidia-l4"),
    "zone": (None, "a", "b"),
}
AFFINITY = (
    '--set-json=affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":'
    '{"nodeSelectorTerms":[{"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]},'
    '{"matchExpressions":[{"key":"zone","operator":"DoesNotExist"}]}]}}}'
)
BOTH_LABELS = r'--set-json=gpu.nodes={"cloud.google.com/gke-accelerator":"*"}'


def nodes() -> Iterator[dict[str, str]]:
    for values in product(*LABELS.values()):
        yield {k: v for k, v in zip(LABELS, values, strict=True) if v is not None}


def runs_on(pod: Manifest, labels: Mapping[str, str]) -> bool:
    """Return True if the scheduler would take the node for the pod."""
    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(
        all(_holds(each, labels) for each in term["matchExpressions"])
        for term in required["nodeSelectorTerms"]
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(expression)


@pytest.mark.parametrize("affinity", [(), (AFFINITY,)], ids=["any", "zone"])
@pytest.mark.parametrize("of_nodes", [(), (BOTH_LABELS,)], ids=["one-label", "two-labels"])
def test_each_node_gets_one_agent_and_none_gets_both(
    affinity: tuple[str, ...], of_nodes: tuple[str, ...]
) -> None:
    found = chart("runtimeClass", *affinity, *of_nodes)
    plain, gpu = pod_of(found, "minerwatch"), pod_of(found)
    assert plain["nodeSelector"] == gpu["nodeSelector"]
    counts = set()
    for labels in nodes():
        is_wanted = not affinity or labels.get("zone") != "b"
        is_gpu = runs_on(gpu, labels)
        assert runs_on(plain, labels) + is_gpu == is_wanted, labels
        counts.add(is_gpu)
        if is_gpu:
            assert labels["nvidia.com/gpu.present"] == "true"
            assert not of_nodes or "cloud.google.com/gke-accelerator" in labels
    assert counts == {True, False}
