"""All agents of a cluster, queried at once from a laptop.

An agent is read on its port (``agent_port``), else by ``exec`` into its pod; the cluster's own
authorisation decides. It takes ``list`` on pods, ``get`` on the agents' DaemonSet, ``list`` on
nodes to find nodes without an agent; for the port ``get`` on pods/proxy and ``create`` on
serviceaccounts/token of the account ``DAEMONSET-view``; for exec ``get`` on pods/exec and since
Kubernetes 1.35 ``create`` as well (a WebSocket is opened by a GET).

Every user that can create pods can label them as agents. So an agent is a pod that sees the node
and refers to an existing DaemonSet by its uid, and all agents are in one namespace.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from difflib import get_close_matches
from threading import Thread
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import structs

from minerwatch.api.port import FULL_REPORT_PATH, REPORT_PATH
from minerwatch.api.types import AgentStatus, ContainerStatus, NodeAnswer, NodeReport, Unanswered
from minerwatch.errors import ClusterError
from minerwatch.kube import objects
from minerwatch.kube.agent_port import AgentPort, AgentPorts
from minerwatch.kube.client import JSON, METADATA_ONLY, ApiError, Cluster, decoded, one_line
from minerwatch.kube.pod_exec import Container, output

DEFAULT_SELECTOR = "app.kubernetes.io/name=minerwatch"
DEFAULT_TIMEOUT_S = 20.0
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Query:
    """A question to an agent."""

    command: tuple[str, ...]  # in its pod, which prints the answer of the agent's socket
    path: str | None  # on its port; None: never on its port


SNAPSHOT: Final = Query(("minerwatch", "snapshot", "--with-status"), REPORT_PATH)
FULL_SNAPSHOT: Final = Query(("minerwatch", "snapshot", "--full"), FULL_REPORT_PATH)
UNMASKED_SNAPSHOT: Final = Query(("minerwatch", "snapshot", "--unmasked"), None)

_PORT_NAME = "metrics"
_GPU_LABEL, _GPU_SUFFIX = "minerwatch.io/gpu", "-gpu"  # of the chart's second DaemonSet
_VIEW = "view"  # account of the chart, after the DaemonSet's name
_CONTAINER_NAMES = ("minerwatch", "agent")
_PAGE_ITEMS = 500
_MAX_PAGES = 200
_MAX_NAMED = 8
_MAX_DAEMON_SETS = 16
_RUNNING = "Running"


@dataclass(frozen=True, slots=True, order=True)
class DaemonSet:
    """The DaemonSet that a pod names as its controller."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class AgentPod:
    """A pod in which an agent runs, or should."""

    node: str
    container: Container
    trouble: str = ""  # why it cannot be queried
    sees_node: bool = False  # it has the host's processes, without which no agent is of use
    made_by: DaemonSet | None = None
    port: AgentPort | None = None

    @property
    def pod(self) -> str:
        """``namespace/pod``, as people write it."""
        return f"{self.container.namespace}/{self.container.pod}"


@dataclass(frozen=True, slots=True)
class Agents:
    """The agents that there are, and the nodes that have none."""

    pods: tuple[AgentPod, ...]
    bare_nodes: tuple[str, ...]
    blind_spot: str  # what is not known, or not sure; "": nothing


@dataclass(frozen=True, slots=True)
class Survey:
    """The answers of the agents, and the nodes without one."""

    statuses: tuple[ContainerStatus, ...]
    answered: tuple[str, ...]  # nodes
    missing: tuple[Unanswered, ...]
    blind_spot: str = ""
    agents: tuple[AgentStatus, ...] = ()


