"""The sources of a node, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from minerwatch.agent import monitor
from minerwatch.agent.monitor import MonitoredNode, open_node
from minerwatch.config.schema import Config, Probes
from minerwatch.config.schema import Node as NodeConfig
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import CodeSamples
from minerwatch.node.gpu_use import GpuReader, GpuSampler
from minerwatch.probes import registry
from minerwatch.probes.registry import ProbeStatus
from tests.conftest import needs_root
from tests.waiting import threads, threads_since

FEW = Config(
    probes=Probes(
        tasks=False, connections=False, mappings=False, content=False, drift=False, rounding=False
    )
)


class Sampler:
    """A source of samples that has none."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.copies_code = False
        self.read_every_s = self.read_calmly_every_s = 1e6

    def read(self) -> CodeSamples:
        return CodeSamples(1.0, [])

    def close(self) -> None:
        pass


def perf_refused() -> Sampler:
    raise SourceUnavailableError("perf is forbidden: permit it")


def bpf_refused() -> Sampler:
    raise SourceUnavailableError("bpf is forbidden: permit it")


@contextmanager
def opened(config: Config = FEW) -> Iterator[tuple[MonitoredNode, ProbeStatus]]:
    node = open_node(config, rulebook.load(()))
    try:
        yield node, next(each for each in node.probes if each.name == "executed_code")
    finally:
        node.watch.close()


def test_copied_code_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "copying_sampler", Sampler)
    monkeypatch.setattr(monitor, "CodeSampler", perf_refused)
    with opened() as (node, status):
        assert status.source == "perf events, code copied by BPF"
        assert not any("code" in spot for spot in node.blind_spots)


def test_perf_events_serve_without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "copying_sampler", bpf_refused)
    monkeypatch.setattr(monitor, "CodeSampler", Sampler)
    monkeypatch.setattr(monitor, "EntrySampler", bpf_refused)
    with opened() as (node, status):
        assert status == ProbeStatus("executed_code", "", source="perf events")
        (spot,) = (each for each in node.blind_spots if "code" in each)
        assert spot == (
            "code that moves before it is read is not seen, because of this:"
            " bpf is forbidden: permit it"
        )


def test_where_they_are_refused_entries_serve_and_it_says_what_would_be_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "copying_sampler", bpf_refused)
    monkeypatch.setattr(monitor, "CodeSampler", perf_refused)
    monkeypatch.setattr(monitor, "EntrySampler", Sampler)
    with opened() as (node, status):
        assert status == ProbeStatus("executed_code", "", source="kernel entries")
        (spot,) = (each for each in node.blind_spots if each.startswith("executed code"))
        assert spot == (
            "executed code is seen only where threads enter the kernel, because of this:"
            " perf is forbidden: permit it"
        )


def test_where_both_are_refused_it_is_off_for_both_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "copying_sampler", bpf_refused)
    monkeypatch.setattr(monitor, "CodeSampler", perf_refused)
    monkeypatch.setattr(monitor, "EntrySampler", bpf_refused)
    with opened() as (node, status):
        assert status.off == (
            "perf is forbidden: permit it; where threads enter the kernel is not seen either:"
            " bpf is forbidden: permit it"
        )
        assert not any("executed code" in spot for spot in node.blind_spots)


def test_switched_off_it_opens_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "CodeSampler", perf_refused)
    with opened(Config(probes=Probes(executed_code=False, tasks=False))) as (_, status):
        assert status.off == "switched off (probes.executed_code)"
        assert not status.is_asked_for


@pytest.mark.parametrize(
    ("config", "off"),
    [
        (Config(probes=Probes(pod_network=False)), "switched off (probes.pod_network)"),
        (Config(node=NodeConfig(proc="/elsewhere")), "node.proc is not this kernel's"),
    ],
)
def test_the_pods_network_is_off_and_say_why(config: Config, off: str) -> None:
    few = replace(config, probes=replace(FEW.probes, pod_network=config.probes.pod_network))
    with opened(few) as (node, _):
        (status,) = (each for each in node.probes if each.name == "pod_network")
        assert status.off == off


