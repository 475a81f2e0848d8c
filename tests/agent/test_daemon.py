"""The agent as its users run it: a process of its own, watched from outside."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from minerwatch import __version__
from minerwatch.api.client import answer
from minerwatch.api.snapshot import decode, decode_agent
from minerwatch.api.types import ContainerStatus
from minerwatch.errors import SnapshotError
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id, needs_root
from tests.report.test_notifier import site
from tests.waiting import PATIENCE_S, until, until_burnt

_PYTHON = (sys.executable,)
_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that somebody still writes: its last may be there in part only."""
    *lines, _unfinished = path.read_bytes().split(b"\n")
    return lines


BUILT_IN = Path(__file__).parents[2] / "rules"
OWN_RULES_ONLY = "built_in_rules: false\n"
_FEW_RULES = (
    "behaviour/core_busy.yml",
    "execution/temporary_folder_busy.yml",
    "identity/pool_and_wallet.yml",
    "identity/stratum_login.yml",
)
"""A loop with the arguments ``POOL`` is likely by these alone."""


def few_rules(folder: Path) -> Path:
    """Return a folder with some of the rules that are shipped: all take an agent seconds to read.

    Its configuration is to be ``OWN_RULES_ONLY``.
    """
    few = folder / "few-rules"
    few.mkdir(exist_ok=True)
    for name in _FEW_RULES:
        shutil.copy(BUILT_IN / name, few)
    return few


