"""Capabilities that are given up stay so, whatever is started afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from minerwatch.node import confined
from minerwatch.node.capabilities import effective_capabilities
from tests.conftest import needs_root

pytestmark = needs_root
_SHOWS = "print(open('/proc/self/status').read())"


def held(status: str) -> dict[str, int]:
    """The sets of capabilities of a process, by the kernel's names."""
    rows = (line.split() for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs")))
    return {name.rstrip(":"): int(bits, 16) for name, bits in rows}


def bits(*names: str) -> int:
    return sum(1 << confined.CAPABILITY_BITS[name] for name in names)


def test_a_confined_python_and_what_it_starts_have_what_is_named_and_no_more(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import subprocess, sys; {_SHOWS}; sys.stdout.flush()\n"
        f"subprocess.run([sys.executable, '-I', '-c', {_SHOWS!r}])"
    )
    command = [sys.executable, "-I", confined.__file__, str(os.getpid()), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    own = effective_capabilities() & {"SYS_PTRACE", "DAC_READ_SEARCH"}
    first, _, second = done.stdout.rpartition("Name:")
    for status in (first, second):
        found = held(status)
        assert found["CapEff"] == found["CapPrm"] == bits(*own)
        assert found["NoNewPrivs"] == 1


def test_one_that_is_given_up_is_gone_for_threads_and_children(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys, threading\n"
        "from minerwatch.node import confined\n"
        "confined.give_up('NET_ADMIN')\n"
        f"shows = {_SHOWS!r}\n"
        "thread = threading.Thread(target=lambda: print(open('/proc/thread-self/status').read()))\n"
        "thread.start(); thread.join(); sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-I', '-c', shows])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    own = held(Path("/proc/self/status").read_text())
    first, _, second = done.stdout.rpartition("Name:")
    for status in (first, second):
        found = held(status)
        for each in ("CapEff", "CapPrm"):
            assert found[each] == own[each] & ~bits("NET_ADMIN")
