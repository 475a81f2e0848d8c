"""JSON of the Kubernetes API -> Pod. Pure.

A pod is kept in 1 KB on average. Names and values are the choice of the pod's author; they are kept
as text and cut where they could be long, so that they cannot fill the agent's memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import msgspec

from minerwatch.errors import NOT_JSON
from minerwatch.format import unix_s
from minerwatch.kube import objects
from minerwatch.model import OwnerReference, Pod, PodContainer, PodContainerKind
from minerwatch.text_budget import both_ends, size_of, water_level

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
"""Of a static pod's mirror: the uid that the kubelet gave the pod, and that its cgroup bears.

Only a kubelet can run such a pod: one that is created by others is deleted by the kubelet
 as the mirror of nothing, and the annotation cannot be added to a pod later
(ValidatePodUpdate in pkg/apis/core/validation).
"""

MAX_VALUE_CHARS = 1024
"""Kept of an annotation, a variable or an image's name; a quarter of it where it is not ASCII."""

MAX_OTHER_LABELS = 64
"""Kept of the labels that no setting names; labels that a setting names are always kept."""

MAX_OWNERS = 16
MAX_CONTAINERS = 256
"""Of one pod: Kubernetes has no limit but the size of the object, which has room for thousands."""

_MAX_IMAGES_BYTES = 64 << 10
"""Kept of the names of one pod's images together: 256 of the usual length fit."""

_LATEST_UNIX_S = 253_402_300_799.0
"""The last second of the year 9999: of a later one no text can be made."""

MAX_HELD = 1024
"""Strings that are shared, those seen last: names of deleted pods are freed."""

_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,3}))?", re.ASCII
)
_PER_SUFFIX = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3}
_PER_SUFFIX |= {suffix: 1000.0 ** (power + 2) for power, suffix in enumerate("MGTPE")}
_PER_SUFFIX |= {f"{suffix}i": 1024.0 ** (power + 1) for power, suffix in enumerate("KMGTPE")}
_MAX_QUANTITY_CHARS = 64
_GPU = re.compile(r"gpu|vcuda|(?:^|\.)(?:nvidia|amd)\.com/", re.IGNORECASE)
"""Extended resources of device plugins: nvidia.com/gpu, nvidia.com/mig-1g.10gb, gpu.intel.com/xe,
volcano.sh/vgpu-number; only a node's plugins can offer one, so a tenant cannot make one up."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class PodFields:
    """Names in a pod's metadata and environment to keep, however many others there are."""

    labels: frozenset[str] = frozenset()
    annotations: frozenset[str] = frozenset()
    environment: frozenset[str] = frozenset()


