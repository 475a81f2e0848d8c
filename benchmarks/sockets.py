"""What it costs to read all sockets of a node, and the network counters of its pods.

    python -m benchmarks.sockets [--sockets 2000 20000] [--pods 250]

Needs root. Sockets by the iterator and by files of /proc, in one run, of the same processes; pods
are network namespaces with two processes and a device each, and the ticks are those of the agent.
"""

from __future__ import annotations

import ctypes
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.table import Budget, Row, cpu_ms, missing, needs_root, parser, show
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ContainerKey
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.probes.network_counters import NetworkUser, PodNetworks

_REPEATS = 7
_SOCKETS_OF_ONE = 2000
_TICKS = 12
_TICK_S = 10.0
_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET."""
_NO_ONE = ("192.0.2.9", 9)
MEASURE = "Sockets and network counters"

_HOLDER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=4096)
kept = []
for _ in range(int(sys.argv[1]) // 2):
    kept.append(socket.create_connection(server.getsockname()))
    kept.append(server.accept()[0])
print("ready", flush=True)
sys.stdin.read()
"""


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--sockets", type=int, nargs="*", default=[2000, 20_000])
    options.add_argument("--pods", type=int, default=250)
    chosen = options.parse_args()

    def measured() -> Iterator[Row]:
        needs_root()
        for count in chosen.sockets:
            yield from socket_rows(count)
        yield from counter_rows(chosen.pods)

    show(MEASURE, measured, is_json=chosen.json)


@contextmanager
def _started(count: int, *command: str) -> Iterator[list[int]]:
    """Start processes that last until they are ended; return their pids once they are ready."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            found.append(process)
        for process in found:
            assert process.stdout is not None
            process.stdout.readline()
        yield [process.pid for process in found]


def socket_rows(count: int) -> Iterator[Row]:
    """Yield the cost of all sockets by either source."""
    case = f"{count:,} sockets"
    each = min(count, _SOCKETS_OF_ONE)
    with _started(count // each, sys.executable, "-c", _HOLDER, str(each)) as pids:
        try:
            iterator = SocketIterator()
        except SourceUnavailableError as error:
            yield missing(MEASURE, f"{case}: iterator", str(error), Budget(2.0))
        else:
            table = iterator.table()
            total = len(table) if table is not None else 0
            spent = _median(lambda: iterator.refresh(time.monotonic()))
            note = f"{total:,} on the node, ages and rates included"
            yield Row(MEASURE, case, "iterator", spent, "ms", note=note)
            each_us = spent * 1000 / total
            yield Row(MEASURE, case, "iterator, each socket", each_us, "µs", Budget(2.0))
            kept = _mib(lambda: iterator.refresh(time.monotonic()))
            yield Row(MEASURE, case, "iterator, memory at most", kept, "MiB")
            iterator.close()
        reader = SocketReader()
        spent = _median(lambda: SocketReader().connections(pids, time.monotonic()))
        yield Row(MEASURE, case, "files", spent, "ms", note=f"of {len(pids)} processes")
        yield Row(
            MEASURE, case, "files, memory at most",
            _mib(lambda: reader.connections(pids, time.monotonic())), "MiB",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pod:
    pids: tuple[int, int]  # of its sandbox and of a program
    socket: socket.socket


@contextmanager
def _started_pods(count: int) -> Iterator[list[_Pod]]:
    """Make networks with a device that takes packets; needs ip(8)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pods: list[_Pod] = []
    with ExitStack() as stack:

        def sleeping() -> int:
            process = stack.enter_context(subprocess.Popen(("sleep", "3600")))
            stack.callback(process.kill)
            return process.pid

        def enter_new_network(commands: str) -> None:
            if libc.unshare(_NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "unshare")
            _ip(commands)

        def start() -> None:  # in a thread, which enters one network after the other
            enter_new_network("link set lo up")
            sink = sleeping()
            for number in range(count):
                enter_new_network(f"""
                    link set lo up
                    link add eth0 type veth peer name pod{number} netns {sink}
                    addr add 192.0.2.2/24 dev eth0
                    link set eth0 up
                    neigh add {_NO_ONE[0]} lladdr 02:00:00:00:00:01 dev eth0
                """)
                own = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                pods.append(_Pod((sleeping(), sleeping()), own))
            _ip("".join(f"link set pod{each} up\n" for each in range(count)), sink)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        yield pods


def _ip(commands: str, pid: int | None = None) -> None:
    """Run commands in this network, or in that of a process."""
    within = [] if pid is None else ["nsenter", "-t", str(pid), "-n"]
    subprocess.run([*within, "ip", "-batch", "-"], input=commands.encode(), check=True)


def counter_rows(count: int) -> Iterator[Row]:
    """Yield the cost of a tick over the counters of so many pods."""
    case = f"{count} pods"
    with _started_pods(count) as pods:
        networks = PodNetworks()
        users = [
            NetworkUser(
                ContainerKey(f"/{number}", number), number, 0.01, [pod.pids[1]], pod.pids[0]
            )
            for number, pod in enumerate(pods)
        ]
        at_s = 0.0

        def tick(packets: int) -> float:
            nonlocal at_s
            at_s += _TICK_S
            for pod in pods:
                for _ in range(packets):
                    pod.socket.sendto(b"", _NO_ONE)
            return cpu_ms(lambda: networks.tick(users, at_s))

        def mean(packets_per_s: int) -> float:
            for _ in range(4):  # until it is known what they do
                tick(packets_per_s * int(_TICK_S))
            return statistics.mean(tick(packets_per_s * int(_TICK_S)) for _ in range(_TICKS))

        yield Row(MEASURE, case, "counters, first seen", tick(0), "ms")
        note = "mean of ticks; each is read at every other one"
        yield Row(MEASURE, case, "counters, quiet networks", mean(0), "ms", Budget(5.0), note=note)
        yield Row(
            MEASURE, case, "counters, all busy", mean(15), "ms", note="at every other one, too"
        )
        note = "each is read at each tick"
        yield Row(MEASURE, case, "counters, all near a rule", mean(40), "ms", note=note)


def _median(work: Callable[[], object]) -> float:
    return statistics.median(cpu_ms(work) for _ in range(_REPEATS))


def _mib(work: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
