"""Reasons for which the kernel refuses a BPF iterator."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from resource import RLIM_INFINITY
from shutil import copytree

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.node import bpf_iterator
from minerwatch.node.bpf_iterator import (
    BPF_FOLDER,
    OUTSIDE_HOST_PIDS,
    locked_memory_refusal,
)
from minerwatch.node.kernel_entries import EntrySampler
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.task_iterator import TaskIterator
from tests.conftest import needs_root

NO_CAPABILITIES = (
    "the capabilities BPF and PERFMON are missing: grant them to the agent, or run it as root"
)
Reader = type[TaskIterator] | type[SocketIterator] | type[EntrySampler]


@pytest.mark.parametrize("release", ["5.10.0-32-amd64", "5.8.0", "5.10"])
def test_old_kernels_count_bpf_as_locked_memory(release: str) -> None:
    said = locked_memory_refusal(release, 65536, 65536)
    assert "limited to 64 KiB" in said
    assert "LimitMEMLOCK=infinity" in said
    assert "\n" not in said


@pytest.mark.parametrize("release", ["5.11.0", "6.1.0-50-amd64", "7.2.12", "unknown"])
def test_newer_kernels_do_not(release: str) -> None:
    assert locked_memory_refusal(release, 65536, 65536) == ""


def test_a_limit_that_libbpf_may_raise_is_no_reason() -> None:
    assert locked_memory_refusal("5.10.0", 65536, RLIM_INFINITY) == ""
    assert locked_memory_refusal("5.10.0", RLIM_INFINITY, RLIM_INFINITY) == ""


@pytest.mark.parametrize(
    ("reader", "program", "helper", "since"),
    [
        (EntrySampler, "kernel_entries", 175, r"5\.15"),  # bpf_task_pt_regs
        (SocketIterator, "socket_iterator", 162, r"5\.11"),  # bpf_sock_from_file
    ],
)
def test_a_kernel_without_the_helper(
    reader: Reader,
    program: str,
    helper: int,
    since: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bpf = tmp_path / "bpf"
    copytree(BPF_FOLDER, bpf)
    path = bpf / f"{program}.{platform.machine()}.bpf.o"
    call, unknown = (bytes((0x85, 0, 0, 0, *n.to_bytes(4, "little"))) for n in (helper, 999))
    assert path.read_bytes().count(call) == 1
    path.write_bytes(path.read_bytes().replace(call, unknown))
    monkeypatch.setattr(bpf_iterator, "BPF_FOLDER", bpf)
    with pytest.raises(SourceUnavailableError, match=rf"{since}|PERFMON|libbpf|BTF") as error:
        reader()
    assert "\n" not in str(error.value)


@needs_root
@pytest.mark.parametrize("reader", [TaskIterator, SocketIterator, EntrySampler])
@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        ((), NO_CAPABILITIES),
        (("unshare", "--pid", "--fork"), OUTSIDE_HOST_PIDS),
    ],
)
def test_where_it_cannot_be_opened_it_says_why(
    reader: Reader, wrapper: tuple[str, ...], reason: str
) -> None:
    try:
        reader().close()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    drop = "" if wrapper else "os.setresuid(65534, 65534, 65534)"
    source = (
        "import ctypes, os\n"
        f"from {reader.__module__} import {reader.__name__}\n"
        f"{drop}\n"
        f"try:\n    {reader.__name__}()\n"
        "except Exception as error:\n    print(error)\n"
    )
    said = subprocess.run([*wrapper, sys.executable, "-c", source], capture_output=True, text=True)
    assert said.stdout == f"{reason}\n", said.stderr
