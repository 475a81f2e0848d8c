from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import Connection, OpenSockets, ProcessId
from minerwatch.node.tcp_connections import ConnectionReader, SocketReader
from minerwatch.worker import revive_all
from tests.conftest import Programs, needs_root
from tests.waiting import PATIENCE_S, threads, threads_since, until

ME = os.getpid()
LOCAL = "0" * 24 + "01000000:1F90"


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(opened: ExitStack, family: int, address: str) -> tuple[str, int]:
    """A connection of this process to itself; its remote end."""
    server = opened.enter_context(socket.socket(family))
    server.bind((address, 0))
    server.listen()
    client = opened.enter_context(socket.socket(family))
    client.connect(server.getsockname())
    opened.enter_context(server.accept()[0])
    host, port = server.getsockname()[:2]
    return host, port


def test_established_connections_are_told_with_their_remote_end(opened: ExitStack) -> None:
    v4 = connected(opened, socket.AF_INET, "127.0.0.1")
    found = SocketReader().connections([ME], at_s=5.0)[ME]
    assert Connection(*v4, since_s=5.0) in found
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        v6 = connected(opened, socket.AF_INET6, "::1")
        found = SocketReader().connections([ME], at_s=5.0)[ME]
        assert Connection(*v6, since_s=5.0) in found


def test_connections_that_were_closed_here_are_remembered(opened: ExitStack) -> None:
    server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    other = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = socket.create_connection(server.getsockname())
    accepted = server.accept()[0]
    client.close()
    assert accepted.recv(1) == b""
    accepted.close()
    inbound = socket.create_connection(other.getsockname())
    accepted = other.accept()[0]
    own = inbound.getsockname()[1]
    accepted.close()  # it listens on this connection's port: another opened it
    assert inbound.recv(1) == b""
    inbound.close()

    def ports() -> set[int]:
        return {port for _, port in SocketReader().closed(ME)}

    until(lambda: server.getsockname()[1] in ports())
    assert own not in ports()


def test_listening_sockets_are_no_connections(opened: ExitStack) -> None:
    before = SocketReader().connections([ME], at_s=0)[ME]
    server = opened.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen()
    assert SocketReader().connections([ME], at_s=0)[ME] == before


def test_what_others_opened_is_not_told(opened: ExitStack) -> None:
    """A client's port is chance: sooner or later it is one that pools offer."""
    server = opened.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen()
    client = opened.enter_context(socket.socket())
    client.connect(server.getsockname())
    accepted = opened.enter_context(server.accept()[0])
    ports = {each.port for each in SocketReader().connections([ME], at_s=0)[ME]}
    assert server.getsockname()[1] in ports
    assert accepted.getpeername()[1] not in ports


def test_a_connection_keeps_its_age_until_it_is_closed(opened: ExitStack) -> None:
    reader = SocketReader()
    end = connected(opened, socket.AF_INET, "127.0.0.1")
    for at_s in (5.0, 65.0):
        (found,) = (c for c in reader.connections([ME], at_s)[ME] if (c.address, c.port) == end)
        assert found.since_s == 5.0
    opened.close()
    reader.connections([ME], 70.0)
    assert reader.since_s == {}


def test_only_a_process_s_own_connections_are_its(opened: ExitStack, programs: Programs) -> None:
    connected(opened, socket.AF_INET, "127.0.0.1")
    other = programs.start("other", busy=False)
    assert SocketReader().connections([ME, other.pid], at_s=0)[other.pid] == ()


