"""``minerwatch agent``."""

from __future__ import annotations

import sys
from typing import Any

import click

from minerwatch.cli.options import agent_configuration, agent_options
from minerwatch.config.schema import Config


@click.command()
@agent_options
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="One JSON object a line, or lines for people; auto: for people on a terminal only.",
)
def agent(log_format: str, **options: Any) -> None:
    """Watch this node: sample, score, publish; again and again, until it is stopped.

    It observes only. It reports in three places: one line on standard error for each
    change of verdict, Prometheus metrics, and a Unix socket that `minerwatch top` and
    `minerwatch explain` read.

    \b
    minerwatch agent                                    in a pod: names pods and their owners
    minerwatch agent --no-kubernetes                    on this machine, as it is
    minerwatch agent --interval 5s --listen :9797       every 5 s, metrics on all addresses
    minerwatch agent --rules /etc/minerwatch/rules      with further rules of your own

    Run it as root to see all processes; otherwise it lists what it cannot see. Changed rule files
    are picked up at the next tick. SIGHUP reads rules and configuration again, SIGTERM stops.
    """
    from minerwatch.agent.daemon import run
    from minerwatch.report.log import logger

    def settings() -> Config:
        return agent_configuration(**options)

    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    run(settings(), logger(as_json=as_json), settings)
