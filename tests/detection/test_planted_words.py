"""Whose words a match rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.arguments import command_line_of
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.planted_words import (
    DELAY_CPU_S,
    FORGOTTEN_CORES,
    PlantedArguments,
    cpu_s_after,
    has_computed,
    with_arguments,
)
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Facts
from tests.detection.matching.test_matcher import rule_of

URL = "stratum+tcp://pool.example.org:3333"


def mining_rule(**detection: Any) -> Rule:
    return replace(rule_of({**detection}), score=88.0, is_foreign=False)


OPTION = mining_rule(
    option={"CommandLine|re": r"(?:^|\s)--donate-level(?:[=\s]|$)"}, condition="option"
)
POOL_AND_LOGIN = mining_rule(
    pool={"CommandLine|re": r"(?:^|\s)-o\s+stratum\S*"},
    login={"CommandLine|re": r"(?:^|\s)-u\s+\S+"},
    condition="pool and login",
)
NAME = mining_rule(name={"Image|endswith": "/xmrig"}, condition="name")


def live(*arguments: str, image: str = "/usr/bin/x", **more: Any) -> Facts:
    return {"Arguments": arguments, "Image": image, **more}


def matched(rule: Rule, facts: Facts) -> Match | None:
    found = Matcher((rule,)).static_matches(with_arguments(facts))
    return found[0] if found else None


@pytest.mark.parametrize(
    "arguments",
    [
        ("ffmpeg", "-i", "--donate-level", "out.mp4"),
        ("ffmpeg", "-i", "--donate-level=1", "out.mp4"),
        ("./a", "--donate-level=1"),
    ],
)
def test_one_argument_alone_is_words_only_and_waits_for_cpu(arguments: tuple[str, ...]) -> None:
    match = matched(OPTION, live(*arguments))
    assert match is not None
    assert match.words_only
    assert match.is_delayed


def test_several_arguments_of_a_process_are_its_own() -> None:
    match = matched(POOL_AND_LOGIN, live("./a", "-o", URL, "-u", "w"))
    assert match is not None
    assert not match.words_only
    assert not match.is_delayed


def test_a_planted_argument_does_not_weaken_what_else_is_there() -> None:
    """A miner gains nothing by an argument that holds all of it."""
    decoy = f"-o {URL} -u w"
    match = matched(POOL_AND_LOGIN, live("./a", "-o", URL, "-u", "w", decoy, URL))
    assert match is not None
    assert not match.words_only


def test_an_argument_after_a_common_option_is_one_argument() -> None:
    rule = mining_rule(
        url={"CommandLine|re": r"(?:^|\s)(?:-o|--mine-at)\s+stratum\S*"}, condition="url"
    )
    common, own = (matched(rule, live("x", option, URL)) for option in ("-o", "--mine-at"))
    assert common is not None
    assert common.words_only
    assert own is not None
    assert not own.words_only


def test_a_programs_own_name_is_not_an_argument() -> None:
    match = matched(NAME, live("./xmrig", "-c", "x.json", image="/opt/xmrig"))
    assert match is not None
    assert not match.words_only


def test_arguments_of_the_parent_are_arguments() -> None:
    rule = mining_rule(parent={"ParentCommandLine|contains": "xmrig"}, condition="parent")
    line = command_line_of(["make", "-C", "xmrig"])
    match = matched(rule, {"ParentCommandLine": line, "Image": "/usr/bin/cc"})
    assert match is not None
    assert match.words_only


def test_words_of_a_script_count_at_once_and_as_words_only() -> None:
    script = f"./a -o {URL} -u w"
    assert matched(POOL_AND_LOGIN, live("prog", "--title", script)) is None
    match = matched(POOL_AND_LOGIN, live("sh", "-c", script))
    assert match is not None
    assert match.words_only
    assert not match.is_delayed


def test_a_title_is_taken_apart_as_a_script_is() -> None:
    title = f"./a -o {URL} -u w"
    match = matched(POOL_AND_LOGIN, live(title, CommandLineHidden=True))
    assert match is not None
    assert match.words_only


def test_rules_of_other_collections_do_not_wait() -> None:
    rule = rule_of({"s": {"CommandLine|contains": "/etc/shadow"}, "condition": "s"})
    match = matched(rule, live("cat", "/etc/shadow"))
    assert match is not None
    assert match.words_only
    assert not match.is_delayed


def test_rules_of_other_collections_see_the_blanks_inside_arguments() -> None:
    rule = rule_of(
        {
            "s": {"CommandLine|contains|all": ["import pty", "spawn"]},
            "f": {"CommandLine|contains": "pytest is fine"},
            "condition": "s and not f",
        }
    )
    script = "import pty; pty.spawn('/bin/sh')"
    match = matched(rule, live("python3", "-c", script))
    assert match is not None
    assert match.words_only
    assert matched(rule, live("python3", "-c", f"{script} # pytest is fine")) is None
    several = matched(rule, live("python3", "import", "pty", "spawn"))
    assert several is not None
    assert not several.words_only


def test_a_recorded_line_without_arguments_is_split_at_its_blanks() -> None:
    facts = with_arguments({"CommandLine": "a -b c"})
    assert facts["Arguments"] == ("a", "-b", "c")
    both = with_arguments({"CommandLine": "a b c", "Arguments": ("a", "b c")})
    assert both["CommandLine"] == "a b\u00a0c"
    assert with_arguments({"Image": "/a"}) == {"Image": "/a"}


programs = st.sampled_from(
    [
        ("ffmpeg", "-i", "{}", "out.mp4"),
        ("python3", "render.py", "--title", "{}"),
        ("java", "-Dtitle={}", "-jar", "a.jar"),
        ("curl", "-O", "{}"),
        ("tar", "cf", "a.tar", "{}"),
    ]
)
hostile = st.lists(
    st.sampled_from(["--donate-level", "1", "-o", URL, "-u", "w", "x.mp4", "=", "'", '"']),
    min_size=1,
).flatmap(lambda words: st.sampled_from([" ", "\t", "\n", "=", ""]).map(lambda s: s.join(words)))


@given(programs, hostile)
def test_no_argument_of_an_innocent_program_is_more_than_words(
    program: tuple[str, ...], argument: str
) -> None:
    facts = live(*(each.format(argument) for each in program))
    for rule in (OPTION, POOL_AND_LOGIN):
        match = matched(rule, facts)
        assert match is None or match.words_only


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 1000)), max_size=50))
def test_cpu_time_is_counted_over_restarts_and_forgotten_slowly(
    steps: list[tuple[float, float]],
) -> None:
    counted = 0.0
    for used_s, passed_s in steps:
        before = counted
        counted = cpu_s_after(counted, used_s, passed_s)
        assert 0 <= counted <= 2 * DELAY_CPU_S
        assert counted >= min(before + used_s, 2 * DELAY_CPU_S) - FORGOTTEN_CORES * passed_s - 1e-9


def test_whether_a_recording_has_computed() -> None:
    assert has_computed({"CpuSeconds": 30}, 0)
    assert has_computed({"CpuCores": 0.5}, 60)
    assert not has_computed({"CpuCores": 0.5}, 59)
    assert not has_computed({"CpuSeconds": 29.9, "CpuCores": 1.0}, 600)
    assert not has_computed({}, 1e9)
    assert not has_computed({"CpuSeconds": 36.0, "CpuCores": 0.005}, 7200)
    assert has_computed({"CpuSeconds": 5000.0, "CpuCores": 0.5}, 10)  # used before it was recorded


def test_an_address_beside_a_login_of_the_programs_own_is_words_only() -> None:
    rule = rule_of(
        {
            "url": {"CommandLine|contains": "stratum+tcp://"},
            "login": {"CommandLine|contains": " -u "},
            "condition": "url and login",
        }
    )
    line = "mysqlimport -u u db stratum+tcp://pool.example.org:3333"
    (match,) = Matcher([rule]).matches(with_arguments({"CommandLine": line}))
    assert match.words_only


@pytest.mark.parametrize("place", [0, 1, 7, 8, 100, 2999])
@pytest.mark.parametrize("planted", ["--donate-level=1", URL])
def test_one_planted_argument_is_found_in_a_line_of_thousands(place: int, planted: str) -> None:
    url = mining_rule(url={"CommandLine|contains": "stratum+tcp://"}, condition="url")
    files = [f"file-{number}" for number in range(3000)]
    files[place] = planted
    match = matched(OPTION if planted.startswith("--") else url, live("tar", "-cf", "x", *files))
    assert match is not None
    assert match.words_only


@pytest.mark.parametrize("is_before", [True, False])
def test_decoys_by_the_thousand_make_no_words_of_a_miners_arguments(is_before: bool) -> None:
    own = ("-o", URL, "-u", "44AFFq5kSiGBoZ4NMDwYtN18obc8AemS.w")
    decoys = tuple(f"-o=stratum-{number}" for number in range(3000))
    arguments = ("./a", *decoys, *own) if is_before else ("./a", *own, *decoys)
    match = matched(POOL_AND_LOGIN, live(*arguments))
    assert match is not None
    assert not match.words_only


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--donate-level={number}" for number in range(5000)],
        [f"-o stratum-{number}" for number in range(5000)],
        ["-o", URL, "-u", "worker", *(f"{number:04x}" for number in range(5000))],
    ],
)
def test_a_line_of_thousands_is_tried_a_few_hundred_times(arguments: list[str]) -> None:
    rule = CountingRule()
    PlantedArguments(with_arguments(live("./a", *arguments)), dict, 4).rests_on_one(rule)
    assert rule.tried < 600


class CountingRule:
    """Holds on an option and on a pool with a login, and counts how often it is evaluated."""

    def __init__(self) -> None:
        self.tried = 0

    def holds(self, facts: Facts) -> bool:
        self.tried += 1
        line = str(facts["CommandLine"])
        return "--donate-level" in line or ("-o stratum" in line and "-u worker" in line)

    def may_hold(self, _facts: Facts) -> bool:
        return True
