"""Run inside a guest: the agent with every probe, a named miner and RandomX, under its cgroups.

    python3 -m tests.kernels.guest LAYOUT LIMIT_S

Prints a line of JSON (``results.Result``). It mounts cgroups as the layout says, and is root: it is
for machines that are thrown away.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from minerwatch.api.client import answer
from minerwatch.api.snapshot import decode_agent
from minerwatch.errors import SnapshotError
from tests.kernels.results import RESULT, Found, Result, Sampling

MOUNTS = Path("/sys/fs/cgroup")
HERE = Path("/run/minerwatch-kernels")
TARGET = Path(__file__).parents[1] / "targets" / "randomx_hashing.py"
CAPABILITIES = ("sys_ptrace", "dac_read_search", "bpf", "perfmon")
"""The chart's."""
_V1 = ("cpu,cpuacct", "cpu", "memory", "pids")
"""The second fails where the first was mounted; the first, where the kernel has no cpuacct."""
_POOL = ("-o", "stratum+tcp://pool.supportxmr.com:3333", "-u", "4" + "A" * 94)
_FOUND = ("likely", "confirmed")
_MORE_S = 45.0
"""Seconds for more evidence, after RandomX was found."""
_TICKS = re.compile(r"^minerwatch_tick_duration_seconds_(sum|count) (\S+)$", re.MULTILINE)
_SOURCES = """
import json
from pathlib import Path
from minerwatch.agent.monitor import open_node
from minerwatch.config.schema import Config
from minerwatch.detection.sigma import rulebook
for paranoid in (2, 3, 4):
    Path("/proc/sys/kernel/perf_event_paranoid").write_text(str(paranoid))
    node = open_node(Config(), rulebook.load(()))
    status = next(each for each in node.probes if each.name == "executed_code")
    spots = [each for each in node.blind_spots if each.startswith("executed code")]
    better = status.off or " ".join(spots)
    print(json.dumps([paranoid, status.source or "nothing", better]))
    node.watch.close()
"""


class GuestError(Exception):
    """Why the agent cannot be tried here; ``str()`` is one line."""


def main() -> None:
    """Print the result for one layout."""
    layout, limit_s = sys.argv[1], float(sys.argv[2])
    _say(f"Linux {platform.release()}, {layout}")
    result = Result(platform.release(), platform.machine(), layout, accelerator=accelerator())
    HERE.mkdir(parents=True, exist_ok=True)
    try:
        result = _tried(result, mount_cgroups(layout), limit_s)
    except GuestError as error:
        result = replace(result, failure=str(error))
    print(f"\n{RESULT.decode()}{msgspec.json.encode(result).decode()}", flush=True)


def accelerator() -> str:
    """Return KVM where the kernel sees its clock, else TCG: qemu may fall back without a word."""
    clocks = Path("/sys/devices/system/clocksource/clocksource0/available_clocksource")
    return "KVM" if "kvm-clock" in clocks.read_text().split() else "TCG"


