from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from minerwatch.api.types import ProbeReport
from tests.kernels.__main__ import KERNELS, PAGE, PUBLISHED, command, selected
from tests.kernels.debian import Kernel
from tests.kernels.results import (
    BEGIN,
    END,
    LAYOUTS,
    Found,
    Result,
    Sampling,
    decoded,
    latest,
    report,
    table,
    with_table,
)

GOOD = Result(
    kernel="6.1.0-50-amd64",
    machine="x86_64",
    layout="v2",
    source="cgroup v2",
    probes=(
        ProbeReport("execs", "on", source="netlink"),
        ProbeReport("drift", "unavailable", "needs a|b"),
    ),
    started_s=20.0,
    miner=Found(7.4, 6.0, "likely", ("Pool",)),
    randomx=Found(31.0, 28.0, "confirmed", ("Executes RandomX", "RandomX in memory")),
    tick_s=0.0123,
    rss_mib=51.2,
    sampling=(Sampling(3, "kernel entries", "only there, because of this: forbidden"),),
    suite="bookworm",
    package="6.1.0-50-amd64 6.1.176-1",
    date="2026-11-30",
    accelerator="TCG",
    host="a machine",
)


def test_a_result_is_read_as_it_was_written() -> None:
    assert decoded(msgspec.json.encode(GOOD)) == GOOD
    with pytest.raises(ValueError, match="not a result"):
        decoded('{"kernel": 5}')


def test_the_table_has_a_row_each_and_what_sampling_fell_back_to() -> None:
    rows = table([GOOD]).splitlines()
    assert rows[2] == (
        "| bookworm 6.1.0-50-amd64, x86_64 | v2 | cgroup v2 | drift: needs a\\|b | 7 s | 31 s"
        " | Executes RandomX; RandomX in memory | 12 ms | 51 MiB | 2026-11-30, TCG |"
    )
    assert rows[-1] == "| bookworm | 6.1.0-50-amd64 | 3 | kernel entries | forbidden |"
    assert len({row.replace("\\|", "").count("|") for row in rows[:3]}) == 1


def test_a_failure_fills_its_row() -> None:
    (*_, row) = table([replace(GOOD, failure="no result; see log", sampling=())]).splitlines()
    assert "no result; see log" in row
    assert row.count("|") == 11


def test_a_target_that_was_not_found_is_told_with_its_cpu_time() -> None:
    missed = replace(GOOD, randomx=Found(None, 240.0), sampling=())
    assert "| not within 240 s of its CPU time |" in table([missed])
    assert not missed.is_good
    assert GOOD.is_good


def test_the_last_try_of_each_kernel_and_layout_counts() -> None:
    first = replace(GOOD, failure="no result")
    other = replace(GOOD, layout="v1")
    assert latest([first, other, GOOD]) == [GOOD, other]


def test_only_v1_may_be_refused() -> None:
    said = "the agent does not start: no cpuacct"
    assert replace(GOOD, layout="v1", failure=said).is_refused
    assert not replace(GOOD, layout="v2", failure=said).is_refused
    assert not replace(GOOD, layout="v1", failure="no result; see log").is_refused


def test_the_page_has_a_place_for_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    results = [decoded(line) for line in PUBLISHED.read_bytes().splitlines()]
    assert with_table(page, report(results)) == page, "run make kernels ARGS=--write"
    renewed = with_table(page, "x\n")
    assert f"{BEGIN}\nx\n{END}" in renewed
    with pytest.raises(ValueError, match="has no"):
        with_table("nothing", "x")


def test_kernels_are_chosen_by_the_beginning_of_their_names() -> None:
    assert list(selected(["trixie-arm64"])) == [("trixie-arm64", "v2")]
    assert list(selected(["trixie"])) == [
        *(("trixie-amd64", layout) for layout in LAYOUTS),
        ("trixie-arm64", "v2"),
    ]
    assert list(selected(["bullseye-amd64/v1"])) == [("bullseye-amd64", "v1")]
    assert len(list(selected([]))) == sum(map(len, KERNELS.values()))
    with pytest.raises(ValueError, match="invalid kernel 'buster'"):
        list(selected(["buster"]))


@pytest.mark.parametrize("system", [None, Path("/build/root")])
@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_a_guest_reads_only_what_it_boots_from(system: Path | None, accelerator: str) -> None:
    kernel = Kernel(Path("/build/vmlinuz"), "6.1 6.1-1", system)
    given = command(kernel, "v2", 60.0, 1, accelerator)
    assert "--rw" not in given
    assert ("--root" in given) == (system is not None)
    script = given[given.index("--script-sh") + 1]
    assert "-m tests.kernels.guest v2 60.0" in script


def test_only_an_emulated_guest_has_a_clock_of_instructions() -> None:
    x86 = Kernel(Path("/build/vmlinuz"), "6.1 6.1-1")
    arm64 = Kernel(Path("/build/vmlinuz"), "6.1 6.1-1", Path("/build/root"))
    for kernel, asked, is_emulated in (
        (x86, "kvm", False),
        (x86, "tcg", True),
        (arm64, "kvm", True),
    ):
        given = command(kernel, "v2", 60.0, 1, asked)
        assert ("--disable-kvm" in given) == is_emulated
        assert ("-icount" in given) == is_emulated
