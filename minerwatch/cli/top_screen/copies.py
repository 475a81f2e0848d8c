"""Text taken out of the screen: for the clipboard, for tmux, or in files."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minerwatch.api.snapshot import encode
from minerwatch.errors import MinerwatchError
from minerwatch.view.explanation import explanation
from minerwatch.view.screen.containers import Group
from minerwatch.view.screen.page import Subject
from minerwatch.view.selection import full_name

LONG_COPY_BYTES = 56_000
"""xterm and other terminals take no more: 74,994 bytes of base64."""

_TMUX_S = 2.0
_WIDTH = 100
_NAME_LENGTH = 80
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._]+")


@dataclass(frozen=True, slots=True)
class Copy:
    """A container, or a group of them, explained."""

    name: str
    text: str
    json: str

    @property
    def files(self) -> dict[str, bytes]:
        """Contents of files, by suffix."""
        return {
            ".txt": self.text.encode("utf-8", "backslashreplace"),
            ".json": self.json.encode() + b"\n",
        }


class SaveError(MinerwatchError):
    """A file that could not be written."""


def copy_of(subjects: Sequence[Subject], group: Group | None) -> Copy:
    """Return the explanation of one container, or of the members of ``group``."""
    statuses = [each.status for each in subjects]
    now = subjects[0].now
    texts = (
        explanation(each.status, now=now, width=_WIDTH, campaign=each.campaign) for each in subjects
    )
    name = group.title if group else full_name(statuses[0])
    json = encode(statuses) if group else encode(statuses)[1:-1]
    return Copy(f"{name}-{now:%Y%m%dT%H%M%SZ}", "\n".join(texts), json.decode())


def destination(text: str, *, in_tmux: bool) -> str:
    """Return where a copy went; a terminal does not confirm that it has accepted one."""
    is_long = len(text.encode("utf-8", "backslashreplace")) > LONG_COPY_BYTES
    return (
        ("tmux's buffer, and " if in_tmux else "")
        + "the terminal's clipboard (OSC 52)"
        + (": long for some terminals, e s makes files" if is_long else "")
    )


def saved(contents: Mapping[str, bytes], name: str, folder: Path) -> list[Path]:
    """Return the new files: one for each suffix in ``contents``, readable for their owner only.

    Nothing is overwritten, no link followed. Raises SaveError.
    """
    stem = _NOT_IN_NAMES.sub("-", name).strip("-.")[-_NAME_LENGTH:] or "container"
    paths = []
    for suffix, content in contents.items():
        path = folder / f"minerwatch-{stem}{suffix}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except OSError as error:
            raise SaveError(f"{path}: {error.strerror}") from error
        with os.fdopen(file, "wb") as opened:
            opened.write(content)
        paths.append(path)
    return paths


def put_into_tmux(
    text: str, run: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run
) -> bool:
    """Return True if tmux took ``text`` into its buffer.

    By default tmux drops the clipboard's sequence (OSC 52) of programs. ``-w`` passes the text on
    to its own terminal; it needs tmux 3.2.
    """
    for options in (("-w",), ()):
        try:
            done = run(
                ("tmux", "load-buffer", *options, "-"),
                input=text.encode("utf-8", "backslashreplace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TMUX_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return False
        if done.returncode == 0:
            return True
    return False
