"""Traffic of scans, floods and ordinary programs, for benchmarks.networks; run in its namespaces.

    python -m benchmarks.traffic world           answers as hosts of the internet do
    python -m benchmarks.traffic CASE SECONDS    one client

It talks to the addresses of benchmarks.networks only, which lead nowhere but to the other
namespace: answering hosts (OPEN), hosts that refuse all but a few ports, and hosts that are silent.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

from benchmarks import far_hosts
from benchmarks.neighbours import ATTACKS, KNOWN_PORT, UNPROVABLE, VICTIMS_PORT

ANSWERING, SILENT = "203.0.113", "198.51.100"
CLIENT = "192.0.2.2"
WEB, SSH, POSTGRES, REDIS, PEER, ECHO, ECHO_UDP = 8080, 2222, 5432, 6379, 6881, 7007, 5353
SINK_UDP, TENTH_UDP = 5004, 4433
"""Take datagrams without an answer, or with one to each tenth."""
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
_ENDS: list[float] = []


def address(number: int | None = None) -> str:
    """Return an address that answers."""
    return f"{ANSWERING}.{number or random.randint(2, 250)}"


def silent() -> str:
    """Return an address of which nothing comes back."""
    return f"{SILENT}.{random.randint(2, 250)}"


def closed_port() -> int:
    """Return a port at which nothing listens."""
    return random.randint(10_000, 60_000)


def running() -> bool:
    """Return True until the time is up."""
    return time.monotonic() < _ENDS[0]


def paced(per_s: float) -> Iterator[int]:
    """Yield numbers, so many a second, until the time is up."""
    began_s = time.monotonic()
    for number in itertools.count():
        if not running():
            return
        time.sleep(max(0.0, began_s + number / per_s - time.monotonic()))
        yield number


def tried(host: str, port: int, timeout_s: float = 1.0, say: bytes = b"") -> bytes:
    """Open a connection, say something, read the answer and close."""
    with socket.socket() as client, suppress(OSError):
        client.settimeout(timeout_s)
        client.connect((host, port))
        if say:
            client.sendall(say)
            return client.recv(4096)
    return b""


def fetched(host: str, size: int, port: int = WEB) -> None:
    """Download ``size`` bytes."""
    with socket.socket() as client, suppress(OSError):
        client.settimeout(5)
        client.connect((host, port))
        client.sendall(b"GET /%d HTTP/1.1\r\n\r\n" % size)
        while client.recv(1 << 18):
            pass


async def at_once(count: int, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat some work in ``count`` lanes until the time is up."""

    async def lane() -> None:
        while running():
            with suppress(OSError, asyncio.TimeoutError):
                await work()

    await asyncio.gather(*(lane() for _ in range(count)))


# What scans, floods and guesses.


def scan_refused(per_s: float = 50) -> None:
    for _ in paced(per_s):
        tried(address(), closed_port())


def scan_refused_slowly() -> None:
    scan_refused(5)


def scan_refused_fast() -> None:
    scan_refused(400)


def scan_by_both() -> None:
    if os.fork() == 0:
        scan_datagrams()
        os._exit(0)
    scan_refused(25)


def scan_refused_beside_a_download() -> None:
    if os.fork() == 0:
        while running():
            fetched(address(1), 50_000_000_000)
        os._exit(0)
    scan_refused()


def scan_silent(lanes: int = 64) -> None:
    async def connect() -> None:
        port = random.choice((22, 23, 445, 3389, 5900, 8080))
        await asyncio.wait_for(asyncio.open_connection(silent(), port), 1)

    asyncio.run(at_once(lanes, connect))


def scan_silent_fast() -> None:
    scan_silent(300)


def scan_mixed() -> None:
    async def connect() -> None:
        host = random.choice((silent, address))()
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(host, random.choice((22, 23))), 1
        )
        writer.close()

    asyncio.run(at_once(32, connect))


def far(number: int, first_port: int = 1000, network: str = far_hosts.FAR) -> tuple[str, int]:
    """Return an address that is far and a port; each number is another."""
    return f"{network}.{2 + number % 250}", first_port + number // 250 % 20_000


async def touched(end: tuple[str, int], *, resets: bool) -> None:
    """Open a connection and close it at once."""
    with suppress(OSError, asyncio.TimeoutError):
        _, writer = await asyncio.wait_for(asyncio.open_connection(*end), 1)
        if resets:
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()


