"""``minerwatch snapshot``, which ``top`` and ``explain`` run in agents' pods."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(hidden=True)
@click.option("--full", is_flag=True, help="With all processes of each container.")
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="MINERWATCH_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="Unix socket of the agent.",
)
def snapshot(full: bool, socket_path: Path | None) -> None:
    """Print what the agent's socket answers, as it is.

    It runs within the agent's CPU limit, so it imports next to nothing.
    """
    from minerwatch.report.client import answer

    body = answer(socket_path or _default_socket(), "/snapshot/full" if full else "/snapshot")
    sys.stdout.buffer.write(body)


def _default_socket() -> Path:
    from minerwatch.config import default_socket

    return default_socket()