@needs_root
def test_a_process_in_another_network_has_its_own_table(programs: Programs) -> None:
    script = (
        "import socket, subprocess, sys\n"
        "subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 3333)); s.listen()\n"
        "c = socket.create_connection(('127.0.0.1', 3333)); a = s.accept()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout
        assert process.stdin
        if process.stdout.readline() != b"ready\n":
            pytest.skip(
                "no network namespace can be made here: run it as root, with unshare and ip"
            )
        found = SocketReader().connections([process.pid], at_s=0)[process.pid]
        assert ("127.0.0.1", 3333) in {(each.address, each.port) for each in found}
        process.stdin.close()


def test_a_process_that_is_gone_is_missing() -> None:
    assert SocketReader().connections([4_194_999], at_s=0) == {}


@pytest.mark.parametrize(
    ("line", "address", "port"),
    [
        ("   0: 0100007F:1F90 0101A8C0:0D05 01 0:0 00:0 0 1000 0 77 1", "192.168.1.1", 3333),
        (
            f"   1: {LOCAL} 0000000000000000FFFF00000101A8C0:01BB 01 0:0 00:0 0 1000 0 77 1",
            "192.168.1.1", 443,
        ),
        (
            f"   1: {LOCAL} B80D0120000000000000000001000000:01BB 01 0:0 00:0 0 1000 0 77 1",
            "2001:db8::1", 443,
        ),
    ],
)  # fmt: skip
@pytest.mark.skipif(
    sys.byteorder != "little", reason="the lines are of a little-endian machine: run it on one"
)
def test_lines_of_the_kernel(tmp_path: Path, line: str, address: str, port: int) -> None:
    write_process(tmp_path, f"  sl  local_address\n{line}\n".encode())
    assert SocketReader(str(tmp_path)).connections([7], at_s=0)[7] == (
        Connection(address, port, 0),
    )


def write_process(proc: Path, table: bytes) -> None:
    (proc / "7" / "net").mkdir(parents=True, exist_ok=True)
    (proc / "7" / "ns").mkdir(exist_ok=True)
    (proc / "7" / "fd").mkdir(exist_ok=True)
    (proc / "7" / "stat").write_bytes(b"7 (x) S 1 7 7 0 -1 0")
    (proc / "7" / "net" / "tcp").write_bytes(table)
    (proc / "7" / "net" / "tcp6").write_bytes(b"")
    for path, target in (("ns/net", "net:[1]"), ("fd/3", "socket:[77]")):
        if not (proc / "7" / path).is_symlink():
            (proc / "7" / path).symlink_to(target)


@given(st.binary(max_size=300))
def test_no_bytes_in_a_table_stop_it(
    tmp_path_factory: pytest.TempPathFactory, table: bytes
) -> None:
    folder = tmp_path_factory.mktemp("proc")
    write_process(folder, table)
    assert SocketReader(str(folder)).connections([7], at_s=0).keys() == {7}


def test_a_table_without_end_is_read_up_to_a_limit(tmp_path: Path) -> None:
    write_process(tmp_path, b"x\n" * (1 << 16))
    reader = SocketReader(str(tmp_path), max_table_bytes=1 << 16, piece_bytes=4096)
    reader.connections([7], at_s=0)
    assert reader.failures["too_many"] == 1


def test_of_very_many_closed_connections_no_more_are_read_than_are_wanted(tmp_path: Path) -> None:
    lines = (f"  {n}: 0100007F:{n:04X} 0A00000A:0D05 06 tail\n" for n in range(4096))
    write_process(tmp_path, "".join(lines).encode())
    reader = SocketReader(str(tmp_path), max_table_bytes=1 << 16, piece_bytes=4096)
    assert len([*islice(reader.closed(7), 1000)]) == 1000
    assert reader.failures["too_many"] == 0
    assert len([*reader.closed(7)]) < 4096
    assert reader.failures["too_many"] > 0


def identity(pid: int) -> ProcessId:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return ProcessId(pid, int(stat.rpartition(")")[2].split()[19]))


def answers_of(reader: ConnectionReader) -> dict[ProcessId, OpenSockets]:
    found: dict[ProcessId, OpenSockets] = {}
    while len(reader.questions):
        found |= reader.answers()
        time.sleep(0.01)
    return found


def test_answers_come_when_they_come(opened: ExitStack, programs: Programs) -> None:
    end = connected(opened, socket.AF_INET, "127.0.0.1")
    me, other = identity(ME), identity(programs.start("other", busy=False).pid)
    reader = ConnectionReader()
    opened.callback(reader.close)
    reader.at_s = 5.0
    assert reader.ask(me)
    assert reader.ask(other)
    found = answers_of(reader)
    assert Connection(*end, since_s=5.0) in found[me].connections
    assert found[me].accepts
    assert found[other] == OpenSockets()


def test_a_process_that_is_gone_or_another_has_no_answer() -> None:
    reader = ConnectionReader()
    assert reader.ask(ProcessId(ME, 1))
    assert reader.ask(ProcessId(1 << 22, 1))
    assert answers_of(reader) == {}
    reader.close()


def test_whoever_asks_much_holds_up_others_by_one_each(opened: ExitStack) -> None:
    read: list[int] = []
    may_go_on = threading.Event()

    class Recorded(SocketReader):
        def sockets_of(self, pid: int, at_s: float) -> OpenSockets:
            may_go_on.wait(PATIENCE_S)
            read.append(pid)
            return OpenSockets()

    reader = ConnectionReader(reader=Recorded(), rest_per_work=0)
    opened.callback(reader.close)
    asked = [reader.ask(ProcessId(pid, 1), "decoys") for pid in range(1000, 1500)]
    assert 0 < sum(asked) < len(asked)  # what is refused is asked again
    assert reader.ask(ProcessId(7, 1), "miner")
    may_go_on.set()
    answers_of(reader)
    assert read.index(7) <= 2
    assert reader.failures["crowded"] == asked.count(False)


def test_a_fault_loses_one_answer_and_not_the_thread(opened: ExitStack) -> None:
    class FailsOnInit(SocketReader):
        def sockets_of(self, pid: int, at_s: float) -> OpenSockets | None:
            if pid == 1:
                raise ZeroDivisionError
            return super().sockets_of(pid, at_s)

    reader = ConnectionReader(reader=FailsOnInit())
    opened.callback(reader.close)
    reader.ask(ProcessId(1, 1))
    reader.ask(identity(ME))
    assert answers_of(reader).keys() == {identity(ME)}
    (state,) = (each for each in revive_all() if each.name == "connections")
    assert state.failures == {"ZeroDivisionError": 1}


THREAD_WITH_A_CONNECTION = """
import ctypes, os, socket, sys, threading, time
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
client = socket.create_connection(server.getsockname()); there = server.accept()
def live_on():
    time.sleep(0.3)
    print(server.getsockname()[1], flush=True)
    time.sleep(1000)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)  # exit, not exit_group
"""


def test_a_process_whose_first_thread_has_ended_is_read_through_another(
    programs: Programs,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", THREAD_WITH_A_CONNECTION], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout
        port = int(process.stdout.readline())
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        found = SocketReader().connections([process.pid], at_s=0)
        process.kill()
    assert state == "Z"
    assert port in {each.port for each in found[process.pid]}


def test_a_table_of_very_many_sockets_is_not_kept(opened: ExitStack) -> None:
    ends = [connected(opened, socket.AF_INET, "127.0.0.1") for _ in range(3)]
    reader = SocketReader(max_table_sockets=1)
    for _ in range(2):
        found = {(each.address, each.port) for each in reader.connections([ME], 5.0)[ME]}
        assert set(ends) <= found
    assert [table.remote for table in reader.tables.values()] == [None]


def test_closing_ends_the_thread() -> None:
    before = threads()
    reader = ConnectionReader(rest_per_work=1e9)
    assert reader.ask(identity(ME))
    until(reader.answers)
    assert threads_since(before, "connections")
    reader.close()
    until(lambda: not threads_since(before, "connections"))


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 4096])
def test_lines_are_told_whole_however_they_are_read(tmp_path: Path, piece_bytes: int) -> None:
    line = b"   0: 0100007F:1F90 0A00000A:0D05 01 00000000:00000000 00:00000000 00000000 0 0 77 1\n"
    write_process(tmp_path, b"  sl  local_address\n" + line)
    found = SocketReader(str(tmp_path), piece_bytes=piece_bytes).connections([7], at_s=0)[7]
    assert found == (Connection("10.0.0.10", 3333, 0),)


