"""Options that several commands share, so that they read and behave alike everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from click.core import ParameterSource

from minerwatch.config.schema import Config, default_socket
from minerwatch.config.values import DEFAULT_LISTEN, duration_s, duration_text, host_and_port
from minerwatch.errors import ConfigError

if TYPE_CHECKING:
    from minerwatch.config.reader import Checks

_Value = TypeVar("_Value")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    envvar="MINERWATCH_CONFIG",
    show_envvar=True,
    metavar="FILE",
    help="YAML file with settings; without one, defaults that are safe.",
)

rules_option = click.option(
    "--rules",
    "rule_folders",
    type=click.Path(exists=True, path_type=Path),
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


def show(answer: _Value, text: Callable[[_Value], str], output: str) -> None:
    """Print an agent's answer: as JSON, or as the text that ``text`` makes of it."""
    if output == "json":
        click.echo(msgspec.json.encode(answer))
    else:
        click.echo(text(answer), nl=False)


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


def _address(text: str) -> str:
    host_and_port(text)
    return text


_agent_options = (
    config_option,
    rules_option,
    click.option(
        "--no-kubernetes",
        is_flag=True,
        envvar="MINERWATCH_NO_KUBERNETES",
        show_envvar=True,
        help="Watch this machine alone, also inside a pod: without the names of pods and owners.",
    ),
    click.option(
        "--interval",
        callback=parsed_by(duration_s),
        envvar="MINERWATCH_AGENT_INTERVAL",
        show_envvar=True,
        metavar="DURATION",
        help="Time from one tick to the next, such as 10s or 1m."
        f"  [default: {duration_text(Config().interval)}]",
    ),
    click.option(
        "--listen",
        callback=parsed_by(_address),
        envvar="MINERWATCH_AGENT_LISTEN",
        show_envvar=True,
        metavar="ADDRESS:PORT",
        help=f"Where /metrics, /healthz and /readyz are served.  [default: {DEFAULT_LISTEN}]",
    ),
    click.option(
        "--web",
        envvar="MINERWATCH_AGENT_WEB",
        show_envvar=True,
        metavar="ADDRESS:PORT",
        help="Serve pages for a browser there, such as 127.0.0.1:9798; off by default.",
    ),
    click.option(
        "--web-token-file",
        envvar="MINERWATCH_AGENT_WEB_TOKEN_FILE",
        show_envvar=True,
        metavar="FILE",
        help="Pages require the token in this file; any address but loopback needs one.",
    ),
    click.option(
        "--journal",
        envvar="MINERWATCH_AGENT_JOURNAL",
        show_envvar=True,
        metavar="FOLDER",
        help="Keep a history of verdicts and CPU usage there, at most 16 MiB.",
    ),
    socket_option,
)


def agent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that replace settings of the file, for ``agent_configuration``."""
    for option in reversed(_agent_options):
        command = option(command)
    return command


def agent_configuration(
    config_path: Path | None,
    rule_folders: tuple[Path, ...],
    no_kubernetes: bool,
    interval: float | None,
    listen: str | None,
    web: str | None,
    web_token_file: str | None,
    journal: str | None,
    socket_path: Path | None,
) -> Config:
    """Return the settings of an agent with these options. Raises ConfigError."""
    socket = None if socket_path is None else str(socket_path)
    config = configuration(
        config_path, rule_folders, interval=interval, listen=listen, socket=socket
    )
    try:
        config = config.with_web(web, web_token_file, journal)
    except ConfigError as error:
        raise click.UsageError(f"--web: {error}") from error
    return config.without_kubernetes() if no_kubernetes else config


def environment_variable(context: click.Context, parameter: click.Parameter) -> str | None:
    """Return the environment variable that gave the parameter its value; None: none did."""
    if parameter.name is None:
        return None
    if context.get_parameter_source(parameter.name) is not ParameterSource.ENVIRONMENT:
        return None
    return next((name for name in _variables(context, parameter) if os.environ.get(name)), None)


def _variables(context: click.Context, parameter: click.Parameter) -> Iterator[str]:
    """Yield the variables that click reads for the parameter, in its order."""
    given = parameter.envvar or ()
    yield from (given,) if isinstance(given, str) else given
    if context.auto_envvar_prefix and parameter.name:
        yield f"{context.auto_envvar_prefix}_{parameter.name.upper()}"


def _check_profile(profile: str) -> None:
    from minerwatch.kube.owners import sources

    _without_key(lambda: sources(profile))


def _check_owner_source(source: str) -> None:
    from minerwatch.kube.owners import sources

    _without_key(lambda: sources("default", (source,)))


def _without_key(check: Callable[[], object]) -> None:
    """Run a check whose error begins with the key, which the caller names as well."""
    try:
        check()
    except ConfigError as error:
        raise ConfigError(str(error).partition(": ")[2]) from error


FILE_CHECKS: Checks = {
    "owners.profile": _check_profile,
    "owners.sources[]": _check_owner_source,
}
"""Checks of settings by what lies above them."""


def configuration(config_path: Path | None, rule_folders: tuple[Path, ...], **given: Any) -> Config:
    """Return the file's settings with the options that were given (None: it was not)."""
    config = Config()
    if config_path is not None:
        from minerwatch.config.reader import load

        config = load(config_path, FILE_CHECKS)
    overruled = {key: value for key, value in given.items() if value is not None}
    folders = (*config.rules, *(str(folder) for folder in rule_folders))
    return msgspec.structs.replace(config, rules=folders, **overruled)
