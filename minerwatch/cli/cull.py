"""``minerwatch cull``."""

from __future__ import annotations

import sys
from functools import partial

import click

from minerwatch.api import orders
from minerwatch.api.types import CullAnswer
from minerwatch.cli.completion import complete_pod
from minerwatch.cli.fleet_source import AnySource, Connect, source_options
from minerwatch.cli.options import output_option, show
from minerwatch.culling.records import AuditLine
from minerwatch.kinds import Action
from minerwatch.untrusted_text.display import printable
from minerwatch.view.culling_text import cull_text, simulation_text

_ACTIONS = [action.value for action in Action if action is not Action.OBSERVE]
_GOOD = ("done", "dry-run")


@click.command()
@click.argument("target", required=False, shell_complete=complete_pod)
@click.option(
    "--action",
    type=click.Choice(_ACTIONS),
    help="What to do; pause and stop-container are for hosts.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check with the API server or the kernel; change nothing."
)
@click.option(
    "--simulate",
    "hours",
    type=click.FloatRange(0, orders.MAX_HOURS, min_open=True),
    metavar="HOURS",
    help="Do nothing; show the decisions of the last hours, from the audit log.",
)
@output_option
@source_options(may_sample=False)
def cull(
    target: str | None,
    action: str | None,
    dry_run: bool,
    hours: float | None,
    output: str,
    connect: Connect,
) -> None:
    """Act on TARGET by hand, under the same policy, budgets and audit log as the agent itself.

    The agent of TARGET's node decides and acts. The output is its decision, every reason against
    the action, and the exact request. If culling is configured as dry-run, so is this. TARGET is as
    for `minerwatch explain`.

    \b
    minerwatch cull binder/alice --action evict --dry-run     what would happen?
    minerwatch cull binder/alice --action stop                stop its processes; undo: release
    minerwatch cull --simulate 24                             past decisions and actions

    Exit status: 0 done, or a dry run succeeded; 1 not done.
    """
    source = connect()
    if hours is not None:
        if target is not None or action is not None:
            raise click.UsageError("--simulate takes no TARGET and no --action")
        _show_past(source, hours, output)
        return
    if target is None or action is None:
        raise click.UsageError("give a TARGET and an --action, or --simulate HOURS")
    status, _ = source.found(target)
    order = orders.cull_order(status, Action(action), dry_run=dry_run)
    body = source.ordered(status.node, orders.CULL, orders.encode(order))
    answer = orders.answer_of(body, CullAnswer)
    show(answer, cull_text, output)
    if answer.outcome not in _GOOD:
        sys.exit(1)


def _show_past(source: AnySource, hours: float, output: str) -> None:
    lines: list[AuditLine] = []
    has_failed = False
    order = orders.encode(orders.HoursOrder(hours))
    for node, answer in source.ordered_everywhere(orders.AUDIT_LINES, order):
        if isinstance(answer, str):
            has_failed = True
            click.echo(f"minerwatch: {printable(answer)}", err=True)
            continue
        lines += decoded_lines(node, answer)
    lines.sort(key=lambda line: line.at)
    show(lines, partial(simulation_text, hours=hours), output)
    if has_failed:
        sys.exit(1)


def decoded_lines(node: str, answer: bytes) -> list[AuditLine]:
    """Return the simulation that an agent answered. Raises OrderError."""
    where = f"node {node}: " if node else ""
    return orders.decode(answer, list[AuditLine], f"{where}the agent's answer cannot be parsed")
