"""``minerwatch canary``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import click

from minerwatch.api.client import answer
from minerwatch.cli.options import config_option, parsed_by, socket_option
from minerwatch.cli.web_client import check_address, fetched
from minerwatch.config.reader import load
from minerwatch.config.values import duration_s
from minerwatch.errors import SnapshotError
from minerwatch.node.canary import WORD, Canary

_SEEN = re.compile(
    r'^minerwatch_canary_last_seen_timestamp_seconds\{planted="elsewhere"\}'
    r" ([0-9]{1,12}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?)$",
    re.MULTILINE | re.ASCII,
)
_CHECK_S = 0.5
_ANSWER_S = 5.0
_MAX_ANSWER_BYTES = 16 << 20


@click.command()
@click.option(
    "--metrics",
    metavar="URL",
    help="Where this node's agent publishes its metrics, such as http://127.0.0.1:9797/metrics;"
    " without it its socket is asked.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="A file with a bearer token that may read the metrics; for https:// only.",
)
@click.option(
    "--insecure-skip-tls-verify",
    "skip_verify",
    is_flag=True,
    help="Accept any certificate, such as one that the agent has made itself.",
)
@click.option(
    "--timeout", "timeout_s", default="60s", callback=parsed_by(duration_s), metavar="DURATION",
    show_default=True, help="How long the agent may take.",
)  # fmt: skip
@socket_option
@config_option
def canary(
    metrics: str | None,
    token_file: Path | None,
    skip_verify: bool,
    timeout_s: float,
    socket_path: Path | None,
    config_path: Path | None,
) -> None:
    """Plant a harmless process here, and wait until this node's agent has found it.

    The process waits and does nothing. A shipped rule finds the word in its arguments, scores
    nothing and raises no alarm. Run it wherever you want to know that the agent can see: in a pod,
    in a container, on the host. `helm test` runs it in a pod.

    \b
    minerwatch canary                                           on the node
    minerwatch canary --metrics https://NODE:9797/metrics --insecure-skip-tls-verify \\
                      --token-file FILE                         in a pod of that node

    Exit status: 0 it was found; 1 it was not, or the agent cannot be asked.
    """
    check_address("--metrics", metrics, token_file)
    config = load(config_path)
    path = socket_path or config.socket_path

    def exposition() -> str:
        if metrics is None:
            return answer(path, "/metrics").decode(errors="replace")
        body = fetched(
            metrics,
            token_file,
            timeout_s=_ANSWER_S,
            max_bytes=_MAX_ANSWER_BYTES,
            skip_verify=skip_verify,
        )
        return body.decode(errors="replace")

    click.echo(f"found after {_found_after_s(exposition, timeout_s):.1f} s")


def _found_after_s(exposition: Callable[[], str], timeout_s: float) -> float:
    """Plant a canary; return the seconds until it was found. Raises SnapshotError if it was not."""
    last_seen_unix_s(exposition())
    planted, started_s, planted_unix_s = Canary(), time.monotonic(), time.time()
    planted.plant()
    try:
        while last_seen_unix_s(exposition()) < planted_unix_s:
            if time.monotonic() - started_s > timeout_s:
                raise SnapshotError(
                    f"the canary was not found within {timeout_s:g} s: this node's agent does not"
                    " see what runs here; see docs/sre-guide.md, MinerwatchCanaryNotSeen"
                )
            time.sleep(_CHECK_S)
        return time.monotonic() - started_s
    finally:
        planted.remove()


def last_seen_unix_s(exposition: str) -> float:
    """Return when the agent last found a canary not its own; 0: never. Raises SnapshotError."""
    found = _SEEN.search(exposition)
    if found is None:
        raise SnapshotError(
            f"this agent reports nothing about {WORD}: probes.canary is off,"
            " built_in_rules is false, or it runs in no container that it watches (its log has the"
            " reason: probe is off);"
            " or it is older than this command"
        )
    return float(found[1])
