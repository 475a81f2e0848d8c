"""The real agent for many ticks, while all that can go wrong around it does.

Processes and cgroups come and go, rule files change and break, clients misbehave, the API server
vanishes and returns, the clock is stepped; memory, files and CPU are short. Miners are planted all
the while. What is asked of the agent: that it lives, that the kubelet would let it live, that it
tells each of them within the bound that the documentation gives, and that its own metrics say what
happened. What is done follows from a seed; when, among the other things done, does not.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import string
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from minerwatch.api.client import answer
from minerwatch.errors import SnapshotError
from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import CGROUPS, cgroup_root
from tests.kube.api_server import Answering, ApiServer, Dripping, Dropping, Hanging, pod_json
from tests.kube.conftest import write_kubeconfig
from tests.soak.counted_ticks import TICK_ENDED

NODE = "soak-node"
TOLD_WITHIN_TICKS = 3
"""A miner that names itself is told as it starts, or else by a tick that begins after its start.

So until the verdict there end the tick under way and that one; and one more where there was no
time left to read its command line, as under a CPU quota.
"""

_RULE = """\
title: {title}
id: {id}
status: experimental
logsource: {{product: linux, category: process_creation}}
detection: {{s: {{CommandLine|contains: '{word}'}}, condition: s}}
level: low
"""
_PLANTED = "f" * 52
_KUBELET_EVERY_S = 3.0
_KUBELET_WAITS_S = 5.0
KUBELET_FORGIVES = 2
"""Liveness probes in a row that may fail; at one more the agent is killed (values.yaml, probes)."""
_NO_TICK_S = 300.0
_FAILURES = "minerwatch_probe_failures_total"
_PROBES_WITH_CHILDREN = ("rules", "content", "processes", "rounding", "mappings", "connections")
_CLOCK_STEPS_S = (3600, -3600, 86_400 * 400, -86_400 * 400, 0, 1, -1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the agent has to live with; None: no limit."""

    memory_mib: int | None = 80  # children and page cache included
    cpu_cores: float | None = 0.05
    files: int = 256


@dataclass(slots=True)
class Planted:
    """One miner, and when it was told."""

    container: str
    ticks: int  # that ended until the verdict
    seconds: float


@dataclass(slots=True)
class Outcome:
    """What a soak brought."""

    planted: list[Planted] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    ticks: int = 0
    peak_memory_mib: float = 0.0  # of the cgroup, children and page cache included
    peak_resident_mib: float = 0.0  # of the agent alone
    out_of_memory_kills: int = 0
    throttled_periods: int = 0
    clock_off_s: float = 0.0  # by which a tick's time stamp was, at most
    kubelet_failures: int = 0  # liveness probes that failed in a row, at most
    done: dict[str, int] = field(default_factory=dict)  # disturbance -> how often
    counted: dict[str, float] = field(default_factory=dict)  # counters that are not 0
    faults: list[str] = field(default_factory=list)  # log lines of errors that nobody foresaw
    exit_status: int | None = None

    def broken_promises(self, *, in_cluster: bool) -> list[str]:
        """What the agent should have done and did not; empty where all is well."""
        late = [each for each in self.planted if each.ticks > TOLD_WITHIN_TICKS]
        promises = {
            "no miner was planted": not self.planted,
            f"it told {late} after more than {TOLD_WITHIN_TICKS} ticks": late,
            f"it never told {self.missed}": self.missed,
            f"its log says {self.faults[:3]}": self.faults,
            f"it ended with status {self.exit_status}": self.exit_status != 0,
            "the kubelet would have killed it": self.kubelet_failures > KUBELET_FORGIVES,
        }
        broken = [said for said, is_broken in promises.items() if is_broken]
        return broken + [f"its metrics do not tell of {what}" for what in self._untold(in_cluster)]

    def _untold(self, in_cluster: bool) -> list[str]:
        told = self._sum("minerwatch_verdicts_total", "likely", "confirmed")
        has_happened = {
            "the miners": (told >= len(self.planted), True),
            "broken rules": (self._sum("minerwatch_rules_reload_failures_total"), True),
            "abusive clients": (self._sum(_FAILURES, "http"), True),
            "the API server": (self._sum(_FAILURES, "pods"), in_cluster),
            "a child that was killed": (
                self._sum(_FAILURES, *_PROBES_WITH_CHILDREN),
                self.out_of_memory_kills > 0,
            ),
        }
        return [what for what, (is_told, is_so) in has_happened.items() if is_so and not is_told]

    def _sum(self, name: str, *values: str) -> float:
        """Of the counter's series that have one of these label values; of all without any."""
        return sum(
            count
            for series, count in self.counted.items()
            if series.startswith(name)
            and (not values or any(f'"{value}"' in series for value in values))
        )


