"""Check rule files, Sigma filters and lists, each message with file and line.

An error makes a file unusable and was found when the file was loaded. All other messages are
warnings: the rule works, but probably not as its author intends, or the on-call will miss
something in it. Lint uses neither the network nor a clock, and only the offline part of pySigma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date

from minerwatch.authoring.diagnostic import Diagnostic, Problems, Severity, warning
from minerwatch.authoring.lint_conditions import (
    check_comm_names,
    check_fields,
    check_patterns,
    check_reach,
    check_selections,
)
from minerwatch.authoring.lint_filters import check_filter, copied_exclusions
from minerwatch.authoring.lint_header import (
    check_dates,
    check_header,
    check_keys,
    check_score,
    check_tags,
    check_texts,
)
from minerwatch.authoring.lint_lists import list_diagnostics
from minerwatch.authoring.lint_pack import broad_rules, replaced_rules, similar_rules
from minerwatch.authoring.lint_sigma import check_by_sigma
from minerwatch.authoring.lint_tests import check_tests
from minerwatch.authoring.rule_tests import Recording
from minerwatch.authoring.template import TO_DO
from minerwatch.detection.fields import UNMEASURED_FIELDS
from minerwatch.detection.sigma.rule import Filter, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import Document, read_document, read_text
from minerwatch.errors import RuleError
from minerwatch.format import counted

_MAX_SHOWN = 80

_SHARED_CHECKS: tuple[Callable[[Rule | Filter, Document], Problems], ...] = (
    check_keys,
    check_selections,
    check_fields,
    check_patterns,
    check_comm_names,
)
_RULE_CHECKS: tuple[Callable[[Rule, Document], Problems], ...] = (
    check_header,
    check_texts,
    check_tags,
    check_score,
    check_reach,
    check_tests,
    check_by_sigma,
)


def lint(
    book: RuleBook, ordinary: Sequence[Recording] = (), today: date | None = None
) -> tuple[Diagnostic, ...]:
    """Return errors and warnings on the files of the book, by path and line.

    Rules must not match the programs ``ordinary``. Dates after ``today`` are warned of.
    """
    found = [
        Diagnostic(error.path, error.line, Severity.ERROR, error.reason) for error in book.errors
    ]
    for rule in book.rules:
        found += _file_diagnostics(rule, book, today)
    for each in book.filters:
        found += _file_diagnostics(each, book, today)
    found += similar_rules(book.rules)
    found += broad_rules(book.rules, ordinary)
    found += replaced_rules(book)
    found += copied_exclusions(book)
    found += list_diagnostics(book)
    found.sort(key=lambda each: (str(each.path), each.line, each.text))
    return tuple(dict.fromkeys(found))


def unmeasured_note(rules: Iterable[Rule]) -> str | None:
    """Return one line on the rules that need a field which no source measures yet."""
    count = sum(not UNMEASURED_FIELDS.isdisjoint(rule.fields) for rule in rules)
    if not count:
        return None
    names = ", ".join(sorted(UNMEASURED_FIELDS))
    return f"note: {names} is not measured yet: {counted(count, 'rule')} cannot use it"


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
        yield from check_filter(item, document, book)
    else:
        for check in _RULE_CHECKS:
            yield from check(item, document)
        yield from check_dates(item, document, today)
