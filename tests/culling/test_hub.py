"""``stop-server``: by a real JupyterHub, by one that is away, and by tokens that are wrong."""

from __future__ import annotations

import html
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest

from minerwatch.config.hub import Bans, Hub
from minerwatch.config.values import DRY_RUN, Duration
from minerwatch.culling.actions import HubRequest
from minerwatch.culling.hub_api import HubApi
from minerwatch.format import rfc3339
from minerwatch.kube.attributions import HUB_SERVER, HUB_USER, HubServer
from minerwatch.kube.client import ApiError
from minerwatch.model import Action, Observation
from tests.culling.harness import Harness, Open, actions_on, lines, outcomes, put_pod, settings
from tests.culling.jupyterhub import HOW, JupyterHub, programs, running
from tests.kube.api_server import ApiServer
from tests.waiting import until

needs_hub = pytest.mark.skipif(programs() is None, reason=HOW)
CONFIG_MAPS = ("configmaps", "/api/v1")
STORE = "binder/minerwatch-bans"
CONTACT = "Ask abuse@example.org."


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterHub]:
    if programs() is None:
        pytest.skip(HOW)
    with running(tmp_path_factory.mktemp("hub")) as started:
        yield started


def hub_settings(url: str, token_file: Path, log: Path, *actions: Action, **changes: Any) -> Any:
    return settings(
        log,
        *(actions or (Action.STOP_SERVER,)),
        hub=Hub(url=url, token_file=str(token_file)),
        minimum_age=Duration(0),
        **{"bans": Bans(config_map=STORE), **changes},
    )


def token(folder: Path, text: str) -> Path:
    path = folder / "token"
    path.write_text(text + "\n")
    return path


def server_pod(
    api: ApiServer, harness: Harness, user: str, server: str = "", uid: str = "uid-1"
) -> Observation:
    """A server's pod, created after it was started."""
    annotations = {HUB_USER: user, **({HUB_SERVER: server} if server else {})}
    put_pod(api, f"jupyter-{uid}", uid, annotations=annotations)
    observation = harness.watch.add(f"/kubepods/pod{uid}/c", uid)
    until(lambda: harness.node.identity(observation.container))
    harness.has_watched(harness.watch.observations(0))
    return observation


def mounted(api: ApiServer, hub: JupyterHub) -> None:
    """As the kubelet does with the ConfigMap."""
    (found,) = api.items(*CONFIG_MAPS)
    for name, text in found["data"].items():
        (hub.bans / name).write_text(text)


@needs_hub
@pytest.mark.slow
def test_the_hub_stops_the_server_and_its_user_sees_why(
    hub: JupyterHub, api: ApiServer, opened: Open, log: Path, tmp_path: Path
) -> None:
    user, server = "ada ü%2e@example.org", "gpu"
    hub.start(user, server)
    hub.start(user)
    culling = hub_settings(hub.api, token(tmp_path, hub.token("minerwatch")), log)
    harness = opened(culling, contact=CONTACT)
    observation = server_pod(api, harness, user, server)
    made_later(api, observation)
    harness.tick()
    assert outcomes(log) == ["stop-server pending", "stop-server done"], harness.reasons(
        observation
    )
    assert harness.errors == []
    until(lambda: not hub.server(user, server).get("ready"))
    assert hub.server(user).get("ready"), "the user's other server runs on"
    assert actions_on(api, "jupyter-uid-1") == [], "the pod is the hub's to delete"
    mounted(api, hub)
    page = html.unescape(hub.page(user, "/hub/home"))
    assert "Your server was stopped at" in page
    assert "Title of identity" in page
    assert CONTACT in page
    record = lines(log)[-1].record
    assert record is not None
    assert record.id in page
    assert "Your server was stopped" not in hub.page("eve", "/hub/home")
    request = next(line.request for line in lines(log) if line.kind == "action")
    assert request == "DELETE /users/ada%20%C3%BC%252e%40example.org/servers/gpu to the hub"


