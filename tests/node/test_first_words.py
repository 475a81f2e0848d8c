"""Packet sockets, and the reasons why there are none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.node.first_words import PacketReader, open_host_packets
from tests.conftest import needs_root
from tests.waiting import until

TRY = """
from minerwatch.errors import SourceUnavailableError
from minerwatch.node.first_words import open_host_packets
try:
    open_host_packets()
except SourceUnavailableError as error:
    print(error)
"""


@needs_root
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"), "the capability NET_RAW"),
        (("unshare", "--net"), "set hostNetwork on the agent's pod"),
    ],
)
def test_what_is_missing_is_said(command: tuple[str, ...], reason: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is missing: apt install util-linux")
    if command[0] == "unshare" and not is_readable(Path("/proc/1/ns/net")):
        pytest.skip("the network of PID 1 cannot be read: run it as root of the machine")
    done = subprocess.run(
        [*command, sys.executable, "-c", TRY], capture_output=True, text=True, check=True
    )
    assert reason in done.stdout
    assert len(done.stdout.splitlines()) == 1


def is_readable(path: Path) -> bool:
    try:
        return path.stat().st_ino > 0
    except OSError:
        return False


@needs_root
def test_waiting_ends_when_it_is_woken_and_after_that() -> None:
    packets = open_host_packets()
    packets.wake()
    until(lambda: not packets.wait(60.0))
    packets.close()
    packets.wake()


@needs_root
def test_two_readers_do_not_take_each_others_packets() -> None:
    """The kernel gives each group a number of its own."""
    readers = [PacketReader(), PacketReader()]
    for each in readers:
        each.close()
