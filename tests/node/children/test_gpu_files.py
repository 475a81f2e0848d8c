"""GPUs of AMD and Intel under roots of the tests."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node.children import gpu_files
from minerwatch.node.children.gpu_files import DrmFiles, Reading, busy_share, parsed
from tests.conftest import needs_root
from tests.node.fake_gpus import make_card, make_client

PCI = "0000:03:00.0"


class Roots:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.sys = folder / "proc", folder / "sys"
        self.failures: Counter[str] = Counter()
        self.files = DrmFiles(str(self.proc), str(self.sys), self.failures)
        self.at_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.at_s)

    def uses(self, *pids: int) -> dict[int, tuple[float | None, int | None]]:
        """Read after ten seconds; return busy share and memory by PID, of the first device."""
        self.at_s += 10.0
        ((_, uses), *_) = self.files.read(pids)
        return {use.pid: (use.busy, use.memory_bytes) for use in uses}


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    return Roots(tmp_path, monkeypatch)


def client(roots: Roots, pid: int, number: int = 5, client_id: str = "1", **fields: str) -> None:
    make_client(roots.proc, pid, number, pdev=PCI, client_id=client_id, **fields)


def test_amd_counts_nanoseconds_of_each_engine(roots: Roots) -> None:
    make_card(roots.sys)
    client(roots, 7, engine_compute="1000000000 ns", memory_vram="2048 KiB")
    assert roots.uses(7) == {7: (None, 2 << 20)}
    client(roots, 7, engine_compute="9000000000 ns", engine_dec="99000000000 ns")
    assert roots.uses() == {7: (0.8, None)}, "a process that has a client is read each time"


def test_capacity_is_the_number_of_engines_of_a_kind(roots: Roots) -> None:
    make_card(roots.sys, driver="i915")
    client(roots, 7, engine_compute="0 ns", engine_capacity_compute="2")
    roots.uses(7)
    client(roots, 7, engine_compute="10000000000 ns", engine_capacity_compute="2")
    assert roots.uses(7)[7][0] == 0.5


def test_xe_counts_cycles(roots: Roots) -> None:
    make_card(roots.sys, driver="xe")
    client(roots, 7, cycles_ccs="100", total_cycles_ccs="1000", resident_vram0="5 MiB")
    roots.uses(7)
    client(roots, 7, cycles_ccs="700", total_cycles_ccs="2000", resident_vram0="5 MiB")
    assert roots.uses(7) == {7: (0.6, 5 << 20)}


def test_a_client_that_two_processes_share_counts_once(roots: Roots) -> None:
    make_card(roots.sys)
    for pid in (7, 8):
        client(roots, pid, engine_gfx="0 ns")
    client(roots, 7, 6, engine_gfx="0 ns")
    roots.uses(7, 8)
    for pid in (7, 8):
        client(roots, pid, engine_gfx="5000000000 ns")
    assert roots.uses(7, 8) == {7: (0.5, None), 8: (None, None)}


def test_clients_of_one_process_add_up(roots: Roots) -> None:
    make_card(roots.sys)
    for number, ns in ((5, "0 ns"), (6, "0 ns")):
        client(roots, 7, number, str(number), engine_gfx=ns, memory_vram="1 MiB")
    roots.uses(7)
    for number, ns in ((5, "2000000000 ns"), (6, "3000000000 ns")):
        client(roots, 7, number, str(number), engine_gfx=ns, memory_vram="1 MiB")
    busy, memory = roots.uses(7)[7]
    assert (round(busy or 0.0, 3), memory) == (0.5, 2 << 20)


def test_counters_that_fell_are_no_work(roots: Roots) -> None:
    make_card(roots.sys)
    client(roots, 7, engine_gfx="5000000000 ns")
    roots.uses(7)
    client(roots, 7, engine_gfx="0 ns")
    assert roots.uses(7)[7][0] == 0.0


def test_processes_that_vanish_and_drivers_of_others(roots: Roots) -> None:
    make_card(roots.sys)
    make_card(roots.sys, 129, driver="nvidia")
    client(roots, 7)
    info = make_client(roots.proc, 8, pdev=PCI, client_id="2")
    info.unlink()
    assert roots.uses(7, 8, 9) == {7: (None, None)}
    assert len(roots.files.read(())) == 1


def test_rocm_is_known_by_kfd_with_the_share_of_the_device(roots: Roots) -> None:
    make_card(roots.sys, gpu_busy_percent="98\n")
    node = roots.sys / "class/kfd/kfd/topology/nodes/1"
    node.mkdir(parents=True)
    (node / "gpu_id").write_text("51123\n")
    (node / "properties").write_text("simd_count 256\ndrm_render_minor 128\n")
    (node.parent / "0").mkdir()
    (node.parent / "0" / "gpu_id").write_text("0\n")
    process = roots.sys / "class/kfd/kfd/proc/77"
    process.mkdir(parents=True)
    (process / "vram_51123").write_text("1048576\n")
    client(roots, 77, engine_compute="0 ns")
    roots.uses(77)
    ((device, uses),) = roots.files.read(())
    assert device.busy == 0.98
    assert [(each.pid, each.busy, each.memory_bytes) for each in uses] == [(77, None, 1 << 20)]


def test_power_is_a_gauge_or_the_energy_between_two_readings(roots: Roots) -> None:
    amd, intel = make_card(roots.sys), make_card(roots.sys, 129, driver="xe")
    for folder, name, text in (
        (amd, "power1_average", "250000000"),
        (intel, "energy1_input", "1000000"),
    ):
        (folder / "hwmon/hwmon3").mkdir(parents=True)
        (folder / "hwmon/hwmon3" / name).write_text(text)
    assert [device.watts for device, _ in roots.files.read(())] == [250.0, None]
    (intel / "hwmon/hwmon3/energy1_input").write_text("501000000")
    roots.at_s += 10.0
    assert [device.watts for device, _ in roots.files.read(())] == [250.0, 50.0]


def test_a_device_with_a_high_number_behind_many_files_is_found_at_some_turn(
    roots: Roots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By this process: /proc skips numbers that are not open, however many."""
    asked = []
    monkeypatch.setattr(gpu_files, "MAX_FILES", 4)
    monkeypatch.setattr(gpu_files, "is_drm", lambda path, **_: asked.append(path))
    monkeypatch.setattr(os, "urandom", lambda size: (700).to_bytes(size))
    make_card(roots.sys)
    with (tmp_path / "device").open("w") as opened:
        os.dup2(opened.fileno(), 900)
        try:
            DrmFiles("/proc", str(roots.sys), roots.failures).read([os.getpid()])
        finally:
            os.close(900)
    assert f"/proc/{os.getpid()}/fd/900" in asked
    assert roots.failures["open_files"] >= 1


