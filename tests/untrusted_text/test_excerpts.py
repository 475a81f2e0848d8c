from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.untrusted_text.excerpts import MAX_EXCERPT_CHARS, matched_words
from tests.report.samples import hostile_text

LINE = "mysql -uroot -phunter2x -e x --donate-level 1 --token abc9 end"


def words(line: str, *hits: str) -> str:
    return matched_words(line, [(line.index(hit), line.index(hit) + len(hit)) for hit in hits])


def test_the_words_that_matched_and_no_others() -> None:
    assert words(LINE, "donate") == "--donate-level"
    assert words(LINE, "--donate-level 1") == "--donate-level 1"
    assert words(LINE, " --donate-level ") == "--donate-level"
    assert words(LINE, "mysql", "donate") == "mysql … --donate-level"
    assert words(LINE.replace(" ", "\u00a0"), "donate") == "--donate-level"


def test_a_secret_among_them_is_masked_by_what_stands_before_it() -> None:
    assert words(LINE, "-phunter2x -e") == "-p… -e"
    assert words(LINE, "abc9") == "…"
    assert words("x --password hunter2", "hunter2") == "…"


def test_of_a_long_line_the_program_and_what_is_near_decide() -> None:
    filler = "word " * 10_000
    assert words(f"mysql {filler}-phunter2x --donate-level {filler}", "donate") == "--donate-level"
    assert words(f"mysql {filler}-phunter2x --donate-level {filler}", "hunter2x") == "-p…"


def test_of_a_long_word_only_what_matched() -> None:
    line = "x password=" + "a" * 5000 + "Stratum" + "b" * 5000
    assert words(line, "Stratum") == "Stratum"


def test_no_hit_is_no_word() -> None:
    assert matched_words("a b", []) == ""


@given(st.one_of(hostile_text, st.text(" ab\u00a0\n=")), st.integers(0, 400), st.integers(0, 400))
def test_any_span_of_any_text(text: str, start: int, length: int) -> None:
    start = min(start, len(text))
    end = min(start + length, len(text))
    assert len(matched_words(text, [(start, end)])) <= MAX_EXCERPT_CHARS + 2


@given(st.integers(0, 3000), st.integers(0, 3000), st.sampled_from([" ", "\u00a0", "x"]))
def test_a_secret_is_masked_however_long_the_line_is(before: int, after: int, fill: str) -> None:
    line = f"app {('w' + fill) * before} --password hunter2xyz9 --hit {('w' + fill) * after}"
    start = line.index("--password")
    shown = matched_words(line, [(start, line.index("--hit") + 5)])
    assert "hunter2xyz9" not in shown
    assert "--hit" in shown
