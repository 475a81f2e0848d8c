"""The JSON schema that editors complete and check rule files with.

It is generated, so that it knows the fields, signals and levels that the loader knows. Lint knows
more: what a schema cannot say is left to it.
"""

from __future__ import annotations

from typing import Any

from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, Field
from minerwatch.detection.sigma.dialect import MODIFIERS
from minerwatch.detection.sigma.rule import BEHAVIOUR_LIMIT, LEVEL_SCORES
from minerwatch.model import Maturity, Signal

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_DAY: Schema = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_FACT_TYPES: dict[str, Schema] = {
    "": _TEXT,
    "bool": {"type": "boolean"},
    "list": {"type": ["array", "string", "integer"], "items": {"type": ["string", "integer"]}},
    "count": {"type": "integer"},
}
_SCALAR = ["string", "number", "boolean", "null"]


def rule_schema() -> Schema:
    """The schema as JSON's values, in an order that reads well."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "minerwatch rule",
        "description": (
            "A Sigma 2 rule with what Sigma has no word for under the key minerwatch."
            " `minerwatch rules lint` knows more than this."
        ),
        "type": "object",
        "required": ["title", "id", "logsource", "detection"],
        "properties": {**_header(), "detection": _detection(), "minerwatch": _own()},
        "$defs": {
            "selection": _selection(),
            "conditions": _conditions(),
            "value": {
                "anyOf": [
                    {"type": _SCALAR},
                    {"type": "array", "minItems": 1, "items": {"type": _SCALAR}},
                ]
            },
            "facts": _facts(),
        },
    }


def _header() -> Schema:
    return {
        "title": _told(_TEXT | {"minLength": 1}, "what an on-call understands at night"),
        "id": _told(
            _TEXT
            | {
                "format": "uuid",
                "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
            },
            "a random one, of this rule alone: uuidgen makes it",
        ),
        "name": _TEXT,
        "related": {"type": "array"},
        "taxonomy": _TEXT,
        "license": _TEXT,
        "status": {
            "enum": [*(each.value for each in Maturity), "deprecated", "unsupported"],
            "description": (
                "experimental: metrics and log; test: events, too; stable: may count towards"
                " culling"
            ),
        },
        "description": _told(_TEXT, "what miners do, and why others do not"),
        "author": _TEXT,
        "references": _told(_TEXTS, "what it rests on: documentation, reports, manual pages"),
        "date": _DAY,
        "modified": _DAY,
        "tags": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[a-z0-9_-]+(\\.[a-z0-9_.-]+)+$"},
        },
        "logsource": {
            "type": "object",
            "properties": {
                "product": {"const": "linux"},
                "category": {"enum": ["process_creation", "network_connection"]},
            },
        },
        "fields": _TEXTS,
        "falsepositives": _told(_TEXTS, "who does the same without mining, however seldom"),
        "scope": _TEXTS,
        "level": {
            "enum": list(LEVEL_SCORES),
            "description": ", ".join(f"{level} {score}" for level, score in LEVEL_SCORES.items()),
        },
    }


def _told(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _detection() -> Schema:
    return {
        "type": "object",
        "required": ["condition"],
        "properties": {"condition": {"anyOf": [_TEXT | {"minLength": 1}, _TEXTS]}},
        "additionalProperties": {"$ref": "#/$defs/selection"},
    }


def _own() -> Schema:
    """What stands under the key ``minerwatch``."""
    cases = {"type": "array", "items": {"$ref": "#/$defs/facts"}}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "signal": {
                "enum": [each.value for each in Signal],
                "description": "the family of evidence that it speaks for",
            },
            "score": {
                "type": "number",
                "minimum": 0,
                "maximum": 100,
                "description": f"overrides the level's; behaviour at most {BEHAVIOUR_LIMIT}",
            },
            "for": {
                "type": ["string", "number"],
                "pattern": "^[0-9]+(\\.[0-9]+)?\\s*(ms|s|m|h|d)?$",
                "description": "how long it must hold before it counts",
            },
            "tests": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "match": _told(cases, "facts on which it must hold"),
                    "no_match": _told(
                        cases, "facts on which it must not; the hardest look-alikes first"
                    ),
                },
            },
        },
    }


def _selection() -> Schema:
    conditions = {"$ref": "#/$defs/conditions"}
    keyword = {"type": ["string", "number"]}
    return {
        "anyOf": [
            conditions,
            {"type": "array", "minItems": 1, "items": {"anyOf": [conditions, keyword]}},
            _TEXT,
        ]
    }


def _conditions() -> Schema:
    value = {"$ref": "#/$defs/value"}
    names = "|".join(sorted({*KNOWN_FIELDS, *SIGMA_FIELDS}))
    modifiers = "|".join(sorted(MODIFIERS))
    return {
        "type": "object",
        "minProperties": 1,
        "properties": {
            field.name: {"description": field.meaning, **value} for field in KNOWN_FIELDS.values()
        },
        "patternProperties": {f"^({names})?(\\|({modifiers}))*$": value},
        "additionalProperties": False,
    }


def _facts() -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "properties": {
            field.name: {
                "description": _with_unit(field.meaning, field.unit),
                **_fact_type(field),
            }
            for field in KNOWN_FIELDS.values()
        },
    }


def _fact_type(field: Field) -> Schema:
    if field.name == "ProcessId":
        return {"type": "integer"}
    return _FACT_TYPES.get(field.unit, {"type": "number"})


def _with_unit(meaning: str, unit: str) -> str:
    return meaning if unit in ("", "bool", "list", "count") else f"{meaning} ({unit})"
