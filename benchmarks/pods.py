"""What knowing a node's pods costs: memory, time and requests, against a server of the tests' own.

    python -m benchmarks.pods [--pods 250] [--cluster 10000] [--changes 1000] [--large 20]

A cluster of pods of realistic size (10 KB of JSON each, most of it managedFields), of which some
run on the node that is watched. The watch runs in a process by itself, so that its memory and CPU
time are not the server's. Then a node is filled with pods as large as somebody who wants to harm
the agent can make them. What a whole agent takes that follows such a node: ``benchmarks.whole``.
"""

from __future__ import annotations

import gc
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from benchmarks.crowd import CONTAINERS_A_POD, container_id, pod_uid
from benchmarks.table import Budget, Row, parser, show
from minerwatch.kube.client import from_kubeconfig
from minerwatch.kube.owners import pod_fields, sources
from minerwatch.kube.pods import PodWatch
from tests.kube.api_server import ApiServer, Json, encode, pod_json

NODE = "n1"
POD_BYTES = 10_000


MEASURE = "Following the node's pods"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pods", type=int, default=250, help="on the node")
    options.add_argument("--cluster", type=int, default=10_000)
    options.add_argument("--changes", type=int, default=1000)
    options.add_argument("--large", type=int, default=20, help="pods as large as can be")
    chosen = options.parse_args()

    def measured() -> Iterator[Row]:
        yield from pod_rows(chosen.pods, chosen.cluster, chosen.changes)
        yield from large_rows(chosen.large)

    show(MEASURE, measured, is_json=chosen.json)


def pod_rows(pods: int, cluster: int, changes: int) -> list[Row]:
    """What a node's pods cost in memory, CPU and requests."""
    context = multiprocessing.get_context("spawn")
    with ApiServer() as server, tempfile.TemporaryDirectory() as folder:
        for number in range(cluster):
            server.put(pod(number, NODE if number < pods else f"n{number % 40 + 2}"))
        ours, theirs = context.Pipe()
        path = Path(folder) / "kubeconfig"
        path.write_text(kubeconfig(server.url))
        watcher = context.Process(target=_watch, args=(str(path), theirs))
        watcher.start()
        try:
            return list(_pod_rows(server, ours, pods, changes))
        finally:
            ours.send("end")
            watcher.join()


def large_rows(count: int) -> list[Row]:
    """A node full of pods as large as can be."""
    context = multiprocessing.get_context("spawn")
    with ApiServer() as server, tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            server.put(_large_pod(number))
        path = Path(folder) / "kubeconfig"
        path.write_text(kubeconfig(server.url))
        found = _in_own_process(context, path)
        size_mib = len(encode(_large_pod(0))) / 2**20
    case = f"{count} pods of {size_mib:.1f} MiB each"
    return [
        Row(MEASURE, case, "pods kept", found["pods"]),
        Row(MEASURE, case, "list, parse, keep", found["cpu_s"] * 1000, "ms CPU"),
        Row(MEASURE, case, "the process in all, at most", found["peak_mib"], "MiB"),
    ]


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
        "pods": len(pods.cache.pods()),
        "cpu_s": time.process_time() - before_s,
        "peak_mib": _status_mib("self", "VmHWM"),  # getrusage has that of before the exec, too
    })  # fmt: skip
    pods.close()


