"""What the kernel says of the node, and what the agent's own children say of processes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from minerwatch.errors import NOT_JSON
from minerwatch.model import Container, ContainerKind, ProcessId
from minerwatch.node import (
    capabilities,
    cgroups,
    cpu_quota,
    exec_events,
    memory_maps,
    task_iterator,
    yara_scan,
)
from minerwatch.node.exe_digests import ExecutableHasher
from minerwatch.node.fp_rounding import RoundingSamples
from minerwatch.node.ptrace_sampling import PtraceSampler
from minerwatch.node.tcp_connections import SocketReader
from tests.fuzz.contract import is_finite, is_unicode
from tests.fuzz.places import file_name, folder, link, put
from tests.fuzz.registry import SEPARATOR, parts, target
from tests.node.task_records import tasks_of

_UID = "0b1c2d3e-0000-4000-8000-000000000001"
_OWN = f"/kubepods/pod{_UID}/" + "ab" * 32
_OTHER = f"/kubepods/pod{_UID[:-1]}2/" + "cd" * 32
_MOST_PID = 1 << 31
_PID = 7


@cache
def _cgroup_mounts(version: int) -> Path:
    """A hierarchy with two containers, as far as their folders go."""
    mounts = folder(f"cgroup{version}") / "fs" / "cgroup"
    root = mounts if version == 2 else mounts / "cpu,cpuacct"
    for each in (_OWN, _OTHER):
        (root / each.strip("/")).mkdir(parents=True)
    if version == 2:
        put(root / "cgroup.controllers", b"cpu memory\n")
    for place in (root, *root.rglob("*")):
        if place.is_dir():
            put(place / "cgroup.procs", b"")
            put(place / "cpu.stat", b"usage_usec 1000000\n")
            put(place / "cpuacct.usage", b"1000000000\n")
    return mounts


@target(
    *("node.cgroups", "node.cgroup_counters", "node.cgroup_files", "node.cgroup_hierarchy"),
    *("node.cgroup_members", "node.cgroup_walk"),
    cost=8,
)
def cgroup_files(data: bytes) -> None:
    """Counters, members, limits, and where a process is, in either version of cgroups."""
    usage, members, limit, place, stat = parts(data, 5)
    for version in (1, 2):
        mounts = _cgroup_mounts(version)
        own = (mounts if version == 2 else mounts / "cpu,cpuacct") / _OWN.strip("/")
        proc = folder("cgroup-proc")
        quota_us, _, period_us = limit.partition(b" ")
        for path, written in (
            *((own / "cpu.stat", usage), (own / "cpuacct.usage", usage)),
            *((own / "cgroup.procs", members), (own / "cpu.max", limit)),
            *((own / "cpu.cfs_quota_us", quota_us), (own / "cpu.cfs_period_us", period_us)),
            *((proc / str(_PID) / "cgroup", place), (proc / "stat", stat)),
        ):
            put(path, written)
        tree = cgroups.CgroupTree(mounts.parents[1], proc)
        try:
            for _ in range(2):
                tick = tree.tick()
                for cpu_s in tick.cpu_s.values():
                    is_finite(cpu_s)
                    assert cpu_s >= 0
                for pids in tick.pids.values():
                    assert all(0 < pid < _MOST_PID for pid in pids)
            for key in tick.containers:
                found = tree.limit(key)
                if found is not None and found.cores is not None:
                    is_finite(found.cores)
                    assert found.cores > 0
                    is_finite(found.throttled_s)
            tree.container_of(_PID)
        finally:
            tree.close()


@target("node.cgroups", "node.cgroup_names", cost=8)
def cgroup_name(data: bytes) -> None:
    """Whoever may make cgroups in a container is in that container, whatever they are called."""
    name = file_name(data)
    for version in (1, 2):
        mounts = _cgroup_mounts(version)
        root = mounts if version == 2 else mounts / "cpu,cpuacct"
        inner = os.fsencode(root) + os.fsencode(_OWN) + b"/" + name
        os.mkdir(inner)
        for file, written in ((b"cgroup.procs", b"7\n"), (b"cpu.stat", b"usage_usec 1\n")):
            put(Path(os.fsdecode(inner + b"/" + file)), written)
        proc = folder("cgroup-proc")
        lines = (b"13:name=systemd:", b"5:cpu,cpuacct:", b"0::")
        below = os.fsencode(_OWN) + b"/" + name + (os.fsencode(_OTHER) if len(data) % 2 else b"")
        put(proc / str(_PID) / "cgroup", b"".join(each + below + b"\n" for each in lines))
        tree = cgroups.CgroupTree(mounts.parents[1], proc)
        try:
            tick = tree.tick()
            found = tree.container_of(_PID)
            assert found is not None
            assert found.cgroup.startswith(_OWN)
            for container in tick.containers.values():
                _is_own_or_other(container)
        finally:
            tree.close()
            for file in os.listdir(inner):
                os.unlink(inner + b"/" + file)
            os.rmdir(inner)


def _is_own_or_other(container: Container) -> None:
    if container.kind is ContainerKind.POD:
        is_own = container.cgroup.startswith(_OWN)
        assert container.pod_uid == (_UID if is_own else f"{_UID[:-1]}2")
    is_unicode(container.cgroup)
    is_unicode(container.container_id)


@target("node.tcp_connections", cost=4)
def net_tcp(data: bytes) -> None:
    """/proc/PID/net/tcp, tcp6, and what a descriptor leads to."""
    tcp, tcp6, descriptor = parts(data, 3)
    proc = folder("net")
    place = proc / str(_PID)
    put(place / "stat", b"1 (x) S 1 1")
    link(place / "ns" / "net", b"net:[4026531840]")
    put(place / "net" / "tcp", tcp)
    put(place / "net" / "tcp6", tcp6)
    link(place / "fd" / "3", descriptor or b"socket:[12345]")
    reader = SocketReader(str(proc))
    found = reader.connections([_PID], 1.0)
    for connection in found[_PID]:
        ip_address(connection.address)
        assert 0 <= connection.port <= 65535
    assert len(found[_PID]) <= 64


@target("node.memory_maps", max_bytes=16384)
def smaps(data: bytes) -> None:
    """/proc/PID/smaps; mappings may bear the name of any file."""
    found = memory_maps.parse_smaps(data)
    for figure in (found.jit_mib, found.largest_anonymous_mib):
        is_finite(figure)
        assert figure >= 0


@target("node.exec_events")
def proc_connector(data: bytes) -> None:
    """Messages of the proc connector; and the answer to the subscription."""
    for message in data.split(SEPARATOR)[:16]:
        pid = exec_events.exec_pid(message, len(message))
        assert pid is None or 0 <= pid < 1 << 32
        with suppress(OSError):  # the kernel's refusal
            exec_events.is_answer(message, token=1)


class _Iterator(task_iterator.TaskIterator):
    """One whose records have been read already."""

    def __init__(self, content: bytes) -> None:
        self.failures = {"unreadable": 0}
        self._content = content
        self._link, self._reads_one_process = None, False

    def _pieces(self, link: int | None) -> Any:
        yield self._content


@target("node.task_iterator", "node.fp_rounding")
def task_records(data: bytes) -> None:
    """Whole records of the BPF task iterator, and what their control words say."""
    whole = data[: len(data) - len(data) % task_iterator.RECORD.size]
    table = task_iterator.TaskTable(whole)
    tasks = tasks_of(_Iterator(whole))
    for sample in tasks:
        stat = table.stat(sample.pid)
        if stat is not None:
            is_finite(stat.cpu_s)
            is_unicode(stat.comm)
        for cpu_s in table.thread_cpu(sample.pid).values():
            is_finite(cpu_s)
    assert table.replaced_since(task_iterator.TaskTable(whole)) == set()
    wanted = [each.process for each in tasks]
    rounding = RoundingSamples("x86_64")
    for number, fp in enumerate(_Iterator(whole).fp_samples(wanted)):
        rounding.add(float(number), fp.tid, fp.fp_control, fp.switches)
    found = rounding.rounding()
    if found is not None:
        assert 0 <= found.share <= 1
        assert 0 <= found.flush_to_zero_share <= 1
        assert 1 <= found.modes <= 4


@target("node.cpu_quota")
def own_cgroup(data: bytes) -> None:
    """/proc/self/cgroup, and a quota file: whether the agent may be kept from running."""
    places, limit = parts(data, 2)
    root = folder("quota")
    put(root / "own" / "cgroup.procs", b"%d\n" % os.getpid())
    put(root / "cgroup.procs", b"")
    for is_v2 in (False, True):
        hierarchy = cpu_quota._Hierarchy(root, is_v2=is_v2)
        found = cpu_quota._own_folder(hierarchy, cpu_quota._lines(places))
        assert found is None or found.is_relative_to(root)
    assert isinstance(cpu_quota._has_quota(put(root / "cpu.max", limit)), bool)


@target("node.capabilities")
def privileges(data: bytes) -> None:
    """CapEff in /proc/self/status."""
    proc = folder("privilege")
    put(proc / "self" / "status", data)
    for name in capabilities.effective_capabilities(proc):
        assert re.fullmatch("[A-Z_]+", name)


# What children say: they handle what attackers wrote, so they are not trusted.


def _child_that_said(data: bytes) -> Any:
    """A child whose standard output held ``data`` and ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        os.write(writing, data)
    os.close(writing)
    stdout = os.fdopen(reading, "rb", buffering=0)
    return SimpleNamespace(
        stdout=stdout, stdin=None, pid=os.getpid(), kill=lambda: None, wait=lambda _s: 0
    )


