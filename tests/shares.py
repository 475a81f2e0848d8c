"""How tests are marked and shared out among workers, by where they are and what they use.

Tests that count what is on the whole machine, or flood it, run one after the other in one worker.
All others run beside them, a module in one piece: each worker's cgroups, container ids and pod uids
are its own (``tests.conftest.TOP``, ``container_id``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Set
from itertools import chain
from typing import TypeVar

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

T = TypeVar("T")

MACHINE = "the machine"
WATCHED_NODE = "the watched node"

_TOGETHER = {
    MACHINE: (
        "tests/agent/test_daemon.py::test_cgroups_by_the_thousand",  # every agent reads them
        "tests/agent/test_tick.py",  # reads all tasks, and compares CPU times
        "tests/node/test_exec_events.py",  # hears of every program that starts
        "tests/node/test_kernel_entries.py",  # reads all tasks
        "tests/node/test_task_iterator.py",
        "tests/test_hostile_tenants.py",  # fork storms, tens of thousands of threads
        "tests/test_innocents.py",  # keeps all CPUs busy
        "tests/test_randomx.py",
    ),
    WATCHED_NODE: (  # share one node, its Prometheus and its Alertmanager
        "tests/deploy/test_dashboard.py",
        "tests/deploy/test_end_to_end.py",
        "tests/deploy/test_report.py",
    ),
}

_LONGEST = (
    MACHINE,
    "tests/cli/top_screen/test_app.py",
    "tests/kube/test_agent_in_cluster.py",
    "tests/agent/test_daemon.py",
    WATCHED_NODE,
    "tests/test_framing.py",
    "tests/kube/test_culling_end_to_end.py",
    "tests/deploy/test_hosts.py",
    "tests/culling/test_hosts.py",
    "tests/content/test_hot_code.py",
    "tests/cli/top_screen/test_table.py",
    "tests/cli/test_commands.py",
    "tests/deploy/test_container.py",
    "tests/kube/test_agent_faults.py",
    "tests/kube/test_pods.py",
    "tests/culling/test_enforcer.py",
    "tests/node/test_executed_code.py",
    "tests/docs/test_cluster_commands.py",
    "tests/deploy/test_chart.py",
    "tests/detection/matching/test_matcher.py",
    "tests/docs/test_minerwatch_commands.py",
    "tests/content/test_framing.py",
    "tests/agent/test_web_endpoint.py",
    "tests/deploy/test_alerts.py",
    "tests/probes/test_first_words.py",
    "tests/probes/test_executed_code.py",
    "tests/cli/test_rules.py",
    "tests/test_cull_invariants.py",
    "tests/agent/test_metrics_address.py",
    "tests/node/test_yara_scan.py",
    "tests/test_corpus.py",
    "tests/test_scale.py",
    "tests/agent/test_rule_loader.py",
    "tests/cli/top_screen/test_top.py",
    "tests/deploy/test_scrape.py",
    "tests/probes/test_network_framing.py",
    "tests/report/test_notifier.py",
    "tests/culling/test_culler.py",
    "tests/test_outgoing.py",
    "tests/kube/test_any_cluster.py",
    "tests/kube/test_agent_port.py",
    "tests/node/test_cgroup_bounds.py",
    "tests/agent/test_network_abuse.py",
    "tests/node/test_command_lines.py",
    "tests/cli/test_fleet_source.py",
    "tests/deploy/test_audit.py",
    "tests/deploy/test_systemd.py",
    "tests/kube/test_in_a_pod.py",
    "tests/kube/test_cluster_view.py",
    "tests/kube/test_end_to_end.py",
)
"""Shares that take long however few their tests are, the longest first: none is begun last."""

_START_PROGRAMS = (
    "tests/agent/",
    "tests/benchmarks/",
    "tests/cli/test_rules.py",
    "tests/culling/test_bans.py",
    "tests/culling/test_culler.py",
    "tests/culling/test_enforcer.py",
    "tests/culling/test_hub.py",
    "tests/culling/test_operator_orders.py",
    "tests/deploy/",
    "tests/kube/test_any_cluster_culling.py",
    "tests/node/",
    "tests/probes/",
)
"""Beside the modules that import what starts programs."""

_PROGRAM_NAMES = frozenset(
    ("subprocess", "multiprocessing", "venv", "Programs", "RunningAgent", "Browser")
)
_PROGRAM_FIXTURES = frozenset(("cgroups", "programs", "certificate"))
_ROOT_FIXTURES = frozenset(("cgroups",))


PLACES = (
    *chain.from_iterable(_TOGETHER.values()),
    *_START_PROGRAMS,
    *(each for each in _LONGEST if each not in _TOGETHER),
)


def share(test: str) -> str:
    """The share that a test, by its node id, belongs to: all tests of one run in one worker."""
    for name, places in _TOGETHER.items():
        if test.startswith(places):
            return name
    return test.partition("::")[0]


def marks(
    test: str, fixtures: Collection[str], names: Collection[str], own: Set[str]
) -> Iterator[str]:
    """Marks of a test by its node id, fixtures, the names in its module and the marks it has."""
    counts_machine = share(test) == MACHINE
    needs_root = "root" in own or not _ROOT_FIXTURES.isdisjoint(fixtures)
    starts_programs = (
        test.startswith(_START_PROGRAMS)
        or any(name in names for name in _PROGRAM_NAMES)  # the names are hundreds
        or not _PROGRAM_FIXTURES.isdisjoint(fixtures)
    )
    if counts_machine:
        yield "machine"
    if needs_root:
        yield "root"
    if not (counts_machine or needs_root or starts_programs or own & {"slow", "nightly"}):
        yield "unit"


def turn(name: str) -> int:
    """The turn of a share among others; those of the same turn go by how many tests they have."""
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)


class LongestFirst(OrderedDict[str, T]):
    """Shares that wait for a worker."""

    def popitem(self, last: bool = True) -> tuple[str, T]:
        name = min(self, key=turn)
        return name, self.pop(name)


class SharesScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out whole shares, the longest first."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        self.workqueue: LongestFirst[dict[str, bool]] = LongestFirst()

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)
