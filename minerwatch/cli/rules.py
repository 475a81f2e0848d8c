"""``minerwatch rules``: list, fields, new, lint, test, replay, schema."""

from __future__ import annotations

import json
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import click

from minerwatch.authoring import index, recordings, rule_tests
from minerwatch.authoring.diagnostic import Diagnostic, Severity
from minerwatch.authoring.lint import lint as lint_book
from minerwatch.authoring.schema import rule_schema
from minerwatch.authoring.template import new_rule, with_rule
from minerwatch.cli.options import config_option, configuration, output_option, rules_option
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import LEVEL_SCORES, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import read_text
from minerwatch.errors import RuleError
from minerwatch.format import counted
from minerwatch.kinds import Maturity, Signal
from minerwatch.node.yara_scan import compile_errors
from minerwatch.untrusted_text.display import printable

_ORDINARY = BUILT_IN_RULES / "tests" / "benign.jsonl"
"""Ordinary programs that no rule may match; part of the corpus of the tests."""

paths_argument = click.argument(
    "paths", nargs=-1, metavar="[PATH]...", type=click.Path(exists=True, path_type=Path)
)


@click.group()
def rules() -> None:
    """List, check and try out the rules that describe miners.

    Rules are Sigma files, one rule a file, in folders that stack: first those that come with
    minerwatch, then those of the configuration, then --rules. A later rule replaces an earlier one
    with the same id; a later list adds to an earlier one of the same name.

    \b
    minerwatch rules list                    rules in force
    minerwatch rules fields                  facts that a rule may name
    minerwatch rules new my-rules/name       create a rule file
    minerwatch rules lint my-rules/          check rule files
    minerwatch rules test my-rules/          run the tests that rules carry
    minerwatch rules replay recorded.jsonl   match rules against recorded processes
    minerwatch rules schema                  JSON schema of rule files, for editors

    Results go to standard output, everything else to standard error.

    Exit status: 0 fine, 1 errors in rules, tests or recordings, 2 wrong usage.
    """


@rules.command("list", short_help="Rules in force: score, signal, status, title.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="json: the same for programs. markdown: a page, docs/rule-index.md.",
)
@rules_option
@config_option
def list_rules(output: str, rule_folders: tuple[Path, ...], config_path: Path | None) -> None:
    """List the rules in force by signal, the highest score first.

    \b
    minerwatch rules list --rules /etc/minerwatch/rules
    minerwatch rules list -o json | jq -r '.[] | select(.status == "stable") | .path'

    \b
    SCORE   0 to 100; a container's is the highest of each signal, joined
    STATUS  experimental: metrics and log; test: also Events; stable: may count towards culling
    FOR     time that the rule must hold before it counts

    Below a rule stand the Sigma filters that narrow it.

    \b
    With -o json a list of objects: id, title, signal, score, level, status, for_s, path, fields,
    lists, filters (ids), tests (count), falsepositives.

    Exit status: 0 fine, 1 a rule file cannot be used (see standard error), 2 wrong usage.
    """
    book = _load((), rule_folders, config_path)
    in_order = sorted(book.rules, key=lambda rule: (rule.signal, -rule.score, rule.title))
    if output == "json":
        _print_json([index.rule_entry(rule) for rule in in_order])
    elif output == "markdown":
        click.echo(index.rule_index(book.rules, BUILT_IN_RULES), nl=False)
    else:
        for row in index.rule_rows(in_order):
            click.echo(row)
    _print_stderr(*book.errors)
    counts = Counter(rule.maturity for rule in book.rules)
    parts = ", ".join(f"{counts[maturity]} {maturity}" for maturity in Maturity)
    _print_stderr(f"{counted(len(book.rules), 'rule')}: {parts}")
    sys.exit(bool(book.errors))


