"""Only what is named here changes the cluster, signals a process, or starts a program."""

from __future__ import annotations

import re
from pathlib import Path

import minerwatch

_WRITES = re.compile(r'"(?:DELETE|PATCH|PUT)"|/eviction')
_SIGNALS = re.compile(r"\bpidfd_send_signal\(|\bos\.kill(?:pg)?\(")
_ENGINES = re.compile(r"/containers/\{")
_POSTS = re.compile(r'"POST"|/exec"')
_EVENTS = "kube/events.py"  # counts a repeated Event
_CHILDREN = "node/"  # ends the agent's own children
_STARTS = re.compile(
    r"\bsubprocess\.[a-zP]|\bos\.(?:exec|posix_spawn|fork)|GuardedProgram\(|output_of\("
)


def _modules(pattern: re.Pattern[str]) -> set[str]:
    package = Path(minerwatch.__file__).parent
    return {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }


def test_only_culling_changes_pods() -> None:
    assert _modules(_WRITES) == {
        "culling/actions.py",
        "culling/hub_api.py",
        "culling/lease_budget.py",
        "culling/ban_store.py",  # a ConfigMap
        _EVENTS,
    }


def test_what_else_asks_the_cluster_to_do_something() -> None:
    assert _modules(_POSTS) == {
        *("culling/actions.py", "culling/lease_budget.py", "culling/ban_store.py", _EVENTS),
        "culling/host_actions.py",  # a host's engine
        "kube/token_review.py",  # reviews, which the API server does not keep
        "kube/agent_port.py",  # of the commands: a person's own permission, for a short-lived token
        "kube/pod_exec.py",  # of the commands, too: reads and orders in agents' pods
        "api/client.py",  # orders to an agent's socket
        "report/notifier.py",  # messages to chats
    }


def test_only_culling_signals_processes() -> None:
    found = {name for name in _modules(_SIGNALS) if not name.startswith(_CHILDREN)}
    assert found == {"culling/process_signals.py"}


def test_only_culling_changes_containers_of_engines() -> None:
    found = _modules(_ENGINES)
    assert found == {"culling/actions.py", "culling/host_actions.py", "node/engine_names.py"}
    names = Path(minerwatch.__file__).parent / "node" / "engine_names.py"
    assert "AF_UNIX" not in names.read_text()  # it reads files


def test_what_starts_programs() -> None:
    assert _modules(_STARTS) == {
        "node/guarded_child.py",
        "node/canary.py",
        *(f"node/{name}.py" for name in ("command_lines", "hot_code", "yara_scan")),
        *(f"node/{name}.py" for name in ("overlay_layers", "exe_digests", "gpu_use")),
        "probes/executed_code.py",
        *("agent/rule_loader.py", "report/tls.py"),
        "cli/top_screen/copies.py",  # tmux, of the person at the screen
    }
