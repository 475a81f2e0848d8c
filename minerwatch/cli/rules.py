"""``minerwatch rules``: list, lint, test, replay."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import click

from minerwatch.cli.options import config_option, configuration, rules_option
from minerwatch.detection import check, rulebook
from minerwatch.detection.match import Matcher
from minerwatch.detection.rule import Rule
from minerwatch.detection.rulebook import RuleBook
from minerwatch.errors import RuleError
from minerwatch.report.text import printable

_MAX_EXAMPLES = 20

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: the same for programs.",
)
paths_argument = click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))


@click.group()
def rules() -> None:
    """Look at, check and try out the rules that say what a miner looks like.

    Rules are Sigma files, one rule a file, in folders that stack: first those that come with
    minerwatch, then those that the configuration names, then --rules. A later rule replaces an
    earlier one with the same id.

    \b
    minerwatch rules list                         what is in force
    minerwatch rules lint my-rules/               before you commit: what is wrong, and where
    minerwatch rules test my-rules/               do the rules' own tests hold?
    minerwatch rules replay recorded.jsonl        what would they have said of these processes?

    rules/README.md shows how to write one.
    """


@rules.command("list")
@output_option
@rules_option
@config_option
def list_rules(output: str, rule_folders: tuple[Path, ...], config_path: Path | None) -> None:
    """List the rules in force: score, signal, status, how long it must hold, title.

    Exit status: 0 fine, 1 a rule file cannot be used (said on standard error).
    """
    book = _book((), rule_folders, config_path)
    in_order = sorted(book.rules, key=lambda rule: (rule.signal, -rule.score, rule.title))
    if output == "json":
        _print_json([_summary(rule) for rule in in_order])
    else:
        click.echo("SCORE  SIGNAL     STATUS        FOR    TITLE  (ID)")
        for rule in in_order:
            hold = f"{rule.hold_s:g}s" if rule.hold_s else "-"
            click.echo(
                f"{rule.score:5.0f}  {rule.signal.value:9}  {rule.maturity.value:12}  {hold:5}"
                f"  {printable(rule.title)}  ({rule.id})"
            )
    _say_broken(book.errors)
    _exit(failed=bool(book.errors))


@rules.command()
@paths_argument
@click.option("--strict", is_flag=True, help="Warnings count as failures too.")
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
    """Say what is wrong with rule files: one line each, with file, line and reason.

    PATHS are rule files or folders; without any, all rules in force are checked. Lists that come
    with minerwatch can be used by any rule.

    Exit status: 0 no errors, 1 errors (with --strict also warnings), 2 wrong usage.
    """
    book = _book(paths, rule_folders, config_path)
    remarks = [remark for remark in check.lint(book) if _is_asked_for(remark.path, paths)]
    if output == "json":
        _print_json([{**asdict(remark), "path": str(remark.path)} for remark in remarks])
    else:
        for remark in remarks:
            click.echo(printable(str(remark)))
        click.echo(_lint_summary(_asked_for(book, paths), remarks), err=True)
    errors = [remark for remark in remarks if strict or remark.severity is check.Severity.ERROR]
    _exit(failed=bool(errors))


@rules.command()
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
    """Run the tests that rules carry: facts on which they must hold, and must not.

    PATHS are rule files or folders; without any, all rules in force are tested. A failure shows
    the rule's conditions one below the other: + those that held, - those that did not.

    Exit status: 0 all hold, 1 a test failed or a file cannot be used, 2 wrong usage.
    """
    book = _book(paths, rule_folders, config_path)
    tested = _asked_for(book, paths)
    failures = check.failed_tests(tested, Matcher(book.rules))
    broken = [error for error in book.errors if _is_asked_for(error.path, paths)]
    count = sum(len(rule.tests) for rule in tested)
    if output == "json":
        _print_json([_failure(failure) for failure in failures])
    else:
        for failure in failures:
            for line in str(failure).splitlines():
                click.echo(printable(line))
    _say_broken(broken)
    click.echo(f"{len(tested)} rules, {count} tests, {len(failures)} failed", err=True)
    _exit(failed=bool(failures or broken))


@rules.command()
@click.argument("recorded", metavar="FILE.jsonl", type=click.File("rb"))
@output_option
@rules_option
@config_option
def replay(
    recorded: IO[bytes], output: str, rule_folders: tuple[Path, ...], config_path: Path | None
) -> None:
    """Say what the rules in force think of recorded processes; FILE.jsonl may be - for stdin.

    \b
    Each line is one process and how long its facts held:
    {"id": "a1", "label": "miner", "seconds": 300, "facts": {"CommandLine": "./x -o stratum+tcp://…"}}

    \b
    Each line of the answer, with -o json:
    {"id": "a1", "score": 88.0, "level": "likely", "signals": ["identity"], "rules": […],
     "cullable": false}

    label is yours: the text output counts what each label came to, so that false alarms stand out.

    Exit status: 0 fine, 1 some lines cannot be read (said on standard error, the others count).
    """
    book = _book((), rule_folders, config_path)
    matcher = Matcher(book.rules)
    titles = {rule.id: rule.title for rule in book.rules}
    levels: dict[str, Counter[str]] = defaultdict(Counter)
    broken = 0
    name = getattr(recorded, "name", "<stdin>")
    for number, line in enumerate(recorded, 1):
        if not line.strip():
            continue
        try:
            case = check.recording(line)
        except ValueError as error:
            broken += 1
            click.echo(f"{name}:{number}: {printable(str(error))}", err=True)
            continue
        outcome = check.replayed(case, matcher)
        levels[case.label][outcome.level] += 1
        if output == "json":
            click.echo(json.dumps(asdict(outcome)))
        else:
            reasons = "; ".join(titles[rule] for rule in outcome.rules)
            click.echo(
                f"{outcome.score:5.1f}  {outcome.level:10}  {printable(str(outcome.id), 40)}"
                f"  {printable(case.label, 40) or '-'}  {printable(reasons)}"
            )
    if output == "text":
        for line_of_text in _totals(levels):
            click.echo(line_of_text, err=True)
    _say_broken(book.errors)
    _exit(failed=bool(broken or book.errors))


def _book(
    paths: Sequence[Path], rule_folders: tuple[Path, ...], config_path: Path | None
) -> RuleBook:
    """All rules in force, with ``paths`` on top of them."""
    folders = configuration(config_path, rule_folders).rule_folders()
    known = {folder.resolve() for folder in folders}
    return rulebook.load((*folders, *(path for path in paths if path.resolve() not in known)))


def _asked_for(book: RuleBook, paths: Sequence[Path]) -> list[Rule]:
    return [rule for rule in book.rules if _is_asked_for(rule.path, paths)]


def _is_asked_for(path: Path, paths: Sequence[Path]) -> bool:
    resolved = path.resolve()
    return not paths or any(resolved.is_relative_to(each.resolve()) for each in paths)


def _summary(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "title": rule.title,
        "signal": rule.signal.value,
        "score": rule.score,
        "level": rule.level,
        "status": rule.maturity.value,
        "for_s": rule.hold_s,
        "path": str(rule.path),
        "fields": sorted(rule.fields),
        "tests": len(rule.tests),
    }


def _failure(failure: check.FailedTest) -> dict[str, Any]:
    return {
        "rule": failure.rule.id,
        "title": failure.rule.title,
        "path": str(failure.rule.path),
        "line": failure.test.line,
        "expected": "match" if failure.test.holds else "no_match",
        "explanation": failure.explanation.splitlines(),
    }


def _lint_summary(linted: Sequence[Rule], remarks: Iterable[check.Remark]) -> str:
    counts = Counter(remark.severity for remark in remarks)
    errors, warnings = counts[check.Severity.ERROR], counts[check.Severity.WARNING]
    return f"{len(linted)} rules, {errors} errors, {warnings} warnings"


def _totals(levels: dict[str, Counter[str]]) -> Iterator[str]:
    for label, counts in sorted(levels.items()):
        what = ", ".join(f"{count} {level}" for level, count in counts.most_common())
        yield f"{printable(label, 40) or 'without a label'}: {what}"


def _say_broken(errors: Iterable[RuleError]) -> None:
    for error in errors:
        click.echo(printable(f"minerwatch: {error}"), err=True)


def _print_json(tree: Any) -> None:
    click.echo(json.dumps(tree, indent=2, default=str))


def _exit(*, failed: bool) -> None:
    if failed:
        sys.exit(1)
