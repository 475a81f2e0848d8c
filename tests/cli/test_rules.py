from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minerwatch.authoring.index import FIELD_COLUMNS
from minerwatch.cli.main import cli
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.fields import KNOWN_FIELDS
from minerwatch.detection.sigma import rulebook
from minerwatch.model import Signal
from tests.authoring.test_rule_tests import GOOD, OTHER_ID, RULE, RULE_ID

Golden = Callable[[str, str], None]
Run = Callable[..., Result]

BROKEN = {
    "bad_yaml.yml": "title: [unfinished\n",
    "no_id.yml": RULE.replace(f"id: {RULE_ID}\n", ""),
    "first.yml": GOOD,
    "same_id.yml": GOOD,
    "no_match.yml": RULE.replace("match: [{Comm: miner}]", "match: {Comm: miner}"),
    "windows.yml": RULE.replace("product: linux", "product: windows"),
    "correlation.yml": "title: Many\ncorrelation: {type: event_count}\n",
    "no_tests.yml": RULE.partition("minerwatch:")[0].replace(RULE_ID, OTHER_ID).replace("A", "No"),
    "lists/double.txt": "a\nb\na\n",
    "look_behind.yml": RULE.replace("{Comm: miner}, c", "{Comm|re: '(?<=x)miner'}, c"),
    "unknown_modifier.yml": RULE.replace("{Comm: miner}, c", "{Comm|sounds: miner}, c"),
    "unknown_list.yml": RULE.replace("{Comm: miner}, c", "{Comm|expand: '%nobody%'}, c"),
    "loud_behaviour.yml": RULE.replace("tests:", "signal: behaviour\n  score: 60\n  tests:"),
    "misspelt_key.yml": RULE.replace("minerwatch:", "minerwach:"),
    "no_condition.yml": RULE.replace(", condition: sel", ""),
    "not_text.yml": "title: \x01\n",
    "hostile\x1b[2J.yml": "title: [\n",
    "typo.yml": RULE.replace("{Comm: miner}, c", "{Comand: miner}, c").replace(
        "5b7d4b3a", "5b7d4b3b"
    ),
}


def run(*arguments: str, given: str = "", env: dict[str, str] | None = None) -> Result:
    command = ["rules", *arguments]
    return CliRunner().invoke(cli, command, input=given, prog_name="minerwatch", env=env)


