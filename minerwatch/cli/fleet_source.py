"""A whole cluster as the source of a command: its options, and the agents' answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minerwatch.api.client import listens
from minerwatch.api.snapshot import decode_report
from minerwatch.api.types import ContainerStatus, NodeAnswer
from minerwatch.cli.local_source import Source
from minerwatch.cli.options import (
    config_option,
    configuration,
    parsed_by,
    rules_option,
    socket_option,
)
from minerwatch.config.schema import Config
from minerwatch.config.values import duration_s
from minerwatch.errors import ClusterError, OrderError, TargetError
from minerwatch.format import counted
from minerwatch.view.overview import Coverage, coverage_lines
from minerwatch.view.selection import filtered, found

if TYPE_CHECKING:
    from minerwatch.kube.fleet import AgentPod, Agents, Fleet

_SELECTOR = "app.kubernetes.io/name=minerwatch"
_TIMEOUT = "20s"
_AT_ONCE = 16
_MAX_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Scope:
    """A cluster, and the part of it to show."""

    namespace: str
    all_namespaces: bool
    context: str | None
    kubeconfig: Path | None
    agent_namespace: str
    agent_selector: str
    timeout_s: float
    at_once: int = _AT_ONCE

    @property
    def names_a_cluster(self) -> bool:
        """Return True if an option names a cluster."""
        return self.context is not None or self.kubeconfig is not None


_OPTIONS = (
    click.option("-n", "--namespace", default="", metavar="NS", help="Only pods of this one."),
    click.option(
        "-A", "--all-namespaces", is_flag=True, help="A cluster, and pods of all its namespaces."
    ),
    click.option("--context", metavar="NAME", help="The kubeconfig's context to ask."),
    click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="In place of $KUBECONFIG or ~/.kube/config.",
    ),
    click.option(
        "--agent-namespace",
        default="",
        metavar="NS",
        help="Where the agents' DaemonSet is; without it all namespaces are searched for it.",
    ),
    click.option(
        "--agent-selector",
        default=_SELECTOR,
        metavar="LABELS",
        show_default=True,
        help="How the agents' pods are labelled.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        default=_TIMEOUT,
        callback=parsed_by(duration_s),
        metavar="DURATION",
        show_default=True,
        help="How long to wait for each node.",
    ),
    click.option(
        "--at-once",
        type=click.IntRange(1, _MAX_AT_ONCE),
        default=_AT_ONCE,
        metavar="N",
        show_default=True,
        help="How many nodes to ask at the same time.",
    ),
)


def wants_cluster(
    scope: Scope, config: Config, *, local: bool, socket_path: Path | None, by_kubectl: bool = False
) -> bool:
    """Return True if the command is about the cluster, False if about this node.

    Options decide; without them it is this node where an agent runs on it, unless kubectl called,
    and the cluster where there is a kubeconfig. Raises UsageError if the options name both,
    ClusterError if they name a cluster that is not known.
    """
    if local or socket_path is not None:
        if scope.names_a_cluster:
            raise click.UsageError(
                "--context and --kubeconfig name a cluster, --local and --socket this node:"
                " give one of them"
            )
        return False
    if scope.names_a_cluster:
        return True
    has_agent = not by_kubectl and listens(config.socket_path)
    if scope.all_namespaces:
        _check_cluster_is_known()
        return True
    if scope.namespace:
        return _has_kubeconfig() or not has_agent
    return _has_kubeconfig() and not has_agent


def _check_cluster_is_known() -> None:
    from minerwatch.kube.client import is_in_cluster

    if not _has_kubeconfig() and not is_in_cluster():
        raise ClusterError(
            f"-A asks every agent of a cluster, but there is no kubeconfig at {_kubeconfigs()}:"
            " set KUBECONFIG, give --kubeconfig FILE, or leave -A out to read this node"
        )


def report_missing(coverage: Coverage | None) -> None:
    """Print the nodes of which nothing is known to standard error."""
    for line in coverage_lines(coverage) if coverage else ():
        click.echo(f"minerwatch: {line}", err=True)


class ClusterSource:
    """The agents of one cluster."""

    def __init__(self, scope: Scope) -> None:
        """Raises ClusterError: which kubeconfig or namespace, and what is wrong with it."""
        from minerwatch.kube.agent_port import AgentPorts
        from minerwatch.kube.client import from_kubeconfig, in_cluster, is_in_cluster
        from minerwatch.kube.fleet import Fleet, check_namespace

        self._scope = scope
        if is_in_cluster() and not scope.names_a_cluster and not _has_kubeconfig():
            self._cluster = in_cluster()
        else:
            self._cluster = from_kubeconfig(scope.kubeconfig, scope.context)
        if scope.namespace:
            check_namespace(self._cluster, scope.namespace)
        self._last_agents: Agents | None = None
        self._ports = AgentPorts(self._cluster)
        self._fleet: Fleet = Fleet(
            self._cluster,
            decode_report,
            timeout_s=scope.timeout_s,
            at_once=scope.at_once,
            ports=self._ports,
        )

    def survey(self) -> tuple[Sequence[ContainerStatus], Coverage]:
        """Return the agents' containers, and which agents did not answer. Raises ClusterError.

        Each container has its busiest processes: all of a cluster's are too many.
        """
        agents = self.agents()
        with _progress(len(agents.pods)) as advance:
            survey = self._fleet.survey(agents, on_answer=advance)
        coverage = Coverage(
            self._cluster.context,
            self._scope.namespace,
            len(survey.answered),
            survey.missing,
            survey.blind_spot,
            survey.agents,
        )
        return survey.statuses, coverage

    def found(
        self, target: str, *, unmasked: bool = False
    ) -> tuple[ContainerStatus, Sequence[ContainerStatus]]:
        """Return the container that ``target`` names, and all; name missing nodes on stderr.

        Raises ClusterError, and TargetError: where else it may be.
        """
        del unmasked  # ``whole`` reads the processes
        statuses, coverage = self.survey()
        report_missing(coverage)
        try:
            return found(filtered(statuses, namespace=self.namespace), target), statuses
        except TargetError as error:
            if not coverage.missing:
                raise
            nodes = counted(len(coverage.missing), "node")
            raise TargetError(f"{error}; {nodes} did not answer, where it may be") from error

    @property
    def context(self) -> str:
        """The name by which the kubeconfig knows the cluster."""
        return self._cluster.context

    @property
    def namespace(self) -> str:
        """The only namespace that is shown; "": all."""
        return self._scope.namespace

    def answers(self, agents: Agents) -> Iterator[NodeAnswer]:
        """Yield the result of querying each of ``agents``, as it comes."""
        return self._fleet.answers(agents)

    def whole(self, status: ContainerStatus, *, unmasked: bool = False) -> ContainerStatus:
        """Return the container with all its processes; ``status`` if its agent does not answer.

        Others may be asked meanwhile, from another thread. ``unmasked``: with the secrets that
        command lines hold.
        """
        from minerwatch.kube.fleet import FULL_SNAPSHOT, UNMASKED_SNAPSHOT, Agents, Fleet

        agents = self._last_agents or self.agents()
        pods = tuple(agent for agent in agents.pods if agent.node == status.node)
        fleet = Fleet(
            self._cluster, decode_report, timeout_s=self._scope.timeout_s, ports=self._ports
        )
        survey = fleet.survey(
            Agents(pods, (), ""), UNMASKED_SNAPSHOT if unmasked else FULL_SNAPSHOT
        )
        if unmasked and survey.missing:
            reason = survey.missing[0].reason
            click.echo(f"minerwatch: secrets stay masked, they take exec: {reason}", err=True)
        same = (s for s in survey.statuses if s.cgroup == status.cgroup)
        return next(same, status)

    def ordered(self, node: str, path: str, order: bytes) -> bytes:
        """Return the answer of ``node`` to an order. Raises OrderError, ClusterError."""
        agent = next((agent for agent in self.agents().pods if agent.node == node), None)
        if agent is None:
            raise OrderError(f"node {node}: it has no agent")
        return self._ordered(agent, path, order)

    def _ordered(self, agent: AgentPod, path: str, order: bytes) -> bytes:
        from minerwatch.api.client import ORDER_TIMEOUT_S, may_have_happened
        from minerwatch.kube.client import ApiError
        from minerwatch.kube.pod_exec import LostAnswerError, output

        node = agent.node
        if agent.trouble:
            raise OrderError(f"node {node}: {agent.trouble}")
        command = ("minerwatch", "order", path, order.decode())
        try:
            return output(self._cluster, agent.container, command, timeout_s=ORDER_TIMEOUT_S)
        except ApiError as error:
            words = str(error).removeprefix("minerwatch: ")
            doubt = may_have_happened(path) if isinstance(error, LostAnswerError) else ""
            raise OrderError(f"node {node}: {words}{doubt}") from error

    def ordered_everywhere(self, path: str, order: bytes) -> Iterator[tuple[str, bytes | str]]:
        """Yield each node with its agent's answer to an order, or the reason why there is none."""
        from concurrent.futures import ThreadPoolExecutor

        agents = self.agents().pods

        def answer(agent: AgentPod) -> bytes | str:
            try:
                return self._ordered(agent, path, order)
            except OrderError as error:
                return str(error)

        with ThreadPoolExecutor(self._scope.at_once) as threads:
            nodes = (agent.node for agent in agents)
            yield from zip(nodes, threads.map(answer, agents), strict=True)

    def close(self) -> None:
        """Closes the connections."""
        self._cluster.close()

    def agents(self) -> Agents:
        """Return the agents that run; raises ClusterError if none do, or that is not known."""
        from minerwatch.kube.fleet import find

        scope = self._scope
        agents = find(self._cluster, selector=scope.agent_selector, namespace=scope.agent_namespace)
        if not agents.pods:
            where = (
                f"namespace {scope.agent_namespace}" if scope.agent_namespace else "any namespace"
            )
            doubt = f" ({agents.blind_spot})" if agents.blind_spot else ""
            raise ClusterError(
                f"context {self._cluster.context}: no agent is labelled {scope.agent_selector} in"
                f" {where}{doubt}: install minerwatch, or say --agent-selector and"
                " --agent-namespace"
            )
        self._last_agents = agents
        return agents


