"""What the screen costs for a large cluster: time to the first row, CPU of a refresh, memory.

    python -m benchmarks.screen [--nodes 1000] [--containers 50] [--rounds 3] [--tables]

``minerwatch top -A`` runs as a person runs it: in a pseudo-terminal of 200 × 60, against a server
of the tests' own that answers for every agent, by exec over WebSockets. The server is another
process of the same machine, so that times to the end of a round are its as well; CPU is that of the
screen alone. ``--tables``, without a network, times the table alone, and Textual's own DataTable
with all rows.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import multiprocessing
import os
import pty
import random
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec import structs

from benchmarks.pods import kubeconfig
from benchmarks.table import machine
from minerwatch.api.snapshot import encode, encode_agent
from minerwatch.api.types import AgentStatus, ContainerStatus, FindingStatus, ProcessStatus
from minerwatch.view.screen.containers import Kind, Tree, View
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presenter
from tests.kube.api_server import ApiServer, as_agent, pod_json, put_daemon_set
from tests.kube.exec_endpoint import Printing

SIZE = (200, 60)
LABELS = {"app.kubernetes.io/name": "minerwatch"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
WALLET = "48" + "aBcDeFgHjK" * 9 + "xyz"
WAIT_S = 300.0


def main() -> None:
    arguments = _arguments()
    count = arguments.nodes * arguments.containers
    print(f"{machine()}; {arguments.nodes} nodes, {count} containers\n")
    if arguments.tables:
        _compare_tables(count)
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(arguments.nodes, arguments.containers, theirs))
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "kubeconfig"
            url, size_bytes = ours.recv()
            config.write_text(kubeconfig(url))
            print(f"a snapshot                        {size_bytes / 1024:8.0f} KiB")
            _drive(config, arguments.nodes, arguments.rounds)
    finally:
        ours.send("end")
        server.join()


# The cluster.


def _serve(nodes: int, containers: int, pipe: Connection) -> None:
    """Runs in a process of its own."""
    with ApiServer() as server:
        put_daemon_set(server)
        size_bytes = 0
        for number in range(nodes):
            node, name = f"node-{number:04}", f"minerwatch-{number:05}"
            pod = pod_json(name, node=node, namespace="minerwatch", labels=LABELS)
            server.put({**as_agent(pod), "status": {"phase": "Running"}})
            server.put({"metadata": {"name": node}, "kind": "Node"}, resource="nodes")
            agent = AgentStatus(node, "0.1.0", rules={"stable": 96, "test": 16}, culling="off")
            statuses = [_status(node, number, place) for place in range(containers)]
            printed = (
                b'{"agent":' + encode_agent(agent) + b',"containers":' + encode(statuses) + b"}"
            )
            size_bytes = len(printed)
            server.runs("minerwatch", name, Printing(printed))
        pipe.send((server.url, size_bytes))
        pipe.recv()


def _status(node: str, number: int, place: int) -> ContainerStatus:
    chance = random.Random(f"{number}/{place}")
    is_miner, is_odd = chance.random() < 0.004, chance.random() < 0.02
    is_busy = is_miner or is_odd or chance.random() < 0.4
    identity = f"{chance.getrandbits(256):064x}"
    command = f"/tmp/.x/node --donate-level 1 -o stratum+tcp://pool.example.org:3333 -u {WALLET}"
    cores = round(chance.uniform(0.01, 4.0), 3) if is_busy else 0.0
    processes = tuple(
        ProcessStatus(
            1000 + each,
            1000,
            "python3",
            command if is_miner and each == 1 else f"/usr/bin/python3 -m service --worker {each}",
            "/usr/bin/python3.11",
            "1000",
            cores / 4 if is_busy else None,
        )
        for each in range(chance.randint(1, 8))
    )
    found = FindingStatus(
        "00000000-0000-4000-8000-000000000001",
        "XMRig command line" if is_miner else "Executable deleted from a temporary folder",
        "identity" if is_miner else "execution",
        88.0 if is_miner else 60.0,
        "stable",
        "2026-11-23T02:17:45Z",
        1001,
        {"CommandLine": command} if is_miner else {"ExeDeleted": True},
        {"CommandLine": "contains '--donate-level'"} if is_miner else {"ExeDeleted": "is true"},
    )
    busy = structs.replace(found, rule=found.rule[:-1] + "2", signal="behaviour", score=29.0)
    return ContainerStatus(
        node=node,
        namespace=f"team-{place % 12}",
        pod=f"service-{place}-{identity[:10]}-{identity[10:15]}",
        container="main",
        container_id=identity,
        kind="pod",
        runtime="containerd",
        image=f"registry.example.org/team-{place % 12}/service:{place}",
        cgroup=f"/kubepods/burstable/pod{identity[:36]}/{identity}",
        pod_uid=identity[:36],
        cpu_cores=cores,
        cpu_limit_cores=4.0,
        throttled_share=0.0,
        cpu_hours=round(chance.uniform(0, 500), 2),
        score=91.48 if is_miner else 60.0 if is_odd else 0.0,
        level="confirmed" if is_miner else "suspicious" if is_odd else "clear",
        since="2026-11-23T02:17:45Z",
        signals={"identity": 88.0, "behaviour": 29.0}
        if is_miner
        else {"execution": 60.0}
        if is_odd
        else {},
        owner=f"user-{number % 200}",
        process_count=len(processes),
        findings=(found, busy) if is_miner else (found,) if is_odd else (),
        processes=processes,
        started="2026-11-22T23:04:10Z",
    )


# The screen, as a person runs it.


@dataclass(slots=True)
class _Running:
    """``minerwatch top`` in a pseudo-terminal."""

    pid: int
    terminal: int
    written: int = 0
    last: bytes = b""

    def until(self, holds: Callable[[bytes], bool], timeout_s: float = WAIT_S) -> float:
        """Seconds until what it has written since now ``holds``."""
        began_s, seen = time.perf_counter(), b""
        while not holds(seen):
            left_s = began_s + timeout_s - time.perf_counter()
            if left_s <= 0 or not select.select([self.terminal], [], [], left_s)[0]:
                raise TimeoutError(f"not seen within {timeout_s:g} s; last: {seen[-400:]!r}")
            seen += self._read()
        return time.perf_counter() - began_s

    def quiet(self, for_s: float) -> int:
        """Reads until nothing more has come for so long; how many bytes came."""
        before = self.written
        while select.select([self.terminal], [], [], for_s)[0]:
            self._read()
        return self.written - before

    def press(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def memory_mib(self, key: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

    def _read(self) -> bytes:
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError as error:  # EIO: nobody has the other end open any more
            raise RuntimeError(f"it has ended; its last words: {self.last[-2000:]!r}") from error
        self.last = (self.last + data)[-8000:]
        self.written += len(data)
        return data


def _start(config: Path) -> _Running:
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        command = [sys.executable, "-m", "minerwatch", "top", "--kubeconfig", str(config)]
        os.execve(command[0], command, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
    return _Running(pid, terminal)


def _drive(config: Path, nodes: int, rounds: int) -> None:
    whole = f"{nodes:,} of {nodes:,} nodes answered".encode()
    screen = _start(config)
    try:
        first_s = screen.until(lambda seen: b"team-" in seen)
        first_cpu_s = screen.cpu_s
        rest_s = screen.until(lambda seen: whole in seen and b", every 30s" in seen)
        screen.quiet(1.0)
        print(f"first row                         {first_s:8.1f} s   {first_cpu_s:6.1f} s CPU")
        all_s, cpu_s = first_s + rest_s, screen.cpu_s
        print(f"all nodes                         {all_s:8.1f} s   {cpu_s:6.1f} s CPU")
        print(f"memory                            {screen.memory_mib('VmRSS'):8.0f} MiB")
        for _ in range(rounds):
            before_s, before_bytes = screen.cpu_s, screen.written
            screen.press(b"r")
            screen.until(lambda seen: b"asking" in seen)
            took_s = screen.until(lambda seen: b", every 30s" in seen)
            screen.quiet(1.0)
            spent_s = screen.cpu_s - before_s
            print(
                f"a refresh                         {took_s:8.1f} s   {spent_s:6.1f} s CPU"
                f"   {(screen.written - before_bytes) / 1024:6.0f} KiB drawn"
            )
        print(f"memory, most                      {screen.memory_mib('VmHWM'):8.0f} MiB")
        screen.press(b" ")  # paused: no refresh among the keys
        screen.until(lambda seen: b"PAUSED" in seen)
        screen.quiet(2.0)
        _keys(screen)
    finally:
        os.kill(screen.pid, signal.SIGTERM)
        os.waitpid(screen.pid, 0)


def _keys(screen: _Running) -> None:
    """How long each key takes until something is drawn, and what it costs."""
    for name, keys in (
        ("down", [b"\x1b[B"] * 50),
        ("page down", [b"\x1b[6~"] * 20),
        ("sort by CPU", [b"C"] * 4),
        ("idle too", [b"a"] * 4),
        ("by owner", [b"t", b"t", b"t"]),
        ("a letter of a filter", [b"/", *(bytes([letter]) for letter in b"donate"), b"\x1b"]),
    ):
        times_s, before_s = [], screen.cpu_s
        for key in keys:
            screen.press(key)
            times_s.append(screen.until(bool))
            screen.quiet(0.4)
        cpu_ms = (screen.cpu_s - before_s) / len(keys) * 1000
        longest_ms = max(times_s) * 1000
        median_ms = sorted(times_s)[len(times_s) // 2] * 1000
        print(
            f"{name:34}{median_ms:8.0f} ms median, {longest_ms:5.0f} ms longest,"
            f" {cpu_ms:5.0f} ms CPU"
        )


# The table alone, and Textual's own with all rows, for comparison.


def _compare_tables(count: int) -> None:
    from textual.app import App, ComposeResult
    from textual.widgets import DataTable

    from minerwatch.cli.top_screen.table import LongTable

    statuses = [_status(f"node-{n // 50:04}", n // 50, n % 50) for n in range(count)]
    poll = Poll(tuple(statuses), datetime.now(UTC))
    presenter = Presenter(30.0)
    presenter.add(poll)
    view = View(show_all=True)
    _timed("sorted, filtered", lambda: presenter.present(poll, view))
    _timed("by owner", lambda: presenter.present(poll, View(show_all=True, tree=Tree.OWNER)))
    _timed("holding two words", lambda: presenter.present(poll, View(text="node donate")))
    _timed("processes", lambda: presenter.present(poll, View(kind=Kind.PROCESSES)))
    shown = presenter.present(poll, view)
    layout = shown.layout(SIZE[0])
    drawn = [[text for text, _ in shown.cells(row, layout)] for row in shown.rows]

    class Tables(App[None]):
        def compose(self) -> ComposeResult:
            yield LongTable()
            yield DataTable[str]()

        async def on_mount(self) -> None:
            long, table = self.query_one(LongTable), self.query(DataTable).last(DataTable)
            table.display = False
            await asyncio.sleep(0.5)
            _timed("the rows that are held", lambda: long.show(shown))
            _timed("the last rows", long.action_last)
            table.add_columns(*(column.title for column in layout.columns))
            table.display = True
            began_s = time.process_time()
            table.add_rows(drawn)
            await asyncio.sleep(0.5)  # it measures and draws them
            _report("DataTable: all rows", time.process_time() - began_s)
            self.exit()

    Tables().run(headless=True, size=SIZE)


def _timed(name: str, work: Callable[[], object]) -> None:
    began_s = time.process_time()
    work()
    _report(name, time.process_time() - began_s)


def _report(name: str, cpu_s: float) -> None:
    print(f"{name:34}{cpu_s * 1000:8.0f} ms CPU")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--containers", type=int, default=50, help="of each node")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="compare with Textual's DataTable")
    return parser.parse_args()


if __name__ == "__main__":
    main()
