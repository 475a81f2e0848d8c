"""``minerwatch snapshot`` and ``order``: other commands run them in agents' pods.

They run within the agent's CPU limit, so they import next to nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

_socket_option = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="MINERWATCH_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="Unix socket of the agent.",
)


@click.command(hidden=True)
@click.option("--full", is_flag=True, help="With all processes of each container.")
@click.option("--unmasked", is_flag=True, help="As --full, with the secrets of command lines.")
@click.option(
    "--with-status",
    is_flag=True,
    help="An object: the list as `containers`, and as `agent` the agent's status.",
)
@_socket_option
def snapshot(full: bool, unmasked: bool, with_status: bool, socket_path: Path | None) -> None:
    """Print what the agent's socket answers, as it is: a list with one object a container."""
    from minerwatch.api.client import answer

    path = socket_path or _default_socket()
    route = "/snapshot/full" if full else "/snapshot"
    body = answer(path, "/snapshot/unmasked" if unmasked else route)
    if with_status:
        body = b'{"agent":' + answer(path, "/status") + b',"containers":' + body + b"}"
    sys.stdout.buffer.write(body)


@click.command(hidden=True)
@click.argument("path")
@click.argument("body")
@_socket_option
def order(path: str, body: str, socket_path: Path | None) -> None:
    """Send BODY to PATH of the agent's socket, and print what it answers, as it is."""
    from minerwatch.api.client import ordered

    answer = ordered(socket_path or _default_socket(), path, body.encode())
    sys.stdout.buffer.write(answer)


def _default_socket() -> Path:
    from minerwatch.config.schema import default_socket

    return default_socket()
