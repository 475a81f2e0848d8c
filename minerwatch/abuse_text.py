"""Wording of each kind of abuse, for Events, messages and pages: a scan is never called a miner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from minerwatch.kinds import Abuse


class AbuseText(NamedTuple):
    """Parts of the sentences about one kind of abuse."""

    word: str  # an Event's reason starts with it
    does: str  # "container x almost certainly …"
    doing: str  # "container x shows no more signs of …"


TEXTS: Mapping[str, AbuseText] = {
    Abuse.MINING: AbuseText("Miner", "mines cryptocurrency", "mining cryptocurrency"),
    Abuse.SCANNING: AbuseText(
        "Scan", "scans ports of other machines", "scanning ports of other machines"
    ),
    Abuse.FLOODING: AbuseText(
        "Flood", "floods other machines with traffic", "flooding other machines with traffic"
    ),
    Abuse.BRUTE_FORCE: AbuseText(
        "BruteForce", "tries out passwords at other machines", "trying out passwords"
    ),
    Abuse.PROXYWARE: AbuseText(
        "Proxyware", "relays the traffic of strangers", "relaying the traffic of strangers"
    ),
    Abuse.CRACKING: AbuseText("Cracker", "cracks password hashes", "cracking password hashes"),
    Abuse.UNREQUESTED_GPU: AbuseText(
        "UnrequestedGpu",
        "uses a GPU that it did not request",
        "using a GPU that it did not request",
    ),
}


def text_of(abuse: str) -> AbuseText:
    """Return the wording of ``abuse``; of an unknown kind, or "": that of mining."""
    return TEXTS.get(abuse, TEXTS[Abuse.MINING])
