r"""The arguments of a process as one line of text, and back. Pure.

In the line a blank stands only between arguments: white space inside an argument is written as a
no-break space, which looks alike, and which neither a blank in a rule nor ``\s`` matches. The file
name ``holiday --donate-level 1.mp4`` is one word there and cannot read as an option.
"""

from __future__ import annotations

import re
import shlex
from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice

NO_BREAK_SPACE = "\u00a0"

_INSIDE = str.maketrans(dict.fromkeys(" \t\n\v\f\r", NO_BREAK_SPACE))

_SHELL = re.compile(r"(?:.*/)?-?(?:(?:ba|da|z|k|mk|a|fi|t?c)?sh|busybox|su|runuser|script|flock)")
_SHELL_ENDS = ("sh", "busybox", "su", "runuser", "script", "flock")
_SCRIPT_OPTION = re.compile(r"-[a-z]*c|--command|--session-command")
_MAX_SHELLS = 4
"""Shells among the arguments of other programs that are followed."""
_MAX_NAME = 64
"""Characters of a program's name; a longer word is a title."""
_PADDING = "\0\0\0"
"""Two NUL bytes at the end are one empty argument; more are hardly arguments."""


def command_line_of(arguments: Iterable[str]) -> str:
    """Return the arguments, joined by blanks."""
    return " ".join(argument.translate(_INSIDE) for argument in arguments)


def parse_cmdline(text: str, image: str) -> tuple[str, bool]:
    """Return the command line of a cmdline file, and whether the process hides its arguments.

    It hides them if there are none, or if it has written a title over them. The title is returned.
    """
    arguments = text.rstrip("\0").split("\0")
    line = command_line_of(arguments)
    if not line.strip(f" {NO_BREAK_SPACE}"):
        return "", True
    return line, _is_title(text, arguments, image)


def _is_title(text: str, arguments: list[str], image: str) -> bool:
    """Return True if a process wrote this over its arguments, as setproctitle(3bsd) does.

    execve(2) ends each argument with one NUL byte. A shorter title is filled up with more. A longer
    one shows as a single argument (fs/proc/base.c, get_mm_proctitle), which has blanks in it, or is
    longer than names are, unless that is the program's name.
    """
    if text.endswith(_PADDING) or not text.endswith("\0"):
        return True
    first = arguments[0]
    if len(arguments) > 1 or first == image:
        return False
    name, own_name = first.rpartition("/")[2], image.rpartition("/")[2]
    return len(first.split()) > 1 or (len(name) > _MAX_NAME and name != own_name)


def arguments_of(command_line: str) -> tuple[str, ...]:
    """Return the arguments of a line of ``command_line_of``; none if it is empty."""
    return tuple(command_line.split(" ")) if command_line else ()


def quoted(command_line: str) -> str:
    """Return a line of ``command_line_of`` for people: quoted as in a shell where needed."""
    return " ".join(map(_quoted, arguments_of(command_line)))


def _quoted(argument: str) -> str:
    text = argument.replace(NO_BREAK_SPACE, " ")
    is_plain = text != "" and _QUOTED.isdisjoint(text)
    return text if is_plain else shlex.quote(text)


_QUOTED = frozenset(" '\"\\")


def with_script_words(arguments: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the arguments with each shell script among them split into its words.

    A script is the argument after ``-c`` of a shell, wherever the shell stands in the arguments.
    Return None if there is no script of several words.
    """
    scripts = [index for index in _script_indexes(arguments) if NO_BREAK_SPACE in arguments[index]]
    if not scripts:
        return None
    words: list[str] = []
    for index, argument in enumerate(arguments):
        words += argument.split() if index in scripts else (argument,)
    return tuple(words)


def _script_indexes(arguments: tuple[str, ...]) -> list[int]:
    candidates = (index for index, each in enumerate(arguments) if each.endswith(_SHELL_ENDS))
    shells = (index for index in candidates if _SHELL.fullmatch(arguments[index]))
    if not (first_shells := list(islice(shells, _MAX_SHELLS))):
        return []
    options = [
        index
        for index, each in enumerate(arguments[:-1])
        if each.startswith("-") and _SCRIPT_OPTION.fullmatch(each)
    ]
    following = (bisect_right(options, shell) for shell in first_shells)
    return [options[index] + 1 for index in following if index < len(options)]