@pytest.fixture
def run_alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command without the shipped rules, which take seconds to read."""
    config = tmp_path_factory.mktemp("config") / "config.yml"
    config.write_text("built_in_rules: false\n")
    return partial(run, env={"MINERWATCH_CONFIG": str(config)})


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    for name, text in BROKEN.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_lint_says_each_error_in_a_line(broken: Path, golden: Golden) -> None:
    result = run("lint", str(broken))
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) >= len(BROKEN)
    shown = result.stdout.replace(str(broken.parent), "").replace(str(BUILT_IN_RULES), "(shipped)")
    golden("rules-lint.txt", shown)


def test_lint_of_what_is_good_is_silent(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(GOOD)
    result = run_alone("lint", str(tmp_path / "rule.yml"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 rule, 0 errors, 0 warnings\n"


def test_warnings_fail_only_if_strict(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(RULE.replace("falsepositives: [Miners in mines]\n", ""))
    assert run_alone("lint", str(tmp_path)).exit_code == 0
    assert run_alone("lint", "--strict", str(tmp_path)).exit_code == 1


def test_lint_as_json(broken: Path, run_alone: Run) -> None:
    remarks = json.loads(run_alone("lint", "-o", "json", str(broken)).stdout)
    assert {"path", "line", "severity", "text"} == remarks[0].keys()
    assert {remark["severity"] for remark in remarks} == {"error", "warning"}


def test_lint_of_one_file_says_only_what_is_wrong_with_it(broken: Path, run_alone: Run) -> None:
    result = run_alone("lint", str(broken / "first.yml"), str(broken / "bad_yaml.yml"))
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        f"{broken}/bad_yaml.yml"
    ]
    assert result.stderr == "1 rule, 1 error, 0 warnings\n"


def test_a_copy_that_kept_its_id_is_said_also_if_only_the_copy_is_named(
    tmp_path: Path, run_alone: Run
) -> None:
    (tmp_path / "a.yml").write_text(RULE)
    (tmp_path / "copy.yml").write_text(RULE.replace("A rule", "Another"))
    result = run_alone("lint", str(tmp_path / "copy.yml"), "--rules", str(tmp_path))
    assert result.exit_code == 1
    assert f"copy.yml:3: error: id {RULE_ID} is also that of {tmp_path}/a.yml" in result.stdout


def test_one_file_may_use_the_lists_of_its_rule_folder(tmp_path: Path, run_alone: Run) -> None:
    for name in ("lists", "deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "lists" / "names.txt").write_text("miner\n")
    rule = tmp_path / "deep" / "rule.yml"
    rule.write_text(RULE.replace("{Comm: miner}, c", "{Comm|expand: '%names%'}, c"))
    assert run_alone("test", str(rule)).exit_code == 1
    assert run_alone("test", str(rule), "--rules", str(tmp_path)).exit_code == 0


def test_lists_are_linted_on_their_own() -> None:
    folder = BUILT_IN_RULES / "lists"
    result = run("lint", str(folder), str(folder / "pool_hosts.txt"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "0 rules, 0 errors, 0 warnings\n"


@pytest.mark.parametrize("command", ["lint", "test"])
def test_a_folder_without_rules_is_no_success(tmp_path: Path, command: str, run_alone: Run) -> None:
    result = run_alone(command, str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"{tmp_path}: no rule files (*.yml, *.yaml) here\n")


def test_a_failing_test_is_explained(tmp_path: Path, golden: Golden, run_alone: Run) -> None:
    text = RULE.replace(
        "detection: {sel: {Comm: miner}, condition: sel}",
        "detection:\n  sel: {Comm: miner, CpuCores|gte: 0.5}\n"
        "  filter: {Image|endswith: /grep}\n  condition: sel and not filter",
    ).replace("[{Comm: miner}]", "[{Comm: miner, CpuCores: 0.2, Image: /bin/grep}]")
    (tmp_path / "rule.yml").write_text(text)
    result = run_alone("test", str(tmp_path))
    assert result.exit_code == 1
    golden("rules-test.txt", result.stdout.replace(str(tmp_path), ""))
    (failure,) = json.loads(run_alone("test", "-o", "json", str(tmp_path)).stdout)
    assert failure["expected"] == "match"
    assert {"rule", "title", "path", "line", "expected", "explanation"} == failure.keys()


def test_a_broken_file_fails_the_tests(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    (tmp_path / "bad\x1b[2J.yml").write_text("title: [")
    result = run_alone("test", str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout == ""
    bad, counts = result.stderr.splitlines()
    assert bad.startswith(f"{tmp_path}/bad\\e[2J.yml:2: not YAML")
    assert counts == "1 rule, 2 tests, 0 failed"


def test_only_what_is_named_is_tested(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    result = run_alone("test", str(tmp_path / "rule.yml"))
    assert result.exit_code == 0
    assert result.stderr == "1 rule, 2 tests, 0 failed\n"


def test_list_shows_what_is_in_force(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    result = run("list", "--rules", str(tmp_path))
    assert result.exit_code == 0
    assert "   60  identity   test          -      A rule  (5b7d4b3a" in result.stdout
    narrowed = result.stdout.split("(0d5b6a1c-6a0e-4b0e-9d57-0f5a4c0a7d11)\n")[1]
    assert narrowed.lstrip().startswith("filter: Node that checks blocks of a RandomX coin  (")
    assert len(result.stdout.splitlines()) > 20


def test_the_list_as_json(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    (listed,) = json.loads(run_alone("list", "--rules", str(tmp_path), "-o", "json").stdout)
    assert {"id", "title", "signal", "score", "for_s", "path", "fields", "filters"} <= listed.keys()


OWN_ONLY = "built_in_rules: false\nrules: [{folder}]\n"


def test_the_list_of_a_configuration(tmp_path: Path, golden: Golden) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    slow = "minerwatch:\n  for: 90m\n  signal: behaviour\n  score: 12.5\n"
    (folder / "a.yml").write_text(RULE)
    (folder / "b.yml").write_text(
        RULE.replace(RULE_ID, OTHER_ID)
        .replace("A rule", '"Hostile \\e[2J \\u202e title"')
        .replace("minerwatch:\n", slow)
    )
    (folder / "c.yml").write_text("title: [")
    config = tmp_path / "config.yml"
    config.write_text(OWN_ONLY.format(folder=folder))
    result = run("list", "--config", str(config))
    assert result.exit_code == 1
    shown = result.stdout + "--- stderr\n" + result.stderr
    golden("rules-list.txt", shown.replace(str(tmp_path), ""))


def test_rule_folders_may_come_from_the_environment(tmp_path: Path) -> None:
    for name, identifier in (("one", RULE_ID), ("other", OTHER_ID)):
        (tmp_path / name).mkdir()
        text = RULE.replace(RULE_ID, identifier).replace("A rule", name)
        (tmp_path / name / "rule.yml").write_text(text)
    config = tmp_path / "config.yml"
    config.write_text("built_in_rules: false\n")
    environment = {
        "MINERWATCH_CONFIG": str(config),
        "MINERWATCH_RULES": f"{tmp_path}/one:{tmp_path}/other",
    }
    result = run("list", env=environment)
    assert RULE_ID in result.stdout
    assert OTHER_ID in result.stdout


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, run_alone: Run) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"built_in_rules: false\nrules: [{tmp_path}/none]\n")
    result = run("list", "--config", str(config))
    assert result.exit_code == 1
    assert f"{tmp_path}/none:1: cannot be read: No such file or directory" in result.stderr
    assert run_alone("list", "--rules", str(tmp_path / "none")).exit_code == 2
    assert run_alone("lint", str(tmp_path / "none")).exit_code == 2


RECORDED = """\
{"id": "a", "label": "miner", "seconds": 300, "facts": {"CommandLine": "./x -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU", "CpuCores": 0.98}}
nonsense

