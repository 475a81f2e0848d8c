from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from minerwatch import __version__
from minerwatch.model import Abuse, Level, Maturity, Signal
from minerwatch.report.gpu_metrics import GpuFigures
from minerwatch.report.metrics import MAX_ABUSES, FlaggedContainer, Metrics, label
from tests.detection.sigma.test_rule import RULE as RULE_TEXT
from tests.detection.sigma.test_rule import parsed
from tests.report.samples import HOSTILE, hostile_text

MINER = FlaggedContainer(
    *("binder", "jupyter-alice", "notebook", 95.2, 1.98),
    {("mining", "identity"): 88.0, ("mining", "network"): 60.0},
    {"mining": 95.2, "proxyware": 15.0},
    1_763_863_000.0,
    gpus=0.97,
)
RULE = parsed(RULE_TEXT)
STRATUM = replace(RULE, id="stratum", maturity=Maturity.STABLE, title="Stratum in an argument")
BUSY = replace(
    RULE, id="busy", signal=Signal.BEHAVIOUR, maturity=Maturity.TEST, title="x", private=True
)

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(metrics: Metrics) -> Series:
    """Every sample by name and labels; fails where one comes twice or a line is broken."""
    read: Series = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in read
            read[key] = sample.value
    return read


def named(metrics: Metrics, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {labels: value for (each, labels), value in series(metrics).items() if each == name}


def ticked(metrics: Metrics, *flagged: FlaggedContainer) -> Metrics:
    metrics.tick_done(
        duration_s=0.004,
        at_s=1_763_864_000.5,
        containers={Level.CLEAR: 40, Level.CONFIRMED: 1},
        flagged=flagged,
        processes=143,
    )
    return metrics


def a_busy_node() -> Metrics:
    metrics = Metrics(probe_failures=lambda: [("processes", "gone", 3), ("tick", "OSError", 1)])
    metrics.rules_loaded([STRATUM, BUSY], failures=2, at_s=1_763_860_000.0)
    metrics.expect_canaries()
    metrics.canary_seen(1_763_863_990.0, is_own=True)
    metrics.level_changed(Level.CONFIRMED)
    metrics.finding_began("stratum", Signal.IDENTITY)
    metrics.flagged_cpu("binder", Level.CONFIRMED, 19.8)
    metrics.flagged_gpu("binder", Level.CONFIRMED, 9.7, 4000.0)
    gpus = {"none": 6, "alone": 1, "shared": 1}
    metrics.gpus_seen(GpuFigures(("nvidia 580.159.03",), gpus, unrequested=1))
    metrics.probe_took("processes", 0.002)
    metrics.probe_opened("tasks", is_on=False)
    metrics.probe_opened("execs", is_on=True, source="the proc connector")
    metrics.worker_is("content", is_up=True)
    metrics.worker_is("pods", is_up=False)
    metrics.text_kept(2_000_000, 17)
    hostile = FlaggedContainer(HOSTILE[1], HOSTILE[6], HOSTILE[0], 60.0, 0.4)
    return ticked(metrics, MINER, hostile)


def text_of(metrics: Metrics) -> str:
    """The exposition without what differs at each run."""
    lines = metrics.exposition().decode().splitlines(keepends=True)
    text = "".join(line for line in lines if not re.match(r"(# \w+ )?process_", line))
    return text.replace(f'version="{__version__}"', 'version="VERSION"')


def test_the_exposition(golden: Callable[[str, str], None]) -> None:
    golden("metrics.prom", text_of(a_busy_node()))


def test_a_new_agent_shows_its_counters_at_zero(golden: Callable[[str, str], None]) -> None:
    golden("metrics-new.prom", text_of(Metrics()))
    assert series(Metrics())["minerwatch_verdicts_total", (("level", "confirmed"),)] == 0


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="needs promtool: apt install prometheus",
)
@pytest.mark.parametrize("metrics", [Metrics(), a_busy_node()])
def test_promtool_has_nothing_to_complain_about(metrics: Metrics) -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=metrics.exposition(),
        capture_output=True,
        check=False,
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