class Soak:
    """One agent, what is done to it, and what it said."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        interval_s: float,
        limits: Limits,
        in_cluster: bool,
    ) -> None:
        """``in_cluster``: with an API server, of which there is trouble, too."""
        self._folder = folder
        self._in_cluster = in_cluster
        self._seed = seed
        self._interval_s = interval_s
        self._limits = limits
        self._ending = threading.Event()
        self._outcome = Outcome()
        self._failed_in_a_row = 0
        self._problems: list[BaseException] = []
        self._containers = cgroup_root() / f"minerwatch-soak-{os.getpid()}" / "docker"
        self._rules = folder / "rules"
        self._clock = folder / "clock"

    def run(self, seconds: float) -> Outcome:
        """Everything at once for that long, then what came of it."""
        with ExitStack() as stack:
            self._prepare(stack)
            api = stack.enter_context(ApiServer(bookmark_s=1.0))
            agent = self._started(stack, api)
            disturbances = self._disturbances(agent, api)
            threads = [threading.Thread(target=self._guarded, args=(d,)) for d in disturbances]
            for thread in threads:
                thread.start()
            try:
                self._plant_until(agent, time.monotonic() + seconds)
            finally:
                self._ending.set()
                for thread in threads:
                    thread.join()
            if not self._is_listening(api):
                api.listen()
            api.behave()
            self._settle(agent)
            self._collect(agent)
            self._outcome.exit_status = agent.stop()
        if self._problems:
            raise self._problems[0]
        return self._outcome

    # The agent and what it is confined to.

    def _prepare(self, stack: ExitStack) -> None:
        self._rules.mkdir()
        self._clock.write_bytes(struct.pack("l", 0))
        self._containers.mkdir(parents=True)
        stack.callback(_remove_below, self._containers.parent)

    def _started(self, stack: ExitStack, api: ApiServer) -> RunningAgent:
        kubeconfig = write_kubeconfig(self._folder / "kubeconfig", api.url, "t")
        settings = self._folder / "config.yaml"
        settings.write_text(
            f"node: {{name: {NODE}, units: true}}\n"
            f"kubernetes: {{enabled: {str(self._in_cluster).lower()}, kubeconfig: {kubeconfig}}}\n"
            f"rules: [{self._rules}]\n"
        )
        command = [*self._environment(), sys.executable, "-m", "tests.soak.counted_ticks"]
        places = stack.enter_context(_confined(self._limits))
        agent = RunningAgent(
            self._folder,
            *("--config", str(settings), "--interval", f"{self._interval_s:g}s"),
            command=[*_entering(places), *command],
            in_cluster=self._in_cluster,
        )
        stack.callback(agent.close)
        self._places = places
        # a start takes a second of CPU: with 50 m that is half a minute
        self._until(agent, lambda: any(line["event"] == "watching" for line in agent.lines()), 180)
        self._until(agent, lambda: agent.get("/readyz")[0] == 200, 60)
        return agent

    def _environment(self) -> list[str]:
        files = self._limits.files
        preload = _preloaded_clock(self._folder)
        clock = [f"LD_PRELOAD={preload}", f"SOAK_CLOCK={self._clock}"] if preload else []
        return ["prlimit", f"--nofile={files}:{files}", "env", *clock]

    # What is done to it.

    def _disturbances(self, agent: RunningAgent, api: ApiServer) -> list[Callable[[], None]]:
        port = int(str(agent.line("watching")["metrics"]).split(":")[2].split("/")[0])
        works: dict[str, tuple[float, Callable[[random.Random], None]]] = {
            "processes": (0.05, self._churn_processes),
            "cgroups": (0.05, self._churn_cgroups),
            "rules": (2.0, self._change_rules),
            "clients": (0.2, lambda chance: self._abuse(chance, port, agent.socket)),
            "API server": (1.0, lambda chance: self._trouble(chance, api)),
            "clock": (1.5, self._step_clock),
            "kubelet": (_KUBELET_EVERY_S, lambda _: self._probe_as_the_kubelet(port)),
            "memory": (0.2, lambda _: self._watch_memory(agent)),
        }
        return [
            partial(self._again, name, pause_s, work) for name, (pause_s, work) in works.items()
        ]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            self._problems.append(error)

    def _again(self, name: str, pause_s: float, work: Callable[[random.Random], None]) -> None:
        """Each with chances of its own: what it does depends on the seed, not on the others."""
        chance = random.Random(f"{self._seed} {name}")
        while not self._ending.wait(pause_s * chance.uniform(0.5, 1.5)):
            work(chance)
            self._outcome.done[name] = self._outcome.done.get(name, 0) + 1

    def _churn_processes(self, chance: random.Random) -> None:
        folders = [each for each in self._containers.iterdir() if each.is_dir()] or [
            self._containers
        ]
        target = chance.choice(folders)
        words = " ".join(self._words(chance, chance.randint(0, 40)))
        script = f"echo $$ >{_quoted(target)}/cgroup.procs 2>/dev/null; exec true {_quoted(words)}"
        subprocess.run(["sh", "-c", script], check=False, stderr=subprocess.DEVNULL)

    def _words(self, chance: random.Random, count: int) -> list[str]:
        odd = ("--donate-level", "-o", "pool", "\x1b[2J", "\u202e", "x" * 3000, "ſ", "%n", "${IFS}")
        plain = string.ascii_letters + "-=/.:"
        return [
            chance.choice(odd) if chance.random() < 0.2 else "".join(chance.choices(plain, k=8))
            for _ in range(count)
        ]

    def _churn_cgroups(self, chance: random.Random) -> None:
        made = [p for p in self._containers.iterdir() if p.is_dir() and not _is_planted(p.name)]
        if len(made) > 200 or (made and chance.random() < 0.45):
            _remove_below(chance.choice(made))
            return
        name = chance.choice(
            [f"{chance.getrandbits(255):064x}", "a\tb" + "x" * 20, "\x1b[31m", "…" * 20]
        )
        with suppress(OSError):
            (self._containers / name).mkdir()
            for depth in range(chance.choice((0, 0, 0, 3, 12))):
                (self._containers / name / "/".join("d" * (depth + 1))).mkdir()

    def _change_rules(self, chance: random.Random) -> None:
        path = self._rules / f"rule-{chance.randrange(4)}.yml"
        _remove_any(path)
        number = chance.getrandbits(48)
        good = _RULE.format(
            title=f"rule {number}",
            id=f"00000000-0000-4000-8000-{number:012x}",
            word=f"word{number}",
        )
        match chance.randrange(8):
            case 0 | 1 | 2:
                path.write_text(good)
            case 3:
                path.write_text(good[: chance.randrange(len(good))])
            case 4:
                path.write_bytes(chance.randbytes(2000))
            case 5:
                path.mkdir()
            case 6:
                (self._rules / "a.yar").write_text(
                    chance.choice(("rule a { condition: false }", "rule a {", ""))
                )
            case 7:
                os.mkfifo(path)

    def _abuse(self, chance: random.Random, port: int, path: Path) -> None:
        requests = (
            b"GET /metrics HTTP/1.1\r\n\r\n",
            b"GET /snapshot/full HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nA: b",
            chance.randbytes(3000),
            b"A" * 20_000,
            b"",
        )
        clients: list[socket.socket] = []
        for _ in range(chance.randint(1, 12)):
            with suppress(OSError):
                if chance.random() < 0.7:
                    own = (f"127.0.1.{chance.randint(1, 4)}", 0)
                    client = socket.create_connection(("127.0.0.1", port), 1, own)
                else:
                    client = socket.socket(socket.AF_UNIX)
                    client.settimeout(1)
                    client.connect(str(path))
                clients.append(client)
                client.sendall(chance.choice(requests))
        self._ending.wait(chance.choice((0, 0, 0.2, 1.0)))
        for client in clients:
            with suppress(OSError):
                if chance.random() < 0.5:
                    client.recv(1000)
            client.close()

    def _trouble(self, chance: random.Random, api: ApiServer) -> None:
        uid = f"00000000-0000-4000-8000-{chance.randrange(50):012}"
        match chance.randrange(8):
            case 0:
                api.vanish()
                self._ending.wait(chance.uniform(0, 2))
                api.listen()
            case 1:
                api.cut_streams()
            case 2:
                api.forget_history()
            case 3:
                status = chance.choice((401, 403, 410, 429, 500, 503))
                api.misbehave(Answering(status), times=2)
            case 4:
                api.send_raw(chance.randbytes(200) + b"\n")
            case 5:
                how = chance.choice((Dropping(b"{"), Hanging(1.0), Dripping(5)))
                api.misbehave(how, times=1)
            case _:
                api.put(pod_json(f"pod-{uid[-2:]}", namespace="n", uid=uid, node=NODE))

    def _probe_as_the_kubelet(self, port: int) -> None:
        """From an address of its own, like the kubelet's: that of no pod."""
        asked = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=_KUBELET_WAITS_S, source_address=("127.0.0.2", 0)
        )
        is_alive = False
        with suppress(OSError, http.client.HTTPException):
            asked.request("GET", "/healthz")
            is_alive = asked.getresponse().status == 200
        asked.close()
        self._failed_in_a_row = 0 if is_alive else self._failed_in_a_row + 1
        worst = max(self._outcome.kubelet_failures, self._failed_in_a_row)
        self._outcome.kubelet_failures = worst

    def _step_clock(self, chance: random.Random) -> None:
        with self._clock.open("r+b") as file:
            file.write(struct.pack("l", chance.choice(_CLOCK_STEPS_S)))

    # Miners.

    def _plant_until(self, agent: RunningAgent, end_s: float) -> None:
        chance = random.Random(f"{self._seed} miners")
        number = 0
        while time.monotonic() < end_s and not self._problems:
            number += 1
            # of this soak: others may run at the same time
            own = f"{number:06x}{os.getpid() & 0xFFFFF:05x}{self._in_cluster:x}"
            self._plant(agent, own + _PLANTED)
            self._ending.wait(self._interval_s * chance.uniform(0.2, 1.0))

    def _plant(self, agent: RunningAgent, name: str) -> None:
        folder = self._containers / name
        folder.mkdir()
        program = self._folder / "xmrig"
        if not program.exists():
            shutil.copy(shutil.which("dash") or "/bin/sh", program)
        loop = f"exec {program} -c 'while :; do :; done' {' '.join(POOL)}"
        script = f"read go; echo $$ >{folder}/cgroup.procs; {loop}"
        with subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as miner:
            lines = _LinesSince(agent.log_path)
            began_s = time.monotonic()
            assert miner.stdin is not None
            miner.stdin.write(b"\n")
            miner.stdin.flush()
            try:
                ticks = self._ticks_until_told(agent, name[:12], lines)
            finally:
                miner.kill()
        if ticks is None:
            self._outcome.missed.append(name[:12])
        else:
            seconds = time.monotonic() - began_s
            self._outcome.planted.append(Planted(name[:12], ticks, seconds))
        _remove_below(folder)

    def _ticks_until_told(
        self, agent: RunningAgent, container: str, lines: _LinesSince
    ) -> int | None:
        """How many ticks had ended when it was told; None if it was not within some more."""
        until_s = time.monotonic() + _NO_TICK_S
        ticks = 0
        while time.monotonic() < until_s:
            for line in lines.read():
                if line["event"] == TICK_ENDED:
                    ticks += 1
                elif _tells(line, container):
                    return ticks
            if ticks > 3 * TOLD_WITHIN_TICKS:
                return None
            assert agent.process.poll() is None, agent.log_path.read_text()[-4000:]
            time.sleep(0.02)
        return None

    # What it says.

    def _ticks(self, agent: RunningAgent) -> int:
        return int(self._metrics(agent).get("minerwatch_tick_duration_seconds_count", 0))

    def _metrics(self, agent: RunningAgent) -> Mapping[str, float]:
        """By the Unix socket, for as long as it takes to get through all other clients."""
        until_s = time.monotonic() + 60
        while True:
            with suppress(SnapshotError):
                text = answer(agent.socket, "/metrics").decode()
                found = {
                    match[1]: float(match[2])
                    for match in re.finditer(
                        r"^(minerwatch_\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE
                    )
                }
                off_s = abs(found["minerwatch_last_tick_timestamp_seconds"] - time.time())
                self._outcome.clock_off_s = max(self._outcome.clock_off_s, off_s)
                return found
            assert agent.process.poll() is None, agent.log_path.read_text()[-4000:]
            assert time.monotonic() < until_s, "no metrics within a minute"
            time.sleep(0.02)

    def _settle(self, agent: RunningAgent) -> None:
        """Until a tick has begun and ended after all trouble was over, and the API is back."""
        ticks = self._ticks(agent)
        self._until(agent, lambda: self._ticks(agent) >= ticks + 2, 120)

    def _collect(self, agent: RunningAgent) -> None:
        outcome = self._outcome
        metrics = self._metrics(agent)
        outcome.ticks = int(metrics["minerwatch_tick_duration_seconds_count"])
        outcome.counted = {
            name: value for name, value in metrics.items() if "_total" in name and value
        }
        outcome.faults = [
            str(line) for line in agent.lines() if str(line["event"]).endswith(" failed")
        ]
        outcome.peak_memory_mib = self._places.peak_memory_mib()
        outcome.out_of_memory_kills = self._places.out_of_memory_kills()
        outcome.throttled_periods = self._places.throttled_periods()

    def _watch_memory(self, agent: RunningAgent) -> None:
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{agent.process.pid}/status").read_text()
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            self._outcome.peak_resident_mib = max(self._outcome.peak_resident_mib, peak)

    def _until(self, agent: RunningAgent, holds: Callable[[], bool], seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while True:
            with suppress(OSError):
                if holds():
                    return
            assert agent.process.poll() is None, agent.log_path.read_text()[-4000:]
            assert time.monotonic() < end_s, agent.log_path.read_text()[-4000:]
            time.sleep(0.05)

    def _is_listening(self, api: ApiServer) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(api.url[17:])), 1):
            return True
        return False


