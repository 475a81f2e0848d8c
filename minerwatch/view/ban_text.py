"""Bans as text, and as configuration of a hub and of the network. Pure.

They are an agent's answer, so configuration has known settings and single addresses only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec
import yaml

from minerwatch.api.types import BanAnswer, BanStatus, LiftAnswer
from minerwatch.culling.ban_patterns import SETTINGS
from minerwatch.format import counted
from minerwatch.kinds import BanKind
from minerwatch.untrusted_text.display import printable
from minerwatch.untrusted_text.redaction import redacted

_NAME_CHARS = 253


def ban_text(answer: BanAnswer) -> str:
    """Return what is banned, or every reason against it."""
    where = printable(f"{answer.namespace}/{answer.pod} on node {answer.node}", 600)
    if answer.reasons:
        lines = [f"Nothing behind {where} may be banned:"]
        return "\n".join([*lines, *(f"  - {printable(each)}" for each in answer.reasons)]) + "\n"
    if not answer.bans:
        return f"{where} has no name that can be banned: see `minerwatch explain`.\n"
    verb = "Would ban" if answer.dry_run else "Not banned" if answer.trouble else "Banned"
    lines = []
    for each in answer.bans:
        if each.objections:
            lines.append(f"Not {_named(each)}:")
            lines += [f"  - {printable(reason)}" for reason in each.objections]
        else:
            lines.append(f"{verb} {_named(each)}, until {printable(each.until, 64)}")
            lines += [
                f"    {printable(key, 64)}: {printable(value)}"
                for key, value in each.values.items()
            ]
            if each.kind == BanKind.REPOSITORY:
                others = "unknown how many" if each.unflagged is None else f"{each.unflagged:,}"
                lines.append(f"    other sessions of it in seven days, not flagged: {others}")
    if answer.trouble:
        lines.append(f"They could not be kept: {printable(answer.trouble)}")
    elif not answer.dry_run and any(not each.objections for each in answer.bans):
        lines.append("A hub reads bans when it starts: reload it (docs/hubs.md).")
    return "\n".join(lines) + "\n"


def lift_text(answer: LiftAnswer) -> str:
    """Return what was lifted."""
    if not answer.lifted:
        return "There is no such ban.\n"
    would = "would be " if answer.dry_run else ""
    bans = counted(len(answer.lifted), "ban")
    return f"{bans} {would}lifted. A hub reads bans when it starts: reload it (docs/hubs.md).\n"


def list_text(bans: Sequence[BanStatus]) -> str:
    """Return all bans, one below the other."""
    if not bans:
        return "There are no bans.\n"
    return "".join(
        f"{_named(each)}, until {printable(each.until, 64)}, by {printable(each.by, 64)}\n"
        f"    {printable(each.reason, 300)}; evidence {printable(each.evidence, 64)} on node"
        f" {printable(each.node, 64)}\n"
        for each in bans
    )


def plain(bans: Iterable[BanStatus]) -> str:
    """Return a line for each ban: kind, blank, name."""
    return "".join(f"{printable(each.kind, 16)} {printable(each.name, 600)}\n" for each in bans)


def binderhub(bans: Sequence[BanStatus]) -> str:
    """Return lines for binderhub_config.py."""
    found = _by_setting(bans)
    networks = set(map(str, _networks(bans)))
    lines = ["# Bans by minerwatch. BinderHub reads them when it starts."]
    for setting, values in sorted(found.items()):
        if setting in SETTINGS:
            lines.append(f"c.{setting}.extend({list(values)!a})")
    banned = {each: why for each, why in found["ban_networks"].items() if each in networks}
    if banned:
        lines.append(f"c.BinderHub.ban_networks.update({banned!a})")
    return "\n".join(lines) + "\n"


def jupyterhub(bans: Iterable[BanStatus]) -> str:
    """Return lines for jupyterhub_config.py."""
    users = sorted(_by_setting(bans).get("blocked_users", {}))
    head = "# Bans by minerwatch. JupyterHub reads them when it starts: reload it.\n"
    return f"{head}c.Authenticator.blocked_users.update({users!a})\n"


def network_policy(bans: Iterable[BanStatus]) -> str:
    """Return a NetworkPolicy that admits all addresses but the banned ones."""
    networks = _networks(bans)
    blocks = [
        {"ipBlock": {"cidr": everything, "except": except_}}
        if (except_ := [str(each) for each in networks if each.version == version])
        else {"ipBlock": {"cidr": everything}}
        for everything, version in (("0.0.0.0/0", 4), ("::/0", 6))
    ]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "minerwatch-bans"},
        "spec": {
            "podSelector": {"matchLabels": {"component": "proxy"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": blocks}],
        },
    }
    head = (
        "# It works where the proxy sees clients' addresses (externalTrafficPolicy: Local). Other\n"
        "# policies for the same pods add to what is admitted: remove those that admit all.\n"
    )
    return head + str(yaml.safe_dump(policy, sort_keys=False))


def ipset(bans: Iterable[BanStatus]) -> str:
    """Return input for `ipset restore`."""
    lines = []
    networks = _networks(bans)
    for family, version in (("inet", 4), ("inet6", 6)):
        name = f"minerwatch-{family}"
        lines += [f"create {name} hash:net family {family} -exist", f"flush {name}"]
        lines += [f"add {name} {each} -exist" for each in networks if each.version == version]
    return "\n".join(lines) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[BanStatus]], str]] = {
    "text": list_text,
    "json": lambda bans: msgspec.json.encode(bans).decode() + "\n",
    "plain": plain,
    "binderhub": binderhub,
    "jupyterhub": jupyterhub,
    "network-policy": network_policy,
    "ipset": ipset,
}


def _by_setting(bans: Iterable[BanStatus]) -> dict[str, dict[str, str]]:
    """Return the values of each setting, with the ban's reason."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for each in bans:
        for setting, value in each.values.items():
            found[setting][value] = f"minerwatch {each.evidence}"
    return found


def _networks(bans: Iterable[BanStatus]) -> list[IPv4Network | IPv6Network]:
    """Return the networks to ban: those of one address, or of one /64."""
    found = []
    for each in sorted(_by_setting(bans)["ban_networks"]):
        with suppress(ValueError):
            found.append(ip_network(each))
    return [each for each in found if each.prefixlen >= (32 if each.version == 4 else 64)]


def _named(each: BanStatus) -> str:
    return f"{printable(each.kind, 16)} {printable(redacted(each.name), _NAME_CHARS)}"
