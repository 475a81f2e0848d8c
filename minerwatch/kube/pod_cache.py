"""The pods of one node as last reported. Pure but for its lock; for many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Lock

from minerwatch.model import Pod, PodContainer

REMEMBERED_S = 60.0
"""Time for which a deleted pod is kept: its last verdict may come later."""


class PodCache:
    """Pods by uid and by the ids of their containers; ``now_s`` must not jump."""

    def __init__(self, now_s: Callable[[], float], remembered_s: float = REMEMBERED_S) -> None:
        self._now_s = now_s
        self._remembered_s = remembered_s
        self._lock = Lock()
        self._pods: dict[str, Pod] = {}
        self._containers: dict[str, tuple[Pod, PodContainer]] = {}
        self._mirrors: dict[str, str] = {}  # uid of a static pod -> uid of its mirror
        self._forget_at_s: dict[str, float] = {}  # of those that are gone, the first to go first

    def by_container_id(self, container_id: str) -> tuple[Pod, PodContainer] | None:
        """Return the container with that bare id, and its pod; None if unknown."""
        with self._lock:
            self._forget()
            return self._containers.get(container_id)

    def by_uid(self, pod_uid: str) -> Pod | None:
        """Return the pod with that uid, which may be the uid in a static pod's cgroup."""
        with self._lock:
            self._forget()
            return self._pods.get(pod_uid) or self._pods.get(self._mirrors.get(pod_uid, ""))

    def pods(self) -> tuple[Pod, ...]:
        """Return all pods that are not gone."""
        with self._lock:
            return tuple(pod for uid, pod in self._pods.items() if uid not in self._forget_at_s)

    def put(self, pod: Pod) -> None:
        """Add a pod, or its new state."""
        with self._lock:
            self._forget()
            self._put(pod)

    def remove(self, pod_uid: str) -> None:
        """Mark a pod as gone; it is kept for a while."""
        with self._lock:
            self._forget()
            self._remove(pod_uid)

    def replace(self, pods: Iterable[Pod]) -> None:
        """Keep these pods, which are all that there are; mark the others as gone."""
        listed = {pod.uid: pod for pod in pods}
        with self._lock:
            self._forget()
            for uid in self._pods.keys() - listed.keys():
                self._remove(uid)
            for pod in listed.values():
                self._put(pod)

    def _put(self, pod: Pod) -> None:
        self._forget_at_s.pop(pod.uid, None)
        known = self._pods.get(pod.uid)
        if known == pod:
            return
        if known is not None:
            self._drop(known)
        self._pods[pod.uid] = pod
        for container in pod.containers:
            if container.container_id:
                self._containers[container.container_id] = (pod, container)
        if pod.mirror_uid:
            # The oldest mirror counts: a later one that claims the same uid is not the kubelet's.
            rival = self._pods.get(self._mirrors.get(pod.mirror_uid, ""), pod)
            if (rival.created_unix_s, rival.uid) >= (pod.created_unix_s, pod.uid):
                self._mirrors[pod.mirror_uid] = pod.uid

    def _remove(self, pod_uid: str) -> None:
        pod = self._pods.get(pod_uid)
        if pod is not None and pod_uid not in self._forget_at_s:
            self._put(replace(pod, is_ending=True, ends_unix_s=None))
            self._forget_at_s[pod_uid] = self._now_s() + self._remembered_s

    def _forget(self) -> None:
        while self._forget_at_s:
            uid, at_s = next(iter(self._forget_at_s.items()))
            if at_s > self._now_s():
                return
            del self._forget_at_s[uid]
            self._drop(self._pods.pop(uid))

    def _drop(self, pod: Pod) -> None:
        for container in pod.containers:
            holder = self._containers.get(container.container_id)
            if holder is not None and holder[0].uid == pod.uid:
                del self._containers[container.container_id]
        if self._mirrors.get(pod.mirror_uid) == pod.uid:
            del self._mirrors[pod.mirror_uid]
