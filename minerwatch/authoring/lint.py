"""Check rule files, Sigma filters and lists, each message with file and line.

An error makes a file unusable and was found when the file was loaded. All other messages are
warnings: the rule works, but probably not as its author intends, or the on-call will miss
something in it. Lint uses neither the network nor a clock, and only the offline part of pySigma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

from minerwatch.authoring import lint_book, lint_conditions, lint_rules
from minerwatch.authoring.diagnostic import Diagnostic, Problems, Severity, warning
from minerwatch.authoring.recordings import Recording
from minerwatch.authoring.template import TO_DO
from minerwatch.detection.sigma.rule import Filter, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import Document, read_document, read_text
from minerwatch.errors import RuleError

_MAX_SHOWN = 80

_SHARED_CHECKS: tuple[Callable[[Rule | Filter, Document], Problems], ...] = (
    lint_rules.check_keys,
    lint_conditions.check_selections,
    lint_conditions.check_fields,
    lint_conditions.check_patterns,
    lint_conditions.check_comm_names,
)
_RULE_CHECKS: tuple[Callable[[Rule, Document], Problems], ...] = (
    lint_rules.check_header,
    lint_rules.check_texts,
    lint_rules.check_tags,
    lint_rules.check_score,
    lint_conditions.check_reach,
    lint_rules.check_tests,
    lint_rules.check_by_sigma,
)


def lint(
    book: RuleBook,
    ordinary: Sequence[Recording] = (),
    today: date | None = None,
    is_selected: Callable[[Path], bool] = lambda _: True,
) -> tuple[Diagnostic, ...]:
    """Return errors and warnings on the selected files of the book, by path and line.

    Rules must not match the programs ``ordinary``. Dates after ``today`` are warned of.
    """
    found = [
        Diagnostic(error.path, error.line, Severity.ERROR, error.reason) for error in book.errors
    ]
    rules = [rule for rule in book.rules if is_selected(rule.path)]
    items: tuple[Rule | Filter, ...] = (*rules, *book.filters)
    for item in items:
        found += _file_diagnostics(item, book, today)
    found += lint_book.similar_rules(book.rules)
    found += lint_book.broad_rules(rules, ordinary)
    found += lint_book.replaced_rules(book)
    found += lint_book.copied_exclusions(book)
    found += lint_book.list_diagnostics(book)
    found = [each for each in dict.fromkeys(found) if is_selected(each.path)]
    return tuple(sorted(found, key=lambda each: (str(each.path), each.line, each.text)))


def _file_diagnostics(
    item: Rule | Filter, book: RuleBook, today: date | None
) -> Iterator[Diagnostic]:
    try:
        text = read_text(item.path)[0]
        document = read_document(item.path, text)
    except RuleError:  # changed since it was loaded: reported at the next reload
        return
    for line, problem in _problems(item, document, book, today):
        yield warning(item.path, line, problem)
    for line, written in enumerate(text.splitlines(), 1):
        if TO_DO in written:
            yield warning(item.path, line, f"to do: {written.strip()[:_MAX_SHOWN]}")


def _problems(
    item: Rule | Filter, document: Document, book: RuleBook, today: date | None
) -> Problems:
    as_written = item if isinstance(item, Filter) else book.as_written(item)
    for shared_check in _SHARED_CHECKS:
        yield from shared_check(as_written, document)
    if isinstance(item, Filter):
        yield from lint_book.check_filter(item, document, book)
    else:
        for check in _RULE_CHECKS:
            yield from check(item, document)
        yield from lint_rules.check_dates(item, document, today)
