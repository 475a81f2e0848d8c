"""What the kernel says of the node, and what the agent's own children say of processes."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any

import msgspec

from minerwatch.detection.executed_code import INSTRUCTIONS
from minerwatch.detection.network_rates import network_facts
from minerwatch.model import Container, ContainerKind
from minerwatch.node import (
    capabilities,
    cgroups,
    exec_events,
    executed_code,
    memory_maps,
    task_iterator,
    yara_scan,
)
from minerwatch.node.children import dcgm_reader, gpu_files
from minerwatch.node.children.code_classifier import Decoder
from minerwatch.node.children.mappings import largest_file_mib, mapping_of
from minerwatch.node.cluster_networks import ClusterNetworks
from minerwatch.node.command_lines import END_BYTES, Piece, join_pieces
from minerwatch.node.exe_digests import HasherAnswer
from minerwatch.node.fp_rounding import RoundingSamples
from minerwatch.node.gpu_use import Answer as GpuAnswer
from minerwatch.node.guarded_child import AnswerLines
from minerwatch.node.network_counters import CounterReader
from minerwatch.node.packet_parser import first_words
from minerwatch.node.tcp_connections import SocketReader
from tests.fuzz.contract import is_finite, is_line, is_one_line, is_unicode
from tests.fuzz.places import file_name, folder, link, put
from tests.fuzz.registry import SEPARATOR, parts, target
from tests.node.task_rows import tasks_of

_UID = "0b1c2d3e-0000-4000-8000-000000000001"
_OWN = f"/kubepods/pod{_UID}/" + "ab" * 32
_OTHER = f"/kubepods/pod{_UID[:-1]}2/" + "cd" * 32
_MAX_PID = 1 << 31
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
    *("node.cgroups", "node.cgroup_counters", "node.cgroup_files"),
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
                    assert all(0 < pid < _MAX_PID for pid in pids)
            for key in tick.containers:
                found = tree.limit(key)
                if found is not None and found.cores is not None:
                    is_finite(found.cores)
                    assert found.cores > 0
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
    for _, address, port in reader.unanswered(1, [_PID]):
        assert len(address) == 16
        assert 0 <= port <= 65535
    for connection in found[_PID]:
        ip_address(connection.address)
        assert 0 <= connection.port <= 65535
    assert len(found[_PID]) <= 64


@target("node.network_counters", cost=4)
def net_counters(data: bytes) -> None:
    """Counters of devices and protocols; devices may bear any name."""
    dev, snmp, snmp6, raw, namespace = parts(data, 5)
    proc = folder("net-counters")
    place = proc / str(_PID)
    for name, written in (("dev", dev), ("snmp", snmp), ("snmp6", snmp6), ("raw", raw)):
        put(place / "net" / name, written)
    link(place / "ns" / "net", namespace or b"net:[4026531840]")
    reader = CounterReader(str(proc))
    reader.namespace(_PID)
    assert reader.raw_sockets(_PID) >= 0
    devices = reader.devices(_PID, 1.0)
    counters = reader.protocols(_PID, devices) if devices is not None else None
    if counters is not None:
        later = replace(counters.devices, at_s=11.0, sent_packets=1 << 40, received_packets=1 << 40)
        for value in network_facts(counters, replace(counters, devices=later)).values():
            assert isinstance(value, int | float)
            is_finite(value)
            assert value >= 0


@target("node.cluster_networks", cost=2)
def net_route(data: bytes) -> None:
    """The node's routes."""
    route, route6 = parts(data, 2)
    proc = folder("net-route")
    put(proc / "1" / "net" / "route", route)
    put(proc / "1" / "net" / "ipv6_route", route6)
    networks = ClusterNetworks(proc=str(proc))
    assert not networks.is_outside("10.0.0.1", 1.0)
    assert isinstance(networks.is_outside("2001:db8::1", 1.0), bool)


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


@target("node.packet_parser")
def first_words_of_packets(data: bytes) -> None:
    """Packets that the kernel's filter has passed, and words that begin a connection."""
    for packet in data.split(SEPARATOR)[:16]:
        found = first_words(packet)
        if found is None:
            continue
        assert len(found.remote) == 16
        assert 0 <= found.initial_sequence < 1 << 32
        assert found.words or found.server_name
        assert len(found.words) <= 4
        for each in (*found.words, found.server_name):
            is_line(each, most=253)


class _Iterator(task_iterator.TaskIterator):
    """One whose records have been read already."""

    def __init__(self, content: bytes) -> None:
        self.failures = {"unreadable": 0}
        self._iterator = _Pieces(content)  # type: ignore[assignment]
        self._reads_one_process = False


class _Pieces:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def pieces(self) -> Any:
        yield self._content


@target("node.task_iterator", "node.fp_rounding")
def task_records(data: bytes) -> None:
    """Whole records of the BPF task iterator, and what their control words say."""
    whole = data[: len(data) - len(data) % task_iterator.ROW.size]
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


