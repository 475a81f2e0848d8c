"""Real container engines for tests: a docker daemon and a podman of their own, below one folder.

Neither uses a network, a registry or the machine's own engine. Both need root, and busybox.
podman runs containers by runc, or by what MINERWATCH_TEST_RUNTIME names: a run that names one is
about it, so that an engine which cannot be had fails the test instead of skipping it. crun refuses
hybrid cgroups: there unmount the v2 tree first, in a mount namespace (``unshare --mount``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import NoReturn

import pytest

from tests.waiting import until

IMAGE = "shop/web:1.2"
_RUNTIME = "MINERWATCH_TEST_RUNTIME"
_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine whose host root folder is ``root``."""

    name: str
    root: Path
    command: tuple[str, ...]
    socket: Path

    def run(self, *args: str) -> str:
        """Run the engine's client; return what it prints."""
        done = self._run(args)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def output(self, *args: str) -> str:
        """Return what the engine's client prints, or nothing if it fails."""
        done = self._run(args)
        return "" if done.returncode else done.stdout.strip()

    def _run(self, args: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *args]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def start(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Start a container from busybox; return its id."""
        if self.name == "docker":
            image: tuple[str, ...] = (IMAGE,)
        else:
            image = ("--rootfs", str(self.root / "rootfs"))
        limits = _LIMITS if self.name == "podman" else ()
        labels = ("--label=com.docker.compose.project=shop",)
        args = ("run", "-d", f"--name={name}", "--net=none", *limits, *labels, *options)
        return self.run(*args, *image, "/bin/busybox", *command)

    def pid(self, name: str) -> int:
        """Return the container's first process."""
        return int(self.run("inspect", "--format={{.State.Pid}}", name))


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path: podman takes no run folder of more than 50 characters."""
    folder = Path(gettempdir(), f"mw-{token_hex(4)}")  # docker's names take no underscore
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        until(lambda: _is_removed(folder), f"{folder} is still mounted or in use")


@contextmanager
def docker(root: Path) -> Iterator[Engine]:
    """A docker daemon with its data below ``root``."""
    busybox = _needs("dockerd", "docker", "docker.io")
    socket = root / "docker.sock"
    command = [
        *("dockerd", f"--data-root={root}/var/lib/docker", f"--exec-root={root}/run/docker"),
        *(f"--host=unix://{socket}", f"--pidfile={root}/docker.pid", "--iptables=false"),
        *("--ip6tables=false", "--bridge=none", "--storage-driver=vfs"),
        f"--containerd-namespace={root.name}",
    ]
    with (root / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    engine = Engine("docker", root, ("docker", f"--host=unix://{socket}"), socket)
    try:
        with suppress(AssertionError):
            until(lambda: socket.exists() or daemon.poll() is not None)
        if daemon.poll() is not None:
            said = (root / "dockerd.log").read_text()
            unavailable(f"dockerd does not start, run it as root of a host: {said[-300:]}")
        packed = subprocess.run(
            ["tar", "-C", str(_rootfs(root, busybox)), "-c", "."], capture_output=True, check=True
        )
        subprocess.run([*engine.command, "import", "-", IMAGE], input=packed.stdout, check=True)
        yield engine
        for container in engine.run("ps", "-aq").split():
            engine.run("rm", "-f", container)
    finally:
        daemon.terminate()
        daemon.wait()


@contextmanager
def podman(root: Path) -> Iterator[Engine]:
    """A podman with its storage below ``root``, and its service for one socket."""
    runtime = os.environ.get(_RUNTIME, "runc")
    busybox = _needs("podman", runtime, f"podman {runtime}")
    _rootfs(root, busybox)
    socket = root / "podman.sock"
    command = (
        *("podman", f"--root={root}/var/lib/containers/storage", f"--runroot={root}/run"),
        *("--cgroup-manager=cgroupfs", f"--runtime={runtime}", "--events-backend=file"),
        f"--tmpdir={root}/tmp",
    )
    engine = Engine("podman", root, command, socket)
    service = subprocess.Popen(
        [*command, "system", "service", "--time=0", f"unix://{socket}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: socket.exists() or service.poll() is not None)
        if service.poll() is not None:
            unavailable("podman's service does not start here: run `podman system service`")
        yield engine
        engine.run("rm", "-af", "-t", "0")
    finally:
        service.terminate()
        service.wait()


def _needs(program: str, other: str, packages: str) -> Path:
    """Skip the test unless it can run; return the static busybox."""
    for name in (program, other):
        if shutil.which(name) is None:
            unavailable(f"needs {name}: apt-get install --no-install-recommends {packages}")
    busybox = shutil.which("busybox")
    if busybox is None:
        unavailable("needs busybox: apt-get install busybox-static")
    return Path(busybox)


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where this run is about engines."""
    (pytest.fail if _RUNTIME in os.environ else pytest.skip)(reason)


def _rootfs(root: Path, busybox: Path) -> Path:
    folder = root / "rootfs"
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, folder / "bin" / "busybox")
    return folder


def _is_removed(folder: Path) -> bool:
    """Remove the folder and the mounts in it, once podman's clean-ups have ended."""
    if any(str(folder).encode() in command for command in _command_lines()):
        return False
    for mounted in ("run/docker/netns/default", "var/lib/containers/storage/overlay"):
        subprocess.run(["umount", "-l", str(folder / mounted)], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()
