"""``minerwatch release``."""

from __future__ import annotations

import sys

import click

from minerwatch.api import orders
from minerwatch.api.types import ReleaseAllAnswer, ReleaseAnswer
from minerwatch.cli.ban import lift
from minerwatch.cli.completion import complete_pod
from minerwatch.cli.fleet_source import AnySource, Connect, source_options
from minerwatch.cli.options import output_option, show
from minerwatch.untrusted_text.display import printable
from minerwatch.view.culling_text import release_all_text, release_text


@click.command()
@click.argument("target", required=False, shell_complete=complete_pod)
@click.option("--all", "everything", is_flag=True, help="Release all pods on every node in scope.")
@click.option(
    "--retire", is_flag=True, help="With --all: stop acting until the agents are restarted."
)
@click.option(
    "--forget",
    is_flag=True,
    help="With --all: retire, and remove audit logs, evidence and the budget's Lease.",
)
@click.option("--ban", "ban", metavar="NAME", help="Lift the bans of NAME; takes no TARGET.")
@output_option
@source_options(may_sample=False)
def release(
    target: str | None,
    ban: str | None,
    everything: bool,
    retire: bool,
    forget: bool,
    output: str,
    connect: Connect,
) -> None:
    """Undo culling's actions on the pod of TARGET, and do not act on that pod for 30 days.

    Stopped processes continue, the quarantine label is removed, its bans are lifted. Killed
    processes and evicted or deleted pods stay gone. A new pod with the same name is another pod.

    \b
    minerwatch release binder/alice
    minerwatch release --all -n binder       all pods of a namespace
    minerwatch release --all --retire        before culling is switched off
    minerwatch release --all --forget        before minerwatch is uninstalled
    minerwatch release --ban ada             a name that `minerwatch ban --list` shows

    Exit status: 0 everything was undone, or nothing had to be; 1 something was not.
    """
    if [everything, target is not None, ban is not None].count(True) != 1:
        raise click.UsageError("give a TARGET, --all or --ban NAME")
    if (retire or forget) and not everything:
        raise click.UsageError("--retire and --forget require --all")
    source = connect()
    if ban is not None:
        lift(source, ban, output)
        return
    if target is None:
        order = orders.ReleaseAllOrder(source.namespace, retire, forget)
        is_undone = _release_all(source, order, output)
    else:
        is_undone = _release(source, target, output)
    if not is_undone:
        sys.exit(1)


def _release(source: AnySource, target: str, output: str) -> bool:
    status, _ = source.found(target)
    order = orders.encode(orders.release_order(status))
    answer = orders.answer_of(source.ordered(status.node, orders.RELEASE, order), ReleaseAnswer)
    show(answer, release_text, output)
    return not answer.trouble


def _release_all(source: AnySource, order: orders.ReleaseAllOrder, output: str) -> bool:
    answers: list[ReleaseAllAnswer] = []
    is_undone = True
    for _, body in source.ordered_everywhere(orders.RELEASE_ALL, orders.encode(order)):
        if isinstance(body, str):
            is_undone = False
            click.echo(f"minerwatch: {printable(body)}", err=True)
            continue
        answer = orders.answer_of(body, ReleaseAllAnswer)
        is_undone &= not answer.trouble and not any(each.trouble for each in answer.released)
        answers.append(answer)
        if output == "text":
            click.echo(release_all_text(answer), nl=False)
    if output == "json":
        click.echo(orders.encode(answers))
    return is_undone