class _Sampler(PtraceSampler):
    """One without a child of its own."""

    def _start(self) -> None:
        pass

    def _wait_for_trial(self) -> None:
        pass


@target("node.ptrace_sampling")
def ptrace_answers(data: bytes) -> None:
    """What the sampler's child prints: samples, or the agent goes on without it."""
    sampler = _Sampler(lambda: "")
    sampler._child = child = _child_that_said(data)
    sampler._asked_s = 1.0
    try:
        sampler._take_answers(1.0)
        for sample in sampler._samples:
            assert 0 <= sample.fp_control < 1 << 32
    finally:
        child.stdout.close()


class _Scanner(yara_scan._Child):
    """One that said what it said, whatever it is asked."""

    def __init__(self, data: bytes) -> None:
        self._process = _child_that_said(data)
        self._received = bytearray()

    def put(self, message: object) -> None:
        pass

    def end(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        stdout.close()


@cache
def _content_reader() -> yara_scan.ContentReader:
    reader = yara_scan.ContentReader("/proc", ())
    reader.close()
    return reader


@target("node.yara_scan")
def scanner_answers(data: bytes) -> None:
    """What the scanner's child prints: names of rules, or the agent starts another."""
    reader = _content_reader()
    scanner = _Scanner(data)
    names: dict[str, None] = {}
    try:
        reader._scan(scanner, ProcessId(_PID, 1), names)
    except (OSError, *NOT_JSON):
        pass  # as _scanned expects
    finally:
        scanner.end()
    assert len(names) <= yara_scan._MAX_NAMES
    assert all(yara_scan._RULE_NAME.fullmatch(name) for name in names)
    scanner = _Scanner(data)
    try:
        yara_scan._Rules((), None).given_to(scanner)
    except (OSError, *NOT_JSON):
        pass  # as _scanned expects
    finally:
        scanner.end()


class _Hasher(ExecutableHasher):
    """One whose child printed that."""

    def __init__(self, printed: bytes) -> None:
        super().__init__()
        self._said = printed

    def _printed(self, words: list[str], until_s: float) -> tuple[bytes, bool]:
        return self._said, False


@target("node.exe_digests")
def digests(data: bytes) -> None:
    """What the hasher's child prints: a digest, or the reason why there is none."""
    asked = [ProcessId(pid, 1) for pid in range(1, 5)]
    found = _Hasher(data).digests(asked)
    assert found.keys() <= set(asked)
    for answer in found.values():
        assert re.fullmatch("[0-9a-f]{64}|- .{0,98}", answer, re.DOTALL)
        is_unicode(answer)
