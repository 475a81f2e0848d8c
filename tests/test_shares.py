from __future__ import annotations

import pytest

from tests.shares import AGENTS, MACHINE, misplaced, share


def test_what_looks_at_the_machine_is_two_shares() -> None:
    assert share("tests/agent/test_daemon.py::test_a[x::y]") == AGENTS
    assert share("tests/node/test_task_iterator.py::test_b") == MACHINE
    assert share("tests/test_fair_queue.py::test_c[1]") == "tests/test_fair_queue.py"


def test_whoever_starts_programs_without_being_listed_is_named() -> None:
    tests = (
        ("tests/agent/test_daemon.py::a", ("programs",)),
        ("tests/test_fair_queue.py::b", ("tmp_path",)),
        ("tests/test_fair_queue.py::c", ("tmp_path", "cgroups")),
    )
    assert misplaced(tests) == ["tests/test_fair_queue.py"]


def test_all_that_start_programs_are_listed(request: pytest.FixtureRequest) -> None:
    tests = ((item.nodeid, getattr(item, "fixturenames", ())) for item in request.session.items)
    assert misplaced(tests) == [], "add them to _ON_THE_MACHINE in tests/shares.py"
