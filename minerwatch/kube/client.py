"""Connections to an API server: configuration, credentials, requests, errors.

The official client reads the configuration (service account, kubeconfig, exec plugins, proxies)
and holds the connections. Requests go through its connection pool directly and answers are read
as bytes: its typed methods cost 20 MiB of imports, change from release to release, and turn a
10 KB pod into an object tree of ten times that size.

The client is imported when a cluster is opened: that takes 0.1 s and 15 MiB. Some of its parts
are never loaded.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Literal, NoReturn, TypedDict, TypeVar, Unpack
from urllib.parse import urlencode

import msgspec
import urllib3
import yaml
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as NoAnswerInTime

from minerwatch import __version__
from minerwatch.errors import NOT_JSON, ClusterError
from minerwatch.kube.objects import Status
from minerwatch.kube.tls_verification import verify_as_kubectl

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

_DEFERRED = {f"kubernetes.{part}" for part in ("dynamic", "informer", "leaderelection", "watch")}


class _LazyFinder(MetaPathFinder):
    """Defers unused imports of the client's own (importlib, "Implementing lazy imports")."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _LazyFinder())

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
USER_AGENT = f"minerwatch/{__version__}"

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
METADATA_ONLY = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
"""To be accepted where only names are asked for: a node is 30 KB, its metadata three."""

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0  # for the head of an answer, and between two pieces of it
ANSWER_DEADLINE_S = 120.0  # for an answer that is read as a whole
MAX_ANSWER_BYTES = 64 << 20
_MAX_REFUSAL_BYTES = 64 << 10
_MAX_REASON_CHARS = 300
_PIECE_BYTES = 64 << 10

Reason = Literal[
    "unauthorized",  # 401, or credentials that cannot be had
    "forbidden",  # 403
    "missing",  # 404
    "conflict",  # 409
    "gone",  # 410
    "throttled",  # 429
    "server",  # any other refusal
    "connection",
    "timeout",
    "garbage",  # an answer that does not follow the API
]
_Kind = TypeVar("_Kind")
_REASONS: Mapping[int, Reason] = {
    401: "unauthorized",
    403: "forbidden",
    404: "missing",
    409: "conflict",
    410: "gone",
    429: "throttled",
}

# Without these a server that vanished is noticed after a quarter of an hour (tcp(7)).
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class ApiError(ClusterError):
    """A request that was not answered, or refused."""

    def __init__(
        self,
        reason: Reason,
        text: str,
        *,
        status: int = 0,
        retry_after_s: float | None = None,
        date_unix_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.date_unix_s = date_unix_s  # when the server answered, by its own clock
        self.status = status  # of HTTP; 0: there was no answer
        self.retry_after_s = retry_after_s  # what the server asks for

    @property
    def is_transient(self) -> bool:
        """Return True if the same request may succeed later."""
        passing = {"unauthorized", "throttled", "connection", "timeout"}
        return self.reason in passing or self.status >= 500


class Response:
    """An answer whose head has arrived and whose body is still to be read, by one thread."""

    def __init__(self, response: urllib3.BaseHTTPResponse, server: str) -> None:
        self._response = response
        self._server = server

    @property
    def date_unix_s(self) -> float | None:
        """Return the server's clock at the answer, in whole seconds, or None if it sent none."""
        return _date_unix_s(self._response)

    def piece(self) -> bytes:
        """Return the next piece of the body; ``b""`` at the end. Raises ApiError."""
        try:
            return self._response.read1(_PIECE_BYTES)
        except (HTTPError, OSError, ValueError) as error:
            _raise_lost(error, self._server)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body in pieces; raises ApiError, also when the time is up."""
        until_s = time.monotonic() + ANSWER_DEADLINE_S
        while piece := self.piece():
            yield piece
            if time.monotonic() > until_s:
                self._drop("timeout", f"not complete after {ANSWER_DEADLINE_S:.0f} s")

    def body(self, limit_bytes: int = MAX_ANSWER_BYTES) -> bytes:
        """Return the body; raises ApiError, also if it is too large, or when the time is up."""
        held = bytearray()
        for piece in self.pieces():
            held += piece
            if len(held) > limit_bytes:
                self._drop("garbage", f"longer than {limit_bytes >> 20} MiB")
        return bytes(held)

    def _drop(self, reason: Reason, what: str) -> NoReturn:
        self.close()
        raise ApiError(reason, f"{self._server}: the answer is {what}")

    def wait_for_pieces(self, timeout_s: float) -> None:
        """Allow that much time between two pieces from now on."""
        connection = getattr(self._response, "connection", None)
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(timeout_s)

    def interrupt(self) -> None:
        """End a read that another thread is in: it sees the connection as lost."""
        with suppress(ValueError, RuntimeError, OSError):  # it has ended by itself
            self._response.shutdown()

    def close(self) -> None:
        """Drop the connection, unless all was read: then it is used again."""
        self._response.close()


class _Options(TypedDict, total=False):
    body: bytes | None
    content_type: str
    accept: str
    timeout_s: float
    headers: Mapping[str, str]


class Cluster:
    """One API server, as one user; for many threads. ``context`` is its name for people."""

    def __init__(self, open_client: Callable[[], ApiClient], context: str, namespace: str) -> None:
        self.context = context
        self.namespace = namespace
        self._open_client = open_client
        self.client = open_client()
        """The official client, for what needs it: ``exec`` by ``kubernetes.stream``."""

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self.client.configuration.host)

    def renew_credentials(self) -> None:
        """Read the configuration again after a 401; if that fails, the next request fails, too."""
        with suppress(ClusterError):
            self.client = self._open_client()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.client.rest_client.pool_manager.clear()

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_s: float = ANSWER_TIMEOUT_S,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Response:
        """Send a request once; return once the answer's head is there. Raises ApiError."""
        client = self.client
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        headers = {**headers, "Accept": accept, "User-Agent": USER_AGENT}
        if body is not None:
            headers["Content-Type"] = content_type
        headers |= credentials(client.configuration)
        try:
            response = client.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=body,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
            )
        except (HTTPError, OSError, ValueError) as error:
            _raise_lost(error, self.server)
        if not 200 <= response.status < 300:
            raise_refused(response, f"{self.server}: {method} {path}")
        return Response(response, self.server)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        **options: Unpack[_Options],
    ) -> bytes:
        """Send a request, once, and return the answer's whole body; raises ApiError."""
        return self.open(method, path, query, **options).body()


