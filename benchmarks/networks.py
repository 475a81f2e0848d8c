"""How many scans, floods and guesses are found by a pod's network, and which ordinary programs are.

    python -m benchmarks.networks [--seconds 12] [--write] [CASE…]

Guessed passwords and hosts 30 ms away get a minute.

Needs root and ``ip``. Each client of benchmarks.traffic runs in a network namespace of its own, as
a pod does, beside one that stands for the internet; nothing leaves them. The rules see the facts
that the agent's own code reads there; how long a rule must hold (10 s) is not waited for. Prints a
table; ``--write`` puts it into ``docs/detection.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import far_hosts, traffic
from benchmarks.neighbours import ATTACKS
from benchmarks.table import machine
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.judge import score_of
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Abuse, ContainerKey, Facts, Finding, Level
from minerwatch.node.network_counters import CounterReader
from minerwatch.node.pod_sockets import PodSockets
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.probes.network_counters import NetworkUser, PodNetworks

DOCUMENT = Path(__file__).parent.parent / "docs" / "detection.md"
BEGIN, END = "<!-- begin: python -m benchmarks.networks --write -->", "<!-- end of networks -->"
_TICK_S = 2.0
_LONG = "brute", "open ports", "crawler, 30 ms", "600 ports", "300 servers"
"""Words in cases that get a minute."""
KEY = ContainerKey("/pod", 1)


class NoNetworksError(Exception):
    """Namespaces cannot be made here; ``str()`` says what is missing."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Two network namespaces that are connected with each other and nothing else."""

    client: str
    world: str

    @contextmanager
    def running(self, namespace: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run benchmarks.traffic in one of them, and end it with all that it has started."""
        command = [sys.executable, "-m", "benchmarks.traffic", *arguments]
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetworksError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def networks() -> Iterator[Networks]:
    """Make the namespaces, and what answers in one of them; raises NoNetworksError."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoNetworksError("network namespaces need root and ip (Debian: apt install iproute2)")
    client, world = (f"minerwatch-{os.getpid()}-{name}" for name in ("client", "world"))
    with ExitStack() as stack:
        for name in (client, world):
            _ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip(*("link", "add", "mwveth0", "netns", client, "type", "veth"),
            *("peer", "name", "mwveth1", "netns", world))  # fmt: skip
        _ip("-n", client, "addr", "add", f"{traffic.CLIENT}/24", "dev", "mwveth0")
        _ip("-n", world, "addr", "add", "192.0.2.1/24", "dev", "mwveth1")
        _ip("-n", client, "link", "set", "mwveth0", "up")
        _ip("-n", world, "link", "set", "mwveth1", "up")
        _ip("-n", client, "route", "add", "default", "via", "192.0.2.1")
        _ip("-n", world, "route", "add", "local", f"{traffic.ANSWERING}.0/24", "dev", "lo")
        _ip("-n", world, "route", "add", "blackhole", f"{traffic.SILENT}.0/24")
        if Path("/dev/net/tun").exists():
            _ip("-n", world, "tuntap", "add", "dev", far_hosts.DEVICE, "mode", "tun")
            _ip("-n", world, "link", "set", far_hosts.DEVICE, "up")
            for prefix in (far_hosts.FAR, far_hosts.NEAR):
                _ip("-n", world, "route", "add", f"{prefix}.0/24", "dev", far_hosts.DEVICE)
        # 250 hosts answer here, each of which would answer once a second that a port is closed
        settings = ("net/ipv4/ip_forward=1", "net/ipv4/icmp_ratelimit=0")
        for setting in settings:
            path, _, value = setting.partition("=")
            script = f"echo {value} >/proc/sys/{path}"
            subprocess.run(["ip", "netns", "exec", world, "sh", "-c", script], check=True)
        found = Networks(client, world)
        answering = stack.enter_context(found.running(world, "world"))
        assert answering.stdout is not None
        answering.stdout.readline()
        yield found


def namespace_of(pid: int) -> int:
    """Return the inode of a process's network namespace, once ``ip netns exec`` has entered it."""
    own, found = (Path(f"/proc/{each}/ns/net").stat().st_ino for each in ("self", pid))
    while pid != os.getpid() and found == own:
        time.sleep(0.01)
        found = Path(f"/proc/{pid}/ns/net").stat().st_ino
    return found


def facts_of(
    found: Networks,
    case: str,
    seconds: float,
    is_enough: Callable[[Facts], bool] = lambda _facts: False,
    *,
    tick_s: float = _TICK_S,
) -> Facts:
    """Run one case and return the facts about its pod at the end, or once they are enough."""
    try:
        sockets: SocketIterator | SocketReader = SocketIterator()
    except SourceUnavailableError:
        sockets = SocketReader()
    pods = PodNetworks(CounterReader(), PodSockets(sockets, closed=SocketReader()).start())
    facts: Facts = {}
    try:
        with ExitStack() as running:
            until_s = str(seconds + 2)
            process = running.enter_context(found.running(found.client, case, until_s))
            if case in ATTACKS:
                running.enter_context(found.running(found.world, f"against: {case}", until_s))
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                time.sleep(tick_s)
                user = NetworkUser(KEY, "pod", 1.0, _session(process.pid), process.pid)
                pods.tick([user], time.monotonic())
                facts = pods.facts(KEY) or facts
                if is_enough(facts):
                    break
    finally:
        pods.close()
    return facts


def duration_s(case: str, seconds: float) -> float:
    """Return how long a case runs: ``seconds``, or the minute of what repeats slowly."""
    return max(60.0, seconds) if any(word in case for word in _LONG) else seconds


def _session(leader: int) -> list[int]:
    said = subprocess.run(["pgrep", "-s", str(leader)], capture_output=True, check=False).stdout
    return [int(each) for each in said.split()] or [leader]


def found_on(matcher: Matcher, facts: Facts) -> dict[Abuse, float]:
    """Return the score of each kind of abuse on a container with these facts."""
    findings = [
        Finding(m.rule.id, m.rule.title, m.rule.signal, m.rule.score, m.rule.maturity, 0.0, None,
                m.evidence, abuse=m.rule.abuse)
        for m in matcher.container_matches(facts)
    ]  # fmt: skip
    kinds = {each.abuse for each in findings}
    return {kind: score_of([f for f in findings if f.abuse is kind]) for kind in kinds}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("cases", nargs="*", metavar="CASE")
    options.add_argument("--seconds", type=float, default=12.0)
    options.add_argument("--write", action="store_true")
    chosen = options.parse_args()
    matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
    rows = []
    began_s = time.monotonic()
    for case in chosen.cases or [*traffic.ABUSE, *traffic.INNOCENT]:
        with networks() as found:  # each is to leave no closed connections to the next one
            facts = facts_of(found, case, duration_s(case, chosen.seconds))
        rows.append((case, facts, found_on(matcher, facts)))
        print(case, facts, rows[-1][2], file=sys.stderr, flush=True)
    minutes = (time.monotonic() - began_s) / 60
    how = f"{machine()}; {minutes:.0f} minutes, a load of {os.getloadavg()[2]:.0f} meanwhile."
    table = "\n".join((how, "", *_lines(rows)))
    print(table)
    if chosen.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _lines(rows: Sequence[tuple[str, Facts, dict[Abuse, float]]]) -> Iterator[str]:
    yield (
        "| traffic | found as | level | connects/s | fail | segments each | datagrams/s | raw/s "
        "| kB/s sent |"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case, facts, scores in rows:
        kind = max(scores, key=lambda each: scores[each], default=None)
        level = Level.of(scores[kind]) if kind else Level.CLEAR
        numbers = (
            _cell(facts, name)
            for name in ("ConnectsPerSecond", "FailedConnectShare", "SegmentsPerConnect",
                         "DatagramsPerSecond", "RawPacketsPerSecond")
        )  # fmt: skip
        sent_bytes = facts.get("SentBytesPerSecond")
        sent = f"{sent_bytes / 1000:,.0f}" if isinstance(sent_bytes, float) else ""
        cells = (case, kind.value if kind else "", level.label, *numbers, sent)
        yield f"| {' | '.join(cells)} |"
    abuse = [scores for case, _, scores in rows if case in traffic.ABUSE]
    others = [scores for case, _, scores in rows if case in traffic.INNOCENT]
    yield ""
    found, false = sum(map(bool, abuse)), sum(map(bool, others))
    yield f"Found: {found} of {len(abuse)}. False alarms: {false} of {len(others)}."


def _cell(facts: Facts, name: str) -> str:
    value = facts.get(name)
    return (
        f"{value:,.2f}"
        if isinstance(value, float | int) and value < 10
        else (f"{value:,.0f}" if isinstance(value, float | int) else "")
    )


if __name__ == "__main__":
    main()
