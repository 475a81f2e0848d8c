"""The pages over real HTTP: who gets which, at what rate, and what a real agent shows."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from minerwatch.agent.web_endpoint import WebEndpoint
from minerwatch.config.schema import Config, Web
from minerwatch.web.layout import View, page_key
from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.report.samples import MINER
from tests.report.test_http_server import as_user
from tests.waiting import PATIENCE_S, until
from tests.web.views import Page, view

TOKEN = "0123456789abcdef0123456789abcdef"


@contextmanager
def serving(
    build: Callable[[int], View] = lambda _: view(), **settings: str
) -> Iterator[WebEndpoint]:
    web = Web(**{"listen": "127.0.0.1:0", **settings})
    endpoint = WebEndpoint(Config(web=web), build, _failed)
    try:
        yield endpoint
    finally:
        endpoint.close()


def _failed(error: Exception) -> None:
    if not isinstance(error, ZeroDivisionError):
        raise error


def asked(
    endpoint: WebEndpoint | str, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and body of the answer; a busy machine may not answer within its deadline."""
    answer = until(lambda: _asked(endpoint, path, method, headers))
    assert answer is not None
    return answer


def _asked(
    endpoint: WebEndpoint | str, path: str, method: str, headers: Mapping[str, str]
) -> tuple[int, http.client.HTTPMessage, str] | None:
    url = urlsplit(endpoint if isinstance(endpoint, str) else endpoint.url)
    client: http.client.HTTPConnection
    host = f"127.0.0.1:{url.port}"
    if url.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = http.client.HTTPSConnection(host, timeout=PATIENCE_S, context=context)
    else:
        client = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    try:
        client.request(method, path, headers=headers)
        response = client.getresponse()
        return response.status, response.headers, response.read().decode()
    except http.client.RemoteDisconnected:
        return None
    finally:
        client.close()


def test_pages_are_found_by_key_and_by_what_explain_takes() -> None:
    with serving() as endpoint:
        for path in (
            "/", "/?sort=cpu&all=1", "/?" + "a=1&" * 50, "/week", "/processes",
            f"/container/{page_key(MINER)}",
            f"/container/{MINER.pod}", "/container/4702", f"/container/{MINER.container_id[:12]}",
            "/container/binder%2F" + MINER.pod,
        ):  # fmt: skip
            status, headers, body = asked(endpoint, path)
            assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
            assert Page(body).text
        for path in ("/nothing", "/container/", "/container/nothing", "/week/", "/%00", "/metrics"):
            status, _, body = asked(endpoint, path)
            assert status == 404, path
            assert "There is no such" in Page(body).text
        assert endpoint.failures == {}


