"""All names of the people behind a pod, side by side, each with its source. Pure.

Labels, annotations and variables are written by a pod's creator. Where that is a platform (a hub, a
CI runner) and tenants cannot create pods, the names are the platform's; everywhere else they are
claims. An operator lists such namespaces: the hub's in ``owners.hub_namespaces``, those of CI
systems in ``owners.platform_namespaces``. A job writes a hub's annotation on its own pod, and
another hub has another user of the same name, so a hub's names count in its own namespaces only.

Names as in the sources of the platforms:

- kubespawner: ``_build_common_annotations``, ``_build_pod_labels`` (the label is escaped);
- binderhub: ``BinderSpawnerMixin.get_env`` and ``KubernetesBuildExecutor.submit``. The variables
  come from the options of the spawner, which users that log in to the hub can choose;
- GitLab Runner, ``buildLabels`` and ``createPodConfigPrepareOpts`` of its Kubernetes executor: a
  job cannot overwrite labels of ``runner.gitlab.com``, but its annotations if the runner permits
  it, and variables in any case;
- actions-runner-controller: ``constants.go`` and ``resourcebuilder.go`` of actions.github.com;
- Jenkins' kubernetes plugin: ``runUrl`` and ``buildUrl``; Argo: ``LabelKeyWorkflow``; Tekton: the
  labels ``tekton.dev/…`` of its pods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import NamedTuple

from minerwatch.kube import owners
from minerwatch.kube.owners import Source, SourceKind
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.kube.repository_address import one_spelling
from minerwatch.model import Attribution, OwnerKind, Pod, PodContainer
from minerwatch.untrusted_text.display import printable
from minerwatch.untrusted_text.redaction import redacted

HUB_USER = "hub.jupyter.org/username"
HUB_SERVER = "hub.jupyter.org/servername"
MAX_ATTRIBUTIONS = 32
MAX_BUILDS = 8
_PUBLIC = (OwnerKind.REPOSITORY, OwnerKind.BUILD, OwnerKind.PROJECT, OwnerKind.CONTROLLER)
_MAX_PUBLIC_CHARS = 160
_BUILD_REPOSITORY = "binder-repo"
_COMPONENT = "component"
_ENGINES_OF_BUILDS = frozenset(("dind", "podman", "pink"))


class _Author(Enum):
    """The author of a name where the platform creates the pod."""

    PLATFORM = auto()
    HUB = auto()
    BINDER = auto()  # the hub, unless users log in: only trusted with its profile
    CONFIGURED = auto()  # any platform
    JOB = auto()  # the job may overwrite it


class _Row(NamedTuple):
    kind: OwnerKind
    source: Source
    author: _Author = _Author.PLATFORM
    is_fallback: bool = False  # only where no other source has a name of the kind


def _label(key: str) -> Source:
    return Source(SourceKind.LABEL, key)


def _annotation(key: str) -> Source:
    return Source(SourceKind.ANNOTATION, key)


def _variable(key: str) -> Source:
    return Source(SourceKind.ENVIRONMENT, key)


_ROWS: tuple[_Row, ...] = (
    _Row(OwnerKind.USER, _annotation(HUB_USER), _Author.HUB),
    _Row(OwnerKind.USER, _label(HUB_USER), _Author.HUB, is_fallback=True),
    _Row(OwnerKind.SERVER, _annotation(HUB_SERVER), _Author.HUB),
    _Row(OwnerKind.SERVER, _label(HUB_SERVER), _Author.HUB, is_fallback=True),
    _Row(OwnerKind.REPOSITORY, _variable("BINDER_REPO_URL"), _Author.BINDER),
    _Row(OwnerKind.REPOSITORY, _annotation(_BUILD_REPOSITORY), _Author.HUB),
    _Row(OwnerKind.REF, _variable("BINDER_REF_URL"), _Author.BINDER),
    _Row(OwnerKind.CLIENT, _variable("BINDER_CLIENT_IP"), _Author.BINDER),
    _Row(OwnerKind.LAUNCH_HOST, _variable("BINDER_LAUNCH_HOST"), _Author.BINDER),
    _Row(OwnerKind.PROJECT, Source(SourceKind.GITLAB_PROJECT)),
    _Row(OwnerKind.PROJECT, _variable("CI_PROJECT_PATH"), _Author.JOB),
    _Row(OwnerKind.USER, _variable("GITLAB_USER_LOGIN"), _Author.JOB),
    _Row(OwnerKind.JOB, _annotation("job.runner.gitlab.com/url"), _Author.JOB),
    _Row(OwnerKind.REF, _annotation("job.runner.gitlab.com/ref"), _Author.JOB),
    _Row(OwnerKind.REPOSITORY, Source(SourceKind.GITHUB_REPOSITORY)),
    _Row(OwnerKind.PROJECT, _label("actions.github.com/organization")),
    _Row(OwnerKind.PROJECT, _label("actions.github.com/enterprise")),
    _Row(OwnerKind.JOB, _label("actions.github.com/scale-set-name")),
    _Row(OwnerKind.JOB, _annotation("buildUrl")),
    _Row(OwnerKind.JOB, _annotation("runUrl"), is_fallback=True),
    _Row(OwnerKind.JOB, _label("workflows.argoproj.io/workflow")),
    _Row(OwnerKind.PROJECT, _label("workflows.argoproj.io/workflow-template")),
    _Row(OwnerKind.JOB, _label("tekton.dev/pipelineRun")),
    _Row(OwnerKind.JOB, _label("tekton.dev/taskRun"), is_fallback=True),
    _Row(OwnerKind.PROJECT, _label("tekton.dev/pipeline")),
)


_KNOWN = frozenset(row.source for row in _ROWS)


@dataclass(frozen=True, slots=True)
class Trust:
    """The names that tenants cannot choose, by the operator's configuration."""

    namespaces: tuple[str, ...] = ()  # patterns: only a CI system creates pods there
    hubs: tuple[str, ...] = ()  # patterns: only the hub creates pods there
    binder: bool = False  # BinderHub's variables are its own

    def is_claim(self, pod: Pod, author: _Author) -> bool:
        """Return True if a tenant may have chosen a name on ``pod``."""
        if author is _Author.JOB or (author is _Author.BINDER and not self.binder):
            return True
        patterns = {
            _Author.PLATFORM: self.namespaces,
            _Author.CONFIGURED: (*self.namespaces, *self.hubs),
        }.get(author, self.hubs)
        return not any(fnmatchcase(pod.namespace, pattern) for pattern in patterns)


