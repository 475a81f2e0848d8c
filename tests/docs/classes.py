"""One list that says of every command in the pages what runs it, or why nothing can."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from tests.docs.commands import Command


class Way(Enum):
    """How a command is tried."""

    HERE = "it is run as it stands, or on something that the test made"
    IN_A_CLUSTER = "the real kubectl or helm runs it against the tests' API server"
    BY_ITS_NAME = "the pages name it without its arguments: the program has the subcommand"
    NOT_TYPED = "code in a sentence that nobody is to type"
    PARSED = "the real program parses it, if it is there; to run it something else is missing"
    NOWHERE = "it cannot be run here"
    UNKNOWN = "it is in no class: add it to this file, and a test that runs it"


class Class(NamedTuple):
    """Commands that begin with a match of ``pattern``, and the test or the reason."""

    pattern: str
    way: Way
    why: str


_SHELL, _BINARY = "test_shell.py", "test_minerwatch_commands.py"
_ENGINES, _PARSED = "test_engine_commands.py", "test_classes.py"

CLASSES = [
    Class(r"kubectl (debug|delete|minerwatch|rollout restart)$", Way.BY_ITS_NAME, _PARSED),
    Class(r"helm (lint|template|test|upgrade|uninstall( --no-hooks)?)$", Way.BY_ITS_NAME, _PARSED),
    Class(r"(docker|podman) (build|run|start)$", Way.BY_ITS_NAME, _PARSED),
    Class(r"kubectl minerwatch top( -A)?$", Way.IN_A_CLUSTER, "test_cluster_commands.py"),
    Class(
        r"kubectl .*port-forward",
        Way.PARSED,
        "the tests' API server does not speak SPDY through a WebSocket",
    ),
    Class(
        r"(kubectl )?minerwatch (ban|release --ban)",
        Way.PARSED,
        "it wants a flagged pod and the ConfigMap of bans: ../cli/test_ban.py has them",
    ),
    Class(
        r"minerwatch report --prometheus",
        Way.PARSED,
        "it wants a Prometheus: ../deploy/test_report.py has one",
    ),
    Class(
        r"kubectl get --raw .*proxy/readyz",
        Way.PARSED,
        "the tests' API server has a proxy for reports of agents only",
    ),
    Class(r"kubectl ", Way.IN_A_CLUSTER, "test_cluster_commands.py"),
    Class(r"helm install \S+ oci:", Way.NOWHERE, "no registry can be reached; the folder can"),
    Class(r"helm ", Way.IN_A_CLUSTER, "test_cluster_commands.py"),
    Class(r"docker (build|push|save|tag) |kind |k3s ", Way.HERE, "test_install.py"),
    Class(r"docker buildx", Way.NOWHERE, "it pulls its builder, and no registry can be reached"),
    Class(r"docker (run --detach|exec)", Way.HERE, "../deploy/test_hosts.py"),
    Class(r"docker (create|cp|rm|stats|top) ", Way.HERE, _ENGINES),
    Class(r"podman (stats|top) ", Way.HERE, _ENGINES),
    Class(r"systemd-analyze verify", Way.HERE, "../deploy/test_systemd.py"),
    Class(
        r"(systemctl|journalctl) |systemd-cgtop|tee /etc|mkdir -p /etc|printf \[Service|"
        r"echo MINERWATCH|cp deploy/systemd|ln -s /opt|rm -rf /etc|python3 -m venv /opt|/opt/",
        Way.PARSED,
        "it changes a host that systemd runs: by hand, on a machine of its own",
    ),
    Class(r"aws |gcloud ", Way.PARSED, "it wants an account in that cloud"),
    Class(r"crictl ", Way.NOWHERE, "no package of Debian, PyPI or npm has it"),
    Class(r"cosign |gh ", Way.NOWHERE, "what it verifies is published with the first release"),
    Class(r"git (push|tag)", Way.NOWHERE, "it publishes a release"),
    Class(r"git (diff|hash-object)|pip install", Way.NOT_TYPED, "a name in a sentence"),
    Class(r"nvidia-smi ", Way.NOWHERE, "it wants a GPU"),
    Class(r"perf top", Way.PARSED, "it draws a screen for as long as it runs"),
    Class(r"make ", Way.PARSED, "it is a target of the Makefile; CI runs them"),
    Class(r"python -m ", Way.PARSED, "a module that takes minutes, or changes the tree"),
    Class(r"promtool ", Way.HERE, "../deploy/test_alerts.py"),
    Class(r"minerwatch (agent|top( -A|$)|top --processes$|…)", Way.PARSED, "it draws or serves"),
    Class(r"minerwatch canary", Way.HERE, "../agent/test_daemon.py"),
    Class(r"minerwatch |curl --unix-socket", Way.HERE, _BINARY),
    Class(
        r"curl (-u|…)|bash -c$|openssl req -x509$|sysctl vm|python3 train.py|/tmp/xmrig|"
        r"top (-n$|--once|--processes)|chroot /host|artifact in",
        Way.NOT_TYPED,
        "an example of somebody else's command line, or a part of one",
    ),
    Class(
        r"kill |cat |ls |ps |top |tr |nsenter |cp |sha256sum |find |awk |grep |xargs |sort|uniq|"
        r"umask|openssl rand|cut |head |tail|join |tee |echo |printf |sleep |cd |mkdir |rm |jq |"
        r"[+]$|-name |-exec ",
        Way.HERE,
        _SHELL,
    ),
]


def way_of(command: Command) -> Class:
    """Return the first class that a command is in."""
    found = (each for each in CLASSES if re.match(each.pattern, command.text))
    return next(found, Class("", Way.UNKNOWN, ""))
