"""What the kernel says of one process: all of it chosen by whoever runs it."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

import yara_x

from minerwatch.api.snapshot import decode, encode
from minerwatch.api.statuses import container_status
from minerwatch.cli.top_screen.terminal import environment_at_start, terminal_of
from minerwatch.config.schema import BUILT_IN_RULES, CullBudget
from minerwatch.culling.file_budget import FileBudget
from minerwatch.culling.host_actions import engine_state
from minerwatch.culling.process_signals import read_stat as state_of
from minerwatch.culling.records import ActionRecord, Moment
from minerwatch.detection.facts import static_facts
from minerwatch.detection.judge import Judge, Sighting
from minerwatch.kube.client import ApiError
from minerwatch.model import (
    Action,
    Container,
    ContainerKey,
    ContainerKind,
    Observation,
    Outcome,
    Process,
    ProcessId,
    ProcessLoad,
    Verdict,
)
from minerwatch.node.children import scanning, yara_scanner
from minerwatch.node.children.exe_hasher import parse_start_ticks
from minerwatch.node.command_lines import END_BYTES
from minerwatch.node.engine_files import (
    docker_container,
    docker_data_root,
    podman_containers,
    podman_graph_root,
)
from minerwatch.node.host_view import HostView
from minerwatch.node.proc_files import parse_stat
from minerwatch.node.processes import ProcessReader, accounts
from minerwatch.report.log import verdict_line
from minerwatch.view.explanation import explanation
from tests.fuzz.contract import are_lines, is_finite, is_line, is_publishable, is_unicode
from tests.fuzz.places import folder, link, put
from tests.fuzz.registry import parts, target
from tests.report.samples import NOW
from tests.shipped import matcher

_PID = 7
_STAT = b"7 (a) R 1 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 99 0 0 0 1 2 3 " + b"0 " * 24


@target("node.proc_files")
def proc_stat(data: bytes) -> None:
    """/proc/PID/stat: the name may hold brackets, newlines and half characters."""
    stat = parse_stat(_PID, data)
    if stat is not None:
        is_finite(stat.cpu_s)
        is_unicode(stat.comm)
        assert len(stat.comm) <= 4 * len(data)


@target(
    *("node.processes", "node.command_lines", "node.proc_files"),
    *("node.children.exe_hasher", "culling.process_signals"),
    cost=8,
)
def proc_files(data: bytes) -> None:
    """Stat, status, command line, executable and folder of a process, read as the agent does."""
    stat, status, command_line, exe, cwd = parts(data, 5)
    proc = folder("proc")
    place = proc / str(_PID)
    put(place / "stat", stat or _STAT)
    put(place / "status", status)
    put(place / "cmdline", command_line)
    link(place / "exe", exe)
    link(place / "cwd", cwd)
    reader = _reader(proc)
    process = reader.read([_PID]).get(_PID)
    memory = reader.memory(_PID)
    if memory is not None:
        is_finite(memory.rss_mib)
        is_finite(memory.hugetlb_mib)
    state_of(_PID, proc)
    with suppress(ValueError, IndexError):
        assert isinstance(parse_start_ticks(stat), int)
    if process is None:
        return
    assert len(process.command_line) <= 4 * (2 * END_BYTES + 16)
    for text in (process.comm, process.command_line, process.image, process.current_directory):
        is_unicode(text)
    assert process.command_line.strip() or process.command_line == ""


@cache
def _reader(proc: Path) -> ProcessReader:
    return ProcessReader(proc, deadline_s=5.0, passwd=put(proc / "passwd", b"root:x:0:0::/:\n"))


@target("detection.facts", "detection.matching.matcher", "view.explanation", cost=16)
def program(data: bytes) -> None:
    """Names and arguments through the shipped rules to what is published about them."""
    comm, command_line, image, cwd, user = (
        piece.decode("utf-8", "backslashreplace") for piece in parts(data, 5)
    )
    process = Process(
        id=ProcessId(_PID, 99),
        parent_pid=1,
        comm=comm[:60],
        command_line=command_line,
        image=image,
        current_directory=cwd,
        uid=1000,
        user=user[:60],
        exe_deleted=len(data) % 2 == 0,
        exe_in_memory=False,
        command_line_hidden=not command_line,
        kernel_thread=False,
        program=123,
    )
    facts = {**static_facts(process, process), "CpuCores": 1.0, "Age": 900.0, "Threads": 4}
    matches = matcher().matches(facts)
    assert matches == matcher().matches(facts)
    container = Container("/a", 1, ContainerKind.ENGINE, "ab" * 32, "docker")
    sightings = [Sighting(each.rule, process.id, each.evidence) for each in matches]
    verdict = _verdict(container.key, sightings)
    status = container_status(_observed(container, process, verdict), node="n", boot_unix_s=1e9)
    (again,) = decode(encode([status]))
    assert again == status
    are_lines(explanation(status, now=NOW))
    line = verdict_line(status, "clear")
    is_publishable(line)
    for finding in line["findings"]:
        for value in finding["evidence"].values():
            if isinstance(value, str):
                is_line(value)


def _verdict(key: ContainerKey, sightings: list[Sighting]) -> Verdict:
    judge = Judge()
    judge.verdict(key, sightings, 0.0)
    return judge.verdict(key, sightings, 3600.0)


def _observed(container: Container, process: Process, verdict: Verdict) -> Observation:
    return Observation(
        container=container,
        at_s=3600.0,
        cpu_s=900.0,
        cpu_cores=1.0,
        limit=None,
        throttled_share=None,
        process_count=1,
        processes=(ProcessLoad(process, 1.0, ()),),
        verdict=verdict,
    )


@target("node.processes")
def passwd(data: bytes) -> None:
    """The names of users; the file is the host's."""
    for uid, account in accounts(put(folder("passwd") / "passwd", data)).items():
        assert 0 <= uid < 10**10
        is_unicode(account.name)
        is_unicode(account.home)


