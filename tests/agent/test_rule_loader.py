from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from minerwatch import __version__
from minerwatch.agent.rule_loader import Load, RuleLoader, RuleSet, load_in_child
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.sigma import rulebook
from tests.detection.sigma.test_rulebook import titles, write
from tests.waiting import PATIENCE_S


class Listener:
    """What a reading tells its agent."""

    def __init__(self, load: Load = load_in_child) -> None:
        self.done = threading.Event()
        self.errors: list[Exception] = []
        self.reading = RuleLoader(self.done.set, self.errors.append, load=load, first_pause_s=0.0)

    def answer(self) -> RuleSet | None:
        assert self.done.wait(PATIENCE_S)
        self.done.clear()
        return self.reading.answer()


def unanswered(*_: object) -> rulebook.RuleBook:
    raise ValueError("no answer")


def test_a_child_reads_what_this_process_would(tmp_path: Path) -> None:
    write(tmp_path / "private" / "one.yml", "one")
    folders, private = [BUILT_IN_RULES, tmp_path / "private"], [tmp_path / "private"]
    read = Listener().reading.read(folders, private)
    assert read.book == rulebook.bare(rulebook.load(folders, private))
    assert [rule.title for rule in read.book.rules if rule.private] == ["one"]
    assert read.matcher.rules == read.book.rules


def test_only_what_matching_needs_comes_back(tmp_path: Path) -> None:
    (rule,) = rulebook.load([_described(tmp_path)]).rules
    (bare,) = Listener().reading.read([tmp_path]).book.rules
    assert rule.description
    assert rule.tests
    assert not bare.description
    assert not bare.tests
    for name in ("id", "title", "signal", "score", "hold_s", "maturity", "condition", "fields"):
        assert getattr(bare, name) == getattr(rule, name)


def test_what_changed_is_read_in_the_background(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "one")
    listener = Listener()
    before = listener.reading.read([tmp_path])
    write(tmp_path / "two.yml", "two")
    assert listener.reading.begin(before)
    assert not listener.reading.begin(before)  # one at a time
    after = listener.answer()
    assert after is not None
    assert titles(after.book) == ["one", "two"]
    assert listener.reading.answer() is None
    (tmp_path / "two.yml").write_text("title: [")
    assert listener.reading.begin(after)
    broken = listener.answer()
    assert broken is not None
    assert titles(broken.book) == ["one", "two"]  # the one that was good stays in force
    (error,) = broken.errors
    assert str(error).startswith(f"{tmp_path}/two.yml:2: not YAML")
    assert error.line == 2


@pytest.mark.parametrize("is_again", [False, True], ids=["first", "again"])
def test_ticks_go_before_a_child_that_reads_again(tmp_path: Path, is_again: bool) -> None:
    """Under a CPU quota; nothing waits but the agent's start."""
    write(tmp_path / "one.yml", "one")
    previous = rulebook.bare(rulebook.load([tmp_path])) if is_again else None
    asked = pickle.dumps(__version__) + pickle.dumps(([tmp_path], [], previous))
    child = (
        "import os, sys; from minerwatch.agent import rule_loader_child; rule_loader_child.main();"
        "print(os.getpriority(os.PRIO_PROCESS, 0), file=sys.stderr)"
    )
    command = [sys.executable, "-c", child, str(os.getpid())]
    done = subprocess.run(command, input=asked, capture_output=True, check=True)
    assert [rule.title for rule in pickle.loads(done.stdout).rules] == ["one"]
    assert int(done.stderr) == (15 if is_again else os.getpriority(os.PRIO_PROCESS, 0))


def test_yara_files_are_checked_when_they_change(tmp_path: Path) -> None:
    good = tmp_path / "a.yar"
    good.write_text("rule a { condition: false }")
    listener = Listener()
    read = listener.reading.check_content(listener.reading.read([tmp_path]))
    assert read.errors == ()
    good.write_text("rule a {")
    assert listener.reading.begin(read)
    after = listener.answer()
    assert after is not None
    (error,) = after.errors
    assert error.path == good


def test_where_no_child_can_be_had_the_rules_are_read_all_the_same(
    tmp_path: Path,
) -> None:
    write(tmp_path / "one.yml", "one")
    listener = Listener(unanswered)
    assert titles(listener.reading.read([tmp_path]).book) == ["one"]
    assert listener.reading.failures == {"child": 1}
    assert len(listener.errors) == 1


def test_a_child_that_gives_no_answer_is_counted_and_asked_again_later(
    tmp_path: Path,
) -> None:
    write(tmp_path / "one.yml", "one")
    before = Listener().reading.read([tmp_path])
    loads: list[Load] = [unanswered, load_in_child]
    listener = Listener(lambda *asked: loads.pop(0)(*asked))
    assert listener.reading.begin(before)
    assert listener.answer() is None
    assert listener.reading.failures == {"child": 1}
    assert listener.reading.begin(before)
    assert listener.answer() is not None


def test_after_a_failure_nothing_is_loaded_for_some_time(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "one")
    before = Listener().reading.read([tmp_path])
    done = threading.Event()
    reading = RuleLoader(done.set, print, load=unanswered)
    assert reading.begin(before)
    assert done.wait(PATIENCE_S)
    assert reading.answer() is None
    assert not reading.begin(before)


@pytest.mark.parametrize(
    "child",
    [
        "import sys; sys.exit(1)",
        "pass",
        "print('nonsense')",
        "import pickle, sys; pickle.dump(1, sys.stdout.buffer)",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_whatever_a_child_answers_it_is_an_error_or_a_rule_book(
    child: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run
    monkeypatch.setattr(
        "minerwatch.node.guarded_child.subprocess.run",
        lambda _command, **options: run([sys.executable, "-c", child], **options),
    )
    with pytest.raises((OSError, ValueError)):
        load_in_child((tmp_path,), (), None)


def test_a_child_of_another_version_loads_no_rules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its enums may be other classes: ``is`` would not hold, and no rule would be experimental."""
    monkeypatch.setattr("minerwatch.agent.rule_loader.__version__", "0.0.1")
    with pytest.raises(ValueError, match=f"version {__version__} was installed: restart"):
        load_in_child((tmp_path,), (), None)


def test_the_agent_itself_never_loads_what_only_reading_needs() -> None:
    script = (
        "import sys, threading; from minerwatch.agent.daemon import Agent\n"
        "from minerwatch.agent.rule_loader import RuleLoader\n"
        "from minerwatch.config.schema import Config\n"
        "from minerwatch.report.log import logger; logger(as_json=True)\n"
        "read = RuleLoader(print, print).read(Config().rule_folders())\n"
        "assert len(read.book.rules) > 50\n"
        "heavy = {'sigma', 'rich', 'kubernetes', 'yara_x', 'urllib3', 'statistics',"
        " 'psutil', 'textual', 'cryptography'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _described(folder: Path) -> Path:
    path = write(folder / "one.yml", "one")
    tests = "minerwatch: {tests: {match: [{Image: /x}], no_match: [{Image: /y}]}}\n"
    path.write_text(path.read_text() + "description: what it is\n" + tests)
    return folder