def made_later(api: ApiServer, observation: Observation) -> None:
    """Make the pod an hour younger: it was created just now."""
    (pod,) = [p for p in api.items("pods") if p["metadata"]["uid"] == observation.container.pod_uid]
    pod["metadata"]["creationTimestamp"] = rfc3339(time.time())
    api.put(pod)


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("reader", "the hub's token lacks the scope delete:servers"),
        ("admin", "the hub's token can do more than read:servers and delete:servers (admin:"),
        ("nobody", "GET /user: the hub refuses the token (403"),
    ],
)
def test_a_token_with_the_wrong_scopes_is_refused_in_one_line(
    hub: JupyterHub, api: ApiServer, opened: Open, log: Path, tmp_path: Path, service: str,
    said: str,
) -> None:  # fmt: skip
    hub.start("bob")
    harness = opened(hub_settings(hub.api, token(tmp_path, hub.token(service)), log))
    server_pod(api, harness, "bob")
    harness.tick()
    assert outcomes(log)[-1] == "stop-server refused"
    message = lines(log)[-1].message
    assert message.startswith(said)
    assert "\n" not in message
    assert hub.token(service) not in log.read_text()
    assert hub.server("bob").get("ready")


@needs_hub
@pytest.mark.slow
@pytest.mark.parametrize("starts", [True, False])
def test_a_pod_that_is_left_over_gets_the_next_action(
    hub: JupyterHub, api: ApiServer, opened: Open, log: Path, tmp_path: Path, starts: bool
) -> None:
    """Its server was started again, or stopped: its tenant cannot hide behind the hub."""
    user = f"eve-{starts}"
    hub.start(user)
    if not starts:
        hub.call("DELETE", f"/users/{user}/server")
    actions = (Action.STOP_SERVER, Action.EVICT)
    culling = hub_settings(hub.api, token(tmp_path, hub.token("minerwatch")), log, *actions)
    harness = opened(msgspec.structs.replace(culling, pause=Duration(0)))
    server_pod(api, harness, user)  # the pod is an hour old
    harness.tick()
    assert outcomes(log)[-1] == "stop-server failed"
    said = "the hub has started the server again since" if starts else "the hub runs no such server"
    assert lines(log)[-1].message.startswith(said)
    harness.tick()
    assert outcomes(log)[-1] == "evict done"
    assert bool(hub.server(user).get("ready")) is starts


@needs_hub
@pytest.mark.slow
def test_a_dry_run_checks_and_changes_nothing(
    hub: JupyterHub, api: ApiServer, opened: Open, log: Path, tmp_path: Path
) -> None:
    hub.start("dora")
    culling = hub_settings(hub.api, token(tmp_path, hub.token("minerwatch")), log, mode=DRY_RUN)
    harness = opened(culling)
    made_later(api, server_pod(api, harness, "dora"))
    harness.tick()
    assert outcomes(log)[-1] == "stop-server dry-run"
    assert hub.server("dora").get("ready")
    assert api.items(*CONFIG_MAPS) == []


def test_a_hub_that_is_away_means_no_action(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path
) -> None:
    actions = (Action.STOP_SERVER, Action.EVICT, Action.DELETE)
    culling = hub_settings("http://127.0.0.1:9/hub/api", token(tmp_path, "t"), log, *actions)
    harness = opened(culling)
    server_pod(api, harness, "ada")
    harness.tick()
    assert outcomes(log) == ["stop-server pending", "stop-server withdrawn"]
    assert lines(log)[-1].message.startswith("the hub cannot be reached (")
    assert actions_on(api, "jupyter-uid-1") == []
    assert api.items("pods") != []


def test_a_pod_that_is_no_hubs_goes_one_rung_further(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path
) -> None:
    actions = (Action.STOP_SERVER, Action.EVICT)
    culling = hub_settings("http://127.0.0.1:9/", token(tmp_path, "t"), log, *actions)
    harness = opened(culling)
    put_pod(api, "plain", "uid-2", labels={HUB_USER: "ada"})
    observation = harness.watch.add("/kubepods/poduid-2/c", "uid-2")
    until(lambda: harness.node.identity(observation.container))
    harness.tick()
    assert outcomes(log) == ["evict pending", "evict done"]