def test_without_the_iterator_sockets_are_read_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "SocketIterator", bpf_refused)
    monkeypatch.setattr(registry, "effective_capabilities", lambda: frozenset(("SYS_PTRACE",)))
    with opened(replace(FEW, probes=replace(FEW.probes, connections=True))) as (node, _):
        (status,) = (each for each in node.probes if each.name == "connections")
        assert (status.off, status.source) == ("", "files in /proc")
        spot = "connections come without counters of bytes: bpf is forbidden: permit it"
        assert spot in node.blind_spots


@needs_root
def test_each_thread_of_a_probe_has_its_name() -> None:
    """So that `minerwatch_probe_up` is 0 while it fails."""
    before = threads()
    with opened(Config()) as (node, _):
        names = {each.name for each in threads_since(before)}
        assert names
        assert names - {each.name for each in node.probes} <= {"arguments", "hot_code"}


@pytest.mark.parametrize(
    ("config", "off", "source"),
    [
        (Config(probes=Probes(gpu=False)), "switched off (probes.gpu)", ""),
        (Config(), "this kernel knows no GPU of NVIDIA, AMD or Intel", ""),
        (Config(node=NodeConfig(gpu_library="/lib/nv.so")), "", "nvidia, by a child"),
        (Config(node=NodeConfig(gpu_socket="/run/gpu.sock")), "", "nvidia, by a socket"),
        (Config(node=NodeConfig(gpu_exporter="http://[::1]:1/")), "", "nvidia, by dcgm-exporter"),
    ],
)
def test_gpus_are_read_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, config: Config, off: str, source: str
) -> None:
    monkeypatch.setattr(monitor, "gpus_seen", lambda _proc, _sys: iter(()))
    probes = replace(FEW.probes, gpu=config.probes.gpu)
    with opened(replace(config, probes=probes)) as (node, _):
        (status,) = (each for each in node.probes if each.name == "gpu")
    assert (status.off, status.source) == (off, source)
    assert status.is_asked_for is not bool(off)


@pytest.mark.parametrize("is_wanted", [False, True])
def test_what_gpus_compute_is_read_only_if_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    asked = []

    def reader(samplers: Sequence[GpuSampler], *, with_pipes: bool, interval_s: float) -> GpuReader:
        asked.append((with_pipes, interval_s))
        return GpuReader(samplers)

    monkeypatch.setattr(monitor, "GpuReader", reader)
    monkeypatch.setattr(monitor, "gpus_seen", lambda _proc, _sys: iter(()))
    probes = replace(FEW.probes, gpu=True, gpu_pipes=is_wanted)
    with opened(Config(node=NodeConfig(gpu_socket="/run/gpu.sock"), probes=probes)):
        pass
    assert asked == [(is_wanted, 10.0)]
    assert not Config().probes.gpu_pipes


def test_without_nvidias_library_its_gpus_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "gpus_seen", lambda _proc, _sys: iter(("nvidia",)))
    monkeypatch.setattr(monitor, "nvml_library", lambda: "")
    with opened() as (node, _):
        (status,) = (each for each in node.probes if each.name == "gpu")
    assert status.off == (
        "NVIDIA's library is not here: set node.gpu_library, or in the chart gpu.enabled"
    )
    assert not status.is_asked_for, "no alert where it is not known to be wanted"


def test_gpus_of_others_are_read_by_a_child_beside_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "gpus_seen", lambda _proc, _sys: iter(("amdgpu", "nvidia")))
    monkeypatch.setenv("MINERWATCH_GPU_SOCKET", "/run/gpu.sock")
    with opened() as (node, _):
        (status,) = (each for each in node.probes if each.name == "gpu")
    assert status.source == "amdgpu, nvidia, by a socket"


def test_an_exporter_is_read_instead_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "gpus_seen", lambda _proc, _sys: iter(("nvidia",)))
    monkeypatch.setattr(monitor, "nvml_library", lambda: "")
    monkeypatch.setenv("MINERWATCH_GPU_EXPORTER", "http://127.0.0.1:1/metrics")
    with opened() as (node, _):
        (status,) = (each for each in node.probes if each.name == "gpu")
    assert (status.off, status.source) == ("", "nvidia, by dcgm-exporter")
