"""``minerwatch config``: check, show."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from minerwatch.cli.options import (
    FILE_CHECKS,
    agent_configuration,
    agent_options,
    environment_variable,
    output_option,
)
from minerwatch.config.reader import Checks, checked
from minerwatch.config.schema import Config
from minerwatch.config.values import Duration, duration_text
from minerwatch.errors import ConfigError
from minerwatch.untrusted_text.display import printable

_BY_ENVIRONMENT = ("gpu_socket", "gpu_exporter")
_KEYS = {
    "rule_folders": "rules",
    "no_kubernetes": "kubernetes.enabled",
    "interval": "interval",
    "listen": "listen",
    "web": "web.listen",
    "web_token_file": "web.token_file",
    "journal": "report.journal",
    "socket_path": "socket",
}
"""Option of the agent -> the setting that it replaces, or adds to."""

_MAX_WIDTH = 60


@click.group()
def config() -> None:
    """Check a configuration file; show each setting and where it comes from.

    \b
    minerwatch config check agent.yaml       every fault, as file:line: key: reason
    minerwatch config show                   each setting in force, and its source

    The settings are in docs/configuration.md.

    Exit status: 0 fine, 1 faults in a file, 2 wrong usage.
    """


def _check_there(path: str) -> None:
    if path and not Path(path).exists():
        raise ConfigError(f"{path!r} is not on this machine: create it, or correct the path")


_CHECKS: Checks = {
    **FILE_CHECKS,
    **dict.fromkeys(("rules[]", "private_rules[]", "node.proc", "node.sys"), _check_there),
    **dict.fromkeys(("tls.certificate", "tls.key", "tls.client_ca"), _check_there),
    "kubernetes.kubeconfig": _check_there,
}


@config.command(short_help="Check a configuration file.")
@click.argument(
    "path",
    metavar="FILE",
    envvar="MINERWATCH_CONFIG",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@output_option
def check(path: Path, output: str) -> None:
    """Check FILE as the agent does when it starts, and print each fault: file:line: key: reason.

    Folders of rules, certificates and a kubeconfig must be on this machine: run it where the agent
    runs, with the same mounts. FILE may also come from MINERWATCH_CONFIG.

    \b
    minerwatch config check /etc/minerwatch/agent.yaml
    minerwatch config check agent.yaml -o json | jq -r '.[].key'

    With -o json a list of objects: path, line, key, text.

    Exit status: 0 no faults, 1 faults, 2 wrong usage.
    """
    try:
        faults = checked(path, _CHECKS).faults
    except ConfigError as error:  # not YAML: there is one
        click.echo(printable(str(error)))
        sys.exit(1)
    if output == "json":
        entries = [{"path": str(path), **asdict(fault)} for fault in faults]
        click.echo(json.dumps(entries, indent=2))
    else:
        for fault in faults:
            click.echo(printable(f"{path}:{fault.line}: {fault}"))
        if not faults:
            click.echo(f"{printable(str(path))}: ok")
    sys.exit(bool(faults))


@config.command(short_help="Show each setting and where it comes from.")
@agent_options
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text",
    show_default=True, help="json: the same for programs. yaml: a configuration file.",
)  # fmt: skip
@click.pass_context
def show(context: click.Context, /, output: str, **options: Any) -> None:
    """Show the settings of an agent that is started here with these options and environment.

    SOURCE is default, the line of the file, an option, or the name of an environment variable.

    \b
    minerwatch config show --config agent.yaml
    minerwatch config show --config agent.yaml | grep -v ' default$'   what differs
    minerwatch config show -o yaml > agent.yaml                        all, to begin with

    With -o json a list of objects: key, value, source.

    Exit status: 0 fine, 2 faults in the file, or wrong usage.
    """
    config = agent_configuration(**options)
    sources = _sources(context, options["config_path"])
    values = _plain(_resolved(config))
    if output == "yaml":
        click.echo(yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True), nl=False)
        return
    rows = [
        {"key": key, "value": value, "source": sources.get(key, "default")}
        for key, value in _flat(values, "")
    ]
    if output == "json":
        click.echo(json.dumps(rows, indent=2, default=str))
        return
    texts = [(row["key"], _in_yaml(row["value"]), row["source"]) for row in rows]
    widths = [min(_MAX_WIDTH, max(len(text[column]) for text in texts)) for column in (0, 1)]
    for key, value, source in texts:
        row = f"{key:{widths[0]}}  {value:{widths[1]}}  {source}"
        click.echo(printable(row))


def _sources(context: click.Context, path: Path | None) -> dict[str, str]:
    """Return the source of each setting that is no default."""
    lines = checked(path).lines if path is not None else {}
    sources = {key: f"{path}:{line}" for key, line in lines.items()}
    if "node.name" not in sources and os.environ.get("MINERWATCH_NODE"):
        sources["node.name"] = "MINERWATCH_NODE"
    for name in _BY_ENVIRONMENT:
        if f"node.{name}" not in sources and os.environ.get(f"MINERWATCH_{name.upper()}"):
            sources[f"node.{name}"] = f"MINERWATCH_{name.upper()}"
    for parameter in context.command.params:
        key = _KEYS.get(parameter.name or "")
        if key is None or not context.params.get(parameter.name or ""):
            continue
        source = environment_variable(context, parameter) or parameter.opts[0]
        is_more = key == "rules" and key in sources
        sources[key] = f"{sources[key]}, {source}" if is_more else source
    return sources


def _resolved(config: Config) -> Config:
    """Return the configuration with what the agent uses where it is empty."""
    from minerwatch.agent.monitor import node_name  # with all that an agent is

    given = {name: os.environ.get(f"MINERWATCH_{name.upper()}", "") for name in _BY_ENVIRONMENT}
    node = msgspec.structs.replace(
        config.node,
        name=node_name(config),
        **{name: getattr(config.node, name) or value for name, value in given.items()},
    )
    return msgspec.structs.replace(config, node=node, socket=str(config.socket_path))


def _flat(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _plain(value: Any) -> Any:
    """Return a setting as YAML has it."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Duration):
        return duration_text(value)
    return str(value) if isinstance(value, str) else value


def _in_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=sys.maxsize
    )
    return text.removesuffix("\n").removesuffix("\n...")
