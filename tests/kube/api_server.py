"""A small API server of the tests' own, spoken to over real HTTP by the real client.

It keeps objects of any resource: list (pages, field and label selectors), watch (from a version,
with bookmarks), get, create, update with resource version as precondition, merge and strategic
merge patches, delete with preconditions, eviction, dry runs, exec, TokenRequest, pods/proxy. And
it misbehaves where it is told to. As in "Kubernetes API Concepts" of the Kubernetes documentation,
but without types or defaults: an object is stored as it came, with ``metadata`` filled in. Events
are validated as Kubernetes does it, for nothing else here is written by minerwatch and refused
there. Of RBAC it knows non-resource URLs in reviews, of admission policies on changes of pods.

::

    with ApiServer() as server:
        server.put(pod_json("a", node="n1"))      # ADDED or MODIFIED
        server.misbehave(Answering(429, headers={"Retry-After": "1"}), times=2)
        server.requests                           # what was asked, in order
"""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from tests.kube import event_validation, exec_endpoint, pod_proxy
from tests.kube.exec_endpoint import Printing
from tests.kube.listener import Listener, QuietHandler
from tests.waiting import PATIENCE_S, until

Json = dict[str, Any]

CLUSTER_SCOPED = frozenset({"nodes", "namespaces"})

API_AUDIENCE = "https://kubernetes.default.svc"

_REVIEWS = frozenset({"tokenreviews", "subjectaccessreviews"})

_CHANGES = {"PUT": "UPDATE", "PATCH": "UPDATE", "DELETE": "DELETE"}

_Requirement = tuple[str, str, bool]  # what, its value, and whether that is wanted or not
_REQUIREMENT = re.compile(r"([^=!]+)(=|==|!=)([^=!]*)")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of the server."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    at_s: float  # monotonic
    command: tuple[str, ...] = ()  # of an exec

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def is_exec(self) -> bool:
        return self.path.endswith(("/exec", "/attach")) and "sec-websocket-key" in self.headers

    @property
    def is_proxied(self) -> bool:
        return self.method == "GET" and pod_proxy.PATH.fullmatch(self.path) is not None

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and not (self.is_watch or self.is_exec or self.is_proxied)


Matches = Callable[[Request], bool]


@dataclass(frozen=True, slots=True)
class Answering:
    """A misbehaviour: a refusal, or any other answer in place of the right one."""

    status: int
    message: str = "the test says so"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # None: a Status


@dataclass(frozen=True, slots=True)
class Dropping:
    """A misbehaviour: the connection is closed, before or in the middle of an answer."""

    after: bytes = b""


@dataclass(frozen=True, slots=True)
class Hanging:
    """A misbehaviour: no answer until the server is closed, or only after some time."""

    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Dripping:
    """A misbehaviour: the right answer, a few bytes at a time."""

    piece_bytes: int = 7
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LosingTheAnswer:
    """A misbehaviour: what was asked is done, but the connection is closed before the answer."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A misbehaviour of the proxy: it asks the server something else."""

    query: Mapping[str, str]


Misbehaviour = Answering | Dropping | Hanging | Dripping | LosingTheAnswer | Asking


