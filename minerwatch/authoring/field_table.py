"""The facts that a rule may name, as a table: type, unit, where and when measured, meaning."""

from __future__ import annotations

from collections.abc import Iterator

from minerwatch.detection.fields import (
    KNOWN_FIELDS,
    PROBE_FIELDS,
    UNMEASURED_FIELDS,
    Field,
    is_of_container,
)

_TYPES = {"count": "integer", "bool": "boolean", "list": "list", "": "text"}
_UNITS = {"bool": "", "list": ""}


def field_records() -> list[dict[str, str]]:
    """Return each field as the JSON object of ``rules fields``."""
    return [
        {
            "name": field.name,
            "type": "integer" if field.name == "ProcessId" else _TYPES.get(field.unit, "number"),
            "unit": _UNITS.get(field.unit, field.unit),
            "of": "container" if is_of_container(field.name) else "process",
            "measured": _measured(field),
            "meaning": field.meaning,
        }
        for field in KNOWN_FIELDS.values()
    ]


def _measured(field: Field) -> str:
    if field.name in UNMEASURED_FIELDS:
        return "not yet"
    for probe, names in PROBE_FIELDS.items():
        if field.name in names:
            return f"probe {probe}"
    if is_of_container(field.name):
        return "tick" if field.dynamic else "start"
    return "tick, if busy" if field.dynamic else "exec"


def field_rows() -> Iterator[str]:
    """Yield the fields as lines of a table."""
    records = field_records()
    keys = ("name", "type", "unit", "of", "measured")
    widths = {key: max(len(key), *(len(record[key]) for record in records)) for key in keys}
    yield "  ".join((*(key.upper().ljust(widths[key]) for key in keys), "MEANING"))
    for record in records:
        cells = (record[key].ljust(widths[key]) for key in keys)
        yield "  ".join((*cells, record["meaning"]))
