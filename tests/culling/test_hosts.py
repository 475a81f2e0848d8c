"""Culling on a host outside Kubernetes: real processes, real docker and podman."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.api.orders import CullOrder, ReleaseAllOrder, ReleaseOrder
from minerwatch.api.types import CullAnswer, ReleaseAnswer
from minerwatch.config.schema import (
    CircuitBreaker,
    Config,
    CullBudget,
    Exemption,
    HostCulling,
    Rungs,
)
from minerwatch.config.selectors import selector
from minerwatch.config.values import DRY_RUN, OFF
from minerwatch.culling.actions import ProcessActions
from minerwatch.culling.context import AgentIdentity, Callbacks
from minerwatch.culling.culler import BUDGET_FILE, Culler
from minerwatch.culling.process_signals import state
from minerwatch.culling.records import ActionRecord, AuditLine
from minerwatch.culling.service import CullSwitch
from minerwatch.errors import TargetError
from minerwatch.format import rfc3339
from minerwatch.model import (
    Action,
    Container,
    ContainerKind,
    Level,
    Observation,
    Outcome,
    ProcessId,
)
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.host_view import HostView
from tests.conftest import Programs, needs_root
from tests.culling.harness import FakeWatch, Said, last, moment, outcomes, settings, target
from tests.culling.test_process_signals import identity
from tests.engines import Engine, docker, podman, short_folder
from tests.waiting import until

_OWN = Container("/system.slice/agent.service", 1, ContainerKind.UNIT, "agent.service", "systemd")
_CI = Container("/system.slice/ci@1.service", 2, ContainerKind.UNIT, "ci@1.service", "systemd")
_HOST = Container("/", 3, ContainerKind.HOST, "host", "kernel")
_ALICE = Container(
    "/user.slice/user-1000.slice/session-3.scope",
    *(4, ContainerKind.UNIT, "session-3.scope", "systemd"),
)
_PLACES = HostCulling(units=("ci@*",), users=("ali*",), containers=("shop-*",))
_Settle = Callable[[], None]


def _users_container(id_: str, runtime: str) -> Container:
    """Return one in a cgroup that alice made: no engine of hers knows it."""
    cgroup = f"/user.slice/user-1000.slice/user@1000.service/{runtime}-{id_}.scope"
    return Container(cgroup, ord(id_[0]), ContainerKind.ENGINE, id_, runtime)


class _Watch(FakeWatch):
    """Where processes are, besides what was found: of some by the kernel."""

    own: Container | None = _OWN
    tree: CgroupTree | None = None

    def carrier(self, container: Container, *, of_pod: bool = True) -> Container:
        above = [] if of_pod else [each.container for each in self.found.values()]
        outer = container.outer_cgroup
        return next((each for each in above if each.cgroup == outer), container)

    def container_of(self, pid: int) -> Container | None:
        if pid == os.getpid():
            return self.own
        return self.tree.container_of(pid) if self.tree is not None else None


class _Host:
    """A culler on a host, until it is closed."""

    def __init__(self, root: Path, log: Path, *actions: Action, **changes: Any) -> None:
        self.log = log
        self.watch = _Watch()
        self.said = Said()
        self.errors: list[str] = []
        self.view = HostView(root, "host-1", unix_s=lambda: moment(-7200).unix_s)
        changes = {"hosts": _PLACES, "namespaces": (), **changes}
        self.config = Config(culling=settings(log, *(actions or (Action.STOP,)), **changes))
        self.culler = Culler(
            self.config,
            AgentIdentity("host-1", "", ""),
            self.view,
            self.watch,
            self.said,
            read_clocks=moment,
            callbacks=Callbacks(
                on_outcome=lambda *_: None,
                on_error=lambda what, error: self.errors.append(f"{what}: {error}"),
            ),
        )
        self.culler.start()

    def close(self) -> None:
        self.culler.close()
        self.view.close()

    def tick(self) -> None:
        found = self.watch.observations(0)
        for ago_s in range(600, 0, -20):
            verdicts = [replace(each.verdict, at_s=each.verdict.at_s - ago_s) for each in found]
            self.culler.cases.holds.update(verdicts, moment(-ago_s).monotonic_s, 10.0)
        self.culler.consider(found)
        until(lambda: not self.culler.mailbox.has_tick)
        self.settle()

    def settle(self) -> None:
        """Wait for the thread, which reads what is stopped before each task."""
        with suppress(TargetError):
            self.release(ReleaseOrder("none", "none", "none"))

    def stopped(self, found: Observation) -> tuple[int, ...]:
        """The pids that stand still, read now: a process stops some time after the signal."""
        self.settle()
        status = self.culler.status(found)
        return status.stopped if status is not None else ()

    def use(self, **changes: Any) -> None:
        culling = msgspec.structs.replace(self.config.culling, **changes)
        self.culler.use(msgspec.structs.replace(self.config, culling=culling))

    def release(self, order: ReleaseOrder) -> ReleaseAnswer:
        return self.culler.call(lambda: self.culler.orders.release(order))

    def cull(self, observation: Observation, action: Action, *, dry_run: bool) -> CullAnswer:
        names = msgspec.structs.asdict(target(observation))
        order = CullOrder(**names, action=action, dry_run=dry_run)
        return self.culler.call(lambda: self.culler.orders.cull(order))

    def reasons(self, observation: Observation) -> str:
        now = self.watch.observation(observation.container.key, 0)
        assert now is not None
        status = self.culler.status(now)
        assert status is not None
        return " ".join(status.reasons)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "host" / "etc").mkdir(parents=True)
    passwd = "alice:x:1000:1::/home/alice:/bin/sh\nbob:x:1001:1::/home/bob:/bin/sh\n"
    (tmp_path / "host" / "etc" / "passwd").write_text(passwd)
    return tmp_path / "host"


@pytest.fixture
def opened(root: Path, log: Path) -> Iterator[Callable[..., _Host]]:
    hosts: list[_Host] = []

    def one(*actions: Action, **changes: Any) -> _Host:
        hosts.append(_Host(root, log, *actions, **changes))
        return hosts[-1]

    yield one
    for host in hosts:
        host.close()


Open = Callable[..., _Host]


def test_a_miner_in_a_named_unit_is_stopped_and_released(
    opened: Open, log: Path, miner: ProcessId
) -> None:
    host = opened(Action.STOP)
    found = host.watch.add_container(_CI, miner)
    host.tick()
    assert outcomes(log) == ["stop pending", "stop done"]
    until(lambda: state(miner) == "T")
    record = last(log)
    assert (record.namespace, record.pod, record.processes) == ("", "ci@1.service", (miner,))
    budget = json.loads((log.parent / BUDGET_FILE).read_bytes())
    assert [each[0] for each in budget] == [record.id]
    until(lambda: host.stopped(found) == (miner.pid,))
    answer = host.release(target(found))
    assert (answer.pod, answer.resumed) == ("ci@1.service", (miner.pid,))
    assert state(miner) in ("R", "S")
    host.tick()
    assert "An operator has released it." in host.reasons(found)
    assert state(miner) in ("R", "S")


def test_a_miner_of_a_named_user_is_killed(opened: Open, log: Path, miner: ProcessId) -> None:
    host = opened(Action.KILL)
    host.watch.add_container(_ALICE, miner)
    host.tick()
    assert outcomes(log) == ["kill pending", "kill done"]
    until(lambda: state(miner) in ("", "Z"))
    assert (last(log).pod, last(log).owner) == ("1000/session-3.scope", "alice")


def test_a_dry_run_changes_nothing(opened: Open, log: Path, miner: ProcessId) -> None:
    host = opened(Action.KILL, mode=DRY_RUN)
    host.watch.add_container(_CI, miner)
    host.tick()
    assert outcomes(log) == ["kill pending", "kill dry-run"]
    assert state(miner) in ("R", "S")


def test_switching_off_continues_what_was_stopped(
    opened: Open, log: Path, miner: ProcessId
) -> None:
    host = opened(Action.STOP)
    host.watch.add_container(_CI, miner)
    host.tick()
    until(lambda: state(miner) == "T")
    host.use(mode=OFF)
    until(lambda: state(miner) in ("R", "S"))


def test_release_all_removes_log_and_budget(opened: Open, log: Path, miner: ProcessId) -> None:
    host = opened(Action.STOP)
    host.watch.add_container(_CI, miner)
    host.tick()
    assert (log.parent / BUDGET_FILE).exists()
    order = ReleaseAllOrder(forget=True)
    answer = host.culler.call(lambda: host.culler.orders.release_all(order))
    assert answer.forgotten
    assert [each.resumed for each in answer.released] == [(miner.pid,)]
    assert not (log.parent / BUDGET_FILE).exists()
    assert not log.exists()
    until(lambda: state(miner) in ("R", "S"))


def test_a_process_whose_stop_is_still_pending_is_resumed(
    opened: Open, miner: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = opened(Action.STOP)
    host.watch.add_container(_CI, miner)
    host.tick()
    until(lambda: state(miner) == "T")
    monkeypatch.setattr(ProcessActions, "is_stopped", lambda *_: False)  # as if it was not yet
    answer = host.culler.call(lambda: host.culler.orders.release_all(ReleaseAllOrder()))
    assert [each.resumed for each in answer.released] == [(miner.pid,)]
    until(lambda: state(miner) in ("R", "S"))


@pytest.mark.parametrize(
    ("container", "hosts", "reason"),
    [
        (_HOST, HostCulling(units=("*",), containers=("*",), users=("*",)), "neither a unit nor"),
        (_OWN, HostCulling(units=("*",)), "minerwatch itself runs in it"),
        (_CI, HostCulling(units=("other@*",), users=("*",), containers=("*",)), "names neither it"),
        (_CI, HostCulling(units=("*",), protected=("ci@1.service",)), "It is protected"),
        (_ALICE, HostCulling(users=("bob",), units=("*",)), "names neither it"),
        (_ALICE, HostCulling(users=("*",), protected=("alice",)), "It is protected"),
    ],
)
def test_only_what_is_named_is_acted_on(
    opened: Open, miner: ProcessId, container: Container, hosts: HostCulling, reason: str
) -> None:
    host = opened(Action.KILL, hosts=hosts)
    found = host.watch.add_container(container, miner)
    host.tick()
    assert reason in host.reasons(found)
    assert state(miner) in ("R", "S")


@pytest.mark.parametrize(
    "name",
    [
        *("init.scope", "systemd-journald.service", "sshd.service", "ssh.service"),
        *("docker.service", "containerd.service", "minerwatch.service", "dbus.service"),
    ],
)
def test_parts_of_the_system_are_protected_by_any_configuration(
    opened: Open, miner: ProcessId, name: str
) -> None:
    host = opened(Action.KILL, hosts=HostCulling(units=("*",)))
    unit = replace(_CI, cgroup=f"/system.slice/{name}", container_id=name)
    found = host.watch.add_container(unit, miner)
    host.tick()
    assert "It is protected" in host.reasons(found)
    assert state(miner) in ("R", "S")


def test_a_user_who_names_a_unit_like_the_systems_is_not_protected(
    opened: Open, miner: ProcessId
) -> None:
    host = opened(Action.KILL)
    disguised = replace(
        _ALICE,
        cgroup="/user.slice/user-1000.slice/user@1000.service/app.slice/sshd.service",
        container_id="sshd.service",
    )
    host.watch.add_container(disguised, miner)
    host.tick()
    until(lambda: state(miner) in ("", "Z"))


def test_a_user_exempts_nothing_by_names_but_the_operator_by_the_user(
    opened: Open, miner: ProcessId
) -> None:
    by_name = Exemption(reason="by name", pods=("*session*",))
    by_image = Exemption(reason="by image", images=("*",))
    by_label = Exemption(reason="by label", selector=selector("!keep"))
    host = opened(Action.STOP, exemptions=(by_name, by_image, by_label))
    found = host.watch.add_container(_ALICE, miner)
    host.tick()
    until(lambda: state(miner) == "T")
    host.use(exemptions=(Exemption(reason="simulates", owners=("alice",)),))
    assert "The operator has exempted it (simulates)." in host.reasons(found)


@pytest.mark.parametrize("runtime", ["podman", "docker", "lxc", "containerd", ""])
def test_a_user_exempts_nothing_by_a_container_without_a_name(
    opened: Open, log: Path, miner: ProcessId, runtime: str
) -> None:
    host = opened(Action.KILL)
    host.watch.add_container(_users_container("a" * 64, runtime), miner)
    host.tick()
    until(lambda: state(miner) in ("", "Z"))
    assert (last(log).pod, last(log).owner) == (f"1000/{'a' * 12}", "alice")


def test_containers_of_a_user_without_names_do_not_stop_all_actions(
    opened: Open, miner: ProcessId
) -> None:
    host = opened(Action.KILL, circuit_breaker=CircuitBreaker(at_least=3))
    host.watch.add_container(_CI, miner)
    for digit in "abcdef":
        host.watch.add_container(_users_container(digit * 64, "podman"))
    host.tick()
    assert not host.culler.figures().is_circuit_open
    until(lambda: state(miner) in ("", "Z"))


@pytest.mark.parametrize("kind", [ContainerKind.ENGINE, ContainerKind.POD])
def test_a_tenant_exempts_nothing_by_cgroups_in_its_container(
    opened: Open, root: Path, log: Path, miner: ProcessId, kind: ContainerKind
) -> None:
    id_ = "c" * 64
    folder = root / "var/lib/docker/containers" / id_
    folder.mkdir(parents=True)
    (folder / "config.v2.json").write_text(json.dumps({"ID": id_, "Name": "/shop-1"}))
    breaker = CircuitBreaker(at_least=3)
    host = opened(Action.KILL, circuit_breaker=breaker)
    outer = Container(f"/docker/{id_}", 8, ContainerKind.ENGINE, id_, "docker")
    host.watch.add_container(outer, level=Level.CLEAR)
    for digit in "def":
        inner = Container(
            f"{outer.cgroup}/{digit}", 9, kind, digit * 64, "docker", outer_cgroup=outer.cgroup
        )
        found = host.watch.add_container(inner, *([miner] if digit == "d" else []))
    host.tick()
    assert not host.culler.figures().is_circuit_open
    until(lambda: state(miner) in ("", "Z"))
    assert last(log).pod == "docker/shop-1"
    assert found.container.outer_cgroup
    host.use(ladder=(Rungs(actions=(Action.PAUSE,)),))
    assert "only for containers" in host.reasons(found)


def test_a_user_who_takes_the_id_of_another_container_shares_nothing_with_it(
    opened: Open, root: Path
) -> None:
    id_ = "a" * 64
    folder = root / "var/lib/docker/containers" / id_
    folder.mkdir(parents=True)
    (folder / "config.v2.json").write_text(json.dumps({"ID": id_, "Name": "/shop-1"}))
    host = opened(Action.KILL)
    real = Container(f"/docker/{id_}", 8, ContainerKind.ENGINE, id_, "docker")
    theirs = host.view.identity(_users_container(id_, "docker"))
    before = host.view.identity(real)
    assert theirs is not None
    assert before is not None
    assert host.view.identity(_users_container(id_, "docker")) is not None  # looked up last
    assert theirs.pod.uid != before.pod.uid
    assert host.view.seen(before.pod.uid) == real
    store = root / "var/lib/containers/storage/overlay-containers"
    store.mkdir(parents=True)
    (store / "containers.json").write_text(json.dumps([{"id": id_, "names": ["shop-2"]}]))
    service = Container(
        *(f"/system.slice/bob.service/libpod-{id_}.scope", 9, ContainerKind.ENGINE, id_, "podman")
    )
    assert host.view.identity(service) is None  # only podman's own file says that it is there
    bundle = store / id_ / "userdata" / "config.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text(json.dumps({"linux": {"cgroupsPath": service.cgroup}}))
    bobs = host.view.fresh_identity(service)
    assert bobs is not None
    assert bobs.pod.uid != before.pod.uid


@pytest.mark.parametrize("pattern", ["*release*", "*.service", "podman/*", "*/db", "1*"])
def test_a_user_is_not_protected_by_a_pattern_of_names(
    opened: Open, miner: ProcessId, pattern: str
) -> None:
    host = opened(Action.KILL, hosts=HostCulling(users=("ali*",), protected=(pattern,)))
    own = "/user.slice/user-1000.slice/user@1000.service/release-db.service"
    host.watch.add_container(replace(_ALICE, cgroup=own, container_id="release-db.service"), miner)
    host.tick()
    until(lambda: state(miner) in ("", "Z"))


@pytest.mark.parametrize("pattern", ["alice", "a*", "1000/session-3.scope"])
def test_the_operator_protects_a_user_or_one_full_name(
    opened: Open, miner: ProcessId, pattern: str
) -> None:
    host = opened(Action.KILL, hosts=HostCulling(users=("ali*",), protected=(pattern,)))
    found = host.watch.add_container(_ALICE, miner)
    host.tick()
    assert "It is protected" in host.reasons(found)
    assert state(miner) in ("R", "S")


def test_a_paused_container_is_found_again_after_a_restart(
    opened: Open, root: Path, log: Path
) -> None:
    id_ = "b" * 64
    folder = root / "var/lib/docker/containers" / id_
    folder.mkdir(parents=True)
    (folder / "config.v2.json").write_text(json.dumps({"ID": id_, "Name": "/shop-1"}))
    now = moment(-60)
    paused = ActionRecord(
        *("1", now.unix_s, now.monotonic_s, now.boot_id, "host-1", "", "docker/shop-1", id_, ""),
        *(Action.PAUSE, 0, False, Outcome.DONE),
    )
    line = AuditLine("outcome", rfc3339(now.unix_s), "host-1", record=paused)
    with log.open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")
    host = opened(Action.PAUSE)
    real = Container(f"/docker/{id_}", 8, ContainerKind.ENGINE, id_, "docker")
    host.watch.add_container(real, level=Level.CLEAR)
    order = ReleaseAllOrder(forget=True)
    answer = host.culler.call(lambda: host.culler.orders.release_all(order))
    assert "docker unpause bbbbbbbbbbbb" in str(answer)
    assert not answer.forgotten
    assert log.exists()


def test_an_agent_that_does_not_know_its_own_unit_does_nothing(
    opened: Open, miner: ProcessId
) -> None:
    host = opened(Action.KILL)
    host.watch.own = None
    found = host.watch.add_container(_CI, miner)
    host.tick()
    assert "Own cgroup unknown" in host.reasons(found)
    assert state(miner) in ("R", "S")


@pytest.mark.parametrize("content", [b"", b"{", b'[["a"]]'])
def test_a_damaged_budget_stops_all_actions(
    opened: Open, log: Path, miner: ProcessId, content: bytes
) -> None:
    budget = log.parent / BUDGET_FILE
    budget.write_bytes(content)
    budget.chmod(0o600)
    host = opened(Action.KILL)
    found = host.watch.add_container(_CI, miner)
    host.tick()
    assert "The file with this host's budget cannot be used." in host.reasons(found)
    assert any("move the file away" in each for each in host.errors)
    assert state(miner) in ("R", "S")
    assert outcomes(log) == []


def test_a_pipe_in_place_of_the_budget_stops_all_actions(
    opened: Open, log: Path, miner: ProcessId
) -> None:
    os.mkfifo(log.parent / BUDGET_FILE)
    host = opened(Action.KILL)
    host.watch.add_container(_CI, miner)
    host.tick()
    assert state(miner) in ("R", "S")


def test_the_budget_holds_over_a_restart(opened: Open, log: Path, programs: Programs) -> None:
    one = CullBudget(per_node=1, per_cluster=10)
    host = opened(Action.KILL, budget=one)
    first = identity(programs.start("xmrig", busy=True).pid)
    host.watch.add_container(_CI, first)
    host.tick()
    until(lambda: state(first) in ("", "Z"))
    host.close()
    log.unlink()  # the history is lost, the budget is not
    other = opened(Action.KILL, budget=one)
    second = identity(programs.start("xmrig", busy=True).pid)
    found = other.watch.add_container(replace(_CI, cgroup_inode=9), second)
    other.tick()
    assert other.culler.figures().budget_left == 0
    assert state(second) in ("R", "S")
    assert other.reasons(found)


@pytest.mark.parametrize("action", [Action.LABEL, Action.EVICT, Action.DELETE])
def test_actions_of_a_cluster_do_not_exist(opened: Open, miner: ProcessId, action: Action) -> None:
    host = opened(action)
    found = host.watch.add_container(_CI, miner)
    host.tick()
    assert "The action does not exist for it" in host.reasons(found)


@pytest.mark.parametrize("action", [Action.PAUSE, Action.STOP_CONTAINER])
def test_a_unit_has_no_engine(opened: Open, miner: ProcessId, action: Action) -> None:
    host = opened(action)
    found = host.watch.add_container(_CI, miner)
    answer = host.cull(found, action, dry_run=False)
    assert not answer.acts
    assert any("only for containers of the host's engine" in each for each in answer.reasons)


def test_without_names_culling_stays_closed(root: Path) -> None:
    said = Said()
    with closing(HostView(root, "host-1")) as view:
        switch = CullSwitch(
            Config(culling=settings(root / "audit.jsonl")),
            *("host-1", view, _Watch(), said),
            now_s=lambda: 0.0,
            on_outcome=lambda *_: None,
            on_error=lambda *_: None,
        )
        assert switch.figures().mode == "off"
    assert "names no units, containers or users" in said.lines[0][0]


# With real engines.


@pytest.fixture(params=[docker, podman], ids=["docker", "podman"], scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    open_engine: Callable[[Path], AbstractContextManager[Engine]] = request.param
    with short_folder() as root, open_engine(root) as engine:
        yield engine


@pytest.fixture
def tree() -> Iterator[CgroupTree]:
    with closing(CgroupTree(Path("/sys"), Path("/proc"), units=True)) as tree:
        yield tree


def _with_sockets(engine: Engine, **changes: str) -> HostCulling:
    sockets = {f"{engine.name}_socket": str(engine.socket), **changes}
    return msgspec.structs.replace(_PLACES, **sockets)


def _busy(
    engine: Engine, tree: CgroupTree, host: _Host, name: str
) -> tuple[Observation, ProcessId]:
    engine.start(name, "sh", "-c", "while :; do :; done")
    process = identity(engine.pid(name))
    tree.tick()
    container = tree.container_of(process.pid)
    assert container is not None
    host.watch.tree = tree
    return host.watch.add_container(container, process), process


def _status(engine: Engine, name: str) -> str:
    return engine.run("inspect", "--format={{.State.Status}}", name)


@needs_root
@pytest.mark.slow
def test_a_real_container_is_paused_and_released(
    engine: Engine, tree: CgroupTree, log: Path
) -> None:
    with closing(_Host(engine.root, log, Action.PAUSE, hosts=_with_sockets(engine))) as host:
        found, _ = _busy(engine, tree, host, "shop-pause")
        dry = host.cull(found, Action.PAUSE, dry_run=True)
        host.tick()
        assert _status(engine, "shop-pause") == "paused", (host.reasons(found), dry)
        assert outcomes(log)[-2:] == ["pause pending", "pause done"]
        answer = host.release(target(found))
        assert (answer.unpaused, answer.trouble) == (True, ())
        assert _status(engine, "shop-pause") == "running"


@needs_root
@pytest.mark.slow
def test_a_real_container_is_stopped(engine: Engine, tree: CgroupTree, log: Path) -> None:
    hosts = _with_sockets(engine)
    with closing(_Host(engine.root, log, Action.STOP_CONTAINER, hosts=hosts)) as host:
        _busy(engine, tree, host, "shop-stop")
        host.tick()
        assert _status(engine, "shop-stop") == "exited"
        assert outcomes(log) == ["stop-container pending", "stop-container done"]


@needs_root
@pytest.mark.slow
def test_without_a_socket_or_for_another_cgroup_an_engine_does_nothing(
    engine: Engine, tree: CgroupTree, log: Path
) -> None:
    with closing(_Host(engine.root, log, Action.PAUSE)) as host:
        found, process = _busy(engine, tree, host, "shop-other")
        host.tick()
        assert f"culling.hosts.{engine.name}_socket" in host.reasons(found)
        host.use(hosts=_with_sockets(engine))
        claimed = replace(found.container, cgroup=f"/elsewhere/{found.container.container_id}")
        host.watch.found.clear()
        imitated = host.watch.add_container(claimed, process)
        host.tick()
        assert "is not the cgroup that was judged" in " ".join(
            str(fields) for event, fields in host.said.lines if event == "outcome"
        ) + str([line for line in log.read_text().splitlines() if "not the cgroup" in line])
        assert _status(engine, "shop-other") == "running"
        assert imitated.container.container_id == found.container.container_id
