"""``minerwatch agent``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from minerwatch.cli.options import (
    config_option,
    configuration,
    parsed_by,
    rules_option,
    socket_option,
)
from minerwatch.config.schema import Config
from minerwatch.config.values import DEFAULT_LISTEN, Duration, duration_s, host_and_port
from minerwatch.errors import ConfigError


def _address(text: str) -> str:
    host_and_port(text)
    return text


@click.command()
@config_option
@rules_option
@click.option(
    "--no-kubernetes",
    is_flag=True,
    envvar="MINERWATCH_NO_KUBERNETES",
    show_envvar=True,
    help="Watch this machine alone, also inside a pod: without the names of pods and owners.",
)
@click.option(
    "--interval",
    callback=parsed_by(duration_s),
    metavar="DURATION",
    help="Time from one tick to the next, such as 10s or 1m.  [default: 10s]",
)
@click.option(
    "--listen",
    callback=parsed_by(_address),
    metavar="ADDRESS:PORT",
    help=f"Where /metrics, /healthz and /readyz are served.  [default: {DEFAULT_LISTEN}]",
)
@click.option(
    "--web",
    metavar="ADDRESS:PORT",
    help="Serve pages for a browser there, such as 127.0.0.1:9798; off by default.",
)
@click.option(
    "--web-token-file",
    metavar="FILE",
    help="Pages require the token in this file; any address but loopback needs one.",
)
@click.option(
    "--journal",
    metavar="FOLDER",
    help="Keep a history of verdicts and CPU usage there, at most 16 MiB.",
)
@socket_option
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="One JSON object a line, or lines for people; auto: for people on a terminal only.",
)
def agent(
    config_path: Path | None,
    rule_folders: tuple[Path, ...],
    no_kubernetes: bool,
    interval: Duration | None,
    listen: str | None,
    web: str | None,
    web_token_file: str | None,
    journal: str | None,
    socket_path: Path | None,
    log_format: str,
) -> None:
    """Watch this node: sample, score, publish; again and again, until it is stopped.

    It observes only. It reports in three places: one line on standard error for each
    change of verdict, Prometheus metrics, and a Unix socket that `minerwatch top` and
    `minerwatch explain` read.

    \b
    minerwatch agent                                    in a pod: names pods and their owners
    minerwatch agent --no-kubernetes                    on this machine, as it is
    minerwatch agent --interval 5s --listen :9797       every 5 s, metrics on all addresses
    minerwatch agent --web 127.0.0.1:9798               pages for a browser on this machine
    minerwatch agent --rules /etc/minerwatch/rules      with further rules of your own

    Run it as root to see all processes; otherwise it lists what it cannot see. Changed rule files
    are picked up at the next tick. SIGHUP reads rules and configuration again, SIGTERM stops.
    """
    from minerwatch.agent.daemon import run
    from minerwatch.report.log import logger

    def settings() -> Config:
        config = configuration(
            config_path,
            rule_folders,
            interval=interval,
            listen=listen,
            socket=None if socket_path is None else str(socket_path),
        )
        try:
            config = config.with_web(web, web_token_file, journal)
        except ConfigError as error:
            raise click.UsageError(f"--web: {error}") from error
        return config.without_kubernetes() if no_kubernetes else config

    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    run(settings(), logger(as_json=as_json), settings)
