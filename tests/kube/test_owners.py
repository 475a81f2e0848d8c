from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.errors import ConfigError
from minerwatch.kube.owners import (
    PROFILES,
    Source,
    SourceKind,
    owner,
    owner_chain,
    pod_fields,
    sources,
)
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.model import Owner, OwnerReference, Pod, PodContainer, PodContainerKind
from tests.builders import make_pod, make_pod_container

CREATED_UNIX_S = 1_795_428_030.0
DIGEST = "sha256:" + "ab" * 32


def pod(*owners: OwnerReference, **changes: Any) -> Pod:
    return make_pod(
        "jupyter-ada",
        **{"namespace": "hub", "created_unix_s": CREATED_UNIX_S, "owners": owners, **changes},
    )


def controller(kind: str, name: str) -> OwnerReference:
    return OwnerReference(kind, name, "uid", is_controller=True)


def container(digest: str, kind: PodContainerKind) -> PodContainer:
    return make_pod_container(image_digest=digest, kind=kind)


def test_a_hubs_user_by_the_name_they_log_in_with() -> None:
    ada = pod(
        labels={"hub.jupyter.org/username": "ada-40example-2eorg---1a2b3c4d"},
        annotations={"hub.jupyter.org/username": "ada@example.org"},
    )
    assert owner(ada, sources("jupyterhub")) == Owner(
        "ada@example.org", "annotation hub.jupyter.org/username"
    )


def test_a_hubs_user_where_only_the_label_is_there() -> None:
    ada = pod(labels={"hub.jupyter.org/username": "ada"}, annotations={})
    assert owner(ada, sources("jupyterhub")) == Owner("ada", "label hub.jupyter.org/username")


def test_a_binder_session_belongs_to_its_repository() -> None:
    session = pod(
        annotations={"hub.jupyter.org/username": "repo-4f2k9x1a"},
        environment={
            "BINDER_REPO_URL": "https://github.com/a/b",
            "BINDER_REF_URL": "https://github.com/a/b/tree/4f2k",
            "BINDER_CLIENT_IP": "192.0.2.7",
        },
    )
    assert owner(session, sources("binderhub")) == Owner(
        "https://github.com/a/b", "environment BINDER_REPO_URL"
    )