def find(cluster: Cluster, *, selector: str = DEFAULT_SELECTOR, namespace: str = "") -> Agents:
    """Return the agents' pods in ``namespace`` ("": search all), and the nodes without one.

    Raises ApiError if pods cannot be listed, ClusterError if agents seem to be in several
    namespaces. If nodes cannot be listed, or pods were left out, ``blind_spot`` has the reason.
    """
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    try:
        listed = [*_items(cluster, path, {"labelSelector": selector})]
    except ApiError as error:
        if error.reason != "forbidden" or namespace:
            raise
        hint = "if you may list pods in the agents' namespace only, use --agent-namespace"
        raise ApiError(error.reason, f"{error}: {hint}", status=error.status) from error
    items = [decoded(item, objects.Pod, "a pod") for item in listed]
    found = [_agent_pod(item) for item in items if item.spec.node_name and _is_meant(item)]
    made, doubt = _made_by_daemon_sets(cluster, found)
    pods = _one_a_node(made)
    doubts = [doubt]
    try:
        described = _items(cluster, "/api/v1/nodes", accept=METADATA_ONLY)
        nodes = [decoded(item, objects.Head, "a node").metadata.name for item in described]
    except ApiError as error:
        nodes = []
        doubts.append(f"only nodes with an agent are known: {error}")
    have = {agent.node for agent in pods}
    bare = tuple(sorted(node for node in nodes if node not in have))
    return Agents(pods, bare, "; ".join(doubt for doubt in doubts if doubt))


def check_namespace(cluster: Cluster, namespace: str) -> None:
    """Raise ClusterError if the cluster has no such namespace; without the right to ask, pass."""
    try:
        cluster.call("GET", f"/api/v1/namespaces/{quote(namespace, safe='')}")
    except ApiError as error:
        if error.reason != "missing":
            return
        raise ClusterError(
            f"context {cluster.context}: there is no namespace {namespace!r}"
            f"{_nearest_namespace(cluster, namespace)}"
        ) from error


def _nearest_namespace(cluster: Cluster, namespace: str) -> str:
    try:
        described = _items(cluster, "/api/v1/namespaces", accept=METADATA_ONLY)
        names = [decoded(item, objects.Head, "a namespace").metadata.name for item in described]
    except ApiError:
        return ""
    close = get_close_matches(namespace, names, n=1)
    return f"; did you mean {close[0]}?" if close else f": it has {', '.join(names[:_MAX_NAMED])}"


def _made_by_daemon_sets(cluster: Cluster, found: Sequence[AgentPod]) -> tuple[list[AgentPod], str]:
    """Return the agents among ``found``, and in words what was left out."""
    claimed = sorted({agent.made_by for agent in found if agent.made_by and agent.sees_node})
    if len(claimed) > _MAX_DAEMON_SETS:
        raise ClusterError(
            f"pods labelled as agents belong to {len(claimed)} DaemonSets: use --agent-namespace"
        )
    refused: list[str] = []
    real = {each for each in claimed if _is_there(cluster, each, refused)}
    namespaces = sorted({each.namespace for each in real})
    if len(namespaces) > 1:
        raise ClusterError(
            f"agents are in {len(namespaces)} namespaces"
            f" ({', '.join(namespaces[:_MAX_NAMED])}): use --agent-namespace"
        )
    agents = [agent for agent in found if agent.sees_node and agent.made_by in real]
    others = sorted({agent.pod for agent in found} - {agent.pod for agent in agents})
    if not others:
        return agents, ""
    more = f" and {len(others) - _MAX_NAMED} more" if len(others) > _MAX_NAMED else ""
    why = f" ({refused[0]})" if refused else ""
    return agents, (
        f"labelled as agents, but not made by a DaemonSet whose pods see the node, so not queried:"
        f" {', '.join(others[:_MAX_NAMED])}{more}{why}"
    )


def _is_there(cluster: Cluster, claimed: DaemonSet, refused: list[str]) -> bool:
    """Return True if that DaemonSet exists; a refusal by the API is added to ``refused``."""
    namespace, name = quote(claimed.namespace, safe=""), quote(claimed.name, safe="")
    path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
    try:
        body = cluster.call("GET", path)
    except ApiError as error:
        if error.reason == "forbidden":
            refused.append(str(error))
        elif error.reason != "missing":
            raise
        return False
    return decoded(body, objects.Head, "a DaemonSet").metadata.uid == claimed.uid