def test_a_tenant_cannot_have_the_server_of_another_stopped(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path
) -> None:
    """A pod outside the platform's namespaces bears the name of a hub's user."""
    culling = hub_settings(
        "http://127.0.0.1:9/", token(tmp_path, "t"), log, namespaces=("mallory", "binder")
    )
    harness = opened(culling)
    put_pod(api, "forged", "uid-3", "mallory", annotations={HUB_USER: "victim"})
    observation = harness.watch.add("/kubepods/poduid-3/c", "uid-3")
    until(lambda: harness.node.identity(observation.container))
    harness.tick()
    assert outcomes(log) == []
    assert "No action is configured" in harness.reasons(observation)


@pytest.mark.parametrize("namespace", ["ci", "staging"])
def test_neither_a_ci_job_nor_another_hub_has_a_users_server_stopped(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path, namespace: str
) -> None:
    """A job chooses its annotations; at another hub anybody may have the victim's name."""
    actions = (Action.STOP_SERVER, Action.EVICT)
    with a_hub((200, RUNNING)) as (url, requests):
        places = {"namespaces": (namespace,), "bans": Bans(config_map=STORE, after_cull=True)}
        harness = opened(hub_settings(url, token(tmp_path, "t"), log, *actions, **places))
        put_pod(api, "job", "uid-4", namespace, annotations={HUB_USER: "victim"})
        observation = harness.watch.add("/kubepods/poduid-4/c", "uid-4")
        until(lambda: harness.node.identity(observation.container))
        harness.tick()
    assert (outcomes(log)[-1], requests) == ("evict done", [])
    assert api.items(*CONFIG_MAPS) == []


SCOPES = b'{"scopes": ["read:servers", "delete:servers"]}'
RUNNING = b'{"servers": {"": {"started": "2020-01-01T00:00:00Z"}}}'
LONG = b'{"servers": {"": {"user_options": "' + b"x" * (5 << 20) + b'"}}}'


@contextmanager
def a_hub(
    users: tuple[int, bytes], token: bytes = SCOPES, *, piece_s: float = 0.0
) -> Iterator[tuple[str, list[str]]]:
    """A hub that answers about its users as given, and its requests; with pauses, if wanted."""
    requests: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.command)
            status, body = users if "/users/" in self.path else (200, token)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            pieces = [body[n : n + 1] for n in range(len(body))] if piece_s else [body]
            with suppress(OSError):
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(piece_s)

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@contextmanager
def raw_hub(answer: bytes, *, piece_s: float = 0.0) -> Iterator[str]:
    """A hub that sends these bytes to each client, byte by byte with pauses, if wanted."""
    is_over = Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, suppress(OSError):
                    client.recv(8192)
                    pieces = (
                        [answer[n : n + 1] for n in range(len(answer))] if piece_s else [answer]
                    )
                    for piece in pieces:
                        client.sendall(piece)
                        if is_over.wait(piece_s):
                            break

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        is_over.set()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ((200, LONG), "GET /users/ada: the hub's answer is too long"),
        ((200, b'{"servers": {"": {"user_options": NaN}}}'), "the hub's answer is invalid: "),
        (
            (404, b'{"message": "no such user"}'),
            "GET /users/ada: the hub answered 404 no such user",
        ),
    ],
)
def test_nothing_that_a_user_can_do_saves_a_server(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path, users: tuple[int, bytes], said: str
) -> None:
    actions = (Action.STOP_SERVER, Action.EVICT)
    with a_hub(users) as (url, _):
        culling = hub_settings(url, token(tmp_path, "t"), log, *actions)
        harness = opened(msgspec.structs.replace(culling, pause=Duration(0)))
        server_pod(api, harness, "ada")
        harness.tick()
        assert lines(log)[-1].message.startswith(said)
        harness.tick()
    assert outcomes(log)[-1] == "evict done"


def request() -> HubRequest:
    return HubRequest(HubServer("ada", ""), time.time(), dry_run=False)


@pytest.mark.parametrize("scopes", [LONG, b"NaN"])
def test_a_garbled_token_is_no_unknown_server(tmp_path: Path, scopes: bytes) -> None:
    with a_hub((200, RUNNING), scopes) as (url, _):
        hub = Hub(url=url, token_file=str(token(tmp_path, "t")))
        with pytest.raises(ApiError) as raised:
            HubApi(lambda: hub).check(request())
    assert (type(raised.value), raised.value.reason) == (ApiError, "garbage")


