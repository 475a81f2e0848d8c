"""Executables in real overlay mounts, each of which is the root of a process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ProcessId
from minerwatch.node.children.overlay_reader import (
    File,
    Overlay,
    is_of_image,
    root_overlay,
)
from minerwatch.node.guarded_child import GuardedProgram
from minerwatch.node.overlay_layers import LayerAnswer, LayerReader
from minerwatch.node.proc_files import ProcessFiles
from tests.conftest import needs_root
from tests.waiting import until

BUSYBOX = Path("/bin/busybox")
ENTER = """
set -e
mount -t overlay overlay -o "$1" "$2"
cd "$2"
pivot_root . old
exec /bin/busybox sh -ec "/bin/busybox umount -l /old; $3"
"""


class Container:
    """Layers, and processes whose root is an overlay of them."""

    def __init__(self, folder: Path, lower: Path, more_options: str = "") -> None:
        self._folder = folder
        self._more_options = more_options
        self._lower = (lower / "above", lower / "below")
        for layer in self._lower:
            (layer / "bin").mkdir(parents=True)
        for name in ("dev", "old", "proc", "tmp", "mnt"):
            (self._lower[1] / name).mkdir()
        (self._lower[1] / "dev/null").touch()
        for name in ("busybox", "busybox-2"):
            shutil.copy2(BUSYBOX, self._lower[1] / "bin")
            shutil.copy2(BUSYBOX, self._lower[1] / "bin" / name)
        for name in ("upper", "work", "merged"):
            (folder / name).mkdir()
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, executable: str, *, relative: bool = False) -> ProcessId:
        """Run a script; return its process once that executes ``executable``."""
        base = "" if relative else f"{self._folder}/"
        lower = ":".join(map(str, self._lower))
        options = f"lowerdir={lower},upperdir={base}upper,workdir={base}work{self._more_options}"
        command = ["unshare", "--mount", "sh", "-c", ENTER, "sh", options, "merged", script]
        started = subprocess.Popen(command, cwd=self._folder)
        self._started.append(started)
        link = Path(f"/proc/{started.pid}/exe")
        until(lambda: started.poll() is None and os.readlink(link) == executable)
        if script.endswith(" sleep 1000"):  # the shell before it may be the same executable
            line = Path(f"/proc/{started.pid}/cmdline")
            until(lambda: b"\0sleep\0" in line.read_bytes())
        found = ProcessFiles("/proc", {}).stat(started.pid)
        assert found is not None
        return found[0].id

    def close(self) -> None:
        for each in self._started:
            each.kill()
            each.wait()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    if not BUSYBOX.exists():
        pytest.skip("needs a static busybox: apt install busybox-static")
    made = Container(tmp_path, tmp_path / "image")
    yield made
    made.close()


@pytest.fixture
def reader() -> Iterator[LayerReader]:
    opened = LayerReader()
    yield opened
    opened.close()


def answer(reader: LayerReader, process: ProcessId) -> bool | None:
    assert reader.ask(process, "pod")
    found: dict[ProcessId, LayerAnswer] = {}
    until(lambda: found.update(reader.answers()) or process in found)
    return found[process].is_in_image


RUN = "exec {} sleep 1000"
CASES = {
    "of the image": ("", "/bin/busybox", True),
    "written": ("cp /bin/busybox /tmp/busybox-x", "/tmp/busybox-x", False),
    "unpacked with its old time": ("cp -p /bin/busybox /tmp/busybox-x", "/tmp/busybox-x", False),
    "in a new folder": ("mkdir /a; cp /bin/busybox /a/busybox", "/a/busybox", False),
    "chown -R": ("chown -R 1:1 /bin", "/bin/busybox", True),
    "chmod -R": ("chmod -R g+w /bin", "/bin/busybox", True),
    "touched": ("touch /bin/busybox", "/bin/busybox", True),
    "moved": ("mv /bin/busybox-2 /tmp/busybox-x", "/tmp/busybox-x", True),
    "linked": ("ln /bin/busybox-2 /tmp/busybox-x", "/tmp/busybox-x", True),
    "changed in place": ("echo more >>/bin/busybox-2", "/bin/busybox-2", False),
    "on another file system": (
        "/bin/busybox mount -t tmpfs none /mnt; cp /bin/busybox /mnt",
        "/mnt/busybox",
        None,
    ),
    "bound from another layer": (
        "cp /bin/busybox /tmp; /bin/busybox mount -o bind /tmp/busybox /bin/busybox",
        "/bin/busybox",
        None,
    ),
    "in another root": (
        "mkdir -p /mnt/bin; cp /bin/busybox /mnt/bin; exec chroot /mnt /bin/busybox sleep 1000",
        "/mnt/bin/busybox",
        None,
    ),
}


@needs_root
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("xino", ["", "on", "off"])
def test_an_executable(
    container: Container, reader: LayerReader, tmp_path: Path, case: str, xino: str
) -> None:
    script, executable, expected = CASES[case]
    elsewhere = Path(f"/dev/shm/minerwatch-{os.getpid()}")
    try:
        if xino:  # layers on two file systems
            (tmp_path / "two").mkdir()
            container = Container(tmp_path / "two", elsewhere, f",xino={xino}")
        process = container.start(f"{script}; {RUN.format(executable)}".lstrip("; "), executable)
        assert answer(reader, process) is expected
        assert answer(reader, process) is expected
    finally:
        container.close()
        shutil.rmtree(elsewhere, ignore_errors=True)
    assert not any(reader.failures.values())


@needs_root
def test_one_that_was_deleted(container: Container, reader: LayerReader) -> None:
    script = "rm /tmp/busybox-x; while :; do sleep 1000; done"
    process = container.start(
        f"cp /bin/busybox /tmp/busybox-x; exec /tmp/busybox-x sh -c '{script}'",
        "/tmp/busybox-x (deleted)",
    )
    assert answer(reader, process) is None


@needs_root
def test_layers_that_are_not_where_the_host_has_them(
    container: Container, reader: LayerReader, tmp_path: Path
) -> None:
    relative = container.start("exec /bin/busybox sleep 1000", "/bin/busybox", relative=True)
    assert answer(reader, relative) is None
    (tmp_path / "image").rename(tmp_path / "moved")
    try:
        assert answer(reader, relative) is None
    finally:
        (tmp_path / "moved").rename(tmp_path / "image")


@needs_root
def test_layers_are_looked_up_below_the_hosts_root(container: Container, tmp_path: Path) -> None:
    """As an agent in a container does; here its root is a folder, and the layers lie there only."""
    process = container.start("exec /bin/busybox sleep 1000", "/bin/busybox")
    proc, host = tmp_path / "proc", tmp_path / "host"
    (proc / "1").mkdir(parents=True)
    (proc / "1/mountinfo").write_text("1 1 8:1 / / rw,relatime - ext4 /dev/x rw\n")
    (proc / "1/root").symlink_to(host)
    (proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
    for name in ("image", "upper"):
        (tmp_path / name).rename(tmp_path / f"{name}-moved")
        link = Path(f"{host}{tmp_path / name}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / f"{name}-moved")
    reader = LayerReader(str(proc))
    try:
        assert answer(reader, process) is True
    finally:
        reader.close()


def test_without_an_overlay_and_without_a_process_nothing_is_known(reader: LayerReader) -> None:
    found = ProcessFiles("/proc", {}).stat(os.getpid())
    assert found is not None
    here = found[0].id
    assert answer(reader, here) is None
    assert answer(reader, ProcessId(here.pid, here.start_ticks + 1)) is None


MOUNT = "70 45 0:41 / / rw,relatime - overlay overlay rw,{}\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("lowerdir=/a:/b,upperdir=/u,workdir=/w,uuid=on", Overlay("0:41", "/u", ("/a", "/b"))),
        (
            r"lowerdir=/a\134:1:/b\0542::/c,upperdir=/u",
            Overlay("0:41", "/u", ("/a:1", "/b,2", "/c")),
        ),
        (r"lowerdir+=/a:1,lowerdir+=/b\0402,upperdir=/u", Overlay("0:41", "/u", ("/a:1", "/b 2"))),
        ("lowerdir=/a:/b", None),  # read-only
        ("lowerdir=l/A:l/B,upperdir=u,workdir=w", None),
        ("lowerdir=" + ":".join(["/a"] * 300) + ",upperdir=/u", None),
    ],
)
def test_the_layers_of_a_mount(options: str, expected: Overlay | None) -> None:
    assert root_overlay(MOUNT.format(options), "70") == expected
    assert root_overlay(MOUNT.format(options), "71") is None
    assert (
        root_overlay("1 1 8:1 / /x rw - ext4 /dev/x rw\n" + MOUNT.format(options), "70") == expected
    )


def test_fuse_overlayfs_is_none() -> None:
    line = "70 45 0:41 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw,lowerdir=/a,upperdir=/b\n"
    assert root_overlay(line, "70") is None


@given(st.text())
def test_any_mounts(text: str) -> None:
    for content in (text, MOUNT.format(text), "1 2 3 4 / " + text):
        try:
            found = root_overlay(content, "70")
        except (ValueError, IndexError):
            continue
        assert found is None or found.upper.startswith("/")


FILES = st.none() | st.builds(File, *[st.integers(0, 2)] * 3)


@given(FILES.filter(bool), FILES, st.lists(FILES.filter(bool), max_size=3))
def test_what_is_found_at_the_path_nowhere_is_unknown(
    running: File, upper: File | None, lower: list[File]
) -> None:
    found = is_of_image(running, upper, lower)
    if found is False:
        assert upper is not None
        assert upper[:2] == running[:2]
        assert all(each != upper for each in lower)
    if upper is None and not lower:
        assert found is None


def program(folder: Path, script: str) -> GuardedProgram:
    path = folder / "child.py"
    path.write_text(script)
    return GuardedProgram(path)


def test_a_child_that_hangs_costs_its_container_alone(tmp_path: Path) -> None:
    found = ProcessFiles("/proc", {}).stat(os.getpid())
    assert found is not None
    here, parent = found[0].id, ProcessId(os.getppid(), 1)
    script = (
        "import json, os, sys, time\n"
        "for line in sys.stdin.buffer:\n"
        f"    if json.loads(line)['pid'] == {here.pid}: time.sleep(1000)\n"
        "    os.write(1, b'{\"is_in_image\": false}\\n')\n"
    )
    reader = LayerReader(program=program(tmp_path, script))
    try:
        assert reader.ask(here, "bad")
        until(lambda: reader.failures["timeout"] == 1)
        assert answer(reader, parent) is False
        assert reader.ask(here, "bad")
        assert answer(reader, parent) is False
        assert reader.failures["timeout"] == 1
    finally:
        reader.close()


@pytest.mark.parametrize("line", ["{}", "[]", '{"is_in_image": 1}', "x"])
def test_a_child_that_lies_is_replaced(tmp_path: Path, line: str) -> None:
    script = f"import os, sys\nfor _ in sys.stdin.buffer: os.write(1, {line!r}.encode() + b'\\n')\n"
    reader = LayerReader(program=program(tmp_path, script))
    try:
        assert reader.ask(ProcessId(os.getpid(), 1), "pod")
        until(lambda: reader.failures["child"] == 1)
        assert reader.answers() == {}
    finally:
        reader.close()