class StatusError(Exception):
    """A refusal, as the API words it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def body(self) -> bytes:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        told = {"message": str(self), "reason": self.reason, "code": self.code}
        return encode({**status, **told})


class Stream:
    """One open watch: the server writes lines into it, and ends it as the test likes."""

    END, CUT = object(), object()

    def __init__(self, request: Request, collection: _Collection) -> None:
        self.request = request
        self.collection = collection
        self.lines: deque[Any] = deque()
        self.changed = threading.Condition()

    def send(self, *lines: Any) -> None:
        with self.changed:
            self.lines.extend(lines)
            self.changed.notify_all()

    def next(self, timeout_s: float) -> Any:
        """The next line; END, CUT; None if nothing came in time."""
        with self.changed:
            self.changed.wait_for(lambda: self.lines, timeout_s)
            return self.lines.popleft() if self.lines else None


@dataclass(frozen=True, slots=True)
class _Collection:
    """Which objects a path means: ``/api/v1/namespaces/x/pods`` and what is selected of them."""

    prefix: str  # /api/v1, /apis/coordination.k8s.io/v1
    resource: str
    namespace: str = ""  # "": all
    fields: tuple[_Requirement, ...] = ()
    labels: tuple[_Requirement, ...] = ()

    def holds(self, key: tuple[str, str], item: Json) -> bool:
        if key != (self.prefix, self.resource):
            return False
        metadata = item["metadata"]
        if self.namespace and metadata.get("namespace") != self.namespace:
            return False
        labels = metadata.get("labels") or {}
        return all(
            (_field(item, path) == value) is wanted for path, value, wanted in self.fields
        ) and all((labels.get(key) == value) is wanted for key, value, wanted in self.labels)


@dataclass(frozen=True, slots=True)
class _Change:
    version: int
    kind: str  # ADDED, MODIFIED, DELETED
    key: tuple[str, str]
    item: Json
    before: Json | None


class ApiServer:
    """Listens on 127.0.0.1 until it is closed; for many threads.

    ``tokens`` are those it accepts; None accepts everybody. ``requests`` is what was asked so far,
    ``most_at_once`` how many requests it was ever busy with at the same moment.
    """

    def __init__(self, certificate: Path | None = None, *, bookmark_s: float = 3600.0) -> None:
        self.tokens: set[str] | None = None
        self.users: dict[str, str] = {}  # by token, for TokenReviews
        self.audiences: dict[str, set[str]] = {}  # by token; without any it is for this server
        self.extras: dict[str, dict[str, list[str]]] = {}  # by token, of one bound to a pod
        self.permitted: set[tuple[str, str, str]] = set()  # user, verb, path without a resource
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.bookmark_s = bookmark_s
        self.exec_protocols = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
        self.clock_ahead_s = 0.0
        self.date: str | None = None  # sent in place of its clock's
        self.gone_as_event = True  # else as an HTTP status; API servers do either
        self._lock = threading.RLock()
        self._busy_with: set[int] = set()
        self._version = 1000
        self._oldest_version = 0
        self._items: dict[tuple[tuple[str, str], str, str], Json] = {}
        self._changes: list[_Change] = []
        self._streams: set[Stream] = set()
        self._pages: dict[str, tuple[list[Json], int]] = {}
        self._misbehaviours: list[tuple[Misbehaviour, Matches, int]] = []
        self._blocked: set[tuple[str, str, str]] = set()
        self._ports: dict[tuple[str, str], str] = {}
        self._commands: dict[tuple[str, str], dict[tuple[str, ...], Printing]] = {}
        self._closing = threading.Event()
        self.certificate = certificate
        self._listener: _Listener | None = None
        self._port = 0
        self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self._port}"

    @property
    def version(self) -> str:
        """The resource version of the last change."""
        return str(self._version)

    # what the test does

    def listen(self) -> None:
        """Listen, after ``vanish`` at the same port as before."""
        self._listener = _Listener(self._port, self, self.certificate)
        self._port = self._listener.server_address[1]

    def vanish(self) -> None:
        """Stop listening and cut all connections: what a client sees is "connection refused"."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        self.cut_streams()

    def close(self) -> None:
        self._closing.set()
        self.vanish()

    def put(self, item: Json, prefix: str = "/api/v1", resource: str = "pods") -> Json:
        """Store an object as if somebody else had, and tell those who watch."""
        with self._lock:
            key = ((prefix, resource), *_name(item))
            return self._store(key, copy.deepcopy(item))

    def remove(
        self, namespace: str, name: str, prefix: str = "/api/v1", resource: str = "pods"
    ) -> None:
        """Remove an object as if somebody else had, and tell those who watch."""
        with self._lock:
            self._remove(((prefix, resource), namespace, name))

    def items(self, resource: str, prefix: str = "/api/v1") -> list[Json]:
        """Every object of a resource, as it is stored."""
        with self._lock:
            found = [item for key, item in self._items.items() if key[0] == (prefix, resource)]
            return copy.deepcopy(found)

    def misbehave(
        self, how: Misbehaviour, *, times: int = 1, when: Matches = lambda _: True
    ) -> None:
        """Let the next ``times`` requests for which ``when`` holds go wrong."""
        with self._lock:
            self._misbehaviours.append((how, when, times))

    def behave(self) -> None:
        """Forget all misbehaviours."""
        with self._lock:
            self._misbehaviours.clear()

    def forget_history(self) -> None:
        """As after a compaction: a watch or page from before now is 410 Gone."""
        with self._lock:
            self._version += 1
            self._oldest_version = self._version
            self._pages.clear()

    def send_bookmarks(self) -> None:
        """Tell all who watch, and want it, which version they are at."""
        with self._lock:
            for stream in self._streams:
                if stream.request.query.get("allowWatchBookmarks") == "true":
                    stream.send(_bookmark(self._version))

    def send_raw(self, line: bytes) -> None:
        """Send all who watch these bytes."""
        with self._lock:
            for stream in self._streams:
                stream.send(line)

    def cut_streams(self, after: bytes = b"") -> None:
        """Close the connections of all who watch, in the middle of the answer."""
        with self._lock:
            for stream in self._streams:
                stream.send(*([after] if after else []), Stream.CUT)

    def end_streams(self) -> None:
        """End all watches in order, as when their time is over."""
        with self._lock:
            for stream in self._streams:
                stream.send(Stream.END)

    @property
    def stream_count(self) -> int:
        with self._lock:
            return len(self._streams)

    def block_eviction(self, namespace: str, name: str) -> None:
        """As a PodDisruptionBudget does: evicting that pod is 429."""
        with self._lock:
            self._blocked.add(("pods", namespace, name))

    def runs(self, namespace: str, name: str, what: Printing, *command: str) -> None:
        """What ``command``, or any other, prints when it is run in that pod."""
        with self._lock:
            self._commands.setdefault((namespace, name), {})[command] = what

    def serves(self, namespace: str, name: str, address: str) -> None:
        """Let pods/proxy lead from that pod to ``address``, which speaks TLS."""
        with self._lock:
            self._ports[(namespace, name)] = address

    # what requests come to

    def parsed(self, body: bytes) -> Any:
        """The object in the body of a request."""
        return json.loads(body)

    @contextmanager
    def busy(self, request: Request) -> Iterator[Misbehaviour | None]:
        with self._lock:
            self.requests.append(request)
            self._busy_with.add(id(request))
            self.most_at_once = max(self.most_at_once, len(self._busy_with))
            how = self._next_misbehaviour(request)
        try:
            yield how
        finally:
            self.is_done(request)

    def is_done(self, request: Request) -> None:
        """Its client may have gone on already when the server is still about to close."""
        with self._lock:
            self._busy_with.discard(id(request))

    def _next_misbehaviour(self, request: Request) -> Misbehaviour | None:
        for place, (how, when, times) in enumerate(self._misbehaviours):
            if when(request):
                self._misbehaviours[place] = (how, when, times - 1)
                if times <= 1:
                    del self._misbehaviours[place]
                return how
        return None

    def answer(self, request: Request) -> tuple[int, bytes]:
        """Status and body for anything but a watch; raises StatusError."""
        self._authorise(request)
        if request.path == "/version":
            return 200, encode({"major": "1", "minor": "37"})
        collection, name, subresource = _target(request)
        with self._lock:
            if collection.resource in _REVIEWS and request.method == "POST":
                return 201, encode({**request.body, "status": self._reviewed(request)})
            if not name:
                if request.method == "GET":
                    return 200, self._list(request, collection)
                if request.method == "POST":
                    return 201, self._create(request, collection)
                raise StatusError(405, "MethodNotAllowed", request.method)
            key = ((collection.prefix, collection.resource), collection.namespace, name)
            if key not in self._items:
                raise StatusError(404, "NotFound", f'{collection.resource} "{name}" not found')
            if subresource == "token":
                return 201, encode({**request.body, "status": self._new_token(request, key)})
            if subresource == "eviction":
                return 201, self._evict(request, key)
            if collection.resource == "pods" and request.method in _CHANGES:
                self._admit(request, self._items[key])
            handler = {
                "GET": lambda _request, key: self._items[key],
                "PUT": self._update,
                "PATCH": self._patch,
                "DELETE": self._delete,
            }[request.method]
            return 200, encode(handler(request, key))

    def proxied(self, request: Request) -> tuple[int, bytes]:
        """Status and body of what a pod's port answers; raises StatusError."""
        self._authorise(request)
        match = pod_proxy.PATH.fullmatch(request.path)
        assert match is not None
        with self._lock:
            address = self._ports.get((match["namespace"], match["pod"]))
        if address is None:
            raise StatusError(404, "NotFound", f'pods "{match["pod"]}" not found')
        try:
            return pod_proxy.fetched(address, match["path"], request.headers)
        except OSError as error:
            message = f"error trying to reach service: {error}"
            raise StatusError(503, "ServiceUnavailable", message) from error

    def printing(self, request: Request) -> Printing:
        """What the command of an exec prints; raises StatusError."""
        self._authorise(request)
        collection, name, _ = _target(request)
        with self._lock:
            known = self._commands.get((collection.namespace, name))
        if known is None:
            raise StatusError(404, "NotFound", f'pods "{name}" not found')
        return known[request.command if request.command in known else ()]

    def open_stream(self, request: Request) -> Stream:
        self._authorise(request)
        collection, _, _ = _target(request)
        stream = Stream(request, collection)
        since = request.query.get("resourceVersion", "")
        with self._lock:
            if since in {"", "0"}:
                current = (i for k, i in self._items.items() if collection.holds(k[0], i))
                stream.send(*(_event("ADDED", item) for item in current))
            elif int(since) < self._oldest_version:
                gone = StatusError(410, "Expired", f"too old resource version: {since}")
                if not self.gone_as_event:
                    raise gone
                stream.send(_event("ERROR", json.loads(gone.body())), Stream.END)
            else:
                past = (change for change in self._changes if change.version > int(since))
                stream.send(*(line for change in past if (line := _line(change, collection))))
            self._streams.add(stream)
        return stream

    def close_stream(self, stream: Stream) -> None:
        with self._lock:
            self._streams.discard(stream)

    def bookmark(self) -> bytes:
        with self._lock:
            return _bookmark(self._version)

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the server lives."""
        self._closing.wait(seconds)

    def _authorise(self, request: Request) -> None:
        if self.tokens is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token not in self.tokens:
            raise StatusError(401, "Unauthorized", "Unauthorized")

    def _reviewed(self, request: Request) -> Json:
        """The status of a TokenReview or a SubjectAccessReview."""
        spec = request.body["spec"]
        if request.body["kind"] == "TokenReview":
            user = self.users.get(spec["token"])
            meant = self.audiences.get(spec["token"], {API_AUDIENCE})
            audiences = sorted(meant.intersection(spec.get("audiences") or [API_AUDIENCE]))
            if user is None or not audiences:
                return {"user": {}, "error": "invalid bearer token"}
            groups = ["system:serviceaccounts", "system:authenticated"]
            found = {"username": user, "groups": groups}
            return {"authenticated": True, "user": found, "audiences": audiences}
        wanted = spec["nonResourceAttributes"]
        asked = spec["user"], wanted["verb"], wanted["path"]
        return {"allowed": asked in self.permitted or asked in set(self._granted())}

    def _granted(self) -> Iterator[tuple[str, str, str]]:
        """What ClusterRoleBindings grant to accounts: user, verb, path without a resource."""
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        roles = {item["metadata"]["name"]: item for item in self.items("clusterroles", rbac)}
        for binding in self.items("clusterrolebindings", rbac):
            for rule in roles.get(binding["roleRef"]["name"], {}).get("rules", ()):
                for each in binding["subjects"]:
                    user = f"system:serviceaccount:{each.get('namespace')}:{each['name']}"
                    for path in rule.get("nonResourceURLs", ()):
                        yield from ((user, verb, path) for verb in rule["verbs"])

    def _admit(self, request: Request, pod: Json) -> None:
        """Raise StatusError if a policy refuses a change of ``pod``."""
        prefix = "/apis/admissionregistration.k8s.io/v1"
        policies = self.items("validatingadmissionpolicies", prefix)
        if not policies:
            return
        from tests.deploy.admission import AdmissionRequest, Policy

        token = request.headers.get("authorization", "").rpartition(" ")[2]
        asked = AdmissionRequest(
            _CHANGES[request.method],
            "pods",
            self.users.get(token, "admin"),
            self.extras.get(token),
            merged(pod, request.body) if request.method == "PATCH" else None,
            pod,
        )
        for policy in policies:
            if message := Policy(policy["spec"]).refusal(asked):
                name = policy["metadata"]["name"]
                text = f"ValidatingAdmissionPolicy '{name}' denied request: {message}"
                raise StatusError(403, "Forbidden", text)

    def _new_token(self, request: Request, key: tuple[tuple[str, str], str, str]) -> Json:
        spec = request.body["spec"]
        if spec.get("expirationSeconds", 3600) < 600:
            raise StatusError(422, "Invalid", "may not specify a duration less than 10 minutes")
        token = uuid.uuid4().hex
        self.users[token] = f"system:serviceaccount:{key[1]}:{key[2]}"
        self.audiences[token] = set(spec.get("audiences") or [API_AUDIENCE])
        if bound := spec.get("boundObjectRef"):
            pod = self._items[(("/api/v1", "pods"), key[1], bound["name"])]
            node = pod["spec"]["nodeName"]
            self.extras[token] = {"authentication.kubernetes.io/node-name": [node]}
        return {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}

    def _list(self, request: Request, collection: _Collection) -> bytes:
        token = request.query.get("continue")
        if token is not None:
            if "resourceVersion" in request.query:
                raise StatusError(400, "BadRequest", "continue and resourceVersion")
            if token not in self._pages:
                raise StatusError(410, "Expired", "the provided continue parameter is too old")
            items, version = self._pages.pop(token)
        else:
            found = (i for k, i in self._items.items() if collection.holds(k[0], i))
            items, version = copy.deepcopy(list(found)), self._version
        limit = int(request.query.get("limit", "0")) or len(items)
        metadata = {"resourceVersion": str(version)}
        if len(items) > limit:
            metadata["continue"] = base64.b64encode(uuid.uuid4().bytes).decode()
            self._pages[metadata["continue"]] = (items[limit:], version)
        page = {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items[:limit]}
        return encode(page)

    def _create(self, request: Request, collection: _Collection) -> bytes:
        item = copy.deepcopy(request.body)
        metadata = item.setdefault("metadata", {})
        if collection.namespace:
            metadata.setdefault("namespace", collection.namespace)
        if "name" not in metadata:
            metadata["name"] = metadata.get("generateName", "") + uuid.uuid4().hex[:5]
        key = ((collection.prefix, collection.resource), *_name(item))
        if collection.resource == "events":
            _refuse(event_validation.on_create(item))
        if key in self._items:
            raise StatusError(409, "AlreadyExists", f'"{metadata["name"]}" already exists')
        _validate(item)
        return encode(item if _is_dry_run(request) else self._store(key, item))

    def _update(self, request: Request, key: tuple[tuple[str, str], str, str]) -> Json:
        item = copy.deepcopy(request.body)
        wanted = item.get("metadata", {}).get("resourceVersion")
        self._require("resourceVersion", wanted, key)
        _validate(item)
        return item if _is_dry_run(request) else self._store(key, item)

    def _patch(self, request: Request, key: tuple[tuple[str, str], str, str]) -> Json:
        for name in ("resourceVersion", "uid"):
            wanted = (request.body.get("metadata") or {}).get(name)
            self._require(name, wanted, key)
        item = merged(self._items[key], request.body)
        if key[0][1] == "events":
            _refuse(event_validation.on_update(item, self._items[key]))
        return item if _is_dry_run(request) else self._store(key, item)

    def _delete(self, request: Request, key: tuple[tuple[str, str], str, str]) -> Json:
        for name, wanted in ((request.body or {}).get("preconditions") or {}).items():
            self._require(name, wanted, key)
        if not _is_dry_run(request):
            self._remove(key)
            if key[0][1] == "namespaces":
                for held in [each for each in self._items if each[1] == key[2]]:
                    self._remove(held)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _evict(self, request: Request, key: tuple[tuple[str, str], str, str]) -> bytes:
        if (request.body.get("metadata") or {}).get("name", key[2]) != key[2]:
            raise StatusError(400, "BadRequest", "name in URL does not match name in Eviction")
        options = request.body.get("deleteOptions") or {}
        asked = [options["dryRun"]] if options.get("dryRun") else []
        if asked and _is_dry_run(request) and asked != [["All"]]:
            raise StatusError(400, "BadRequest", "Non-matching dry-run options")
        for name, wanted in (options.get("preconditions") or {}).items():
            self._require(name, wanted, key)
        if ("pods", *key[1:]) in self._blocked:
            text = "Cannot evict pod as it would violate the pod's disruption budget."
            raise StatusError(429, "TooManyRequests", text)
        if not _is_dry_run(request) and options.get("dryRun") != ["All"]:
            self._remove(key)
        return encode({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _require(
        self, name: str, wanted: str | None, key: tuple[tuple[str, str], str, str]
    ) -> None:
        if wanted is not None and self._items[key]["metadata"][name] != wanted:
            raise StatusError(409, "Conflict", f"the {name} in the precondition does not match")

    def _store(self, key: tuple[tuple[str, str], str, str], item: Json) -> Json:
        before = self._items.get(key)
        self._version += 1
        metadata = item.setdefault("metadata", {})
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault("uid", before["metadata"]["uid"] if before else str(uuid.uuid4()))
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        metadata.setdefault("creationTimestamp", now)
        self._items[key] = item
        kind = "MODIFIED" if before else "ADDED"
        self._publish(_Change(self._version, kind, key[0], item, before))
        return copy.deepcopy(item)

    def _remove(self, key: tuple[tuple[str, str], str, str]) -> None:
        before = self._items.pop(key)
        self._version += 1
        item = copy.deepcopy(before)
        item["metadata"]["resourceVersion"] = str(self._version)
        self._publish(_Change(self._version, "DELETED", key[0], item, before))

    def _publish(self, change: _Change) -> None:
        self._changes.append(change)
        for stream in self._streams:
            line = _line(change, stream.collection)
            if line:
                stream.send(line)


class _Listener(Listener):
    def __init__(self, port: int, api: ApiServer, certificate: Path | None) -> None:
        self.api = api
        super().__init__(port, _Handler, certificate)


class _Handler(QuietHandler):
    server: _Listener

    def handle_request(self) -> None:
        request = self._read_request()
        with self.server.api.busy(request) as how:
            try:
                self._answer(request, how)
            except StatusError as refused:
                self._send(refused.code, refused.body())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def date_time_string(self, timestamp: float | None = None) -> str:
        api, now_s = self.server.api, time.time() if timestamp is None else timestamp
        return api.date or super().date_time_string(now_s + api.clock_ahead_s)

    def _read_request(self) -> Request:
        url = urlsplit(self.path)
        sent = self._read_body()
        body = self.server.api.parsed(sent) if sent else None
        query = parse_qsl(url.query, keep_blank_values=True)
        return Request(
            self.command,
            url.path,
            dict(query),
            {key.lower(): value for key, value in self.headers.items()},
            body,
            time.monotonic(),
            tuple(value for key, value in query if key == "command"),
        )

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, request: Request, how: Misbehaviour | None) -> None:
        if isinstance(how, Hanging):
            self.server.api.wait(how.seconds)
        if isinstance(how, Answering):
            body = StatusError(how.status, "Test", how.message).body()
            self._send(how.status, body if how.body is None else how.body, how.headers)
        elif isinstance(how, Dropping):
            self.wfile.write(how.after)
            self.close_connection = True
        elif request.is_watch:
            self._stream(self.server.api.open_stream(request), how)
        elif request.is_exec:
            self._exec(request)
        elif request.is_proxied:
            status, body = self.server.api.proxied(request)
            self._send(status, body, {"Content-Type": "application/octet-stream"})
        else:
            status, body = self.server.api.answer(request)
            if isinstance(how, LosingTheAnswer):
                self.close_connection = True
                return
            self._send(status, body, drip=how if isinstance(how, Dripping) else None)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        drip: Dripping | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._write(body, drip)

    def _write(self, content: bytes, drip: Dripping | None) -> None:
        if drip is None:
            self.wfile.write(content)
            return
        for at in range(0, len(content), drip.piece_bytes):
            self.wfile.write(content[at : at + drip.piece_bytes])
            self.wfile.flush()
            self.server.api.wait(drip.pause_s)

    def _exec(self, request: Request) -> None:
        printing = self.server.api.printing(request)
        self.close_connection = True
        known = self.server.api.exec_protocols
        self.wfile.write(exec_endpoint.accept(request.headers, known))
        api = self.server.api
        exec_endpoint.write(self.wfile, printing, api.wait, lambda: api.is_done(request))
        with suppress(OSError):  # closed with something unread, it would be reset
            self.connection.settimeout(20)
            self.rfile.read()

    def _stream(self, stream: Stream, how: Misbehaviour | None) -> None:
        drip = how if isinstance(how, Dripping) else None
        api = self.server.api
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        try:
            for line in self._lines(stream, api):
                self._write(b"%x\r\n%b\r\n" % (len(line), line), drip)
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionAbortedError:
            self.close_connection = True
        finally:
            api.close_stream(stream)

    def _lines(self, stream: Stream, api: ApiServer) -> Iterator[bytes]:
        until_s = time.monotonic() + float(stream.request.query.get("timeoutSeconds", "3600"))
        wants_bookmarks = stream.request.query.get("allowWatchBookmarks") == "true"
        while (left_s := until_s - time.monotonic()) > 0:
            line = stream.next(min(left_s, api.bookmark_s))
            if line is Stream.CUT:
                raise ConnectionAbortedError
            if line is Stream.END:
                return
            if line is not None:
                yield line
            elif wants_bookmarks:
                yield api.bookmark()


def encode(value: Any) -> bytes:
    """JSON as an API server writes it: one line, with its end."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def merged(item: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396); a strategic one is the same where no list is touched."""
    if not isinstance(patch, dict):
        return patch
    found = dict(item) if isinstance(item, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def pod_json(
    name: str,
    *,
    node: str = "n1",
    namespace: str = "default",
    containers: Mapping[str, str] | None = None,
    **metadata: Any,
) -> Json:
    """A pod that runs on ``node``; ``containers`` are names and bare ids."""
    containers = {"main": f"{name}-id"} if containers is None else containers
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {
            "nodeName": node,
            "containers": [{"name": key, "image": f"{key}:1"} for key in containers],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": key, "containerID": f"containerd://{value}"}
                for key, value in containers.items()
                if value
            ],
        },
    }