def test_names_and_labels_keep_the_conventions() -> None:
    read = series(a_busy_node())
    names = {name for name, _ in read}
    assert all(name.startswith(("minerwatch_", "process_")) for name in names)
    assert not any(name.endswith("_created") for name in names)
    used = {key for _, labels in read for key, _ in labels}
    assert not used & {"pid", "user", "command_line", "comm", "image"}


def test_a_series_is_gone_when_its_container_is_clear() -> None:
    metrics = ticked(Metrics(), MINER)
    labels = (("container", "notebook"), ("namespace", "binder"), ("pod", "jupyter-alice"))
    assert named(metrics, "minerwatch_container_score") == {labels: 95.2}
    assert named(metrics, "minerwatch_container_cpu_cores") == {labels: 1.98}
    ticked(metrics)
    assert named(metrics, "minerwatch_container_score") == {}
    assert named(metrics, "minerwatch_container_cpu_cores") == {}


def test_the_agents_own_process_is_measured_like_any_exporters() -> None:
    names = {name for name, _ in series(Metrics())}
    assert names >= {
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    }


def test_each_kind_of_abuse_has_its_score() -> None:
    scores = named(ticked(Metrics(), MINER), "minerwatch_container_abuse_score")
    assert {dict(labels)["abuse"]: score for labels, score in scores.items()} == {
        "mining": 95.2,
        "proxyware": 15.0,
    }


def test_a_tenant_that_shows_every_kind_of_abuse_has_few_series() -> None:
    kinds = {abuse.value: 90.0 - number for number, abuse in enumerate(Abuse)}
    signals = {(abuse, signal.value): 50.0 for abuse in kinds for signal in Signal}
    metrics = ticked(Metrics(), replace(MINER, signals=signals, abuses=kinds))
    scores = named(metrics, "minerwatch_container_abuse_score")
    assert {dict(labels)["abuse"] for labels in scores} == {*list(kinds)[:MAX_ABUSES]}
    found = named(metrics, "minerwatch_container_signal_score")
    assert len(found) == MAX_ABUSES * len(Signal)


def test_levels_without_containers_fall_to_zero() -> None:
    metrics = ticked(Metrics(), MINER)
    metrics.tick_done(duration_s=0, at_s=0, containers={}, flagged=(), processes=0)
    assert set(named(metrics, "minerwatch_containers").values()) == {0.0}


def test_the_worst_have_series_and_the_overflow_is_counted() -> None:
    flagged = [FlaggedContainer("", "", f"c{n}", 30.0 + n, 1.0) for n in range(7)]
    metrics = ticked(Metrics(max_container_series=3), *flagged)
    scores = named(metrics, "minerwatch_container_score")
    assert sorted(scores.values()) == [34.0, 35.0, 36.0]
    assert named(metrics, "minerwatch_container_series_overflow") == {(): 4.0}
    ticked(metrics, *flagged[:2])
    assert named(metrics, "minerwatch_container_series_overflow") == {(): 0.0}


def test_names_alike_share_the_series_of_the_worst() -> None:
    long = "x" * 300
    twins = [
        FlaggedContainer("", "", long + end, score, 1.0) for end, score in (("a", 60), ("b", 88))
    ]
    metrics = ticked(Metrics(), *twins)
    assert list(named(metrics, "minerwatch_container_score").values()) == [88.0]
    assert named(metrics, "minerwatch_container_series_overflow") == {(): 1.0}


def test_failures_of_one_name_are_added_up() -> None:
    metrics = Metrics(probe_failures=lambda: [("p", "gone", 1), ("p", "gone", 2), ("p", "x\n", 1)])
    counts = named(metrics, "minerwatch_probe_failures_total")
    assert counts == {
        (("probe", "p"), ("reason", "gone")): 3.0,
        (("probe", "p"), ("reason", r"x\n")): 1.0,
    }


def test_rules_are_counted_anew_at_each_load() -> None:
    metrics = Metrics()
    metrics.rules_loaded([STRATUM], failures=1, at_s=10.0)
    metrics.rules_loaded([BUSY], failures=1, at_s=20.0)
    loaded = named(metrics, "minerwatch_rules_loaded")
    assert loaded == {
        (("status", "experimental"),): 0.0,
        (("status", "test"),): 1.0,
        (("status", "stable"),): 0.0,
    }
    assert named(metrics, "minerwatch_rules_reload_failures_total") == {(): 2.0}
    assert named(metrics, "minerwatch_rules_broken") == {(): 1.0}
    assert named(metrics, "minerwatch_rule_info") == {}  # it is gone, and the other is private
    assert named(metrics, "minerwatch_rules_last_reload_timestamp_seconds") == {(): 20.0}


