"""The owner of a pod: the person or account to inform. Pure.

The first source with a value counts. A label, an annotation or a variable is as trustworthy as
those that may create the pod: a hub writes its users' names there, and its users cannot. Where
tenants create pods themselves, they can write any name: there ``namespace`` and
``service-account`` are the sources to trust.

Names of JupyterHub and BinderHub as in their sources: ``_build_common_annotations`` and
``_build_pod_labels`` of kubespawner (the label holds an escaped form of the name, the annotation
the name itself), ``BinderSpawnerMixin.get_env`` and ``KubernetesBuildExecutor`` of binderhub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from minerwatch.errors import ConfigError
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.kube.repository_address import one_spelling, without_credentials
from minerwatch.model import Owner, OwnerReference, Pod, PodContainerKind

TEMPLATE_HASH_LABEL = "pod-template-hash"
"""A Deployment names its ReplicaSets after itself and this label's value."""

_JOB_OF_CRON_JOB = re.compile(r"(.+)-([0-9]{8}|[0-9]{10})")
REPOSITORIES = frozenset({"BINDER_REPO_URL", "binder-repo"})
"""Variables and annotations in which BinderHub has a repository as its visitor wrote it."""

_LATEST_START_S = 7 * 86400.0
_CLOCK_SKEW_S = 300.0


class SourceKind(StrEnum):
    """Kinds of sources for an owner's name."""

    LABEL = "label"
    ANNOTATION = "annotation"
    ENVIRONMENT = "environment"
    OWNER_REFERENCE = "owner-reference"
    SERVICE_ACCOUNT = "service-account"
    NAMESPACE = "namespace"
    IMAGE_DIGEST = "image-digest"
    GITLAB_PROJECT = "gitlab-project"
    GITHUB_REPOSITORY = "github-repository"

    @property
    def has_key(self) -> bool:
        """Return True if the kind needs a key: the name of a label or variable."""
        return self in {SourceKind.LABEL, SourceKind.ANNOTATION, SourceKind.ENVIRONMENT}


@dataclass(frozen=True, slots=True)
class Source:
    """A source of an owner's name."""

    kind: SourceKind
    key: str = ""

    def __str__(self) -> str:
        """Return the source as text: ``label hub.jupyter.org/username``."""
        if self.kind in _JOINED:
            return f"labels {' and '.join(_JOINED[self.kind])}"
        return f"{self.kind.value} {self.key}" if self.key else self.kind.value.replace("-", " ")


_DEFAULT = ("owner-reference", "service-account")
"""Without the namespace: all its tenants would be one owner, and each a repeat offender by the
others' deeds. Operators that give each tenant a namespace add it in ``owners.sources``."""

PROFILES: Mapping[str, tuple[str, ...]] = {
    # a hub's user, by the name they log in with
    "jupyterhub": (
        "annotation:hub.jupyter.org/username",
        "label:hub.jupyter.org/username",
        *_DEFAULT,
    ),
    # the hub's user is new for each launch, so the repository identifies the owner; pods that
    # build its image have it in an annotation
    "binderhub": (
        "environment:BINDER_REPO_URL",
        "environment:BINDER_REF_URL",
        "annotation:binder-repo",
        "environment:BINDER_CLIENT_IP",
        "annotation:hub.jupyter.org/username",
        "label:hub.jupyter.org/username",
        *_DEFAULT,
    ),
    # a CI job's project or repository: its runner writes these labels
    "gitlab": ("gitlab-project", *_DEFAULT),
    "github-arc": (
        "github-repository",
        "label:actions.github.com/organization",
        "label:actions.github.com/scale-set-name",
        *_DEFAULT,
    ),
    "default": _DEFAULT,
}


def sources(profile: str, own: Sequence[str] = ()) -> tuple[Source, ...]:
    """Return ``own``, or the sources of ``profile``. Raises ConfigError if unknown."""
    if profile not in PROFILES:
        raise ConfigError(
            f"owners.profile: there is no {profile!r}: it is one of {', '.join(PROFILES)}"
        )
    return tuple(_source(text) for text in own or PROFILES[profile])


def pod_fields(asked: Iterable[Source]) -> PodFields:
    """Return which fields of each pod the sources need."""
    keys: dict[SourceKind, set[str]] = {kind: set() for kind in SourceKind}
    for source in asked:
        keys[source.kind].add(source.key)
        keys[SourceKind.LABEL].update(_JOINED.get(source.kind, ()))
    return PodFields(
        labels=frozenset({*keys[SourceKind.LABEL], TEMPLATE_HASH_LABEL}),
        annotations=frozenset(keys[SourceKind.ANNOTATION]),
        environment=frozenset(keys[SourceKind.ENVIRONMENT]),
    )


