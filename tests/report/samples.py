"""Containers as a snapshot holds them: ordinary ones, and as hostile as their makers please."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import ContainerStatus, FindingStatus, ProcessStatus

NOW = datetime(2026, 11, 23, 2, 30, 0, tzinfo=UTC)
SINCE = "2026-11-23T02:17:45Z"
WALLET = "48" + "aBcDeFgHjK" * 9 + "xyz"
POOL = "stratum+tcp://pool.example.org:3333"
RULE = "00000000-0000-4000-8000-00000000000"

LINE_BREAKERS = "\n\r\t\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07",
    "two\nlines\r\nand\tmore",
    "\u202egnp.exe\u202c",
    "\x9b31mred\x00",
    "日本語の長い名前日本語の長い名前日本語の長い名前",
    "e" + "\u0301" * 50,
    'a"b\\c{d="e"} 1',
    "[bold red]markup[/] :smile:",
    "\u2028\u2029\u200b\ufeff\U000e0041",
)

hostile_text = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from("".join(HOSTILE) + LINE_BREAKERS)),
    st.sampled_from(HOSTILE),
    st.sampled_from(HOSTILE).map(lambda text: text * 300),
)


def finding(title: str = "XMRig command line", **changes: object) -> FindingStatus:
    plain = FindingStatus(
        rule=RULE + "1",
        title=title,
        signal="identity",
        score=88.0,
        status="stable",
        since=SINCE,
        pid=4711,
        evidence={"CommandLine": f"./a --donate-level 1 -o {POOL} -u {WALLET}"},
        expected={"CommandLine": "contains '--donate-level'"},
    )
    return structs.replace(plain, **changes)


BUSY = finding(
    "Core busy steadily",
    rule=RULE + "2",
    signal="behaviour",
    score=29.0,
    status="test",
    evidence={"CpuCores": 1.98, "SaturatedThreads": 2, "ExeDeleted": True},
    expected={"CpuCores": ">= 0.9", "SaturatedThreads": ">= 1", "ExeDeleted": "is true"},
)

DELETED = finding(
    "Executable deleted from a temporary folder",
    rule=RULE + "4",
    signal="execution",
    score=60.0,
    evidence={"Image": "/tmp/.x/a", "ExeDeleted": True},
    expected={"Image": "starts with '/tmp/'", "ExeDeleted": "is true"},
)


def process(**changes: object) -> ProcessStatus:
    plain = ProcessStatus(
        pid=4711,
        parent_pid=4700,
        comm="a",
        command_line=f"./a --donate-level 1 -o {POOL} -u {WALLET}",
        image="/tmp/.x/a",
        user="jovyan",
        cpu_cores=1.98,
    )
    return structs.replace(plain, **changes)


def container(**changes: object) -> ContainerStatus:
    """A clear and idle systemd unit, but for ``changes``."""
    plain = ContainerStatus(
        node="node-7",
        namespace="",
        pod="",
        container="ssh.service",
        container_id="ssh.service",
        kind="unit",
        runtime="systemd",
        image="",
        cgroup="/system.slice/ssh.service",
        pod_uid="",
        cpu_cores=0.002,
        cpu_limit_cores=None,
        throttled_share=None,
        cpu_hours=0.31,
        score=0.0,
        level="clear",
        since="2026-11-20T01:00:00Z",
        signals={},
        owner="",
        process_count=3,
        findings=(),
        processes=(),
    )
    return structs.replace(plain, **changes)


MINER = container(
    namespace="binder",
    pod="jupyter-alice-2dnotebooks-2dx7f3k2",
    container="notebook",
    container_id="3f2a9c1b44de" + "0" * 52,
    kind="pod",
    runtime="containerd",
    image="registry.example.org/binder/alice-2dnotebooks:5d1f",
    cgroup="/kubepods/burstable/pod1b2c3d4e/3f2a9c1b44de" + "0" * 52,
    pod_uid="1b2c3d4e-0000-4000-8000-000000000001",
    cpu_cores=1.98,
    cpu_limit_cores=2.0,
    throttled_share=0.41,
    cpu_hours=23.4,
    score=95.2,
    level="confirmed",
    since=SINCE,
    signals={"execution": 60.0, "identity": 88.0},
    owner="alice",
    process_count=14,
    findings=(finding(), finding("Wallet address as a login", rule=RULE + "3"), DELETED),
    processes=(
        process(),
        process(pid=4700, parent_pid=1, comm="tini", command_line="tini -g -- start.sh", image=""),
        process(
            pid=4702, comm="python3", command_line="", image="/usr/bin/python3", cpu_cores=None
        ),
    ),
)
SCAN = structs.replace(
    MINER,
    pod="crawler-0",
    score=80.0,
    level="likely",
    abuse="scanning",
    abuses={"scanning": 80.0, "proxyware": 15.0},
    signals={"network": 80.0},
    cpu_cores=0.03,
    findings=(
        finding(
            "Most connections of the pod fail",
            signal="network",
            abuse="scanning",
            score=80.0,
            evidence={"ConnectsPerSecond": 210.0, "FailedConnectShare": 0.98},
            expected={"ConnectsPerSecond": ">= 5", "FailedConnectShare": ">= 0.8"},
        ),
        finding(
            "Tunnel or proxy by its name",
            abuse="proxyware",
            score=15.0,
            counted=False,
            evidence={"Image": "/tmp/chisel"},
            expected={"Image": "ends with '/chisel'"},
        ),
    ),
    processes=(process(comm="a", command_line="./a 198.51.100.0/24 -o out.txt:80"),),
)
"""A pod that scans and has a tunnel."""

LIKELY = container(
    container="9c1b44de3f2a",
    container_id="9c1b44de3f2a" + "1" * 52,
    kind="engine",
    runtime="docker",
    cgroup="/docker/9c1b44de3f2a" + "1" * 52,
    cpu_cores=0.97,
    cpu_hours=4.05,
    score=88.0,
    level="likely",
    since="2026-11-23T02:29:50Z",
    signals={"identity": 88.0},
    process_count=2,
    findings=(finding(),),
    processes=(process(),),
)
SUSPICIOUS = container(
    container="ci-runner.service",
    container_id="ci-runner.service",
    cgroup="/system.slice/ci-runner.service",
    cpu_cores=0.0,
    cpu_limit_cores=4.0,
    score=60.0,
    level="suspicious",
    since="2026-11-22T23:09:00Z",
    signals={"execution": 60.0},
    findings=(
        finding(
            "Executable deleted from a temporary folder",
            signal="execution",
            score=60.0,
            evidence={"ExeDeleted": True, "Image": "/tmp/build/cc1"},
            expected={"ExeDeleted": "is true", "Image": "starts with '/tmp/'"},
        ),
    ),
)
HELD = container(
    container="batch.service",
    container_id="batch.service",
    cgroup="/system.slice/batch.service",
    cpu_cores=0.5,
    level="likely",
    since=SINCE,
)
HOST = container(
    container="host", container_id="host", kind="host", runtime="kernel", cgroup="/",
    process_count=210, cpu_cores=0.05, cpu_hours=100.0,
)  # fmt: skip
SIMULATION = container(
    container="simulation.service",
    container_id="simulation.service",
    cgroup="/system.slice/simulation.service",
    cpu_cores=7.96,
    cpu_hours=1234.5,
    process_count=1,
    processes=(
        process(
            pid=900, parent_pid=1, comm="lmp", user="bob", cpu_cores=7.96,
            command_line="/usr/bin/lmp -in melt.in", image="/usr/bin/lmp",
        ),
    ),
)  # fmt: skip
HOSTILE_ONE = container(
    namespace=HOSTILE[1],
    pod=HOSTILE[2] + HOSTILE[4],
    container=HOSTILE[0],
    container_id="; rm -rf /\n",
    kind="pod",
    runtime=HOSTILE[3],
    image=HOSTILE[4],
    cgroup="/" + "/".join(HOSTILE),
    owner=HOSTILE[5],
    level="suspicious",
    score=60.0,
    signals={"identity": 60.0},
    since="yesterday\n",
    cpu_cores=0.4,
    findings=(
        finding(
            HOSTILE[7],
            score=60.0,
            since="\x1b[2J",
            evidence={"CommandLine": HOSTILE[1] + "x" * 1_000_000 + HOSTILE[0]},
            expected={"CommandLine": "contains '" + HOSTILE[0] + "'"},
        ),
    ),
    processes=(
        process(
            comm=HOSTILE[0],
            command_line=HOSTILE[0] + "y" * 1_000_000 + HOSTILE[1],
            image="/tmp/" + HOSTILE[2],
            user=HOSTILE[6],
        ),
    ),
)
NODE = (MINER, LIKELY, HELD, HOSTILE_ONE, SUSPICIOUS, SIMULATION, HOST, container())

figures = st.floats(min_value=0, max_value=1e6, allow_nan=False)
findings = st.builds(
    FindingStatus,
    rule=hostile_text,
    title=hostile_text,
    signal=st.sampled_from(["identity", "network", "compute", "content", "execution", "behaviour"]),
    score=st.floats(min_value=0, max_value=100),
    status=st.sampled_from(["experimental", "test", "stable"]),
    since=st.one_of(st.just(SINCE), hostile_text),
    pid=st.one_of(st.none(), st.integers(1, 1 << 22)),
    evidence=st.dictionaries(
        hostile_text, st.one_of(hostile_text, st.booleans(), st.integers(0, 1 << 53), figures)
    ),
    expected=st.dictionaries(hostile_text, hostile_text),
)
processes = st.builds(
    ProcessStatus,
    pid=st.integers(1, 1 << 22),
    parent_pid=st.integers(0, 1 << 22),
    comm=hostile_text,
    command_line=hostile_text,
    image=hostile_text,
    user=hostile_text,
    cpu_cores=st.one_of(st.none(), figures),
)
containers = st.builds(
    ContainerStatus,
    node=hostile_text,
    namespace=hostile_text,
    pod=hostile_text,
    container=hostile_text,
    container_id=hostile_text,
    kind=st.sampled_from(["pod", "engine", "unit", "host"]),
    runtime=hostile_text,
    image=hostile_text,
    cgroup=hostile_text,
    pod_uid=hostile_text,
    cpu_cores=figures,
    cpu_limit_cores=st.one_of(st.none(), figures),
    throttled_share=st.one_of(st.none(), st.floats(min_value=0, max_value=1)),
    cpu_hours=figures,
    score=st.floats(min_value=0, max_value=100),
    level=st.sampled_from(["clear", "suspicious", "likely", "confirmed"]),
    since=st.one_of(st.just(SINCE), hostile_text),
    signals=st.dictionaries(
        st.sampled_from(["identity", "behaviour", "execution"]),
        st.floats(min_value=0, max_value=100),
    ),
    owner=hostile_text,
    process_count=st.integers(0, 1 << 20),
    findings=st.lists(findings, max_size=3).map(tuple),
    processes=st.lists(processes, max_size=3).map(tuple),
    started=st.one_of(st.sampled_from(["", SINCE]), hostile_text),
)
