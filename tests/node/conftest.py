"""Fixtures of the node's sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.node.processes import ProcessReader
from tests.node.fake_gpus import built
from tests.node.recorded_proc import RecordedProc


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedProc:
    return RecordedProc(tmp_path / "proc")


@pytest.fixture
def recorded_reader(recorded: RecordedProc, tmp_path: Path) -> Iterator[ProcessReader]:
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0::/:/bin/sh\nalice:x:7:7::/:/bin/sh\n")
    reader = ProcessReader(recorded.root, retry_s=3600, passwd=passwd)
    yield reader
    for fifo in recorded.root.glob("*/cmdline"):
        if fifo.is_fifo():
            recorded.release(int(fifo.parent.name))
    reader.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a read return 64 bytes at most, as the kernel does with a page of a long list."""
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, most: read(fd, min(most, 64)))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """NVIDIA's library of the tests."""
    return built(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What that library reads; a test writes it."""
    path = tmp_path / "scenario"
    monkeypatch.setenv("FAKE_NVML", str(path))
    return path
