"""``minerwatch explain``."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime

import click

from minerwatch.api.snapshot import encode
from minerwatch.cli.completion import complete_target
from minerwatch.cli.fleet_source import ClusterSource, Connect, source_options
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import campaign_of, campaigns
from minerwatch.view.explanation import explanation
from minerwatch.view.selection import beside

_MAX_OTHERS = 8


@click.command()
@click.argument("target", shell_complete=complete_target)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="json: the container's object, as in `minerwatch top -o json`, with all its processes.",
)  # fmt: skip
@click.option(
    "--unmasked", is_flag=True,
    help="Show the secrets that command lines hold; without it they are masked.",
)  # fmt: skip
@source_options(may_sample=True)
def explain(target: str, output: str, unmasked: bool, connect: Connect) -> None:
    """Say why TARGET has its score: every finding with its evidence, and what to do next.

    TARGET is a pid, a container id (six digits of it will do), the name of a systemd unit, `host`,
    a cgroup path, or in Kubernetes a pod, namespace/pod or namespace/pod/container. Of a pod's
    containers it explains the one with the highest score. The source is that of `minerwatch top`:
    this node, or every agent of a cluster.

    \b
    minerwatch explain 12345              the container that this process is in
    minerwatch explain 3f2a9c1b44de       a container
    minerwatch explain ssh.service        a systemd unit
    minerwatch explain -A binder/alice    a pod, from a laptop

    The first line is a sentence to paste into a chat: it has no command line. In the rest, secrets
    that command lines hold are masked as far as they are known as such: read it before you
    paste it into a public ticket. --unmasked shows them.

    Exit status: 0, whatever the verdict; 1 the target, the agent or the node cannot be found. Nodes
    that did not answer are named on standard error: the target may run there.
    """
    source = connect()
    status, statuses = source.found(target, unmasked=unmasked)
    others = beside(statuses, status)
    if others and target in (status.pod, f"{status.namespace}/{status.pod}"):
        names = ", ".join(printable(other.container, 64) for other in others[:_MAX_OTHERS])
        click.echo(f"minerwatch: other containers of this pod: {names}", err=True)
    campaign = campaign_of(status, campaigns(statuses))
    if isinstance(source, ClusterSource):
        status = source.whole(status, unmasked=unmasked)
    if output == "json":
        click.echo(encode([status])[1:-1])
        return
    text = explanation(
        status,
        now=datetime.now(UTC),
        width=min(shutil.get_terminal_size((100, 24)).columns, 120),
        colour=sys.stdout.isatty(),
        campaign=campaign,
    )
    click.echo(text, nl=False)