def test_a_hub_that_trickles_is_given_up(tmp_path: Path) -> None:
    with a_hub((200, RUNNING), piece_s=0.1) as (url, _):
        hub = Hub(url=url, token_file=str(token(tmp_path, "t")))
        started_s = time.monotonic()
        with pytest.raises(ApiError, match="the hub cannot be reached") as raised:
            HubApi(lambda: hub, answer_s=0.5).check(request())
        assert time.monotonic() - started_s < 3
    assert raised.value.reason == "timeout"


def test_a_hub_whose_answer_is_cut_off_is_no_hub_without_the_server(tmp_path: Path) -> None:
    with raw_hub(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + SCOPES) as url:
        hub = Hub(url=url, token_file=str(token(tmp_path, "t")))
        with pytest.raises(ApiError, match="the hub cannot be reached") as raised:
            HubApi(lambda: hub).check(request())
    assert (type(raised.value), raised.value.reason) == (ApiError, "connection")


def test_a_hub_that_trickles_its_headers_is_given_up(tmp_path: Path) -> None:
    with raw_hub(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90, piece_s=0.05) as url:
        hub = Hub(url=url, token_file=str(token(tmp_path, "t")))
        with pytest.raises(ApiError, match="the hub cannot be reached") as raised:
            HubApi(lambda: hub, answer_s=0.5).check(request())
    assert raised.value.reason == "timeout"


def test_no_redirect_gets_the_token(tmp_path: Path) -> None:
    with a_hub((200, RUNNING)) as (elsewhere, requests):
        moved = f"HTTP/1.1 307 Go\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n"
        with raw_hub(moved.encode()) as url:
            hub = Hub(url=url, token_file=str(token(tmp_path, "t")))
            with pytest.raises(ApiError, match="GET /user: the hub answered 307"):
                HubApi(lambda: hub).check(request())
    assert requests == []


@pytest.mark.parametrize("is_late", [True, False])
def test_nothing_is_stopped_after_a_late_check_or_once_it_is_a_dry_run(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path, is_late: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("minerwatch.culling.culler.HubApi", lambda of, _: HubApi(of, 0.05))
    with a_hub((200, RUNNING)) as (url, requests):
        harness = opened(hub_settings(url, token(tmp_path, "t"), log))
        server_pod(api, harness, "ada")
        context = harness.culler.orders.context

        def check(hub: HubApi, _: HubRequest) -> None:
            if is_late:
                time.sleep(2 * hub.answer_s + 0.1)
            else:
                culling = msgspec.structs.replace(context.culling, mode=DRY_RUN)
                context.config = msgspec.structs.replace(context.config, culling=culling)

        monkeypatch.setattr(HubApi, "check", check)
        harness.tick()
    assert outcomes(log)[-1] == "stop-server withdrawn"
    said = "the hub took too long to answer" if is_late else "actions are no longer enforced"
    assert lines(log)[-1].message == said
    assert "DELETE" not in requests


def test_a_missing_token_is_one_line(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path
) -> None:
    harness = opened(hub_settings("http://127.0.0.1:9/", tmp_path / "none", log))
    server_pod(api, harness, "ada")
    harness.tick()
    assert lines(log)[-1].message == (
        f"culling.hub.token_file: {tmp_path / 'none'}: No such file or directory"
    )


@pytest.mark.parametrize(
    ("user", "server", "path"),
    [
        ("ada", "", "/users/ada/server"),
        ("a/b%2e", "my gpu", "/users/a%2Fb%252e/servers/my%20gpu"),
        ("ada", "..", "/users/ada/servers/%2E%2E"),
        (".", "", "/users/%2E/server"),
        ("?x=1#", "../ada", "/users/%3Fx%3D1%23/servers/..%2Fada"),
    ],
)
def test_names_are_one_segment_of_the_path(user: str, server: str, path: str) -> None:
    request = HubRequest(HubServer(user, server), 0.0, dry_run=False)
    assert request.path == path


@pytest.mark.parametrize(
    "hub", [{"url": "ftp://x", "token_file": "t"}, {"url": "http://x"}, {"token_file": "t"}]
)
def test_a_hub_that_could_not_be_asked_is_no_configuration(hub: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(hub, Hub)