def _status_mib(pid: int | str, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def _pod_rows(server: ApiServer, watcher: Connection, pods: int, changes: int) -> Iterator[Row]:
    before, opened, listed = watcher.recv(), watcher.recv(), watcher.recv()
    yield Row(MEASURE, "", "pods kept", listed["pods"])
    yield from _growth("client imported and opened", opened, before)
    yield from _growth("list, parse, keep", listed, opened)
    yield Row(MEASURE, "", "of that the pods themselves", listed["kept_bytes"] / 2**20, "MiB")
    for number in range(changes):
        server.put(pod(number % pods, NODE, revision=number))
        server.put(pod(pods + number, "n2", revision=number))  # not for this node
    watcher.send(changes)
    changed = watcher.recv()
    change_us = (changed["cpu_s"] - listed["cpu_s"]) / changes * 1e6
    grown_mib = changed["rss_mib"] - listed["rss_mib"]
    yield Row(MEASURE, "", "a change", change_us, "µs CPU")
    yield Row(MEASURE, "", f"memory that {changes:,} changes add", grown_mib, "MiB")
    yield Row(MEASURE, "", "a lookup by container id", changed["lookup_us"], "µs")
    watches = sum(request.is_watch for request in server.requests)
    yield Row(MEASURE, "", "watches", watches, budget=Budget(1))
    yield Row(MEASURE, "", "other requests", len(server.requests) - watches, budget=Budget(1))
    sent_mib = pods * len(encode(pod(0, NODE))) / 2**20
    yield Row(MEASURE, "", "the list, as it is sent", sent_mib, "MiB")


def _watch(path: str, pipe: Connection) -> None:
    """Runs in a process of its own."""
    pipe.send(_measured())
    pods = _pod_watch(path)
    pipe.send(_measured())
    pods.start()
    while not pods.is_following:
        time.sleep(0.001)
    pipe.send({**_measured(), "pods": len(pods.cache.pods()), "kept_bytes": _kept_bytes(pods)})
    last = pipe.recv() - 1
    while not any(pod.labels["revision"] == str(last) for pod in pods.cache.pods()):
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
        rng=random.Random(1),
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
    todo: list[object] = [*pods.cache.pods()]
    while todo:
        value = todo.pop()
        if id(value) not in seen and not isinstance(value, type):
            seen[id(value)] = value
            todo.extend(gc.get_referents(value))
    return sum(sys.getsizeof(value) for value in seen.values())


def _lookup_us(pods: PodWatch) -> float:
    ids = [container.container_id for pod in pods.cache.pods() for container in pod.containers] * 20
    began_s = time.perf_counter()
    for each in ids:
        pods.cache.by_container_id(each)
    return (time.perf_counter() - began_s) / len(ids) * 1e6


def pod(number: int, node: str, revision: int = -1) -> Json:
    """One with two containers, called as benchmarks/crowd.py calls those of its pod."""
    name = f"jupyter-user-{number:05}"
    containers = {
        "notebook": container_id(CONTAINERS_A_POD * number),
        "sidecar": container_id(CONTAINERS_A_POD * number + 1),
    }
    made = pod_json(
        name,
        node=node,
        namespace="hub",
        containers=containers,
        uid=pod_uid(number),
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
    for container in made["spec"]["containers"]:
        variables = {f"JUPYTERHUB_VARIABLE_{place}": "v" * 40 for place in range(20)}
        variables["BINDER_REPO_URL"] = f"https://github.com/example/repository-{number % 50}"
        container["env"] = [{"name": key, "value": value} for key, value in variables.items()]
        container["resources"] = {"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}}
    missing = POD_BYTES - len(encode(made))
    fields: Json = {f"f:field{place:04}": {} for place in range(missing // 17)}
    made["metadata"]["managedFields"] = [{"manager": "kubelet", "fieldsV1": fields}]
    return made


def _large_pod(number: int) -> Json:
    """1.4 MiB for etcd, six times that as JSON."""
    made = pod_json(f"large-{number}", node=NODE)
    made["spec"]["containers"][0]["args"] = ["\x01" * 1_400_000]
    return made


def _growth(what: str, after: dict[str, Any], before: dict[str, Any]) -> Iterator[Row]:
    yield Row(MEASURE, what, "memory", after["rss_mib"] - before["rss_mib"], "MiB")
    yield Row(MEASURE, what, "CPU", (after["cpu_s"] - before["cpu_s"]) * 1000, "ms")


def kubeconfig(url: str) -> str:
    return f"""
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


if __name__ == "__main__":
    main()
