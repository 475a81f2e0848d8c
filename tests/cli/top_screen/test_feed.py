"""Who is asked, how often, and what becomes of those who do not answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from minerwatch.api.snapshot import encode, encode_agent
from minerwatch.cli.fleet_source import ClusterSource, Scope
from minerwatch.cli.local_source import Source
from minerwatch.cli.top_screen.feed import Feed, in_thread, reason_of
from minerwatch.cli.top_screen.sources import ClusterWatched, NodeWatched
from minerwatch.config.schema import Config
from minerwatch.errors import ClusterError, SnapshotError
from minerwatch.report.http_server import Answer
from minerwatch.report.socket_listener import SocketListener
from minerwatch.view.screen.containers import View
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presenter
from tests.cli.top_screen.driving import AGENT, Recorded, moving
from tests.conftest import needs_root
from tests.kube.api_server import ApiServer
from tests.kube.conftest import write_kubeconfig
from tests.kube.exec_endpoint import Printing
from tests.kube.test_fleet import add_agent
from tests.report.samples import MINER, NODE, NOW, SIMULATION
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def polls() -> list[Poll]:
    return []


def fed(watched: Recorded, polls: list[Poll]) -> Feed:
    feed = Feed(watched, polls.append)
    feed.start()
    return feed


def test_a_feed_looks_again_when_it_is_time_or_told_to(polls: list[Poll]) -> None:
    watched = Recorded([Poll((MINER,), NOW)])
    watched.refresh_s = 0.01
    feed = fed(watched, polls)
    until(lambda: watched.asked > 3)
    watched.refresh_s = 3600.0
    time.sleep(0.05)
    asked = watched.asked
    feed.hurry()
    until(lambda: watched.asked > asked)
    feed.close()
    until(lambda: watched.closed)


def test_a_feed_that_is_paused_asks_nobody(polls: list[Poll]) -> None:
    watched = Recorded([Poll((MINER,), NOW)])
    watched.refresh_s = 0.01
    feed = fed(watched, polls)
    until(lambda: watched.asked > 1)
    feed.pause(is_paused=True)
    time.sleep(0.05)
    asked = watched.asked
    time.sleep(0.1)
    assert watched.asked == asked
    feed.pause(is_paused=False)
    until(lambda: watched.asked > asked)
    feed.close()
    until(lambda: watched.closed)


def test_what_was_known_stays_when_asking_fails(polls: list[Poll]) -> None:
    watched = Recorded([Poll((MINER,), NOW, progress=(1, 2)), SnapshotError("it is gone")])
    feed = fed(watched, polls)
    until(lambda: bool(polls) and polls[-1].failure != "")
    assert polls[-1] == Poll((MINER,), NOW, failure="it is gone")
    feed.close()


def test_reasons_are_for_people() -> None:
    assert reason_of(ClusterError("no right to list pods")) == "no right to list pods"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"


def test_work_in_a_thread_ends_with_a_result_or_an_error() -> None:
    async def work() -> None:
        assert await in_thread(lambda: 1) == 1
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 / 0)

    asyncio.run(work())


def test_work_that_hangs_does_not_hold_up_the_end() -> None:
    hanging = threading.Event()

    async def work() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(in_thread(hanging.wait), 0.01)

    asyncio.run(work())
    (thread,) = (each for each in threading.enumerate() if each.name == "work")
    assert thread.daemon
    hanging.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


# This node.


def agent(path: Path, *, says_what_it_is: bool = True) -> SocketListener:
    routes = {
        "/snapshot": lambda: Answer(encode(NODE), "application/json"),
        "/snapshot/full": lambda: Answer(encode([MINER, SIMULATION]), "application/json"),
    }
    if says_what_it_is:
        routes["/status"] = lambda: Answer(encode_agent(AGENT), "application/json")
    return SocketListener(path, routes, on_error=lambda _error: None)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def watched_node(socket: Path, *, given: bool = True) -> NodeWatched:
    config = Config(socket=str(socket)).without_kubernetes()
    return NodeWatched(Source(socket if given else None, is_local=False, config=config))


def test_the_agent_of_this_node(socket: Path) -> None:
    listener = agent(socket)
    watched = watched_node(socket)
    (poll,) = watched.polls()
    assert (poll.statuses, poll.agents, poll.coverage) == (NODE, (AGENT,), None)
    assert watched.whole(MINER) == MINER
    assert watched.whole(NODE[1]) == NODE[1]  # no longer there: as it was
    listener.close()
    with pytest.raises(SnapshotError, match="no agent is listening"):
        list(watched.polls())
    watched.close()


def test_an_older_agent_is_shown_all_the_same(socket: Path) -> None:
    listener = agent(socket, says_what_it_is=False)
    (poll,) = watched_node(socket).polls()
    assert (poll.statuses, poll.agents) == (NODE, ())
    listener.close()


@needs_root
def test_without_an_agent_the_node_itself_is_watched_until_one_comes(socket: Path) -> None:
    watched = watched_node(socket, given=False)
    first, second = watched.polls()
    assert (first.statuses, first.progress) == ((), (0, 1))
    assert "no agent is listening" in second.notes[0]
    assert second.statuses
    assert watched.whole(second.statuses[0]).cgroup == second.statuses[0].cgroup
    listener = agent(socket)
    (poll,) = watched.polls()
    assert (poll.statuses, poll.notes) == (NODE, ())
    listener.close()
    watched.close()


# A cluster.


def scope(kubeconfig: Path) -> Scope:
    return Scope(
        namespace="", all_namespaces=True, context=None, kubeconfig=kubeconfig,
        agent_namespace="", agent_selector="app.kubernetes.io/name=minerwatch", timeout_s=2.0,
    )  # fmt: skip


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def watched(api: ApiServer, tmp_path: Path) -> Iterator[ClusterWatched]:
    kubeconfig = write_kubeconfig(tmp_path / "config", api.url, "first")
    cluster = ClusterWatched(ClusterSource(scope(kubeconfig)))
    yield cluster
    cluster.close()


def test_rows_come_before_a_node_that_hangs_is_given_up(
    api: ApiServer, watched: ClusterWatched
) -> None:
    add_agent(api, 1)
    add_agent(api, 2, Printing(encode([SIMULATION]), starts_after_s=3600))
    parts = watched.polls()
    assert next(parts).progress == (0, 2)
    early = next(parts)
    assert [status.node for status in early.statuses] == ["node-1"]
    assert early.progress == (1, 2)
    *_, last = parts
    assert last.progress is None
    assert last.coverage is not None
    assert [(each.node, each.reason) for each in last.coverage.missing] == [
        ("node-2", "no answer within 2 s")
    ]


def test_one_container_is_asked_for_again_with_all_its_processes(
    api: ApiServer, watched: ClusterWatched
) -> None:
    add_agent(api, 1)
    *_, poll = watched.polls()
    assert watched.whole(poll.statuses[0]) == structs.replace(MINER, node="node-1")
    asked = [request.command for request in api.requests if request.is_exec]
    assert asked[-1] == ("minerwatch", "snapshot", "--full")
    lists = [request for request in api.requests if request.path == "/api/v1/pods"]
    assert len(lists) == 1  # no list for it


def test_a_cluster_that_refuses_says_why(api: ApiServer, watched: ClusterWatched) -> None:
    with pytest.raises(ClusterError, match="no agent is labelled"):
        list(watched.polls())


# From polls to what is shown.


def test_what_has_not_changed_is_not_worked_out_again() -> None:
    presenter = Presenter(10.0)
    poll = Poll(NODE, NOW)
    first = presenter.present(poll, View())
    again = presenter.present(replace(poll, progress=(1, 2)), View())
    assert again.rows is first.rows
    assert again.poll.progress == (1, 2)
    other = presenter.present(poll, View(sort="cpu"))
    assert other.rows is not first.rows
    assert other.campaigns is first.campaigns
    assert presenter.present(Poll(tuple(NODE), NOW), View()).campaigns == first.campaigns


def test_every_container_of_the_namespace_is_counted() -> None:
    presenter = Presenter(10.0)
    shown = presenter.present(Poll(NODE, NOW), View(namespace="binder"))
    assert (shown.every, shown.containers) == ([MINER], 1)
    assert len(presenter.present(Poll(NODE, NOW), View()).every) == len(NODE)


def test_stale_nodes_and_failures_add_nothing_to_the_history() -> None:
    presenter = Presenter(10.0)
    for poll in moving([MINER])[:3]:
        presenter.add(poll)
    key = (MINER.node, MINER.cgroup, MINER.container_id)
    before = presenter.history.of(key)
    presenter.add(replace(moving([MINER])[3], stale={MINER.node: NOW}))
    presenter.add(replace(moving([MINER])[4], failure="no"))
    assert presenter.history.of(key) == before


def test_containers_and_agents_are_found_by_their_names() -> None:
    shown = Presenter(10.0).present(Poll(NODE, NOW, agents=(AGENT,)), View())
    assert shown.container((MINER.node, MINER.cgroup, MINER.container_id)) == MINER
    assert shown.container(("x", MINER.cgroup, MINER.container_id)) is None
    assert shown.agent("node-7") == AGENT
    assert shown.agent("x") is None


def test_threads_of_a_feed_end_with_it(polls: list[Poll]) -> None:
    before = threading.active_count()
    feed = fed(Recorded([Poll((), NOW)]), polls)
    feed.close()
    until(lambda: threading.active_count() == before)
