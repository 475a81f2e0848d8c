"""How tests are shared out among workers (pytest-xdist): what looks at the machine stays together.

Agents see every process, cgroup and program start of the machine. So tests that start such things,
or look for them, run one after the other, in two workers: those that measure in one, those that
wait for agents and clusters in the other. Beside them others run the rest, a module in one piece.
Each worker's cgroups and container ids are its own (``tests.conftest.TOP``, ``container_id``).
"""

from __future__ import annotations

from collections.abc import Iterable

from xdist.scheduler import LoadScopeScheduling

MACHINE = "the machine"
AGENTS = "agents on the machine"

_ON_THE_MACHINE = {
    MACHINE: (
        "tests/node/",
        "tests/probes/",
        "tests/test_hostile_tenants.py",
        "tests/test_innocents.py",
        "tests/test_randomx.py",
        "tests/test_waiting.py",
        "tests/agent/test_tick.py",
    ),
    AGENTS: (
        "tests/cli/top_screen/test_feed.py",
        "tests/cli/top_screen/test_top.py",
        "tests/cli/test_commands.py",
        "tests/culling/test_culler.py",
        "tests/deploy/test_built_image.py",
        "tests/deploy/test_container.py",
        "tests/deploy/test_dashboard.py",
        "tests/deploy/test_end_to_end.py",
        "tests/culling/test_pod_actions.py",
        "tests/kube/test_agent_faults.py",
        "tests/kube/test_agent_in_cluster.py",
        "tests/kube/test_culling_end_to_end.py",
        "tests/kube/test_end_to_end.py",
        "tests/kube/test_in_a_pod.py",
        "tests/culling/test_process_signals.py",
        "tests/kube/test_real_pods.py",
        "tests/agent/test_daemon.py",
        "tests/test_least_privilege.py",
        "tests/test_outgoing.py",
        "tests/test_soak.py",
    ),
}

_FIXTURES = frozenset(("cgroups", "programs"))


def share(test: str) -> str:
    """The share that a test, by its node id, belongs to: all tests of one run in one worker."""
    for name, places in _ON_THE_MACHINE.items():
        if test.startswith(places):
            return name
    return test.partition("::")[0]


def misplaced(tests: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """Modules whose tests make cgroups or start programs, but that are not listed here."""
    return sorted(
        {
            share(test)
            for test, fixtures in tests
            if share(test) not in _ON_THE_MACHINE and not _FIXTURES.isdisjoint(fixtures)
        }
    )


class SharesScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out whole shares, the largest first."""

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)