# The agent's own cgroups.


@dataclass(frozen=True, slots=True)
class Places:
    """Cgroups that the agent runs in, where this machine has the controllers."""

    memory: Path | None
    cpu: Path | None

    def peak_memory_mib(self) -> float:
        """All that was charged to it at once."""
        return _number(self.memory, "memory.max_usage_in_bytes", "memory.peak") / (1 << 20)

    def out_of_memory_kills(self) -> int:
        """Of its children, or of itself."""
        return int(_field(self.memory, "oom_kill", "memory.oom_control", "memory.events"))

    def throttled_periods(self) -> int:
        """How often it had used up its share of the CPU."""
        return int(_field(self.cpu, "nr_throttled", "cpu.stat"))


def _tells(line: Mapping[str, object], container: str) -> bool:
    return (
        line["event"] == "verdict"
        and line["container"] == container
        and line["level"] in ("likely", "confirmed")
    )


class _LinesSince:
    """What a log says from now on, line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.read_bytes().rfind(b"\n") + 1

    def read(self) -> list[dict[str, object]]:
        """The whole lines that have come since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            *lines, unfinished = file.read().split(b"\n")
            self._at = file.tell() - len(unfinished)
        return [json.loads(line) for line in lines]


@contextmanager
def _confined(limits: Limits) -> Iterator[Places]:
    name = f"minerwatch-soak-agent-{os.getpid()}"
    memory = _made("memory", name) if limits.memory_mib else None
    cpu = _made("cpu", name) if limits.cpu_cores else None
    if memory is not None:
        limit = str((limits.memory_mib or 0) << 20)
        _write(memory, ("memory.limit_in_bytes", limit), ("memory.max", limit))
    if cpu is not None:
        quota = int((limits.cpu_cores or 0) * 100_000)
        _write(cpu, ("cpu.cfs_quota_us", str(quota)), ("cpu.max", f"{quota} 100000"))
    try:
        yield Places(memory, cpu)
    finally:
        for place in {memory, cpu} - {None}:
            if place is not None:
                _remove_below(place)


