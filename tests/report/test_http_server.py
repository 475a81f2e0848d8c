from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse

import pytest

from minerwatch.errors import ListenError
from minerwatch.report.connections import client_of
from minerwatch.report.http_server import Answer, Limits, Listener, Routes, address_listener
from tests.waiting import PATIENCE_S, threads, threads_since
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
def limited(**limits: float) -> Iterator[tuple[Listener, int]]:
    """A listener with other limits than the agent's."""
    listener, shown = address_listener("127.0.0.1", 0, ROUTES, limits=Limits(**limits))  # type: ignore[arg-type]
    try:
        yield listener, int(shown.rpartition(":")[2])
    finally:
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


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="run it where the loopback has IPv6")
def test_ipv6_is_shown_in_brackets() -> None:
    listener, shown = address_listener("::1", 0, ROUTES)
    listener.close()
    assert shown.startswith("[::1]:")


# Who cannot wear it out.


def test_a_client_that_says_nothing_is_left() -> None:
    with (
        limited(deadline_s=1.0) as (listener, port),
        connected(port) as silent,
        connected(port) as slow,
    ):
        slow.sendall(b"GET /healthz HT")
        assert asked(port, "/healthz")[0].status == 200
        assert rest(silent) == rest(slow) == b""
        wait_for(lambda: listener.failures == {"too slow": 2})


def test_one_deadline_holds_for_the_whole_request() -> None:
    with limited(deadline_s=1.0) as (listener, port), connected(port) as client:
        began_s = time.monotonic()
        with suppress(ConnectionError):
            client.sendall(b"GET /healthz HTTP/1.1\r\n")
            while listener.failures == {} and time.monotonic() - began_s < PATIENCE_S:
                client.sendall(b"X: y\r\n")
                time.sleep(0.1)
        assert rest(client) == b""
        assert listener.failures == {"too slow": 1}


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


def test_a_client_that_does_not_take_the_answer_is_left() -> None:
    with limited(deadline_s=1.0) as (listener, port):
        before = threads()
        with connected(port) as client:
            client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
            wait_for(lambda: threads_since(before))
            wait_for(lambda: not threads_since(before))
            assert len(rest(client)) < 32 << 20
        assert listener.failures == {"too slow": 1}


def test_clients_that_hold_all_places_keep_nobody_out() -> None:
    with limited(connections=16) as (listener, port), ExitStack() as stack:
        idle = [stack.enter_context(connected(port)) for _ in range(16)]
        for _ in range(20):
            assert asked(port, "/healthz")[0].status == 200
        assert rest(idle[0]) == b""
        assert listener.failures["made room"] >= 1


def test_there_are_never_more_threads_than_twice_the_connections() -> None:
    with limited(connections=8) as (_, port):
        before = threads()
        with ExitStack() as stack:
            for _ in range(45):
                stack.enter_context(connected(port))
            asked(port, "/healthz")
            assert len(threads_since(before)) <= 16


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Sockets made in here are that user's."""
    if os.geteuid() != 0:
        pytest.skip("makes another user's socket: run it as root")
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_user_with_one_connection_keeps_it_while_another_opens_many() -> None:
    with limited(connections=4) as (listener, port), ExitStack() as stack:
        honest = stack.enter_context(connected(port))
        for number in range(20):
            with as_user(65534):  # with addresses of its choice
                source = (f"127.0.0.{number + 2}", 0)
                flood = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source)
            stack.enter_context(flood)
        wait_for(lambda: listener.failures.get("made room", 0) >= 16)
        honest.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert b"200 OK" in rest(honest)


def test_a_user_who_connects_too_often_leaves_others_their_share() -> None:
    with limited(connections_per_s=5) as (listener, port), ExitStack() as stack:
        with as_user(65534):
            for _ in range(60):
                stack.enter_context(connected(port))
        wait_for(lambda: listener.failures.get("too often", 0) > 0)
        assert asked(port, "/healthz")[0].status == 200


