"""Names of containers as docker and podman keep them in files. Pure.

docker: ``config.v2.json`` of each container (moby, container/container.go). podman, and all that
store containers by containers/storage: ``containers.json`` (containers.go there), whose metadata is
libpod's (libpod/storage.go, ``RuntimeContainerMetadata``). Labels of podman are in its database
only. Containers of a user without root are in the same files below that user's home, and their
names are the user's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from minerwatch.errors import NOT_JSON
from minerwatch.model import Container

DOCKER, PODMAN = "docker", "podman"
COMPOSE_PROJECT = "com.docker.compose.project"

MAX_NAME_CHARS = 128
MAX_IMAGE_CHARS = 256
MAX_LABELS = 32
MAX_LABEL_CHARS = 128
MAX_PODMAN_CONTAINERS = 4096

_USER_SLICE = re.compile(r"/user\.slice/user-(\d{1,10})\.slice(?:/|$)")
_SLURM_USER = re.compile(r"/slurm(?:_[^/]*)?/uid_(\d{1,10})(?:/|$)")


@dataclass(frozen=True, slots=True)
class EngineContainer:
    """A container as its engine describes it."""

    engine: str
    name: str
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    is_paused: bool = False  # docker only; podman's files do not have it


class _DockerConfig(msgspec.Struct):
    image: str = msgspec.field(name="Image", default="")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _DockerState(msgspec.Struct):
    is_paused: bool = msgspec.field(name="Paused", default=False)


class _Docker(msgspec.Struct):
    id: str = msgspec.field(name="ID")
    name: str = msgspec.field(name="Name")
    config: _DockerConfig | None = msgspec.field(name="Config", default=None)
    state: _DockerState | None = msgspec.field(name="State", default=None)


class _Stored(msgspec.Struct):
    id: str
    names: list[str] | None = None
    metadata: str = ""


class _Metadata(msgspec.Struct):
    name: str = ""
    image: str = msgspec.field(name="image-name", default="")


class _Linux(msgspec.Struct):
    cgroup: str = msgspec.field(name="cgroupsPath", default="")


class _Runtime(msgspec.Struct):
    linux: _Linux = msgspec.field(default_factory=_Linux)


class _DaemonJson(msgspec.Struct):
    data_root: str = msgspec.field(name="data-root", default="")


_docker_decoder = msgspec.json.Decoder(_Docker)
_stored_decoder = msgspec.json.Decoder(list[_Stored])
_metadata_decoder = msgspec.json.Decoder(_Metadata)
_runtime_decoder = msgspec.json.Decoder(_Runtime)
_daemon_decoder = msgspec.json.Decoder(_DaemonJson)


def user_of(container: Container) -> int | None:
    """Return the user whose slice or job holds the container; None: none, so it is the host's.

    systemd and Slurm make these cgroups as root, so that no user can choose another's.
    """
    match = _USER_SLICE.match(container.cgroup) or _SLURM_USER.match(container.cgroup)
    return int(match[1]) if match else None


def docker_container(body: bytes, container_id: str) -> EngineContainer | None:
    """Parse a ``config.v2.json``; None if it is damaged or of another container."""
    try:
        found = _docker_decoder.decode(body)
    except NOT_JSON:
        return None
    name = found.name.removeprefix("/")
    if found.id != container_id or not name:
        return None
    config = found.config or _DockerConfig()
    return EngineContainer(
        DOCKER,
        _text(name, MAX_NAME_CHARS),
        _text(config.image, MAX_IMAGE_CHARS),
        _labels(config.labels or {}),
        is_paused=found.state is not None and found.state.is_paused,
    )


def podman_containers(body: bytes, most: int = MAX_PODMAN_CONTAINERS) -> dict[str, EngineContainer]:
    """Parse a ``containers.json``: id -> container, ``most`` at most; empty if it is damaged."""
    try:
        stored = _stored_decoder.decode(body)
    except NOT_JSON:
        return {}
    found: dict[str, EngineContainer] = {}
    for each in stored[:most]:
        metadata = _metadata(each.metadata)
        name = metadata.name or next(iter(each.names or ()), "")
        if name:
            found[each.id] = EngineContainer(
                PODMAN, _text(name, MAX_NAME_CHARS), _text(metadata.image, MAX_IMAGE_CHARS)
            )
    return found


def is_in_cgroup(config_json: bytes, cgroup: str) -> bool:
    """Return True if podman asked its runtime for the service that ``cgroup`` is in.

    ``config_json`` is the container's bundle (OCI runtime-spec, config-linux.md). The first service
    counts: below it the service itself names the folders.
    """
    service = cgroup.partition(".service/")[0] + ".service/"
    try:
        return _runtime_decoder.decode(config_json).linux.cgroup.startswith(service)
    except NOT_JSON:
        return False


def docker_data_root(daemon_json: bytes) -> str:
    """Return the ``data-root`` of docker's daemon.json; "" if it sets none."""
    try:
        return _daemon_decoder.decode(daemon_json).data_root
    except NOT_JSON:
        return ""


def podman_graph_root(storage_conf: bytes) -> str:
    """Return the ``graphroot`` of containers-storage.conf(5); "" if it sets none."""
    import tomllib

    try:
        storage = tomllib.loads(storage_conf.decode()).get("storage")
    except ValueError:
        return ""
    root = storage.get("graphroot") if isinstance(storage, dict) else ""
    return root if isinstance(root, str) else ""


def _metadata(text: str) -> _Metadata:
    try:
        return _metadata_decoder.decode(text)
    except NOT_JSON:
        return _Metadata()


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels within bounds, the compose project first."""
    ranked: Iterable[str] = sorted(labels, key=lambda key: (key != COMPOSE_PROJECT, key))
    return {
        _text(key, MAX_LABEL_CHARS): _text(labels[key], MAX_LABEL_CHARS)
        for key in [*ranked][:MAX_LABELS]
    }


def _text(text: str, most: int) -> str:
    """Return ``text`` shortened and as valid Unicode: JSON may hold lone surrogates."""
    return text[:most].encode("utf-8", "backslashreplace").decode()
