from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import no_programs
from tests.shares import MACHINE, PLACES, LongestFirst, marks, share


def test_what_counts_the_machine_is_one_share_and_the_rest_goes_by_modules() -> None:
    assert share("tests/agent/test_tick.py::test_a[x::y]") == MACHINE
    assert share("tests/node/test_task_iterator.py::test_b") == MACHINE
    assert share("tests/agent/test_daemon.py::test_c") == "tests/agent/test_daemon.py"
    assert share("tests/test_fair_queue.py::test_d[1]") == "tests/test_fair_queue.py"


def test_what_takes_longest_is_begun_first() -> None:
    names = ("tests/test_fair_queue.py", "tests/test_outgoing.py", MACHINE, "tests/test_format.py")
    waiting = LongestFirst(dict.fromkeys(names))
    begun = [waiting.popitem(last=False)[0] for _ in names]
    assert begun == [MACHINE, "tests/test_outgoing.py", names[0], names[3]]


@pytest.mark.parametrize(
    ("test", "fixtures", "names", "own", "expected"),
    [
        ("tests/view/test_table.py::a", (), (), (), ["unit"]),
        ("tests/view/test_table.py::a", (), (), ("slow",), []),
        ("tests/view/test_table.py::a", (), (), ("nightly",), []),
        ("tests/view/test_table.py::a", (), (), ("root",), ["root"]),
        ("tests/view/test_table.py::a", ("cgroups",), (), (), ["root"]),
        ("tests/view/test_table.py::a", ("programs",), (), (), []),
        ("tests/view/test_table.py::a", (), ("subprocess",), (), []),
        ("tests/node/test_cgroups.py::a", (), (), (), []),
        ("tests/agent/test_tick.py::a", ("cgroups",), (), (), ["machine", "root"]),
    ],
)
def test_marks(
    test: str,
    fixtures: tuple[str, ...],
    names: tuple[str, ...],
    own: tuple[str, ...],
    expected: list[str],
) -> None:
    assert list(marks(test, fixtures, names, set(own))) == expected


@pytest.mark.parametrize("place", PLACES)
def test_places_are_there(place: str) -> None:
    path, _, test = place.partition("::")
    file = Path(__file__).parent.parent / path
    assert file.exists()
    assert not test or f"def {test}" in file.read_text()


def test_a_unit_test_that_starts_a_program_fails() -> None:
    with no_programs("a"), pytest.raises(pytest.fail.Exception, match="a starts a program"):
        subprocess.run(["true"], check=True)
    with no_programs("a"), pytest.raises(pytest.fail.Exception, match="_START_PROGRAMS"):
        subprocess.Popen([sys.executable, "-c", ""])