AnySource = ClusterSource | Source


@dataclass(frozen=True, slots=True)
class Connect:
    """The options that say where to read."""

    scope: Scope
    socket_path: Path | None
    config_path: Path | None
    rule_folders: tuple[Path, ...] = ()
    local: bool = False

    def __call__(self) -> AnySource:
        """Return the cluster or the node that they name. Raises UsageError, ClusterError."""
        config = configuration(self.config_path, self.rule_folders)
        program = click.get_current_context().find_root().info_name or ""
        if wants_cluster(
            self.scope,
            config,
            local=self.local,
            socket_path=self.socket_path,
            by_kubectl=program.startswith("kubectl"),
        ):
            return ClusterSource(self.scope)
        return Source(self.socket_path, self.local, config, self.scope.namespace)


_local_option = click.option(
    "--local", is_flag=True, help="Sample this node, whether an agent runs or not."
)


def source_options(*, may_sample: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that say where to read, passed as ``connect``; with or without sampling."""
    of_scope = [field.name for field in fields(Scope)]
    of_connect = [field.name for field in fields(Connect)]
    before, after = ((_local_option,), (rules_option,)) if may_sample else ((), ())

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_source(**given: Any) -> Any:
            scope = Scope(**{name: given.pop(name) for name in of_scope})
            options = {name: given.pop(name) for name in of_connect if name in given}
            return command(connect=Connect(scope, **options), **given)

        for option in reversed((*_OPTIONS, *before, socket_option, config_option, *after)):
            with_source = option(with_source)
        return with_source

    return decorated


def _kubeconfigs() -> str:
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def _has_kubeconfig() -> bool:
    return any(Path(file).is_file() for file in _kubeconfigs().split(os.pathsep) if file)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], Any]]:
    """Show a bar on standard error until all is done, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"asking {counted(total, 'agent')}", total=total)
        yield lambda: progress.advance(task)
