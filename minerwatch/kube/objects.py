"""Objects of the Kubernetes API, as far as they are used. Pure.

Names are those of the API reference, in camel case. Other fields are skipped: a pod is 10 KB of
JSON on average, most of it ``managedFields``. A missing field has a default, and null is no error;
each reader rejects an object without what it needs.
"""

from __future__ import annotations

import msgspec


class _Object(msgspec.Struct, rename="camel", gc=False):
    """Common options of all types."""


class OwnerReference(_Object):
    """``metadata.ownerReferences[]``."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    controller: bool | None = None


class Metadata(_Object):
    """``metadata`` of an object, or of a list."""

    uid: str = ""
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None  # null in a bookmark
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    continue_: str = msgspec.field(default="", name="continue")


class Head(_Object):
    """Metadata of any object; of a Status also its code and message."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    code: int = 0
    message: str | None = None


class ListPage(_Object):
    """A list, or one page of it."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    items: list[msgspec.Raw] | None = None


class Status(_Object):
    """``meta/v1 Status``: the result of a request, or of a command."""

    kind: str = ""
    status: str = ""
    message: str | None = None
    code: int = 0


class Resources(_Object):
    """``resources`` of a container."""

    requests: dict[str, str | int | float | None] | None = None
    limits: dict[str, str | int | float | None] | None = None
    claims: list[msgspec.Raw] | None = None


class Variable(_Object):
    """``env[]`` of a container."""

    name: str
    value: str | None = None


class Port(_Object):
    """``ports[]`` of a container."""

    container_port: int = 0
    name: str | None = None


class Container(_Object):
    """A container as specified."""

    name: str
    image: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[Variable] | None = None
    ports: list[Port] | None = None
    resources: Resources | None = None
    restart_policy: str | None = None


class PodSpec(_Object):
    """``spec`` of a pod, or of a controller's template."""

    node_name: str | None = None
    host_pid: bool | None = msgspec.field(default=None, name="hostPID")
    priority_class_name: str | None = None
    service_account_name: str | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    ephemeral_containers: list[Container] | None = None


class Waiting(_Object):
    """A container's state, as far as it has a reason."""

    reason: str | None = None


class ContainerStatus(_Object):
    """A container as it runs."""

    name: str
    container_id: str | None = msgspec.field(default=None, name="containerID")
    image_id: str | None = msgspec.field(default=None, name="imageID")
    state: dict[str, Waiting | None] | None = None


class PodStatus(_Object):
    """``status`` of a pod."""

    phase: str | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class Pod(_Object):
    """A pod."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus | None = None


class Token(_Object):
    """``status`` of a TokenRequest."""

    token: str


class TokenRequest(_Object):
    """``authentication.k8s.io/v1 TokenRequest``, as it is answered."""

    status: Token