def test_what_others_opened_hides_no_connection(tmp_path: Path) -> None:
    """Since Linux 6.14 a table has connections to one end in a row, maybe behind all others."""
    tail = "00000000:00000000 00:00000000 00000000 0 0"
    listening = f"   0: 0100007F:1F90 00000000:0000 0A {tail} 76 1\n"
    accepted = (
        f"  {n}: 0100007F:1F90 0100007F:{n:04X} 01 {tail} {inode} 1\n"
        for n in range(20_000)
        for inode in (0, 1000 + n)  # still to be accepted, and accepted
    )
    opened = f"   1: 0100007F:C001 0A00000A:0D05 01 {tail} 77 1\n"
    write_process(tmp_path, "".join((listening, *accepted, opened)).encode())
    for n in range(9000):
        (tmp_path / f"7/fd/{100 + n}").symlink_to(f"socket:[{1000 + n}]")
    found = SocketReader(str(tmp_path)).connections([7], at_s=0)[7]
    assert found == (Connection("10.0.0.10", 3333, 0),)


def test_fifty_thousand_sockets_stop_nothing() -> None:
    """In a process of its own, with as many as its limit of open files allows."""
    script = (
        "import os, resource, socket\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen(128)\n"
        "kept = []\n"
        "for _ in range(min(50_000, hard - 100) // 2):\n"
        "    try: kept.append(socket.create_connection(server.getsockname()))\n"
        "    except OSError: break\n"
        "    kept.append(server.accept()[0])\n"
        "from minerwatch.node.tcp_connections import SocketReader\n"
        "found = SocketReader().connections([os.getpid()], 0.0)[os.getpid()]\n"
        "print(len(kept), len(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    opened, told = map(int, done.stdout.split())
    assert opened > 100
    assert told == 64
