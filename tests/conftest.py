"""What many tests need: golden files, real cgroups, real processes under chosen names."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import Scheduling

from tests.shares import SharesScheduling, marks
from tests.waiting import until_run, why_not_quiet

# Tests start Python hundreds of times: modules, and tests themselves, are compiled once.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Machines are shared and noisy: how long an example takes says nothing.
settings.register_profile(
    "minerwatch",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("nightly", settings.get_profile("minerwatch"), max_examples=500)
settings.load_profile("minerwatch")

GOLDEN = Path(__file__).parent / "golden"
CGROUPS = Path("/sys/fs/cgroup")
_TOP = "minerwatch-test-"
TOP = f"/{_TOP}{os.getpid()}"
"""The cgroup that this run of the tests makes its own in; others may run at the same time."""

needs_root = pytest.mark.root


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return SharesScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which would look at a million lasting objects again.

    What is there afterwards lasts until the end: later collections leave it out. Since these would
    come more often with so few objects left, they wait for more new ones.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = vars(item.module) if isinstance(item, pytest.Function) else ()
        own = {mark.name for mark in item.iter_markers()}
        for mark in marks(item.nodeid, getattr(item, "fixturenames", ()), names, own):
            item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with no_programs(item.nodeid) if item.get_closest_marker("unit") else nullcontext():
        return (yield)


@contextmanager
def no_programs(test: str) -> Iterator[None]:
    """A test that starts a program meanwhile fails: it is none of those marked ``unit``."""

    def fail(*_arguments: object, **_options: object) -> None:
        pytest.fail(f"{test} starts a program: add it to _START_PROGRAMS in tests/shares.py")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", fail)
        patch.setattr(os, "fork", fail)
        patch.setattr(os, "posix_spawn", fail)
        yield


_QUIET_WITHIN_S = 30.0
"""For so long a test that needs a quiet machine waits for one: others of this run may end."""


def container_id(first: str) -> str:
    """64 hex digits that begin with these two, for a container of this run and of no other."""
    return (first + f"{os.getpid():06x}"[-6:]) * 8


def pod_uid(first: str) -> str:
    """The uid, with these eight digits first, of a pod of this run and of no other."""
    return f"{first}-7d1e-4b6c-9a55-{os.getpid():012x}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("makes cgroups or reads others' processes: run it as root")
    if item.get_closest_marker("quiet"):
        end_s = time.monotonic() + _QUIET_WITHIN_S
        while why := why_not_quiet():
            if time.monotonic() >= end_s:
                pytest.skip(f"{why}: run it on a quiet machine, by pytest -m quiet")
            time.sleep(1.0)


def environment_of_this_python() -> dict[str, str]:
    """What a Python that is called ``python3`` needs to find what is installed for this one.

    It takes its name for its path, and looks it up.
    """
    here = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compares a text with a file under tests/golden; UPDATE_GOLDEN=1 rewrites the file."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), (
            f"{path} is missing: run with UPDATE_GOLDEN=1, and read what it wrote"
        )
        assert text == path.read_text(encoding="utf-8")

    return compare


def cgroup_root() -> Path:
    """The hierarchy that minerwatch would read here."""
    if (CGROUPS / "cgroup.controllers").exists():
        return CGROUPS
    found = (CGROUPS / name for name in ("cpuacct", "cpu,cpuacct", "unified"))
    return next(folder for folder in found if (folder / "cgroup.procs").exists())


def private_sys(folder: Path, root: Path) -> Path:
    """A /sys in ``folder`` whose cgroups are those of this run, without the rest of the machine's.

    Where a process is cannot be told from it: /proc names its place in the whole tree.
    """
    mounts = folder / "sys" / "fs" / "cgroup"
    mounts.parent.mkdir(parents=True)
    if root == CGROUPS:
        mounts.symlink_to(root / TOP.strip("/"))
    else:
        mounts.mkdir()
        (mounts / root.name).symlink_to(root / TOP.strip("/"))
    return folder / "sys"


class CgroupFolders:
    """Real cgroups, removed with their processes at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: list[Path] = []

    def make(self, path: str) -> Path:
        folder = self.root / path.strip("/")
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True)
        self._made += reversed(missing)
        return folder

    def put(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        (folder / "cgroup.procs").write_text(str(process.pid))

    def close(self) -> None:
        for folder in reversed(self._made):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a cgroup, and kill what is in it; it stays where that cannot be done."""
    for _ in range(1000):  # many processes take seconds to end on a busy machine
        for pid in _members(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return


def open_files() -> set[tuple[str, str]]:
    """Number and target of each file that this process has open.

    Compare two of these, not their sizes: what other tests left open may be closed in between.
    """
    found: set[tuple[str, str]] = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add((each.name, str(each.readlink())))
    return found


@contextmanager
def no_files_left(spare: int = 0) -> Iterator[None]:
    """This process may open so many more files, no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir("/proc/self/fd")) + 1 + spare
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def _members(folder: Path) -> list[int]:
    """Return its processes; those of another pid namespace read 0, and are not this run's."""
    try:
        pids = (folder / "cgroup.procs").read_text().split()
    except OSError:
        return []
    return [int(pid) for pid in pids if pid != "0"]


def remove_what_is_left(root: Path) -> None:
    """Remove cgroups of runs that were cut off, with what still runs in them.

    Those of runs under way stay: each has its own folder, with the number of its process.
    """
    for folder in root.glob(f"{_TOP}*"):
        pid, *_ = folder.name.removeprefix(_TOP).split("-")
        if pid.isdigit() and Path(f"/proc/{pid}").exists():
            continue
        for path, _, _ in os.walk(folder, topdown=False):
            _remove(Path(path))


def remove_parent_cgroups(path: str) -> None:
    """The folders above that cgroup, in every hierarchy: a container runtime leaves them behind."""
    for root in (CGROUPS, *(folder for folder in CGROUPS.iterdir() if folder.is_dir())):
        for parent in (root / path.strip("/")).parents:
            if parent == root:
                break
            try:
                parent.rmdir()
            except OSError:
                break  # another container's are there too, or it has never been there


@pytest.fixture
def cgroups() -> Iterator[CgroupFolders]:
    try:
        root = cgroup_root()
    except StopIteration:
        pytest.skip("no cgroup hierarchy is mounted on /sys/fs/cgroup: run it where one is")
    if not os.access(root, os.W_OK) or os.statvfs(root).f_flag & os.ST_RDONLY:
        pytest.skip("/sys/fs/cgroup is read-only here: run it where cgroups can be made")
    remove_what_is_left(root)
    folders = CgroupFolders(root)
    yield folders
    folders.close()


class Programs:
    """Real processes under chosen names; all are killed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str, busy: bool) -> subprocess.Popen[bytes]:
        """A shell called ``name`` that computes or waits, with ``arguments`` to be seen."""
        program = self._folder / name
        if not program.exists():
            shutil.copy(shutil.which("dash") or "/bin/sh", program)
        script = "while :; do :; done" if busy else "read nothing"
        return self.run([str(program), "-c", script, *arguments])

    def run(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,
        )
        self.running.append(process)
        until_run(process)
        return process  # type: ignore[no-any-return]

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    folder = tmp_path / "bin"
    folder.mkdir()
    started = Programs(folder)
    yield started
    started.close()