def touch(
    per_s: float,
    ends: int,
    *,
    resets: bool = False,
    first_port: int = 1000,
    network: str = far_hosts.FAR,
) -> None:
    """Touch so many ends one after the other."""

    async def all_of_them() -> None:
        tasks = set()
        began_s = time.monotonic()
        for number in itertools.count():
            if not running():
                return
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.monotonic()))
            end = far(number % ends, first_port, network)
            task = asyncio.create_task(touched(end, resets=resets))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    asyncio.run(all_of_them())


def scan_far_closed_ports() -> None:
    touch(50, 10_000_000, first_port=far_hosts.CLOSED)


def scan_near_open_ports() -> None:
    touch(50, 10_000_000, network=far_hosts.NEAR)


def scan_near_open_ports_by_resets() -> None:
    touch(50, 10_000_000, resets=True, network=far_hosts.NEAR)


def scan_far_open_ports() -> None:
    touch(50, 10_000_000)


def scan_far_open_ports_by_resets() -> None:
    touch(50, 10_000_000, resets=True)


def scan_by_forks() -> None:
    for _ in paced(20):
        if os.fork() == 0:
            tried(silent(), random.randint(20, 2000), 0.5)
            os._exit(0)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def syn(host: str, port: int) -> bytes:
    """Return a SYN packet with its IP header."""
    ends = socket.inet_aton(CLIENT), 40_000, socket.inet_aton(host), port
    return far_hosts.segment(ends, (1, 0), 0x02)


def scan_syn_raw(per_s: float = 200) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in paced(per_s):
            host = address()
            raw.sendto(syn(host, closed_port()), (host, 0))


def _packet_socket() -> tuple[socket.socket, bytes]:
    tried(address(1), WEB)  # so that the neighbour's address is known
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    packets.bind(("mwveth0", 0x0800))
    table = Path("/proc/net/arp").read_text(encoding="ascii")
    neighbour = bytes.fromhex(table.splitlines()[1].split()[3].replace(":", ""))
    return packets, neighbour + b"\x02\0\0\0\0\x02\x08\0"


def scan_syn_packets() -> None:
    packets, header = _packet_socket()
    for _ in paced(200):
        packets.send(header + syn(address(), closed_port()))


def flood_syn() -> None:
    packets, header = _packet_socket()
    while running():
        for _ in range(100):
            packets.send(header + syn(address(1), WEB))


def scan_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in paced(200):
            client.sendto(b"\0" * 8, (address(), closed_port()))


def scan_datagrams_silent() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in paced(200):
            client.sendto(b"\0" * 8, (silent(), closed_port()))


def flood_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        while running():
            for _ in range(100):
                client.sendto(b"x" * 512, (address(9), 80))


def flood_requests(per_s: float = 2000, lanes: int = 64, host: str = "") -> None:
    """Requests over connections that stay, to one host."""

    async def lane() -> None:
        reader, writer = await asyncio.open_connection(host or address(9), POSTGRES)
        while running():
            writer.write(b"GET /search?q=x HTTP/1.1\r\nHost: a.example\r\n\r\n")
            await reader.read(4096)
            await asyncio.sleep(lanes / per_s)
        writer.close()

    asyncio.run(at_once(lanes, lane))