NO_TRUST = Trust()


def pod_fields() -> PodFields:
    """Return the fields of each pod that the names are found in."""
    fields = owners.pod_fields(row.source for row in _ROWS)
    return replace(fields, labels=fields.labels | {_COMPONENT})


def of_pod(pod: Pod, asked: Iterable[Source], trust: Trust = NO_TRUST) -> tuple[Attribution, ...]:
    """Return the names on ``pod``; ``asked`` are the configured sources."""
    found: dict[tuple[OwnerKind, str], Attribution] = {}
    for each in (*_of_rows(pod, trust), *_of_configured(pod, asked, trust)):
        before = found.get((each.kind, each.name))
        if before is None or (before.is_claim and not each.is_claim):
            found[each.kind, each.name] = each
    kinds = list(OwnerKind)
    ordered = sorted(found.values(), key=lambda each: kinds.index(each.kind))
    return tuple(ordered[:MAX_ATTRIBUTIONS])


def of_container(container: PodContainer) -> Iterator[Attribution]:
    """Yield image and digest, which the kubelet and the API server write."""
    if container.image:
        yield Attribution(OwnerKind.IMAGE, container.image, "container")
    if container.image_digest:
        yield Attribution(OwnerKind.DIGEST, container.image_digest, "container status")


def of_build(
    pod: Pod, pods: Callable[[], Iterable[Pod]], trust: Trust = NO_TRUST
) -> Iterator[Attribution]:
    """Yield the repositories that the engine in ``pod`` may build now, for a container inside it.

    BinderHub's builds use the engine of their node, so each pod of a build there is a candidate. Of
    several, none is certain.
    """
    if pod.labels.get(_COMPONENT) not in _ENGINES_OF_BUILDS or not pod.is_of_daemon_set:
        return
    builds = {
        one_spelling(each.annotations[_BUILD_REPOSITORY]): each
        for each in pods()
        if each.namespace == pod.namespace
        and each.phase in ("Running", "Pending")
        and each.annotations.get(_BUILD_REPOSITORY)
    }
    for repository, build in sorted(builds.items())[:MAX_BUILDS]:
        source = "the build on this node"
        if len(builds) > 1:
            source = f"one of {len(builds)} builds on this node"
        is_claim = len(builds) > 1 or trust.is_claim(build, _Author.HUB)
        yield Attribution(OwnerKind.BUILD, repository, source, is_claim)


def public_text(attributions: Iterable[Attribution]) -> str:
    """Return the names that an Event may show: no person, no address, no secret."""
    shown = (f"{each.kind} {redacted(str(each))}" for each in attributions if each.kind in _PUBLIC)
    return ", ".join(printable(text, _MAX_PUBLIC_CHARS) for text in shown)


class HubServer(NamedTuple):
    """A server of a hub's user, as the hub names it."""

    user: str
    name: str  # "": the default server


def hub_server(attributions: Iterable[Attribution]) -> HubServer | None:
    """Return the hub's server that a pod is, by the hub's own labels; None: another pod.

    Labels are escaped forms of the names, so they do not count.
    """
    certain = {each.source: each.name for each in attributions if not each.is_claim}
    user = certain.get(str(_annotation(HUB_USER)))
    return HubServer(user, certain.get(str(_annotation(HUB_SERVER)), "")) if user else None


def _of_rows(pod: Pod, trust: Trust) -> Iterator[Attribution]:
    seen: set[OwnerKind] = set()
    for row in _ROWS:
        name = owners.value_of(pod, row.source)
        if name and not (row.is_fallback and row.kind in seen):
            seen.add(row.kind)
            yield Attribution(row.kind, name, str(row.source), trust.is_claim(pod, row.author))


def _of_configured(pod: Pod, asked: Iterable[Source], trust: Trust) -> Iterator[Attribution]:
    """Yield the names of configured sources, and the controller.

    A controller is in the pod's own namespace, which is part of its name.
    """
    reference = Source(SourceKind.OWNER_REFERENCE)
    if controller := owners.value_of(pod, reference):
        yield Attribution(OwnerKind.CONTROLLER, controller, str(reference))
    for source in asked:
        if source.kind.has_key and source not in _KNOWN and (name := owners.value_of(pod, source)):
            is_claim = trust.is_claim(pod, _Author.CONFIGURED)
            yield Attribution(OwnerKind.CONFIGURED, name, str(source), is_claim)
