"""Text taken out of the screen: to the clipboard, also over ssh, or into files."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from minerwatch.errors import MinerwatchError

SAFE_OSC_52_BYTES = 74_994
"""Of the text in base64; xterm and others take no more (OSC 52, "Manipulate Selection Data")."""

_TMUX_S = 2.0
_NAME_LENGTH = 80
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._]+")


class SaveError(MinerwatchError):
    """A file that could not be written."""


def osc_52(text: str) -> str:
    """The sequence that asks a terminal to put ``text`` on its clipboard.

    It goes where the terminal's output goes, so it works over ssh and from within a pod. Nothing
    comes back: whether the terminal allows it cannot be known.
    """
    encoded = base64.b64encode(text.encode("utf-8", "backslashreplace")).decode()
    return f"\x1b]52;c;{encoded}\a"


def copied(
    text: str,
    write: Callable[[str], None],
    environment: Mapping[str, str],
    run: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run,
) -> str:
    """Where a copy of ``text`` went, as words; ``write`` sends to the terminal.

    tmux passes OSC 52 of programs on only if it is told to (``set-clipboard on``), so it is given
    the text itself: it keeps it in a buffer and hands it to its own terminal.
    """
    write(osc_52(text))
    encoded_bytes = len(text.encode("utf-8", "backslashreplace")) * 4 // 3
    is_long = encoded_bytes > SAFE_OSC_52_BYTES
    where = "the terminal's clipboard (OSC 52)"
    if environment.get("TMUX") and _to_tmux(text, run):
        where = "tmux's buffer, and " + where
    return where + (": long for some terminals, e s makes files" if is_long else "")


def saved(contents: Mapping[str, bytes], name: str, folder: Path) -> list[Path]:
    """The files that were made: one for each suffix in ``contents``, readable for oneself only.

    Nothing is overwritten, no link followed. Raises SaveError.
    """
    stem = f"minerwatch-{_file_name(name)}"
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{stem}{suffix}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except OSError as error:
            raise SaveError(f"{path}: {error.strerror}") from error
        with os.fdopen(file, "wb") as opened:
            opened.write(content)
        paths.append(path)
    return paths


def _to_tmux(text: str, run: Callable[..., subprocess.CompletedProcess[bytes]]) -> bool:
    """Whether tmux took it; ``-w`` hands it on, and is not known before tmux 3.2."""
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


def _file_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("-", name).strip("-.")[-_NAME_LENGTH:] or "container"
