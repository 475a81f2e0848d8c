"""Shell completion of targets: names from this node's agent; silent where none answers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import click
from click.shell_completion import CompletionItem

from minerwatch.api.client import UnixConnection, exchange
from minerwatch.api.snapshot import decode
from minerwatch.api.types import ContainerStatus
from minerwatch.config.schema import default_socket
from minerwatch.errors import MinerwatchError
from minerwatch.untrusted_text.display import printable

_TIMEOUT_S = 1.0
_MAX_ITEMS = 1000
_MAX_NAME_CHARS = 256


def complete_target(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return pods, containers and units, worst first, with level and score."""
    return _items(_statuses(context), incomplete, pods_only=False)


def complete_pod(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return pods, worst first, with level and score."""
    return _items(_statuses(context), incomplete, pods_only=True)


def _statuses(context: click.Context) -> Sequence[ContainerStatus]:
    path = context.params.get("socket_path") or default_socket()
    try:
        _, body = exchange(UnixConnection(path, _TIMEOUT_S), path, "GET", "/snapshot")
        return decode(body)
    except MinerwatchError:
        return ()


def _items(
    statuses: Sequence[ContainerStatus], incomplete: str, *, pods_only: bool
) -> list[CompletionItem]:
    items: dict[str, CompletionItem] = {}
    for status in statuses:
        for name in _names(status, pods_only=pods_only):
            if len(items) < _MAX_ITEMS and name.startswith(incomplete) and _is_word(name):
                verdict = f"{printable(status.level, 16)} {status.score:.0f}"
                items.setdefault(name, CompletionItem(name, help=verdict))
    return list(items.values())


def _names(status: ContainerStatus, *, pods_only: bool) -> Iterator[str]:
    if status.pod:
        yield f"{status.namespace}/{status.pod}"
    elif not pods_only:
        yield status.container


def _is_word(name: str) -> bool:
    """Return True for a name that a shell and the command take as it is: tenants choose names."""
    is_plain = shlex.quote(name) == name and not name.startswith("-")
    return 0 < len(name) <= _MAX_NAME_CHARS and is_plain
