"""Repositories as regular expressions: they match the repository, and no other one."""

from __future__ import annotations

import re
import time
from urllib.parse import quote

import pytest
import re2
from hypothesis import assume, given
from hypothesis import strategies as st

from minerwatch.culling.ban_patterns import banned_specs

GITHUB, GIT = "GitHubRepoProvider.banned_specs", "GitRepoProvider.banned_specs"


def is_banned(patterns: dict[str, str], spec: str, provider: str = GITHUB) -> bool:
    """As ``RepoProvider.is_banned`` of BinderHub."""
    return provider in patterns and bool(re.match(patterns[provider], spec, re.IGNORECASE))


BAD = banned_specs("https://github.com/a/b.c")


@pytest.mark.parametrize(
    "spec", ["a/b.c/HEAD", "A/B.C/main", "a/b.c.git/x", "%61/b.c/HEAD", "a/%42.c/v1/2", "a/b%2ec/x"]
)
def test_a_repository_is_banned_however_it_is_written(spec: str) -> None:
    assert is_banned(BAD, spec)


@pytest.mark.parametrize("spec", ["a/bxc/HEAD", "a/b.cd/HEAD", "xa/b.c/HEAD", "x/a/b.c", "a/b/c"])
def test_no_other_repository_is_banned(spec: str) -> None:
    assert not is_banned(BAD, spec)


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/a/b.c",
        "https://github.com/a/b.c.git",
        "http://www.github.com/A/B.c/",
        "https://evil@github.com/a/b.c",
    ],
)
def test_the_same_repository_by_any_git_server_is_banned_too(url: str) -> None:
    assert is_banned(BAD, f"{quote(url, safe='')}/HEAD", GIT)


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com:443/a/b.c",
        "https://github.com:/a/b.c",
        "https://github.com/./a/b.c",
        "https://github.com/a/.//b.c",
        "https://github.com/x/../a/y.z/../b.c",
    ],
)
def test_a_port_and_dot_segments_do_not_hide_a_repository(url: str) -> None:
    assert is_banned(BAD, f"{quote(url, safe='')}/HEAD", GIT)
    assert is_banned(BAD, f"{url}/HEAD", GIT)
    assert banned_specs(url) == BAD
    assert not is_banned(BAD, f"{quote(url, safe='')}d/HEAD", GIT)


def test_a_pattern_takes_no_time_on_a_long_address() -> None:
    started_s = time.perf_counter()
    for part in ("./", "x/../", "../", "./../", ".x/", "//"):
        assert not is_banned(BAD, f"https://github.com/{part * 2000}z", GIT)
    assert time.perf_counter() - started_s < 5


def test_other_hosts_are_not() -> None:
    for url in ("https://github.com.evil.org/a/b.c", "https://gitlab.com/a/b.c"):
        assert not is_banned(BAD, f"{quote(url, safe='')}/HEAD", GIT)
    assert set(banned_specs("https://gitlab.com/g/sub/p")) == {
        "GitLabRepoProvider.banned_specs",
        GIT,
    }
    assert set(banned_specs("https://git.example.org/p")) == {GIT}
    assert "GistRepoProvider.banned_specs" in banned_specs("https://gist.github.com/a/0123abc")


@pytest.mark.parametrize(
    "text",
    ["", "10.5281/zenodo.1", "https://github.com", "https://github.com/", "https://github.com/a",
     "https://github.com/a/..", "https://localhost/a", "javascript:a/b", "https://[::1", ".*",
     "https://github.com/a\n/b", "https://github.com/" + "a" * 600],
)  # fmt: skip
def test_a_host_an_owner_or_no_address_is_no_ban(text: str) -> None:
    assert banned_specs(text) == {}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("\u017feattle", "seattle"),
        ("\u212aube", "kube"),
        ("\u0130x", "ix"),
        ("stra\u00dfe", "stra%53%53e"),
        ("\ufb00x", "%46%46x"),
    ],
)
def test_a_name_that_folds_to_another_bans_not_the_other(name: str, spec: str) -> None:
    for pattern in banned_specs(f"https://github.com/{name}/x").values():
        assert not re.match(pattern, f"{spec}/x/HEAD", re.IGNORECASE)


@pytest.mark.parametrize("name", ["\u017feattle", "stra\u00dfe", "\u00c5\u00bf"])
def test_a_name_that_is_not_ascii_is_banned_as_it_is_sent(name: str) -> None:
    url = f"https://git.example.org/{name}/x"
    bad = banned_specs(url)
    for spec in (quote(url, safe=""), quote(url, safe=":/")):
        assert is_banned(bad, f"{spec}/HEAD", GIT)


names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12)


@given(names, names, names, names)
def test_a_pattern_is_of_one_repository(owner: str, name: str, other: str, another: str) -> None:
    patterns = banned_specs(f"https://github.com/{owner}/{name}")
    for pattern in patterns.values():
        re.compile(pattern)
        re2.compile(pattern.replace(r"\Z", r"\z"))
        assert pattern.startswith("^")
    if patterns:
        assume("%" not in f"{other}{another}")
        if not _same(owner, other) or not _same(name, another):
            assert not is_banned(patterns, f"{other}/{another}/HEAD")


def _same(one: str, other: str) -> bool:
    def folded(text: str) -> str:
        return text.split("?")[0].split("#")[0].casefold().upper().removesuffix(".GIT").strip()

    return folded(one) == folded(other) or bool(re.fullmatch(re.escape(one), other, re.IGNORECASE))