def refusal(
    code: int, text: str, retry_after_s: float | None = None, date_unix_s: float | None = None
) -> ApiError:
    """Return the error for an HTTP status, also one that comes as an event of a watch."""
    return ApiError(
        _REASONS.get(code, "server"),
        text,
        status=code,
        retry_after_s=retry_after_s,
        date_unix_s=date_unix_s,
    )


def reason_of(error: Exception) -> str:
    """Return the word that a failure is counted by; ``unexpected`` is a fault of minerwatch's."""
    return error.reason if isinstance(error, ApiError) else "unexpected"


def decoded(json: bytes | msgspec.Raw, kind: type[_Kind], what: str) -> _Kind:
    """Parse an answer; raises ApiError, with ``what`` it should be, if it is something else."""
    try:
        return msgspec.json.decode(json, type=kind)
    except NOT_JSON as error:
        text = f"invalid answer of the API server: not {what}: {one_line(error)}"
        raise ApiError("garbage", text) from error


def one_line(error: object) -> str:
    """Return a message of the server or the client as one printable line."""
    text = " ".join(str(error).split())[:_MAX_REASON_CHARS] or type(error).__name__
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def is_in_cluster(
    folder: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] = os.environ
) -> bool:
    """Return True if a service account is mounted: the program runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in environment and (folder / "token").is_file()


def in_cluster(
    folder: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] = os.environ
) -> Cluster:
    """Return this pod's cluster; tokens are read for each request. Raises ClusterError."""
    namespace = _first_line(folder / "namespace")
    return Cluster(lambda: _in_cluster_client(folder, environment), "in-cluster", namespace)


def from_kubeconfig(path: str | Path | None = None, context: str | None = None) -> Cluster:
    """Return the cluster of ``context``, or of the current context, in a kubeconfig.

    ``path`` may be several files, joined by colons. Without it ``KUBECONFIG`` is used, or
    ~/.kube/config. Raises ClusterError with the file and what is wrong with it.
    """
    files = str(path or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())
    name, namespace = kubeconfig_context(files, context)
    return Cluster(lambda: _kubeconfig_client(files, name), name, namespace)


