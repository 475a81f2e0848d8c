"""``minerwatch order``, which ``cull`` and ``release`` run in agents' pods."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(hidden=True)
@click.argument("path")
@click.argument("body")
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="MINERWATCH_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="Unix socket of the agent.",
)
def order(path: str, body: str, socket_path: Path | None) -> None:
    """Send BODY to PATH of the agent's socket, and print what it answers, as it is."""
    from minerwatch.api.client import ordered

    answer = ordered(socket_path or _default_socket(), path, body.encode())
    sys.stdout.buffer.write(answer)


def _default_socket() -> Path:
    from minerwatch.config.schema import default_socket

    return default_socket()