class RunningAgent:
    """An agent on a port and socket of its own; with ``all_rules`` it reads those shipped."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        command: Sequence[str] = _PYTHON,
        in_cluster: bool = False,
        all_rules: bool = True,
    ) -> None:
        if not all_rules:
            options = (*self._with_few_rules(folder, options), "--rules", str(few_rules(folder)))
        self.socket = folder / "agent.sock"
        self.log_path = folder / "log"
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [
                *(*command, "-m", "minerwatch", "agent"),
                *(() if in_cluster else ("--no-kubernetes",)),
                *("--listen", "127.0.0.1:0", "--socket", str(self.socket)),
                *("--interval", "300ms", "--log-format", "json", *options),
            ],
            stderr=self._log,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )

    @staticmethod
    def _with_few_rules(folder: Path, options: tuple[str, ...]) -> tuple[str, ...]:
        if "--config" in options:
            config = Path(options[options.index("--config") + 1])
            assert OWN_RULES_ONLY in config.read_text(), "say so in the configuration"
            return options
        config = folder / "few-rules.yml"
        config.write_text(OWN_RULES_ONLY)
        return (*options, "--config", str(config))

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in whole_lines(self.log_path)]

    def line(self, event: str, **fields: object) -> dict[str, object]:
        """The first log line of this kind, waited for."""
        found: list[dict[str, object]] = []

        def said() -> bool:
            found[:] = [
                line
                for line in self.lines()
                if line["event"] == event
                and all(line.get(name) == value for name, value in fields.items())
            ]
            return bool(found)

        self.until(said)
        return found[0]

    def until(self, holds: Callable[[], object]) -> None:
        def holds_or_ended() -> object:
            assert self.process.poll() is None, self.log_path.read_text()
            return holds()

        until(holds_or_ended, self.log_path.read_text, every_s=0.1)

    def get(self, path: str) -> tuple[int, str]:
        address = str(self.line("watching")["metrics"]).removesuffix("/metrics")
        try:
            with urllib.request.urlopen(address + path) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def asked(self, path: str) -> bytes:
        """What it answers on its socket; a tick under way may be longer than a client waits."""

        def answered() -> list[bytes]:
            assert self.process.poll() is None, self.log_path.read_text()
            try:
                return [answer(self.socket, path)]
            except SnapshotError:
                return []

        return until(answered)[0]

    def statuses(self, path: str = "/snapshot") -> tuple[ContainerStatus, ...]:
        return decode(self.asked(path))

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


Start = Callable[..., RunningAgent]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[RunningAgent] = []

    def start_one(
        *options: str,
        command: Sequence[str] = _PYTHON,
        folder: Path | None = None,
        all_rules: bool = False,
    ) -> RunningAgent:
        if folder is None:
            folder = tmp_path / f"agent-{len(started)}"
            folder.mkdir()
        started.append(RunningAgent(folder, *options, command=command, all_rules=all_rules))
        return started[-1]

    yield start_one
    for agent in started:
        agent.close()


def test_a_miner_is_told_in_log_metrics_and_snapshot(
    start: Start, cgroups: CgroupFolders, programs: Programs
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{container_id('a1')}")
    agent = start()
    agent.line("watching")
    cgroups.put(programs.start("xmrig", "--password", "hunter2", *POOL, busy=True), folder)
    verdict = agent.line("verdict", container=container_id("a1")[:12])
    assert verdict["level"] in ("likely", "confirmed")
    assert "hunter2" not in agent.log_path.read_text()
    agent.until(lambda: f'container="{container_id("a1")[:12]}"' in agent.get("/metrics")[1])
    status = next(s for s in agent.statuses() if s.container == container_id("a1")[:12])
    assert status.level in ("likely", "confirmed")
    assert "--password … " in status.processes[0].command_line
    asked = agent.statuses("/snapshot/unmasked")
    whole = next(each for each in asked if each.container == container_id("a1")[:12])
    assert "--password hunter2 " in whole.processes[0].command_line
    told = json.dumps(verdict["findings"])
    assert "stratum+tcp://pool.supportxmr.com:3333" in told, "the words that matched"
    assert "--password" not in told, "and not the line around them"


def test_a_receiver_is_told_of_a_miner_while_another_is_away(
    start: Start, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{container_id('a7')}")
    with site(200) as served, site(200) as wordy:
        config = tmp_path / "notify.yml"
        urls = {"away": "http://127.0.0.1:1/closed", "chat": served.url, "wordy": wordy.url}
        notify: list[dict[str, object]] = []
        for name, url in urls.items():
            file = tmp_path / name
            file.write_text(url)
            pace = {"group_for": "100ms", "per_hour": 9999, "command_lines": name == "wordy"}
            notify.append({"name": name, "url_file": str(file), **pace})
        config.write_text(OWN_RULES_ONLY + json.dumps({"notify": notify})[1:-1] + "\n")
        agent = start("--config", str(config))
        agent.line("watching")
        cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)

        def ours() -> list[dict[str, object]]:
            every = (each for body in served.got for each in body["notices"])
            return [each for each in every if each["container"] == container_id("a7")[:12]]

        until(ours)
        (said,) = ours()
        assert said["level"] in ("likely", "confirmed")
        assert "pool.supportxmr.com" not in json.dumps(served.got)
        until(lambda: "pool.supportxmr.com" in json.dumps(wordy.got))
        failure = 'minerwatch_probe_failures_total{probe="notify away",reason="unreachable"}'
        agent.until(lambda: failure in agent.get("/metrics")[1])
        assert agent.get("/healthz")[0] == 200


def test_a_socket_that_is_removed_comes_back(start: Start) -> None:
    agent = start()
    agent.line("watching")
    agent.socket.unlink()
    agent.line("socket removed: listening again")
    assert agent.statuses()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_is_restarted_knows_since_when(
    start: Start, cgroups: CgroupFolders, programs: Programs, tmp_path: Path, how: int
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{container_id('a2')}")
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)

    def since(agent: RunningAgent) -> str:
        agent.line("verdict", container=container_id("a2")[:12])
        every = agent.statuses()
        return next(each.since for each in every if each.container == container_id("a2")[:12])

    first = start(folder=tmp_path)
    began = since(first)
    first.until((tmp_path / "since.json").exists)
    first.stop(how)
    time.sleep(1.5)  # what is shown has whole seconds
    assert since(start(folder=tmp_path)) == began


def test_it_is_alive_ready_and_stops_cleanly(start: Start) -> None:
    agent = start()
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    assert agent.get("/healthz") == (200, "ok\n")
    assert agent.get("/snapshot")[0] == 404  # command lines leave through the socket only
    assert agent.socket.stat().st_mode & 0o777 == 0o600
    assert agent.stop() == 0
    assert not agent.socket.exists()
    assert agent.lines()[-1]["event"] == "stopping"


def test_it_says_what_it_is_on_the_socket_only(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(OWN_RULES_ONLY + "culling: {mode: dry-run}\nprobes: {execs: false}\n")
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "broken.yml").write_text("title: [")
    agent = start("--config", str(config), "--rules", str(folder))
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    loaded = agent.line("watching")["rules"]
    said = decode_agent(agent.asked("/status"))
    assert said.version == __version__
    assert (said.culling, said.interval_s, said.broken_rules) == ("dry-run", 0.3, 1)
    assert sum(said.rules.values()) == loaded
    assert set(said.rules) <= {"stable", "test", "experimental"}
    assert said.probes_off["execs"] == "switched off (probes.execs)"
    since_s = time.time() - datetime.fromisoformat(said.started).timestamp()
    assert -2 < since_s < PATIENCE_S
    assert (said.not_ready, said.cluster, said.failing) == ("", None, {})
    assert said.last_tick is not None
    assert said.last_tick.processes > 0
    assert said.rejected[0].startswith(f"{folder}/broken.yml:")
    states = {probe.name: probe.state for probe in said.probes}
    assert states["execs"] == "off"
    assert set(states) > {"tasks", "executed_code", "connections", "canary"}
    assert agent.get("/status")[0] == 404


@needs_root
def test_status_counts_containers_on_the_hosts_network(
    start: Start, cgroups: CgroupFolders, programs: Programs
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{container_id('c7')}")
    cgroups.put(programs.start("shared", busy=True), folder)
    agent = start()

    def remark() -> str:
        probes = decode_agent(agent.asked("/status")).probes
        return next(each.reason for each in probes if each.name == "pod_network")

    agent.until(lambda: agent.get("/readyz")[0] == 200)
    agent.until(lambda: re.fullmatch(r"blind to \d+ containers? on the host's network", remark()))


def test_ctrl_c_stops_it_too(start: Start) -> None:
    agent = start()
    agent.line("watching")
    assert agent.stop(signal.SIGINT) == 0


def test_it_stops_while_it_waits_for_a_long_interval(start: Start) -> None:
    agent = start("--interval", "1h")
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    assert agent.stop() == 0


@pytest.mark.parametrize("taken", ["socket", "address"])
def test_a_second_agent_says_so_in_one_line(start: Start, taken: str) -> None:
    first = start()
    address = str(first.line("watching")["metrics"]).split("/")[2]
    again = ("--socket", str(first.socket)) if taken == "socket" else ("--listen", address)
    second = start(*again)
    assert second.process.wait(timeout=PATIENCE_S) == 1
    (line,) = second.log_path.read_text().splitlines()
    assert line.startswith("minerwatch: ")
    assert "another agent" in line
    first.get("/healthz")


def test_changed_rules_are_picked_up_and_broken_ones_are_said_once(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    agent = start("--rules", str(folder))
    before = agent.line("watching")["rules"]
    assert isinstance(before, int)
    (folder / "one.yml").write_text(_RULE)
    assert agent.line("rules loaded")["rules"] == before + 1
    (folder / "one.yml").write_text("title: [")
    said = agent.line("rule file cannot be used")
    assert f"{folder}/one.yml:2: not YAML" in str(said["reason"])
    agent.until(
        lambda: "minerwatch_rules_reload_failures_total 0.0" not in agent.get("/metrics")[1]
    )
    assert agent.line("rules loaded", broken=1)["rules"] == before + 1  # the old one stays in force
    time.sleep(1)
    assert sum(line["event"] == "rule file cannot be used" for line in agent.lines()) == 1


def _word_rule(identifier: str, title: str, value: str) -> str:
    return f"""
