"""Names of the people behind a pod, as platforms write them and as tenants may forge them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.kube import attributions
from minerwatch.kube.attributions import MAX_ATTRIBUTIONS, MAX_BUILDS, Trust
from minerwatch.kube.cluster_view import identity_facts, identity_of
from minerwatch.kube.owners import Source, SourceKind, owner, sources
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Attribution, OwnerKind, OwnerReference, Pod
from tests.builders import make_container, make_pod, make_pod_container
from tests.kube.api_server import encode, pod_json
from tests.kube.test_identity import known

BINDER = Trust(hubs=("binder",), binder=True)
PLATFORMS = Trust(("binder", "ci*"), ("binder", "hub"))
DIND = OwnerReference("DaemonSet", "binder-dind", "uid-dind", is_controller=True)
SESSION: dict[str, Any] = {
    "annotations": {
        "hub.jupyter.org/username": "a-b-4f2k9x1a",
        "hub.jupyter.org/servername": "gpu",
    },
    "labels": {"hub.jupyter.org/username": "a-2db-4f2k9x1a"},
    "environment": {
        "BINDER_REPO_URL": "https://github.com/a/b",
        "BINDER_REF_URL": "https://github.com/a/b/tree/4f2k",
        "BINDER_CLIENT_IP": "192.0.2.7",
        "BINDER_LAUNCH_HOST": "https://mybinder.org/",
    },
}


def of(pod: Pod, trust: Trust = PLATFORMS, profile: str = "default") -> dict[str, str]:
    found = attributions.of_pod(pod, sources(profile), trust)
    return {each.kind.value: str(each) for each in reversed(found)}


def test_all_names_of_a_binder_session_stand_side_by_side() -> None:
    found = attributions.of_pod(make_pod(**SESSION), sources("binderhub"), BINDER)
    assert found == (
        Attribution(OwnerKind.USER, "a-b-4f2k9x1a", "annotation hub.jupyter.org/username"),
        Attribution(OwnerKind.SERVER, "gpu", "annotation hub.jupyter.org/servername"),
        Attribution(OwnerKind.REPOSITORY, "https://github.com/a/b", "environment BINDER_REPO_URL"),
        Attribution(
            OwnerKind.REF, "https://github.com/a/b/tree/4f2k", "environment BINDER_REF_URL"
        ),
        Attribution(OwnerKind.CLIENT, "192.0.2.7", "environment BINDER_CLIENT_IP"),
        Attribution(
            OwnerKind.LAUNCH_HOST, "https://mybinder.org/", "environment BINDER_LAUNCH_HOST"
        ),
    )


def test_a_gitlab_job_cannot_forge_its_project_but_all_else() -> None:
    job = make_pod(
        namespace="ci-jobs",
        labels={
            "project.runner.gitlab.com/namespace": "group",
            "project.runner.gitlab.com/name": "web",
        },
        annotations={"job.runner.gitlab.com/url": "https://gitlab.example.org/x/-/jobs/1"},
        environment={"CI_PROJECT_PATH": "victim/web", "GITLAB_USER_LOGIN": "victim"},
    )
    found = attributions.of_pod(job, sources("gitlab"), PLATFORMS)
    assert [str(each) for each in found if each.kind is OwnerKind.PROJECT] == [
        "group/web",
        "victim/web (claimed)",
    ]
    assert of(job)["user"] == "victim (claimed)"
    assert of(job)["job"] == "https://gitlab.example.org/x/-/jobs/1 (claimed)"
    named = owner(job, sources("gitlab"))
    assert named is not None
    assert (named.name, named.source) == (
        "group/web",
        "labels project.runner.gitlab.com/namespace and project.runner.gitlab.com/name",
    )


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {
                "labels": {
                    "actions.github.com/organization": "org",
                    "actions.github.com/repository": "repo",
                    "actions.github.com/scale-set-name": "arc-small",
                }
            },
            {"repository": "org/repo", "project": "org", "job": "arc-small"},
        ),
        (
            {"annotations": {"buildUrl": "http://jenkins/job/x/1/", "runUrl": "job/x/1/"}},
            {"job": "http://jenkins/job/x/1/"},
        ),
        (
            {"labels": {"workflows.argoproj.io/workflow": "train-x7f2q"}},
            {"job": "train-x7f2q"},
        ),
        (
            {
                "labels": {
                    "tekton.dev/pipelineRun": "build-1",
                    "tekton.dev/taskRun": "build-1-compile",
                    "tekton.dev/pipeline": "build",
                }
            },
            {"job": "build-1", "project": "build"},
        ),
    ],
    ids=["github", "jenkins", "argo", "tekton"],
)
def test_what_ci_systems_write(metadata: dict[str, Any], expected: dict[str, str]) -> None:
    assert of(make_pod(namespace="ci", **metadata)) == expected


def test_a_github_repository_is_an_owner_by_one_setting() -> None:
    labels = {"actions.github.com/organization": "org", "actions.github.com/repository": "repo"}
    named = owner(make_pod(labels=labels), sources("github-arc"))
    assert named is not None
    assert named.name == "org/repo"


def test_outside_the_platforms_namespaces_every_name_is_a_claim() -> None:
    forged = make_pod(namespace="mallory", **SESSION)
    for trust in (BINDER, PLATFORMS, attributions.NO_TRUST):
        found = attributions.of_pod(forged, sources("binderhub"), trust)
        assert len(found) == 6
        assert all(each.is_claim for each in found)


def test_a_ci_job_names_no_user_repository_or_address_of_a_hub() -> None:
    """A job chooses its variables, and where the runner permits it its annotations."""
    job = make_pod(namespace="ci-jobs", **SESSION)
    trust = Trust(("ci*",), ("binder",), binder=True)
    found = attributions.of_pod(job, sources("binderhub"), trust)
    assert len(found) == 6
    assert all(each.is_claim for each in found)
    assert attributions.hub_server(found) is None
    build = make_pod(namespace="ci-jobs", annotations={"binder-repo": "https://x/victim"})
    (named,) = attributions.of_pod(build, (), trust)
    assert named.is_claim


def test_a_hub_names_no_project() -> None:
    labels = {"actions.github.com/organization": "org"}
    (named,) = attributions.of_pod(make_pod(namespace="hub", labels=labels), (), PLATFORMS)
    assert named.is_claim


def test_users_that_log_in_choose_the_options_that_become_binders_variables() -> None:
    pod = make_pod(namespace="hub", **SESSION)
    claims = {each.kind for each in attributions.of_pod(pod, (), PLATFORMS) if each.is_claim}
    assert claims == {
        OwnerKind.REPOSITORY,
        OwnerKind.REF,
        OwnerKind.CLIENT,
        OwnerKind.LAUNCH_HOST,
    }


def test_configured_sources_and_the_controller_are_shown_too() -> None:
    pod = make_pod(labels={"team": "blue"}, owners=(DIND,))
    found = attributions.of_pod(pod, sources("default", ["label:team", "namespace"]), PLATFORMS)
    assert [(each.kind.value, each.name) for each in found] == [
        ("controller", "DaemonSet binder/binder-dind"),
        ("configured", "blue"),
    ]


def a_build(repository: str, name: str, **changes: Any) -> Pod:
    return make_pod(
        name, f"uid-{name}", annotations={"binder-repo": repository}, **changes
    )  # fmt: skip


def builds(*pods: Pod, engine: Pod | None = None, trust: Trust = BINDER) -> list[str]:
    dind = engine or make_pod("dind", labels={"component": "dind"}, owners=(DIND,))
    return [f"{each}: {each.source}" for each in attributions.of_build(dind, lambda: pods, trust)]


def test_a_container_in_the_engine_of_builds_belongs_to_the_build() -> None:
    one, two = a_build("https://x/a", "build-a"), a_build("https://x/b", "build-b")
    assert builds(one) == ["https://x/a: the build on this node"]
    assert builds(one, two) == [
        "https://x/a (claimed): one of 2 builds on this node",
        "https://x/b (claimed): one of 2 builds on this node",
    ]
    assert builds(one, a_build("https://x/c", "c", phase="Succeeded")) == builds(one)
    assert builds(one, a_build("https://x/c", "c", namespace="mallory")) == builds(one)
    assert builds(one, trust=PLATFORMS) == builds(one)
    assert builds(one, trust=attributions.NO_TRUST) == [
        "https://x/a (claimed): the build on this node"
    ]


def test_only_a_daemon_sets_engine_has_builds() -> None:
    plain = make_pod("dind", labels={"component": "dind"})
    assert builds(a_build("https://x/a", "a"), engine=plain) == []
    assert len(builds(*(a_build(f"https://x/{n}", f"b{n}") for n in range(50)))) == MAX_BUILDS


def test_a_nested_container_has_the_repository_as_a_fact() -> None:
    dind = make_pod("dind", "uid-1", labels={"component": "dind"}, owners=(DIND,))
    nested = make_container("d0" * 32, "uid-1", outer_cgroup="/kubepods/x")
    pods = known(dind, a_build("https://x/a", "a"))
    facts = identity_facts(identity_of(nested, pods, (), BINDER))
    assert facts["OwnerBuild"] == ("https://x/a",)
    assert facts["OwnerController"] == ("DaemonSet binder/binder-dind",)


def test_digest_and_owners_are_facts_for_rules() -> None:
    digest = "sha256:" + "ab" * 32
    container = make_pod_container("c1", image="lab:1", image_digest=digest)
    pod = make_pod(**SESSION, containers=(container,))
    identity = identity_of(make_container("c1"), known(pod), (), BINDER)
    facts = identity_facts(identity)
    assert facts["ContainerImageDigest"] == digest
    assert facts["OwnerUser"] == ("a-b-4f2k9x1a",)
    assert facts["OwnerRepository"] == ("https://github.com/a/b",)
    assert identity is not None
    shown = {each.kind.value: each.name for each in identity.owners}
    assert (shown["image"], shown["digest"]) == ("lab:1", digest)


def test_the_parser_keeps_what_names_are_found_in() -> None:
    raw = pod_json("p", namespace="binder", uid="u", creationTimestamp="2026-11-24T00:00:00Z")
    raw["metadata"] |= {key: SESSION[key] for key in ("annotations", "labels")}
    raw["spec"]["containers"][0]["env"] = [
        {"name": name, "value": value} for name, value in SESSION["environment"].items()
    ]
    pod = PodParser(attributions.pod_fields()).pod(encode(raw))
    assert pod is not None
    assert len(attributions.of_pod(pod, (), BINDER)) == 6
    assert PodParser(PodFields()).pod(encode(raw)) != pod


def test_events_name_no_person_and_no_secret() -> None:
    pod = make_pod(
        **{
            **SESSION,
            "environment": {
                **SESSION["environment"],
                "BINDER_REPO_URL": "https://x:ghp_0123456789abcdefghijABCDEFGHIJ012345@github.com/a/b",
            },
        }
    )
    text = attributions.public_text(attributions.of_pod(pod, (), BINDER))
    assert text.startswith("repository https://")
    assert text.endswith("github.com/a/b")
    for secret in ("ghp_", "192.0.2.7", "4f2k9x1a"):
        assert secret not in text


@given(
    st.dictionaries(st.sampled_from(sorted(attributions.pod_fields().labels)), st.text()),
    st.dictionaries(st.sampled_from(sorted(attributions.pod_fields().annotations)), st.text()),
    st.dictionaries(st.sampled_from(sorted(attributions.pod_fields().environment)), st.text()),
)
def test_whatever_a_tenant_writes_is_its_own_claim(
    labels: dict[str, str], annotations: dict[str, str], environment: dict[str, str]
) -> None:
    pod = make_pod(
        namespace="mallory", labels=labels, annotations=annotations, environment=environment
    )
    found = attributions.of_pod(pod, [Source(SourceKind.LABEL, "component")], BINDER)
    assert len(found) <= MAX_ATTRIBUTIONS
    assert all(each.is_claim and each.name for each in found)
    assert "\n" not in attributions.public_text(found)
