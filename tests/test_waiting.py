"""How the tests wait, and how they keep out of each other's way."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conftest import CgroupFolders, Programs, remove_what_is_left
from tests.waiting import cpu_s, until, until_burnt, why_not_quiet


def test_what_is_waited_for_is_the_answer() -> None:
    answers = iter((None, "", "it is here"))
    assert until(lambda: next(answers), every_s=0.0) == "it is here"


def test_what_never_comes_is_said() -> None:
    with pytest.raises(AssertionError, match="seen so far: 3"):
        until(lambda: False, lambda: "seen so far: 3", limit_s=0.0)


def test_cpu_time_is_that_of_the_process(programs: Programs) -> None:
    busy, idle = programs.start("busy", busy=True), programs.start("idle", busy=False)
    until_burnt(busy.pid, 0.1)
    assert cpu_s(busy.pid) >= 0.1
    assert cpu_s(idle.pid) < 0.1
    assert cpu_s(1 << 30) == 0.0


@pytest.mark.parametrize(("running", "is_quiet"), [([1, 9, 1], True), ([9, 1, 9], False)])
def test_one_moment_alone_makes_no_machine_busy(
    monkeypatch: pytest.MonkeyPatch, running: list[int], is_quiet: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    assert why_not_quiet(running) == ("" if is_quiet else "9 tasks want to run on 2 CPUs")


def test_only_cgroups_of_runs_that_are_over_are_removed(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    over = subprocess.Popen(["true"])
    over.wait()
    of_this_run = cgroups.make(f"/minerwatch-test-{os.getpid()}/docker/a")
    left = cgroups.make(f"/minerwatch-test-{over.pid}/docker/a")
    orphan, ours = (programs.start(name, busy=True) for name in ("orphan", "ours"))
    cgroups.put(orphan, left)
    cgroups.put(ours, of_this_run)
    remove_what_is_left(cgroups.root)
    assert not left.parent.parent.exists()
    assert orphan.wait() < 0
    assert of_this_run.exists()
    assert ours.poll() is None
