"""Options that several commands share, so that they read and behave alike everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from minerwatch.config.schema import Config, default_socket, load
from minerwatch.errors import ConfigError

_Value = TypeVar("_Value")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="MINERWATCH_CONFIG",
    show_envvar=True,
    metavar="FILE",
    help="YAML file with settings; without one, defaults that are safe.",
)

rules_option = click.option(
    "--rules",
    "rule_folders",
    type=click.Path(path_type=Path),
    multiple=True,
    envvar="MINERWATCH_RULES",
    show_envvar=True,
    metavar="DIR",
    help="A further folder of rules, on top of those that come with minerwatch; a later rule"
    " replaces one with the same id. May be repeated.",
)

socket_option = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="MINERWATCH_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help=f"Unix socket at which agent and commands meet.  [default: {default_socket()}]",
)


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: the same for programs.",
)


def parsed_by(parse: Callable[[str], _Value]) -> Callable[..., _Value | None]:
    """Return the callback of an option that ``parse`` reads; its ConfigError is wrong usage."""

    def callback(
        context: click.Context, parameter: click.Parameter, value: str | None
    ) -> _Value | None:
        try:
            return None if value is None else parse(value)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def configuration(config_path: Path | None, rule_folders: tuple[Path, ...], **given: Any) -> Config:
    """The file's settings, overruled by the options that were given (None: it was not)."""
    config = load(config_path)
    overruled = {key: value for key, value in given.items() if value is not None}
    folders = (*config.rules, *(str(folder) for folder in rule_folders))
    return msgspec.structs.replace(config, rules=folders, **overruled)
