from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from minerwatch.api import client as report_client
from minerwatch.errors import ListenError, OrderError
from minerwatch.report.http_server import Answer, Limits, Posts, Routes
from minerwatch.report.socket_listener import SocketListener
from tests.conftest import needs_root, open_files
from tests.waiting import PATIENCE_S, until


def broken() -> Answer:
    raise LookupError("not today")


ROUTES: Routes = {"/healthz": lambda: Answer(b"ok\n")}


@pytest.fixture
def errors() -> list[Exception]:
    return []


def rest(client: socket.socket) -> bytes:
    """What still comes, until the server closes."""
    pieces = []
    with suppress(ConnectionError):  # a reset is an end too
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


def asked_on_socket(path: Path, request_line: bytes = b"GET /healthz HTTP/1.1") -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(path))
        client.sendall(request_line + b"\r\n\r\n")
        return rest(client)


def test_the_socket_answers_its_owner_alone(path: Path) -> None:
    umask = os.umask(0)
    try:
        listener = SocketListener(path, ROUTES)
    finally:
        os.umask(umask)
    try:
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert b"200 OK" in asked_on_socket(path)
        assert asked_on_socket(path, b"HEAD /healthz HTTP/1.1").endswith(b"\r\n\r\n")
        assert b"404" in asked_on_socket(path, b"GET / HTTP/1.1")
    finally:
        listener.close()
    assert not path.exists()


@needs_root
def test_another_user_cannot_connect() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "agent.sock"
        listener = SocketListener(path, ROUTES)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                asked_on_socket(path)
        finally:
            os.seteuid(0)
            listener.close()


def test_a_second_agent_on_the_socket_is_told_in_one_line(path: Path) -> None:
    listener = SocketListener(path, ROUTES)
    try:
        with pytest.raises(ListenError, match="another agent is listening on") as error:
            SocketListener(path, ROUTES)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert b"200 OK" in asked_on_socket(path)
    finally:
        listener.close()
    SocketListener(path, ROUTES).close()


def test_the_socket_of_an_agent_that_was_killed_is_replaced(path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        " from minerwatch.report.socket_listener import SocketListener;"
        " SocketListener(Path(sys.argv[1]), {}); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as agent:
        assert agent.stdout
        assert agent.stdout.readline() == b"ready\n"
        with pytest.raises(ListenError, match="another agent"):
            SocketListener(path, ROUTES)
        agent.send_signal(signal.SIGKILL)
    assert path.exists()
    listener = SocketListener(path, ROUTES)
    try:
        assert b"200 OK" in asked_on_socket(path)
    finally:
        listener.close()


def gone(path: Path) -> None:
    path.unlink()


def taken(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(path))


def without_its_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("harm", [gone, taken, without_its_folder])
def test_a_socket_that_was_removed_is_made_again(path: Path, harm: Callable[[Path], None]) -> None:
    listener = SocketListener(path, ROUTES)
    try:
        assert not listener.renew()
        harm(path)
        assert listener.renew()
        assert not listener.renew()
        assert b"200 OK" in asked_on_socket(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ListenError, match="another agent"):
            SocketListener(path, ROUTES)
    finally:
        listener.close()
    assert not path.exists()


def test_the_socket_of_another_agent_is_left_to_it(path: Path) -> None:
    first = SocketListener(path, ROUTES)
    shutil.rmtree(path.parent)
    second = SocketListener(path, ROUTES)
    try:
        with pytest.raises(ListenError, match="another agent"):
            first.renew()
        first.close()
        assert b"200 OK" in asked_on_socket(path)
    finally:
        second.close()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("x")])
def test_what_is_in_the_way_and_no_socket_is_left_alone(
    path: Path, make: Callable[[Path], None]
) -> None:
    path.parent.mkdir()
    make(path)
    with pytest.raises(ListenError, match="is in the way and not a socket"):
        SocketListener(path, ROUTES)
    assert os.path.lexists(path)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    SocketListener(path, ROUTES).close()


def test_a_link_in_place_of_the_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "agent.sock.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ListenError, match="cannot make"):
        SocketListener(path, ROUTES)
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("folder", ["x" * 200, "file/below"])
def test_a_path_that_cannot_be_listened_on_is_told_in_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match="cannot") as error:
        SocketListener(tmp_path / folder / "agent.sock", ROUTES)
    assert "\n" not in str(error.value)


def test_nothing_is_left_open_where_listening_fails(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    before = open_files()
    for _ in range(5):
        with pytest.raises(ListenError):
            SocketListener(path, ROUTES)
    assert not open_files() - before


# Orders.


@pytest.fixture
def ordered(tmp_path: Path, errors: list[Exception]) -> Iterator[Path]:
    def refuse(_body: bytes) -> Answer:
        return Answer(b"not that\n", status=HTTPStatus.CONFLICT)

    posts: Posts = {"/echo": Answer, "/refuse": refuse, "/broken": lambda _body: broken()}
    listener = SocketListener(tmp_path / "agent.sock", ROUTES, errors.append, posts)
    yield tmp_path / "agent.sock"
    listener.close()


def posted(path: Path, *pieces: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(path))
        for piece in pieces:
            with suppress(BrokenPipeError):
                client.sendall(piece)
            time.sleep(0.02)
        return rest(client)


@pytest.mark.parametrize("size", [0, 1, 5000, 16 << 10])
def test_an_order_comes_whole_however_it_is_cut(ordered: Path, size: int) -> None:
    body = bytes(index % 251 for index in range(size))
    head = b"POST /echo HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size
    assert report_client.ordered(ordered, "/echo", body) == body
    for at in (10, len(head), len(head) + size // 2):
        whole = head + body
        assert posted(ordered, whole[:at], whole[at:]).endswith(body)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /echo HTTP/1.1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 16385\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: ٣\r\n\r\nabc".encode(),
    ],
)
def test_an_order_without_a_fit_length_is_not_taken(ordered: Path, head: bytes) -> None:
    assert posted(ordered, head) == b""
    assert report_client.ordered(ordered, "/echo", b"still there") == b"still there"


def test_an_order_that_never_comes_holds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    listener = SocketListener(path, ROUTES, posts={"/echo": Answer}, limits=Limits(deadline_s=0.5))
    try:
        assert posted(path, b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nab") == b""
        until(lambda: listener.failures == {"too slow": 1})
    finally:
        listener.close()


def test_a_refused_order_is_in_the_agents_own_words(ordered: Path) -> None:
    with pytest.raises(OrderError, match=r"^not that$"):
        report_client.ordered(ordered, "/refuse", b"")
    with pytest.raises(OrderError, match="not found; try /echo"):
        report_client.ordered(ordered, "/elsewhere", b"")
    with pytest.raises(OrderError, match="internal error"):
        report_client.ordered(ordered, "/broken", b"")
    with pytest.raises(OrderError, match="not found"):
        report_client.ordered(ordered, "/healthz", b"")
    with pytest.raises(report_client.NoAgentError):
        report_client.ordered(ordered.with_name("none"), "/echo", b"")
