from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from minerwatch.api import client as report_client
from minerwatch.errors import ListenError, OrderError
from minerwatch.report import http_server
from minerwatch.report.http_server import (
    Answer,
    Listener,
    Posts,
    Routes,
    SocketListener,
    address_listener,
)
from tests.conftest import needs_root
from tests.waiting import PATIENCE_S
from tests.waiting import until as wait_for


class Counted:
    """A route that remembers how often it was worked out."""

    def __init__(self, body: bytes = b"ok\n") -> None:
        self.calls = 0
        self._body = body

    def __call__(self) -> Answer:
        self.calls += 1
        return Answer(self._body)


def broken() -> Answer:
    raise LookupError("not today")


ROUTES: Routes = {
    "/healthz": lambda: Answer(b"ok\n"),
    "/snapshot": lambda: Answer(b"[]", "application/json"),
    "/readyz": lambda: Answer(b"no\n", status=HTTPStatus.SERVICE_UNAVAILABLE),
    "/broken": broken,
    "/large": lambda: Answer(b"x" * (32 << 20)),
}


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def on_tcp(errors: list[Exception]) -> Iterator[tuple[Listener, int]]:
    listener, shown = address_listener("127.0.0.1", 0, ROUTES, errors.append)
    yield listener, int(shown.rpartition(":")[2])
    listener.close()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        yield client


def asked(port: int, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def rest(client: socket.socket) -> bytes:
    """What still comes, until the server closes."""
    pieces = []
    with suppress(ConnectionError):  # a reset is an end too
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


# What is answered.


def test_get(on_tcp: tuple[Listener, int]) -> None:
    response, body = asked(on_tcp[1], "/healthz?verbose=1")
    assert (response.status, body) == (200, b"ok\n")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Server"].strip() == "minerwatch"
    response, body = asked(on_tcp[1], "/snapshot")
    assert (response.headers["Content-Type"], body) == ("application/json", b"[]")


def test_the_status_is_the_routes(on_tcp: tuple[Listener, int]) -> None:
    assert asked(on_tcp[1], "/readyz")[0].status == 503


def test_head_has_the_length_and_no_body(on_tcp: tuple[Listener, int]) -> None:
    response, body = asked(on_tcp[1], "/healthz", "HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, "3", b"")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/../etc/passwd", "//healthz/x", "/%68ealthz"])
def test_any_other_path_is_told_what_there_is(on_tcp: tuple[Listener, int], path: str) -> None:
    response, body = asked(on_tcp[1], path)
    assert response.status == 404
    assert b"/healthz" in body


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"<script> /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff\xfe\x00\x1b[2J\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_one_line_that_repeats_nothing_of_it(
    on_tcp: tuple[Listener, int], request_head: bytes
) -> None:
    listener, port = on_tcp
    with connected(port) as client:
        client.sendall(request_head)
        answer = rest(client)
    assert b"script" not in answer
    assert b"\x1b" not in answer
    assert b"<" not in answer
    assert b"200 OK" not in answer
    assert asked(port, "/healthz")[0].status == 200
    assert listener.failures == {}


def test_a_route_that_fails_is_an_answer_a_count_and_a_word_to_the_log(
    on_tcp: tuple[Listener, int], errors: list[Exception]
) -> None:
    listener, port = on_tcp
    response, body = asked(port, "/broken")
    assert (response.status, body.count(b"\n")) == (500, 1)
    assert b"not today" not in body
    assert [str(error) for error in errors] == ["not today"]
    assert listener.failures == {"LookupError": 1}
    assert asked(port, "/healthz")[0].status == 200


def test_every_address_is_listened_on_where_none_is_named() -> None:
    listener, shown = address_listener("", 0, ROUTES)
    try:
        port = int(shown.rpartition(":")[2])
        assert asked(port, "/healthz")[0].status == 200
        if socket.has_dualstack_ipv6():
            with socket.create_connection(("::1", port), timeout=PATIENCE_S) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                assert b"200 OK" in rest(client)
    finally:
        listener.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6 on the loopback")
def test_ipv6_is_shown_in_brackets() -> None:
    listener, shown = address_listener("::1", 0, ROUTES)
    listener.close()
    assert shown.startswith("[::1]:")


# Who cannot wear it out.


