from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.node.exec_events import ExecEvents, exec_pid
from tests.conftest import Programs, open_files
from tests.waiting import PATIENCE_S


@pytest.fixture
def events() -> Iterator[ExecEvents]:
    try:
        subscribed = ExecEvents()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    yield subscribed
    subscribed.close()


def drained(events: ExecEvents) -> dict[int, None]:
    pids: dict[int, None] = {}
    while more := events.drain():
        pids |= more
    return pids


def counted(events: ExecEvents) -> int:
    """Exec events up to now: what was told, and what was lost."""
    drained(events)
    return events.received + events.lost


def messages(listening: socket.socket) -> Iterator[bytes]:
    """What the kernel has sent so far."""
    with suppress(BlockingIOError):
        while True:
            yield listening.recv(512)


def test_a_program_that_starts_is_told(events: ExecEvents) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert process.pid in drained(events)
    assert events.lost == 0


def test_an_exec_without_fork_is_told_by_the_same_pid(events: ExecEvents) -> None:
    process = subprocess.Popen(["sh", "-c", "exec sh -c 'exec true'"])
    process.wait()
    before = events.received
    assert process.pid in drained(events)
    assert events.received - before >= 3


def test_threads_that_come_and_go_are_not_told(events: ExecEvents) -> None:
    """Not even to the socket: reading a thousand events would cost as much as they are many."""
    drained(events)  # some may have come before the filter was there
    script = "import threading\nfor _ in range(500): threading.Thread(target=int).start()"
    process = subprocess.Popen([sys.executable, "-S", "-c", script])
    process.wait()
    with socket.fromfd(events.fileno(), socket.AF_NETLINK, socket.SOCK_DGRAM) as listening:
        told = {exec_pid(message, len(message)) for message in messages(listening)}
    assert None not in told  # all are exec events
    assert process.pid in told
    assert events.lost == 0


def test_nothing_is_told_where_nothing_starts(events: ExecEvents) -> None:
    drained(events)
    assert events.drain(limit=0) == {}


def test_a_storm_is_told_or_counted_as_lost(events: ExecEvents) -> None:
    """4,000 programs, read late: what is told and what is lost add up to what was started."""
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first = counted(events)
    small = ExecEvents(buffer_bytes=1 << 16)
    small_first, second = counted(small), counted(events)
    script = (
        "import os\n"
        "for _ in range(4_000):\n"
        "    os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)\n"
    )
    storm = subprocess.Popen([sys.executable, "-S", "-c", script])
    while storm.poll() is None:
        drained(events)
        time.sleep(0.01)
    third = counted(events)
    of_small = counted(small) - small_first
    fourth = counted(events)
    assert third - second >= 4_000
    assert small.lost > 0
    # the same storm was seen by both: nothing is missing from the sum
    assert third - second <= of_small <= fourth - first  # others start programs all the while
    small.close()
    after_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert after_mib - before_mib < 20


@pytest.mark.parametrize(
    ("namespace", "reason"),
    [(["--net"], "hostNetwork"), (["--pid", "--fork"], "hostPID"), (["--user"], "namespaces")],
)
def test_from_inside_a_namespace_it_says_what_to_set(namespace: list[str], reason: str) -> None:
    script = (
        "from minerwatch.node.exec_events import *\n"
        "try: ExecEvents(max_wait_s=2.0); print('subscribed')\n"
        "except SourceUnavailableError as error: print(error)"
    )
    done = subprocess.run(
        ["unshare", *namespace, sys.executable, "-c", script],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"unshare is not permitted here, run it as root: {done.stderr.strip()}")
    assert reason in done.stdout
    assert done.stdout.count("\n") == 1


def test_it_says_so_on_a_node_that_never_falls_silent(programs: Programs) -> None:
    """Events of others arrive while it waits for an answer that never comes."""
    programs.run(["sh", "-c", "while :; do /bin/true; done"])
    script = (
        "from minerwatch.node.exec_events import *\n"
        "try: ExecEvents(max_wait_s=1.0); print('subscribed')\n"
        "except SourceUnavailableError as error: print(error)"
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", script],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        timeout=PATIENCE_S,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"unshare is not permitted here, run it as root: {done.stderr.strip()}")
    assert "hostPID" in done.stdout


def test_programs_that_fill_the_buffer_hinder_no_subscription(
    events: ExecEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without NET_ADMIN the buffer is small, and a tenant may fill it as an agent starts."""
    random_bytes = os.urandom

    def slowly(count: int) -> bytes:  # after it listens, and before it asks
        for _ in range(20):
            subprocess.run(["true"], check=True)
        return random_bytes(count)

    monkeypatch.setattr(os, "urandom", slowly)
    tiny = ExecEvents(buffer_bytes=1)
    assert tiny.lost > 0
    process = subprocess.Popen(["true"])
    process.wait()
    assert process.pid in drained(tiny)
    tiny.close()


def test_closing_gives_the_socket_back() -> None:
    before = open_files()
    try:
        ExecEvents().close()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    assert not open_files() - before
