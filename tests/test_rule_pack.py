"""What holds of every rule that is shipped."""

from __future__ import annotations

import pytest

from minerwatch.config import BUILT_IN_RULES
from minerwatch.detection import rulebook
from minerwatch.detection.check import Recording, failed_tests, lint, replayed
from minerwatch.detection.match import Matcher
from minerwatch.detection.rule import BEHAVIOUR_LIMIT, Rule
from minerwatch.model import FactValue, Level, Maturity, Signal

BOOK = rulebook.load((BUILT_IN_RULES,))
MATCHER = Matcher(BOOK.rules)
DAY_S = 86_400.0

INNOCENT: dict[str, dict[str, FactValue]] = {
    "a simulation on all cores": {
        "Comm": "python3", "CommandLine": "python3 train.py", "Image": "/usr/bin/python3.11",
        "CpuCores": 15.9, "CpuFlatness": 0.999, "Threads": 16, "SaturatedThreads": 16,
        "CpuSeconds": 5e6, "Age": 4e5, "RssMiB": 2500.0, "HugepagesMiB": 2048.0,
        "ContainerCpuCores": 15.9, "ContainerCpuLimit": 16.0, "ContainerCpuHours": 900.0,
        "HiddenCpuShare": 0.9,
    },
    "grep for pools": {
        "Comm": "grep", "CommandLine": "grep -r stratum+tcp:// .", "Image": "/usr/bin/grep",
    },
    "vim on a rule": {
        "Comm": "vim", "CommandLine": "vim rules/xmrig.yml", "Image": "/usr/bin/vim.basic",
    },
    "git log of a miner": {
        "Comm": "git", "CommandLine": "git log --grep=--donate-level", "Image": "/usr/bin/git",
    },
    "apt of a miner": {
        "Comm": "apt-get", "CommandLine": "apt-get install xmrig", "Image": "/usr/bin/apt-get",
    },
    "a kernel thread's name in an argument": {
        "Comm": "ps", "CommandLine": "ps -C kworker/0:1", "Image": "/usr/bin/ps",
        "KernelThreadName": False,
    },
}  # fmt: skip


def ids(rule: Rule) -> str:
    return str(rule.path.relative_to(BUILT_IN_RULES))


def test_every_file_is_good_and_every_embedded_test_holds() -> None:
    assert [str(remark) for remark in lint(BOOK)] == []
    assert [str(failure) for failure in failed_tests(BOOK.rules, MATCHER)] == []


def test_there_are_enough_over_three_signals() -> None:
    assert len(BOOK.rules) >= 20
    assert {Signal.IDENTITY, Signal.EXECUTION, Signal.BEHAVIOUR} <= {r.signal for r in BOOK.rules}


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_a_rule_stands_in_the_folder_of_its_signal(rule: Rule) -> None:
    assert rule.path.parent.name.split("_")[0] == rule.signal.value


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_no_rule_alone_confirms(rule: Rule) -> None:
    assert Level.of(rule.score) < Level.CONFIRMED
    if rule.signal is Signal.BEHAVIOUR:
        assert rule.score <= BEHAVIOUR_LIMIT


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_a_rule_says_what_it_needs_to_be_trusted(rule: Rule) -> None:
    assert rule.description
    assert rule.references
    assert rule.falsepositives
    assert any(tag.startswith("attack.") for tag in rule.tags)
    if rule.maturity is Maturity.STABLE:
        assert len(rule.tests) >= 4


@pytest.mark.parametrize("facts", INNOCENT.values(), ids=INNOCENT.keys())
def test_innocents_are_clear_however_long_it_lasts(facts: dict[str, FactValue]) -> None:
    outcome = replayed(Recording(1, "", DAY_S, facts), MATCHER)
    assert outcome.level == "clear", outcome.rules


def test_a_plain_miner_is_confirmed_once_it_has_burnt_cpu_for_some_time() -> None:
    facts: dict[str, FactValue] = {
        "Comm": "xmrig", "Image": "/tmp/xmrig", "CpuCores": 3.9, "CpuFlatness": 0.99,
        "CommandLine": "./xmrig -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU --donate-level 1",
    }  # fmt: skip
    assert replayed(Recording(1, "", 0, facts), MATCHER).level == "likely"
    assert replayed(Recording(1, "", 600, facts), MATCHER).level == "confirmed"
