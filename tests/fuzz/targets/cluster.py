"""What an API server says, and what it passes on of what its users wrote."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from websocket import ABNF

from minerwatch.api.port import REPORT_PATH, audience
from minerwatch.api.snapshot import decode_report
from minerwatch.config.schema import Culling
from minerwatch.culling.actions import Actions, ApiRequest
from minerwatch.culling.lease_budget import BudgetPace, LeaseBudget
from minerwatch.culling.lease_codec import decoded_lease, lease_state
from minerwatch.culling.records import ActionRecord, Moment
from minerwatch.format import rfc3339
from minerwatch.kube import client, fleet, pod_exec, pods
from minerwatch.kube.agent_port import AgentPort, AgentPorts
from minerwatch.kube.client import ApiError, Cluster, Response
from minerwatch.kube.cluster_view import identity_facts, identity_of
from minerwatch.kube.controllers import controls
from minerwatch.kube.list_stream import ListError, ListReader
from minerwatch.kube.owners import PROFILES, owner_chain, pod_fields, sources
from minerwatch.kube.pod_cache import PodCache
from minerwatch.kube.pod_parsing import (
    MAX_CONTAINERS,
    MAX_OWNERS,
    MAX_VALUE_CHARS,
    PodParser,
    quantity,
)
from minerwatch.kube.token_review import TokenReviewer
from minerwatch.model import Action, Container, ContainerKind, Outcome, OwnerReference, Pod
from tests.fuzz.contract import is_finite, is_one_line, is_told, is_unicode
from tests.fuzz.registry import SEPARATOR, parts, target

_SOURCES = [source for profile in PROFILES for source in sources(profile)]
_KEEP = pod_fields(_SOURCES)
_DATE = "Mon, 23 Nov 2026 10:00:00 GMT"


class _Response:
    """As much of urllib3's answer as is used."""

    def __init__(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self._left = data
        self.headers = headers
        self.status = status
        self.reason = "Because"
        self.connection = None

    def read1(self, most: int) -> bytes:
        piece, self._left = self._left[: min(most, 1000)], self._left[min(most, 1000) :]
        return piece

    def close(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


class _Api:
    """A cluster that answers every request with the same bytes."""

    server = "https://api.example.org"
    context = "lab"

    def __init__(self, data: bytes, date: str = _DATE) -> None:
        self._data = data
        self._date = date
        self.sent: list[bytes] = []

    def open(self, *_args: object, **_kwargs: object) -> Response:
        return Response(cast("Any", _Response(self._data, {"Date": self._date})), self.server)

    def call(self, *_args: object, body: bytes | None = None, **_kwargs: object) -> bytes:
        if body is not None:
            self.sent.append(body)
        return self._data

    def renew_credentials(self) -> None:
        pass


def _api(data: bytes, date: str = _DATE) -> Cluster:
    return cast("Cluster", _Api(data, date))


@target("kube.pod_parsing", "kube.owners", "kube.cluster_view", "kube.pod_cache", cost=2)
def pod(data: bytes) -> None:
    """A pod as JSON; names, labels, annotations, times and quantities are its author's."""
    found = PodParser(_KEEP).pod(data)
    if found is None:
        return
    _is_bounded(found)
    cache = PodCache(lambda: 0.0)
    cache.put(found)
    for each in found.containers:
        place = Container("/a", 1, ContainerKind.POD, each.container_id, "", found.uid)
        for profile in PROFILES:
            whose = identity_of(place, cache, sources(profile))
            identity_facts(whose)
    assert len(owner_chain(found)) <= 2
    cache.remove(found.uid)


def _is_bounded(found: Pod) -> None:
    assert found.uid
    assert found.name
    assert found.namespace
    is_finite(found.created_unix_s)
    rfc3339(found.created_unix_s)
    assert len(found.containers) <= MAX_CONTAINERS
    assert len(found.owners) <= MAX_OWNERS
    mappings = (found.labels, found.annotations, found.environment)
    for text in (
        found.name,
        *(value for each in mappings for pair in each.items() for value in pair),
    ):
        is_unicode(text)
        assert len(text) <= MAX_VALUE_CHARS
    for container in found.containers:
        if container.gpus is not None:
            is_finite(container.gpus)


@target("kube.pod_parsing")
def cpu_quantity(data: bytes) -> None:
    """A Kubernetes quantity."""
    found = quantity(data.decode("utf-8", "replace"))
    if found is not None:
        is_finite(found)


def _items(pieces: Iterator[bytes]) -> list[bytes] | str:
    reader = ListReader(pieces)
    try:
        return [*reader.items(), reader.metadata]
    except ListError as error:
        is_told(error)
        return "no list"


@target("kube.list_stream", max_bytes=16384)
def pod_list(data: bytes) -> None:
    """A list, item by item: the same however it is cut into pieces."""
    whole = _items(iter([data]))
    for size in (1, 7) if len(data) < 4096 else (1000,):
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        assert _items(iter(cut)) == whole


@target("kube.pods", cost=2)
def pod_watch(data: bytes) -> None:
    """Lines of a watch, and a list; a broken one ends it in order."""
    watch = pods.PodWatch(
        _api(data), "node-1", keep=_KEEP, on_error=lambda _reason, _error: None,
        rng=random.Random(1),
    )  # fmt: skip
    for step in (watch.follow, watch.list_all):
        try:
            step()
        except ApiError as error:
            is_told(error)
            is_one_line(str(error))
    for each in watch.cache.pods():
        _is_bounded(each)


@target("kube.token_review")
def token_review(data: bytes) -> None:
    """Answers of both reviews: nothing but a permission opens the metrics."""
    errors: list[Exception] = []
    status = TokenReviewer(_api(data), errors.append)("token", "192.0.2.1")
    if status == HTTPStatus.OK:
        answered = _status_of(data)
        assert answered["authenticated"] is True
        assert answered["allowed"] is True
    of_node = TokenReviewer(_api(data), errors.append, path=REPORT_PATH, audience=audience("n"))
    if of_node("token", "192.0.2.1") == HTTPStatus.OK:
        assert audience("n") in _status_of(data)["audiences"]
    for error in errors:
        is_told(cast("ApiError", error))
        is_one_line(str(error))


def _status_of(review: bytes) -> Any:
    """Of an answer whose other fields, which the agent skips, may be no UTF-8."""
    return msgspec.json.decode(review.decode("utf-8", "replace"))["status"]


@target("culling.lease_codec", cost=2)
def lease(data: bytes) -> None:
    """The Lease that holds the budget: whatever it says, a place is taken or it is not."""
    body, date = parts(data, 2)
    api = _Api(body, date.decode("latin-1") if date else _DATE)
    held = LeaseBudget(
        cast("Cluster", api), "minerwatch", Culling,
        pace=BudgetPace(tries=2, give_up_s=0.0, first_delay_s=0.0),
    )  # fmt: skip
    record = _record()
    held.refresh()
    held.flag({"rule": ["owner"]})
    assert all(count >= 0 for count in held.flagged(["rule", "other"]).values())
    for dry_run in (False, True):
        left = held.left(dry_run=dry_run)
        assert left is None or 0 <= left <= Culling().budget.per_cluster
    assert isinstance(held.reserve(record, Moment(1.8e9, 5e5, "boot")), bool)
    held.give_back(record)
    for sent in api.sent:
        lease_state(decoded_lease(sent), 1.8e9, 0.0)


@target("kube.controllers")
def controller(data: bytes) -> None:
    """A controller and a pod that refers to it: it is the pod's, or not."""
    found, pod = parts(data, 2)
    owner = OwnerReference("DaemonSet", "exporter", "ds-uid", is_controller=True)
    try:
        is_real = controls(found, pod, "uid-1", owner, "exporter-x-id")
    except ApiError as error:
        is_told(error)
        is_one_line(str(error))
        return
    assert isinstance(is_real, bool)


def _record() -> ActionRecord:
    return ActionRecord(
        "id", 1.8e9, 5e5, "boot", "node-1", "hub", "jupyter-ada", "uid", "ada", Action.EVICT, 0,
        dry_run=False, outcome=Outcome.PENDING,
    )  # fmt: skip


@target("kube.agent_port")
def agent_port(data: bytes) -> None:
    """A token, and what the API server's proxy brings back: the report, or a reason."""
    port = AgentPort("n", "minerwatch", "a", "minerwatch-view", 9797)
    try:
        assert AgentPorts(_api(data)).read(port, REPORT_PATH, 1.0) == data
    except ApiError as error:
        is_told(error)
        is_one_line(str(error))


@target("kube.fleet", "kube.client", cost=2)
def agent_pods(data: bytes) -> None:
    """Lists of pods and nodes, among which agents are looked for: anybody may label a pod so."""
    try:
        agents = fleet.find(_api(data))
    except ApiError as error:
        is_told(error)
        is_one_line(str(error))
        return
    for agent in agents.pods:
        assert agent.node
        is_one_line(agent.trouble)
    asking = fleet.Fleet(_api(data), decode_report)
    for answer in asking.answers(fleet.Agents((), agents.bare_nodes, agents.blind_spot)):
        assert answer.report is None


class _Socket:
    """A WebSocket on which some messages come, each led by its kind."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages

    def settimeout(self, _seconds: float) -> None:
        pass

    def recv_data_frame(self, control_frame: bool) -> tuple[int, Any]:
        if not self._messages:
            return ABNF.OPCODE_CLOSE, SimpleNamespace(data=b"")
        message = self._messages.pop(0)
        kind = ABNF.OPCODE_PING if message[:1] == b"p" else ABNF.OPCODE_BINARY
        return kind, SimpleNamespace(data=message)


@target("kube.pod_exec")
def exec_output(data: bytes) -> None:
    """Messages of an exec: output, complaints, a status; and a refusal before them."""
    messages = data.split(SEPARATOR)
    try:
        printed = pod_exec.PrintedOutput(1000).read(cast("Any", _Socket(messages)), float("inf"))
        assert len(printed) <= 1000
    except ApiError as error:
        is_told(error)
    refused = pod_exec.refused(SimpleNamespace(status_code=403, resp_body=data))
    is_told(refused)
    is_one_line(str(refused))


@target("kube.client")
def refusal(data: bytes) -> None:
    """A refusal: its body, its date, and how long it asks to wait."""
    body, date, retry_after = parts(data, 3)
    headers = {"Date": date.decode("latin-1"), "Retry-After": retry_after.decode("latin-1")}
    for status in (401, 429, 500, 999):
        with pytest.raises(ApiError) as raised:
            client.raise_refused(cast("Any", _Response(body, headers, status)), "GET /")
        refused = raised.value
        is_told(refused)
        is_one_line(str(refused))
        if refused.retry_after_s is not None:
            is_finite(refused.retry_after_s)
            assert refused.retry_after_s >= 0
        if refused.date_unix_s is not None:
            is_finite(refused.date_unix_s)


@target("culling.actions")
def action_answer(data: bytes) -> None:
    """What is answered to an action, and the pod as it is seen before one."""
    actions = Actions(_api(data), _KEEP)
    with suppress(ApiError):
        seen = actions.fetch("hub", "jupyter-ada")
        if seen is not None:
            _is_bounded(seen.pod)
            assert isinstance(seen.resource_version, str)
    try:
        actions.send(ApiRequest("DELETE", "/x", {}, {}))
    except ApiError as error:
        is_told(error)
        is_one_line(str(error))
