"""Authorization of clients by Kubernetes: TokenReview, then SubjectAccessReview.

A token is accepted if its user may ``get`` a non-resource URL, such as /metrics, and if it was made
for the audience that is asked for. Decisions are cached by the token's hash. A client address may
have few unknown tokens reviewed a second, so that no client makes the agent flood the API server.
Without an answer of the API server nothing is permitted.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from minerwatch.kube.client import ApiError, Cluster, decoded

METRICS_PATH = "/metrics"
PERMITTED_S = 120.0  # as long as the kubelet caches a token that it has had reviewed
REFUSED_S = 30.0
_MAX_DECISIONS = 512
_MAX_REVIEWS_PER_S = 2  # of unknown tokens from one address
_MAX_REVIEWS_PER_S_IN_ALL = 20  # of unknown tokens
_MAX_AT_ONCE = 8
"""Reviews of unknown tokens in progress, and as many of known ones: each holds a thread of the
server while the API server does not answer."""
_KNOWN_S = 3600.0  # a token that was permitted within it is reviewed again without a limit
_TIMEOUT_S = 3.0
_AUTHENTICATION = "authentication.k8s.io/v1"
_AUTHORIZATION = "authorization.k8s.io/v1"


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _Status(msgspec.Struct):
    authenticated: bool = False  # of a TokenReview, with the user
    user: _User | None = None
    audiences: list[str] | None = None  # of those that were asked for
    allowed: bool = False  # of a SubjectAccessReview
    denied: bool = False


class _Review(msgspec.Struct):
    status: _Status


@dataclass(frozen=True, slots=True)
class _Decision:
    status: HTTPStatus
    made_s: float

    def is_fresh(self, now_s: float) -> bool:
        """Return True while no new review is needed."""
        limit_s = PERMITTED_S if self.status == HTTPStatus.OK else REFUSED_S
        return now_s - self.made_s < limit_s

    def is_known(self, now_s: float) -> bool:
        """Return True for a token that was lately permitted."""
        return self.status == HTTPStatus.OK and now_s - self.made_s < _KNOWN_S


class TokenReviewer:
    """Decides by tokens about GET of one path; for many threads."""

    def __init__(
        self,
        cluster: Cluster,
        on_error: Callable[[Exception], None],
        now_s: Callable[[], float] = time.monotonic,
        *,
        path: str = METRICS_PATH,
        audience: str | None = None,
    ) -> None:
        """``on_error`` gets the errors of the API server.

        Without ``audience`` tokens for the API server are accepted, with it only those for it.
        """
        self._cluster = cluster
        self._on_error = on_error
        self._now_s = now_s
        self._path = path
        self._audience = audience
        self._lock = threading.Lock()
        self._permitted: OrderedDict[bytes, _Decision] = OrderedDict()
        self._refused: OrderedDict[bytes, _Decision] = OrderedDict()
        self._second = 0
        self._reviews: Counter[str] = Counter()  # in this second, by client address
        self._slots = {known: threading.Semaphore(_MAX_AT_ONCE) for known in (False, True)}

    def __call__(self, token: str, address: str) -> HTTPStatus:
        """Return OK, UNAUTHORIZED, FORBIDDEN, TOO_MANY_REQUESTS or SERVICE_UNAVAILABLE."""
        key = hashlib.sha256(token.encode()).digest()
        now_s = self._now_s()
        with self._lock:
            decision = self._permitted.get(key) or self._refused.get(key)
            if decision is not None and decision.is_fresh(now_s):
                return decision.status
            is_known = decision is not None and decision.is_known(now_s)
            if not is_known and not self._may_review(address, now_s):
                return HTTPStatus.TOO_MANY_REQUESTS
        slots = self._slots[is_known]
        if not slots.acquire(blocking=False):
            return HTTPStatus.SERVICE_UNAVAILABLE
        try:
            status = self._review(token)
        except ApiError as error:
            self._on_error(error)
            return HTTPStatus.SERVICE_UNAVAILABLE
        finally:
            slots.release()
        with self._lock:
            self._remember(key, _Decision(status, now_s))
        return status

    def _may_review(self, address: str, now_s: float) -> bool:
        if int(now_s) != self._second:
            self._second, self._reviews = int(now_s), Counter()
        self._reviews[address] += 1
        if self._reviews[address] > _MAX_REVIEWS_PER_S:
            return False
        self._reviews[""] += 1  # in all
        return self._reviews[""] <= _MAX_REVIEWS_PER_S_IN_ALL

    def _remember(self, key: bytes, decision: _Decision) -> None:
        """Keep a decision; refused tokens never push out permitted ones."""
        self._permitted.pop(key, None)
        self._refused.pop(key, None)
        kept = self._permitted if decision.status == HTTPStatus.OK else self._refused
        kept[key] = decision
        if len(kept) > _MAX_DECISIONS:
            kept.popitem(last=False)

    def _review(self, token: str) -> HTTPStatus:
        asked: dict[str, Any] = {"token": token}
        if self._audience is not None:
            asked["audiences"] = [self._audience]
        status = self._created(_AUTHENTICATION, "TokenReview", asked)
        if not status.authenticated or status.user is None:
            return HTTPStatus.UNAUTHORIZED
        # Authenticators that know no audiences accept a token and return none.
        if self._audience is not None and self._audience not in (status.audiences or ()):
            return HTTPStatus.UNAUTHORIZED
        user = status.user
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "nonResourceAttributes": {"path": self._path, "verb": "get"},
        }
        access = self._created(_AUTHORIZATION, "SubjectAccessReview", spec)
        is_allowed = access.allowed and not access.denied
        return HTTPStatus.OK if is_allowed else HTTPStatus.FORBIDDEN

    def _created(self, version: str, kind: str, spec: dict[str, Any]) -> _Status:
        body = msgspec.json.encode({"apiVersion": version, "kind": kind, "spec": spec})
        path = f"/apis/{version}/{kind.lower()}s"
        content = self._cluster.call("POST", path, body=body, timeout_s=_TIMEOUT_S)
        return decoded(content, _Review, f"a {kind}").status