class Fleet:
    """Asks agents, many at once. For one thread."""

    def __init__(
        self,
        cluster: Cluster,
        decode: Callable[[bytes], NodeReport],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        at_once: int = AT_ONCE,
        ports: AgentPorts | None = None,
    ) -> None:
        """``decode`` parses the answer to SNAPSHOT, or raises a MinerwatchError."""
        self._cluster = cluster
        self._decode = decode
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._ports = ports or AgentPorts(cluster)
        self._asked: dict[str, Future[NodeReport]] = {}  # by pod; some may have been given up

    def survey(
        self, agents: Agents, query: Query = SNAPSHOT, on_answer: Callable[[], None] = lambda: None
    ) -> Survey:
        """Query all agents; ``on_answer`` is called for each. Late answers are dropped."""
        reports: dict[str, NodeReport] = {}
        missing = []
        for answer in self.answers(agents, query):
            if answer.report is not None:
                reports[answer.node] = answer.report
            else:
                missing.append(Unanswered(answer.node, answer.pod, answer.reason))
            if answer.pod:
                on_answer()
        answered = tuple(sorted(reports))
        return Survey(
            tuple(status for node in answered for status in reports[node].statuses),
            answered,
            tuple(sorted(missing, key=lambda each: (each.node, each.pod))),
            agents.blind_spot,
            tuple(agent for node in answered if (agent := reports[node].agent) is not None),
        )

    def answers(self, agents: Agents, query: Query = SNAPSHOT) -> Iterator[NodeAnswer]:
        """Yield the result of each of ``agents`` as it comes; nodes without an agent come first."""
        for node in agents.bare_nodes:
            yield NodeAnswer(node, "", None, "no agent runs on it")
        self._asked = {pod: answer for pod, answer in self._asked.items() if not answer.done()}
        waiting = deque(agents.pods)
        asked: dict[Future[NodeReport], tuple[AgentPod, float]] = {}  # and the end of its time
        while waiting or asked:
            while waiting and len(asked) < self._at_once:
                agent = waiting.popleft()
                if agent.trouble:
                    yield _missing(agent, agent.trouble)
                elif agent.pod in self._asked:
                    yield _missing(agent, "the last query has not been answered yet")
                else:
                    asked[self._ask(agent, query)] = agent, time.monotonic() + self._timeout_s
            first_s = min((end_s for _, end_s in asked.values()), default=0.0)
            wait(asked, max(0.0, first_s - time.monotonic()), FIRST_COMPLETED)
            now_s = time.monotonic()
            for answer, (agent, end_s) in [*asked.items()]:
                if answer.done() or end_s <= now_s:
                    del asked[answer]
                    yield self._answer_of(agent, answer)

    def _answer_of(self, agent: AgentPod, answer: Future[NodeReport]) -> NodeAnswer:
        if not answer.done():
            return _missing(agent, f"no answer within {self._timeout_s:g} s")
        error = answer.exception()
        if error is not None:
            return _missing(agent, one_line(error))
        return NodeAnswer(agent.node, agent.pod, _of_node(answer.result(), agent.node))

    def _ask(self, agent: AgentPod, query: Query) -> Future[NodeReport]:
        """Query an agent in a thread of its own, which no exit waits for."""
        self._asked[agent.pod] = answer = Future[NodeReport]()

        def ask() -> None:
            try:
                answer.set_result(self._decode(self._read(agent, query)))
            except Exception as error:  # noqa: BLE001 - it is why this node is missing
                answer.set_exception(error)

        Thread(target=ask, name=f"ask {agent.pod}", daemon=True).start()
        return answer

    def _read(self, agent: AgentPod, query: Query) -> bytes:
        """Return the answer on its port, else by exec; raises ApiError with both reasons."""
        port = agent.port
        if query.path is None or port is None:
            return self._printed(agent, query)
        try:
            return self._ports.read(port, query.path, self._timeout_s / 2)
        except ApiError as error:
            by_port = error
        try:
            printed = self._printed(agent, query)
        except ApiError as error:
            text = f"port {port.number}: {by_port}; exec: {error}"
            raise ApiError(error.reason, text, status=error.status) from error
        self._ports.handle_exec_answer(by_port)
        return printed

    def _printed(self, agent: AgentPod, query: Query) -> bytes:
        return output(self._cluster, agent.container, query.command, timeout_s=self._timeout_s)


