"""NVIDIA's library for tests, built from ``fake_nvml.c``; roots with GPUs of others; answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.node.gpu_use import Answer

SOURCE = Path(__file__).parent / "children" / "fake_nvml.c"


def built(folder: Path, *options: str) -> str:
    """Build the library; skip where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-Wall", "-Werror", "-shared", "-fPIC", *options, "-o", library, SOURCE],
        check=True,
    )
    return str(library)


def make_card(sys: Path, number: int = 128, driver: str = "amdgpu", **files: str) -> Path:
    """Add a render node with the files of its device; return its folder."""
    folder = sys / "class/drm" / f"renderD{number}" / "device"
    folder.mkdir(parents=True)
    pci = f"0000:0{number - 125}:00.0"
    (folder / "uevent").write_text(f"DRIVER={driver}\nPCI_SLOT_NAME={pci}\n")
    (sys / "drivers" / driver).mkdir(parents=True, exist_ok=True)
    (folder / "driver").symlink_to(sys / "drivers" / driver)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def make_client(proc: Path, pid: int, number: int = 5, **fields: str) -> Path:
    """Give a process an open render node; ``_`` in names stands for ``-``."""
    folder = proc / str(pid)
    for each in ("fd", "fdinfo"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    link, info = folder / "fd" / str(number), folder / "fdinfo" / str(number)
    if not link.is_symlink():
        link.symlink_to("/dev/dri/renderD128")
    lines = ["pos:\t0", "flags:\t02100002"]
    lines += [f"drm-{name.replace('_', '-')}:\t{value}" for name, value in fields.items()]
    info.write_text("\n".join(lines) + "\n")
    return info


class Scripted:
    """A sampler whose answers a test gives."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = [*answers]
        self.discarded = 0
        self.asked: list[Any] = []

    def send(self, question: Any) -> bool:
        self.asked.append(question)
        return True

    def receive(self) -> Answer | None:
        return msgspec.json.decode(self.answers.pop(0), type=Answer) if self.answers else None

    def discard(self) -> None:
        self.discarded += 1

    def close(self) -> None:
        pass


def answer(**fields: Any) -> bytes:
    namespace = os.readlink("/proc/self/ns/pid")
    return msgspec.json.encode({"at_s": 1.0, "pid_namespace": namespace, **fields})