def _made(controller: str, name: str) -> Path | None:
    """A cgroup with that controller: v1's own hierarchy, or v2's if it is passed down there."""
    root = CGROUPS / controller
    if not (root / "cgroup.procs").exists():
        root = CGROUPS
        with suppress(OSError):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        controllers = root / "cgroup.subtree_control"
        if not controllers.exists() or controller not in controllers.read_text().split():
            return None
    (root / name).mkdir(exist_ok=True)
    return root / name


def _write(folder: Path, *values: tuple[str, str]) -> None:
    for name, value in values:
        if (folder / name).exists():
            (folder / name).write_text(value)


def _entering(places: Places) -> list[str]:
    """A command that joins the cgroups and then becomes the one after it."""
    own = [str(place) for place in (places.memory, places.cpu) if place is not None]
    joins = "".join(f"echo $$ >{place}/cgroup.procs; " for place in own)
    return ["sh", "-c", joins + 'exec "$@"', "sh"]


def _number(folder: Path | None, *names: str) -> float:
    for name in names:
        if folder is not None and (folder / name).exists():
            return float((folder / name).read_text())
    return 0.0


def _field(folder: Path | None, key: str, *names: str) -> float:
    for name in names:
        if folder is not None and (folder / name).exists():
            words = (folder / name).read_text().split()
            found = dict(zip(words[::2], words[1::2], strict=False))
            return float(found.get(key, 0))
    return 0.0


# Small things.


def _is_planted(name: str) -> bool:
    return name.endswith(_PLANTED)


def _preloaded_clock(folder: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def _remove_below(folder: Path) -> None:
    """A cgroup with all below it and its processes, but for those that do not end."""
    for place in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        _remove_one(place)
    _remove_one(folder)


def _remove_one(place: Path) -> None:
    for _ in range(40):
        with suppress(OSError):
            for pid in (place / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            place.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return


def _remove_any(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "'\\''") + "'"