class PodParser:
    """Makes pods of JSON, keeping what ``keep`` names; strings that recur are held once."""

    def __init__(self, keep: PodFields) -> None:
        self._keep = keep
        self._decoder = msgspec.json.Decoder(objects.Pod)
        self._held = lru_cache(MAX_HELD)(str)

    def pod(self, json: bytes | msgspec.Raw) -> Pod | None:
        """Return the pod that ``json`` describes; None if it does not describe one."""
        try:
            found = self._decoder.decode(json)
        except NOT_JSON:
            return None
        metadata = found.metadata
        created_unix_s = unix_s(metadata.creation_timestamp)
        if created_unix_s is None or not (metadata.uid and metadata.name and metadata.namespace):
            return None
        return self._pod(found, min(max(0.0, created_unix_s), _LATEST_UNIX_S))

    def _pod(self, found: objects.Pod, created_unix_s: float) -> Pod:
        metadata, spec, status = found.metadata, found.spec, found.status or objects.PodStatus()
        share = self._share
        annotations = metadata.annotations or {}
        return Pod(
            uid=_cut(metadata.uid),
            namespace=share(metadata.namespace),
            name=_cut(metadata.name),
            node=share(spec.node_name or ""),
            created_unix_s=created_unix_s,
            phase=share(status.phase or ""),
            priority_class=share(spec.priority_class_name or ""),
            service_account=share(spec.service_account_name or ""),
            labels=self._labels(metadata.labels or {}),
            annotations=self._shared_items(
                (key, value) for key, value in annotations.items() if key in self._keep.annotations
            ),
            environment=self._shared_items(_environment(spec, self._keep.environment)),
            owners=tuple(
                OwnerReference(
                    kind=share(owner.kind),
                    name=share(owner.name),
                    uid=share(owner.uid),
                    is_controller=bool(owner.controller),
                )
                for owner in islice(metadata.owner_references or (), MAX_OWNERS)
            ),
            containers=_with_short_images(self._foremost_containers(spec, status)),
            mirror_uid=share(annotations.get(MIRROR_ANNOTATION, "")),
            is_ending=bool(metadata.deletion_timestamp),
            ends_unix_s=unix_s(metadata.deletion_timestamp),
        )

    def _labels(self, labels: dict[str, str]) -> dict[str, str]:
        asked_for = [item for item in labels.items() if item[0] in self._keep.labels]
        others = (item for item in labels.items() if item[0] not in self._keep.labels)
        return self._shared_items([*asked_for, *islice(others, MAX_OTHER_LABELS)])

    def _foremost_containers(
        self, spec: objects.PodSpec, status: objects.PodStatus
    ) -> tuple[PodContainer, ...]:
        """Return those that have run first, so that others cannot push them out of sight."""
        found = [*self._containers(spec, status)]
        if len(found) > MAX_CONTAINERS:
            found.sort(key=lambda each: not each.container_id)
        return tuple(found[:MAX_CONTAINERS])

    def _containers(
        self, spec: objects.PodSpec, status: objects.PodStatus
    ) -> Iterable[PodContainer]:
        lists = (
            (spec.containers, status.container_statuses, PodContainerKind.MAIN),
            (spec.init_containers, status.init_container_statuses, PodContainerKind.INIT),
            (
                spec.ephemeral_containers,
                status.ephemeral_container_statuses,
                PodContainerKind.EPHEMERAL,
            ),
        )
        for specified, statuses, kind in lists:
            by_name = {found.name: found for found in statuses or ()}
            for container in specified or ():
                yield self._container(container, by_name.get(container.name), kind)

    def _container(
        self,
        container: objects.Container,
        status: objects.ContainerStatus | None,
        kind: PodContainerKind,
    ) -> PodContainer:
        resources = container.resources or objects.Resources()
        if kind is PodContainerKind.INIT and container.restart_policy == "Always":
            kind = PodContainerKind.SIDECAR
        digest = _DIGEST.search((status and status.image_id) or "")
        return PodContainer(
            container_id=_cut(bare_container_id((status and status.container_id) or "")),
            name=self._share(container.name),
            image=self._share(container.image or ""),
            image_digest=self._share(digest[0] if digest else ""),
            kind=kind,
            gpus=None if resources.claims else _gpus(resources),
        )

    def _shared_items(self, items: Iterable[tuple[str, str]]) -> dict[str, str]:
        return {self._share(key): self._share(value) for key, value in items}

    def _share(self, text: str) -> str:
        """Return ``text``, cut, as the equal string that is held; sys.intern() would keep it."""
        return self._held(_cut(text))


def _cut(text: str) -> str:
    """Cut ``text`` to a number of characters that depends on the memory of each."""
    if len(text) * 4 <= MAX_VALUE_CHARS:
        return text
    chars = MAX_VALUE_CHARS if text.isascii() else MAX_VALUE_CHARS // 4
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _with_short_images(containers: Iterable[PodContainer]) -> tuple[PodContainer, ...]:
    """Cut the longest image names: the API server takes any text, a megabyte a pod."""
    found = tuple(containers)
    level = water_level((size_of(each.image) for each in found), _MAX_IMAGES_BYTES)
    return tuple(
        replace(each, image=both_ends(each.image, level)) if size_of(each.image) > level else each
        for each in found
    )


def bare_container_id(container_id: str) -> str:
    """Return ``containerd://3f0e…`` without the runtime's name."""
    return container_id.rpartition("://")[2]


def quantity(text: str | float) -> float | None:
    """Return a Kubernetes quantity such as ``500m``, ``2`` or ``1e3`` as a number, or None."""
    text = str(text)
    match = _QUANTITY.fullmatch(text) if len(text) <= _MAX_QUANTITY_CHARS else None
    if match is None:
        return None
    number, suffix, exponent = match.groups()
    value = float(f"{number}e{exponent}") if exponent else float(number)
    value *= _PER_SUFFIX.get(suffix, 1.0)
    return value if math.isfinite(value) else None


def _gpus(resources: objects.Resources) -> float:
    """Return the requested GPUs; of resources that count shares or memory, at least something.

    Kubernetes requests as many as the limit: extended resources cannot be overcommitted.
    """
    amounts = {**(resources.requests or {}), **(resources.limits or {})}
    found = (quantity(n) for name, n in amounts.items() if n is not None and _GPU.search(name))
    return sum(max(0.0, amount) for amount in found if amount is not None)


def _environment(spec: objects.PodSpec, names: frozenset[str]) -> Iterable[tuple[str, str]]:
    """Return the plain values of ``names``: the first container that has a variable counts.

    Within a container the last of two of the same name counts, as in the kubelet. A value from a
    Secret or ConfigMap is not in the pod, and is not read.
    """
    found: Mapping[str, str] = {}
    for container in spec.containers or ():
        own = {v.name: v.value for v in container.env or () if v.value and v.name in names}
        found = {**own, **found}
    return found.items()
