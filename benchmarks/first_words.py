"""Cost of reading first words: of bulk traffic, of small packets, of a flood; and the delay.

    python -m benchmarks.first_words [--gigabytes 1] [--packets 300000]

Needs root. Traffic of a pod on a bridge, masqueraded, each packet seen on its veth, on the bridge
and on the uplink; small packets over loopback. All are network namespaces that lead nowhere else.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.bridge import PORT, WORLD, Bridge, bridge, in_namespace, started
from benchmarks.networks import NoNetworksError
from benchmarks.table import NotHereError, Row, needs_root, parser, show
from minerwatch.errors import SourceUnavailableError
from minerwatch.node.first_words import Packet, PacketReader
from minerwatch.node.network_links import NetworkLinks
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.probes.first_words import FirstWordsProbe

MEASURE = "First words"
LOGIN = b'{"id":1,"method":"mining.subscribe","params":["made/1.0"]}\n'
_REPEATS = 5
_FLOOD_S = 10.0
_LOGINS = 20

_BULK = f"""
import resource, socket, sys, threading, time
with socket.create_connection(("{WORLD}", {PORT})) as client:
    print("ready", flush=True)
    piece, left, began_s = bytes(1 << 16), int(sys.argv[1]), time.monotonic()
    answers = lambda: [None for _ in iter(lambda: client.recv(1 << 16), b"")]
    threading.Thread(target=answers, daemon=True).start()
    while left > 0:
        client.sendall(piece)
        left -= len(piece)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(time.monotonic() - began_s, used.ru_utime + used.ru_stime, flush=True)
"""
_SMALL = """
import resource, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here, \\
     socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
    there.bind(("127.0.0.1", 0))
    here.connect(there.getsockname())
    print("ready", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(int(sys.argv[1])):
        here.send(b"x" * 64)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, flush=True)
"""
_LOGIN = f"""
import socket, sys, time
with socket.create_connection(("{WORLD}", {PORT})) as client:
    print("ready", flush=True)
    said_s = time.monotonic()
    client.sendall(bytes.fromhex(sys.argv[1]))
    print(said_s, flush=True)
    time.sleep(1000)
"""
_FLOOD = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind(("eth0", 0))
    frame = bytearray.fromhex(sys.argv[1])
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        frame[38:42] = number.to_bytes(4, "big")
        raw.send(frame)
"""


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--gigabytes", type=float, default=1.0)
    options.add_argument("--packets", type=int, default=300_000)
    chosen = options.parse_args()

    def measured() -> Iterator[Row]:
        needs_root()
        try:
            with bridge() as found:
                yield from _bulk_rows(found, int(chosen.gigabytes * 1e9))
                yield from _small_rows(found, chosen.packets)
                yield from _flood_rows(found)
                yield from _delay_rows(found)
        except (NoNetworksError, SourceUnavailableError) as error:
            raise NotHereError(str(error)) from error

    show(MEASURE, measured, is_json=chosen.json)


class _Counted(PacketReader):
    """Packets, and how many there were."""

    count = 0

    def read(self, limit: int) -> Iterator[Packet]:
        for each in super().read(limit):
            self.count += 1
            yield each


@contextmanager
def _watching(host: str) -> Iterator[tuple[FirstWordsProbe, _Counted]]:
    packets = in_namespace(host, _Counted)
    probe = FirstWordsProbe(packets, SocketIterator(), in_namespace(host, NetworkLinks)).start()
    try:
        yield probe, packets
    finally:
        probe.close()
        time.sleep(0.2)


def _figures(namespace: str, script: str, *arguments: str) -> list[float]:
    """Return the numbers in the second line of a program."""
    with started([*_python(namespace), script, *arguments]) as process:
        assert process.stdout is not None
        return [float(each) for each in process.stdout.readline().split()]


def _bulk_rows(found: Bridge, size: int) -> Iterator[Row]:
    case = f"{size / 1e9:g} GB from a pod to the world"

    def once() -> list[float]:
        return _figures(found.pods[0], _BULK, str(size))

    without = once()
    with _watching(found.host) as (_, packets):
        cpu_s = time.process_time()
        watched = once()
        cpu_s = time.process_time() - cpu_s
        count = packets.count
    yield Row(MEASURE, case, "packets that reached Python", count)
    yield Row(MEASURE, case, "CPU of the agent for it", cpu_s * 1000, "ms")
    yield Row(MEASURE, case, "took, without", without[0], "s")
    yield Row(MEASURE, case, "took, watched", watched[0], "s")
    yield Row(MEASURE, case, "CPU of the sender, without", without[1], "s")
    yield Row(MEASURE, case, "CPU of the sender, watched", watched[1], "s")


def _small_rows(found: Bridge, count: int) -> Iterator[Row]:
    case = f"{count:,} datagrams over loopback"
    spent: dict[bool, list[float]] = {False: [], True: []}

    def once(*, is_watched: bool) -> None:
        spent[is_watched] += _figures(found.host, _SMALL, str(count))

    for _ in range(_REPEATS):
        once(is_watched=False)
        with _watching(found.host):
            once(is_watched=True)
    for is_watched, times_s in spent.items():
        figure = "CPU of each, watched" if is_watched else "CPU of each, without"
        note = f"least of {_REPEATS}; seen twice, as it leaves and as it comes"
        yield Row(MEASURE, case, figure, min(times_s) / count * 1e6, "µs", note=note)


def _flood_rows(found: Bridge) -> Iterator[Row]:
    """Forged logins from one pod, as fast as it can."""
    case = f"flood of one pod for {_FLOOD_S:g} s"
    ends = socket.inet_aton("10.99.1.2") + socket.inet_aton(WORLD)
    length = (40 + len(LOGIN)).to_bytes(2, "big")
    header = b"\x45\0" + length + b"\0\1\0\0\x40\6\0\0" + ends
    tcp = b"\x9c\x40\x11\x5c" + bytes(8) + b"\x50\x18\4\0\0\0\0\0"
    frame = b"\xff" * 6 + b"\2\0\0\0\0\1\x08\0" + header + tcp + LOGIN
    command = [*_python(found.pods[1]), _FLOOD, frame.hex()]
    with _watching(found.host) as (probe, packets), started(command):
        cpu_s, began_s = time.process_time(), time.monotonic()
        time.sleep(_FLOOD_S)
        share = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
        counts = dict(probe.failures())
        total = packets.count + counts["left"]
    yield Row(MEASURE, case, "packets", total)
    yield Row(MEASURE, case, "of these, reached Python", packets.count)
    yield Row(MEASURE, case, "CPU of the agent", share * 100, "% of a core")


def _delay_rows(found: Bridge) -> Iterator[Row]:
    delays: list[float] = []
    command = [*_python(found.pods[0]), _LOGIN, LOGIN.hex()]
    with _watching(found.host) as (probe, _):
        for _ in range(_LOGINS):
            known = len(probe.processes())
            with started(command) as client:
                while len(probe.processes()) == known:
                    time.sleep(0.0005)
                known_s = time.monotonic()
                assert client.stdout is not None
                delays.append(known_s - float(client.stdout.readline()))
    figure = "known after"
    note = f"median of {_LOGINS}; on the same clock"
    yield Row(MEASURE, "a login", figure, statistics.median(delays) * 1000, "ms", note=note)


def _python(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, sys.executable, "-c"]


if __name__ == "__main__":
    main()
