"""Rules as text, JSON and Markdown, one line a rule; the facts that a rule may name as a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from minerwatch.detection.field_types import Field
from minerwatch.detection.fields import KNOWN_FIELDS, PROBE_FIELDS, is_of_container
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Signal
from minerwatch.untrusted_text.display import printable

_MEANINGS = {
    Signal.IDENTITY: "names, paths and arguments",
    Signal.NETWORK: "connections to pools",
    Signal.COMPUTE: "kind of computation",
    Signal.CONTENT: "content of executable and memory",
    Signal.EXECUTION: "start and disguise of the program",
    Signal.BEHAVIOUR: "CPU usage",
}
_TEXT_HEAD = "SCORE  SIGNAL     STATUS        FOR    TITLE  (ID)"
_TYPES = {"count": "integer", "bool": "boolean", "list": "list", "": "text"}
_UNITS = {"bool": "", "list": ""}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def rule_entry(rule: Rule) -> dict[str, object]:
    """Return the JSON object of ``rules list``."""
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
        "filters": [each.id for each in rule.filters],
        "tests": len(rule.tests),
        "falsepositives": list(rule.falsepositives),
    }


def rule_rows(rules: Iterable[Rule]) -> Iterator[str]:
    """Yield the rules as lines of a table, the filters of each below it."""
    yield _TEXT_HEAD
    for rule in rules:
        yield (
            f"{rule.score:5g}  {rule.signal:9}  {rule.maturity:12}  {_duration(rule):5}"
            f"  {printable(rule.title)}  ({rule.id})"
        )
        for each in rule.filters:
            yield f"{'':39}filter: {printable(each.title)}  ({each.id})"


def _duration(rule: Rule) -> str:
    """Return ``for:`` in the largest unit without a fraction."""
    for unit, seconds in (("h", 3600), ("m", 60)):
        if rule.hold_s and rule.hold_s % seconds == 0:
            return f"{rule.hold_s / seconds:g}{unit}"
    return f"{rule.hold_s:g}s" if rule.hold_s else "-"


def rule_index(rules: Sequence[Rule], shipped: Path) -> str:
    """Return a table for each signal, highest score first; rules below ``shipped`` are links."""
    return "\n".join(_lines(rules, shipped)) + "\n"


def _lines(rules: Sequence[Rule], shipped: Path) -> Iterator[str]:
    yield "# Rules"
    yield ""
    yield "Written by `minerwatch rules list -o markdown`; how to add one: [rules.md](rules.md)."
    for signal in Signal:
        own = [rule for rule in rules if rule.signal is signal]
        if own:
            own.sort(key=lambda rule: (-rule.score, rule.title))
            yield ""
            yield f"## {signal.value}: {_MEANINGS[signal]}"
            yield ""
            yield from _table(own, shipped)


def _table(rules: Iterable[Rule], shipped: Path) -> Iterator[str]:
    yield "| score | rule | status | meaning | false positives |"
    yield "| ---: | --- | --- | --- | --- |"
    for rule in rules:
        cells = (
            f"{rule.score:g}",
            _link(rule, shipped),
            rule.maturity.value,
            _cell(_SENTENCE_END.split(" ".join(rule.description.split()))[0]),
            "; ".join(map(_cell, rule.falsepositives)),
        )
        yield f"| {' | '.join(cells)} |"


def _link(rule: Rule, shipped: Path) -> str:
    title = _cell(rule.title)
    if not rule.path.is_relative_to(shipped):
        return title
    return f"[{title}](../rules/{rule.path.relative_to(shipped).as_posix()})"


def _cell(text: str) -> str:
    return re.sub(r"([\\|\[\]<>])", r"\\\1", printable(text))


# Facts.


FIELD_COLUMNS = (
    *("name", "type", "unit", "of", "measured", "meaning", "source", "capability", "example"),
)


def field_entries() -> list[dict[str, str]]:
    """Return each field as the JSON object of ``rules fields``."""
    return [
        {
            "name": field.name,
            "type": "integer" if field.name == "ProcessId" else _TYPES.get(field.unit, "number"),
            "unit": _UNITS.get(field.unit, field.unit),
            "of": "container" if is_of_container(field.name) else "process",
            "measured": _measured(field),
            "meaning": field.meaning,
            "source": field.source.name,
            "capability": field.source.capability,
            "example": field.example,
        }
        for field in KNOWN_FIELDS.values()
    ]


def _measured(field: Field) -> str:
    for probe, names in PROBE_FIELDS.items():
        if field.name in names:
            return f"probe {probe}"
    if is_of_container(field.name):
        return "tick" if field.dynamic else "start"
    return "tick, if busy" if field.dynamic else "exec"


def field_rows() -> Iterator[str]:
    """Yield the fields as lines of a table."""
    entries = field_entries()
    widths = {key: max(len(key), *(len(each[key]) for each in entries)) for key in FIELD_COLUMNS}
    for entry in ({key: key.upper() for key in FIELD_COLUMNS}, *entries):
        yield "  ".join(entry[key].ljust(widths[key]) for key in FIELD_COLUMNS).rstrip()


_FIELD_PAGE_HEAD = """\
# Facts that a rule may name

Written by `minerwatch rules fields -o markdown`; how to write a rule: [rules.md](rules.md). A fact
that was not measured is absent, and a condition on it does not hold. A capability is what the agent
needs to read processes of other users: [security.md](security.md#permissions-by-feature)."""


def field_page() -> str:
    """Return the fields as a page: a table for each source."""
    return "\n".join(_field_lines()) + "\n"


def _field_lines() -> Iterator[str]:
    yield _FIELD_PAGE_HEAD
    by_source: dict[tuple[str, str], list[dict[str, str]]] = {}
    for entry in field_entries():
        by_source.setdefault((entry["source"], entry["capability"]), []).append(entry)
    for (source, capability), entries in by_source.items():
        yield from ("", f"## {source[:1].upper()}{source[1:]}", "")
        yield from ([f"Capability: {capability}.", ""] if capability else [])
        yield "| fact | type | unit | of | measured | meaning | example |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for each in entries:
            texts = map(each.__getitem__, ("type", "unit", "of", "measured", "meaning"))
            example = each["example"].replace("|", r"\|")
            yield f"| `{each['name']}` | {' | '.join(map(_cell, texts))} | `{example}` |"