def test_a_client_that_says_nothing_is_left(
    on_tcp: tuple[Listener, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_ASK_S", 0.2)
    listener, port = on_tcp
    with connected(port) as silent, connected(port) as slow:
        slow.sendall(b"GET /healthz HT")
        assert asked(port, "/healthz")[0].status == 200
        assert rest(silent) == rest(slow) == b""
    wait_for(lambda: listener.failures == {"too slow": 2})


def test_a_client_that_sends_drop_by_drop_is_left(on_tcp: tuple[Listener, int]) -> None:
    listener, port = on_tcp
    with connected(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for _ in range(100_000):
                client.sendall(b"x")
                if listener.failures:
                    break
        assert rest(client) == b""
    (reason,) = listener.failures
    assert reason in ("too many pieces", "too long")  # the kernel may have joined the pieces


def test_a_flood_of_headers_is_not_read(on_tcp: tuple[Listener, int]) -> None:
    listener, port = on_tcp
    with connected(port) as client, suppress(ConnectionError):
        client.sendall(b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"y" * (16 << 20))
        assert rest(client) == b""
    wait_for(lambda: listener.failures == {"too long": 1})
    assert asked(port, "/healthz")[0].status == 200


def test_a_client_that_does_not_take_the_answer_is_left(
    on_tcp: tuple[Listener, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_ANSWER_S", 0.2)
    listener, port = on_tcp
    before = threading.active_count()
    with connected(port) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        wait_for(lambda: threading.active_count() > before)
        wait_for(lambda: threading.active_count() == before)
        assert len(rest(client)) < 32 << 20
    assert listener.failures == {}


def test_clients_that_hold_all_places_keep_nobody_out(on_tcp: tuple[Listener, int]) -> None:
    listener, port = on_tcp
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(port)) for _ in range(16)]
        for _ in range(20):
            assert asked(port, "/healthz")[0].status == 200
        assert rest(idle[0]) == b""
        assert listener.failures["made room"] >= 1


def test_there_are_never_more_threads_than_places(on_tcp: tuple[Listener, int]) -> None:
    _, port = on_tcp
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(45):
            stack.enter_context(connected(port))
        asked(port, "/healthz")
        assert threading.active_count() - before <= 16


def test_one_address_has_only_so_many_connections_a_second(
    on_tcp: tuple[Listener, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_MAX_CONNECTIONS_PER_S", 1)
    listener, port = on_tcp
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(port))
        wait_for(lambda: listener.failures.get("too often", 0) > 0)
    monkeypatch.undo()
    wait_for(lambda: _is_answered(port))


def _is_answered(port: int) -> bool:
    with suppress(OSError):
        return asked(port, "/healthz")[0].status == 200
    return False


def test_an_answer_that_is_dear_is_not_worked_out_for_each_who_asks() -> None:
    route = Counted()
    sparing = http_server._Sparing(route)
    assert {sparing().body for _ in range(1000)} == {b"ok\n"}
    assert route.calls < 1000


def test_few_who_ask_always_hear_the_latest() -> None:
    route = Counted()
    listener, shown = address_listener("127.0.0.1", 0, {"/metrics": route})
    try:
        port = int(shown.rpartition(":")[2])
        for count in range(1, 4):
            asked(port, "/metrics")
            assert route.calls == count
    finally:
        listener.close()


def test_without_free_files_it_waits_and_goes_on(on_tcp: tuple[Listener, int]) -> None:
    listener, port = on_tcp
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        lowest_free = os.dup(client.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            wait_for(lambda: listener.failures.get("no resources", 0) > 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert b"200 OK" in rest(client)


def test_closing_cuts_clients_off() -> None:
    listener, shown = address_listener("127.0.0.1", 0, ROUTES)
    with connected(int(shown.rpartition(":")[2])) as client:
        client.sendall(b"GET /hea")
        time.sleep(0.1)
        listener.close()
        assert b"200" not in rest(client)


# Who else listens.


def test_a_second_listener_on_the_address_is_told_in_one_line(
    on_tcp: tuple[Listener, int],
) -> None:
    with pytest.raises(ListenError, match="is another agent running") as error:
        address_listener("127.0.0.1", on_tcp[1], ROUTES)
    assert "\n" not in str(error.value)
    assert "--listen" in str(error.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 70, "host.invalid", "a b", "\x1b"])
def test_an_address_that_is_not_ours_is_told_in_one_line(host: str) -> None:
    with pytest.raises(ListenError, match="cannot listen on") as error:
        address_listener(host, 0, ROUTES)
    assert "\n" not in str(error.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


def asked_on_socket(path: Path, request_line: bytes = b"GET /healthz HTTP/1.1") -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
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
        " from minerwatch.report.http_server import SocketListener;"
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
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(ListenError):
            SocketListener(path, ROUTES)
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


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
        client.settimeout(20)
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


def test_an_order_that_never_comes_holds_nobody(
    ordered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_ASK_S", 0.2)
    assert posted(ordered, b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nab") == b""


def test_a_refused_order_is_in_the_agents_own_words(ordered: Path) -> None:
    with pytest.raises(OrderError, match=r"^not that$"):
        report_client.ordered(ordered, "/refuse", b"")
    with pytest.raises(OrderError, match="not found; try /echo"):
        report_client.ordered(ordered, "/elsewhere", b"")
    with pytest.raises(OrderError, match="could not answer"):
        report_client.ordered(ordered, "/broken", b"")
    with pytest.raises(OrderError, match="not found"):
        report_client.ordered(ordered, "/healthz", b"")
    with pytest.raises(report_client.NoAgentError):
        report_client.ordered(ordered.with_name("none"), "/echo", b"")


def test_nothing_is_ordered_over_the_network(on_tcp: tuple[Listener, int]) -> None:
    response, _ = asked(on_tcp[1], "/cull", "POST")
    assert response.status == HTTPStatus.NOT_IMPLEMENTED