def as_agent(pod: Json, *, uid: str = "agents-uid", name: str = "minerwatch") -> Json:
    """The pod, as if the DaemonSet that is called ``name`` had made it in order to watch a node."""
    reference = {
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": uid, "controller": True,
    }  # fmt: skip
    metadata = {**pod["metadata"], "ownerReferences": [reference]}
    return {**pod, "metadata": metadata, "spec": {**pod["spec"], "hostPID": True}}


def put_daemon_set(
    api: ApiServer,
    namespace: str = "minerwatch",
    *,
    uid: str = "agents-uid",
    name: str = "minerwatch",
) -> None:
    """The DaemonSet that agents belong to."""
    metadata = {"name": name, "namespace": namespace, "uid": uid}
    item = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata}
    api.put(item, "/apis/apps/v1", "daemonsets")


_PATH = re.compile(
    r"(?P<prefix>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[a-z]+))?"
)


def _target(request: Request) -> tuple[_Collection, str, str]:
    match = _PATH.fullmatch(request.path)
    if match is None:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    found = {key: value or "" for key, value in match.groupdict().items()}
    collection = _Collection(
        found["prefix"],
        found["resource"],
        found["namespace"],
        _requirements(request.query.get("fieldSelector", "")),
        _requirements(request.query.get("labelSelector", "")),
    )
    return collection, found["name"], found["subresource"]


