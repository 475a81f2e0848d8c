from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from minerwatch.untrusted_text.display import printable
from minerwatch.view.lines import cut, fitted, padded, rendered, wrapped
from tests.report.samples import hostile_text

shown = hostile_text.map(printable)


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("jupyter-alice", 13, "jupyter-alice"),
        ("jupyter-alice", 9, "jupy…lice"),
        ("日本語日本語", 7, "日…語"),
        ("", 3, ""),
    ],
)
def test_the_middle_of_a_long_name_goes(text: str, width: int, expected: str) -> None:
    assert fitted(text, width) == expected


@given(shown, st.integers(3, 60))
def test_what_is_fitted_or_cut_fits(text: str, width: int) -> None:
    assert cell_len(fitted(text, width)) <= width
    assert cell_len(cut(text, width)) <= width
    if cell_len(text) <= width:
        assert fitted(text, width) == cut(text, width) == text
    else:
        assert "…" in fitted(text, width)
        assert cut(text, width).endswith("…")


@given(shown, st.integers(0, 60))
def test_padding_fills_the_columns(text: str, width: int) -> None:
    assert cell_len(padded(text, width)) == max(width, cell_len(text))
    assert padded(text, width, to_the_right=True).strip() == text.strip()


@given(shown, st.integers(2, 60))
def test_wrapping_loses_nothing_but_spaces(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped(text, None) == [text]


@given(st.lists(shown))
def test_lines_come_out_as_they_went_in(texts: list[str]) -> None:
    drawn = rendered([Text(text) for text in texts], colour=False)
    assert drawn == "".join(text.rstrip() + "\n" for text in texts)


def test_colours_only_where_they_are_wanted() -> None:
    line = Text("CONFIRMED", "bold red")
    assert rendered([line], colour=False) == "CONFIRMED\n"
    assert rendered([line], colour=True) == "\x1b[1;31mCONFIRMED\x1b[0m\n"
