"""From a look to what is shown of it: the step that takes time where there is much to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.cli.top_screen.cells import Traits
from minerwatch.cli.top_screen.history import CpuHistory, Key
from minerwatch.cli.top_screen.journal import Journal
from minerwatch.cli.top_screen.look import Look
from minerwatch.cli.top_screen.rows import Arrangement, View, arranged
from minerwatch.view.campaigns import Campaign, campaigns


@dataclass(frozen=True, slots=True)
class Presentation:
    """What is shown, and what it was made from."""

    look: Look
    view: View
    arrangement: Arrangement
    campaigns: Sequence[Campaign]
    traits: Traits

    def container(self, key: Key) -> ContainerStatus | None:
        """The container of that key, if it is still there."""
        node, cgroup, container_id = key
        for status in self.arrangement.every:
            if (status.cgroup, status.node, status.container_id) == (cgroup, node, container_id):
                return status
        return None

    def agent(self, node: str) -> AgentStatus | None:
        """What the agent of ``node`` says of itself."""
        return next((agent for agent in self.look.agents if agent.node == node), None)


class Presenter:
    """Makes presentations, and remembers what was before. For one thread at a time."""

    def __init__(self, step_s: float) -> None:
        self.history = CpuHistory(step_s)
        self.journal = Journal()
        self._last: Presentation | None = None

    def take(self, look: Look) -> None:
        """Remember what was burnt, and which levels have changed."""
        if look.failure:
            return
        fresh = look.statuses
        if look.stale:
            fresh = tuple(each for each in look.statuses if each.node not in look.stale)
        self.history.add(fresh, look.at.timestamp())
        self.journal.add(fresh, look.at)

    def present(self, look: Look, view: View) -> Presentation:
        """What ``view`` shows of ``look``."""
        last = self._last
        is_same = last is not None and last.look.statuses is look.statuses
        if last is not None and is_same and last.view == view:
            shown = replace(last, look=look)
        else:
            found = last.campaigns if last is not None and is_same else campaigns(look.statuses)
            arrangement = arranged(look.statuses, view, found)
            traits = Traits.of(arrangement.every, arrangement.rows)
            shown = Presentation(look, view, arrangement, found, traits)
        self._last = shown
        return shown