@rules.command(short_help="Facts that a rule may name.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="json: the same for programs. markdown: a page, docs/fields.md.",
)
def fields(output: str) -> None:
    """List the facts that a rule may name: type, unit, meaning, source, and an example.

    \b
    minerwatch rules fields | grep Container
    minerwatch rules fields -o json | jq -r '.[].name'

    \b
    MEASURED  exec           when the process executes a program
              start          when the container is found
              tick           at each tick
              tick, if busy  at each tick, in containers that are busy or suspected
              probe NAME     by a deep probe, for suspected processes
              not yet        by nothing: conditions on it never hold
    \b
    CAPABILITY  that the agent needs to read it of processes of other users
    EXAMPLE     a condition, as in a rule

    A fact that was not measured is absent, and a condition on it does not hold.

    With -o json a list of objects: name, type, unit, of (process or container), measured, meaning,
    source, capability, example.

    Exit status: 0.
    """
    if output == "json":
        _print_json(index.field_entries())
    elif output == "markdown":
        click.echo(index.field_page(), nl=False)
    else:
        for row in index.field_rows():
            click.echo(row)


@rules.command(short_help="Create a rule file.")
@click.argument("path", metavar="[FOLDER/]NAME", type=click.Path(path_type=Path))
@click.option("--title", prompt=True, help="What the on-call reads first.")
@click.option(
    "--signal",
    type=click.Choice([signal.value for signal in Signal]),
    default=Signal.IDENTITY.value,
    show_default=True,
    help="The kind of evidence.",
)
@click.option(
    "--level",
    type=click.Choice(list(LEVEL_SCORES)),
    default="medium",
    show_default=True,
    help="How much the evidence counts.",
)
@click.option(
    "--filter",
    "filter_paths",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A Sigma filter that narrows the rule: the new id is added to it. May be repeated.",
)
def new(path: Path, title: str, signal: str, level: str, filter_paths: tuple[Path, ...]) -> None:
    """Create a rule file with a new id, today's date, and tests of both kinds.

    \b
    minerwatch rules new rules/identity/some_miner --title "Some miner by its options"
    minerwatch rules new my-rules/pool.yml --title "Our rivals' pool" --signal network --level high
    minerwatch rules new rules/compute/hash --title "A hash" --signal compute \\
                         --filter rules/filters/node_that_checks_blocks.yml

    The title is asked for if it is not given. Missing folders are created, files are never
    overwritten. The new rule loads and passes its tests, but its condition is an example: lint
    warns of each TODO that is left in it.

    \b
    LEVEL  informational 0, low 15, medium 35, high 60, critical 88; behaviour at most 29

    Exit status: 0 fine, 1 a file exists, cannot be written or is not a filter, 2 wrong usage.
    """
    if not title.strip():
        raise click.BadParameter("must not be empty", param_hint="--title")
    file = path if path.suffix in (".yml", ".yaml") else path.with_name(f"{path.name}.yml")
    identifier, today = str(uuid.uuid4()), datetime.now(UTC).date()
    name = f"{file.absolute().parent.name}/{file.stem}"
    try:
        filters = {
            each: with_rule(each, read_text(each)[0], identifier, name) for each in filter_paths
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(new_rule(title.strip(), identifier, today, Signal(signal), level))
        for each, text in filters.items():
            each.write_text(text, encoding="utf-8")
    except (OSError, RuleError) as error:
        _print_stderr(
            f"{error.filename or file}: {error.strerror}" if isinstance(error, OSError) else error
        )
        sys.exit(1)
    click.echo(printable(str(file)))
    _print_stderr(f"Replace each TODO, then run: minerwatch rules lint --strict {file}")


@rules.command(short_help="Check rule files.")
@paths_argument
@click.option("--strict", is_flag=True, help="Warnings count as failures, too.")
@output_option
@rules_option
@config_option
def lint(
    paths: tuple[Path, ...],
    strict: bool,
    output: str,
    rule_folders: tuple[Path, ...],
    config_path: Path | None,
) -> None:
    """Check rule files: one line for each problem, as file:line: severity: reason.

    \b
    minerwatch rules lint                              all rules in force
    minerwatch rules lint my-rules/ --strict           a folder, warnings count as well
    minerwatch rules lint --rules my-rules my-rules/a.yml
                                                       one file, with the lists of its folder

    Each PATH is a rule file or a folder of them. They are added to the rules in force, so they may
    use the lists that come with minerwatch, and must not use the id of another rule.

    \b
    error    the file cannot be used: an agent keeps the last version of it
    warning  the file can be used, but probably does not do what is meant: unknown fields,
             conditions that never or always hold, unused selections, missing tests or false
             positives, a copied exclusion

    With -o json a list of objects: path, line, severity, text.

    Exit status: 0 no errors, 1 errors (with --strict also warnings), 2 wrong usage.
    """
    book = _load(paths, rule_folders, config_path)
    is_selected = partial(_is_selected, paths=paths)
    ordinary, today = recordings.read_recordings(_ORDINARY), datetime.now(UTC).date()
    yara_errors = (
        Diagnostic(error.path, error.line, Severity.ERROR, error.reason)
        for error in compile_errors(book.content)
        if is_selected(error.path)
    )
    found = [*lint_book(book, ordinary, today, is_selected), *yara_errors]
    if output == "json":
        _print_json([{**asdict(each), "path": str(each.path)} for each in found])
    else:
        for each in found:
            click.echo(printable(str(each)))
    is_empty = _has_empty(book, paths)
    counts = Counter(each.severity for each in found)
    errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
    selected = _selected(book, paths)
    checked = counted(len(selected), "rule")
    _print_stderr(f"{checked}, {counted(errors, 'error')}, {counted(warnings, 'warning')}")
    sys.exit(bool(errors or is_empty or (strict and warnings)))


@rules.command(short_help="Run the tests that rules carry.")
@paths_argument
@output_option
@rules_option
@config_option
def test(
    paths: tuple[Path, ...],
    output: str,
    rule_folders: tuple[Path, ...],
    config_path: Path | None,
) -> None:
    """Run the tests that rules carry: facts that they must match, and facts that they must not.

    \b
    minerwatch rules test                    all rules in force
    minerwatch rules test my-rules/a.yml     one

    For a failed test all selections of the rule and of its filters are shown: + those that hold, -
    those that do not. Each field of a decisive selection is shown with the observed value, the
    expected one, and the part of a regular expression that matches. Of many patterns only those
    that match are shown, or the nearest.

    With -o json a list of the failures: rule, title, path, line, expected (match or no_match),
    explanation (a list of lines).

    Exit status: 0 all pass, 1 a test failed or a file cannot be used, 2 wrong usage.
    """
    book = _load(paths, rule_folders, config_path)
    tested = _selected(book, paths)
    failures = rule_tests.failed_tests(tested, Matcher(book.rules), book.lists)
    broken = [error for error in book.errors if _is_selected(error.path, paths)]
    if output == "json":
        _print_json([_failure(failure) for failure in failures])
    else:
        for failure in failures:
            for line in str(failure).splitlines():
                click.echo(printable(line))
    is_empty = _has_empty(book, paths)
    _print_stderr(*broken)
    count = counted(sum(len(rule.tests) for rule in tested), "test")
    _print_stderr(f"{counted(len(tested), 'rule')}, {count}, {len(failures):,} failed")
    sys.exit(bool(failures or broken or is_empty))


@rules.command(short_help="Match rules against recorded processes.")
@click.argument("recorded", metavar="FILE.jsonl", type=click.File("rb"))
@output_option
@rules_option
@config_option
def replay(
    recorded: IO[bytes], output: str, rule_folders: tuple[Path, ...], config_path: Path | None
) -> None:
    """Match the rules in force against recorded processes; FILE.jsonl may be - for stdin.

    \b
    Each line is one process alone in its container, with the time that its facts held:
    {"id": "a1", "label": "miner", "seconds": 300,
     "facts": {"CommandLine": "./x -o stratum+tcp://pool:3333 -u w", "CpuCores": 1.0}}

    \b
    With -o json each line of the result is:
    {"id": "a1", "score": 90.4, "level": "confirmed", "signals": ["behaviour", "identity"],
     "rules": ["<id>", …], "cullable": true}

    \b
    minerwatch rules replay recorded.jsonl                       one line each, with the rules
    minerwatch rules replay recorded.jsonl --rules my-rules -o json | jq -c 'select(.score >= 30)'

    A rule counts if its facts held for as long as its `for:` demands. `label` is free text: a table
    on standard error has the levels by label, so that false alarms stand out. `cullable` is true if
    these findings alone, from rules of status stable, permit an action.

    Exit status: 0 fine, 1 a line or a rule file cannot be read (standard error has the reason, the
    others count), 2 wrong usage.
    """
    book = _load((), rule_folders, config_path)
    matcher = Matcher(book.rules)
    titles = {rule.id: rule.title for rule in book.rules}
    tally = recordings.Tally()
    failed = bool(book.errors)
    name = getattr(recorded, "name", "<stdin>")
    for number, line in recordings.numbered_lines(recorded):
        try:
            case = recordings.parse_recording(line)
        except ValueError as error:
            failed = True
            _print_stderr(f"{name}:{number}: {error}")
            continue
        outcome = recordings.replayed(case, matcher)
        tally.add(case, outcome)
        if output == "json":
            click.echo(recordings.json_line(outcome))
        else:
            click.echo(recordings.text_line(case, outcome, titles))
    if output == "text":
        _print_stderr(*tally.rows())
    _print_stderr(*tally.unknown_fields(book.rules))
    _print_stderr(*book.errors)
    sys.exit(failed)


@rules.command(short_help="JSON schema of rule files, for editors.")
def schema() -> None:
    """Print the JSON schema of rule files, so that an editor completes and checks them.

    \b
    minerwatch rules schema >rule.schema.json

    Name it in the first line of a rule file, for the YAML language server:

    \b
    # yaml-language-server: $schema=rule.schema.json

    Exit status: 0.
    """
    click.echo(json.dumps(rule_schema(), indent=2, ensure_ascii=False))


# Selecting rules.


def _load(
    paths: Sequence[Path], rule_folders: tuple[Path, ...], config_path: Path | None
) -> RuleBook:
    """Load the rules in force, with those below ``paths`` on top."""
    folders = configuration(config_path, rule_folders).rule_folders()
    return rulebook.load((*folders, *(path for path in paths if not _is_below(path, folders))))


def _selected(book: RuleBook, paths: Sequence[Path]) -> list[Rule]:
    return [rule for rule in book.rules if _is_selected(rule.path, paths)]


def _is_selected(path: Path, paths: Sequence[Path]) -> bool:
    return not paths or _is_below(path, paths)


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder.resolve()) for folder in folders)


def _has_empty(book: RuleBook, paths: Sequence[Path]) -> bool:
    """Return True if a path has no rule, filter or list, most likely a mistake; name each."""
    lists = (folder / f"{name}.txt" for folder in book.lists.folders for name in book.lists.entries)
    seen = (
        *book.files,
        *book.content,
        *(error.path for error in book.errors),
        *filter(Path.is_file, lists),
    )
    empty = [path for path in paths if not any(_is_below(each, (path,)) for each in seen)]
    _print_stderr(*(f"{path}: no rule files (*.yml, *.yaml) here" for path in empty))
    return bool(empty)


# Output.


def _failure(failure: rule_tests.FailedTest) -> dict[str, Any]:
    return {
        "rule": failure.rule.id,
        "title": failure.rule.title,
        "path": str(failure.rule.path),
        "line": failure.test.line,
        "expected": "match" if failure.test.holds else "no_match",
        "explanation": failure.explanation.splitlines(),
    }


def _print_stderr(*lines: object) -> None:
    """Print lines to standard error."""
    for line in lines:
        click.echo(printable(str(line)), err=True)


def _print_json(tree: Any) -> None:
    click.echo(json.dumps(tree, indent=2, default=str))
