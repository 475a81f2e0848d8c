from __future__ import annotations

import io

from minerwatch.authoring.replay_text import Tally, numbered_lines
from minerwatch.authoring.rule_tests import Outcome, Recording


def test_a_line_without_end_is_cut_and_the_next_one_read() -> None:
    file = io.BytesIO(b"one\n\n" + b"x" * 1000 + b"\nlast")
    assert list(numbered_lines(file, 100)) == [(1, b"one\n"), (3, b"x" * 100), (4, b"last")]


def test_results_are_counted_by_label() -> None:
    tally = Tally()
    for label, level in (("miner", "likely"), ("miner", "clear"), ("", "clear")):
        case = Recording(1, label, 60, {"Comandline": "x"})
        tally.add(case, Outcome(1, 0.0, level, (), (), cullable=level == "likely"))
    assert list(tally.rows()) == [
        "LABEL  LINES  CLEAR  SUSPICIOUS  LIKELY  CONFIRMED  CULLABLE",
        "-          1      1           0       0          0         0",
        "miner      2      1           0       1          0         1",
    ]
    assert list(tally.unknown_fields(())) == [
        "3 lines with the unknown field Comandline: did you mean CommandLine?"
    ]


def test_without_results_there_is_no_table() -> None:
    assert list(Tally().rows()) == []
