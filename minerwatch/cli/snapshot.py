"""``minerwatch snapshot``, which ``top`` and ``explain`` run in agents' pods."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(hidden=True)
@click.option("--full", is_flag=True, help="With all processes of each container.")
@click.option("--unmasked", is_flag=True, help="As --full, with the secrets of command lines.")
@click.option(
    "--with-status",
    is_flag=True,
    help="An object: the list as `containers`, and as `agent` the agent's status.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="MINERWATCH_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="Unix socket of the agent.",
)
def snapshot(full: bool, unmasked: bool, with_status: bool, socket_path: Path | None) -> None:
    """Print what the agent's socket answers, as it is: a list with one object a container.

    It runs within the agent's CPU limit, so it imports next to nothing.
    """
    from minerwatch.api.client import answer

    path = socket_path or _default_socket()
    route = "/snapshot/full" if full else "/snapshot"
    body = answer(path, "/snapshot/unmasked" if unmasked else route)
    if with_status:
        body = b'{"agent":' + answer(path, "/status") + b',"containers":' + body + b"}"
    sys.stdout.buffer.write(body)


def _default_socket() -> Path:
    from minerwatch.config.schema import default_socket

    return default_socket()