def _missing(agent: AgentPod, reason: str) -> NodeAnswer:
    return NodeAnswer(agent.node, agent.pod, None, reason)


def _of_node(report: NodeReport, node: str) -> NodeReport:
    agent = structs.replace(report.agent, node=node) if report.agent is not None else None
    statuses = (
        each if each.node == node else structs.replace(each, node=node) for each in report.statuses
    )
    return NodeReport(tuple(statuses), agent)


def _items(
    cluster: Cluster, path: str, selected: dict[str, str] | None = None, accept: str = JSON
) -> Iterator[msgspec.Raw]:
    query: dict[str, str | int] = {"limit": _PAGE_ITEMS, **(selected or {})}
    for _ in range(_MAX_PAGES):
        answer = cluster.call("GET", path, query, accept=accept)
        page = decoded(answer, objects.ListPage, f"a list of {path}")
        yield from page.items or ()
        if not page.metadata.continue_:
            return
        query["continue"] = page.metadata.continue_
    raise ApiError("garbage", f"{path}: a list of more than {_MAX_PAGES} pages")


def _is_meant(pod: objects.Pod) -> bool:
    """Return True if the pod should be running: one that has ended has a successor."""
    is_over = pod.status is not None and pod.status.phase in {"Succeeded", "Failed"}
    return not is_over and not pod.metadata.deletion_timestamp


def _agent_pod(pod: objects.Pod) -> AgentPod:
    names = [container.name for container in pod.spec.containers or ()]
    name = next((known for known in _CONTAINER_NAMES if known in names), (names or [""])[0])
    maker = _maker(pod.metadata)
    return AgentPod(
        pod.spec.node_name or "",
        Container(pod.metadata.namespace, pod.metadata.name, name),
        _trouble(pod.status or objects.PodStatus(), name),
        bool(pod.spec.host_pid),
        maker,
        _port(pod, name, f"{_release(pod, maker)}-{_VIEW}") if maker else None,
    )


def _release(pod: objects.Pod, maker: DaemonSet) -> str:
    """Return the name of the chart's objects: its DaemonSet for GPU nodes has a longer one."""
    is_gpu = (pod.metadata.labels or {}).get(_GPU_LABEL) == "true"
    return maker.name.removesuffix(_GPU_SUFFIX) if is_gpu else maker.name


def _port(pod: objects.Pod, container: str, account: str) -> AgentPort | None:
    spec, metadata = pod.spec, pod.metadata
    lists = (each.ports or () for each in spec.containers or () if each.name == container)
    numbers = (port.container_port for ports in lists for port in ports if port.name == _PORT_NAME)
    number = next(numbers, 0)
    if not number:
        return None
    return AgentPort(spec.node_name or "", metadata.namespace, metadata.name, account, number)


def _maker(metadata: objects.Metadata) -> DaemonSet | None:
    for owner in metadata.owner_references or ():
        if (owner.kind, owner.api_version, owner.controller) == ("DaemonSet", "apps/v1", True):
            return DaemonSet(metadata.namespace, owner.name, owner.uid)
    return None


def _trouble(status: objects.PodStatus, container: str) -> str:
    states = (each.state for each in status.container_statuses or () if each.name == container)
    waiting = next((state["waiting"] for state in states if state and state.get("waiting")), None)
    if waiting is None and status.phase == _RUNNING:
        return ""
    why = status.phase or "unknown" if waiting is None else waiting.reason or ""
    return f"its agent does not run: {one_line(why)}"


def _one_a_node(agents: Sequence[AgentPod]) -> tuple[AgentPod, ...]:
    """Return one agent a node, in the nodes' order: that which runs, while a DaemonSet rolls."""
    found: dict[str, AgentPod] = {}
    for agent in agents:
        known = found.get(agent.node)
        if known is None or (known.trouble and not agent.trouble):
            found[agent.node] = agent
    return tuple(found[node] for node in sorted(found))