def flood_pages() -> None:
    """A connection for each request."""

    async def page() -> None:
        reader, writer = await asyncio.open_connection(address(9), WEB)
        writer.write(b"GET /2000 HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 16):
            pass
        writer.close()

    asyncio.run(at_once(64, page))


def guess_passwords(port: int = SSH, lanes: int = 16, hosts: int = 2) -> None:
    async def attempt() -> None:
        host = address(random.randint(2, 1 + hosts))
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(4):
            writer.write(b"user password\n")
            await asyncio.wait_for(reader.read(256), 3)
            await asyncio.sleep(0.2)
        writer.close()

    asyncio.run(at_once(lanes, attempt))


def guess_redis_passwords() -> None:
    guess_passwords(REDIS)


def proxyware() -> None:
    """Each request of somebody else goes to a web site, and its answer to the provider."""

    async def relay() -> None:
        provider, to_provider = await asyncio.open_connection(address(250), ECHO)
        site, to_site = await asyncio.open_connection(address(), ECHO)
        while running():
            to_site.write(b"x" * 2000)
            to_provider.write(await site.read(4096))
            await to_provider.drain()
            await asyncio.wait_for(provider.read(4096), 3)
            await asyncio.sleep(0.3)
        to_site.close()
        to_provider.close()

    asyncio.run(at_once(30, relay))


def pool_session() -> None:
    """One connection: jobs come, shares go, in compressed time."""
    with socket.create_connection((address(3), ECHO)) as client:
        for _ in paced(2):
            client.sendall(b'{"id":1,"method":"submit","params":{"nonce":"00000000"}}' * 3)
            client.recv(4096)


# What does its work.


def installer() -> None:
    async def download() -> None:
        reader, writer = await asyncio.open_connection(address(random.randint(2, 5)), WEB)
        writer.write(b"GET /200000 HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 16):
            pass
        writer.close()

    asyncio.run(at_once(64, download))


def crawler(per_s: float = 60, dead: float = 0.15) -> None:
    for _ in paced(per_s):
        if random.random() < dead:
            tried(address(), closed_port(), 0.5)
        else:
            tried(address(), WEB, 1, b"GET /20000 HTTP/1.1\r\n\r\n")


def link_checker() -> None:
    crawler(30, 0.3)


def mirror() -> None:
    async def download() -> None:
        reader, writer = await asyncio.open_connection(address(3), WEB)
        writer.write(b"GET /5000000 HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 18):
            pass
        writer.close()

    asyncio.run(at_once(8, download))


def workers_of_a_cluster() -> None:
    """Dask and Spark: every worker with every other, small messages, for as long as they live."""

    async def peer() -> None:
        reader, writer = await asyncio.open_connection(address(), POSTGRES)
        while running():
            writer.write(b"x" * 400)
            await reader.read(4096)
            await asyncio.sleep(0.1)
        writer.close()

    asyncio.run(at_once(40, peer))


def browsers() -> None:
    """Selenium: pages of many parts, some from hosts that block."""

    async def part() -> None:
        host = silent() if random.random() < 0.05 else address()
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, WEB), 3)
        writer.write(b"GET /60000 HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 16):
            pass
        writer.close()
        await asyncio.sleep(random.random() / 2)

    asyncio.run(at_once(24, part))


def bittorrent() -> None:
    """Most peers cannot be reached; those that can bring data. Its table of nodes by datagrams."""

    async def swarm() -> None:
        await asyncio.gather(
            at_once(8, peer_that_brings), at_once(12, peer_in_vain), asyncio.to_thread(nodes)
        )

    async def peer_that_brings() -> None:
        reader, writer = await asyncio.open_connection(address(), PEER)
        writer.write(b"GET /2000000 HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 16):
            await asyncio.sleep(0.05)
        writer.close()

    async def peer_in_vain() -> None:
        host, port = random.choice(((silent(), PEER), (address(), closed_port())))
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(host, port), 2)
        await asyncio.sleep(0.5)

    def nodes() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            for number in paced(60):
                with suppress(OSError):
                    port = ECHO_UDP if number % 2 else closed_port()
                    client.sendto(b"find_node", (address(), port))
                    while client.recv(512):
                        pass

    asyncio.run(swarm())


def dead_swarm() -> None:
    for _ in paced(4):
        tried(silent(), PEER, 0.2)


def git_and_ci() -> None:
    for number in paced(2):
        fetched(address(4), 500_000)
        tried(address(4), SSH, 2, b"git-upload-pack\n")
        if number % 5 == 0:
            tried(address(5), closed_port(), 1)


def resolver() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        for _ in paced(800):
            client.sendto(b"a.example", (address(), ECHO_UDP))
            with suppress(BlockingIOError):
                while client.recv(512):
                    pass


def probing_monitoring() -> None:
    for number in paced(30):
        if number % 10 == 0:
            tried(address(200 + number % 40), closed_port(), 0.5)
        else:
            tried(address(2 + number % 200), WEB, 1, b"GET /500 HTTP/1.1\r\n\r\n")


def monitoring_in_an_outage() -> None:
    """60 targets each 15 s, none of which answers."""
    for number in paced(4):
        tried(f"{SILENT}.{2 + number % 60}", 9100, 0.2)


def service_mesh() -> None:
    """Connections that stay, and health checks of one server that is down."""

    async def mesh() -> None:
        await asyncio.gather(at_once(30, upstream), asyncio.to_thread(health_checks))

    async def upstream() -> None:
        reader, writer = await asyncio.open_connection(address(), WEB)
        writer.write(b"GET /3000 HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 16):
            pass
        writer.close()
        await asyncio.sleep(0.3)

    def health_checks() -> None:
        for _ in paced(20):
            tried(address(77), 15_001)

    asyncio.run(mesh())


def waiting_for_a_database() -> None:
    for _ in paced(300):
        tried(address(78), 15_432)


def waiting_for_a_sidecar() -> None:
    """Over loopback, beside ordinary traffic."""
    if os.fork() == 0:
        while running():
            fetched(address(1), 2_000_000)
        os._exit(0)
    for _ in paced(300):
        tried("127.0.0.1", closed_port())


def metrics_without_a_server() -> None:
    """Statsd: nothing listens, which a host says once a second to the same peer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for number in paced(2000):
            host = f"{SILENT}.79" if number % 2000 else address(79)
            client.sendto(b"requests:1|c", (host, 8125))


def datagrams_to(port: int, per_s: float, size: int = 1200) -> None:
    """Send datagrams to one host, and take what it answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        for _ in paced(per_s / 10):
            with suppress(OSError):
                for _ in range(10):
                    client.sendto(b"x" * size, (address(8), port))
                while client.recv(2048):
                    pass


def video() -> None:
    datagrams_to(SINK_UDP, 1000)


def logs_by_datagrams() -> None:
    datagrams_to(SINK_UDP, 400, 300)


def upload_by_quic() -> None:
    datagrams_to(TENTH_UDP, 6000)


def tunnel_in_user_space() -> None:
    datagrams_to(ECHO_UDP, 3000)


def load_balancer() -> None:
    """300 servers, each checked every two seconds; it resets the connection."""
    touch(150, 300, resets=True)


def port_monitoring() -> None:
    """600 ports, each every 15 s."""
    touch(40, 600)


def near_load_balancer() -> None:
    touch(150, 300, network=far_hosts.NEAR)


def near_port_monitoring() -> None:
    touch(40, 600, network=far_hosts.NEAR)


def far_crawler() -> None:
    async def page() -> None:
        reader, writer = await asyncio.open_connection(*far(random.randint(0, 10_000)))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        while await reader.read(1 << 16):
            pass
        writer.close()
        await asyncio.sleep(0.2)

    asyncio.run(at_once(16, page))


def api_client() -> None:
    flood_requests(2000, 32)


def _listening_crawler() -> None:
    with socket.create_server(("0.0.0.0", VICTIMS_PORT), backlog=4096):
        crawler()


def _listening_metrics() -> None:
    """It has a port of its own for datagrams, as those that gossip do."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("0.0.0.0", KNOWN_PORT))
        logs_by_datagrams()


def _capture() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003)):
        crawler()


def _peers() -> None:
    """Sessions with sixteen servers, which send more than they get, and metrics by datagrams."""

    async def all_of_them() -> None:
        lanes = (session(address(2 + number)) for number in range(16))
        await asyncio.gather(*lanes, asyncio.to_thread(datagrams_to, SINK_UDP, 20, 100))

    async def session(host: str) -> None:
        reader, writer = await asyncio.open_connection(host, POSTGRES)
        while running():
            writer.write(b"x" * 20)
            await reader.read(4096)
            await asyncio.sleep(0.1)
        writer.close()

    asyncio.run(all_of_them())


def _peers_and_server_of_time() -> None:
    if os.fork() == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", KNOWN_PORT))
            while running():
                data, client = server.recvfrom(2048)
                server.sendto(data, client)
        os._exit(0)
    _peers()


def web_application() -> None:
    """A new connection to Postgres and Redis for each request."""

    async def request() -> None:
        for port in (POSTGRES, REDIS):
            reader, writer = await asyncio.open_connection(address(6), port)
            for _ in range(4):
                writer.write(b"select 1\n")
                await reader.read(4096)
            writer.close()

    asyncio.run(at_once(8, request))


ABUSE: dict[str, Callable[[], None]] = {
    "scanning: closed ports, 5/s": scan_refused_slowly,
    "scanning: closed ports, 50/s": scan_refused,
    "scanning: closed ports, 400/s": scan_refused_fast,
    "scanning: closed ports, beside a download": scan_refused_beside_a_download,
    "scanning: silent hosts, 64 at once": scan_silent,
    "scanning: silent hosts, 300 at once": scan_silent_fast,
    "scanning: closed and silent": scan_mixed,
    "scanning: a process for each connect": scan_by_forks,
    "scanning: SYN by a raw socket": scan_syn_raw,
    "scanning: SYN by a packet socket": scan_syn_packets,
    "scanning: datagrams to closed ports": scan_datagrams,
    "scanning: datagrams to silent hosts": scan_datagrams_silent,
    "scanning: closed ports, 25/s, and datagrams": scan_by_both,
    "scanning: open ports, near": scan_near_open_ports,
    "scanning: open ports, near, reset": scan_near_open_ports_by_resets,
    "scanning: closed ports, 30 ms away": scan_far_closed_ports,
    "scanning: open ports, 30 ms away": scan_far_open_ports,
    "scanning: open ports, 30 ms away, reset": scan_far_open_ports_by_resets,
    "flooding: datagrams": flood_datagrams,
    "flooding: SYN by a packet socket": flood_syn,
    "flooding: requests, 64 connections to one host": flood_requests,
    "flooding: a connection for each request": flood_pages,
    "brute-force: SSH, 16 at once": guess_passwords,
    "brute-force: Redis, 16 at once": guess_redis_passwords,
    "proxyware: 30 relays": proxyware,
}
INNOCENT: dict[str, Callable[[], None]] = {
    "installer, 64 downloads at once": installer,
    "crawler, 15 % dead links": crawler,
    "link checker, 30 % dead links": link_checker,
    "package mirror": mirror,
    "workers of Dask or Spark": workers_of_a_cluster,
    "browsers of Selenium": browsers,
    "BitTorrent of a data set": bittorrent,
    "BitTorrent, swarm without seeds": dead_swarm,
    "git and CI": git_and_ci,
    "DNS resolver, 800 queries/s": resolver,
    "monitoring that probes": probing_monitoring,
    "monitoring in an outage, 60 targets": monitoring_in_an_outage,
    "service mesh, a server down": service_mesh,
    "waiting for a database": waiting_for_a_database,
    "waiting for a sidecar, over loopback": waiting_for_a_sidecar,
    "statsd without a server, 2000/s": metrics_without_a_server,
    "web application, a connection for each query": web_application,
    "load balancer that checks 300 servers": load_balancer,
    "monitoring of 600 ports": port_monitoring,
    "load balancer that checks 300 servers, near": near_load_balancer,
    "monitoring of 600 ports, near": near_port_monitoring,
    "crawler, 30 ms away": far_crawler,
    "client of an API, 2000 requests/s": api_client,
    "video by RTP, one way": video,
    "logs by datagrams, 400/s": logs_by_datagrams,
    "upload by QUIC, 6000 datagrams/s": upload_by_quic,
    "tunnel in user space, 3000 datagrams/s": tunnel_in_user_space,
    "crawler, connections to it reset half open": _listening_crawler,
    "crawler, its own ports scanned": _listening_crawler,
    "crawler, sent resets": _listening_crawler,
    "metrics, told that ports are closed": logs_by_datagrams,
    UNPROVABLE: _listening_metrics,
    "packet capture, asked by ARP": _capture,
    "packet capture, pinged with fragments": _capture,
    "sixteen peers, pinged": _peers,
    "sixteen peers, pinged with fragments": _peers,
    "sixteen peers, a server of time": _peers_and_server_of_time,
    "sixteen peers, its ports scanned": _peers,
}
"""The last ones beside an attack of benchmarks.neighbours."""

SESSIONS = {"session: pool": pool_session}


# The world.


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ValueError, IndexError):
        line = await reader.readline()
        left = int(line.split()[1].strip(b"/")) if line else 0
        writer.write(PAGE % left)
        while left > 0:
            writer.write(b"x" * min(left, 1 << 16))
            await writer.drain()
            left -= 1 << 16
    writer.close()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while await reader.read(4096):
            writer.write(b"y" * 120)
            await writer.drain()
    writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def __init__(self, one_in: int = 1) -> None:
        """Answer one of so many; 0: none."""
        self._one_in, self._count = one_in, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self._count += 1
        if self._one_in and self._count % self._one_in == 0:
            self.transport.sendto(data, sender)


async def world() -> None:
    """Answer as hosts do."""
    answers = {WEB: _web, PEER: _web, ECHO: _echo, SSH: _talk, POSTGRES: _talk, REDIS: _talk}
    for port, answer in answers.items():
        await asyncio.start_server(answer, "0.0.0.0", port, backlog=1024)
    loop = asyncio.get_running_loop()
    for port, one_in in ((ECHO_UDP, 1), (SINK_UDP, 0), (TENTH_UDP, 10)):
        await loop.create_datagram_endpoint(
            partial(_Datagrams, one_in), local_addr=("0.0.0.0", port)
        )
    far_hosts.answer(loop)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run the world, or one client."""
    if sys.argv[1] == "world":
        asyncio.run(world())
        return
    _ENDS.append(time.monotonic() + float(sys.argv[2]))
    victim = sys.argv[1].removeprefix("against: ")
    if victim != sys.argv[1]:
        ATTACKS[victim](paced(200))
        return
    {**ABUSE, **INNOCENT, **SESSIONS}[sys.argv[1]]()


if __name__ == "__main__":
    main()
