"""README commands for a cluster, in their order: helm is real, the rest are stand-ins."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from generate.__main__ import found_program
from generate.names import ROOT, names
from minerwatch import __version__

_STAND_INS = {
    "docker": 'case $1 in build) test -f "$3" && test -d "${@: -1}" ;; esac',
    "kind": ":",
    "k3s": "cat >/dev/null",
    "kubectl": ":",
    "helm": 'case $1 in install) shift; exec "$HELM" template "$@" >"$RENDERED" ;; esac',
}


def test_the_commands_for_a_cluster_run_in_their_order(tmp_path: Path) -> None:
    helm = found_program("helm")
    if helm is None:
        pytest.skip("helm is missing: make helm")
    for name, does in _STAND_INS.items():
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>"$CALLS"\n{does}\n')
        program.chmod(0o755)
    section = (ROOT / "README.md").read_text().partition("\n## On a cluster\n")[2]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[:2]
    calls, rendered = tmp_path / "calls", tmp_path / "rendered"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=ROOT,
        env=os.environ
        | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
        | {"HELM": helm, "RENDERED": str(rendered)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    called = calls.read_text()
    wanted = ("docker build", "kind load", "k3s ctr", "docker push", "kubectl create namespace")
    order = [*wanted, "kubectl label namespace", "helm install", "helm test"]
    assert sorted(order, key=called.index) == order
    agent = next(
        each
        for each in yaml.load_all(rendered.read_text(), yaml.CSafeLoader)
        if each and each["kind"] == "DaemonSet"
    )
    image = f"{names()['image']}:{__version__}"
    assert agent["spec"]["template"]["spec"]["containers"][0]["image"] == image
    assert f"docker build -f deploy/Dockerfile -t {image} ." in called
