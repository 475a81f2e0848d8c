"""The whole verdict on login services under load, each with a session to a database outside.

    python -m benchmarks.logins [--cpu-seconds 150] [--write] [NAME…]

Needs root and ``ip``. A service hashes passwords in a container with a network of its own, by
argon2id, bcrypt, PBKDF2, scrypt or yescrypt; users log in without a pause from a second namespace,
where its database lies, too: outside the cluster. With ``-quiet`` after the function's name it asks
the database once in 20 s; ``-worker`` does so, too, and accepts no connections: it hashes what the
database sends. The agent's own node looks on, one service after the other. ``--write`` puts the
rows into docs/detection.md; rows of other services stay.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from benchmarks import traffic
from benchmarks.networks import DOCUMENT, Networks, networks
from minerwatch.agent.monitor import MonitoredNode, now_s, open_node
from minerwatch.config.schema import BUILT_IN_RULES, Config, Examination
from minerwatch.config.values import Duration
from minerwatch.detection.judge import signal_scores
from minerwatch.detection.sigma import rulebook
from minerwatch.model import Observation, Signal
from tests.conftest import TOP, CgroupFolders, cgroup_root, container_id
from tests.waiting import cpu_s

TARGET = Path(__file__).parents[1] / "tests" / "targets" / "login_service.py"
BEGIN, END = "<!-- begin: python -m benchmarks.logins --write -->", "<!-- end of logins -->"
FUNCTIONS = {
    "argon2id": "argon2",
    "bcrypt": "bcrypt",
    "pbkdf2": "hashlib",
    "scrypt": "hashlib",
    "yescrypt": "ctypes",
}
"""Function -> module that it needs."""
QUIET, WORKER = "-quiet", "-worker"
SERVICES = (*FUNCTIONS, f"yescrypt{QUIET}")
WORKERS = (f"yescrypt{WORKER}",)
_PAUSE_S = 20.0
"""Between two questions to the database, where it is quiet: as long as between shares of a pool."""
CONFIG = Config(examination=Examination(cpu_per_look=Duration(6.0)))
HAS_SESSION = "Session with a database outside"
ACCEPTS = "Accepts connections"
_SEEN = {
    HAS_SESSION: "{SessionOutsideCluster: true, SessionAge|gte: 30}",
    ACCEPTS: "{AcceptsConnections: true}",
}
_RULE = """
title: {title}
id: 6a4f0b52-5d0c-4b43-9a39-0c9f5b8c1d7{number}
status: experimental
description: Shows what was seen.
logsource: {{product: linux, category: network_connection}}
detection:
  seen: {seen}
  condition: seen
level: informational
"""
_HEAD = (
    "| login service, CPU time | session | accepts | score | level | signals | rules of 15 |",
    "| --- | --- | --- | ---: | --- | --- | --- |",
)
MIN_S = 270.0
_TICK_S = 2.0
_PORT = 8443
_USERS = 4


@contextmanager
def service(found: Networks, cgroups: CgroupFolders, name: str) -> Iterator[tuple[int, str]]:
    """Run a service and its users, or a worker; yield its PID and its cgroup."""
    folder = cgroups.make(f"{TOP}/docker/{container_id('10')}")
    function, _, kind = name.partition("-")
    database = (traffic.address(3), str(traffic.ECHO), str(_PAUSE_S if kind else 0.0))
    programs: list[tuple[str, tuple[str, ...]]]
    programs = [(found.client, ("serve", function, str(_PORT), *database))]
    if name.endswith(WORKER):
        programs = [(found.client, ("work", function, *database))]
    else:
        programs += [(found.world, ("users", traffic.CLIENT, str(_PORT), str(_USERS)))]
    running = []
    try:
        for namespace, arguments in programs:
            enters = ("ip", "netns", "exec", namespace, sys.executable, str(TARGET))
            process = subprocess.Popen([*enters, *arguments], stdout=subprocess.PIPE)
            running.append(process)
            if namespace == found.client:
                cgroups.put(process, folder)
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise RuntimeError(f"the service does not start: {name}")
        yield running[0].pid, f"/{folder.relative_to(cgroups.root)}"
    finally:
        for process in running:
            process.kill()
            with process:
                pass
        with suppress(OSError):
            folder.rmdir()


def watched(
    node: MonitoredNode, pid: int, cgroup: str, least_cpu_s: float
) -> Iterator[Observation]:
    """Yield what the node knows of the service at each tick, until it has used CPU time.

    It takes MIN_S, too: the rule on quiet sessions holds after two minutes, for one.
    """
    until_s = time.monotonic() + MIN_S
    while cpu_s(pid) < least_cpu_s or time.monotonic() < until_s:
        if not Path(f"/proc/{pid}/exe").exists():  # also of a zombie
            raise RuntimeError("the service has exited")
        node.watch.tick(now_s())
        if node.watch.wants_samples:
            node.watch.sample(now_s())
        yield from (each for each in node.watch.observations(10) if each.container.cgroup == cgroup)
        time.sleep(_TICK_S)


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*SERVICES, *WORKERS])
    parser.add_argument("--cpu-seconds", type=float, default=150.0)
    parser.add_argument("--write", action="store_true", help="into docs/detection.md")
    options = parser.parse_args()
    here = [each for each in options.names if can_run(each)]
    rows = _written() if options.write else {}
    with tempfile.TemporaryDirectory() as folder:
        write_rules(Path(folder))
        book = rulebook.load((BUILT_IN_RULES, Path(folder)))
    for name in here:
        cgroups, node = CgroupFolders(cgroup_root()), open_node(CONFIG, book)
        try:
            with networks() as found, service(found, cgroups, name) as (pid, cgroup):
                seen = [*watched(node, pid, cgroup, options.cpu_seconds)]
                rows[name] = _row(name, cpu_s(pid), seen)
        finally:
            node.watch.close()
            cgroups.close()
        print(rows[name], dict(seen[-1].executed), file=sys.stderr, flush=True)
    table = "\n".join((*_HEAD, *rows.values()))
    print(table)
    if options.write:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def can_run(name: str) -> bool:
    """Return True if the module is here that a service needs."""
    return find_spec(FUNCTIONS[name.partition("-")[0]]) is not None


def _written() -> dict[str, str]:
    """Return the rows that the page has, by name."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][len(_HEAD) :]
    return {row[2:].partition(",")[0]: row for row in rows}


def write_rules(folder: Path) -> None:
    """Write rules that show in a verdict what was seen."""
    for number, (title, seen) in enumerate(_SEEN.items()):
        rule = _RULE.format(title=title, number=number, seen=seen)
        (folder / f"{number}.yml").write_text(rule)


def has_seen(title: str, observations: Sequence[Observation]) -> bool:
    """Return True if one of these rules held."""
    return any(each.title == title for seen in observations for each in seen.verdict.findings)


def _row(name: str, spent_s: float, seen: Sequence[Observation]) -> str:
    verdict = max((each.verdict for each in seen), key=lambda each: each.score)
    signals = {
        signal.value: score
        for signal, score in signal_scores(verdict.findings).items()
        if signal is not Signal.BEHAVIOUR
    }
    rules = {
        f"{each.title} ({each.score:g})"
        for each in verdict.findings
        if each.score >= 15 and each.signal is not Signal.BEHAVIOUR
    }
    cells = (
        f"{name}, {spent_s:.0f} s",
        *("yes" if has_seen(title, seen) else "no" for title in _SEEN),
        f"{verdict.score:.0f}",
        verdict.level.label,
        ", ".join(f"{name} {score:g}" for name, score in sorted(signals.items())),
        "; ".join(sorted(rules)),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
