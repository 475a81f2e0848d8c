"""What it costs to read all sockets of a node, and the network counters of its pods.

    python -m benchmarks.sockets [--sockets 2000 20000] [--pods 250]

Needs root. Sockets by the iterator and by files of /proc, in one run, of the same processes; pods
are network namespaces with one process each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.table import Budget, Row, cpu_ms, missing, needs_root, parser, show
from minerwatch.node.bpf_iterator import BpfUnavailableError
from minerwatch.node.network_counters import CounterReader
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.tcp_connections import SocketReader

_REPEATS = 7
_SOCKETS_OF_ONE = 2000
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
        except BpfUnavailableError as error:
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


def counter_rows(pods: int) -> Iterator[Row]:
    """Yield the cost of the counters of ``pods`` network namespaces."""
    reader = CounterReader()
    command = ("unshare", "--net", "sh", "-c", "echo ready; exec sleep 600")
    with _started(pods, *command) as pids:
        case = f"{pods} pods"

        def quiet() -> None:
            for pid in pids:
                reader.namespace(pid)
                reader.devices(pid, 1.0)

        def busy() -> None:
            for pid in pids:
                reader.namespace(pid)
                devices = reader.devices(pid, 1.0)
                if devices is not None:
                    reader.protocols(pid, devices)

        yield Row(MEASURE, case, "counters, quiet networks", _median(quiet), "ms", Budget(5.0))
        yield Row(MEASURE, case, "counters, all busy", _median(busy), "ms")


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
