"""Every command in the pages: of blocks of shell, after a prompt, and as code in a sentence."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.test_documents import FOLDER, PAGES

_NAMED = """
    .venv/bin/minerwatch aws awk az bash cat chroot cosign cp crictl curl cut docker eksctl find
    gcloud gh git grep helm join journalctl kill kubectl ls make minerwatch mkdir nsenter nvidia-smi
    openssl perf pip podman promtool ps python python3 rm sha256sum ss sysctl systemctl
    systemd-analyze systemd-cgtop top tr
"""
PROGRAMS = frozenset(_NAMED.split())
"""What a sentence names first in code is a command; blocks may have others, which a test names."""

_BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_COMMENT = re.compile(r"(?<!\S)#(?: .*)?$", re.MULTILINE)
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_BEFORE = ("sudo", "export", "exec", "do", "then", "for", "usage")
_ENDS = re.compile(r"[|&;(){}\n]+|done")
_REDIRECTED = re.compile(r"\d?[<>]+&?")
_OLD = FOLDER / "CHANGELOG.md"  # what it names may be gone


class Command(NamedTuple):
    """A program with its arguments, as a page has it."""

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


@cache
def commands() -> tuple[Command, ...]:
    """Return the commands of all pages, each once."""
    found: dict[tuple[str, ...], Command] = {}
    for page in PAGES:
        if page != _OLD:
            name = str(page.relative_to(FOLDER))
            for script, is_block in _scripts(page):
                for words in _simple(script):
                    if is_block or (words[0] in PROGRAMS and len(words) > 1):
                        found.setdefault(words, Command(name, words))
    return tuple(found.values())


def _scripts(page: Path) -> Iterator[tuple[str, bool]]:
    """Yield blocks of shell, what is typed after a prompt, and (False) code in sentences."""
    text = page.read_text()
    for _, language, block in _BLOCK.findall(text):
        block = textwrap.dedent(block)
        if language == "sh":
            yield block, True
        elif language == "console":
            yield "\n".join(re.findall(r"^ *[#$] (.+)$", block, re.MULTILINE)), True
    for code in _CODE.findall(_BLOCK.sub("", text)):
        yield code.replace("\\|", "|").replace("\n", " "), False


def _simple(script: str) -> Iterator[tuple[str, ...]]:
    """Yield the simple commands of a script, without redirections and what runs them."""
    lexer = shlex.shlex(
        _COMMENT.sub("", script.replace("\\\n", " ")), posix=True, punctuation_chars="|&;<>(){}\n"
    )
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    try:
        tokens = [*lexer, "\n"]
    except ValueError:  # code in a sentence that is no shell
        return
    is_target = False
    for token in tokens:
        if _ENDS.fullmatch(token):
            if words:
                yield tuple(words)
            words = []
        elif is_target or _REDIRECTED.fullmatch(token):
            is_target = not is_target
        elif words or not (_ASSIGNED.fullmatch(token) or token in _BEFORE):
            words.append(token)
