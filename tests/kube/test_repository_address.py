"""A tenant is one owner, however he writes the address of his repository."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.kube.repository_address import one_spelling


@pytest.mark.parametrize(
    "spelling",
    [
        "https://github.com/Org/Repo",
        "http://github.com/org/repo.git",
        "https://www.GitHub.com:443/org//repo/",
        "https://user:password@github.com/org/./x/../repo?token=1#readme",
        "ssh://git@github.com/ORG/%72epo.git/",
    ],
)
def test_spellings_of_a_repository_are_one_owner(spelling: str) -> None:
    assert one_spelling(spelling) == "https://github.com/org/repo"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://github.com/Org/Repo/tree/Main", "https://github.com/org/repo/tree/Main"),
        ("https://git.example.org/Group/Name.git", "https://git.example.org/Group/Name"),
        ("https://git.example.org:8443/a", "https://git.example.org:8443/a"),
        ("https://example.org", "https://example.org"),
        ("https://u:secret@[broken/x", "https://[broken/x"),
        ("https://example.org/a%0ab", "https://example.org/a%0ab"),
        ("ada@example.org", "ada@example.org"),
        ("Deployment team/web", "Deployment team/web"),
        ("", ""),
    ],
)
def test_what_counts_in_a_name_is_kept(name: str, expected: str) -> None:
    assert one_spelling(name) == expected


@given(st.text() | st.text().map("https://github.com/{}".format))
def test_a_spelling_stays_as_it_is(name: str) -> None:
    once = one_spelling(name)
    assert one_spelling(once) == once or "%" in name
