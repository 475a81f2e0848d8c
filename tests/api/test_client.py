from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from minerwatch.api import client
from minerwatch.api.client import NoAgentError, answer, listens, ordered
from minerwatch.api.snapshot import decode, encode
from minerwatch.errors import OrderError, SnapshotError
from minerwatch.report.http_server import Answer
from minerwatch.report.socket_listener import SocketListener
from tests.conftest import needs_root
from tests.report.samples import NODE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@contextmanager
def one_who_answers(path: Path, reply: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody on the socket that is no agent, and talks to one client as ``reply`` likes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                reply(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def test_a_snapshot_comes_through(path: Path) -> None:
    listener = SocketListener(path, {"/snapshot": lambda: Answer(encode(NODE))})
    try:
        assert decode(answer(path, "/snapshot")) == NODE
    finally:
        listener.close()


def test_megabytes_come_through(path: Path) -> None:
    body = bytes(range(256)) * (32 << 12)
    listener = SocketListener(path, {"/snapshot": lambda: Answer(body)})
    try:
        assert answer(path, "/snapshot") == body
    finally:
        listener.close()


def test_nobody_listens(path: Path) -> None:
    with pytest.raises(NoAgentError, match="no agent is listening on"):
        answer(path, "/snapshot")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    with pytest.raises(NoAgentError):
        answer(path, "/snapshot")


@needs_root
def test_the_socket_of_another_user() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "agent.sock"
        listener = SocketListener(path, {})
        os.seteuid(65534)
        try:
            with pytest.raises(SnapshotError, match="only the agent's user may connect") as error:
                answer(path, "/snapshot")
            assert not isinstance(error.value, NoAgentError)
        finally:
            os.seteuid(0)
            listener.close()


def test_an_answer_that_is_none(path: Path) -> None:
    routes = {"/readyz": lambda: Answer(b"", status=HTTPStatus.SERVICE_UNAVAILABLE)}
    listener = SocketListener(path, routes)
    try:
        with pytest.raises(SnapshotError, match="with status 404"):
            answer(path, "/snapshot")
        with pytest.raises(SnapshotError, match="with status 503"):
            answer(path, "/readyz")
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"", "did not answer"),
        (b"\x00\xff garbage\r\n\r\n", "did not answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n", "did not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "incomplete response"),
    ],
)
def test_one_who_is_no_agent_or_breaks_off(path: Path, reply: bytes, said: str) -> None:
    with (
        one_who_answers(path, lambda connection: connection.sendall(reply)),
        pytest.raises(SnapshotError, match=said) as error,
    ):
        answer(path, "/snapshot")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("route", "reply", "is_doubtful"),
    [
        ("/cull", b"", True),
        ("/release", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", True),
        ("/cull/preview", b"", False),
        ("/culled", b"", False),
    ],
)
def test_an_order_whose_answer_is_lost_may_have_been_carried_out(
    path: Path, route: str, reply: bytes, is_doubtful: bool
) -> None:
    """The agent was stopped in the middle of it."""
    with (
        one_who_answers(path, lambda connection: connection.sendall(reply)),
        pytest.raises(OrderError) as error,
    ):
        ordered(path, route, b"{}")
    assert ("the action may have been carried out" in str(error.value)) is is_doubtful


def test_an_order_that_reaches_nobody_was_not_carried_out(path: Path) -> None:
    with pytest.raises(NoAgentError) as error:
        ordered(path, "/cull", b"{}")
    assert "may have" not in str(error.value)


def test_one_who_never_answers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    released = threading.Event()

    def say_nothing(_connection: socket.socket) -> None:
        released.wait(20)

    with one_who_answers(path, say_nothing):
        monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.1, 0.1))
        with pytest.raises(SnapshotError, match=r"did not answer within 0.2 s: its log says"):
            answer(path, "/snapshot")
        monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 9.0, 9.0))
        with pytest.raises(SnapshotError, match=r"short of CPU \(load 1000 on .*top --once --local"):
            answer(path, "/snapshot")
        released.set()


def test_who_listens_and_who_has_only_left_a_socket_behind(path: Path) -> None:
    assert not listens(path)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
        assert listens(path)
    assert path.is_socket()
    assert not listens(path)
    assert not listens(path.parent / ("x" * 200))  # longer than an address can be (unix(7))


def test_a_socket_that_may_not_be_opened_is_listened_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError

    with socket.socket(socket.AF_UNIX) as others:
        others.bind(str(path))
        monkeypatch.setattr(socket, "socket", _Trial)
        monkeypatch.setattr(_Trial, "connect", denied)
        assert listens(path)
        assert not listens(path.parent / "none")


class _Trial(socket.socket):
    pass