{"id": "b\\u001b[2J", "label": "benign", "seconds": 300, "facts": {"CommandLine": "python3 train.py", "CpuCores": 3.9}}
{"id": 3, "seconds": 0, "facts": {"Comm": "xmrig", "Image": "/tmp/xmrig", "Comandline": "x"}}
"""  # noqa: E501


def test_replay_in_text(golden: Golden) -> None:
    result = run("replay", "-", given=RECORDED)
    assert result.exit_code == 1  # for the line that cannot be read
    assert "\x1b" not in result.output
    golden("rules-replay.txt", result.stdout + "--- stderr\n" + result.stderr)


def test_replay_in_json(golden: Golden) -> None:
    result = run("replay", "-", "-o", "json", given=RECORDED.replace("nonsense\n", ""))
    assert result.exit_code == 0
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [outcome["id"] for outcome in outcomes] == ["a", "b\x1b[2J", 3]
    assert {"id", "score", "level", "signals", "rules", "cullable"} == outcomes[0].keys()
    golden("rules-replay.jsonl", result.stdout)


def test_a_folder_may_be_named_twice(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    assert run_alone("test", str(tmp_path), "--rules", str(tmp_path)).exit_code == 0


def test_replay_reads_a_file_whose_last_line_has_no_end(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    path = tmp_path / "recorded.jsonl"
    path.write_text('{"id": 1, "seconds": 0, "facts": {"Comm": "miner"}}\n{"id": 2}')
    result = run_alone("replay", str(path), "--rules", str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout.startswith(" 60.0  suspicious  -         1  -  A rule\n")
    assert result.stderr.startswith(f"{path}:2: facts: missing, or not an object\n")


def test_replay_of_nothing_says_nothing(tmp_path: Path, run_alone: Run) -> None:
    result = run_alone("replay", "-", "-o", "json", given="\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_replay_with_a_broken_rule_file_still_answers(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "bad.yml").write_text("title: [")
    given = '{"id": 1, "seconds": 0, "facts": {}}\n'
    result = run_alone("replay", "-", "--rules", str(tmp_path), "-o", "json", given=given)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["level"] == "clear"
    assert f"{tmp_path}/bad.yml:2: not YAML" in result.stderr


def test_lint_compiles_yara_files_too(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "broken.yar").write_text("rule a {\n  condition:\n    $nothing\n}\n")
    result = run_alone("lint", str(tmp_path))
    assert result.exit_code == 1
    assert f"{tmp_path}/broken.yar:3: error: " in result.stdout


# A new rule.


@pytest.mark.parametrize("signal", Signal)
def test_a_new_rule_lints_but_for_what_is_to_do(
    tmp_path: Path, signal: Signal, run_alone: Run
) -> None:
    path = tmp_path / "identity" / "a_rule.yml"
    made = run_alone(
        "new", str(path.with_suffix("")), "--title", 'It "mines": #1', "--signal", signal.value
    )
    assert (made.exit_code, made.stdout) == (0, f"{path}\n")
    assert f"minerwatch rules lint --strict {path}" in made.stderr
    result = run_alone("lint", str(tmp_path))
    assert result.exit_code == 0
    said = result.stdout.splitlines()
    assert len(said) >= 5
    assert [line for line in said if ": warning: to do: " not in line] == []
    assert run_alone("lint", "--strict", str(tmp_path)).exit_code == 1
    assert run_alone("test", str(tmp_path)).stderr == "1 rule, 6 tests, 0 failed\n"
    (rule,) = rulebook.load((tmp_path,)).rules
    assert (rule.title, rule.signal, rule.maturity) == ('It "mines": #1', signal, "experimental")
    assert date.fromisoformat(rule.date) <= datetime.now(UTC).date()


def test_new_rules_have_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b.yaml"):
        assert run("new", str(tmp_path / name), "--title", name).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yml", "b.yaml"]
    assert len(rulebook.load((tmp_path,)).rules) == 2


def test_a_new_rule_asks_for_its_title_and_takes_its_level(tmp_path: Path) -> None:
    result = run("new", str(tmp_path / "a"), "--level", "critical", given="Told when asked\n")
    assert result.exit_code == 0
    (rule,) = rulebook.load((tmp_path,)).rules
    assert (rule.title, rule.score) == ("Told when asked", 88)


def a_filter(folder: Path, rules: str) -> Path:
    path = folder / "filters" / "node.yml"
    path.parent.mkdir()
    path.write_text(
        f"title: Busy node\nid: {FILTER_ID}\ndescription: It reads.\n"
        f"logsource: {{product: linux}}\nfilter:\n  rules: {rules}\n"
        "  node: {RssMiB|gte: 1024}\n  condition: not node\n"
    )
    return path


FILTER_ID = "0c5a8c1e-6c2b-4a39-9d0a-3f1c6f0b7a11"


def test_a_new_rule_is_added_to_the_filters_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(GOOD)
    filter_ = a_filter(tmp_path, f"\n    - {RULE_ID}  # rule")
    made = run("new", str(tmp_path / "new"), "--title", "x", "--filter", str(filter_))
    assert made.exit_code == 0
    (each,) = (rule for rule in rulebook.load((tmp_path,)).rules if rule.title == "x")
    assert [each.id for each in each.filters] == [FILTER_ID]
    assert f"    - {each.id}  # {tmp_path.name}/new\n" in filter_.read_text()
    assert f"    - {RULE_ID}  # rule\n" in filter_.read_text()


def test_no_rule_is_made_if_its_filter_cannot_be_written(tmp_path: Path) -> None:
    filter_ = a_filter(tmp_path, f"[{RULE_ID}]")
    made = run("new", str(tmp_path / "new"), "--title", "x", "--filter", str(filter_))
    assert made.exit_code == 1
    assert made.stderr.startswith(f"{filter_}:6: write one id a line, then add ")
    assert not (tmp_path / "new.yml").exists()


def test_one_filter_may_be_linted_with_its_folder(tmp_path: Path, run_alone: Run) -> None:
    (tmp_path / "rule.yml").write_text(GOOD)
    filter_ = a_filter(tmp_path, f"[{RULE_ID}]")
    result = run_alone("lint", "--strict", str(filter_), "--rules", str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_failed_test_names_the_selection_of_the_filter(tmp_path: Path, run_alone: Run) -> None:
    text = RULE.replace("match: [{Comm: miner}]", "match: [{Comm: miner, RssMiB: 2048}]")
    (tmp_path / "rule.yml").write_text(text)
    a_filter(tmp_path, f"[{RULE_ID}]")
    result = run_alone("test", str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        "    condition: sel; filter filters/node.yml: not node",
        "    + sel, line 7",
        "    + node in filters/node.yml, line 7: holds",
        "        + RssMiB: 2048",
        "            + >= 1024",
    ]


# Fields.


def test_fields_are_listed_with_type_unit_and_meaning() -> None:
    rows = run("fields").stdout.splitlines()
    assert rows[0].split() == [key.upper() for key in FIELD_COLUMNS]
    (row,) = (row for row in rows if row.startswith("RoundingShare "))
    assert row.split()[1:6] == ["number", "0..1", "process", "probe", "rounding"]
    records = json.loads(run("fields", "-o", "json").stdout)
    assert [record["name"] for record in records] == list(KNOWN_FIELDS)
    assert len(rows) == len(records) + 1
    assert records[0] == {
        "name": "Image",
        "type": "text",
        "unit": "",
        "of": "process",
        "measured": "exec",
        "meaning": "path of the executable",
        "source": "/proc/PID/exe",
        "capability": "SYS_PTRACE",
        "example": "Image|endswith: /xmrig",
    }


def test_every_field_has_all_columns_and_an_example_that_loads(tmp_path: Path) -> None:
    for number, record in enumerate(json.loads(run("fields", "-o", "json").stdout)):
        assert tuple(record) == FIELD_COLUMNS
        assert all(record[key] for key in FIELD_COLUMNS if key not in ("unit", "capability"))
        assert re.match(rf"{record['name']}(\||:)", record["example"])
        text = RULE.replace("{Comm: miner}, c", f"{{{record['example']}}}, c")
        text = text.replace(RULE_ID, f"{RULE_ID[:-3]}{number:03}")
        (tmp_path / f"{record['name']}.yml").write_text(text)
    book = rulebook.load((tmp_path,))
    assert book.errors == ()
    assert {name for rule in book.rules for name in rule.fields} == set(KNOWN_FIELDS)


def test_the_page_of_fields_is_as_it_would_be_written() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "fields.md"
    written = run("fields", "-o", "markdown").stdout
    assert page.read_text(encoding="utf-8") == written, "run: make figures"
    assert all(f"| `{name}` |" in written for name in KNOWN_FIELDS)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "rule.yml"
    path.write_text(RULE)
    result = run("new", str(path), "--title", "Another")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{path}: File exists\n"
    assert path.read_text() == RULE
    assert run("new", str(path / "below"), "--title", "x").stderr == f"{path}: File exists\n"
    assert run("new", str(tmp_path / "x"), "--title", " ").exit_code == 2


# The index.


def test_the_index_in_the_docs_is_that_of_the_shipped_rules() -> None:
    result = run("list", "-o", "markdown")
    index = Path(__file__).parent.parent.parent / "docs" / "rule-index.md"
    written = index.read_text(encoding="utf-8")
    renew = "run: make rules"
    # Rules that are merged side by side may leave the lines of one table in another order.
    assert sorted(written.splitlines()) == sorted(result.stdout.splitlines()), renew


def test_the_index_of_other_rules_is_harmless(tmp_path: Path, run_alone: Run) -> None:
    text = RULE.replace("A rule", '"Hostile | [x](y) <b> \\e[2J"')
    (tmp_path / "a.yml").write_text(text)
    result = run_alone("list", "-o", "markdown", "--rules", str(tmp_path))
    assert r"| 60 | Hostile \| \[x\](y) \<b\> \\e\[2J | test | Something. |" in result.stdout
