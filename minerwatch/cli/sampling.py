"""What a command shows: from the agent, or where none runs, sampled by the command itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from minerwatch.config import Config, default_socket
from minerwatch.model import ContainerStatus
from minerwatch.report.client import NoAgentError, answer
from minerwatch.report.snapshot import decode

SAMPLE_S = 2.0
"""Between the two readings that a rate is taken from."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where to ask: an agent's socket first, unless told to sample."""

    socket_path: Path | None  # given by the user: then it must answer
    is_local: bool  # sample, whether an agent runs or not
    config: Config

    def statuses(self, *, all_processes: bool) -> Sequence[ContainerStatus]:
        """The node's containers, worst first. Raises SnapshotError or NodeError."""
        if not self.is_local:
            path = self.socket_path or Path(self.config.socket or default_socket())
            try:
                return decode(answer(path, "/snapshot/full" if all_processes else "/snapshot"))
            except NoAgentError as error:
                if self.socket_path is not None:
                    raise
                click.echo(f"{error}: sampling this node for {SAMPLE_S:g} s", err=True)
        return _sampled(self.config, all_processes=all_processes)


def _sampled(config: Config, *, all_processes: bool) -> Sequence[ContainerStatus]:
    from minerwatch.agent import ALL_PROCESSES, now_s, open_node
    from minerwatch.detection import rulebook

    book = rulebook.load(config.rule_folders())
    for error in book.errors:
        click.echo(f"minerwatch: {error}", err=True)
    node = open_node(config, book)
    try:
        for spot in node.blind_spots:
            click.echo(f"minerwatch: {spot}", err=True)
        node.watch.tick(now_s())
        time.sleep(SAMPLE_S)
        node.watch.tick(now_s())
        limit = ALL_PROCESSES if all_processes else config.report.processes_per_container
        return node.statuses(limit)
    finally:
        node.watch.close()
