"""The helm chart: what it grants, by what is switched on; what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from generate.manifests import CHART, MANIFESTS, manifests
from generate.names import names
from minerwatch.api.port import REPORT_PATH
from minerwatch.cli.main import cli
from minerwatch.config.schema import Config
from minerwatch.kube.fleet import DEFAULT_SELECTOR
from minerwatch.node.children import scanning
from tests.builders import config_of
from tests.deploy.chart import (
    EXAMPLES,
    HUBS,
    NEWEST,
    OLDEST,
    PLATFORMS,
    VALUES,
    Manifest,
    Release,
    check_as_the_api_server,
    helm,
    refusal,
    release,
    rendered,
)
from tests.deploy.services import DEPLOY, RULES, program
from tests.deploy.upgraded import Upgraded
from tests.kube.conftest import write_kubeconfig

_SETS = {path.stem: path for path in (*VALUES, *PLATFORMS)}
_each_set = pytest.mark.parametrize("name", _SETS)
_OF_OPERATOR = {"PodMonitor", "PrometheusRule", "SecurityContextConstraints"}
"""Kinds that Kubernetes itself does not have."""
_OBSERVE = {"list pods", "watch pods"}
_AUTHORIZE = {
    "create tokenreviews.authentication.k8s.io",
    "create subjectaccessreviews.authorization.k8s.io",
}
_EVENTS = _AUTHORIZE | {"create events.events.k8s.io", "patch events.events.k8s.io"}
_BUDGET = {
    f"{verb} leases.coordination.k8s.io{name} in minerwatch"
    for verb, name in (
        ("get", "/minerwatch-cull-budget"),
        ("update", "/minerwatch-cull-budget"),
        ("delete", "/minerwatch-cull-budget"),
        ("create", ""),
    )
}
_AGENT_MIB = 80 + 32  # resident, and of hostile text that is kept
_NAMES = ("minerwatch", "minerwatch-test", "minerwatch-release", "minerwatch-scrape")
_CONTROLLERS = {f"get {kind}.apps" for kind in ("daemonsets", "replicasets", "statefulsets")}
_DEEP = {"SYS_PTRACE", "DAC_READ_SEARCH", "BPF", "PERFMON"}

CAPABILITIES = {
    "default": _DEEP | {"NET_ADMIN"},
    "cull-dry-run": _DEEP | {"NET_ADMIN"},
    "cull-enforce": _DEEP | {"NET_ADMIN", "KILL"},
    "cull-hub": _DEEP,
    "no-exec-events": _DEEP,
    "private-rules": _DEEP | {"NET_ADMIN"},
    "everything": _DEEP | {"NET_ADMIN", "KILL"},
    "minimal": set(),
    "bottlerocket": _DEEP | {"NET_ADMIN"},
    "eks": _DEEP | {"NET_ADMIN"},
    "gke-cos": _DEEP,
    "k3s": _DEEP | {"NET_ADMIN"},
    "openshift": _DEEP | {"NET_ADMIN"},
    "hub": _DEEP | {"NET_ADMIN"},
    "talos": {"SYS_PTRACE", "DAC_READ_SEARCH", "PERFMON", "NET_ADMIN"},
}

PERMISSIONS = {
    "default": _OBSERVE | _EVENTS,
    "cull-dry-run": _OBSERVE | _EVENTS | _BUDGET | _CONTROLLERS | {"get pods", "patch pods"},
    "cull-enforce": _OBSERVE
    | _EVENTS
    | _BUDGET
    | {
        f"{what} in {where}"
        for what in (
            *("get pods", "patch pods", "delete pods", "create pods/eviction"),
            *_CONTROLLERS,
        )
        for where in ("jupyterhub", "binder")
    },
    "cull-hub": _OBSERVE
    | _EVENTS
    | _BUDGET
    | {f"{what} in jhub" for what in ("get pods", "create pods/eviction", *_CONTROLLERS)}
    | {
        "get configmaps/minerwatch-bans in jhub",
        "update configmaps/minerwatch-bans in jhub",
        "create configmaps in jhub",
    },
    "no-exec-events": _OBSERVE | _EVENTS,
    "private-rules": _OBSERVE | _EVENTS,
    "everything": _OBSERVE
    | _EVENTS
    | _BUDGET
    | _CONTROLLERS
    | {"get pods", "patch pods", "delete pods", "create pods/eviction"},
    "minimal": set(),
    "bottlerocket": _OBSERVE | _EVENTS,
    "eks": _OBSERVE | _EVENTS,
    "gke-cos": _OBSERVE | _EVENTS,
    "k3s": _OBSERVE | _EVENTS,
    "openshift": _OBSERVE | _EVENTS,
    "hub": _OBSERVE | _EVENTS,
    "talos": _OBSERVE | _EVENTS,
}

ON_CALL = {
    "list nodes",
    "get pods in minerwatch",
    "list pods in minerwatch",
    "get pods/log in minerwatch",
    "get daemonsets.apps in minerwatch",
    "get pods/proxy in minerwatch",
    "create serviceaccounts/token/minerwatch-view in minerwatch",
}
_EXEC = {"get pods/exec in minerwatch", "create pods/exec in minerwatch"}


def of(name: str) -> Release:
    return release(_SETS[name])


def in_a_cluster(name: str, *options: str) -> Release:
    """As a helm that has asked a cluster renders it."""
    return Release(rendered("-f", str(_SETS[name]), "--api-versions=apps/v1/DaemonSet", *options))


def test_helm_lint_finds_nothing_wrong() -> None:
    for path in (*VALUES, *EXAMPLES):
        done = subprocess.run(
            [helm(), "lint", "--strict", str(CHART), "-f", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@_each_set
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_the_api_server_would_take_it(name: str, kubernetes: str) -> None:
    for manifest in in_a_cluster(name, f"--kube-version={kubernetes}").manifests:
        if manifest["kind"] not in _OF_OPERATOR:
            check_as_the_api_server(manifest, kubernetes)


_KEYS_OF_LISTS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "ports": ("port", "containerPort", "protocol"),
    "hostAliases": ("ip",),
}
"""Lists that the API merges by key (x-kubernetes-list-map-keys), which must be unique in them."""


@_each_set
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_server_side_apply_would_take_it(name: str, kubernetes: str) -> None:
    manifests = in_a_cluster(name, f"--kube-version={kubernetes}").manifests
    for manifest in manifests:
        _require_unique_keys(manifest, manifest["kind"])
    objects = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in manifests
    ]
    assert sorted(set(objects), key=str) == sorted(objects, key=str)


def _require_unique_keys(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_unique_keys(inner, f"{path}.{key}")
    elif isinstance(value, list):
        by = _KEYS_OF_LISTS.get(path.rpartition(".")[2], ())
        keys = [tuple(each.get(key) for key in by) for each in value if isinstance(each, dict)]
        assert not by or len(set(keys)) == len(keys), f"{path}: {keys}"
        for index, inner in enumerate(value):
            _require_unique_keys(inner, f"{path}.{index}")


@pytest.mark.parametrize(
    ("listed", "key", "extra"),
    [
        ("env", "name", "extraEnv"),
        ("volumes", "name", "extraVolumes"),
        ("volumeMounts", "mountPath", "extraVolumeMounts"),
    ],
)
def test_what_the_chart_has_cannot_be_added_again(listed: str, key: str, extra: str) -> None:
    options = ("-f", str(_SETS["private-rules"]), "--set=config.culling.mode=dry-run")
    found = Release(rendered(*options))
    for entry in (found.pod["spec"] | found.agent)[listed]:
        added = f"--set-json={extra}={json.dumps([entry])}"
        assert f'{extra}: {key} "{entry[key]}" is used' in refusal(*options, added)
    twice = json.dumps([{"name": "a", "mountPath": "/a"}] * 2)
    assert "is used already" in refusal(f"--set-json={extra}={twice}")


def test_labels_and_annotations_of_the_operator_replace_only_what_selects_nothing() -> None:
    ours = {
        "app.kubernetes.io/name": "theirs",
        "app.kubernetes.io/part-of": "platform",
        "checksum/config": "theirs",
    }
    options = [
        f"--set-json={value}={json.dumps(ours)}"
        for value in ("commonLabels", "podLabels", "podAnnotations", "podMonitor.labels")
    ]
    found = Release(rendered(*options, "--set=podMonitor.enabled=true"))
    labels = found.pod["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "minerwatch"
    assert labels["app.kubernetes.io/part-of"] == "platform"
    assert len(found.pod["metadata"]["annotations"]["checksum/config"]) == 64
    monitor = found.named("PodMonitor")["metadata"]["labels"]
    assert monitor["app.kubernetes.io/part-of"] == "platform"


def test_an_image_pull_secret_is_named_once() -> None:
    found = Release(rendered('--set-json=image.pullSecrets=["a","b","a"]'))
    assert found.pod["spec"]["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_an_agent_comes_before_what_tenants_run_and_after_the_system() -> None:
    """Else a rolled-out agent stays Pending on a full node, which tenants can fill."""
    found = of("default")
    (priority,) = found.of_kind("PriorityClass")
    assert found.pod["spec"]["priorityClassName"] == priority["metadata"]["name"]
    assert 0 < priority["value"] < 1_000_000_000  # what is above belongs to the system
    assert priority["preemptionPolicy"] == "PreemptLowerPriority"
    assert not priority.get("globalDefault")
    # Those that only pass by take nobody's place.
    for pod in (*found.of_kind("Pod"), *in_a_cluster("cull-enforce").of_kind("Job")):
        assert "priorityClassName" not in str(pod)


def test_another_priority_class_or_none() -> None:
    named = of("everything")
    assert named.pod["spec"]["priorityClassName"] == "system-node-critical"
    assert not named.of_kind("PriorityClass")
    without = Release(rendered("--set=priorityClass.create=false"))
    assert "priorityClassName" not in without.pod["spec"]
    assert not without.of_kind("PriorityClass")


def test_a_type_of_selinux_for_the_agent() -> None:
    assert of("bottlerocket").agent["securityContext"]["seLinuxOptions"]["type"] == "super_t"
    assert "seLinuxOptions" not in of("default").agent["securityContext"]


def test_the_pod_network_has_no_exec_events() -> None:
    found = of("gke-cos")
    assert "hostNetwork" not in found.pod["spec"]
    assert found.config["probes"]["execs"] is False  # else the probe fails for ever
    assert found.of_kind("NetworkPolicy")


def test_the_nodes_units_may_be_watched() -> None:
    assert of("hub").config["node"] == {"units": True}
    assert "'proc' not allowed" in refusal("--set=config.node.proc=/x")


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@pytest.mark.parametrize("path", HUBS, ids=lambda path: path.stem)
def test_a_hubs_values_observe_and_are_ready_for_a_dry_run(path: Path, kubernetes: str) -> None:
    hub = release(path, kubernetes)
    for manifest in hub.manifests:
        check_as_the_api_server(manifest, kubernetes)
    config = config_of(hub.config)
    assert config.culling.mode == "off"
    assert config.owners.profile in path.stem.replace("zero-to-", "")
    assert hub.permissions() <= of("default").permissions()

    version = f"--kube-version={kubernetes}"
    dry = Release(rendered("-f", str(path), version, "--set=config.culling.mode=dry-run"))
    (namespace,) = config.culling.namespaces
    writes = {
        permission
        for permission in dry.permissions() - hub.permissions()
        if not permission.startswith("get ") and "leases" not in permission
    }
    assert writes
    assert all(permission.endswith(f" in {namespace}") for permission in writes)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_for_what_it_is_and_how_it_is_used(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# minerwatch ")
    assert f"-f deploy/helm/values/{path.name}" in text
    assert f"[{path.name}](helm/values/{path.name})" in (DEPLOY / "README.md").read_text()
    # With less CPU an agent on a full node is restarted before its first tick: docs/decisions.md.
    assert release(path).agent["resources"]["requests"]["cpu"] == "100m"


def test_open_shift_permits_what_the_agent_asks_for_and_nothing_else() -> None:
    found = of("openshift")
    (constraints,) = found.of_kind("SecurityContextConstraints")
    spec, agent = found.pod["spec"], found.agent["securityContext"]
    account = f"system:serviceaccount:minerwatch:{spec['serviceAccountName']}"
    assert (constraints["users"], constraints["groups"]) == ([account], [])
    assert sorted(constraints["allowedCapabilities"]) == sorted(agent["capabilities"]["add"])
    for permission, asked in (
        ("allowHostPID", spec["hostPID"]),
        ("allowHostNetwork", spec["hostNetwork"]),
        ("allowHostPorts", "hostPort" in found.agent["ports"][0]),
        ("allowHostDirVolumePlugin", any("hostPath" in each for each in spec["volumes"])),
        ("allowHostIPC", False),
        ("allowPrivilegedContainer", agent["privileged"]),
        ("allowPrivilegeEscalation", agent["allowPrivilegeEscalation"]),
        ("readOnlyRootFilesystem", agent["readOnlyRootFilesystem"]),
    ):
        assert constraints[permission] is asked, permission
    kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
    assert kinds <= set(constraints["volumes"])
    assert agent["seLinuxOptions"] == {"type": "spc_t"}
    (binding,) = (each for each in found.of_kind("RoleBinding") if "nonroot" in str(each))
    (test,) = found.of_kind("Pod")
    names = {subject["name"] for subject in binding["subjects"]}
    assert names == {test["spec"]["serviceAccountName"], "minerwatch-release"}

    pod_network = Release(
        rendered("-f", str(_SETS["openshift"]), "--set=config.probes.execs=false")
    )
    (constraints,) = pod_network.of_kind("SecurityContextConstraints")
    assert constraints["allowHostNetwork"] is constraints["allowHostPorts"] is False
    assert "NET_ADMIN" not in constraints["allowedCapabilities"]


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("cull-enforce", "admissionpolicy"),
        ("everything", "oncall"),
        ("default", "viewer"),
        ("openshift", "securitycontextconstraints"),
    ],
)
def test_what_permits_and_forbids_is_read_before_it_changes(
    golden: Callable[[str, str], None], name: str, template: str
) -> None:
    done = subprocess.run(
        [
            *(helm(), "template", "minerwatch", str(CHART), "--namespace=minerwatch"),
            *("-f", str(_SETS[name]), f"--kube-version={NEWEST}"),
            *("--show-only", f"templates/{template}.yaml"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(r"(?m)^ +(?:app\.kubernetes\.io/version|helm\.sh/chart): .*\n", "", done.stdout)
    golden(f"chart-{template}.yaml", text)


def test_the_chart_says_which_versions_it_is_for() -> None:
    said = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert said == f">={OLDEST}-0"
    assert "incompatible with Kubernetes v1.26" in refusal("--kube-version=1.26.0")


@_each_set
def test_only_capabilities_of_what_is_on(name: str) -> None:
    context = of(name).agent["securityContext"]
    assert set(context["capabilities"].get("add", ())) == CAPABILITIES[name]
    assert context["capabilities"]["drop"] == ["ALL"]


@_each_set
def test_only_permissions_of_what_is_on(name: str) -> None:
    assert of(name).permissions() == PERMISSIONS[name]


@_each_set
def test_nothing_is_privileged_nor_writable(name: str) -> None:
    context = of(name).agent["securityContext"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    spec = of(name).pod["spec"]
    assert spec["hostPID"] is True
    assert "hostIPC" not in spec
    assert len(spec["containers"]) == 1
    assert not spec.get("initContainers")
    assert {volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume} <= {
        "/sys/fs/cgroup",
        "/var/lib/minerwatch",
    }
    writable = {
        mount["mountPath"] for mount in of(name).agent["volumeMounts"] if not mount.get("readOnly")
    }
    culls = "cull" in name or name == "everything"
    assert writable - {"/extra"} == {"/run/minerwatch"} | (
        {"/var/lib/minerwatch"} if culls else set()
    )


@_each_set
def test_the_agent_takes_its_configuration(name: str) -> None:
    config = config_of(of(name).config)
    assert isinstance(config, Config)
    assert config.culling.mode == of(name).config["culling"]["mode"]
    folders = {mount["mountPath"] for mount in of(name).agent["volumeMounts"]}
    assert set(map(str, (*config.rules, *config.private_rules))) <= folders


def test_a_pod_network_of_its_own_without_exec_events() -> None:
    with_events, without = of("default"), of("no-exec-events")
    assert with_events.pod["spec"]["hostNetwork"] is True
    assert with_events.pod["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert not with_events.of_kind("NetworkPolicy")  # none applies to the host's network
    assert "hostNetwork" not in without.pod["spec"]
    assert "hostPort" not in without.agent["ports"][0]
    (policy,) = without.of_kind("NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    allowed = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    assert {"app.kubernetes.io/name": "prometheus"} in [
        peer["podSelector"]["matchLabels"] for peer in allowed
    ]
    assert all(rule["ports"] for rule in policy["spec"]["egress"])


def test_first_words_need_the_hosts_network_and_net_raw() -> None:
    release = Release(
        rendered("--set=config.probes.first_words=true", "--set=config.probes.execs=false")
    )
    assert release.pod["spec"]["hostNetwork"] is True
    added = set(release.agent["securityContext"]["capabilities"]["add"])
    assert added == _DEEP | {"NET_RAW"}
    assert "NET_RAW" not in of("default").agent["securityContext"]["capabilities"]["add"]


def test_first_words_are_refused_without_the_hosts_network() -> None:
    said = refusal("--set=config.probes.first_words=true", "--set=hostNetwork=false")
    assert "switch off config.probes.first_words" in said


def test_nobody_else_is_let_in_where_no_peer_is_named() -> None:
    (policy,) = Release(
        rendered("--set=config.probes.execs=false", "--set-json=networkPolicy.from=[]")
    ).of_kind("NetworkPolicy")
    ((peer,),) = (rule["from"] for rule in policy["spec"]["ingress"])
    (pod,) = of("no-exec-events").of_kind("Pod")  # helm test's
    assert peer["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_an_agent_that_acts_knows_its_own_pod_and_keeps_its_memory() -> None:
    for name in ("cull-dry-run", "cull-enforce", "everything"):
        found = of(name)
        told = {each["name"] for each in found.agent["env"]}
        assert {"MINERWATCH_POD_NAMESPACE", "MINERWATCH_POD_UID"} <= told
        log = Path(config_of(found.config).culling.audit.log)
        assert str(log.parent) in {each["mountPath"] for each in found.agent["volumeMounts"]}


def test_rules_stack_and_private_ones_come_last() -> None:
    found = of("private-rules")
    assert [Path(folder).name for folder in found.config["rules"]] == [
        "0-minerwatch-rules",
        "1-team-rules",
        "2-more-rules",
    ]
    assert [Path(folder).name for folder in found.config["private_rules"]] == ["3-private-rules"]
    volumes = {volume["name"]: volume for volume in found.pod["spec"]["volumes"]}
    assert volumes["rules-0"]["configMap"]["items"] == [
        {"key": "ours.yml", "path": "ours.yml"},
        {"key": "lists.pool_hosts.txt", "path": "lists/pool_hosts.txt"},
    ]
    assert volumes["rules-2"]["configMap"]["items"][0]["path"] == "lists/pool_hosts.txt"
    assert volumes["rules-3"]["secret"] == {"secretName": "private-rules", "defaultMode": 0o400}
    assert found.named("ConfigMap", "minerwatch-rules")["data"]["ours.yml"].startswith("title:")


def test_a_changed_configuration_rolls_the_pods_out_and_changed_rules_do_not() -> None:
    before = Release(rendered())
    other_config = Release(rendered("--set=config.interval=30s"))
    other_rules = Release(rendered("--set=rules.lists.pool_hosts\\.txt=pool.example.org"))
    more_rules = Release(rendered("--set=rules.lists.pool_hosts\\.txt=pool.example.com"))
    assert other_config.pod != before.pod
    assert other_rules.pod == more_rules.pod
    sums = [
        each.named("DaemonSet")["metadata"]["annotations"]["checksum/rules"]
        for each in (before, other_rules, more_rules)
    ]
    assert len(set(sums)) == len(sums)


@_each_set
def test_every_object_has_the_recommended_labels(name: str) -> None:
    for manifest in in_a_cluster(name).manifests:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "minerwatch"
        assert labels["app.kubernetes.io/name"] in _NAMES
        assert labels["app.kubernetes.io/part-of"] == "minerwatch"
        if name == "everything":
            assert labels["team"] == "sre"


def test_the_commands_take_only_agents_for_agents() -> None:
    """`minerwatch top` looks for this label, and asks whoever bears it."""
    key, _, value = DEFAULT_SELECTOR.partition("=")
    bearers = [
        manifest["kind"]
        for manifest in of("everything").manifests
        if manifest["kind"] in ("DaemonSet", "Pod") and manifest["metadata"]["labels"][key] == value
    ]
    assert bearers == ["DaemonSet"]


def test_people_on_call_may_read_the_agents_and_by_choice_exec() -> None:
    options = ("-f", str(_SETS["everything"]))
    assert of("everything").permissions("sre") == ON_CALL
    assert of("default").permissions("sre") == set()
    assert of("default").named("Role", "minerwatch-on-call")
    assert (
        Release(rendered(*options, "--set=onCall.exec=true")).permissions("sre") == ON_CALL | _EXEC
    )
    by_exec_only = Release(rendered(*options, f"--set={_OPEN}"))
    assert by_exec_only.permissions("sre") == _EXEC | {
        each for each in ON_CALL if "proxy" not in each and "token" not in each
    }
    assert not [each for each in by_exec_only.manifests if "-view" in each["metadata"]["name"]]


@_each_set
def test_the_account_whose_tokens_they_make_reads_reports_and_nothing_else(name: str) -> None:
    accounts = [each["metadata"]["name"] for each in of(name).of_kind("ServiceAccount")]
    if name == "minimal":  # knows no cluster that could review tokens
        assert "minerwatch-view" not in accounts
        return
    assert of(name).permissions("minerwatch-view") == {f"get {REPORT_PATH}"}
    account = of(name).named("ServiceAccount", "minerwatch-view")
    assert account["automountServiceAccountToken"] is False
    names = {port["name"] for port in of(name).agent["ports"]}
    assert names == {"metrics"}, "by which clients know the port"


def test_the_account_is_named_as_clients_expect() -> None:
    named = Release(rendered("--set=fullnameOverride=watch", "--set=onCall.exec=true"))
    assert named.named("DaemonSet", "watch")
    assert named.named("ServiceAccount", "watch-view")


def test_app_armor_is_said_as_each_version_understands_it() -> None:
    old, new = release(_SETS["default"], OLDEST), of("default")
    key = "container.apparmor.security.beta.kubernetes.io/agent"
    assert old.pod["metadata"]["annotations"][key] == "unconfined"
    assert "appArmorProfile" not in old.agent["securityContext"]
    assert key not in new.pod["metadata"]["annotations"]
    assert new.agent["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
    assert of("everything").agent["securityContext"]["appArmorProfile"] == {
        "type": "Localhost",
        "localhostProfile": "minerwatch",
    }


def test_the_scanner_of_content_fits_beside_the_agent() -> None:
    """What it may have at the most (RLIMIT_DATA), and the agent's budget, in the pod's limit."""
    limit_mib = int(of("default").agent["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert limit_mib >= (scanning.MAX_DATA_BYTES >> 20) + _AGENT_MIB


def test_helm_test_plants_a_canary_that_may_read_metrics_and_nothing_else() -> None:
    (pod,) = of("default").of_kind("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["args"][0] == "canary"
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert of("default").permissions(pod["spec"]["serviceAccountName"]) == {"get /metrics"}
    service = of("default").named("Service")
    assert service["spec"]["internalTrafficPolicy"] == "Local"  # the agent of its own node
    port = service["spec"]["ports"][0]["port"]
    url = f"https://{service['metadata']['name']}.minerwatch.svc:{port}/metrics"
    assert f"--metrics={url}" in container["args"]


@pytest.mark.parametrize("name", ["cull-dry-run", "cull-enforce", "everything"])
def test_before_an_uninstallation_the_agents_let_go_what_they_hold(name: str) -> None:
    assert not of(name).of_kind("Job"), "applied as it is printed it would be run at once"
    found = in_a_cluster(name)
    (job,) = found.of_kind("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][:3] == ["release", "--all", "--forget"]
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert found.permissions(pod["serviceAccountName"]) == {
        f"{verb} {what} in minerwatch"
        for verb, what in (
            ("get", "pods"),
            ("list", "pods"),
            ("create", "pods/exec"),
            ("get", "pods/exec"),
            ("get", "daemonsets.apps"),
        )
    }
    for kind in ("Job", "ServiceAccount", "Role", "RoleBinding"):
        for manifest in found.of_kind(kind):
            if manifest["metadata"]["name"].startswith("minerwatch-release"):
                policy = manifest["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
                assert "hook-succeeded" in policy  # it is there for that time only
    command = CliRunner().invoke(cli, [*container["args"], "--kubeconfig", "/none"])
    assert "/none: there is no such file" in command.stderr, "the command has these options"
    # Its pods are not taken for agents.
    key, _, value = DEFAULT_SELECTOR.partition("=")
    assert job["spec"]["template"]["metadata"]["labels"][key] != value


def test_who_does_not_cull_has_nothing_to_release() -> None:
    assert not in_a_cluster("default").of_kind("Job")
    assert not in_a_cluster("minimal").of_kind("Job")
    for option in ("--set=releaseHook.enabled=false", "--set=rbac.create=false"):
        assert not in_a_cluster("cull-enforce", option).of_kind("Job")


@pytest.mark.parametrize(
    ("installed", "options", "hooks"),
    [
        ("cull-enforce", (), {"pre-upgrade"}),
        ("cull-dry-run", (), {"pre-upgrade"}),
        ("default", (), set()),
        (None, (), set()),
        ("cull-enforce", ("-f", str(_SETS["cull-enforce"])), {"pre-delete"}),
        ("cull-enforce", ("-f", str(_SETS["cull-dry-run"])), {"pre-upgrade", "pre-delete"}),
        ("cull-dry-run", ("-f", str(_SETS["cull-enforce"])), {"pre-delete"}),
        ("cull-enforce", ("--set=releaseHook.enabled=false",), set()),
    ],
)
def test_before_culling_is_switched_off_the_agents_let_go_what_they_hold(
    installed: str | None, options: tuple[str, ...], hooks: set[str], tmp_path: Path
) -> None:
    """cull-dry-run has no stop on its ladder, so the new agents could let nothing go on."""
    objects = [of(installed).named("DaemonSet")] if installed else []
    with Upgraded(objects) as cluster:
        kubeconfig = write_kubeconfig(tmp_path / "config", cluster.url, "first")
        asked = ("--dry-run=server", "--disable-openapi-validation", f"--kubeconfig={kubeconfig}")
        found = Release(rendered(*options, *asked)).of_kind("Job")
    assert {job["metadata"]["annotations"]["helm.sh/hook"] for job in found} == hooks
    for job in found:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        is_uninstall = job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
        assert ("--forget" in container["args"]) is is_uninstall
        assert ("--retire" in container["args"]) is not is_uninstall


_OPEN = "config.authorize_metrics=false"


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (("config.interval=10s",), "HTTPS"),
        ((_OPEN,), "HTTP"),
        ((_OPEN, "config.tls.certificate=/etc/minerwatch/tls/tls.pem"), "HTTPS"),
        (("config.kubernetes.enabled=false",), "HTTP"),
    ],
)
def test_whoever_asks_the_port_speaks_as_it_does(values: tuple[str, ...], scheme: str) -> None:
    objects = Release(rendered(f"--set={','.join((*values, 'podMonitor.enabled=true'))}"))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert objects.agent[probe]["httpGet"]["scheme"] == scheme
    (endpoint,) = objects.named("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint.get("scheme", "http").upper() == scheme
    assert endpoint.get("tlsConfig") == (
        {"insecureSkipVerify": True} if scheme == "HTTPS" else None
    )
    (test,) = objects.of_kind("Pod") or (None,)
    if test is not None:
        (metrics,) = (each for each in _arguments(test) if each.startswith("--metrics="))
        assert metrics.startswith(f"--metrics={scheme.lower()}://")


def _arguments(pod: Manifest) -> list[str]:
    (container,) = pod["spec"]["containers"]
    found: list[str] = container["args"]
    return found


def test_prometheus_has_a_token_that_may_read_metrics_and_nothing_else() -> None:
    found = of("everything")
    (endpoint,) = found.named("PodMonitor")["spec"]["podMetricsEndpoints"]
    credentials = endpoint["authorization"]["credentials"]
    secret = found.named("Secret", credentials["name"])
    assert (secret["type"], credentials["key"]) == ("kubernetes.io/service-account-token", "token")
    account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    assert found.permissions(account) == {"get /metrics"}
    assert secret["metadata"]["namespace"] == found.named("PodMonitor")["metadata"]["namespace"]


def test_other_subjects_may_read_metrics_and_other_tokens_be_sent() -> None:
    prometheus = {"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}
    own = {"credentials": {"name": "ours", "key": "token"}}
    found = Release(
        rendered(
            *("--set=podMonitor.enabled=true", f"--set-json=scrapers={json.dumps([prometheus])}"),
            f"--set-json=podMonitor.authorization={json.dumps(own)}",
        )
    )
    assert found.permissions("prometheus") == {"get /metrics"}
    (endpoint,) = found.named("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == own
    assert not found.of_kind("Secret")


def test_who_switches_authorization_off_grants_nothing_for_it() -> None:
    found = Release(rendered(f"--set={_OPEN},podMonitor.enabled=true"))
    assert not _AUTHORIZE & found.permissions()
    assert not found.of_kind("Secret")
    (endpoint,) = found.named("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert "authorization" not in endpoint  # no token in the clear
    (pod,) = found.of_kind("Pod")
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not any(each.startswith("--token-file") for each in _arguments(pod))


def test_prometheus_keeps_the_names_of_what_is_flagged() -> None:
    monitor = of("everything").named("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in [port["name"] for port in of("everything").agent["ports"]]
    targets = {each["targetLabel"]: each for each in endpoint["relabelings"]}
    assert targets["instance"]["sourceLabels"] == ["__meta_kubernetes_pod_node_name"]
    assert targets["job"]["replacement"] == "minerwatch"  # what MinerwatchAgentDown asks for
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    assert labels <= of("everything").pod["metadata"]["labels"].items()


def test_promtool_takes_the_rules_as_the_operator_would_write_them(tmp_path: Path) -> None:
    rule = of("everything").named("PrometheusRule")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    subprocess.run(
        [program("promtool", "prometheus"), "check", "rules", str(tmp_path / "rules.yml")],
        check=True,
        capture_output=True,
    )


def test_what_counts_as_a_container_is_the_operators_choice() -> None:
    assert config_of(of("everything").config).node.units is False
    assert config_of(of("default").config).node.units is True


def test_the_rules_are_the_shipped_ones() -> None:
    shipped = _by_name(yaml.load(RULES.read_text(), yaml.CSafeLoader)["groups"])
    chart = _by_name(of("everything").named("PrometheusRule")["spec"]["groups"])
    assert shipped.keys() - chart.keys() == {"MinerwatchActed"}
    for name, rule in chart.items():
        expected = shipped[name]
        if "alert" in rule:
            expected["labels"]["team"] = "security"
            url = expected["annotations"]["runbook_url"]
            moved = f"https://wiki.example.org/minerwatch#{url.partition('#')[2]}"
            expected["annotations"]["runbook_url"] = moved
        assert rule == expected


def test_the_dashboard_is_the_shipped_one() -> None:
    dashboard = of("everything").named("ConfigMap", "minerwatch-dashboard")
    assert dashboard["metadata"]["namespace"] == "monitoring"
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    shipped = json.loads((DEPLOY / "grafana" / "minerwatch.json").read_text())
    assert json.loads(dashboard["data"]["minerwatch.json"]) == shipped


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set=config.probes.exec=false",), "'exec' not allowed"),
        (("--set=config.interval=soon",), "config/interval"),
        (("--set=config.culling.mode=on",), "config/culling/mode"),
        (("--set-json=config.culling.ladder=[{}]",), "'actions'"),
        (("--set=config.listen=:80",), "'listen' not allowed"),
        (("--set=config.node.proc=/host",), "'proc' not allowed"),
        (("--set=privileged=true",), "'privileged' not allowed"),
        (("--set=image.digest=latest",), "image/digest"),
        (("--set=rules.inline.x=y",), "rules/inline"),
        (("--set=readProcesses=false",), "switch off config.probes.connections"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(options: tuple[str, ...], words: str) -> None:
    assert words in refusal(*options)


def test_every_value_has_a_schema_and_says_what_it_is() -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert values.keys() == schema["properties"].keys() - {"global"}
    _has_schema(values, schema["properties"], "")


def test_the_plain_manifests_are_the_chart_rendered() -> None:
    stale = [
        str(path)
        for path, text in manifests(helm()).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: make generate"


def test_plain_manifests_need_nothing_else(tmp_path: Path) -> None:
    for path in MANIFESTS.glob("*.yaml"):
        for manifest in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            if manifest["kind"] not in _OF_OPERATOR:
                check_as_the_api_server(manifest, NEWEST)
    default: list[Manifest] = list(
        yaml.load_all((MANIFESTS / "minerwatch.yaml").read_text(), yaml.CSafeLoader)
    )
    made = {(each["kind"], each["metadata"]["name"]) for each in default}
    assert ("Namespace", "minerwatch") in made
    assert {each["kind"] for each in default} >= {"DaemonSet", "ServiceAccount", "ClusterRole"}


def test_the_notes_tell_the_next_three_commands() -> None:
    notes = subprocess.run(
        [
            *(helm(), "install", "minerwatch", str(CHART), "--namespace=minerwatch"),
            *("--dry-run=client", "--set=config.culling.mode=enforce"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.partition("NOTES:")[2]
    for command in (
        "rollout status daemonset/minerwatch",
        "helm -n minerwatch test minerwatch",
        "minerwatch top --once",
        "minerwatch explain NAMESPACE/POD",
        f"pip install git+{names()['repository']})",  # no release is on PyPI yet
    ):
        assert command in notes
    assert "nothing is ever touched" in notes  # culling is on, for no namespace
    assert not re.search(r"<no value>|%!", notes)


def _by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]
    }


def _has_schema(values: dict[str, Any], properties: dict[str, Any], path: str) -> None:
    for key, value in values.items():
        assert key in properties, f"{path}{key}"
        below = properties[key].get("properties")
        if isinstance(value, dict) and below:
            _has_schema(value, below, f"{path}{key}.")


def test_the_hubs_token_is_mounted_and_configured() -> None:
    hub = of("cull-hub")
    config = config_of(hub.config)
    assert isinstance(config, Config)
    assert config.culling.hub.token_file == "/etc/minerwatch/hub/token"
    (volume,) = [v for v in hub.pod["spec"]["volumes"] if v["name"] == "hub-token"]
    assert volume["secret"]["secretName"] == "minerwatch-hub"
    assert volume["secret"]["defaultMode"] == 0o400
    off = Release(rendered("-f", str(_SETS["cull-hub"]), "--set=config.culling.mode=off"))
    assert config_of(off.config).culling.hub.token_file, "a configuration that is valid"
    (policy,) = hub.of_kind("NetworkPolicy")
    assert {"port": 8081, "protocol": "TCP"} in [
        port for rule in policy["spec"]["egress"] for port in rule["ports"]
    ]


def test_the_agents_way_to_the_hub_can_be_narrowed() -> None:
    def peers(*options: str) -> Any:
        hub = Release(rendered("-f", str(_SETS["cull-hub"]), *options))
        (policy,) = hub.of_kind("NetworkPolicy")
        (rule,) = [
            rule
            for rule in policy["spec"]["egress"]
            if {"port": 8081, "protocol": "TCP"} in rule["ports"]
        ]
        return rule.get("to")

    assert peers() is None
    hub = [{"podSelector": {"matchLabels": {"component": "hub"}}}]
    assert peers("--set=hub.to[0].podSelector.matchLabels.component=hub") == hub
