"""``minerwatch rules``: list, new, lint, test, replay, schema."""

from __future__ import annotations

import json
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click

from minerwatch.authoring import rule_tests
from minerwatch.authoring.index import rule_index
from minerwatch.authoring.lint import lint as remarks_on
from minerwatch.authoring.lint import unmeasured_note
from minerwatch.authoring.remark import Remark, Severity
from minerwatch.authoring.schema import rule_schema
from minerwatch.authoring.template import skeleton
from minerwatch.cli.options import config_option, configuration, rules_option
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import LEVEL_SCORES, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.errors import RuleError
from minerwatch.format import counted, one_decimal
from minerwatch.model import Level, Maturity, Signal
from minerwatch.node.yara_scan import compile_errors
from minerwatch.untrusted_text.display import printable

_MAX_LINE_BYTES = 16 << 20
_MAX_NAME = 40  # characters of an id or label in a line for people
_ORDINARY = BUILT_IN_RULES / "tests" / "benign.jsonl"
"""Programs that no rule should be alarmed at; part of the corpus of the tests."""

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: the same for programs.",
)
paths_argument = click.argument(
    "paths", nargs=-1, metavar="[PATH]...", type=click.Path(exists=True, path_type=Path)
)


@click.group()
def rules() -> None:
    """Look at, check and try out the rules that say what a miner looks like.

    Rules are Sigma files, one rule a file, in folders that stack: first those that come with
    minerwatch, then those that the configuration names, then --rules. A later rule replaces an
    earlier one with the same id; a later list adds to an earlier one of the same name.

    \b
    minerwatch rules list                    what is in force
    minerwatch rules new my-rules/name       a file to begin with
    minerwatch rules lint my-rules/          before you commit: what is wrong, and where
    minerwatch rules test my-rules/          do the rules' own tests hold?
    minerwatch rules replay recorded.jsonl   what would they have said of these processes?
    minerwatch rules schema                  what editors complete and check rule files with

    Results go to standard output, everything else to standard error. Exit status: 0 fine,
    1 something is wrong with the rules, a test or a recording, 2 wrong usage.
    """


@rules.command("list", short_help="What is in force: score, signal, status, title.")
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
    """List the rules in force: those with the highest score first, signal by signal.

    \b
    minerwatch rules list --rules /etc/minerwatch/rules
    minerwatch rules list -o json | jq -r '.[] | select(.status == "stable") | .path'

    \b
    SCORE   0 to 100; a container's is the highest of each signal, joined
    STATUS  experimental: metrics and log; test: events, too; stable: may count towards culling
    FOR     how long it must hold before it counts

    \b
    With -o json a list of objects: id, title, signal, score, level, status, for_s, path, fields,
    lists, tests (how many), falsepositives.

    Exit status: 0 fine, 1 a rule file cannot be used (standard error says which), 2 wrong usage.
    """
    book = _book((), rule_folders, config_path)
    in_order = sorted(book.rules, key=lambda rule: (rule.signal, -rule.score, rule.title))
    if output == "json":
        _print_json([_summary(rule) for rule in in_order])
    elif output == "markdown":
        click.echo(rule_index(book.rules, BUILT_IN_RULES), nl=False)
    else:
        click.echo("SCORE  SIGNAL     STATUS        FOR    TITLE  (ID)")
        for rule in in_order:
            click.echo(
                f"{rule.score:5g}  {rule.signal:9}  {rule.maturity:12}  {_hold(rule):5}"
                f"  {printable(rule.title)}  ({rule.id})"
            )
    _say_broken(book.errors)
    _say(_counts(book))
    _exit(failed=bool(book.errors))


