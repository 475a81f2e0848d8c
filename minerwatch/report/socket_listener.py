"""The agent's private listener: a Unix socket that only its owner may open, one agent at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minerwatch.errors import ListenError
from minerwatch.report.http_server import BACKLOG, Limits, Listener, Posts, Routes, ignore_error

_LIMITS = Limits(deadline_s=150.0)
"""An order may wait minutes for the API server."""


class SocketListener:
    """Listens on a Unix socket of mode 0600; a lock beside it keeps other agents away."""

    def __init__(
        self,
        path: Path,
        routes: Routes,
        on_error: Callable[[Exception], None] = ignore_error,
        posts: Posts | None = None,
        limits: Limits = _LIMITS,
    ) -> None:
        """Raises ListenError, for example if another agent has the socket."""
        self._path = path
        self._serve = partial(
            Listener, routes=routes, on_error=on_error, posts=posts, limits=limits
        )
        self._failed_before: Counter[str] = Counter()
        self._lock = _locked(_lock_path(path))
        try:
            self._listener, self._file_id = self._listen()
        except ListenError:
            os.close(self._lock)
            raise

    @property
    def failures(self) -> dict[str, int]:
        """Requests without a response since the start, by reason."""
        return dict(self._failed_before + Counter(self._listener.failures))

    def renew(self) -> bool:
        """Listen at the path again if the socket was removed or replaced; return True if it was.

        Raises ListenError if another agent listens there now, or another file is in the way.
        """
        if _file_id(_lock_path(self._path)) != _file_id(self._lock):
            lock = _locked(_lock_path(self._path))
            os.close(self._lock)
            self._lock = lock
        if _file_id(self._path) == self._file_id:
            return False
        before = self._listener
        self._listener, self._file_id = self._listen()
        self._failed_before.update(before.failures)
        before.close()
        return True

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._listener.close()
        if _file_id(self._path) == self._file_id:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._lock)

    def _listen(self) -> tuple[Listener, tuple[int, int] | None]:
        try:
            _remove_stale_socket(self._path)
            listening = _bound_privately(self._path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError(f"cannot listen on {self._path}: {reason}") from error
        return self._serve(listening).start(), _file_id(self._path)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _file_id(file: Path | int) -> tuple[int, int] | None:
    """Return device and inode of a path or an open file; None if there is no such file."""
    try:
        found = os.fstat(file) if isinstance(file, int) else file.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _locked(path: Path) -> int:
    """Return a file descriptor that holds the lock of ``path`` as long as it is open."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ListenError(
            f"cannot make {path}: {error.strerror}; give --socket with a writable path"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ListenError(
            f"another agent is listening on {path.with_suffix('')};"
            " stop it, or give this one its own --socket and --listen"
        ) from error
    return lock


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of an agent that was killed; the caller holds its lock."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path} is in the way and not a socket: remove it, or give --socket")
    path.unlink()


def _bound_privately(path: Path) -> socket.socket:
    """Return a socket whose file has mode 0600 from the start.

    bind(2) creates the file with the mode of the socket's own inode (unix_bind_bsd in net/unix),
    so the umask, which all threads share, stays as it is.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
