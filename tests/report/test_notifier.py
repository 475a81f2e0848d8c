"""Webhooks, by real HTTP servers that fail in every way; nothing waits, nothing is lost unseen."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.config.schema import Webhook
from minerwatch.config.values import Duration
from minerwatch.model import Abuse, AnnouncedLevel, Level, MessageFormat, Verdict
from minerwatch.report.messages import ACTION, Notice
from minerwatch.report.notifier import DROPPED, Notifier, NotifyPace, NotSentError, Receiver, post
from tests.builders import make_container, make_finding, make_verdict
from tests.report.samples import container
from tests.waiting import until

FAST = NotifyPace(first_delay_s=0.01, longest_delay_s=0.05, give_up_s=30.0, answer_s=2.0)


@dataclass
class Site:
    """A receiver: the answers that it gives in turn, the last for ever, and what it was sent."""

    answers: list[int | Callable[[BaseHTTPRequestHandler], None]]
    got: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def next(self) -> int | Callable[[BaseHTTPRequestHandler], None]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def site(
    *answers: int | Callable[[BaseHTTPRequestHandler], None], context: ssl.SSLContext | None = None
) -> Iterator[Site]:
    """Serve on loopback."""
    served = Site(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = served.next()
            if callable(answer):
                answer(self)
                return
            if answer == 200:
                served.got.append(json.loads(body))
                served.headers.append(dict(self.headers))
            self.send_response(answer)
            if answer in (301, 308):
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            if answer == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    served.url = f"{scheme}://127.0.0.1:{server.server_port}/hook/secret-part"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def webhook(folder: Path, url: str, **changes: Any) -> Webhook:
    file = folder / "url"
    file.write_text(url + "\n")
    plain = Webhook(name="chat", url_file=str(file), group_for=Duration(0.0), per_hour=100_000)
    return msgspec.structs.replace(plain, **changes)


@dataclass
class Told:
    """A receiver under test, and the errors that it reported."""

    receiver: Receiver
    errors: list[str]

    def announce(self, verdict: Verdict, **changes: Any) -> None:
        self.receiver.announce(
            verdict, changes.get("namespace", "lab"), lambda: container(**changes)
        )

    def has_dropped(self, count: int) -> bool:
        return self.receiver.failures[DROPPED] == count


@contextmanager
def told(settings: Webhook, pace: NotifyPace = FAST) -> Iterator[Told]:
    errors: list[str] = []
    receiver = Receiver(settings, lambda _what, error: errors.append(str(error)), pace)
    try:
        yield Told(receiver, errors)
    finally:
        receiver.close()


def verdict(score: float = 95.0, number: int = 1, **changes: Any) -> Verdict:
    return make_verdict(make_container(f"c{number}"), make_finding(score=score), **changes)


def test_news_is_sent_once_and_its_end_too(tmp_path: Path) -> None:
    with site(200) as served, told(webhook(tmp_path, served.url)) as to:
        for _ in range(3):
            to.announce(verdict())
        until(lambda: served.got)
        to.announce(verdict(0.0, level=Level.CLEAR))
        until(lambda: len(served.got) == 2)
        events = [each["event"] for body in served.got for each in body["notices"]]
        assert events == ["verdict", "cleared"]
        assert not to.errors


def test_each_kind_of_abuse_is_sent_once(tmp_path: Path) -> None:
    here = make_container()
    mines = make_finding(score=75.0)
    scans = make_finding(score=72.0, rule="s", abuse=Abuse.SCANNING)
    weak = make_finding(score=40.0, rule="p", abuse=Abuse.PROXYWARE)
    with site(200) as served, told(webhook(tmp_path, served.url)) as to:
        for findings in ((mines,), (mines, scans, weak), (mines, scans, weak), ()):
            to.announce(make_verdict(here, *findings))
        until(lambda: sum(len(each["notices"]) for each in served.got) >= 4)
        said = [(each["event"], each["abuse"]) for got in served.got for each in got["notices"]]
    assert said == [
        *(("verdict", "mining"), ("verdict", "scanning")),
        *(("cleared", "mining"), ("cleared", "scanning")),
    ]


def test_what_is_below_its_level_or_elsewhere_is_not_sent(tmp_path: Path) -> None:
    with site(200) as served:
        settings = webhook(
            tmp_path, served.url, level=AnnouncedLevel.CONFIRMED, namespaces=("lab*",)
        )
        with told(settings) as to:
            to.announce(verdict(75.0))
            to.receiver.announce(verdict(95.0, 2), "other", container)
            to.announce(verdict(0.0, 3, level=Level.CLEAR))
            to.announce(verdict(95.0))
            until(lambda: served.got)
        assert [len(body["notices"]) for body in served.got] == [1]


def test_an_outage_loses_nothing(tmp_path: Path) -> None:
    with site(503, 429, 500, 200) as served, told(webhook(tmp_path, served.url)) as to:
        to.announce(verdict())
        until(lambda: to.receiver.sent == 1)
        assert to.receiver.failures == {"unavailable": 3}
        assert len(served.got) == 1


@pytest.mark.parametrize(("answer", "reason"), [(404, "refused"), (308, "redirect")])
def test_what_is_refused_is_counted_and_said_next(tmp_path: Path, answer: int, reason: str) -> None:
    with site(answer, 200) as served, told(webhook(tmp_path, served.url)) as to:
        to.announce(verdict(), owner="user: eve")
        until(lambda: to.receiver.failures[DROPPED])
        assert to.receiver.failures[reason] == 1
        to.announce(verdict(95.0, 2))
        until(lambda: served.got)
        assert served.got[0]["left_out"] == {"user: eve": 1}
        assert "secret-part" not in "".join(to.errors)


def test_a_slow_receiver_holds_up_nothing_but_itself(tmp_path: Path) -> None:
    released = threading.Event()

    def stall(_handler: BaseHTTPRequestHandler) -> None:
        released.wait(30)

    with site(stall) as served:
        pace = NotifyPace(first_delay_s=0.01, longest_delay_s=0.05, give_up_s=0.0, answer_s=0.2)
        with told(webhook(tmp_path, served.url), pace) as to:
            to.announce(verdict())
            until(lambda: to.receiver.failures["timeout"])
            for number in range(1000):  # of one owner; none of these waits
                to.announce(verdict(95.0, number + 2), owner="user: eve")
            until(lambda: to.receiver.failures[DROPPED] > 900)
        released.set()


def test_an_answer_that_drips_ends_at_the_deadline(tmp_path: Path) -> None:
    is_over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90):
                handler.wfile.write(bytes([byte]))
                if is_over.wait(0.05):
                    return

    with site(drip) as served, pytest.raises(NotSentError, match=r"no answer within 0\.5 s"):
        post(webhook(tmp_path, served.url), b"{}", 0.5)
    is_over.set()


def test_a_handshake_that_drips_ends_at_the_deadline(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        is_over = threading.Event()

        def drip() -> None:
            client, _ = server.accept()
            with client, suppress(OSError):
                record = b"\x16\x03\x03\x40\x00"  # of 16 KiB
                while not is_over.wait(0.05):
                    client.sendall(record[:1])
                    record = record[1:] or b"\x02"

        dripping = threading.Thread(target=drip)
        dripping.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(NotSentError, match=r"no answer within 0\.5 s"):
            post(webhook(tmp_path, url), b"{}", 0.5)
        is_over.set()
        dripping.join()


def test_one_owner_cannot_push_out_another(tmp_path: Path) -> None:
    with site(200) as served:
        settings = webhook(tmp_path, served.url, group_for=Duration(3.0))
        with told(settings) as to:
            for number in range(200):
                to.announce(verdict(95.0, number), owner="user: eve")
            to.announce(verdict(95.0, 999), owner="user: ada")
            until(lambda: served.got)
    owners = [each["owner"] for body in served.got for each in body["notices"]]
    assert owners.count("user: ada") == 1
    assert owners.count("user: eve") == 20
    assert served.got[0]["left_out"] == {"user: eve": 180}


def test_no_flood_keeps_out_what_was_done_about_it(tmp_path: Path) -> None:
    done = Notice("", ACTION, "n", "lab", "p0", "", "user: eve", action="evict", outcome="done")
    with site(200) as served, told(webhook(tmp_path, served.url, group_for=Duration(0.5))) as to:
        for number in range(100):
            to.announce(verdict(95.0, number), namespace="lab", owner="user: eve")
        to.receiver.queue(done)
        until(lambda: "evict" in json.dumps(served.got))


def test_one_namespace_with_many_owners_cannot_push_out_another(tmp_path: Path) -> None:
    released = threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        released.wait(30)
        handler.send_response(200)
        handler.end_headers()

    pace = NotifyPace(answer_s=60.0)
    with site(hold, 200) as served, told(webhook(tmp_path, served.url), pace) as to:
        to.announce(verdict())
        until(lambda: len(served.answers) == 1)  # it is being sent: all else waits
        for number in range(600):
            to.announce(verdict(95.0, 2 + number), namespace="eve", owner=f"user: {number}")
        to.announce(verdict(95.0, 999), namespace="lab", owner="user: ada")
        released.set()
        until(lambda: sum(len(each["notices"]) for each in served.got) == 500)
    owners = {each["owner"] for body in served.got for each in body["notices"]}
    assert "user: ada" in owners
    assert sum(served.got[0]["left_out"].values()) == 101
    assert served.got[0]["left_out"][""] == 1, "a hundred owners are named"


def test_a_notice_that_is_refused_takes_no_other_with_it(tmp_path: Path) -> None:
    with site(400, 200) as served:
        settings = webhook(
            tmp_path, served.url, format=MessageFormat.FALCO, group_for=Duration(0.3)
        )
        with told(settings) as to:
            to.announce(verdict(95.0, 1), owner="user: eve")
            to.announce(verdict(95.0, 2), owner="user: ada")
            until(lambda: served.got)
            assert served.got[0]["output_fields"]["minerwatch.owner"] == "user: ada"
            until(lambda: to.receiver.failures[DROPPED] == 1)
            to.announce(verdict(95.0, 3))
            until(lambda: len(served.got) == 2)
            assert served.got[1]["output"].endswith("1 message left out, about user: eve")


def test_owners_that_are_left_out_again_and_again_take_no_more_room(tmp_path: Path) -> None:
    with site(404) as served, told(webhook(tmp_path, served.url)) as to:
        for number in range(1, 251):
            to.announce(verdict(95.0, number), owner=f"user: {number}")
            until(partial(to.has_dropped, number))
        served.answers[:] = [200]
        to.announce(verdict(95.0, 999))
        until(lambda: served.got)
        assert len(served.got[0]["left_out"]) == 101
        assert sum(served.got[0]["left_out"].values()) == 250


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    with site(200) as served, told(webhook(tmp_path, served.url)) as to:
        to.announce(verdict())
        Notifier([to.receiver]).forget(verdict().container)
        to.announce(verdict())
        until(lambda: sum(len(body["notices"]) for body in served.got) == 2)


def test_no_more_messages_than_its_rate_and_nothing_is_lost(tmp_path: Path) -> None:
    with site(200) as served:
        settings = webhook(tmp_path, served.url, per_hour=7200)  # one in 0.5 s
        with told(settings) as to:
            for number in range(10):
                to.announce(verdict(95.0, number), owner=f"user: {number}")
                to.announce(verdict(95.0, 100 + number), owner=f"user: {number}")
            until(lambda: sum(len(body["notices"]) for body in served.got) == 20)


def test_credentials_come_from_files_and_only_by_tls(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("Bearer abc\n")
    with site(200) as served:
        settings = webhook(tmp_path, served.url, authorization_file=str(key))
        post(settings, b"{}", 2.0)
        assert served.headers[0]["Authorization"] == "Bearer abc"
    in_the_clear = webhook(tmp_path, "http://hooks.example.org/x", authorization_file=str(key))
    with pytest.raises(NotSentError, match="in the clear"):
        post(in_the_clear, b"{}", 2.0)
    for wrong in ("", "ftp://example.org", "two\nlines", "https://[::1", "http://a\u2100b/secret"):
        with pytest.raises(NotSentError) as error:
            post(webhook(tmp_path, wrong), b"{}", 2.0)
        assert error.value.reason == "address"
        assert "secret" not in str(error.value)


def test_a_receiver_with_another_certificate_is_not_sent_to(tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(tmp_path / "key.pem"), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    with site(200, context=context) as served:
        with pytest.raises(NotSentError) as error:
            post(webhook(tmp_path, served.url), b"{}", 2.0)
        assert error.value.reason == "tls"
        post(webhook(tmp_path, served.url, ca=str(certificate)), b"{}", 2.0)
        assert served.got == [{}]


def test_falco_has_one_request_a_notice(tmp_path: Path) -> None:
    with site(200) as served:
        settings = webhook(
            tmp_path, served.url, format=MessageFormat.FALCO, group_for=Duration(0.3)
        )
        with told(settings) as to:
            to.announce(verdict(95.0, 1))
            to.announce(verdict(95.0, 2))
            until(lambda: len(served.got) == 2)
    assert {each["source"] for each in served.got} == {"minerwatch"}


def test_without_receivers_nothing_is_done() -> None:
    Notifier().announce(verdict(), "lab", lambda: pytest.fail("it is not asked for"))