def mount_cgroups(layout: str) -> list[Path]:
    """Mount cgroups; return the roots of the hierarchies that containers are put into."""
    subprocess.run(["umount", "--recursive", str(MOUNTS)], capture_output=True, check=False)
    if layout == "v2":
        _mount("cgroup2", MOUNTS)
        (MOUNTS / "docker").mkdir()
        for folder in (MOUNTS, MOUNTS / "docker"):
            (folder / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        return [MOUNTS]
    _mount("tmpfs", MOUNTS)
    roots = []
    for controllers in _V1:
        with suppress(GuestError):  # not on every kernel
            roots.append(_mount("cgroup", MOUNTS / controllers, "-o", controllers))
    if layout == "hybrid":
        roots.append(_mount("cgroup2", MOUNTS / "unified"))
    return roots


def _mount(kind: str, folder: Path, *options: str) -> Path:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", kind, *options, kind, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        if kind == "cgroup":
            folder.rmdir()
        raise GuestError(f"{kind} cannot be mounted {' '.join(options)}: {done.stderr.strip()}")
    return folder


def _tried(result: Result, roots: Sequence[Path], limit_s: float) -> Result:
    agent = Agent(limit_s)
    try:
        started_s = agent.wait_until_watching()
        _say(f"the agent started in {started_s:.0f} s")
        for each in decode_agent(agent.answer("/status")).probes:
            _say(f"{each.name}: {each.state} {each.source} {each.reason}")
        shell = ["-c", "while :; do :; done", *_POOL]
        miner = agent.found(Target(["xmrig", *shell], roots, 1, executable="/bin/sh"), limit_s, 0)
        _say(f"miner: {miner}")
        shutil.copy(TARGET, HERE / "train.py")
        hashing = [sys.executable, "train.py", "1", "1e9"]
        randomx = agent.found(Target(hashing, roots, 2), limit_s, _MORE_S)
        _say(f"RandomX: {randomx}")
        status = decode_agent(agent.answer("/status"))
        result = replace(
            result,
            source=status.cgroups,
            probes=status.probes,
            blind_spots=status.blind_spots,
            started_s=started_s,
            miner=miner,
            randomx=randomx,
            tick_s=agent.tick_s(),
            rss_mib=agent.rss_mib(),
        )
    finally:
        agent.stop()
    return replace(result, sampling=tuple(samplings()) if result.layout == "v2" else ())


def _say(what: str) -> None:
    print(f"{time.monotonic():.0f} s: {what}", file=sys.stderr, flush=True)


class Agent:
    """The agent as it is started on a host, with its own settings."""

    def __init__(self, limit_s: float) -> None:
        self._socket, self._log_path = HERE / "agent.sock", HERE / "log"
        self._limit_s = limit_s
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "minerwatch", "agent", "--no-kubernetes"),
                *("--listen", "127.0.0.1:9797", "--log-format", "json"),
                *("--socket", str(self._socket)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )

    def wait_until_watching(self) -> float:
        """Return the seconds that it took to start. Raises GuestError."""
        began_s = time.monotonic()
        while not any(line.get("event") == "watching" for line in self.lines()):
            if self._process.poll() is not None:
                last = self._log_path.read_text(errors="replace").strip().splitlines()[-1:]
                raise GuestError(f"the agent does not start: {' '.join(last)[:300]}")
            if time.monotonic() - began_s > self._limit_s:
                raise GuestError(f"the agent did not start within {self._limit_s:.0f} s")
            time.sleep(1)
        return time.monotonic() - began_s

    def found(self, target: Target, limit_s: float, more_s: float) -> Found:
        """Wait until a target is `likely`, then ``more_s`` for more evidence; end it."""
        began_s, found = time.monotonic(), Found(None, 0.0)
        until_s = began_s + limit_s
        try:
            while time.monotonic() < until_s and found.level != "confirmed":
                time.sleep(1)
                after_s = found.after_s
                for line in self.lines():
                    if line.get("container") != target.container or line["event"] != "verdict":
                        continue
                    level = str(line["level"])
                    if level in _FOUND and after_s is None:
                        after_s = time.monotonic() - began_s
                        until_s = min(until_s, time.monotonic() + more_s)
                    findings = msgspec.convert(line["findings"], list[dict[str, object]])
                    rules = sorted({str(each["title"]) for each in findings})
                    found = Found(after_s, target.cpu_s(), level, tuple(rules))
            if found.after_s is None:
                self._say_why(target)
            return replace(found, cpu_s=found.cpu_s if found.after_s else target.cpu_s())
        finally:
            target.end()

    def _say_why(self, target: Target) -> None:
        """Print what is known of a target that was not found, and what failed."""
        known = json.loads(self.answer("/snapshot"))
        _say(json.dumps([each for each in known if each["container"] == target.container]))
        failures = re.findall(r"^\w+_failures_total\S* [1-9].*$", self.metrics(), re.MULTILINE)
        _say("\n".join(failures))

    def metrics(self) -> str:
        """Return what Prometheus would get."""
        return self.answer("/metrics").decode()

    def lines(self) -> Iterator[dict[str, object]]:
        """Return the complete lines of its log."""
        *whole, _rest = self._log_path.read_bytes().split(b"\n")
        for line in whole:
            with suppress(ValueError):
                yield json.loads(line)

    def answer(self, path: str) -> bytes:
        """Ask on its socket, until it has time to answer. Raises GuestError."""
        for _ in range(30):
            try:
                return answer(self._socket, path)
            except SnapshotError as error:
                last = error
                time.sleep(2)
        raise GuestError(f"the agent does not answer: {last}")

    def tick_s(self) -> float | None:
        """Return how long a tick took on average."""
        found = dict(_TICKS.findall(self.metrics()))
        return float(found["sum"]) / float(found["count"]) if float(found["count"]) else None

    def rss_mib(self) -> float:
        """Return its resident memory, without its children's."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """End it, and copy its log to standard error, for people."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()
        sys.stderr.write(self._log_path.read_text(errors="replace"))


class Target:
    """A process in a container of its own."""

    def __init__(
        self, command: Sequence[str], roots: Sequence[Path], number: int, executable: str = ""
    ) -> None:
        identifier = f"{number:02x}" * 32
        self.container = identifier[:12]
        self._folders = [root / "docker" / identifier for root in roots]
        self._process = subprocess.Popen(
            command, executable=executable or command[0], cwd=HERE, stdout=subprocess.DEVNULL
        )
        for folder in self._folders:
            folder.mkdir(parents=True)
            (folder / "cgroup.procs").write_text(str(self._process.pid))

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it, and remove its container."""
        self._process.kill()
        self._process.wait()
        for folder in self._folders:
            with suppress(OSError):
                folder.rmdir()


def samplings() -> Iterator[Sampling]:
    """Return the source of executed code that the chart's capabilities give."""
    kept = ",".join(("-all", *(f"+{name}" for name in CAPABILITIES)))
    done = subprocess.run(
        ["setpriv", f"--bounding-set={kept}", sys.executable, "-c", _SOURCES],
        capture_output=True,
        text=True,
        check=False,
    )
    _say(done.stderr[-1000:])
    for line in done.stdout.splitlines():
        yield Sampling(*json.loads(line))


if __name__ == "__main__":
    main()