@target("node.engine_files")
def engine_files(data: bytes) -> None:
    """Files of docker and podman; without root they are a user's."""
    found = [*podman_containers(data).values()]
    docker = docker_container(data, "1" * 64)
    for each in (*found, *((docker,) if docker else ())):
        for text in (each.name, each.image, *each.labels, *each.labels.values()):
            is_unicode(text)
    is_unicode(docker_data_root(data))
    is_unicode(podman_graph_root(data))


@target("node.engine_names", "node.engine_files", "node.host_view")
def engine_folders(data: bytes) -> None:
    """The folders of docker and podman, as they are found."""
    root = folder("engines")
    container = Container(f"/docker/{'1' * 64}", 1, ContainerKind.ENGINE, "1" * 64, "")
    docker, podman = parts(data, 2)
    put(_made(root / "var/lib/docker/containers" / container.container_id) / _DOCKER, docker)
    put(_made(root / "var/lib/containers/storage/overlay-containers") / _PODMAN, podman)
    with closing(HostView(root, "host-1")) as view:
        identity = view.identity(container)
    if identity is not None:
        is_unicode(identity.container)
        is_unicode(identity.image)


_DOCKER, _PODMAN = "config.v2.json", "containers.json"


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@target("culling.file_budget")
def budget_file(data: bytes) -> None:
    """A host's budget: whatever is in the file, no action too many."""
    path = put(folder("budget") / "budget.json", data)
    path.chmod(0o600)
    now = Moment(1.8e9, 50_000.0, "boot")
    settings = CullBudget(per_node=2, per_cluster=2)
    budget = FileBudget(path, lambda: settings, lambda: now)
    taken = [budget.reserve(_record(name), now) for name in ("a", "b", "c")]
    assert sum(taken) <= 2


def _record(name: str) -> ActionRecord:
    return ActionRecord(
        name, 1.8e9, 50_000.0, "boot", "host-1", "", "web", "uid", "",
        Action.KILL, 0, False, Outcome.PENDING,
    )  # fmt: skip


@target("culling.host_actions")
def engine_answer(data: bytes) -> None:
    """An engine's answer about a container."""
    with suppress(ApiError):
        found = engine_state(data)
        is_unicode(found.status)
        assert isinstance(found.pid, int)


@target("cli.top_screen.terminal")
def environment(data: bytes) -> None:
    """/proc/self/environ, which says what the terminal knows."""
    terminal_of(environment_at_start(put(folder("environ") / "environ", data)))


# What the scanner's child reads.


@cache
def _scanners() -> list[yara_x.Scanner]:
    found = []
    for path in sorted(BUILT_IN_RULES.rglob("*.yar")):
        compiled, error = scanning.compile_rules(path.read_text())
        assert error is None, error
        assert compiled is not None
        found.append(yara_x.Scanner(compiled))
    return found


@target("node.children.yara_scanner", max_bytes=16384, cost=4)
def executable(data: bytes) -> None:
    """Anything may lie in what a process executes."""
    for window in yara_scanner.windows([data]):
        for scanner in _scanners():
            for rule in scanner.scan(window).matching_rules:
                assert rule.identifier.isidentifier()


@target("node.children.yara_scanner", cost=4)
def memory_map(data: bytes) -> None:
    """maps, pagemap and mem of a process: what is resident, and no more than may be read."""
    maps, pagemap, memory = parts(data, 3)
    place = folder("memory")
    named = (("maps", maps), ("pagemap", pagemap), ("mem", memory))
    files = [os.open(put(place / name, content), os.O_RDONLY) for name, content in named]
    try:
        program = yara_scanner.Program(4096, 1 << 40, read_implies_exec=len(data) % 2 > 0)
        held = yara_scanner.Memory(program, *files)
        for mapping in held.mappings():  # else what has been walked would grow less
            assert mapping.start < mapping.end
        os.lseek(files[0], 0, os.SEEK_SET)
        size = sum(len(piece) for piece in held.pieces())
        assert size <= yara_scanner.MAX_MEMORY_BYTES + len(maps) * len(yara_scanner.GAP)
    finally:
        for file in files:
            os.close(file)