@target("node.capabilities")
def privileges(data: bytes) -> None:
    """CapEff in /proc/self/status."""
    proc = folder("privilege")
    put(proc / "self" / "status", data)
    for name in capabilities.effective_capabilities(proc):
        assert re.fullmatch("[A-Z_]+", name)


# What children say: they handle what attackers wrote, so they are not trusted.


def _lines_of(data: bytes) -> AnswerLines:
    """Answers of a child that wrote ``data`` and exited."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        os.write(writing, data)
    os.close(writing)
    _open_pipes.append(os.fdopen(reading, "rb", buffering=0))
    while len(_open_pipes) > 1:
        _open_pipes.pop(0).close()
    return AnswerLines(reading, os.getpid())


_open_pipes: list[IO[bytes]] = []


@target("node.yara_scan", "node.guarded_child")
def scanner_answers(data: bytes) -> None:
    """What the scanner's child prints: names of rules, or the agent starts another."""
    lines = _lines_of(data)
    result = yara_scan.ScanResult()
    with suppress(OSError, ValueError):  # as the reader expects
        result.collect(lambda: lines.next(yara_scan.ScannerAnswer, _soon()))
    assert len(result.names) <= yara_scan.MAX_NAMES
    assert all(yara_scan.RULE_NAME.fullmatch(name) for name in result.names)
    with suppress(OSError, ValueError):
        yara_scan.RuleTexts(()).keep_broken(_lines_of(data).next(yara_scan.ScannerAnswer, _soon()))


def _soon() -> float:
    return time.monotonic() + 5.0


@target("node.exe_digests", "node.guarded_child")
def digests(data: bytes) -> None:
    """What the hasher's child prints: a digest, or the reason why there is none."""
    try:
        text = _lines_of(data).next(HasherAnswer, _soon()).text()
    except (OSError, ValueError):
        return  # as the hasher expects
    if text is not None:
        assert re.fullmatch("[0-9a-f]{64}|- .*", text)
        is_line(text, most=2 + 10 * 98)  # an escape is ten characters at most


@target("node.command_lines", "node.guarded_child")
def reading_records(data: bytes) -> None:
    """What the reader of command lines answers: pieces, of which both ends are kept."""
    lines = _lines_of(data)
    try:
        found = join_pieces(lambda: lines.next(Piece, _soon()))
    except (OSError, ValueError):
        return  # as the reader expects
    assert isinstance(found, int) or len(found) <= 2 * END_BYTES + 8


@target("node.executed_code")
def code_samples(data: bytes) -> None:
    """What a CPU's ring holds; the kernel writes it, and a tenant chooses what it executes."""
    for record in (executed_code.SAMPLE, executed_code.SAMPLE_WITHOUT_CGROUP):
        samples, lost = executed_code.samples_in([data], record)
        assert len(samples) * record.size <= len(data)
        assert lost >= 0


@target("node.children.code_classifier", "node.children.disassembler")
def sampled_code(data: bytes) -> None:
    """Code at sampled addresses."""
    for machine in ("x86_64", "i686", "aarch64"):
        window = _decoder(machine).window(data)
        assert window is None or 0 < sum(window.counts) <= INSTRUCTIONS


@target("node.children.mappings")
def mappings(data: bytes) -> None:
    """The list of a process's mappings; names of files are a tenant's."""
    lines = data.splitlines(keepends=True)
    assert largest_file_mib(lines) >= 0
    for address in (0, 0x400000, 0x7FFF_FFFF_F000, (1 << 64) - 1):
        found = mapping_of(address, lines)
        assert found is None or found.start <= address < found.end


_decoder = cache(Decoder)


@target("node.gpu_use")
def gpu_answer(data: bytes) -> None:
    """A sampler's answer on GPUs and the processes that use them."""
    try:
        sample = msgspec.json.decode(data, type=GpuAnswer).sample()
    except (ValueError, RecursionError):
        return
    for device in sample.devices:
        is_one_line(device.id + device.name)
        assert device.busy is None or 0 <= device.busy <= 1
        assert all(0 <= use < float("inf") for use in device.pipes.values())
    for use in sample.uses:
        assert use.pid >= 0
        assert use.device < len(sample.devices)
        assert use.busy is None or 0 <= use.busy <= 1


@target("node.children.dcgm_reader")
def dcgm_scrape(data: bytes) -> None:
    """What dcgm-exporter answers, or whatever answers in its place."""
    found = {"at_s": 1.0, **dcgm_reader.parsed(data.decode("utf-8", "replace"))}
    sample = msgspec.convert(found, GpuAnswer).sample()
    for grant in sample.grants:
        assert grant.device < len(sample.devices)
        is_one_line(grant.namespace + grant.pod + grant.container)


@target("node.children.gpu_files")
def gpu_client(data: bytes) -> None:
    """The counters of one client of a GPU of AMD or Intel, at two moments."""
    before, now = (gpu_files.parsed(each) for each in parts(data, 2))
    if before is not None and now is not None:
        assert 0 <= gpu_files.busy_share(before, now, 10.0) <= 1
        assert now.memory_bytes is None or now.memory_bytes >= 0
