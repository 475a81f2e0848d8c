"""The HTTP server under attack (root): a flood, slow clients, stalled TLS handshakes at once.

    python -m benchmarks.http_flood [--connections 180000] [--slow 2000] [--tree FOLDER]…

A server of the agent runs in a process of its own. Attackers, each a user with an address of its
own, open short connections, hold slow ones open, opening each again that is closed, and stop in the
middle of TLS handshakes. Meanwhile an honest client reads /healthz and /metrics once a second: in a
flood each client may open two connections a second. Measured over plain HTTP and over TLS. Each
``--tree`` is a checkout that is measured beside this one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from multiprocessing.context import ForkProcess
from pathlib import Path

from benchmarks.table import Budget, NotHereError, Row, parser, show

MEASURE = "HTTP under attack"
_HERE = Path(__file__).parent.parent
_FLOODERS = tuple(f"127.0.1.{number}" for number in range(1, 5))
_SLOW = tuple(f"127.0.2.{number}" for number in range(1, 5))
_STALLING = tuple(f"127.0.3.{number}" for number in range(1, 3))
_HONEST = "127.0.0.1"
_STALLS = 200
_FLOOD_S = 60.0  # at least; the machine may take longer
_PENDING = 100  # connections of one flooder
_PAUSE_S = 1.0  # of the honest client, after each pair of requests
_FIRST_UID = 30_000  # of the attackers: on loopback the server tells clients apart by user
_PATIENCE_S = 10.0
_CLIENT_HELLO_BEGUN = b"\x16\x03\x01\x02\x00\x01\x00"
_SERVER = """
import sys
from minerwatch.config.schema import Tls
from minerwatch.report.http_server import Answer, address_listener
from minerwatch.report.metrics import FlaggedContainer, Metrics
metrics = Metrics()
metrics.tick_done(duration_s=0.01, at_s=0.0, containers={}, processes=5000, flagged=[
    FlaggedContainer("binder", f"jupyter-{number}", "notebook", 91.0, 2.0)
    for number in range(100)
])
tls = None
if len(sys.argv) > 1:
    from minerwatch.report.tls import TlsEndpoint
    tls = TlsEndpoint(Tls(certificate=sys.argv[1]))
routes = {"/healthz": lambda: Answer(b"ok\\n"), "/metrics": lambda: Answer(metrics.exposition())}
listener, shown = address_listener("127.0.0.1", 0, routes, tls=tls)
print(shown.rpartition(":")[2], flush=True)
sys.stdin.read()
"""


@dataclass
class _Polled:
    """Requests of the honest client for one path."""

    answered_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--connections", type=int, default=180_000)
    options.add_argument("--slow", type=int, default=2000)
    options.add_argument("--tree", type=Path, action="append", default=[])
    chosen = options.parse_args()
    show(MEASURE, lambda: rows(chosen), is_json=chosen.json)


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    """Each tree, over plain HTTP and over TLS."""
    if os.geteuid() != 0:
        raise NotHereError("attacks as several users: run it as root")
    _raise_open_file_limit(chosen.slow + 1000)
    with tempfile.TemporaryDirectory() as folder:
        certificate = _certificate(Path(folder))
        for tree in (_HERE, *chosen.tree):
            for file in (None, certificate):
                name = "this tree" if tree == _HERE else str(tree)
                case = f"{name}, {'TLS' if file else 'plain'}"
                yield from _attacked(case, tree, file, chosen.connections, chosen.slow)


def _attacked(
    case: str, tree: Path, certificate: Path | None, connections: int, slow: int
) -> Iterator[Row]:
    command = [sys.executable, "-c", _SERVER, *([str(certificate)] if certificate else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tree, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        began_s = time.monotonic()
        flooders = _started(_FLOODERS, _flood, port, connections // len(_FLOODERS))
        slow_head = b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n"
        others = _started(_SLOW, _hold, port, slow // len(_SLOW), *slow_head)
        if certificate:
            begun = _CLIENT_HELLO_BEGUN, b"\x00"
            others += _started(_STALLING, _hold, port, _STALLS // len(_STALLING), *begun)
        polled = _poll(port, certificate, lambda: any(each.is_alive() for each in flooders))
        took_s = time.monotonic() - began_s
        usage = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{server.pid}/status").read_text()
        for each in others:
            each.terminate()
        for each in (*flooders, *others):
            each.join()
        server.stdin.close()
    cpu_s = (int(usage[11]) + int(usage[12])) / os.sysconf("SC_CLK_TCK")
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    yield Row(MEASURE, case, "connections a second", connections / took_s, "1/s")
    yield Row(MEASURE, case, "CPU of the server", 100 * cpu_s / took_s, "% of a core")
    yield Row(MEASURE, case, "memory, most", peak_kib / 1024, "MiB")
    for path, requests in polled.items():
        ordered = sorted(requests.answered_s) or [0.0]
        note = ", ".join(sorted(set(requests.failures)))
        yield Row(MEASURE, case, f"{path} answered", len(requests.answered_s))
        yield Row(MEASURE, case, f"{path} failed", len(requests.failures), "", Budget(0), note)
        yield Row(MEASURE, case, f"{path} median", 1e3 * statistics.median(ordered), "ms")
        yield Row(MEASURE, case, f"{path} 99 %", 1e3 * ordered[int(0.99 * len(ordered))], "ms")
        yield Row(MEASURE, case, f"{path} longest", 1e3 * ordered[-1], "ms")


def _started(
    addresses: Sequence[str], attack: Callable[..., None], *arguments: object
) -> list[ForkProcess]:
    """Start an attacker on each address, as the user of that address."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_attack, args=(attack, address, *arguments), daemon=True)
        for address in addresses
    ]
    for each in processes:
        each.start()
    return processes


