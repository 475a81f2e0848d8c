"""Sources of the screen: this node's agent, this node itself, or every agent of a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol

from minerwatch.api.client import NoAgentError, answer
from minerwatch.api.snapshot import decode
from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.cli.fleet_source import ClusterSource
from minerwatch.cli.local_source import SAMPLE_S, Sampler, Source, with_details
from minerwatch.errors import SnapshotError
from minerwatch.node.process_details import machine_totals
from minerwatch.view.screen.history import key_of
from minerwatch.view.screen.poll import Answers, Poll

NODE_REFRESH_S = 5.0
CLUSTER_REFRESH_S = 30.0
"""Unless agents are read on their port, each query starts a program in every agent's pod."""

NODE_STEP_S = 10.0
"""Between two readings that are kept: as long as an agent's tick."""

_FIRST_PARTS_EVERY_S = 1.0
_PARTS_EVERY_S = 5.0
"""How often a part of a round is shown: at first rows appear as soon as there are any, later they
replace those of the round before."""


class Watched(Protocol):
    """A source of polls. All but ``whole`` is called from one thread."""

    refresh_s: float  # from the end of a poll to the next
    step_s: float  # between two readings that are kept
    waits_for: str  # what is being done until the first answer

    def polls(self) -> Iterator[Poll]:
        """Yield one poll; where it takes long, parts of it before. Raises MinerwatchError."""

    def whole(self, status: ContainerStatus) -> ContainerStatus:
        """Return the container with all its processes, as it is now. Raises MinerwatchError.

        If it is gone, return ``status``. May be called from another thread.
        """

    def want_processes(self, *, is_wanted: bool) -> bool:
        """Read all processes, or those that matter; return True if the next poll is another."""

    def close(self) -> None:
        """Release what it holds."""


class NodeWatched:
    """The node: its agent or, where none listens and none has to, the node itself."""

    refresh_s = NODE_REFRESH_S
    step_s = NODE_STEP_S

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sampler: Sampler | None = None
        self._wants_processes = False
        self.waits_for = (
            "reading this node" if source.is_local else f"asking the agent on {source.path}"
        )

    def polls(self) -> Iterator[Poll]:
        """Yield what the agent says, or what was sampled."""
        if self._source.is_local:
            yield from self._sampled()
            return
        try:
            yield self._answered()
        except NoAgentError as error:
            if self._source.socket_path is not None:
                raise
            yield from self._sampled(f"{error}: this program watches the node by itself")

    def whole(self, status: ContainerStatus) -> ContainerStatus:
        """Ask the source of the last poll."""
        if self._sampler is not None:
            every = self._sampler.statuses(all_processes=True)
        else:
            every = decode(answer(self._source.path, "/snapshot/full"))
        return next((each for each in every if key_of(each) == key_of(status)), status)

    def want_processes(self, *, is_wanted: bool) -> bool:
        """Read all of them, with memory and threads of the busy ones, from the next poll on."""
        is_new = is_wanted != self._wants_processes
        self._wants_processes = is_wanted
        return is_new

    def close(self) -> None:
        """End the sampling."""
        if self._sampler is not None:
            self._sampler.close()

    def _answered(self) -> Poll:
        route = "/snapshot/full" if self._wants_processes else "/snapshot"
        statuses = decode(answer(self._source.path, route))
        agent = self._agent()
        if self._sampler is not None:  # an agent has started
            self._sampler.close()
            self._sampler = None
        return self._poll(statuses, agents=(agent,) if agent else ())

    def _agent(self) -> AgentStatus | None:
        try:
            return self._source.agent_status()
        except SnapshotError:  # it is older than this program
            return None

    def _sampled(self, note: str = "") -> Iterator[Poll]:
        notes = [note] if note else []
        if self._sampler is None:
            self._sampler = Sampler(self._source.config)
            self._sampler.tick()
            yield Poll((), _now(), notes=tuple(notes), progress=(0, 1))
            time.sleep(SAMPLE_S)
        self._sampler.tick()
        notes += self._sampler.troubles
        statuses = tuple(self._sampler.statuses(all_processes=self._wants_processes))
        yield self._poll(statuses, notes=tuple(notes))

    def _poll(
        self,
        statuses: tuple[ContainerStatus, ...],
        agents: tuple[AgentStatus, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> Poll:
        """Return a poll with what the agent does not read: details of processes, the machine."""
        if self._wants_processes:
            statuses = tuple(with_details(each, only_busy=True) for each in statuses)
        return Poll(statuses, _now(), agents=agents, notes=notes, machine=machine_totals())


class ClusterWatched:
    """Every agent of a cluster."""

    refresh_s = CLUSTER_REFRESH_S
    step_s = CLUSTER_REFRESH_S

    def __init__(self, source: ClusterSource) -> None:
        self._source = source
        self._answers = Answers(source.context, source.namespace)
        self._has_looked = False
        self.waits_for = f"looking for the agents of context {source.context}"

    def polls(self) -> Iterator[Poll]:
        """Yield what is known while the agents answer, now and then, and at the end."""
        agents = self._source.agents()
        nodes = (*(agent.node for agent in agents.pods), *agents.bare_nodes)
        self._answers.begin(nodes, agents.blind_spot)
        every_s = _PARTS_EVERY_S if self._has_looked else _FIRST_PARTS_EVERY_S
        shown_s = time.monotonic() if self._has_looked else float("-inf")
        yield self._answers.poll(_now())
        for answered in self._source.answers(agents):
            self._answers.add(answered, _now())
            if time.monotonic() - shown_s >= every_s:
                yield self._answers.poll(_now())
                shown_s = time.monotonic()
        self._has_looked = True
        yield self._answers.poll(_now())

    def whole(self, status: ContainerStatus) -> ContainerStatus:
        """Ask its node's agent."""
        return self._source.whole(status)

    def want_processes(self, *, is_wanted: bool) -> bool:
        """Do nothing: a cluster has too many processes; the busiest are read anyway."""
        del is_wanted
        return False

    def close(self) -> None:
        """Close the connections."""
        self._source.close()


def _now() -> datetime:
    return datetime.now(UTC)