def test_of_many_clients_those_that_work_are_read(
    roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_files, "MAX_CLIENTS", 2)
    make_card(roots.sys)
    for number in range(9):
        client(roots, 7, number, str(number), engine_gfx=f"{number == 8:d} ns")
    roots.uses(7)
    client(roots, 7, 8, "8", engine_gfx="5000000001 ns")
    assert roots.uses(7)[7][0] == 0.5


def test_processes_of_one_container_crowd_out_none_of_another(
    roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_files, "MAX_KNOWN", 3)
    make_card(roots.sys)
    for pid in range(1, 9):
        client(roots, pid, client_id=str(pid))
        (roots.proc / str(pid) / "cgroup").write_text(f"0::/pods/{'b' if pid == 8 else 'a'}\n")
    assert [*roots.uses(*range(1, 8))] == [1, 2, 3]
    assert 8 in roots.uses(8)
    assert 8 in roots.uses()
    assert 6 in roots.uses(6), "a new one does not wait behind idle ones of its container"
    assert roots.failures["crowded"] == 4 + 1 + 1


def test_a_thread_may_have_files_of_its_own(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    make_card(roots.sys)
    (roots.proc / "7/fd").mkdir(parents=True)
    for thread in range(7, 11):
        (roots.proc / "7/task" / str(thread) / "fd").mkdir(parents=True)
    make_client(roots.proc / "7/task", 9, pdev=PCI, client_id="1", engine_gfx="0 ns")
    numbers = iter(range(99))
    monkeypatch.setattr(os, "urandom", lambda size: next(numbers).to_bytes(size, "big"))
    for _ in range(5):
        roots.uses(7)
    make_client(roots.proc / "7/task", 9, pdev=PCI, client_id="1", engine_gfx="5000000000 ns")
    assert roots.uses() == {7: (0.5, None)}


def test_no_name_that_a_process_can_choose_makes_it_a_client(roots: Roots, tmp_path: Path) -> None:
    make_card(roots.sys)
    lie = f"drm-client-id:\t1\ndrm-pdev:\t{PCI}\ndrm-engine-gfx:\t9 ns\n"
    (tmp_path / "dev" / "dri").mkdir(parents=True)
    named = tmp_path / "dev" / "dri" / "renderD128"
    named.write_text(lie)
    odd = tmp_path / lie.replace("/", "_")
    odd.touch()
    (tmp_path / "fifo").parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "fifo")
    numbers = [
        os.open(named, os.O_RDONLY),
        os.open(odd, os.O_RDONLY),
        os.open(tmp_path / "fifo", os.O_RDWR),
        os.memfd_create(f"/dev/dri/renderD128\n{lie}"),
        os.memfd_create("/dev/dri/renderD128"),
        os.eventfd(1),
        *os.pipe(),
    ]
    try:
        files = DrmFiles("/proc", str(roots.sys), roots.failures)
        for _ in range(2):
            ((_, uses),) = files.read([os.getpid()])
            assert uses == []
        for number in numbers:
            assert parsed(Path(f"/proc/self/fdinfo/{number}").read_bytes()) is None
    finally:
        for number in numbers:
            os.close(number)


