from __future__ import annotations

import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import cast

import pytest

from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig
from minerwatch.kube.token_review import PERMITTED_S, REFUSED_S, TokenReviewer
from tests.kube.api_server import Answering, ApiServer, Dropping, encode, eventually
from tests.kube.conftest import write_kubeconfig

VIEWER = "system:serviceaccount:minerwatch:minerwatch-view"
SCRAPER = "system:serviceaccount:monitoring:prometheus"


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def reviewer(
    api: ApiServer, cluster: Cluster, clock: Clock, errors: list[Exception]
) -> TokenReviewer:
    api.users = {"good": SCRAPER, "idle": "system:serviceaccount:tenant:default"}
    api.permitted = {(SCRAPER, "get", "/metrics")}
    return TokenReviewer(cluster, errors.append, clock)


def reviews(api: ApiServer) -> list[str]:
    return [request.body["kind"] for request in api.requests]


def test_who_may_get_metrics_is_permitted_and_others_are_not(
    api: ApiServer, reviewer: TokenReviewer
) -> None:
    assert reviewer("good", "10.0.0.1") == HTTPStatus.OK
    assert reviewer("idle", "10.0.0.2") == HTTPStatus.FORBIDDEN
    assert reviewer("unknown", "10.0.0.3") == HTTPStatus.UNAUTHORIZED
    review, access = (request.body["spec"] for request in api.requests[:2])
    assert review == {"token": "good"}
    assert access["user"] == SCRAPER
    assert "system:serviceaccounts" in access["groups"]
    assert access["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}


def test_decisions_are_cached_for_a_while(
    api: ApiServer, reviewer: TokenReviewer, clock: Clock
) -> None:
    for _ in range(5):
        reviewer("good", "10.0.0.1")
        reviewer("unknown", "10.0.0.1")
    assert reviews(api) == ["TokenReview", "SubjectAccessReview", "TokenReview"]
    clock.now_s += REFUSED_S + 1
    reviewer("good", "10.0.0.1")
    reviewer("unknown", "10.0.0.1")
    assert len(reviews(api)) == 4
    api.permitted.clear()
    clock.now_s += PERMITTED_S
    assert reviewer("good", "10.0.0.1") == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize(
    "failure", [Answering(500), Answering(403), Answering(200, body=b"{"), Dropping()]
)
def test_without_an_answer_nothing_is_permitted_and_nothing_is_kept(
    api: ApiServer,
    reviewer: TokenReviewer,
    errors: list[Exception],
    failure: Answering | Dropping,
) -> None:
    api.misbehave(failure)
    assert reviewer("good", "10.0.0.1") == HTTPStatus.SERVICE_UNAVAILABLE
    assert isinstance(errors[0], ApiError)
    assert "good" not in str(errors[0])
    assert reviewer("good", "10.0.0.1") == HTTPStatus.OK


def test_a_permitted_token_is_refused_too_where_it_cannot_be_reviewed_again(
    api: ApiServer, reviewer: TokenReviewer, clock: Clock
) -> None:
    assert reviewer("good", "10.0.0.1") == HTTPStatus.OK
    clock.now_s += PERMITTED_S
    api.misbehave(Answering(503))
    assert reviewer("good", "10.0.0.1") == HTTPStatus.SERVICE_UNAVAILABLE


def test_unknown_tokens_of_one_address_keep_no_other_out(
    api: ApiServer, reviewer: TokenReviewer, clock: Clock
) -> None:
    assert reviewer("good", "10.0.0.9") == HTTPStatus.OK
    clock.now_s += PERMITTED_S
    before = len(api.requests)
    refused = [reviewer(f"random-{number}", "10.0.0.9") for number in range(1000)]
    assert refused.count(HTTPStatus.TOO_MANY_REQUESTS) == 998
    assert len(api.requests) - before == 2
    assert reviewer("good", "10.0.0.9") == HTTPStatus.OK  # it was permitted before
    assert reviewer("idle", "10.0.0.1") == HTTPStatus.FORBIDDEN


def test_refused_tokens_push_out_no_permitted_one(api: ApiServer, reviewer: TokenReviewer) -> None:
    assert reviewer("good", "10.0.0.1") == HTTPStatus.OK
    for number in range(600):
        reviewer(f"random-{number}", f"10.0.{number // 250}.{number % 250}")
    before = len(api.requests)
    assert reviewer("good", "10.0.0.1") == HTTPStatus.OK
    assert len(api.requests) == before


@pytest.fixture
def unreachable(tmp_path: Path) -> Iterator[Cluster]:
    cluster = from_kubeconfig(write_kubeconfig(tmp_path / "none", "http://127.0.0.1:1", "x"))
    yield cluster
    cluster.close()


def test_without_an_api_server_nothing_is_permitted(
    unreachable: Cluster, errors: list[Exception]
) -> None:
    reviewer = TokenReviewer(unreachable, errors.append)
    assert reviewer("good", "10.0.0.1") == HTTPStatus.SERVICE_UNAVAILABLE
    assert len(errors) == 1


class HangingCluster:
    """An API server that answers nothing until it is released."""

    server = "https://api.example.org"

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls = 0

    def call(self, *_request: object, **_options: object) -> bytes:
        self.calls += 1
        self.released.wait()
        return b'{"status": {}}'


def test_an_api_server_that_hangs_holds_few_threads(clock: Clock) -> None:
    hanging = HangingCluster()
    reviewer = TokenReviewer(cast("Cluster", hanging), lambda _error: None, clock)
    threads = [
        threading.Thread(target=reviewer, args=(f"token {number}", f"10.0.0.{number}"))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: hanging.calls == 8)
    assert reviewer("another", "10.0.1.1") == HTTPStatus.SERVICE_UNAVAILABLE
    assert hanging.calls == 8
    hanging.released.set()
    for thread in threads:
        thread.join()
    assert reviewer("another", "10.0.1.2") == HTTPStatus.UNAUTHORIZED


def test_unknown_tokens_of_all_addresses_have_a_limit_too(
    api: ApiServer, reviewer: TokenReviewer
) -> None:
    statuses = [reviewer(f"token {number}", f"10.0.0.{number}") for number in range(25)]
    assert statuses.count(HTTPStatus.UNAUTHORIZED) == 20
    assert statuses[20:] == [HTTPStatus.TOO_MANY_REQUESTS] * 5
    assert len(reviews(api)) == 20


AUDIENCE = "minerwatch.io/node/n1"


@pytest.fixture
def of_node(
    api: ApiServer, cluster: Cluster, clock: Clock, reviewer: TokenReviewer
) -> TokenReviewer:
    """For reports of one node."""
    api.users["viewer"] = VIEWER
    api.audiences["viewer"] = {AUDIENCE}
    api.permitted.add((VIEWER, "get", "/report"))
    return TokenReviewer(cluster, lambda _error: None, clock, path="/report", audience=AUDIENCE)


def test_a_token_for_reports_is_made_for_one_node_and_is_of_no_use_for_metrics(
    api: ApiServer, reviewer: TokenReviewer, of_node: TokenReviewer, clock: Clock
) -> None:
    assert of_node("viewer", "10.0.0.1") == HTTPStatus.OK
    assert api.requests[0].body["spec"] == {"token": "viewer", "audiences": [AUDIENCE]}
    assert reviewer("viewer", "10.0.0.1") == HTTPStatus.UNAUTHORIZED
    api.permitted.add((SCRAPER, "get", "/report"))
    assert of_node("good", "10.0.0.2") == HTTPStatus.UNAUTHORIZED  # for the API server
    api.audiences["viewer"] = {"minerwatch.io/node/n2"}
    assert of_node("viewer", "10.0.0.3") == HTTPStatus.OK  # from the cache
    clock.now_s += PERMITTED_S
    assert of_node("viewer", "10.0.0.3") == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("audiences", [None, [], ["https://kubernetes.default.svc"]])
def test_an_authenticator_that_knows_no_audiences_permits_no_reports(
    api: ApiServer, of_node: TokenReviewer, audiences: list[str] | None
) -> None:
    """It accepts every token, as the API's documentation has it, and names no audience."""
    status = {"authenticated": True, "user": {"username": VIEWER}, "audiences": audiences}
    api.misbehave(Answering(200, body=encode({"status": status})))
    assert of_node("viewer", "10.0.0.1") == HTTPStatus.UNAUTHORIZED