@rules.command(short_help="A file to begin a rule with.")
@click.argument("path", metavar="[FOLDER/]NAME", type=click.Path(path_type=Path))
@click.option("--title", prompt=True, help="What an on-call reads at night.")
@click.option(
    "--signal",
    type=click.Choice([signal.value for signal in Signal]),
    default=Signal.IDENTITY.value,
    show_default=True,
    help="What kind of evidence it is.",
)
@click.option(
    "--level",
    type=click.Choice(list(LEVEL_SCORES)),
    default="medium",
    show_default=True,
    help="How much it says.",
)
def new(path: Path, title: str, signal: str, level: str) -> None:
    """Write a file to begin a rule with: a new id, today's date, tests on both sides.

    \b
    minerwatch rules new rules/identity/some_miner --title "Some miner by its options"
    minerwatch rules new my-rules/pool.yml --title "Our rivals' pool" --signal network --level high

    It asks for the title if that is not given, makes folders that are missing, and never writes
    over a file. The rule loads and its tests hold, but it looks for an example: lint warns of each
    TODO that is left in it.

    \b
    LEVEL  informational 0, low 15, medium 35, high 60, critical 88; behaviour at most 29

    Exit status: 0 fine, 1 the file is there already or cannot be written, 2 wrong usage.
    """
    if not title.strip():
        raise click.BadParameter("a rule has one", param_hint="--title")
    file = path if path.suffix in (".yml", ".yaml") else path.with_name(f"{path.name}.yml")
    text = skeleton(
        title.strip(), str(uuid.uuid4()), datetime.now(UTC).date(), Signal(signal), level
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        _say(f"{error.filename or file}: {error.strerror}")
        sys.exit(1)
    click.echo(printable(str(file)))
    _say(f"Fill in what is marked TODO, then: minerwatch rules lint --strict {file}")


@rules.command(short_help="What is wrong with rule files, and where.")
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
    """Say what is wrong with rule files: one line each, as file:line: severity: reason.

    \b
    minerwatch rules lint                              all rules in force
    minerwatch rules lint my-rules/ --strict           a folder, warnings count as well
    minerwatch rules lint --rules my-rules my-rules/a.yml
                                                       one file, with the lists of its folder

    Each PATH is a rule file or a folder of them. They stand on top of the rules in force, so they
    may use the lists that come with minerwatch, and a clash with another rule's id is told.

    \b
    error    the file cannot be used: an agent goes on with what the file held before
    warning  it can be used, but hardly does what is meant: unknown fields, conditions that never
             or always hold, selections that nothing uses, no tests, no false positives told

    With -o json a list of objects: path, line, severity, text.

    Exit status: 0 no errors, 1 errors (with --strict also warnings), 2 wrong usage.
    """
    book = _book(paths, rule_folders, config_path)
    all_remarks = (
        *remarks_on(book, _ordinary(), datetime.now(UTC).date()),
        *_content_remarks(book),
    )
    remarks = [remark for remark in all_remarks if _is_asked_for(remark.path, paths)]
    asked = _asked_for(book, paths)
    if output == "json":
        _print_json([_remark(remark) for remark in remarks])
    else:
        for remark in remarks:
            click.echo(printable(str(remark)))
    empty = _without_rules(book, paths)
    _say_empty(empty)
    found = Counter(remark.severity for remark in remarks)
    errors, warnings = found[Severity.ERROR], found[Severity.WARNING]
    _say(
        f"{counted(len(asked), 'rule')}, {counted(errors, 'error')}, {counted(warnings, 'warning')}"
    )
    if note := unmeasured_note(asked):
        _say(note)
    _exit(failed=bool(errors or empty or (strict and warnings)))


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
    """Run the tests that rules carry: facts on which they must hold, and must not.

    \b
    minerwatch rules test                    all rules in force
    minerwatch rules test my-rules/a.yml     one

    A failed test is shown with the rule's selections one below the other: + those that hold on its
    facts, - those that do not. Of those that decide the outcome each field is shown: what was
    observed, what was asked for, and how far a regular expression got. Of many patterns those that
    matched are shown, or the nearest.

    With -o json a list of the failures: rule, title, path, line, expected (match or no_match),
    explanation (a list of lines).

    Exit status: 0 all hold, 1 a test failed or a file cannot be used, 2 wrong usage.
    """
    book = _book(paths, rule_folders, config_path)
    tested = _asked_for(book, paths)
    failures = rule_tests.failed_tests(tested, Matcher(book.rules), book.lists)
    broken = [error for error in book.errors if _is_asked_for(error.path, paths)]
    if output == "json":
        _print_json([_failure(failure) for failure in failures])
    else:
        for failure in failures:
            for line in str(failure).splitlines():
                click.echo(printable(line))
    empty = _without_rules(book, paths)
    _say_empty(empty)
    _say_broken(broken)
    count = counted(sum(len(rule.tests) for rule in tested), "test")
    _say(f"{counted(len(tested), 'rule')}, {count}, {len(failures):,} failed")
    _exit(failed=bool(failures or broken or empty))


@rules.command(short_help="What the rules would have said of recorded processes.")
@click.argument("recorded", metavar="FILE.jsonl", type=click.File("rb"))
@output_option
@rules_option
@config_option
def replay(
    recorded: IO[bytes], output: str, rule_folders: tuple[Path, ...], config_path: Path | None
) -> None:
    """Say what the rules in force think of recorded processes; FILE.jsonl may be - for stdin.

    \b
    Each line is one process alone in its container, and for how long its facts held:
    {"id": "a1", "label": "miner", "seconds": 300,
     "facts": {"CommandLine": "./x -o stratum+tcp://pool:3333 -u w", "CpuCores": 1.0}}

    \b
    Each line of the answer, with -o json:
    {"id": "a1", "score": 90.4, "level": "confirmed", "signals": ["behaviour", "identity"],
     "rules": ["<id>", …], "cullable": true}

    \b
    minerwatch rules replay recorded.jsonl                       one line each, worst rules named
    minerwatch rules replay recorded.jsonl --rules my-rules -o json | jq -c 'select(.score >= 30)'

    A rule counts if its facts held for as long as its `for:` asks. label is yours: standard error
    ends with what each label came to, so that false alarms stand out. cullable says whether these
    findings alone would permit an action, by rules of status stable.

    Exit status: 0 fine, 1 a line or a rule file cannot be read (standard error says which, all
    others count), 2 wrong usage.
    """
    book = _book((), rule_folders, config_path)
    matcher = Matcher(book.rules)
    titles = {rule.id: rule.title for rule in book.rules}
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    unknown: Counter[str] = Counter()
    broken = 0
    name = getattr(recorded, "name", "<stdin>")
    for number, line in _numbered_lines(recorded):
        try:
            case = rule_tests.recording(line)
        except ValueError as error:
            broken += 1
            _say(f"{name}:{number}: {error}")
            continue
        outcome = rule_tests.replayed(case, matcher)
        tallies[case.label].update((outcome.level, "cullable" if outcome.cullable else ""))
        unknown.update(name for name in case.facts if name not in KNOWN_FIELDS)
        click.echo(_json_line(outcome) if output == "json" else _text_line(case, outcome, titles))
    if output == "text" and tallies:
        for row in _tally_rows(tallies):
            _say(row)
    _say_unknown(unknown, book.rules)
    _say_broken(book.errors)
    _exit(failed=bool(broken or book.errors))


@rules.command(short_help="A JSON schema, for editors.")
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


# The rules that a command is about.


def _book(
    paths: Sequence[Path], rule_folders: tuple[Path, ...], config_path: Path | None
) -> RuleBook:
    """All rules in force, with those below ``paths`` on top of them."""
    folders = configuration(config_path, rule_folders).rule_folders()
    further = (path for path in paths if not _is_below(path, folders))
    return rulebook.load((*folders, *further))


def _asked_for(book: RuleBook, paths: Sequence[Path]) -> list[Rule]:
    return [rule for rule in book.rules if _is_asked_for(rule.path, paths)]


def _is_asked_for(path: Path, paths: Sequence[Path]) -> bool:
    return not paths or _is_below(path, paths)


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder.resolve()) for folder in folders)


