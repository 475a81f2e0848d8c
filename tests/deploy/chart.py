"""The chart as helm renders it, taken apart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from generate.__main__ import found_program
from generate.manifests import CHART

VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
EXAMPLES = sorted((CHART.parent / "values").glob("*.yaml"))
"""For operators, as deploy/README.md names them."""
HUBS = [path for path in EXAMPLES if path.stem in ("binderhub", "zero-to-jupyterhub")]
PLATFORMS = [path for path in EXAMPLES if path not in HUBS]
OLDEST, NEWEST = "1.27.0", "1.37.0"

Manifest = dict[str, Any]


def helm() -> str:
    """Skips the test where there is none."""
    found = found_program("helm")
    if found is None:
        pytest.skip("helm is missing: make helm")
    return found


@cache
def release(values: Path, kubernetes: str = NEWEST) -> Release:
    """The chart with the values of one file, for one version of Kubernetes."""
    return Release(rendered("-f", str(values), f"--kube-version={kubernetes}"))


def rendered(*options: str) -> tuple[Manifest, ...]:
    """What `helm template` makes; the assertion fails with what it complains about."""
    done = _template(*options)
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.load_all(done.stdout, _StrictLoader) if each)


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a mapping that has a key twice, as the API server's strict decoding does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        assert repeated == [], f"{node.start_mark}: keys twice: {repeated}"
        return super().construct_mapping(node, deep)


def check_as_the_api_server(manifest: Manifest, kubernetes: str) -> None:
    """Raise a ``ValidationError`` if a strict API server of that version refused the manifest."""
    import kubernetes_validate  # seconds, which workers without such tests need not spend
    from kubernetes_validate import utils

    if not hasattr(utils.schema_contents, "cache_info"):  # megabytes of JSON, read for each object
        utils.schema_contents = cache(utils.schema_contents)
    kubernetes_validate.validate(manifest, kubernetes, strict=True)


def refusal(*options: str) -> str:
    """What helm says of values that it must not take."""
    done = _template(*options)
    assert done.returncode != 0
    return done.stderr


@cache  # each takes a tenth of a second of CPU time
def _template(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm(), "template", "minerwatch", str(CHART), "--namespace=minerwatch", *options],
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Release:
    """All objects of one rendering."""

    manifests: tuple[Manifest, ...]

    def of_kind(self, kind: str) -> list[Manifest]:
        return [each for each in self.manifests if each["kind"] == kind]

    def named(self, kind: str, name: str = "minerwatch") -> Manifest:
        (found,) = (each for each in self.of_kind(kind) if each["metadata"]["name"] == name)
        return found

    @property
    def pod(self) -> Manifest:
        found: Manifest = self.named("DaemonSet")["spec"]["template"]
        return found

    @property
    def agent(self) -> Manifest:
        (found,) = self.pod["spec"]["containers"]
        assert isinstance(found, dict)
        return found

    @property
    def config(self) -> Manifest:
        """The agent's configuration file."""
        found: Manifest = yaml.safe_load(self.named("ConfigMap")["data"]["config.yaml"])
        return found

    def permissions(self, subject: str = "minerwatch") -> set[str]:
        """What RBAC grants to ``subject``: ``verb resource``, and where, if not everywhere."""
        return set(self._permissions(subject))

    def _permissions(self, subject: str) -> Iterator[str]:
        for binding in (*self.of_kind("ClusterRoleBinding"), *self.of_kind("RoleBinding")):
            if all(each["name"] != subject for each in binding["subjects"]):
                continue
            role = self.named(binding["roleRef"]["kind"], binding["roleRef"]["name"])
            namespace = binding["metadata"].get("namespace")
            where = f" in {namespace}" if namespace else ""
            for rule in role["rules"]:
                for permission in _granted(rule):
                    yield permission + where


def _granted(rule: Mapping[str, list[str]]) -> Iterator[str]:
    for path in rule.get("nonResourceURLs", ()):
        for verb in rule["verbs"]:
            yield f"{verb} {path}"
    for group in rule.get("apiGroups", ()):
        for resource in rule["resources"]:
            full = f"{resource}.{group}" if group else resource
            for name in rule.get("resourceNames", [""]):
                for verb in rule["verbs"]:
                    yield f"{verb} {full}" + (f"/{name}" if name else "")