title: {title}
id: {identifier}
status: test
logsource: {{product: linux, category: process_creation}}
detection: {{s: {{{value}}}, condition: s}}
level: critical
minerwatch: {{signal: identity}}
"""


def test_what_private_folders_say_is_told_by_ids_only(
    start: Start, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    for folder in (shown, hidden):
        (folder / "lists").mkdir(parents=True)
    by_list, own = "0bb5fa29-6c53-4f67-8fc0-a53f9c3f2a6e", "6c1f6f0e-3a4c-4f0f-9d53-3d8f1c3c1f0b"
    (shown / "lists" / "rivals.txt").write_text("somebody-known\n")
    # By two arguments: what holds by one counts only once its process has computed for long.
    asked = "CommandLine|contains|expand: '%rivals%', CommandLine|endswith: quagga"
    (shown / "one.yml").write_text(_word_rule(by_list, "A rival", asked))
    (hidden / "lists" / "rivals.txt").write_text("zebrafink\n")
    asked = "CommandLine|contains: zebrafink, CommandLine|endswith: quagga"
    (hidden / "own.yml").write_text(_word_rule(own, "Zebrafink", asked))
    (hidden / "broken.yml").write_text("title: Zebrafink\nid: [zebrafink\n")
    (hidden / "wrong.yml").write_text(_word_rule(own, "Zebrafink", "Zebrafink|re: '(?=zebrafink)'"))
    (hidden / "good.yar").write_text('rule Zebra { strings: $a = "zebrafink" condition: $a }')
    (hidden / "broken.yar").write_text("rule Zebrafink { condition: zebrafink }")
    config = tmp_path / "config.yml"
    config.write_text(OWN_RULES_ONLY + f"rules: [{shown}]\nprivate_rules: [{hidden}]\n")
    agent = start("--config", str(config))
    agent.line("watching")
    folder = cgroups.make(f"{TOP}/docker/{container_id('a2')}")
    cgroups.put(programs.start("worker", "zebrafink", "quagga", busy=True), folder)
    findings = agent.line("verdict", container=container_id("a2")[:12])["findings"]
    assert isinstance(findings, list)
    told = {each["rule"]: each for each in findings}
    for identifier in (by_list, own):
        assert told[identifier]["title"] == f"private rule {identifier}"
        assert told[identifier]["evidence"] == {}
    agent.until(lambda: f'rule="{own}"' in agent.get("/metrics")[1])
    broken = {
        str(line["reason"]).split(":")[0]
        for line in agent.lines()
        if line["event"] == "rule file cannot be used"
    }
    assert {Path(path).name for path in broken} == {"broken.yml", "wrong.yml", "broken.yar"}
    assert "zebra" not in agent.log_path.read_text().lower()
    assert "zebra" not in agent.get("/metrics")[1].lower()
    status = next(s for s in agent.statuses() if s.container == container_id("a2")[:12])
    assert "Zebrafink" in {finding.title for finding in status.findings}  # root may know


def test_sighup_reads_the_configuration_again(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(OWN_RULES_ONLY + "interval: 1h\n")
    agent = start("--config", str(config))
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    config.write_text("intervall: 1s\n")
    agent.process.send_signal(signal.SIGHUP)
    said = agent.line("configuration not reloaded")
    assert "intervall" in str(said["reason"])
    (tmp_path / "rules").mkdir()
    own = f"rules: [{tmp_path}/rules]\njudgement: {{ticks_below: 5}}\n"
    config.write_text(OWN_RULES_ONLY + own)
    (tmp_path / "rules" / "one.yml").write_text(_RULE)
    agent.process.send_signal(signal.SIGHUP)
    before = agent.line("watching")["rules"]
    assert isinstance(before, int)
    agent.line("rules loaded", rules=before + 1)
    assert agent.line("a changed setting needs a restart")["key"] == "judgement"


def test_a_wrong_setting_is_one_line_and_status_2(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(OWN_RULES_ONLY + "node: {prok: /proc}\n")
    agent = start("--config", str(config))
    assert agent.process.wait(timeout=PATIENCE_S) == 2
    (line,) = agent.log_path.read_text().splitlines()
    assert line.startswith(f"minerwatch: {config}:2: node.prok: unknown key")
    assert "prok" in line


def test_a_tick_that_fails_is_counted_and_the_next_one_comes(start: Start, tmp_path: Path) -> None:
    node = tmp_path / "node"
    shutil.copytree(
        Path(__file__).parents[1] / "fixtures" / "nodes" / "docker-systemd-v2", node, symlinks=True
    )
    config = tmp_path / "config.yml"
    config.write_text(OWN_RULES_ONLY + f"node: {{proc: {node}/proc, sys: {node}/sys}}\n")
    agent = start("--config", str(config))
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    shutil.rmtree(node / "sys")  # what no kernel would do
    agent.until(lambda: "tick_duration_seconds_count" in agent.get("/metrics")[1])
    assert agent.process.poll() is None
    assert agent.stop() == 0


WITH_A_FAULT = """
import sys
from functools import partial
from minerwatch.agent import daemon
from minerwatch.node.tcp_connections import ConnectionReader
def fails(_reader):
    raise ZeroDivisionError("a fault of its own")