def _attack(attack: Callable[..., None], address: str, *arguments: object) -> None:
    os.setuid(_FIRST_UID + (_FLOODERS + _SLOW + _STALLING).index(address))
    attack(address, *arguments)


def _connected(port: int, address: str) -> socket.socket:
    client = socket.socket()
    client.settimeout(_PATIENCE_S)
    client.bind((address, 0))
    client.connect(("127.0.0.1", port))
    return client


def _flood(address: str, port: int, count: int) -> None:
    """Open so many connections and reset each a little later, without waiting for the server."""
    pending: deque[socket.socket] = deque()
    began_s = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began_s + _FLOOD_S * number / count - time.monotonic()))
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.bind((address, 0))
        client.connect_ex(("127.0.0.1", port))
        pending.append(client)
        if len(pending) > _PENDING:
            pending.popleft().close()


def _hold(address: str, port: int, count: int, first: bytes, next_: bytes) -> None:
    """Hold so many connections open by a few bytes a second; open those again that are closed."""
    held: list[socket.socket | None] = [None] * count
    while True:
        for index, client in enumerate(held):
            try:
                if client is None:
                    client = held[index] = _connected(port, address)
                    client.sendall(first)
                    client.setblocking(False)
                else:
                    client.send(next_)
            except BlockingIOError:
                continue
            except OSError:
                if client is not None:
                    client.close()
                held[index] = None
        time.sleep(0.05)


def _poll(port: int, certificate: Path | None, goes_on: Callable[[], bool]) -> dict[str, _Polled]:
    polled = {"/healthz": _Polled(), "/metrics": _Polled()}
    context = ssl.create_default_context(cafile=str(certificate)) if certificate else None
    while goes_on():
        for path, requests in polled.items():
            began_s = time.monotonic()
            try:
                _get(port, path, context)
            except (OSError, HTTPException) as error:
                requests.failures.append(type(error).__name__)
            else:
                requests.answered_s.append(time.monotonic() - began_s)
        time.sleep(_PAUSE_S)
    return polled


def _get(port: int, path: str, context: ssl.SSLContext | None) -> None:
    source = (_HONEST, 0)
    if context is None:
        client = HTTPConnection("127.0.0.1", port, _PATIENCE_S, source)
    else:
        client = HTTPSConnection(
            "127.0.0.1", port, timeout=_PATIENCE_S, source_address=source, context=context
        )
    try:
        client.request("GET", path)
        response = client.getresponse()
        body = response.read()
        if response.status != 200 or len(body) != int(response.headers["Content-Length"]):
            raise HTTPException(response.status)
    finally:
        client.close()


def _certificate(folder: Path) -> Path:
    file = folder / "both.pem"
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=minerwatch"),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file)),
                *("-out", str(folder / "certificate.pem")),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError as error:
        raise NotHereError("makes a certificate: apt install openssl") from error
    with file.open("a") as both:
        both.write((folder / "certificate.pem").read_text())
    return file


def _raise_open_file_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
        except (OSError, ValueError) as error:
            raise NotHereError(f"opens {needed} files: {error}") from error


if __name__ == "__main__":
    main()