def _ordinary() -> list[rule_tests.Recording]:
    return [rule_tests.recording(line) for line in _ORDINARY.read_bytes().splitlines()]


def _content_remarks(book: RuleBook) -> list[Remark]:
    """What is wrong with YARA files, as the compiler says."""
    return [
        Remark(error.path, error.line, Severity.ERROR, error.reason)
        for error in compile_errors(book.content)
    ]


def _without_rules(book: RuleBook, paths: Sequence[Path]) -> list[Path]:
    """Those of ``paths`` that hold neither rule nor list: most likely not what was meant."""
    lists = (folder / f"{name}.txt" for folder in book.lists.folders for name in book.lists.entries)
    seen = (
        *book.files,
        *book.content,
        *(error.path for error in book.errors),
        *filter(Path.is_file, lists),
    )
    return [path for path in paths if not any(_is_below(each, (path,)) for each in seen)]


# What is printed.


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
        "lists": list(rule.lists),
        "tests": len(rule.tests),
        "falsepositives": list(rule.falsepositives),
    }


def _remark(remark: Remark) -> dict[str, Any]:
    return {**asdict(remark), "path": str(remark.path)}


def _failure(failure: rule_tests.FailedTest) -> dict[str, Any]:
    return {
        "rule": failure.rule.id,
        "title": failure.rule.title,
        "path": str(failure.rule.path),
        "line": failure.test.line,
        "expected": "match" if failure.test.holds else "no_match",
        "explanation": failure.explanation.splitlines(),
    }


