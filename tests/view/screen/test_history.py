from __future__ import annotations

from datetime import timedelta
from math import isnan, nan

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.view.screen.history import CpuHistory, LevelChanges, key_of, sparkline, total
from tests.report.samples import MINER, NOW, SIMULATION, container

known = st.floats(min_value=0, max_value=1e6)
figures = st.one_of(st.just(nan), known)


def readings(history: CpuHistory) -> list[float | None]:
    return [None if isnan(each) else round(each, 2) for each in history.of(key_of(MINER))]


def add(history: CpuHistory, cores: float, at_s: float) -> None:
    history.add([structs.replace(MINER, cpu_cores=cores)], at_s)


def test_readings_stand_at_equal_distances() -> None:
    history = CpuHistory(10.0)
    add(history, 1.0, 100.0)
    add(history, 2.0, 105.0)  # within the same step: the later one counts
    add(history, 3.0, 110.0)
    add(history, 4.0, 141.0)  # nothing was asked at 120 and 130
    assert readings(history) == [2.0, 3.0, None, None, 4.0]


def test_a_clock_that_goes_back_adds_nothing() -> None:
    history = CpuHistory(10.0)
    add(history, 1.0, 100.0)
    add(history, 2.0, 50.0)
    assert readings(history) == [2.0]


def test_more_cores_than_there_are_can_still_be_drawn() -> None:
    history = CpuHistory(10.0)
    add(history, 1e308, 100.0)
    add(history, 1.0, 110.0)
    assert sparkline(history.of(key_of(MINER)), 2) == "█▁"


def test_who_never_burnt_cpu_takes_no_memory() -> None:
    history = CpuHistory(10.0, max_containers=1)
    history.add([MINER, container(cpu_cores=0.0)], 100.0)
    assert readings(history) == [MINER.cpu_cores]
    assert history.of(key_of(container())) == ()


def test_who_is_gone_is_forgotten_after_a_while() -> None:
    history = CpuHistory(10.0, length=3)
    add(history, 1.0, 100.0)
    history.add([SIMULATION], 120.0)
    assert readings(history) == [1.0]
    history.add([SIMULATION], 130.0)
    assert readings(history) == []


def test_of_too_many_the_last_read_are_kept() -> None:
    history = CpuHistory(10.0, max_containers=2)
    add(history, 1.0, 100.0)
    history.add([SIMULATION, container(cpu_cores=1.0)], 110.0)
    assert readings(history) == []
    assert len(history.of(key_of(SIMULATION))) == len(history.of(key_of(container()))) == 1


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 100)), max_size=50),
    st.integers(1, 8),
)
def test_memory_is_bounded_whatever_the_clock_does(
    taken: list[tuple[float, float]], length: int
) -> None:
    history = CpuHistory(10.0, length=length)
    for at_s, cores in taken:
        add(history, cores, at_s)
        assert len(history.of(key_of(MINER))) <= length


def test_a_full_bar_is_the_limit_or_a_core() -> None:
    assert sparkline([0.0, 1.0, 2.0, nan, 2.0], 8, 2.0) == "   ▁▅█ █"
    assert sparkline([0.01, 0.02], 2) == "▁▁"
    assert sparkline([0.5, 1.0], 2) == "▅█"
    assert sparkline([4.0, 8.0], 2) == "▅█"
    assert sparkline([], 3) == "   "


def test_what_several_burnt_together_is_summed_from_the_newest_back() -> None:
    assert [*total([[1.0, 2.0], [0.5], [nan, nan, 3.0]])][1:] == [1.0, 5.5]
    assert isnan(total([[1.0, 2.0], [0.5], [nan, nan, 3.0]])[0])
    assert total([]) == []


@given(st.lists(figures, max_size=20), st.integers(0, 20), st.one_of(st.none(), known))
def test_a_sparkline_is_as_wide_as_asked(
    cores: list[float], width: int, limit: float | None
) -> None:
    assert len(sparkline(cores, width, limit)) == width


# Levels.


def test_a_level_that_changes_is_noted() -> None:
    changes = LevelChanges()
    clear = structs.replace(MINER, level="clear")
    changes.add([clear, SIMULATION], NOW)
    changes.add([MINER, SIMULATION], NOW + timedelta(seconds=5))
    changes.add([MINER, SIMULATION], NOW + timedelta(seconds=10))
    changes.add([clear], NOW + timedelta(seconds=15))
    assert [(each.before, each.after) for each in changes.of(key_of(MINER))] == [
        ("clear", "confirmed"),
        ("confirmed", "clear"),
    ]
    assert changes.of(key_of(SIMULATION)) == ()


def test_what_was_flagged_when_the_screen_was_opened_is_no_change() -> None:
    changes = LevelChanges()
    changes.add([MINER], NOW)
    assert changes.of(key_of(MINER)) == ()


def test_kept_changes_of_level_are_bounded() -> None:
    changes = LevelChanges()
    changes.add([], NOW)
    many = [structs.replace(MINER, cgroup=f"/{number}") for number in range(5100)]
    for each in many:
        changes.add([each], NOW)
    assert sum(len(changes.of(key_of(each))) for each in many) == 5000
    for number in range(50):
        level = "likely" if number % 2 else "confirmed"
        changes.add([structs.replace(MINER, level=level)], NOW)
    assert len(changes.of(key_of(MINER))) == 20