def _in_cluster_client(folder: Path, environment: Mapping[str, str]) -> ApiClient:
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.incluster_config import InClusterConfigLoader

    token = folder / "token"
    configuration = Configuration()
    loader = InClusterConfigLoader(
        token_filename=str(token),
        cert_filename=str(folder / "ca.crt"),
        try_refresh_token=False,
        environ=environment,
    )
    try:
        loader.load_and_set(configuration)
    except (ConfigException, OSError, ValueError) as error:
        raise ClusterError(f"service account in {folder}: {one_line(error)}") from error

    def read_token(configuration: Configuration) -> None:
        content = _first_line(token)
        if content:  # else the last one may still do
            value = f"Bearer {content}"
            # the client calls it one thing before 36 and another from then on
            configuration.api_key.update(authorization=value, BearerToken=value)

    read_token(configuration)
    configuration.refresh_api_key_hook = read_token
    return _prepared(ApiClient(configuration))


def _kubeconfig_client(files: str, context: str) -> ApiClient:
    from kubernetes.config import new_client_from_config
    from kubernetes.config.config_exception import ConfigException

    try:
        return _prepared(new_client_from_config(files, context, persist_config=False))
    except (ConfigException, HTTPError, *_MALFORMED) as error:
        raise ClusterError(f"{files}: context {context!r}: {one_line(error)}") from error


def kubeconfig_context(files: str, wanted: str | None) -> tuple[str, str]:
    """Return name and namespace of a context, by default the current one; raises ClusterError."""
    from kubernetes.config import list_kube_config_contexts
    from kubernetes.config.config_exception import ConfigException

    if not any(Path(file).expanduser().is_file() for file in files.split(os.pathsep)):
        raise ClusterError(f"{files}: there is no such file: name a kubeconfig, or set KUBECONFIG")
    try:
        contexts, current = list_kube_config_contexts(files)
        namespaces = {
            context["name"]: (context.get("context") or {}).get("namespace") or "default"
            for context in contexts
        }
        name = wanted or current["name"]
    except (ConfigException, *_MALFORMED) as error:
        raise ClusterError(f"{files}: not a kubeconfig: {one_line(error)}") from error
    if name not in namespaces:
        known = ", ".join(map(str, namespaces)) or "none"
        raise ClusterError(f"{files}: there is no context {name!r}: it has {known}")
    return name, str(namespaces[name])


_MALFORMED = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError),
    yaml.YAMLError,
)
"""What the client raises for a kubeconfig of another shape."""


def _prepared(client: ApiClient) -> ApiClient:
    """Return the client; its connections are kept alive and verify certificates as kubectl does."""
    manager = client.rest_client.pool_manager
    manager.connection_pool_kw["socket_options"] = _SOCKET_OPTIONS
    verify_as_kubectl(manager)
    return client


def credentials(configuration: Configuration) -> dict[str, str]:
    """Return the headers that authenticate; a plugin may have to run first."""
    from kubernetes.config.config_exception import ConfigException

    try:
        settings = configuration.auth_settings()
    except (ConfigException, *_MALFORMED) as error:
        raise ApiError("unauthorized", f"credentials: {one_line(error)}") from error
    found = (setting for setting in settings.values() if setting["in"] == "header")
    return {str(setting["key"]): str(setting["value"]).strip() for setting in found}


def _raise_lost(error: Exception, server: str) -> NoReturn:
    # urllib3 counts a refused connection as a timeout, too
    is_late = isinstance(error, NoAnswerInTime) and not isinstance(error, NewConnectionError)
    reason: Reason = "timeout" if is_late else "connection"
    raise ApiError(reason, f"{server}: {one_line(error)}") from error


def raise_refused(response: urllib3.BaseHTTPResponse, request: str) -> NoReturn:
    """Raise the ApiError for an answer that is no success."""
    body = b""
    with suppress(HTTPError, OSError, ValueError):
        body = response.read1(_MAX_REFUSAL_BYTES)
    response.close()
    message = ""
    with suppress(*NOT_JSON):
        message = msgspec.json.decode(body, type=Status).message or ""
    raise refusal(
        response.status,
        f"{request}: {response.status} {one_line(message or response.reason or '')}",
        _seconds(response.headers.get("Retry-After")),
        _date_unix_s(response),
    )


def _date_unix_s(response: urllib3.BaseHTTPResponse) -> float | None:
    text = response.headers.get("Date")
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _seconds(text: str | None) -> float | None:
    """Parse a Retry-After of whole seconds. The API server sends no dates."""
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""
