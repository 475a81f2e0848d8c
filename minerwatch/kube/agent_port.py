"""Reports read on the ports of agents, through the API server's proxy of pods.

The API server authorizes ``get`` on pods/proxy and removes the client's own credentials. So each
request has a token for the agent: of the account ``DAEMONSET-view``, which may read reports and
nothing else, for ten minutes, for one node's agent only. The API server's audit log has the request
and the token's, with the user's name.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from minerwatch.api.port import TOKEN_HEADER, audience
from minerwatch.kube.client import ApiError, Cluster, decoded
from minerwatch.kube.objects import TokenRequest

_TOKEN_S = 600  # the shortest that Kubernetes makes
_REUSED_S = 300.0
_FIRST_TRY_S = 3.0  # in some clusters the API server's packets to nodes are dropped
_TOKEN_API = "authentication.k8s.io/v1"  # noqa: S105 - a version of the API


@dataclass(frozen=True, slots=True)
class AgentPort:
    """A port on which an agent serves reports, and the account that may read them."""

    node: str
    namespace: str
    pod: str
    account: str
    number: int


class AgentPorts:
    """Reads reports of one cluster's agents; for many threads.

    Gives up once the API server refuses a token, or once an agent answers by exec while none has
    answered on its port. What an agent refuses counts for it alone: its node may be hostile.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, float]] = {}  # by node, with the time they were made
        self._has_answered = False
        self._given_up: ApiError | None = None

    def read(self, agent: AgentPort, path: str, timeout_s: float) -> bytes:
        """Return an agent's report; raises ApiError, quickly where no port ever answered."""
        if (known := self._given_up) is not None:
            raise ApiError(known.reason, str(known), status=known.status)
        if not self._has_answered:
            timeout_s = min(timeout_s, _FIRST_TRY_S)
        headers = {TOKEN_HEADER: self._token(agent)}
        namespace, name = quote(agent.namespace, safe=""), quote(agent.pod, safe="")
        proxy = f"/api/v1/namespaces/{namespace}/pods/https:{name}:{agent.number}/proxy{path}"
        try:
            answer = self._cluster.call("GET", proxy, headers=headers, timeout_s=timeout_s)
        except ApiError as error:
            if error.reason == "unauthorized":
                with self._lock:
                    self._tokens.pop(agent.node, None)
            raise _short(error, proxy) from error
        self._has_answered = True
        return answer

    def handle_exec_answer(self, error: ApiError) -> None:
        """Stop trying ports, unless one has ever answered: exec works where one gave ``error``."""
        if not self._has_answered:
            self._given_up = error

    def _token(self, agent: AgentPort) -> str:
        with self._lock:
            token, made_s = self._tokens.get(agent.node, ("", 0.0))
        if token and time.monotonic() - made_s < _REUSED_S:
            return token
        spec = {"audiences": [audience(agent.node)], "expirationSeconds": _TOKEN_S}
        asked = {"apiVersion": _TOKEN_API, "kind": "TokenRequest", "spec": spec}
        accounts = f"/api/v1/namespaces/{quote(agent.namespace, safe='')}/serviceaccounts"
        path = f"{accounts}/{quote(agent.account, safe='')}/token"
        try:
            answer = self._cluster.call("POST", path, body=msgspec.json.encode(asked))
        except ApiError as error:
            refused = _short(error, path)
            if error.reason in {"forbidden", "missing"}:
                self._given_up = refused
            raise refused from error
        token = decoded(answer, TokenRequest, "a TokenRequest").status.token
        with self._lock:
            self._tokens[agent.node] = token, time.monotonic()
        return token


def _short(error: ApiError, path: str) -> ApiError:
    """Return the error without the request's path."""
    return ApiError(error.reason, str(error).rpartition(f"{path}: ")[2], status=error.status)
