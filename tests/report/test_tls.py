from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from minerwatch.api.port import TOKEN_HEADER
from minerwatch.config.schema import Tls
from minerwatch.errors import ListenError
from minerwatch.report.http_server import (
    Answer,
    Limits,
    Listener,
    Private,
    Routes,
    address_listener,
)
from minerwatch.report.tls import TlsEndpoint
from tests.conftest import needs_root
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes certificates: apt install openssl"
)

ROUTES: Routes = {"/metrics": lambda: Answer(b"up 1\n"), "/healthz": lambda: Answer(b"ok\n")}


class Authority:
    """A CA of the test's own, and what it signs."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", self._key, "-out", self.certificate, "-days", "2", "-subj", f"/CN={name}"),
        )

    def sign(self, name: str) -> Path:
        """A file with a certificate for 127.0.0.1 and its key."""
        key, request, signed = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", request, "-subj", f"/CN={name}"),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key),
            *("-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", signed),
        )
        both = self.folder / f"{name}.both"
        both.write_text(signed.read_text() + key.read_text())
        return both


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.sign("agent")


@pytest.fixture
def plain(certificate: Path) -> Iterator[tuple[Listener, int]]:
    yield from served(Tls(certificate=str(certificate)))


@pytest.fixture
def guarded(authority: Authority, certificate: Path) -> Iterator[tuple[Listener, int]]:
    settings = Tls(certificate=str(certificate), client_ca=str(authority.certificate))
    yield from served(settings)


def served(settings: Tls) -> Iterator[tuple[Listener, int]]:
    listener, shown = address_listener("127.0.0.1", 0, ROUTES, tls=TlsEndpoint(settings))
    yield listener, int(shown.rpartition(":")[2])
    listener.close()


def get(port: int, path: str, trusted: Path, shown: Path | None = None) -> tuple[int, bytes, int]:
    """Status, body and the serial number of the certificate that was shown."""
    context = ssl.create_default_context(cafile=str(trusted))
    if shown is not None:
        context.load_cert_chain(shown)
    connection = HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
    try:
        connection.request("GET", path)
        sock = connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        serial = int(str((sock.getpeercert() or {})["serialNumber"]), 16)
        response = connection.getresponse()
        return response.status, response.read(), serial
    finally:
        connection.close()


def test_it_speaks_tls(plain: tuple[Listener, int], authority: Authority) -> None:
    assert get(plain[1], "/metrics", authority.certificate)[:2] == (200, b"up 1\n")


def test_who_speaks_plain_http_is_counted_and_gets_nothing(plain: tuple[Listener, int]) -> None:
    listener, port = plain
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"up 1" not in _rest(client)
    until(lambda: listener.failures.get("tls") == 1)


def test_who_says_nothing_keeps_nobody_waiting(
    plain: tuple[Listener, int], authority: Authority
) -> None:
    silent = [
        socket.create_connection(("127.0.0.1", plain[1]), timeout=PATIENCE_S) for _ in range(20)
    ]
    assert get(plain[1], "/metrics", authority.certificate)[0] == 200
    for client in silent:
        client.close()


def test_without_a_certificate_only_health_is_told(
    guarded: tuple[Listener, int], authority: Authority
) -> None:
    port = guarded[1]
    assert get(port, "/healthz", authority.certificate)[:2] == (200, b"ok\n")
    assert get(port, "/metrics", authority.certificate)[:2] == (
        403,
        b"show a client certificate\n",
    )
    shown = authority.sign("prometheus")
    assert get(port, "/metrics", authority.certificate, shown)[:2] == (200, b"up 1\n")


def test_a_certificate_of_another_authority_is_refused(
    guarded: tuple[Listener, int], authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").sign("prometheus")
    with pytest.raises(OSError):
        get(guarded[1], "/metrics", authority.certificate, stranger)


def test_a_new_certificate_is_used_and_a_broken_one_is_not(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "tls.pem"
    file.write_bytes(authority.sign("first").read_bytes())
    for listener, port in served(Tls(certificate=str(file))):
        first = get(port, "/healthz", authority.certificate)[2]
        file.write_bytes(authority.sign("second").read_bytes())
        second = get(port, "/healthz", authority.certificate)[2]
        assert second != first
        file.write_text("no certificate\n")
        assert get(port, "/healthz", authority.certificate)[2] == second
        assert listener.failures["certificate"] > 0


@pytest.mark.parametrize("content", [None, b"no certificate\n"], ids=["missing", "broken"])
def test_files_that_cannot_be_used_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tls.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ListenError, match=r"^tls: .*tls\.pem: .") as caught:
        TlsEndpoint(Tls(certificate=str(file)))
    assert "\n" not in str(caught.value)


def _rest(client: socket.socket) -> bytes:
    received = b""
    try:
        while piece := client.recv(4096):
            received += piece
    except OSError:
        pass
    return received


def test_private_answers_in_memory_are_few(authority: Authority) -> None:
    """Each may have some MiB, and a client may take its time."""
    both = str(authority.sign("server"))
    going_on, computing = threading.Event(), threading.Semaphore(0)

    def report() -> Answer:
        computing.release()
        going_on.wait(PATIENCE_S)
        return Answer(b"{}")

    endpoint = TlsEndpoint(Tls(certificate=both))
    routes: Routes = {**ROUTES, "/report": Private(report, lambda _token, _client: HTTPStatus.OK)}
    limits = Limits(private_at_once=1, private_wait_s=0.2)
    listener, shown = address_listener("127.0.0.1", 0, routes, tls=endpoint, limits=limits)
    try:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        port = int(shown.rpartition(":")[2])
        first, second = (
            HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context) for _ in "ab"
        )
        first.request("GET", "/report", headers={TOKEN_HEADER: "t"})
        assert computing.acquire(timeout=PATIENCE_S)
        second.request("GET", "/report", headers={TOKEN_HEADER: "t"})
        assert second.getresponse().status == 503
        second.close()
        second.request("GET", "/metrics")  # is not held up
        assert second.getresponse().read() == b"up 1\n"
        second.close()
        going_on.set()
        assert first.getresponse().read() == b"{}"
        first.close()
        assert listener.failures == {"busy": 1}
    finally:
        going_on.set()
        listener.close()


def _certificate_child(parent_pid: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "minerwatch.report.tls", str(parent_pid)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@needs_root
def test_what_makes_a_certificate_has_no_capabilities() -> None:
    with _certificate_child(os.getpid()) as child:
        assert child.stdout is not None
        made = child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # /proc shows it until it is reaped
        status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    assert b"PRIVATE KEY" in made
    assert b"CERTIFICATE" in made
    held = dict(line.split(":\t", 1) for line in status if line.startswith(("CapEff", "CapPrm")))
    assert {int(each, 16) for each in held.values()} == {0}


def test_what_makes_a_certificate_exits_without_its_agent() -> None:
    with _certificate_child(parent_pid=1) as child:
        assert child.communicate()[0] == b""
    assert child.returncode == 1