ConnectionReader._serve = fails
daemon.run = partial(daemon.run, runtime=daemon.Runtime(max_worker_down_s=1.0))
sys.argv = ["minerwatch", *sys.argv[3:]]
from minerwatch.cli.main import main
main()
"""


@needs_root
def test_a_thread_that_fails_again_and_again_is_seen_and_the_others_go_on(start: Start) -> None:
    agent = start(command=(sys.executable, "-c", WITH_A_FAULT))
    failed = agent.line("connections failed")
    assert failed["error"] == repr(ZeroDivisionError("a fault of its own"))
    agent.until(lambda: "connections" in agent.get("/readyz")[1])
    assert agent.get("/readyz")[0] == 503
    assert agent.get("/healthz")[0] == 200  # a restart would not help, and loses what is known
    agent.until(lambda: 'minerwatch_probe_up{probe="connections"} 0.0' in agent.get("/metrics")[1])
    metrics = agent.get("/metrics")[1]
    assert 'minerwatch_worker_up{worker="connections"} 0.0' in metrics
    assert 'minerwatch_worker_up{worker="http"} 1.0' in metrics
    assert (
        'minerwatch_probe_failures_total{probe="connections",reason="ZeroDivisionError"}' in metrics
    )
    assert [line["event"] for line in agent.lines()].count("connections failed") == 1
    assert agent.stop() == 0


@needs_root
def test_without_root_it_runs_and_says_once_what_it_cannot_see(start: Start) -> None:
    command = _python_as_nobody()
    if command is None:
        pytest.skip(
            "needs setpriv, and a Python and a checkout that other users can read: run it there"
        )
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        agent = start(command=command, folder=folder)
        agent.until(lambda: agent.get("/readyz")[0] == 200)
        time.sleep(1)
        reasons = [
            str(line["reason"])
            for line in agent.lines()
            if line["event"] == "cannot see everything"
        ]
        assert any("SYS_PTRACE" in reason for reason in reasons)
        assert any("DAC_READ_SEARCH" in reason for reason in reasons)
        assert len(reasons) == len(set(reasons))
        assert agent.stop() == 0


def test_cgroups_by_the_thousand_are_told_and_hide_no_miner(
    start: Start, cgroups: CgroupFolders, programs: Programs
) -> None:
    user = f"{TOP}/user.slice/user-1000.slice/user@1000.service"
    for number in range(4100):
        cgroups.make(f"{user}/{number:064x}")
    agent = start(all_rules=True)
    agent.until(lambda: "minerwatch_cgroups_over_bound 1.0" in agent.get("/metrics")[1])
    miner = programs.start("xmrig", *POOL, busy=False)
    pod = f"{TOP}/kubepods/pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11/{container_id('a1')}"
    cgroups.put(miner, cgroups.make(pod))
    agent.line("verdict", cgroup=pod, level="likely")
    assert agent.get("/readyz")[0] == 200
    (found,) = (each for each in agent.statuses() if each.cgroup == user)
    assert [finding.title for finding in found.findings] == ["More cgroups than can be kept apart"]
    assert found.level == "suspicious"
    assert agent.stop() == 0


@needs_root
@pytest.mark.parametrize("hidepid", ["noaccess", "invisible"])
def test_it_is_not_ready_where_proc_hides_what_it_is_to_watch(start: Start, hidepid: str) -> None:
    command = _python_as_nobody()
    if command is None:
        pytest.skip(
            "needs setpriv, and a Python and a checkout that other users can read: run it there"
        )
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "proc").mkdir()
        own = f"node: {{proc: {folder}/proc}}\n"
        (folder / "config.yaml").write_text(OWN_RULES_ONLY + own)
        mount = f"mount -t proc -o hidepid={hidepid} proc {folder}/proc"
        in_namespace = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
        if subprocess.run((*in_namespace, "true"), check=False, capture_output=True).returncode:
            pytest.skip("proc cannot be mounted with hidepid here: run it as root with SYS_ADMIN")
        agent = start(
            "--config",
            str(folder / "config.yaml"),
            command=(*in_namespace, *command),
            folder=folder,
        )
        agent.until(lambda: "hidepid" in agent.get("/readyz")[1])
        assert agent.get("/readyz")[0] == 503
        assert agent.get("/healthz")[0] == 200
        assert agent.stop() == 0


def _python_as_nobody() -> tuple[str, ...] | None:
    """A command that runs Python with minerwatch as a user who owns nothing."""
    packages = sysconfig.get_path("purelib")
    elsewhere = ("env", f"PYTHONPATH={packages}:{Path.cwd()}", "/usr/bin/python3")
    for python in (_PYTHON, elsewhere):
        command = (*_NOBODY, *python)
        try:
            imports = [*command, "-c", "import minerwatch.cli.main, re2, ahocorasick, msgspec"]
            if subprocess.run(imports, check=False, capture_output=True).returncode == 0:
                return command
        except FileNotFoundError:
            return None
    return None


_RULE = """
title: Only for this test
id: 5b7d4b3a-0d43-4f41-8a3d-0c4b5f1d2e3f
status: experimental
logsource: {product: linux, category: process_creation}
detection: {s: {Comm: nothing-is-called-so}, condition: s}
level: low
"""


def test_hostile_names_break_no_line(start: Start, programs: Programs, tmp_path: Path) -> None:
    evil = 'xmrig\n{"event":"forged"}\x1b[2J' + "\u202e"
    programs.start(evil, *POOL, "x\ny\x07", busy=False)
    raw = programs.run(
        [os.fsencode(shutil.which("sleep") or "sleep"), b"60", b"\xff\xfe stratum+tcp://x:1 -u a"]  # type: ignore[list-item]
    )
    assert raw.poll() is None or raw.returncode
    agent = start()
    agent.line("verdict")
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    assert all(line["event"] != "forged" for line in agent.lines())
    for line in agent.get("/metrics")[1].splitlines():
        assert "\x1b" not in line
    agent.statuses("/snapshot/full")


def test_a_miner_is_told_as_it_starts_not_at_the_next_tick(
    start: Start, cgroups: CgroupFolders, programs: Programs
) -> None:
    agent = start("--interval", "1h")
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    if not any(line["event"] == "probe is on" for line in agent.lines()):
        pytest.skip(f"run it as root of a host: {agent.line('probe is off')['reason']}")
    # in a container that no tick has seen, by a process that is gone at once
    folder = cgroups.make(f"{TOP}/docker/{container_id('c3')}")
    script = f"echo $$ > {folder}/cgroup.procs; exec env true stratum+tcp://x.y:1 -u a -p x"
    subprocess.run(["sh", "-c", script], check=True)
    programs.start("xmrig", *POOL, busy=True)
    verdict = agent.line("verdict", previous_level="clear")
    assert verdict["level"] in ("suspicious", "likely", "confirmed")
    agent.until(lambda: "minerwatch_exec_events_total 0.0" not in agent.get("/metrics")[1])
    assert "minerwatch_exec_events_lost_total 0.0" in agent.get("/metrics")[1]


def test_who_could_not_be_read_as_it_started_is_read_before_the_next_tick(
    start: Start, programs: Programs, tmp_path: Path
) -> None:
    """The agent may open no file while a process that it knows becomes a miner."""
    miner = shutil.copy(shutil.which("dash") or "/bin/sh", tmp_path / "xmrig")
    becomes = f"read go; exec {miner} -c 'read stop' {' '.join(POOL)}"
    process = programs.run(["sh", "-c", becomes])
    agent = start("--interval", "1h")
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    if not any(line["event"] == "probe is on" for line in agent.lines()):
        pytest.skip(f"run it as root of a host: {agent.line('probe is off')['reason']}")
    limits = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    assert process.stdin
    process.stdin.write(b"go\n")
    process.stdin.flush()
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "xmrig\n")
    until_burnt(agent.process.pid, 0.05)  # it has tried by then
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, limits)
    agent.until(
        lambda: any(
            line["event"] == "verdict" and f'"pid": {process.pid}' in json.dumps(line["findings"])
            for line in agent.lines()
        )
    )
    assert 'reason="unreadable"' in agent.get("/metrics")[1]


_CANARY = re.compile(
    r'^minerwatch_canary_last_seen_timestamp_seconds\{planted="(\w+)"\} (\S+)$', re.MULTILINE
)


def _canaries(agent: RunningAgent) -> dict[str, float]:
    return {planted: float(at) for planted, at in _CANARY.findall(agent.get("/metrics")[1])}


@needs_root
def test_it_proves_again_and_again_that_it_would_see_a_miner(
    start: Start, cgroups: CgroupFolders
) -> None:
    own = cgroups.make(f"{TOP}/docker/{container_id('ca')}")
    join = f'echo $$ > {own}/cgroup.procs && exec "$@"'
    agent = start(command=("sh", "-c", join, "sh", sys.executable), all_rules=True)
    agent.line("probe is on", probe="canary")
    agent.until(lambda: _canaries(agent)["agent"] > 0)
    seen = _canaries(agent)
    assert seen["elsewhere"] != seen["agent"]  # others may plant some at the same time
    verdicts = (line for line in agent.lines() if line["event"] == "verdict")
    assert container_id("ca")[:12] not in {verdict["container"] for verdict in verdicts}  # no alarm
    agent.until(lambda: not _children(agent.process.pid))  # it is taken away when it was seen


@pytest.mark.nightly
@needs_root
def test_a_canary_that_somebody_else_plants_is_found_too(
    start: Start, cgroups: CgroupFolders
) -> None:
    own = cgroups.make(f"{TOP}/docker/{container_id('ca')}")
    other = cgroups.make(f"{TOP}/docker/{container_id('cb')}")
    agent = start(
        command=("sh", "-c", f'echo $$ > {own}/cgroup.procs && exec "$@"', "sh", sys.executable),
        all_rules=True,
    )
    agent.line("watching")
    for options in (
        ("--socket", str(agent.socket)),
        ("--metrics", str(agent.line("watching")["metrics"])),
    ):
        found = subprocess.run(
            [
                *("sh", "-c", f'echo $$ > {other}/cgroup.procs && exec "$@"', "sh"),
                *(sys.executable, "-m", "minerwatch", "canary", "--timeout", "120s", *options),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert re.fullmatch(r"found after \d+\.\d s\n", found.stdout), found.stderr
    assert _canaries(agent)["elsewhere"] > 0


def test_a_canary_where_nobody_looks_is_a_failure_in_one_line(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "minerwatch", "canary", "--socket", str(tmp_path / "none.sock")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    assert asked.stderr == f"minerwatch: no agent is listening on {tmp_path}/none.sock\n"


_ACTS_AT_ONCE = """
import runpy, sys
from minerwatch.agent import daemon
from minerwatch.culling.records import ActionRecord
from minerwatch.model import Action, Outcome

