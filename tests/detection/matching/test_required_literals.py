"""What a pattern requires: never too much, for then a rule would be passed over."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import re2
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minerwatch.detection.condition import How, Text, predicates
from minerwatch.detection.matching.required_literals import (
    has_long_word,
    normal_form,
    requirement,
    requirement_of,
)
from minerwatch.detection.predicate import predicate_holds
from tests import shipped
from tests.examples import examples

ATOMS = [
    *("a", "b", "ab", "xmrig", "K", "s", "Σ", "ß", "İ", "é", "4", "-o", "://"),
    *(
        ".",
        r"\s",
        r"\s+",
        " ",
        r"(?:^|\s)",
        r"\w",
        r"\.",
        r"\b",
        "^",
        "$",
        r"\d",
        r"\x41",
        r"\|",
        r"\-",
    ),
    *("[ab]", "[^a]", "[a-c]", "[=:]", "[Ks]", "[[:alpha:]]", "[[:^digit:]]", "{", "{,2}", "}"),
    *("[a-z]{12}", "[0-9A-Za-z]{24}", r"\w{23}", r"[\w:]{24}", "(?:[a-f]{8}-?){3}"),
]
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: f"(?:{'|'.join(each)})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,3}", "{0,1}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"(?i:{one})"),
        inner.map(lambda one: f"(?-i:{one})"),
    ),
    max_leaves=8,
)
FLAGS = st.sampled_from(["", "(?i)", "(?s)", "(?m)", "(?is)"])
LETTERS = ["a", "b", "ab", "AB", "xmrig", "XMRIG", "k", "K", "\u212a", "s", "S", "ſ", "Σ", "σ", "ς"]
PIECES = [*LETTERS, "a" * 12, "ſ" * 12, "K9_" * 8]
BLANKS = [" ", "  ", "\t", "\n", "\v", "\u00a0"]
TEXTS = st.lists(
    st.sampled_from(
        [*PIECES, *BLANKS, "ß", "İ", "é", "4", "-o", "://", " ", "A", "|", ".", "{,2}", "{", "x"]
    ),
    max_size=8,
).map("".join)


def compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


def meets(text: str, pattern: str) -> bool:
    needs = requirement(pattern)
    if needs.has_long_word and not has_long_word(text):
        return False
    return needs.literals is None or any(one in normal_form(text) for one in needs.literals)


@settings(max_examples=examples(200))
@given(FLAGS, PATTERNS, st.lists(TEXTS, min_size=5, max_size=20))
def test_every_text_that_matches_meets_the_requirement(
    flags: str, pattern: str, texts: list[str]
) -> None:
    whole = flags + pattern
    regex = compiled(whole)
    assume(regex is not None)
    assert regex is not None
    for text in texts:
        if regex.search(text):
            assert meets(text, whole)


@given(
    st.sampled_from(How),
    st.booleans(),
    st.lists(st.sampled_from([*PIECES, *BLANKS, "ΑΣ", "İ"]), max_size=4).map("".join),
    st.lists(TEXTS, min_size=5, max_size=20),
)
def test_every_text_on_which_a_predicate_holds_meets_its_requirement(
    how: How, cased: bool, pattern: str, texts: list[str]
) -> None:
    predicate = Text("Image", how, pattern, cased=cased)
    literals = requirement_of(predicate).literals
    for text in (*texts, *(one + pattern + other for one in texts[:2] for other in texts[:2])):
        if predicate_holds(predicate, {"Image": text}):
            assert literals is None or any(one in normal_form(text) for one in literals)


@cache
def shipped_patterns() -> list[str]:
    """Return them, read by the first test that asks: not by each worker that collects."""
    rules = shipped.book().rules
    texts = {
        each for rule in rules for each in predicates(rule.condition) if isinstance(each, Text)
    }
    return sorted(text.pattern for text in texts if text.how is How.REGEX)


@settings(max_examples=examples(60))
@given(st.data())
def test_texts_made_for_the_shipped_patterns_meet_their_requirements(data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(shipped_patterns()))
    text = data.draw(st.from_regex(pattern))
    regex = compiled(pattern)
    assert regex is not None
    if regex.search(text):
        assert meets(text, pattern)


def test_nearly_all_shipped_patterns_are_asked_of_few_texts() -> None:
    """A parser that this module no longer understands would make every rule slow, unseen."""
    known = [requirement(pattern) for pattern in shipped_patterns()]
    assert sum(each.literals is None for each in known) <= len(known) // 20


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        ("xmrig", {"xmrig"}),
        ("(?i)XMRig|minerd", {"xmrig", "minerd"}),
        (
            r"(?:^|\s)--(?:donate|pool)(?:=|\s)",
            {" --donate ", " --donate=", " --pool ", " --pool="},
        ),
        (r"\s-[ou]\s+", {" -o ", " -u "}),
        (r"a{2}b{0,2}c", {"aac", "aabc", "aabbc"}),
        (r"/(?:\.{3,}|\.{0,2} +)/", {"/...", "/ ", "/. ", "/.. "}),
        ("^^ab$", {" ab "}),
        (r"a\.b(?:c)?d", {"a.bd", "a.bcd"}),
        (r"x+y", {"xy"}),
        (r"ab+cd", {"bcd"}),
        # What all have in common, unless it is common: /usr/bin/ is.
        (r"[./@]pool\.example\.org[:/ ]", {"pool.exampl"}),
        (r"/usr/bin/(?:[ab])", {"/usr/bin/a", "/usr/bin/b"}),
        # A text with one of the longer literals has the shorter one as well.
        (r"(?:--key|-w)=['x]?", {"--key=", "-w="}),
        (r"(?:ab)*", None),
        ("[48][A-Z]{94}", None),
        (r"\[::1\]:9", {"[::1]:9"}),
        ("[[:alpha:]]bcd", None),
        (r"\pLbcd", None),
        ("éa", None),
        ("ab(", None),
    ],
)
def test_what_is_required(pattern: str, literals: set[str] | None) -> None:
    assert requirement(pattern).literals == (None if literals is None else frozenset(literals))


@pytest.mark.parametrize(
    ("text", "is_long"),
    [
        ("x " + "aZ0_" * 6, True),
        ("x " + "aZ0_" * 5 + "aZ0", False),
        ("aZ0_" * 5 + "-" + "aZ0_" * 5, False),
        ("ſ" * 24, True),
        ("\u212a" * 24, True),
        ("", False),
    ],
)
def test_words_of_24_letters_are_long(text: str, is_long: bool) -> None:
    assert has_long_word(text) is is_long


@pytest.mark.parametrize(
    ("pattern", "has_long_word"),
    [
        ("[48][A-Z]{94}", True),
        (r"(?:^|\s)-u (?:0x[0-9a-f]{40}|bc1[02-9ac-hj-np-z]{38,58})\b", True),
        ("(?:x[a-z]{24})+", True),
        ("(?:x[a-z]{24})?", False),
        ("(?:){24}x", False),
        ("[a-z]{23}", False),
        ("[a-z]{30}|x", False),
        ("(?:[a-z]{30})*", False),
        (r"[\w:]{30}", False),
        ("[^ ]{30}", False),
        (".{30}", False),
        ("[A-z]{30}", False),
        (r"\w{24}", True),
        (r"\d{24}", True),
    ],
)
def test_whether_a_long_word_is_required(pattern: str, has_long_word: bool) -> None:
    assert requirement(pattern).has_long_word is has_long_word


def test_a_pattern_that_stands_for_thousands_of_texts_is_no_burden() -> None:
    wide = requirement("".join(f"(?:{chr(97 + n)}a|{chr(97 + n)}b)" for n in range(20)) + "end")
    assert wide.literals is not None
    assert len(wide.literals) <= 160
    deep = "(" * 400 + "abc" + ")" * 400
    assert requirement(deep).literals in (None, frozenset(("abc",)))
    assert requirement("a{1000}").literals is None or re.fullmatch("a{1000}", "a" * 1000)