@given(st.lists(st.tuples(hostile_text, hostile_text, hostile_text), max_size=5), hostile_text)
def test_no_name_breaks_a_line_or_comes_twice(names: list[tuple[str, str, str]], rule: str) -> None:
    flagged = [FlaggedContainer(*name, 60.0, 1.0) for name in names]
    metrics = ticked(Metrics(), *flagged)
    loaded = replace(RULE, id=rule, title=rule)
    metrics.rules_loaded([loaded], failures=0, at_s=0.0)
    metrics.flagged_cpu(rule, Level.LIKELY, 1.0)
    shown = {tuple(map(label, name)) for name in names}
    read = {
        tuple(dict(labels)[key] for key in ("namespace", "pod", "container"))
        for labels in named(metrics, "minerwatch_container_score")
    }
    assert read == shown
    for line in metrics.exposition().decode().split("\n"):
        assert re.fullmatch(r"|# (HELP|TYPE) .*|[a-z_]+(\{.*\})? \S+", line)


@given(hostile_text)
def test_labels_are_bounded(text: str) -> None:
    assert len(label(text)) <= 2560
    assert label(text).isprintable()


def test_only_agents_that_look_for_canaries_tell_of_them() -> None:
    metrics = Metrics()
    metrics.canary_seen(10.0, is_own=True)
    assert named(metrics, "minerwatch_canary_last_seen_timestamp_seconds") == {}
    metrics.expect_canaries()
    metrics.canary_seen(20.0, is_own=False)
    assert named(metrics, "minerwatch_canary_last_seen_timestamp_seconds") == {
        (("planted", "agent"),): 0.0,
        (("planted", "elsewhere"),): 20.0,
    }


def test_a_namespace_that_is_quiet_for_a_day_is_forgotten() -> None:
    now_s = [0.0]
    metrics = Metrics(now_s=lambda: now_s[0])
    metrics.flagged_cpu("gone", Level.LIKELY, 5.0)
    now_s[0] = 80_000.0
    metrics.flagged_cpu("here", Level.LIKELY, 7.0)
    assert 'seconds_total{level="likely",namespace="gone"} 5.0' in metrics.exposition().decode()
    now_s[0] = 90_000.0
    text = metrics.exposition().decode()
    assert "gone" not in text
    assert 'seconds_total{level="likely",namespace="here"} 7.0' in text


def test_many_namespaces_are_counted_together() -> None:
    metrics = Metrics()
    for number in range(600):
        metrics.flagged_cpu(f"ns-{number}", Level.CONFIRMED, 1.0)
    lines = [
        line
        for line in metrics.exposition().decode().splitlines()
        if line.startswith("minerwatch_flagged_cpu_seconds_total")
    ]
    assert len(lines) == 501
    assert (
        'minerwatch_flagged_cpu_seconds_total{level="confirmed",namespace="_others"} 100.0' in lines
    )


def test_owners_of_flagged_containers_are_bounded_and_name_people_only_if_given() -> None:
    owners = {"repository": "https://github.com/a/b", "image": "i:1\n", "controller": "Job ci/x"}
    metrics = ticked(
        Metrics(max_container_series=2),
        *(
            replace(MINER, pod=f"p{number}", score=90.0 + number, owners=owners)
            for number in range(5)
        ),
    )
    found = named(metrics, "minerwatch_flagged_owner_info")
    assert len(found) == 2
    assert all(
        dict(labels)
        == {
            "namespace": "binder",
            "pod": dict(labels)["pod"],
            "container": "notebook",
            "repository": "https://github.com/a/b",
            "image": "i:1\\n",
            "controller": "Job ci/x",
            "user": "",
            "client": "",
        }
        for labels in found
    )
    assert named(ticked(Metrics(), MINER), "minerwatch_flagged_owner_info") == {}