def _hold(rule: Rule) -> str:
    """``for:`` in the largest unit that leaves no fraction."""
    for unit, seconds in (("h", 3600), ("m", 60)):
        if rule.hold_s and rule.hold_s % seconds == 0:
            return f"{rule.hold_s / seconds:g}{unit}"
    return f"{rule.hold_s:g}s" if rule.hold_s else "-"


def _counts(book: RuleBook) -> str:
    counts = Counter(rule.maturity for rule in book.rules)
    parts = ", ".join(f"{counts[maturity]} {maturity}" for maturity in Maturity)
    return f"{counted(len(book.rules), 'rule')}: {parts}"


def _json_line(outcome: rule_tests.Outcome) -> str:
    return json.dumps(asdict(outcome))


def _text_line(
    case: rule_tests.Recording, outcome: rule_tests.Outcome, titles: Mapping[str, str]
) -> str:
    reasons = "; ".join(titles[rule] for rule in outcome.rules)
    score = one_decimal(outcome.score)
    return (
        f"{score:>5}  {outcome.level:10}  {'cullable' if outcome.cullable else '-':8}"
        f"  {printable(str(case.id), _MAX_NAME)}  {printable(case.label, _MAX_NAME) or '-'}"
        f"  {printable(reasons) or '-'}"
    )


def _tally_rows(tallies: Mapping[str, Counter[str]]) -> Iterator[str]:
    """What each label came to, as a table."""
    columns = (*(level.label for level in Level), "cullable")
    names = {label: printable(label, _MAX_NAME) or "-" for label in sorted(tallies)}
    width = max(len(name) for name in (*names.values(), "LABEL"))
    yield "  ".join((f"{'LABEL':{width}}", "LINES", *(column.upper() for column in columns)))
    for label, name in names.items():
        tally = tallies[label]
        lines = sum(tally[level.label] for level in Level)
        cells = (f"{tally[column]:{len(column)}}" for column in columns)
        yield "  ".join((f"{name:{width}}", f"{lines:5}", *cells))


def _say_unknown(unknown: Counter[str], in_force: Iterable[Rule]) -> None:
    """A misspelt field matches nothing, and looks like innocence."""
    looked_at = frozenset().union(*(rule.fields for rule in in_force))
    for name, count in unknown.most_common():
        if name not in looked_at and name not in SIGMA_FIELDS:
            near = nearest_field(name)
            hint = f": did you mean {near}?" if near else ", so no rule looks at it"
            _say(f"{counted(count, 'line')} with the unknown field {name[:_MAX_NAME]}{hint}")


def _say_empty(paths: Iterable[Path]) -> None:
    for path in paths:
        _say(f"{path}: no rule files (*.yml, *.yaml) here")


def _say_broken(errors: Iterable[RuleError]) -> None:
    for error in errors:
        _say(str(error))


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def _print_json(tree: Any) -> None:
    click.echo(json.dumps(tree, indent=2, default=str))


def _exit(*, failed: bool) -> None:
    if failed:
        sys.exit(1)


# Recordings.


def _numbered_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers; one that is too long is cut, so no JSON."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        rest = line
        while len(rest) == _MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE_BYTES)
        if not line.isspace():
            yield number, line
