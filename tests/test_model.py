from __future__ import annotations

from dataclasses import replace

from minerwatch.model import Evidence, public_finding
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
