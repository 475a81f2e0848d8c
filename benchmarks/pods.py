"""What knowing a node's pods costs: memory, time and requests, against a server of the tests' own.

    python -m benchmarks.pods [--pods 250] [--cluster 10000] [--changes 1000] [--large 20]

A cluster of pods of realistic size (10 KB of JSON each, most of it managedFields), of which some
run on the node that is watched. The watch runs in a process by itself, so that its memory and CPU
time are not the server's. Then a whole agent follows the same node; and last a node is filled with
pods as large as somebody who wants to harm the agent can make them.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from minerwatch.kube.client import from_kubeconfig
from minerwatch.kube.owners import pod_fields, sources
from minerwatch.kube.pods import PodWatch
from tests.kube.api_server import ApiServer, Json, encode, pod_json

NODE = "n1"
POD_BYTES = 10_000
_AGENT_RUNS_S = 12.0


def main() -> None:
    arguments = _arguments()
    context = multiprocessing.get_context("spawn")
    with ApiServer() as server, tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.cluster):
            server.put(_pod(number, NODE if number < arguments.pods else f"n{number % 40 + 2}"))
        size = len(encode(_pod(0, NODE)))
        print(f"{machine()}; {arguments.cluster} pods in the cluster, {size} bytes each\n")
        ours, theirs = context.Pipe()
        path = Path(folder) / "kubeconfig"
        path.write_text(kubeconfig(server.url))
        watcher = context.Process(target=_watch, args=(str(path), theirs))
        watcher.start()
        try:
            _report(server, ours, arguments)
        finally:
            ours.send("end")
            watcher.join()
        alone = "kubernetes: {enabled: false}\n"
        print(f"a whole agent without a cluster {_agent_rss_mib(alone):10.1f} MiB")
        following = f"node: {{name: {NODE}}}\nkubernetes: {{enabled: true, kubeconfig: {path}}}\n"
        print(f"a whole agent that follows it   {_agent_rss_mib(following):10.1f} MiB")
    with ApiServer() as server, tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.large):
            server.put(_large_pod(number))
        path = Path(folder) / "kubeconfig"
        path.write_text(kubeconfig(server.url))
        found = _in_own_process(context, path)
        size_mib = len(encode(_large_pod(0))) / 2**20
        print(f"\n{arguments.large} pods of {size_mib:.1f} MiB each")
        print(f"pods kept                       {found['pods']:10}")
        print(f"list, parse, keep               {found['cpu_s'] * 1000:10.0f} ms CPU")
        print(f"process in all, at most         {found['peak_mib']:10.1f} MiB")


def _in_own_process(context: SpawnContext, path: Path) -> dict[str, Any]:
    ours, theirs = context.Pipe()
    watcher = context.Process(target=_watch_large, args=(str(path), theirs))
    watcher.start()
    found: dict[str, Any] = ours.recv()
    watcher.join()
    return found


def _watch_large(path: str, pipe: Connection) -> None:
    """Runs in a process of its own."""
    pods = _pod_watch(path)
    before_s = time.process_time()
    pods.start()
    while not pods.is_following:
        time.sleep(0.001)
    pipe.send({
        "pods": len(pods.pods()),
        "cpu_s": time.process_time() - before_s,
        "peak_mib": _status_mib("self", "VmHWM"),  # getrusage has that of before the exec, too
    })  # fmt: skip
    pods.close()


def _agent_rss_mib(config: str) -> float:
    """Resident, of an agent that has run for some ticks, with all its probes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.yaml"
        settings.write_text(config)
        command = [sys.executable, "-m", "minerwatch", "agent", "--config", str(settings)]
        command += ["--interval", "1s", "--listen", "127.0.0.1:0", "--socket", f"{folder}/socket"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as agent:
            time.sleep(_AGENT_RUNS_S)
            rss_mib = _status_mib(agent.pid, "VmRSS")
            agent.terminate()
    return rss_mib


def _status_mib(pid: int | str, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def _report(server: ApiServer, watcher: Connection, arguments: argparse.Namespace) -> None:
    before, opened, listed = watcher.recv(), watcher.recv(), watcher.recv()
    print(f"pods kept                       {listed['pods']:10}")
    print(f"client imported and opened      {_growth(opened, before)}")
    print(f"list, parse, keep               {_growth(listed, opened)}")
    print(f"  of that the pods themselves   {listed['kept_bytes'] / 2**20:10.2f} MiB")
    print(f"process in all                  {listed['rss_mib']:10.1f} MiB")
    for number in range(arguments.changes):
        server.put(_pod(number % arguments.pods, NODE, revision=number))
        server.put(_pod(arguments.pods + number, "n2", revision=number))  # not for this node
    watcher.send(arguments.changes)
    changed = watcher.recv()
    per_change_us = (changed["cpu_s"] - listed["cpu_s"]) / arguments.changes * 1e6
    print(f"a change, CPU                   {per_change_us:10.0f} µs")
    print(f"memory after {arguments.changes} changes       {changed['rss_mib']:10.1f} MiB")
    print(f"a lookup by container id        {changed['lookup_us']:10.2f} µs")
    print(f"requests                        {len(server.requests):10}")
    sent_mib = arguments.pods * len(encode(_pod(0, NODE))) / 2**20
    print(f"the list, as it is sent         {sent_mib:10.1f} MiB")


def _watch(path: str, pipe: Connection) -> None:
    """Runs in a process of its own."""
    pipe.send(_measured())
    pods = _pod_watch(path)
    pipe.send(_measured())
    pods.start()
    while not pods.is_following:
        time.sleep(0.001)
    pipe.send({**_measured(), "pods": len(pods.pods()), "kept_bytes": _kept_bytes(pods)})
    last = pipe.recv() - 1
    while not any(pod.labels["revision"] == str(last) for pod in pods.pods()):
        time.sleep(0.001)
    pipe.send({**_measured(), "lookup_us": _lookup_us(pods)})
    pipe.recv()
    pods.close()


def _pod_watch(path: str) -> PodWatch:
    return PodWatch(
        from_kubeconfig(path),
        NODE,
        keep=pod_fields(sources("binderhub")),
        on_error=print,
        chance=random.Random(1),
    )


def _measured() -> dict[str, Any]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mib": pages * resource.getpagesize() / 2**20,
        "cpu_s": time.process_time(),
    }


def _kept_bytes(pods: PodWatch) -> int:
    """The size of all that hangs on the pods, each object once."""
    seen: dict[int, object] = {}
    todo: list[object] = [*pods.pods()]
    while todo:
        value = todo.pop()
        if id(value) not in seen and not isinstance(value, type):
            seen[id(value)] = value
            todo.extend(gc.get_referents(value))
    return sum(sys.getsizeof(value) for value in seen.values())


def _lookup_us(pods: PodWatch) -> float:
    ids = [container.container_id for pod in pods.pods() for container in pod.containers] * 20
    began_s = time.perf_counter()
    for container_id in ids:
        pods.by_container_id(container_id)
    return (time.perf_counter() - began_s) / len(ids) * 1e6


def _pod(number: int, node: str, revision: int = -1) -> Json:
    name = f"jupyter-user-{number:05}"
    containers = {"notebook": f"{number:064x}", "block-cloud-metadata": f"{number + 2**200:064x}"}
    pod = pod_json(
        name,
        node=node,
        namespace="hub",
        containers=containers,
        uid=f"00000000-0000-4000-8000-{number:012}",
        labels={
            "app": "jupyterhub",
            "component": "singleuser-server",
            "release": "hub",
            "hub.jupyter.org/username": f"user-{number:05}",
            "hub.jupyter.org/servername": "",
            "heritage": "jupyterhub",
            "revision": str(revision),
        },
        annotations={"hub.jupyter.org/username": f"user-{number:05}@example.org"},
    )
    for container in pod["spec"]["containers"]:
        variables = {f"JUPYTERHUB_VARIABLE_{place}": "v" * 40 for place in range(20)}
        variables["BINDER_REPO_URL"] = f"https://github.com/example/repository-{number % 50}"
        container["env"] = [{"name": key, "value": value} for key, value in variables.items()]
        container["resources"] = {"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}}
    missing = POD_BYTES - len(encode(pod))
    fields: Json = {f"f:field{place:04}": {} for place in range(missing // 17)}
    pod["metadata"]["managedFields"] = [{"manager": "kubelet", "fieldsV1": fields}]
    return pod


def _large_pod(number: int) -> Json:
    """1.4 MiB for etcd, six times that as JSON."""
    pod = pod_json(f"large-{number}", node=NODE)
    pod["spec"]["containers"][0]["args"] = ["\x01" * 1_400_000]
    return pod


def _growth(after: dict[str, Any], before: dict[str, Any]) -> str:
    cpu_ms = (after["cpu_s"] - before["cpu_s"]) * 1000
    return f"{after['rss_mib'] - before['rss_mib']:10.1f} MiB  {cpu_ms:6.0f} ms CPU"


def kubeconfig(url: str) -> str:
    return f"""
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {python}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pods", type=int, default=250, help="on the node")
    parser.add_argument("--cluster", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--large", type=int, default=20, help="pods as large as can be")
    return parser.parse_args()


if __name__ == "__main__":
    main()
