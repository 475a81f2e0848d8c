"""Login services under load, with a session to a database outside: the whole verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.logins import (
    ACCEPTS,
    CONFIG,
    HAS_SESSION,
    SERVICES,
    WORKERS,
    can_run,
    has_seen,
    service,
    watched,
    write_rules,
)
from minerwatch.agent.monitor import open_node
from minerwatch.authoring.recordings import Recording, replayed
from minerwatch.model import Facts, Level, Observation
from tests import shipped
from tests.conftest import CgroupFolders, needs_root
from tests.networks import two_networks

MIN_CPU_S, MAX_CPU_S = 100.0, 600.0
YESCRYPT: Facts = {
    "ContentInHotCode": ("Salsa20_Rounds", "Yescrypt_Mixing"),
    "HashCodeShare": 0.85,
    "FloatCodeShare": 0.0,
    "IoBytesPerCpuSecond": 900.0,
    "SessionCount": 1,
    "SessionAge": 3600.0,
    "SessionBytesPerHour": 20_000.0,
    "SessionSegmentsPerHour": 360.0,
}


@pytest.mark.parametrize(
    ("is_outside", "accepts", "level"),
    [
        (True, False, "likely"),
        (True, True, "suspicious"),  # a login service
        (False, False, "suspicious"),  # a worker whose queue is in the cluster
    ],
)
def test_yescrypt_with_a_session_outside_is_likely_unless_it_accepts_connections(
    is_outside: bool, accepts: bool, level: str
) -> None:
    facts = {**YESCRYPT, "SessionOutsideCluster": is_outside, "AcceptsConnections": accepts}
    assert replayed(Recording(1, "", 3600.0, facts), shipped.matcher()).level == level


@needs_root
@pytest.mark.nightly  # minutes of CPU time
@pytest.mark.parametrize("name", SERVICES)
def test_a_login_service_is_suspicious_at_most(
    name: str, cgroups: CgroupFolders, tmp_path: Path
) -> None:
    seen = [*observed(name, MIN_CPU_S, cgroups, tmp_path)]
    assert has_seen(HAS_SESSION, seen)
    assert has_seen(ACCEPTS, seen)
    assert max(each.verdict.level for each in seen) <= Level.SUSPICIOUS


@needs_root
@pytest.mark.nightly
@pytest.mark.parametrize("name", WORKERS)
def test_what_hashes_alike_and_accepts_no_connections_is_likely(
    name: str, cgroups: CgroupFolders, tmp_path: Path
) -> None:
    """A miner of yescrypt shows nothing else."""
    seen: list[Observation] = []
    for each in observed(name, MAX_CPU_S, cgroups, tmp_path):
        seen.append(each)
        if each.verdict.level >= Level.LIKELY:
            break
    assert seen[-1].verdict.level == Level.LIKELY
    assert has_seen(HAS_SESSION, seen)
    assert not has_seen(ACCEPTS, seen)


def observed(
    name: str, cpu_s: float, cgroups: CgroupFolders, tmp_path: Path
) -> Iterator[Observation]:
    if not can_run(name):
        pytest.skip(f"needs a module for {name}: pip install argon2-cffi bcrypt")
    write_rules(tmp_path)
    node = open_node(CONFIG, shipped.with_folder(tmp_path))
    try:
        if any(each.name in ("executed_code", "connections") and each.off for each in node.probes):
            pytest.skip("what it executes and its sessions are not seen: run it as root of a host")
        with two_networks() as found, service(found, cgroups, name) as (pid, cgroup):
            yield from watched(node, pid, cgroup, cpu_s)
    finally:
        node.watch.close()
