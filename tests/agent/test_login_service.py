"""Login services under load, with a session to a database outside: the whole verdict."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.logins import CONFIG, FUNCTIONS, SESSION_RULE, has_session, service, watched
from minerwatch.agent.monitor import open_node
from minerwatch.model import Level
from tests import shipped
from tests.conftest import CgroupFolders, needs_root
from tests.networks import two_networks

LEAST_CPU_S = 100.0


@needs_root
@pytest.mark.nightly  # minutes of CPU time
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_login_service_is_suspicious_at_most(
    function: str, cgroups: CgroupFolders, tmp_path: Path
) -> None:
    if find_spec(FUNCTIONS[function]) is None:
        pytest.skip(f"needs {FUNCTIONS[function]}: install it by pip")
    (tmp_path / "session.yml").write_text(SESSION_RULE)
    node = open_node(CONFIG, shipped.with_folder(tmp_path))
    try:
        if any(each.name in ("executed_code", "connections") and each.off for each in node.probes):
            pytest.skip("what it executes and its sessions are not seen: run it as root of a host")
        with two_networks() as found, service(found, cgroups, function) as (pid, cgroup):
            seen = [*watched(node, pid, cgroup, LEAST_CPU_S)]
    finally:
        node.watch.close()
    assert any(map(has_session, seen))
    assert max(each.verdict.level for each in seen) <= Level.SUSPICIOUS