def test_every_answer_forbids_scripts_frames_and_copies() -> None:
    with serving() as endpoint:
        for path, headers in (("/", {}), ("/nothing", {}), ("/", {"Host": "evil.example"})):
            _, answered, _ = asked(endpoint, path, **headers)
            _is_strict(answered)
        _is_strict(asked(endpoint, "/", "POST")[1])
    with serving(lambda _: view(now=1 // 0)) as endpoint:
        status, answered, _ = asked(endpoint, "/")
        assert status == 500
        _is_strict(answered)


def _is_strict(answered: http.client.HTTPMessage) -> None:
    policy = answered["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert answered["Cache-Control"] == "no-store"
    assert answered["X-Content-Type-Options"] == "nosniff"
    assert answered["Referrer-Policy"] == "no-referrer"


def test_nothing_but_get_and_head_is_served() -> None:
    with serving() as endpoint:
        assert asked(endpoint, "/", "HEAD")[::2] == (200, "")
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            assert asked(endpoint, "/", method)[0] in (405, 501), method


def test_a_name_of_another_site_gets_no_page() -> None:
    with serving() as endpoint:
        assert asked(endpoint, "/", Host="evil.example")[::2] == (
            421, "ask for 127.0.0.1 or localhost\n",
        )  # fmt: skip
        assert endpoint.failures == {"page refused: 421": 1}


def test_arguments_are_shown_on_loopback_with_the_token_only(tmp_path: Path) -> None:
    path = f"/container/{page_key(MINER)}"
    token = tmp_path / "token"
    token.write_text(TOKEN)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with serving() as endpoint:
        assert "--donate-level 1" not in asked(endpoint, path)[2]
    with serving(token_file=str(token)) as endpoint:
        status, headers, body = asked(endpoint, path)
        assert (status, "donate" in body) == (401, False)
        assert headers["WWW-Authenticate"].startswith("Basic ")
        assert "--donate-level 1" in asked(endpoint, path, **bearer)[2]
        assert endpoint.failures["page refused: 401"] == 1
    with serving(listen="0.0.0.0:0", token_file=str(token)) as endpoint:
        assert endpoint.url.startswith("https://")
        assert asked(endpoint, path)[0] == 401
        assert "--donate-level 1" not in asked(endpoint, path, **bearer)[2]


def test_however_many_ask_few_pages_a_second_are_built() -> None:
    built_s: list[float] = []

    def build(_processes: int) -> View:
        built_s.append(time.monotonic())
        return view()

    with serving(build) as endpoint, ThreadPoolExecutor(12) as clients:
        answers = [*clients.map(lambda _: asked(endpoint, "/")[0], range(12))]
    assert answers == [200] * 12
    assert min(later - earlier for earlier, later in pairwise(built_s)) >= 0.19


def test_a_user_who_asks_without_end_keeps_no_page_from_another() -> None:
    with serving() as endpoint, ExitStack() as stack:
        port = urlsplit(endpoint.url).port
        for number in range(40):
            source = (f"127.0.1.{number + 1}", 0)
            with as_user(65534):
                flood = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source)
            stack.enter_context(flood)
            with suppress(OSError):  # it is one too many
                flood.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert asked(endpoint, "/")[0] == 200
        assert endpoint.failures.get("made room", 0) + endpoint.failures.get("too often", 0) > 0


def test_a_page_that_fails_is_said_and_the_next_one_is_served() -> None:
    fails = [True]

    def build(_processes: int) -> View:
        return view(now=1 // 0) if fails else view()

    with serving(build) as endpoint:
        status, _, body = asked(endpoint, "/")
        assert (status, body) == (500, "internal error; see the agent's log\n")
        fails.clear()
        assert asked(endpoint, "/")[0] == 200


def test_a_real_agent_shows_its_node_and_keeps_a_journal(tmp_path: Path) -> None:
    options = ("--web", "127.0.0.1:0", "--journal", str(tmp_path / "journal"))
    with closing(RunningAgent(tmp_path, *options, all_rules=False)) as agent:
        url = str(agent.line("watching")["web"])

        def shown() -> bool:
            text = Page(asked(url, "/")[2]).text
            return "cores busy" in text and "Nothing is recorded yet" in text

        agent.until(shown)
        assert agent.stop() == 0
    with closing(RunningAgent(tmp_path, *options, all_rules=False)) as agent:
        page = Page(asked(str(agent.line("watching")["web"]), "/week")[2])
        assert "The agent started 2 times." in page.text
        assert "CPU hours" in page.text


def test_a_miner_in_a_container_has_its_page(
    tmp_path: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{container_id('b7')}")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    options = ("--web", "127.0.0.1:0", "--web-token-file", str(token))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    path = f"/container/{container_id('b7')[:12]}"
    with closing(RunningAgent(tmp_path, *options, all_rules=False)) as agent:
        url = str(agent.line("watching")["web"])
        cgroups.put(programs.start("xmrig", "--password", "hunter2", *POOL, busy=True), folder)
        agent.line("verdict", container=container_id("b7")[:12])
        page = Page(asked(url, path, **bearer)[2])
        assert "likely" in page.text or "confirmed" in page.text
        assert "stratum+tcp://pool.supportxmr.com:3333" in page.text
        assert "--password …" in page.text
        assert "hunter2" not in page.text, "secrets stay masked"
        for each in ("/", "/processes"):
            assert container_id("b7")[:12] in Page(asked(url, each, **bearer)[2]).text


def test_an_address_for_all_needs_a_token(tmp_path: Path) -> None:
    with closing(RunningAgent(tmp_path, "--web", "0.0.0.0:0", all_rules=False)) as agent:
        assert agent.process.wait(timeout=PATIENCE_S) == 2
        assert agent.log_path.read_text().splitlines()[-1] == (
            "Error: --web: 0.0.0.0:0 is no loopback address, so it needs a token: set"
            " web.token_file, or listen on 127.0.0.1:9798"
        )
