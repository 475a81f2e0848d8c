"""Pods, containers, processes, findings and verdicts for tests: plain ones, with changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml

from minerwatch.config.reader import load
from minerwatch.config.schema import CircuitBreaker, Config, CullBudget, Culling
from minerwatch.detection.judge import score_of
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.rule import Rule, SkippedRule, rule_of
from minerwatch.detection.sigma.yaml_document import read_document
from minerwatch.model import (
    Container,
    ContainerKind,
    Finding,
    Level,
    Maturity,
    Observation,
    Pod,
    PodContainer,
    PodContainerKind,
    Process,
    ProcessId,
    ProcessLoad,
    Signal,
    Verdict,
)


def config_of(tree: object) -> Config:
    """The configuration of a file with this content. Raises ConfigError."""
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".yml") as file:
        yaml.safe_dump(tree, file, allow_unicode=True)
        file.flush()
        return load(Path(file.name))


def parse_rule(path: Path, text: str, lists: Lists) -> Rule | SkippedRule:
    """The rule in ``text``; raises RuleError."""
    return rule_of(read_document(path, text), lists)


def make_pod(name: str = "jupyter-eve", uid: str = "uid-1", **changes: Any) -> Pod:
    """A running pod, without labels, owner or containers."""
    plain = Pod(
        uid=uid,
        namespace="binder",
        name=name,
        node="node-1",
        created_unix_s=0.0,
        phase="Running",
        priority_class="",
        service_account="default",
        labels={},
        annotations={},
        environment={},
        owners=(),
        containers=(),
        mirror_uid="",
        is_ending=False,
    )
    return replace(plain, **changes)


def make_pod_container(
    container_id: str = "c1", name: str = "notebook", **changes: Any
) -> PodContainer:
    """A pod's main container."""
    kind = PodContainerKind.MAIN
    return replace(PodContainer(container_id, name, "image:1", "", kind), **changes)


def make_container(container_id: str = "c1", pod_uid: str = "uid-1", **changes: Any) -> Container:
    """A pod's container, as the node sees it."""
    plain = Container(
        cgroup=f"/kubepods/pod{pod_uid}/{container_id}",
        cgroup_inode=7,
        kind=ContainerKind.POD,
        container_id=container_id,
        runtime="containerd",
        pod_uid=pod_uid,
    )
    return replace(plain, **changes)


def make_process(pid: int = 7, start_ticks: int | None = None, **changes: Any) -> Process:
    """A miner's process; its start time is its pid unless given."""
    plain = Process(
        id=ProcessId(pid, pid if start_ticks is None else start_ticks),
        parent_pid=1,
        comm="xmrig",
        command_line="./xmrig -o pool",
        image="/tmp/xmrig",
        current_directory="/",
        uid=0,
        user="root",
        exe_deleted=False,
        exe_in_memory=False,
        command_line_hidden=False,
        kernel_thread=False,
        program=hash((0, 0, 0)),
    )
    return replace(plain, **changes)


def make_load(pid: int = 7, cpu_cores: float = 1.0, **changes: Any) -> ProcessLoad:
    """A miner's process on one core."""
    return ProcessLoad(make_process(pid, **changes), cpu_cores)


def make_finding(
    signal: Signal = Signal.IDENTITY,
    score: float = 88.0,
    *,
    rule: str = "rule-1",
    **changes: Any,
) -> Finding:
    """A stable rule's finding."""
    title, process = f"Title of {rule}", ProcessId(7, 7)
    plain = Finding(rule, title, signal, score, Maturity.STABLE, 0.0, process, ())
    return replace(plain, **changes)


def make_verdict(container: Container, *findings: Finding, **changes: Any) -> Verdict:
    """A verdict with the score and the level of its findings."""
    score = score_of(findings)
    return replace(Verdict(container.key, 0.0, score, Level.of(score), 0.0, findings), **changes)


def make_observation(
    container: Container, verdict: Verdict | None = None, *loads: ProcessLoad, **changes: Any
) -> Observation:
    """A container on one core, with its processes."""
    judged = verdict or make_verdict(container)
    plain = Observation(container, judged.at_s, 1.0, 3600.0, None, None, judged, len(loads), loads)
    return replace(plain, **changes)


def make_limits(per_node: int, per_cluster: int, cluster_owners: int = 10) -> Callable[[], Culling]:
    """Settings of the culling budget, as ``LeaseBudget`` reads them."""
    settings = Culling(
        budget=CullBudget(per_node=per_node, per_cluster=per_cluster),
        circuit_breaker=CircuitBreaker(cluster_owners=cluster_owners),
    )
    return lambda: settings
