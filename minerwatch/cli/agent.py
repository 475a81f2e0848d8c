"""``minerwatch agent``."""

from __future__ import annotations

import sys
from typing import Any

import click

from minerwatch.cli.extra import agent_modules_for
from minerwatch.cli.options import agent_configuration, agent_options
from minerwatch.config.schema import Config
from minerwatch.garbage import collector_paused


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

    It observes, and acts on nothing unless the configuration switches culling on. It reports in
    four places: one line on standard error for each change of verdict, Prometheus metrics, a Unix
    socket that `minerwatch top`, `explain` and `status` read, and in a cluster Events on pods that
    become likely or confirmed. Options replace what the file says; --rules adds to it.

    \b
    minerwatch agent                                    in a pod: names pods and their owners
    minerwatch agent --no-kubernetes                    on this machine, as it is
    minerwatch agent --interval 5s --listen :9797       every 5 s, metrics on all addresses
    minerwatch agent --web 127.0.0.1:9798               pages for a browser on this machine
    minerwatch agent --rules /etc/minerwatch/rules      with further rules of your own

    Run it as root to see all processes; otherwise it lists what it cannot see. Changed rule files
    are picked up at the next tick. SIGHUP reads rules and configuration again; SIGTERM and SIGINT
    stop it.

    Exit status: 0 stopped by a signal; 1 the node cannot be read, or an address or socket is taken;
    2 a fault in the configuration or wrong usage: every fault is on a line of standard error.
    """
    with agent_modules_for("minerwatch agent"), collector_paused():
        from minerwatch.agent.daemon import run
        from minerwatch.report.log import logger

    def settings() -> Config:
        return agent_configuration(**options)

    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    run(settings(), logger(as_json=as_json), settings)
