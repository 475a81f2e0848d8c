"""A node as the source of a command: its agent, or a sample taken by the command."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from msgspec import structs

from minerwatch.api.client import NoAgentError, answer, ordered
from minerwatch.api.snapshot import decode, decode_agent
from minerwatch.api.types import AgentStatus, ContainerStatus, ProcessStatus
from minerwatch.cli.extra import agent_modules_for
from minerwatch.config.schema import Config
from minerwatch.errors import SnapshotError
from minerwatch.view.agent_summary import trouble_lines
from minerwatch.view.selection import filtered, found

SAMPLE_S = 2.0
"""Between the two readings that a rate is taken from."""


@dataclass(frozen=True, slots=True)
class Source:
    """The agent's socket, or a sample of this node where no agent runs."""

    socket_path: Path | None  # given by the user: then it must answer
    is_local: bool  # sample, whether an agent runs or not
    config: Config
    namespace: str = ""  # the only one to look in; "": all

    @property
    def path(self) -> Path:
        """The socket."""
        return self.socket_path or self.config.socket_path

    def read(
        self, *, all_processes: bool, unmasked: bool = False
    ) -> tuple[Sequence[ContainerStatus], AgentStatus | None]:
        """Return the node's containers, worst first, and the agent's state; None: no agent, or old.

        ``unmasked``: with all processes, and with the secrets that command lines hold. Raises
        SnapshotError or NodeError.
        """
        route = "/snapshot/full" if all_processes else "/snapshot"
        if not self.is_local:
            try:
                statuses = decode(answer(self.path, "/snapshot/unmasked" if unmasked else route))
            except NoAgentError as error:
                if self.socket_path is not None:
                    raise
                click.echo(f"{error}: sampling this node for {SAMPLE_S:g} s", err=True)
            else:
                return statuses, self._report_troubles()
        return _sampled(self.config, all_processes=all_processes, unmasked=unmasked), None

    def agent_status(self) -> AgentStatus:
        """Return the agent's own state. Raises SnapshotError."""
        return decode_agent(answer(self.path, "/status"))

    def _report_troubles(self) -> AgentStatus | None:
        """Return the agent's state; name what it cannot do now, on standard error."""
        try:
            status = self.agent_status()
        except SnapshotError:  # an older agent
            return None
        for line in trouble_lines([status]):
            click.echo(f"minerwatch: {line}", err=True)
        return status

    def found(
        self, target: str, *, unmasked: bool = False
    ) -> tuple[ContainerStatus, Sequence[ContainerStatus]]:
        """Return the container that ``target`` names, and all. Raises TargetError as well."""
        statuses, _ = self.read(all_processes=True, unmasked=unmasked)
        return found(filtered(statuses, namespace=self.namespace), target), statuses

    def ordered(self, _node: str, path: str, order: bytes) -> bytes:
        """Return the agent's answer to an order. Raises OrderError, SnapshotError."""
        return ordered(self.path, path, order)

    def ordered_everywhere(self, path: str, order: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield the agent's answer to an order. Raises OrderError, SnapshotError."""
        yield "", self.ordered("", path, order)


class Sampler:
    """A watch over this node, by the command itself, for as long as it is open."""

    def __init__(self, config: Config) -> None:
        """Raises NodeError."""
        with agent_modules_for("reading this machine itself, not a cluster (-A),"):
            from minerwatch.agent.monitor import open_node
            from minerwatch.detection.sigma import rulebook

        book = rulebook.load(config.rule_folders())
        self._config = config
        self._node = open_node(config, book)
        self.troubles = (*(str(error) for error in book.errors), *self._node.blind_spots)
        self.rules = len(book.rules)

    def tick(self) -> None:
        """Takes a reading; rates come with the second."""
        from minerwatch.agent.monitor import now_s

        self._node.watch.tick(now_s())

    def statuses(self, *, all_processes: bool, unmasked: bool = False) -> Sequence[ContainerStatus]:
        """Return the containers of the last reading, worst first."""
        from minerwatch.agent.monitor import MAX_PROCESSES

        few = self._config.report.processes_per_container
        return self._node.statuses(MAX_PROCESSES if all_processes else few, unmasked=unmasked)

    def close(self) -> None:
        """Close the kernel's files."""
        self._node.watch.close()
        if self._node.host is not None:
            self._node.host.close()


def _sampled(config: Config, *, all_processes: bool, unmasked: bool) -> Sequence[ContainerStatus]:
    sampler = Sampler(config)
    try:
        for trouble in sampler.troubles:
            click.echo(f"minerwatch: {trouble}", err=True)
        sampler.tick()
        time.sleep(SAMPLE_S)
        sampler.tick()
        statuses = sampler.statuses(all_processes=all_processes, unmasked=unmasked)
        return [with_details(status) for status in statuses]
    finally:
        sampler.close()


def with_details(status: ContainerStatus, *, only_busy: bool = False) -> ContainerStatus:
    """Return the status with memory, threads and open files of the processes it lists."""
    return structs.replace(
        status,
        processes=tuple(
            each if only_busy and not each.cpu_cores else _detailed(each)
            for each in status.processes
        ),
    )


def _detailed(process: ProcessStatus) -> ProcessStatus:
    from minerwatch.node.process_details import process_details

    found = process_details(process.pid, process.comm)
    return process if found is None else structs.replace(process, **asdict(found))
