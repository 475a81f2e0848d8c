"""The command line: one group, each command loaded only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from minerwatch import __version__
from minerwatch.cli.extra import agent_modules_for
from minerwatch.errors import ConfigError, ConfigFileError, MinerwatchError, MissingExtraError
from minerwatch.garbage import collector_paused, skip_collection_at_exit

_COMMANDS = {
    "agent": "watch this node: score its containers, serve metrics",
    "top": "show the containers that look like abuse, then those that use most CPU",
    "explain": "say why a container, pod or process has its score",
    "cull": "act on a container by hand, under the policy; show what would have been culled",
    "ban": "keep the user, repository or address behind a miner from coming back",
    "report": "add up the last days: abuse by owner, CPU hours, cost, and what was done",
    "release": "undo what culling did to a pod, and leave it alone",
    "rules": "list, lint, test and replay rule files",
    "status": "say whether this node's agent works: sources, probes, rules, cluster, bounds",
    "config": "check a configuration file; show each setting and where it comes from",
    "canary": "plant a harmless process, and see whether the agent finds it",
    "version": "print the version",
}
"""The most urgent first; each is in the module of its name."""

_IN_PODS = ("snapshot", "order")
"""Hidden commands of ``in_pod``, run by other commands."""

_MAX_CHARS = 4096


class _Failure(click.ClickException):
    """An error that a person can mend. It may quote an agent or a file, so it is escaped."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self._lines = lines

    def show(self, file: Any = None) -> None:
        from minerwatch.untrusted_text.display import printable  # only once something has failed

        for line in self._lines:
            click.echo(f"minerwatch: {printable(line, _MAX_CHARS)}", file=file or sys.stderr)


class _WrongUsage(_Failure):
    exit_code = 2


class _LazyGroup(click.Group):
    """Imports a command when it is called: most of the time of a short command is imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in (*_COMMANDS, *_IN_PODS):
            return None
        module = "in_pod" if cmd_name in _IN_PODS else cmd_name
        try:
            with agent_modules_for(f"minerwatch {cmd_name}"), collector_paused():
                imported = import_module(f"minerwatch.cli.{module}")
        except MissingExtraError:
            if ctx.resilient_parsing:  # a shell that completes
                return None
            raise
        command: click.Command = getattr(imported, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from minerwatch.config.faults import suggestion  # only once something is wrong

            ctx.fail(error.message.rstrip(".") + suggestion(args[0], _COMMANDS))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with agent_modules_for("this command"):
                return super().invoke(ctx)
        except click.BadParameter as error:
            _name_environment(error)
            raise
        except ConfigFileError as error:
            raise _WrongUsage(*error.lines) from error
        except ConfigError as error:
            raise _WrongUsage(str(error)) from error
        except MinerwatchError as error:
            raise _Failure(str(error)) from error


def _name_environment(error: click.BadParameter) -> None:
    """Name the environment variable of an option's value where it comes from one, only there."""
    if error.ctx is not None and isinstance(error.param, click.Option) and not error.param_hint:
        from minerwatch.cli.options import environment_variable

        variable, option = environment_variable(error.ctx, error.param), error.param.opts[0]
        error.param_hint = f"environment variable {variable} ({option})" if variable else option


@click.group(
    cls=_LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "MINERWATCH",
        "max_content_width": 100,
    },
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """minerwatch finds crypto-miners on Kubernetes nodes and other Linux machines, and says why.

    \b
    minerwatch top --once       what looks like a miner here, and what uses most CPU?
    minerwatch top -A           the same for a whole cluster, from a laptop
    minerwatch explain 12345    why does this process's container have its score?
    minerwatch agent            watch all the time, serve metrics on 127.0.0.1:9797

    Results go to standard output, everything else to standard error. Exit status: 0 fine,
    1 findings or failures that the command is about, 2 wrong usage. Every option can come from the
    environment: MINERWATCH_TOP_SORT=cpu stands for `top --sort cpu`.
    """


def main() -> None:
    """Run the program: entry point of ``minerwatch`` and ``kubectl-minerwatch``."""
    skip_collection_at_exit()
    called = Path(sys.argv[0]).name
    name = "kubectl minerwatch" if called.startswith("kubectl") else "minerwatch"
    cli(prog_name=name)