def owner(pod: Pod, asked: Iterable[Source]) -> Owner | None:
    """Return the owner by the first of ``asked`` that has a value for ``pod``; None if none has."""
    for source in asked:
        if name := value_of(pod, source):
            return Owner(name, str(source))
    return None


def value_of(pod: Pod, source: Source) -> str:
    """Return the name that ``source`` has for ``pod``; "": none."""
    name = _NAMES[source.kind](pod, source.key).strip()
    return one_spelling(name) if source.key in REPOSITORIES else without_credentials(name)


def owner_chain(pod: Pod) -> tuple[OwnerReference, ...]:
    """Return the pod's controller, then the controller of that.

    The second is known by the first one's name only: watching ReplicaSets and Jobs would cost each
    agent two watches over the whole cluster, and the right to read them.
    """
    owners = [found for found in pod.owners if found.kind != "Node"]  # a mirror's
    if not owners:
        return ()
    controller = next((found for found in owners if found.is_controller), owners[0])
    above = _above(pod, controller)
    return (controller,) if above is None else (controller, above)


def _above(pod: Pod, controller: OwnerReference) -> OwnerReference | None:
    if controller.kind == "ReplicaSet":
        template_hash = pod.labels.get(TEMPLATE_HASH_LABEL)
        name = controller.name.removesuffix(f"-{template_hash}") if template_hash else ""
        if name and name != controller.name:
            return OwnerReference("Deployment", name, "", is_controller=True)
    if controller.kind == "Job":
        match = _JOB_OF_CRON_JOB.fullmatch(controller.name)
        # getJobName of the CronJob controller: minutes since 1970; seconds before Kubernetes 1.21
        if match and _is_start_of(pod, int(match[2]) * (60 if len(match[2]) == 8 else 1)):
            return OwnerReference("CronJob", match[1], "", is_controller=True)
    return None


def _is_start_of(pod: Pod, due_unix_s: float) -> bool:
    """Return True if a Job due at that time can have made ``pod``."""
    late_s = pod.created_unix_s - due_unix_s
    return -_CLOCK_SKEW_S <= late_s <= _LATEST_START_S


def _source(text: str) -> Source:
    kind, colon, key = text.partition(":")
    try:
        source = Source(SourceKind(kind.strip()), key.strip())
    except ValueError:
        source = None
    if source is None or source.kind.has_key != bool(source.key) or (colon and not source.key):
        forms = (f"{kind.value}:NAME" if kind.has_key else kind.value for kind in SourceKind)
        raise ConfigError(
            f"owners.sources: {text!r} is not a source: write one of {', '.join(forms)}"
        )
    return source


def _workload(pod: Pod, _key: str) -> str:
    chain = owner_chain(pod)
    return f"{chain[-1].kind} {pod.namespace}/{chain[-1].name}" if chain else ""


def _service_account(pod: Pod, _key: str) -> str:
    """Return the account; pods that name none have ``default``, which identifies no owner."""
    if pod.service_account in {"", "default"}:
        return ""
    return f"{pod.namespace}/{pod.service_account}"


def _image_digest(pod: Pod, _key: str) -> str:
    digests = (c.image_digest for c in pod.containers if c.kind is PodContainerKind.MAIN)
    return next((digest for digest in digests if digest), "")


_JOINED: Mapping[SourceKind, tuple[str, str]] = {
    SourceKind.GITLAB_PROJECT: (
        "project.runner.gitlab.com/namespace",
        "project.runner.gitlab.com/name",
    ),
    SourceKind.GITHUB_REPOSITORY: (
        "actions.github.com/organization",
        "actions.github.com/repository",
    ),
}
"""Sources of two labels, since the second one's value is not unique."""


def _joined(kind: SourceKind) -> Callable[[Pod, str], str]:
    def name(pod: Pod, _key: str) -> str:
        parts = [pod.labels.get(key, "") for key in _JOINED[kind]]
        return "/".join(parts) if all(parts) else ""

    return name


_NAMES: Mapping[SourceKind, Callable[[Pod, str], str]] = {
    SourceKind.LABEL: lambda pod, key: pod.labels.get(key, ""),
    SourceKind.ANNOTATION: lambda pod, key: pod.annotations.get(key, ""),
    SourceKind.ENVIRONMENT: lambda pod, key: pod.environment.get(key, ""),
    SourceKind.OWNER_REFERENCE: _workload,
    SourceKind.SERVICE_ACCOUNT: _service_account,
    SourceKind.NAMESPACE: lambda pod, _key: pod.namespace,
    SourceKind.IMAGE_DIGEST: _image_digest,
    SourceKind.GITLAB_PROJECT: _joined(SourceKind.GITLAB_PROJECT),
    SourceKind.GITHUB_REPOSITORY: _joined(SourceKind.GITHUB_REPOSITORY),
}
