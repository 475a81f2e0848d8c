from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from minerwatch.agent.monitor import now_s
from minerwatch.agent.tick import Watch
from minerwatch.api import orders
from minerwatch.config.schema import Config, Culling
from minerwatch.config.values import DRY_RUN, OFF
from minerwatch.culling.service import CullSwitch, moment
from minerwatch.model import Action, Level
from tests.culling.harness import FakeWatch, Said

TARGET = {"cgroup": "/a", "container_id": "b", "pod_uid": "c"}


def switch(mode: Any, said: Said, tmp_path: Path) -> CullSwitch:
    culling = Culling(mode=mode)
    return CullSwitch(
        Config(culling=culling),
        "n1",
        None,
        cast("Watch", FakeWatch()),
        said,
        now_s=now_s,
        on_outcome=lambda *_: None,
        on_error=lambda *_: None,
    )


@pytest.mark.parametrize("mode", [OFF, DRY_RUN])
def test_without_a_cluster_or_switched_off_nothing_is_done(mode: Any, tmp_path: Path) -> None:
    said = Said()
    off = switch(mode, said, tmp_path)
    assert off.figures().mode == "off"
    assert list(off.failures()) == []
    assert [event for event, _ in said.lines] == (
        [] if mode == OFF else ["culling is configured, but there is no cluster: nothing is culled"]
    )
    watch = FakeWatch()
    flagged = watch.add("/a", "uid")
    status = off.status(flagged)
    assert status is not None
    assert (status.mode, status.reasons) == ("off", ("Culling is off.",))
    assert off.status(watch.add("/a", "uid", level=Level.CLEAR)) is None
    off.close()


def test_switched_off_it_says_so_to_who_orders(tmp_path: Path) -> None:
    posts = switch(OFF, Said(), tmp_path).posts()
    order = msgspec.json.encode({**TARGET, "action": Action.STOP})
    for path, body in (
        (orders.CULL, order),
        (orders.RELEASE, msgspec.json.encode(TARGET)),
        (orders.RELEASE_ALL, b"{}"),
        (orders.AUDIT_LINES, b'{"hours": 1}'),
    ):
        answer = posts[path](body)
        assert answer.status == 409
        assert b"culling is off on this node" in answer.body
    assert b"set it to dry-run" in posts[orders.RELEASE_ALL](b"{}").body
    assert b"kill -CONT" in posts[orders.RELEASE](msgspec.json.encode(TARGET)).body
    assert b"invalid order" in posts[orders.CULL](b"nonsense").body


def test_a_moment_is_on_both_clocks() -> None:
    now = moment(now_s)
    assert abs(now.unix_s - time.time()) < 5
    assert abs(now.monotonic_s - now_s()) < 5
    assert now.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
