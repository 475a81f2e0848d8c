"""``minerwatch status``."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime

import click
import msgspec

from minerwatch.api.client import NoAgentError
from minerwatch.cli.fleet_source import ClusterSource, Connect, report_missing, source_options
from minerwatch.cli.options import output_option
from minerwatch.errors import SnapshotError
from minerwatch.format import counted
from minerwatch.view.agent_status import fleet_row, problems, status_text


@click.command()
@output_option
@source_options(may_sample=False)
def status(output: str, connect: Connect) -> None:
    """Say whether this node's agent works, what it sees and what it cannot do.

    It prints version, kernel, the last tick, rules in force and rejected, the cluster, each probe
    with what would make an unavailable one work, and bounds that tenants have reached. From
    anywhere else, or with -A, -n, --context or --kubeconfig, it asks every agent of the cluster:
    one line a node.

    \b
    minerwatch status                       this node's agent
    minerwatch status -A                    all agents of the cluster
    minerwatch status -o json | jq '.[0].probes[] | select(.state == "unavailable")'

    \b
    on            the probe works           unavailable  a capability or the kernel is missing
    off           by its setting            failing      it fails again and again

    With -o json a list with one object an agent: node, version, started, interval_s, rules,
    broken_rules, rejected, culling, kernel, cgroups, capabilities, metrics, last_tick, probes,
    failing, cluster, bounds, blind_spots, troubles, not_ready.

    Exit status: 0 every agent works; 1 something is failing, or an agent did not answer.
    """
    source = connect()
    coverage = None
    if isinstance(source, ClusterSource):
        _, coverage = source.survey()
        agents = tuple(sorted(coverage.agents, key=lambda agent: agent.node))
    else:
        try:
            agents = (source.agent_status(),)
        except NoAgentError as error:
            raise SnapshotError(f"{error}: start it with `minerwatch agent`") from error
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if output == "json":
        click.echo(msgspec.json.encode(agents))
    elif coverage is None:
        text = status_text(
            agents[0], now=datetime.now(UTC), width=width, colour=sys.stdout.isatty()
        )
        click.echo(text, nl=False)
    else:
        for agent in agents:
            click.echo(fleet_row(agent, width=width))
    report_missing(replace(coverage, agents=()) if coverage else None)  # their rows have the rest
    silent = coverage.answered - len(agents) if coverage else 0
    if silent:
        click.echo(f"minerwatch: {counted(silent, 'agent')} too old to say: upgrade", err=True)
    is_complete = not silent and (coverage is None or coverage.is_complete)
    sys.exit(0 if is_complete and not any(map(problems, agents)) else 1)