def test_a_client_that_has_closed_takes_no_users_share() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        accepted, address = server.accept()
        with accepted:
            assert client_of(address, accepted.getsockname())[0] == "closed"


def test_ids_of_a_users_namespaces_are_one_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = []
        for uid in (99_999, 100_000, 165_535, 165_536):
            with as_user(uid):
                client = socket.create_connection(server.getsockname())
            accepted, address = server.accept()
            with client, accepted:
                clients.append(client_of(address, accepted.getsockname())[0])
    assert clients[1] == clients[2]
    assert len(set(clients)) == 3


def test_one_client_has_fewer_connections_than_there_are() -> None:
    with limited(connections=16, connections_of_one=3) as (listener, port), ExitStack() as stack:
        first, *_ = [stack.enter_context(connected(port)) for _ in range(4)]
        assert rest(first) == b""
        wait_for(lambda: listener.failures == {"made room": 1})


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("", ""),  # a Unix socket
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 2, 0, 2)),
        (("192.0.2.1", 4711), ("192.0.2.2", 80)),
        (("127.0.0.1", 1), ("127.0.0.1", 2)),  # has gone
        (("::1", 1, 0, 0), ("::1", 2, 0, 0)),
    ],
)
def test_any_other_client_is_its_address(address: object, server: object) -> None:
    assert client_of(address, server) == address


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.7"),
        ("::", "127.0.0.1"), ("::", "::1"),
    ],
)  # fmt: skip
def test_on_loopback_a_client_is_its_user(host: str, target: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as server,
        socket.create_connection((target, server.getsockname()[1])),
    ):
        accepted, address = server.accept()
        with accepted:
            client = client_of(address, accepted.getsockname())
    assert client[0] == f"user {os.geteuid()}"


def test_one_address_has_only_so_many_connections_a_second() -> None:
    with limited(connections_per_s=5) as (listener, port):
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(connected(port))
            wait_for(lambda: listener.failures.get("too often", 0) > 0)
        wait_for(lambda: _is_answered(port))


def _is_answered(port: int) -> bool:
    with suppress(OSError):
        return asked(port, "/healthz")[0].status == 200
    return False


def test_many_addresses_together_have_a_limit_and_keep_no_other_out() -> None:
    """A handshake takes the agent a millisecond or two, and a tenant may have many pods."""
    listener, _ = address_listener("127.0.0.1", 0, {})
    pods = [(f"10.0.0.{number}", 1) for number in range(30)]
    accepted = sum(listener.verify_request(None, pod) for _ in range(50) for pod in pods)
    assert 100 <= accepted <= 2 * (100 + 2 * len(pods)), "in this second, and perhaps in the next"
    assert listener.verify_request(None, ("10.0.1.1", 1))
    listener.close()


def test_an_answer_that_is_dear_is_not_worked_out_for_each_who_asks() -> None:
    route = Counted()
    listener, shown = address_listener("127.0.0.1", 0, {"/metrics": route})
    try:
        port = int(shown.rpartition(":")[2])
        began_s = time.monotonic()
        bodies = {asked(port, "/metrics")[1] for _ in range(40)}
        seconds = int(time.monotonic() - began_s) + 1
    finally:
        listener.close()
    assert bodies == {b"ok\n"}
    assert route.calls <= 5 * seconds


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
            client.settimeout(PATIENCE_S)
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


def test_nothing_is_ordered_over_the_network(on_tcp: tuple[Listener, int]) -> None:
    response, _ = asked(on_tcp[1], "/cull", "POST")
    assert response.status == HTTPStatus.NOT_IMPLEMENTED


def test_closing_ends_the_thread_whenever_it_comes() -> None:
    """Also before the thread has begun to serve; and it is not started again."""
    before = set(threading.enumerate())
    listeners = [address_listener("127.0.0.1", 0, ROUTES)[0] for _ in range(20)]
    closing = [threading.Thread(target=listener.close) for listener in listeners]
    for thread in closing:
        thread.start()
    wait_for(lambda: not set(threading.enumerate()) - before)
