from __future__ import annotations

from dataclasses import replace

import pytest

from minerwatch.model import Container, ContainerKind, Evidence, public_finding
from tests.builders import make_finding


def test_outsiders_see_a_private_rule_by_its_id_only() -> None:
    evidence = (Evidence("CommandLine", "./a -o our-rivals", "contains 'rivals'"),)
    secret = replace(make_finding(), title="Our rivals' pool", evidence=evidence, private=True)
    shown = public_finding(secret)
    assert (shown.title, shown.evidence) == (f"private rule {secret.rule}", ())
    assert (shown.rule, shown.score, shown.since_s) == (secret.rule, secret.score, secret.since_s)
    assert "rivals" not in repr(shown)
    plain = replace(secret, private=False)
    assert public_finding(plain) is plain


@pytest.mark.parametrize("unit", ["session-3.scope", "session-4.scope", "user@1000.service"])
def test_all_sessions_of_a_user_are_one_owner(unit: str) -> None:
    cgroup = f"/user.slice/user-1000.slice/{unit}"
    session = Container(cgroup, 1, ContainerKind.UNIT, unit, "systemd")
    below = Container(
        *(f"{cgroup}/a.service", 2, ContainerKind.UNIT, "a.service", "systemd"),
        outer_cgroup=cgroup,
        outermost_cgroup=cgroup,
    )
    assert session.owner == below.owner == "/user.slice/user-1000.slice"
    other = Container("/user.slice/user-1001.slice/s.scope", 3, ContainerKind.UNIT, "s", "systemd")
    assert other.owner == "/user.slice/user-1001.slice"
