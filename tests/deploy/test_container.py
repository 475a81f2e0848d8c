"""The DaemonSet's command, from the wheel alone, with what the chart grants and nothing else."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import socket
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from minerwatch.api.types import FindingStatus
from tests.conftest import TOP, CgroupFolders, Programs, cgroup_root, container_id
from tests.deploy.chart import VALUES, Release, rendered
from tests.deploy.container import AgentContainer, Root, built_root, needs_runc, wheel_root
from tests.deploy.services import until
from tests.waiting import PATIENCE_S

OWN_PROFILE = Path(__file__).parents[2] / "deploy/seccomp/minerwatch.json"
_MINER = container_id("a7")
_RULE = """\
title: Connected to the test
id: 5b2f3c62-8c0c-4a6e-9df4-2a5f1d7f0c33
status: experimental
description: A connection of the target of a test.
author: minerwatch contributors
date: 2026-11-25
logsource: {{product: linux, category: network_connection}}
detection:
  selection:
    DestinationPort: '{port}'
  condition: selection
level: informational
minerwatch: {{signal: network}}
"""

WITHOUT = {
    "SYS_PTRACE": ("probe is off", {"probe": "mappings"}, "SYS_PTRACE"),
    "DAC_READ_SEARCH": ("cannot see everything", {}, "DAC_READ_SEARCH"),
    "BPF": ("probe is off", {"probe": "tasks"}, "BPF"),
    "PERFMON": ("probe is off", {"probe": "tasks"}, "PERFMON"),
}
"""What the agent says, and of what, where it lacks one of the chart's capabilities."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    needs_runc()
    return built_root() or wheel_root(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def pool() -> Iterator[socket.socket]:
    """Whom the target is connected to: nobody who mines."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def release(pool: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The chart's default values, but quicker, and without a cluster."""
    return _rendered(pool, tmp_path_factory.mktemp("rules"))


@pytest.fixture(scope="module")
def own_rule_only(pool: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The same, without the rules that are shipped: they take seconds to read."""
    folder = tmp_path_factory.mktemp("rules")
    return _rendered(pool, folder, "--set=config.built_in_rules=false")


def _rendered(pool: socket.socket, folder: Path, *options: str) -> Release:
    (default,) = (path for path in VALUES if path.stem == "default")
    rule = folder / "connected.yml"
    rule.write_text(_RULE.format(port=pool.getsockname()[1]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Release(
        rendered(
            *("-f", str(default), f"--set-file=rules.inline.connected\\.yml={rule}"),
            *(f"--set=port={port}", "--set=config.interval=500ms"),
            *("--set=config.examination.cpu_per_look=1s", "--set=config.kubernetes.enabled=false"),
            *options,
        )
    )


@pytest.fixture  # of one test: it keeps a CPU busy
def miner(pool: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The pid of a target of another user, whose executable nobody else may read."""
    if platform.machine() != "x86_64" or importlib.util.find_spec("cyrx") is None:
        pytest.skip("needs cyrx, which hashes with RandomX: pip install cyrx==0.3.0 (x86-64)")
    try:
        groups = cgroup_root()
    except StopIteration:
        pytest.skip("no cgroup hierarchy is mounted on /sys/fs/cgroup: run it where one is")
    folder = tmp_path_factory.mktemp("miner")
    program = folder / "train"
    shutil.copy(os.path.realpath(sys.executable), program)
    os.chown(program, 65534, 65534)
    program.chmod(0o700)
    target = Path(__file__).parents[1] / "targets" / "hidden_miner.py"
    with ExitStack() as stack:
        cgroups = stack.enter_context(closing(CgroupFolders(groups)))
        programs = stack.enter_context(closing(Programs(folder)))
        process = programs.run(
            [str(program), str(target), str(pool.getsockname()[1])],
            env={"PYTHONHOME": sys.base_prefix, "PYTHONPATH": sysconfig.get_path("purelib")},
        )
        cgroups.put(process, cgroups.make(f"{TOP}/docker/{_MINER}"))
        pool.settimeout(PATIENCE_S)
        connected, _ = pool.accept()
        stack.enter_context(closing(connected))
        until(lambda: Path(f"/proc/{process.pid}/mem").stat().st_uid == 65534)
        yield process.pid


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pod")


@pytest.mark.quiet  # content is scanned at the lowest priority
def test_every_probe_works_with_what_the_chart_grants(
    root: Root, release: Release, miner: int, folder: Path
) -> None:
    with closing(AgentContainer(folder, root, release)) as agent:
        agent.line("watching", node="node-1")
        suspects = ("connections", "mappings", "content", "drift", "rounding")
        for probe in ("execs", "tasks", "executed_code", *suspects, "canary"):
            agent.line("probe is on", probe=probe)
        agent.until(
            lambda: (
                agent.metric('minerwatch_canary_last_seen_timestamp_seconds{planted="agent"}') > 0
            )
        )
        agent.until(lambda: _seen(agent) >= _WANTED)
        assert agent.metric("minerwatch_exec_events_total") > 0
        for probe in ("connections", "content", "mappings", "tasks"):
            assert not [each for each in agent.failures(probe) if each not in _refused(probe)]
        assert not [line for line in agent.lines() if line["event"] == "cannot see everything"]
        limit = release.agent["resources"]["limits"]["memory"].removesuffix("Mi")
        assert agent.peak_mib() < int(limit)
        asked = agent.execute(root.program, "explain", str(miner))
        assert asked.returncode == 0, asked.stderr
        assert "RoundingModes" in asked.stdout


def _refused(probe: str) -> Iterator[str]:
    """Yield what is counted where the kernel refuses even root the files of some process."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for link in folder.iterdir():
                link.readlink()
        except PermissionError:
            for reason in ("permission", "unreadable"):
                failure = f'minerwatch_probe_failures_total{{probe="{probe}",reason="{reason}"}}'
                yield from (f"{failure} {count}.0" for count in range(1, 100))
            return
        except OSError:
            continue


@pytest.mark.parametrize("capability", WITHOUT)
def test_without_a_capability_it_says_which_and_goes_on(
    root: Root, own_rule_only: Release, folder: Path, capability: str
) -> None:
    event, fields, words = WITHOUT[capability]
    with closing(AgentContainer(folder, root, own_rule_only, without=[capability])) as agent:
        assert words in agent.line(event, **fields)["reason"]
        _goes_on(agent)


def test_without_net_admin_exec_events_are_there_or_it_says_why_not(
    root: Root, own_rule_only: Release, folder: Path
) -> None:
    """The kernel asks for it before Linux 6.6."""
    with closing(AgentContainer(folder, root, own_rule_only, without=["NET_ADMIN"])) as agent:
        agent.line("watching")
        _goes_on(agent)
        said = next(line for line in agent.lines() if line.get("probe") == "execs")
        assert said["event"] == "probe is on" or "NET_ADMIN" in said["reason"]


def test_where_seccomp_forbids_bpf_it_says_so_and_goes_on(
    root: Root, own_rule_only: Release, folder: Path
) -> None:
    """As older runtimes do, whatever capabilities there are."""
    with closing(AgentContainer(folder, root, own_rule_only, permitted=())) as agent:
        assert "seccomp" in agent.line("probe is off", probe="tasks")["reason"]
        _goes_on(agent)


def test_where_seccomp_forbids_perf_events_only_it_samples_by_bpf(
    root: Root, own_rule_only: Release, folder: Path
) -> None:
    with closing(AgentContainer(folder, root, own_rule_only, permitted=["CAP_BPF"])) as agent:
        agent.line("probe is on", probe="executed_code", source="kernel entries")
        _goes_on(agent)
        spots = (
            line["reason"] for line in agent.lines() if line["event"] == "cannot see everything"
        )
        assert any(each.startswith("executed code") and "seccomp" in each for each in spots)


def test_the_profile_of_our_own_permits_all_that_the_agent_asks_for(
    root: Root, own_rule_only: Release, folder: Path
) -> None:
    """For runtimes whose own profile forbids bpf and perf_event_open."""
    with closing(AgentContainer(folder, root, own_rule_only, profile=OWN_PROFILE)) as agent:
        agent.line("probe is on", probe="tasks")
        agent.line("probe is on", probe="executed_code", source="perf events, code copied by BPF")
        _goes_on(agent)


def test_the_profile_of_our_own_forbids_what_the_agent_never_needs(
    root: Root, own_rule_only: Release, folder: Path
) -> None:
    calls = "setns(0, 0)", "unshare(0)", "personality(0)"
    with closing(AgentContainer(folder, root, own_rule_only, profile=OWN_PROFILE)) as agent:
        agent.line("watching")
        for call in calls:
            program = f"import ctypes; l = ctypes.CDLL(None, use_errno=True); l.{call}; "
            program += "print(ctypes.get_errno())"
            done = agent.execute(f"{sys.base_prefix}/bin/python3", "-c", program)
            assert done.stdout.strip() == str(errno.EPERM), (call, done.stdout, done.stderr)


def test_only_mounted_folders_can_be_written(
    root: Root, own_rule_only: Release, folder: Path
) -> None:
    with closing(AgentContainer(folder, root, own_rule_only)) as agent:
        agent.line("watching")
        script = (
            "import pathlib, sys\n"
            "def is_shut(path):\n"
            "    try: pathlib.Path(path).write_text('x')\n"
            "    except OSError: return True\n"
            "paths = ['/x', '/etc/minerwatch/config/x', '/sys/fs/cgroup/x', '/proc/sys/kernel/x']\n"
            "sys.exit(not all(map(is_shut, paths)))\n"
        )
        python = str(Path(root.program).with_name("python3"))
        assert agent.execute(python, "-c", script).returncode == 0


_WANTED = {"RoundingModes", "JitMiB", "ContentMatches", "DestinationPort"}
"""A fact of each probe that looks at suspects."""


def _seen(agent: AgentContainer) -> set[str]:
    findings: tuple[FindingStatus, ...] = next(
        (each.findings for each in agent.statuses() if each.container_id == _MINER), ()
    )
    return {field for finding in findings for field in finding.evidence}


def _goes_on(agent: AgentContainer) -> None:
    ticks = "minerwatch_tick_duration_seconds_count"
    agent.until(lambda: agent.metric(ticks) >= 2)
    assert not [line for line in agent.lines() if line["event"] == "tick failed"]
