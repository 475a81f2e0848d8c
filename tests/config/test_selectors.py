from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.selectors import Selector, selector
from minerwatch.errors import ConfigError

LABELS = {"app": "web", "tier": "front", "example.org/role": "x", "empty": ""}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "app=web",
        "app == web , tier=front",
        "app!=db",
        "missing!=db",
        "app in (db, web)",
        "app in(web)",
        "app notin (db,cache),tier in (front,back)",
        "missing notin (a)",
        "app",
        "!missing",
        "! missing",
        "example.org/role=x",
        "empty=",
        "empty in ()",
    ],
)
def test_it_matches(text: str) -> None:
    assert selector(text).matches(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "app=db",
        "app=web,tier=back",
        "app!=web",
        "missing=",
        "missing in (a, b)",
        "app in (db, cache)",
        "app notin (db, web)",
        "!app",
        "missing",
        "APP=web",
    ],
)
def test_it_does_not_match(text: str) -> None:
    assert not selector(text).matches(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "=web",
        "app=web,",
        ",",
        "app in web",
        "app in (a",
        "a > 1",
        "app=w eb",
        "-a",
        "a=ü",
        3,
    ],
)
def test_what_kubernetes_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="label"):
        selector(text)


def test_no_selector_means_all() -> None:
    assert Selector().matches({})


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        chosen = selector(text)
    except ConfigError:
        return
    assert chosen.matches(LABELS) in (True, False)


names = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)


@given(names, st.lists(names, min_size=1, max_size=3), st.dictionaries(names, names, max_size=3))
def test_not_in_is_the_opposite_of_in(key: str, values: list[str], labels: dict[str, str]) -> None:
    listed = ", ".join(values)
    assert selector(f"{key} in ({listed})").matches(labels) is not selector(
        f"{key} notin ({listed})"
    ).matches(labels)