@needs_root
def test_a_device_is_known_by_its_number_whatever_it_is_called(
    roots: Roots, tmp_path: Path
) -> None:
    for name, device in (("innocent", (226, 128)), ("zero", (1, 5))):
        os.mknod(tmp_path / name, 0o600 | stat.S_IFCHR, os.makedev(*device))
    make_card(roots.sys)
    (tmp_path / "text").touch()
    for number, name in enumerate(("zero", "text", "innocent")):
        (roots.proc / "7/fd").mkdir(parents=True, exist_ok=True)
        (roots.proc / "7/fd" / str(number)).symlink_to(tmp_path / name)
        client(roots, 7, number, str(number), engine_gfx="0 ns")
    roots.uses(7)
    for number in range(3):
        client(roots, 7, number, str(number), engine_gfx=f"{number + 1}000000000 ns")
    assert roots.uses(7) == {7: (0.3, None)}, "only that of the device counts"


def test_a_file_below_dev_dri_that_is_no_device_is_not_read(roots: Roots, tmp_path: Path) -> None:
    assert not gpu_files.is_drm(str(tmp_path), if_unknown=True)
    assert not gpu_files.is_drm("/dev/null", if_unknown=True)
    assert gpu_files.is_drm(str(tmp_path / "gone"), if_unknown=True)


def test_kfd_names_processes_by_pids_of_the_whole_machine(roots: Roots) -> None:
    make_card(roots.sys)
    kfd = roots.sys / "class/kfd/kfd"
    for name, text in (
        ("topology/nodes/1/gpu_id", "51123"),
        ("topology/nodes/1/properties", "drm_render_minor 128\n"),
        ("proc/77/vram_51123", "1048576\n"),
    ):
        (kfd / name).parent.mkdir(parents=True, exist_ok=True)
        (kfd / name).write_text(text)
    own = roots.proc / "self/ns/pid"
    own.parent.mkdir(parents=True)
    own.symlink_to("pid:[4026531836]")
    assert roots.uses() == {77: (None, 1 << 20)}
    own.unlink()
    own.symlink_to("pid:[4026532777]")
    assert roots.uses() == {}
    assert roots.failures["foreign_pids"] == 1


def test_what_is_no_gpu_says_nothing() -> None:
    assert parsed(b"pos:\t0\nflags:\t02\nmnt_id:\t15\n") is None
    assert parsed(b"drm-driver:\tamdgpu\ndrm-client-id:\t-1\n") is not None


INFO = st.lists(
    st.tuples(
        st.sampled_from((*"abc", "client-id", "pdev", "engine-gfx", "engine-capacity-gfx"))
        | st.sampled_from(("cycles-rcs", "total-cycles-rcs", "memory-vram", "resident-vram0")),
        st.integers(-5, 1 << 70).map(str) | st.text(max_size=9),
        st.sampled_from(("", " ns", " KiB", " MiB", " GiB")),
    ),
    max_size=12,
)


def info_bytes(pairs: list[tuple[str, str, str]]) -> bytes:
    return "".join(f"drm-{key}:\t{value}{unit}\n" for key, value, unit in pairs).encode()


@given(before=INFO, now=INFO, elapsed_s=st.floats(0, 1e9))
def test_whatever_a_driver_says_a_share_is_one(
    before: list[tuple[str, str, str]], now: list[tuple[str, str, str]], elapsed_s: float
) -> None:
    readings = [parsed(info_bytes([("client-id", "1", ""), *each])) for each in (before, now)]
    first, second = readings
    assert isinstance(first, Reading)
    assert isinstance(second, Reading)
    assert 0.0 <= busy_share(first, second, elapsed_s) <= 1.0
    assert second.memory_bytes is None or second.memory_bytes >= 0


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    parsed(data)
    parsed(b"drm-client-id:\t1\n" + data)
