from __future__ import annotations

import re
import shlex

import re2
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.arguments import (
    NO_BREAK_SPACE,
    arguments_of,
    command_line_of,
    quoted,
    with_script_words,
)

texts = st.text(max_size=40)
arguments = st.lists(texts, min_size=1, max_size=8)


@given(arguments)
def test_a_blank_stands_only_between_arguments(given_arguments: list[str]) -> None:
    line = command_line_of(given_arguments)
    parts = line.split(" ")
    assert len(parts) == len(given_arguments)
    for part, argument in zip(parts, given_arguments, strict=True):
        assert len(part) == len(argument)
        assert not re2.search(r"\s", part)


@given(arguments)
def test_a_line_can_be_taken_apart_again(given_arguments: list[str]) -> None:
    line = command_line_of(given_arguments)
    if line:
        assert command_line_of(arguments_of(line)) == line
        assert len(arguments_of(line)) == len(given_arguments)


def test_a_file_name_does_not_read_as_an_option() -> None:
    line = command_line_of(["ffmpeg", "-i", "holiday --donate-level 1.mp4"])
    assert line == f"ffmpeg -i holiday{NO_BREAK_SPACE}--donate-level{NO_BREAK_SPACE}1.mp4"
    assert not re2.search(r"(?:^|\s)--donate-level(?:[=\s]|$)", line)


@given(arguments)
def test_a_quoted_line_reads_as_a_shell_would_read_it(given_arguments: list[str]) -> None:
    spaced = [re.sub(r"[ \t\n\v\f\r\u00a0]", " ", each) for each in given_arguments]
    if spaced != [""]:
        assert shlex.split(quoted(command_line_of(spaced)), comments=False) == spaced


def test_only_what_needs_it_is_quoted() -> None:
    line = command_line_of(["ffmpeg", "-i", "holiday --donate-level 1.mp4", "-vf", "scale=1:2", ""])
    assert quoted(line) == "ffmpeg -i 'holiday --donate-level 1.mp4' -vf scale=1:2 ''"
    assert quoted("") == ""


def test_a_shells_script_is_split_into_words() -> None:
    for start in (["sh", "-c"], ["/bin/bash", "-lc"], ["timeout", "9", "dash", "-e", "-c"]):
        given_arguments = arguments_of(command_line_of([*start, "./x -o pool:1\n-u w", "y z"]))
        words = with_script_words(given_arguments)
        assert words is not None
        assert words[len(start) : -1] == ("./x", "-o", "pool:1", "-u", "w")
        assert words[-1] == f"y{NO_BREAK_SPACE}z"


def test_only_a_shell_has_a_script() -> None:
    prompt = command_line_of(["claude", "-c", "what is --donate-level 1"])
    assert with_script_words(arguments_of(prompt)) is None
    assert with_script_words(("sh", "-c", "true")) is None
    assert with_script_words(("sh", "-c")) is None