class ActsAtOnce(daemon.CullSwitch):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        more["on_outcome"](ActionRecord(
            id="a1", unix_s=1.0, monotonic_s=1.0, boot_id="b", node="n", namespace="binder",
            pod="eve", pod_uid="u", owner="eve", action=Action.EVICT, rung=0, dry_run=False,
            outcome=Outcome.DONE,
        ))

daemon.CullSwitch = ActsAtOnce
del sys.argv[1:3]
runpy.run_module("minerwatch", run_name="__main__")
"""


def test_an_action_that_ends_before_all_is_open_is_published(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    with site(200) as receiver:
        (tmp_path / "url").write_text(receiver.url)
        config.write_text(
            f"{OWN_RULES_ONLY}notify: [{{name: chat, url_file: {tmp_path}/url, group_for: 1s}}]\n"
        )
        agent = RunningAgent(
            tmp_path,
            *("--config", str(config), "--journal", str(tmp_path / "journal")),
            command=(sys.executable, "-c", _ACTS_AT_ONCE),
            all_rules=False,
        )
        with closing(agent):
            _, metrics = agent.get("/metrics")
            assert 'minerwatch_actions_total{action="evict",outcome="done"} 1' in metrics
            agent.until(lambda: receiver.got)
            written = (tmp_path / "journal" / "verdicts.jsonl").read_text()
            assert '"action":"evict"' in written


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
