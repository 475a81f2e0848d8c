"""``minerwatch release``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from minerwatch.cli.cluster import Scope, cluster_options
from minerwatch.cli.options import config_option, configuration, socket_option
from minerwatch.cli.ordering import Agents
from minerwatch.report import orders
from minerwatch.report.culled import release_text


@click.command()
@click.argument("target")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@cluster_options
@socket_option
@config_option
def release(
    target: str,
    output: str,
    socket_path: Path | None,
    config_path: Path | None,
    scope: Scope,
) -> None:
    """Undo what culling did to the pod of TARGET, and leave that pod alone from then on.

    Processes that were stopped go on, the quarantine label is taken off. What was killed, evicted
    or deleted is gone. A pod that is made anew under the same name is another pod.

    \b
    minerwatch release binder/alice

    Exit status: 0 all was undone, or there was nothing to undo; 1 something was not.
    """
    agents = Agents(scope, configuration(config_path, ()), socket_path)
    status = agents.found(target)
    order = orders.encode(orders.release_order(status))
    answer = orders.release_answer(agents.ordered(status.node, orders.RELEASE, order))
    text = release_text(answer)
    if output == "json":
        text = f"{msgspec.json.encode(answer).decode()}\n"
    click.echo(text, nl=False)
    if answer.trouble:
        sys.exit(1)