def test_a_binder_build_belongs_to_its_repository() -> None:
    build = pod(annotations={"binder-repo": "https://www.GitHub.com/A//b.git"})
    assert owner(build, sources("binderhub")) == Owner(
        "https://github.com/a/b", "annotation binder-repo"
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_a_pod_without_a_hub_has_an_owner_all_the_same(profile: str) -> None:
    assert owner(pod(controller("StatefulSet", "db")), sources(profile)) == Owner(
        "StatefulSet hub/db", "owner reference"
    )
    assert owner(pod(service_account="ci"), sources(profile)) == Owner("hub/ci", "service account")
    assert owner(pod(), sources(profile)) is None, "a namespace is nobody, unless it is named"
    assert owner(pod(), sources(profile, ["namespace"])) == Owner("hub", "namespace")


def test_own_sources_are_asked_in_their_order() -> None:
    own = sources("jupyterhub", ["label:team", "image-digest"])
    image = (container("", PodContainerKind.MAIN), container(DIGEST, PodContainerKind.MAIN))
    assert owner(pod(labels={"team": "x"}, containers=image), own) == Owner("x", "label team")
    assert owner(pod(labels={"team": " "}, containers=image), own) == Owner(DIGEST, "image digest")
    assert owner(pod(containers=(container(DIGEST, PodContainerKind.SIDECAR),)), own) is None


def test_only_what_is_asked_for_is_kept() -> None:
    asked = sources("default", ["label:a", "annotation:b", "environment:C", "namespace"])
    assert pod_fields(asked) == PodFields(
        labels=frozenset({"a", "pod-template-hash"}),
        annotations=frozenset({"b"}),
        environment=frozenset({"C"}),
    )


def test_a_source_with_colons_and_spaces() -> None:
    assert sources("default", [" label : a:b "]) == (Source(SourceKind.LABEL, "a:b"),)


@pytest.mark.parametrize(
    "text",
    ["lable:x", "label", "label:", "label: ", "", ":", "namespace:x", "namespace:", "Label:x"],
)
def test_a_wrong_source_is_one_line_that_says_how_to_mend_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sources("default", [text])
    assert str(caught.value) == (
        f"owners.sources: {text!r} is not a source: write one of label:NAME, annotation:NAME, "
        "environment:NAME, owner-reference, service-account, namespace, image-digest, "
        "gitlab-project, github-repository"
    )


def test_a_profile_that_there_is_not() -> None:
    with pytest.raises(ConfigError) as caught:
        sources("hub")
    assert str(caught.value) == (
        "owners.profile: there is no 'hub': it is one of jupyterhub, binderhub, "
        "gitlab, github-arc, default"
    )


def test_a_deployments_pod() -> None:
    web = pod(controller("ReplicaSet", "web-5d4f7"), labels={"pod-template-hash": "5d4f7"})
    assert [(found.kind, found.name) for found in owner_chain(web)] == [
        ("ReplicaSet", "web-5d4f7"),
        ("Deployment", "web"),
    ]
    assert owner(web, sources("default")) == Owner("Deployment hub/web", "owner reference")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("web-5d4f7", {}),
        ("web-5d4f7", {"pod-template-hash": ""}),
        ("web-5d4f7", {"pod-template-hash": "4f7"}),
        ("-5d4f7", {"pod-template-hash": "5d4f7"}),
    ],
)
def test_a_replica_set_by_itself(name: str, labels: dict[str, str]) -> None:
    assert owner_chain(pod(controller("ReplicaSet", name), labels=labels)) == (
        controller("ReplicaSet", name),
    )


MINUTE = int(CREATED_UNIX_S) // 60


@pytest.mark.parametrize(
    ("job", "cron_job"),
    [
        (f"backup-{MINUTE}", "backup"),
        (f"a-b-{MINUTE - 60}", "a-b"),
        (f"backup-{MINUTE * 60}", "backup"),
        (f"backup-{MINUTE + 60}", ""),  # due after the pod was made
        (f"backup-{MINUTE - 60 * 24 * 8}", ""),
        ("backup-20261123", ""),  # a date
        (f"{MINUTE}", ""),
        (f"-{MINUTE}", ""),
        ("backup", ""),
        ("backup-٢٩٩٢٣٨٠٠", ""),
    ],
)
def test_a_cron_jobs_pod(job: str, cron_job: str) -> None:
    chain = owner_chain(pod(controller("Job", job)))
    assert chain[0] == controller("Job", job)
    assert [found.name for found in chain[1:]] == ([cron_job] if cron_job else [])


def test_the_controller_counts_among_many_owners() -> None:
    other = OwnerReference("ConfigMap", "x", "", is_controller=False)
    assert owner_chain(pod(other, controller("DaemonSet", "d"))) == (controller("DaemonSet", "d"),)
    assert owner_chain(pod(other)) == (other,)


def test_a_node_owns_nothing() -> None:
    assert owner_chain(pod(controller("Node", "n1"))) == ()


@given(
    st.lists(
        st.builds(
            OwnerReference,
            st.sampled_from(["Job", "ReplicaSet", "X"]),
            *[st.text()] * 2,
            st.booleans(),
        )
    ),
    st.dictionaries(st.sampled_from(["pod-template-hash", "hub.jupyter.org/username"]), st.text()),
    st.sampled_from([*PROFILES]),
)
def test_names_of_any_kind_never_raise(
    owners: list[OwnerReference], labels: dict[str, str], profile: str
) -> None:
    found = owner(pod(*owners, labels=labels), sources(profile))
    assert found is None or found.name
