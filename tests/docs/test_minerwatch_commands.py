"""Commands of minerwatch in the pages, run on a node whose agent is recorded."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from minerwatch.cli.main import cli
from minerwatch.report.journal import JournalFiles
from tests.docs.classes import way_of
from tests.docs.commands import Command, commands
from tests.docs.test_cluster_commands import agent
from tests.report.samples import MINER
from tests.test_documents import FOLDER
from tests.view.test_journal_history import verdict

__all__ = ["agent"]  # a fixture

_MINER = f"{MINER.namespace}/{MINER.pod}"
_TARGETS = re.compile(
    r"(?:NAMESPACE|NS)/POD|docker/[\w-]+|binder/jupyter-bob|kube-system/coredns-abc"
    r"|\$!|\b(?:CONTAINER|ID|NAME|PID|TARGET)\b"
)
_NO_ARGUMENT = {  # a sentence names the command only
    "config check": ("FILE",),
    "cull": ("TARGET", "--action", "stop"),
    "explain": ("TARGET",),
    "release": ("TARGET",),
    "rules replay": ("facts.jsonl",),
    "rules new": ("identity/new_one", "--title", "New"),
}


def typed(command: Command) -> tuple[str, ...]:
    """The words with a name for each placeholder, and what a sentence leaves out."""
    program, *words = command.words
    text = " ".join(words)
    words += _NO_ARGUMENT.get(text, ())
    if text.endswith("--filter FILE"):
        words = ["rules", "new", *_NO_ARGUMENT["rules new"], "--filter", "filter.yml"]
    words = [_TARGETS.sub(_MINER, each).replace("NAMESPACE", "binder") for each in words]
    return (program, *("binder" if each == "NS" else each for each in words))


_TYPED = {
    typed(each): each.text  # once, with however many names for a target
    for each in commands()
    if way_of(each).why == Path(__file__).name
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is named FILE, FOLDER and RULE.yml in the pages."""
    rules = tmp_path / "FOLDER"
    rules.mkdir()
    for name in ("pool_and_wallet.yml", "stratum_login.yml"):
        shutil.copy(FOLDER / "rules" / "identity" / name, rules)
    shutil.copy(rules / "stratum_login.yml", tmp_path / "RULE.yml")
    shutil.copy(next((FOLDER / "rules" / "filters").glob("*.yml")), tmp_path / "filter.yml")
    (tmp_path / "FILE").write_text("interval: 10s\n")
    (tmp_path / "few.yml").write_text(f"built_in_rules: false\nrules: [{rules}]\n")
    JournalFiles(rules).append(verdict(time.time()))
    (tmp_path / "facts.jsonl").write_text('{"id": "a", "seconds": 60, "facts": {"Comm": "a"}}\n')
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("words", _TYPED, ids=_TYPED.values())
def test_it_runs(
    words: tuple[str, ...], agent: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run minerwatch's own in this process: half of the time of a short one goes into imports.

    With two rules: tests/cli/test_rules.py has the commands with those shipped.
    """
    program, *words_behind = words
    monkeypatch.chdir(folder)
    if program == "minerwatch":
        environment = {
            "MINERWATCH_SOCKET": str(agent),
            "MINERWATCH_CONFIG": str(folder / "few.yml"),
            "XDG_RUNTIME_DIR": str(folder),
        }
        done = CliRunner().invoke(cli, words_behind, env=environment, prog_name=program)
        assert done.exit_code == 0, (words_behind, done.output[-1500:], done.exc_info)
        assert done.output
    else:
        assert program == "curl"
        at_agent = [str(agent) if each.endswith(".sock") else each for each in words_behind]
        assert subprocess.run([program, *at_agent], capture_output=True, check=True).stdout
