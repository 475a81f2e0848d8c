from __future__ import annotations

from dataclasses import replace

from minerwatch.kube.identity import Identities
from minerwatch.kube.naming import MAX_WAIT_S, NameWait
from minerwatch.model import ContainerKind
from tests.kube.test_identity import Known, a_container, a_pod

NAMED = Identities(Known(a_pod()), ())
UNNAMED = Identities(Known(a_pod(container_id="")), ())
UNKNOWN = Identities(Known(), ())


def test_what_has_a_name_does_not_wait() -> None:
    container = a_container()
    assert NameWait().is_over(container, NAMED.of(container), 0.0)
    engine = a_container(kind=ContainerKind.ENGINE)
    assert NameWait().is_over(engine, None, 0.0), "it never gets one"
    nested = replace(container, outer_cgroup="/kubepods/x")
    assert NameWait().is_over(nested, UNNAMED.of(nested), 0.0), "neither does this"


def test_what_has_none_waits_but_not_for_ever() -> None:
    container, names = a_container(), NameWait()
    for identities in (UNNAMED, UNKNOWN):
        identity = identities.of(container)
        assert not names.is_over(container, identity, 100.0)
        assert not names.is_over(container, identity, 99.0 + MAX_WAIT_S)
    assert names.is_over(container, UNNAMED.of(container), 100.0 + MAX_WAIT_S)


def test_a_name_that_comes_ends_the_wait() -> None:
    container, names = a_container(), NameWait()
    assert not names.is_over(container, UNNAMED.of(container), 100.0)
    assert names.is_over(container, NAMED.of(container), 101.0)
    assert not names.is_over(container, UNKNOWN.of(container), 200.0), "it is another wait"


def test_few_are_remembered() -> None:
    names = NameWait()
    for number in range(10_000):
        container = replace(a_container(), cgroup_inode=number)
        assert not names.is_over(container, None, 0.0)
    assert len(names._since_s) <= 4096
