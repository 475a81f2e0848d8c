"""``minerwatch ban``."""

from __future__ import annotations

import getpass
import sys

import click

from minerwatch.api import orders
from minerwatch.api.types import BanAnswer, BanStatus, ContainerStatus, LiftAnswer
from minerwatch.cli.completion import complete_pod
from minerwatch.cli.fleet_source import AnySource, ClusterSource, Connect, source_options
from minerwatch.cli.options import output_option, parsed_by, show
from minerwatch.config.values import duration_s
from minerwatch.errors import OrderError
from minerwatch.kinds import BanKind, OwnerKind
from minerwatch.untrusted_text.display import printable
from minerwatch.view.ban_text import FORMATS, ban_text, lift_text

MAX_REASON_CHARS = 300
_MAX_ASKED = 3
_SEEN_KINDS = (OwnerKind.REPOSITORY, OwnerKind.CLIENT)


@click.command()
@click.argument("target", required=False, shell_complete=complete_pod)
@click.option("--apply", "applies", is_flag=True, help="Ban; without it, nothing is changed.")
@click.option("--dry-run", is_flag=True, help="Show what would be banned: the default.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([each.value for each in BanKind]),
    multiple=True,
    help="The names to ban; user and repository unless given.",
)
@click.option(
    "--for",
    "seconds",
    callback=lambda ctx, parameter, value: (
        None if value is None else parsed_by(duration_s)(ctx, parameter, value)
    ),
    metavar="DURATION",
    help="How long, such as 30d; culling.bans.duration unless given.",
)
@click.option("--reason", default="", metavar="TEXT", help="In place of the rules that matched.")
@click.option("--list", "lists", is_flag=True, help="Show all bans; takes no TARGET.")
@click.option(
    "--format",
    "form",
    type=click.Choice([*FORMATS]),
    default="text",
    show_default=True,
    help="Of --list: configuration of a hub or of the network.",
)
@output_option
@source_options(may_sample=False)
def ban(
    target: str | None,
    applies: bool,
    dry_run: bool,
    kinds: tuple[str, ...],
    seconds: float | None,
    reason: str,
    lists: bool,
    form: str,
    output: str,
    connect: Connect,
) -> None:
    """Ban the user, repository or address behind TARGET, under the same policy as an action.

    The agent of TARGET's node decides; it refuses a name that a tenant may have chosen, and an
    address that others used in the last seven days without being flagged. Bans are entries for the
    hub and the network, which have to read them: docs/hubs.md. `minerwatch release` lifts them.

    \b
    minerwatch ban binder/alice --dry-run                    what would be banned?
    minerwatch ban binder/alice --apply --kind repository    ban its repository
    minerwatch ban --list --format binderhub                 for binderhub_config.py

    Exit status: 0 all names of the kinds are banned, or would be; 1 some are not.
    """
    if lists is (target is not None):
        raise click.UsageError("give a TARGET or --list")
    if applies and (dry_run or lists):
        raise click.UsageError("--apply goes with neither --dry-run nor --list")
    source = connect()
    if target is None:
        found = orders.answer_of(
            _first(source, orders.BANS, orders.BansOrder()), tuple[BanStatus, ...]
        )
        click.echo(FORMATS["json" if output == "json" else form](found), nl=False)
        return
    status, _ = source.found(target)
    wanted = [BanKind(each) for each in kinds] or [BanKind.USER, BanKind.REPOSITORY]
    order = orders.ban_order(
        status,
        wanted,
        getpass.getuser(),
        dry_run=not applies,
        reason=reason[:MAX_REASON_CHARS],
        duration_s=None if seconds is None else float(seconds),
        unflagged=_seen_elsewhere(source, status),
    )
    body = source.ordered(status.node, orders.BAN, orders.encode(order))
    answer = orders.answer_of(body, BanAnswer)
    show(answer, ban_text, output)
    is_done = answer.bans and not answer.reasons and not answer.trouble
    if not is_done or any(each.objections for each in answer.bans):
        sys.exit(1)


def lift(source: AnySource, name: str, output: str) -> None:
    """Lift the bans of ``name``; exit with 1 if there is none."""
    answer = orders.answer_of(
        _first(source, orders.LIFT, orders.LiftOrder(name, getpass.getuser())), LiftAnswer
    )
    show(answer, lift_text, output)
    if not answer.lifted:
        sys.exit(1)


def _seen_elsewhere(source: AnySource, status: ContainerStatus) -> dict[str, int | None]:
    """Return how many pods other nodes saw by each name, not flagged; None: not known by all."""
    names = tuple(
        orders.SeenName(kind, each.name)
        for kind in _SEEN_KINDS
        for each in status.owners
        if each.kind == kind.value
    )
    if not names:
        return {}
    total: dict[str, int | None] = {each.name: 0 for each in names}
    if not isinstance(source, ClusterSource) or _is_partial(source):
        return dict.fromkeys(total)  # other nodes are not asked, or have no agent
    order = orders.encode(orders.SeenOrder(names, status.pod_uid))
    for node, answer in source.ordered_everywhere(orders.SEEN, order):
        if node == status.node:
            continue
        counts: dict[str, int | None] = {}
        trouble = answer if isinstance(answer, str) else ""
        if isinstance(answer, bytes):
            try:
                counts = orders.answer_of(answer, orders.SeenAnswer).unflagged
            except OrderError as error:
                trouble = f"node {node}: {error}"
        if trouble:
            click.echo(f"minerwatch: {printable(trouble)}", err=True)
        for name, before in total.items():
            here = counts.get(name)
            total[name] = None if before is None or here is None else before + here
    return total


def _is_partial(source: ClusterSource) -> bool:
    """Return True if a node has no agent, or may have none."""
    agents = source.agents()
    return bool(agents.bare_nodes or agents.blind_spot)


def _first(source: AnySource, path: str, order: object) -> bytes:
    """Return the answer of the first agent that has one: all agents keep the same bans."""
    nodes = [""]
    if isinstance(source, ClusterSource):
        nodes = [agent.node for agent in source.agents().pods][:_MAX_ASKED]
    trouble = OrderError("there is no agent")
    for node in nodes:
        try:
            return source.ordered(node, path, orders.encode(order))
        except OrderError as error:
            trouble = error
    raise trouble