def _requirements(selector: str) -> tuple[_Requirement, ...]:
    matches = (_REQUIREMENT.fullmatch(part) for part in selector.split(",") if part)
    return tuple((match[1], match[3], match[2] != "!=") for match in matches if match)


def _field(item: Json, path: str) -> str:
    found: Any = item
    for step in path.split("."):
        found = (found or {}).get(step)
    return "" if found is None else str(found)


def _name(item: Json) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _refuse(errors: list[str]) -> None:
    if errors:
        raise StatusError(422, "Invalid", "; ".join(errors))


def _is_dry_run(request: Request) -> bool:
    """As servers have it: a DELETE with a body has its options there and nowhere else."""
    body = request.body if isinstance(request.body, dict) else {}
    if request.method == "DELETE" and body:
        return bool(body.get("dryRun") == ["All"])
    return request.query.get("dryRun") == "All"


_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


def _validate(item: Json) -> None:
    """What Kubernetes asks of a Lease (pkg/apis/coordination/validation, MicroTime)."""
    if item.get("kind") != "Lease":
        return
    spec = item.get("spec") or {}
    for name in ("acquireTime", "renewTime"):
        if name in spec and not _MICRO_TIME.fullmatch(str(spec[name])):
            raise StatusError(400, "BadRequest", f"parsing time {spec[name]!r}")
    if not spec.get("leaseDurationSeconds", 1) > 0 or not spec.get("leaseTransitions", 0) >= 0:
        raise StatusError(422, "Invalid", "spec: must be greater than 0")
    if spec.get("preferredHolder") and not spec.get("strategy"):
        raise StatusError(422, "Invalid", "preferredHolder: may only be specified with a strategy")
    annotations = item["metadata"].get("annotations") or {}
    if sum(len(key) + len(value) for key, value in annotations.items()) > 256 << 10:
        raise StatusError(422, "Invalid", "metadata.annotations: Too long")


def _event(kind: str, item: Json) -> bytes:
    return encode({"type": kind, "object": item})


def _bookmark(version: int) -> bytes:
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    return _event("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": metadata})


def _line(change: _Change, collection: _Collection) -> bytes | None:
    """What a watch of ``collection`` is told: an object that it no longer selects is deleted."""
    is_held = change.kind != "DELETED" and collection.holds(change.key, change.item)
    was_held = change.before is not None and collection.holds(change.key, change.before)
    if is_held:
        return _event("MODIFIED" if was_held else "ADDED", change.item)
    return _event("DELETED", change.item) if was_held else None


def eventually(holds: Callable[[], Any], what: str = "", timeout_s: float = PATIENCE_S) -> None:
    """Wait until ``holds`` does; fails, saying ``what``, if it never does."""
    until(holds, what or "it did not come about", every_s=0.01, limit_s=timeout_s)
