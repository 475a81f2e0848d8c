"""Turns a poll into what is shown of it: the step that takes time where there is much to show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.text import Text

from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.view.campaigns import Campaign, campaigns
from minerwatch.view.screen.columns import container_columns, row_style
from minerwatch.view.screen.containers import Kind, Row, View, container_rows
from minerwatch.view.screen.details import container_lines
from minerwatch.view.screen.history import CpuHistory, Key, LevelChanges, key_of
from minerwatch.view.screen.layout import Cell, Column, Layout, Scene, Traits, fitting
from minerwatch.view.screen.nodes import NODE_SORTS, NodeRow, node_columns, node_lines, node_rows
from minerwatch.view.screen.page import Subject
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.processes import (
    ProcessRow,
    process_columns,
    process_lines,
    process_rows,
)
from minerwatch.view.selection import PROCESS_SORTS, filtered

AnyRow = Row | ProcessRow | NodeRow


@dataclass(frozen=True, slots=True)
class Presentation:
    """All that is shown, and the poll and view that it was made from."""

    poll: Poll
    view: View
    every: Sequence[ContainerStatus]  # of the namespace, idle ones too
    rows: Sequence[AnyRow]
    containers: int  # that are shown
    campaigns: Sequence[Campaign]
    traits: Traits
    scene: Scene

    @property
    def sort(self) -> str:
        """The key that orders the rows; "": their own order."""
        own = {Kind.PROCESSES: PROCESS_SORTS, Kind.NODES: NODE_SORTS}.get(self.view.kind)
        return self.view.sort if own is None or self.view.sort in own else own[0]

    def container(self, key: Key) -> ContainerStatus | None:
        """Return the container of that key, if it is still there."""
        node, cgroup, container_id = key
        for status in self.every:
            if (status.cgroup, status.node, status.container_id) == (cgroup, node, container_id):
                return status
        return None

    def agent(self, node: str) -> AgentStatus | None:
        """Return what the agent of ``node`` says of itself."""
        return next((agent for agent in self.poll.agents if agent.node == node), None)

    def layout(self, width: int) -> Layout[Any]:
        """Return the columns for a terminal of ``width``."""
        columns = _columns(self.view.kind, width, self.scene.history.step_s)
        return fitting(columns, width, self.traits)

    def cells(self, row: AnyRow, layout: Layout[Any]) -> list[Cell]:
        """Return a row of the table."""
        style = row_style(row, self.scene) if isinstance(row, Row) else ""
        return layout.cells(row, self.scene, style)

    def lines(self, row: AnyRow) -> Iterator[Text]:
        """Return what matters of a row, for the lines below the table."""
        if isinstance(row, Row):
            return container_lines(row, self.poll.at)
        return process_lines(row) if isinstance(row, ProcessRow) else node_lines(row, self.poll)


class Presenter:
    """Makes presentations, and keeps history. For one thread at a time."""

    def __init__(self, step_s: float) -> None:
        self.history = CpuHistory(step_s)
        self.level_changes = LevelChanges()
        self._last: Presentation | None = None
        self._traits: dict[Kind, Traits] = {}

    def add(self, poll: Poll) -> None:
        """Add CPU usage and changes of level to the history."""
        if poll.failure:
            return
        fresh = poll.statuses
        if poll.stale:
            fresh = tuple(each for each in poll.statuses if each.node not in poll.stale)
        self.history.add(fresh, poll.at.timestamp())
        self.level_changes.add(fresh, poll.at)

    def present(self, poll: Poll, view: View, polls: Iterable[Poll] = ()) -> Presentation:
        """Return what ``view`` shows of ``poll``, once ``polls`` are in the history."""
        for each in polls:
            self.add(each)
        last = self._last
        scene = Scene(poll.at, self.history, poll.stale)
        is_same = last is not None and last.poll.statuses is poll.statuses
        if last is not None and is_same and last.view == view and view.kind is not Kind.NODES:
            shown = replace(last, poll=poll, scene=scene)
        else:
            found = last.campaigns if last is not None and is_same else campaigns(poll.statuses)
            every = filtered(poll.statuses, namespace=view.namespace)
            rows, containers = _rows(every, poll, view, found)
            columns = _columns(view.kind, 0, self.history.step_s)
            traits = Traits.of(rows, columns, scene).joined(self._traits.get(view.kind, Traits()))
            self._traits[view.kind] = traits
            shown = Presentation(poll, view, every, rows, containers, found, traits, scene)
        self._last = shown
        return shown

    def subject(self, shown: Presentation, status: ContainerStatus) -> Subject:
        """Return a container with all that is known about it."""
        key = key_of(status)
        alike = (
            campaign
            for campaign in shown.campaigns
            if any(key_of(member) == key for member in campaign.members)
        )
        return Subject(
            status,
            shown.poll.at,
            self.history.of(key),
            self.history.step_s,
            self.level_changes.of(key),
            next(alike, None),
            shown.agent(status.node),
            shown.poll.stale.get(status.node),
        )


def _rows(
    every: Sequence[ContainerStatus], poll: Poll, view: View, found: Sequence[Campaign]
) -> tuple[Sequence[AnyRow], int]:
    if view.kind is Kind.PROCESSES:
        return process_rows(every, view), len(every)
    return (
        (node_rows(poll, view), len(every))
        if view.kind is Kind.NODES
        else container_rows(every, view, found)
    )


def _columns(kind: Kind, width: int, step_s: float) -> tuple[Column[Any], ...]:
    if kind is Kind.PROCESSES:
        return process_columns(width)
    return node_columns() if kind is Kind.NODES else container_columns(width, step_s)
