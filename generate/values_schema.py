"""The schema of the chart's values: ``config`` from minerwatch/config/schema.py, the rest by hand.

With it helm refuses a configuration that the agent would refuse, before anything is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import inspect

from generate.settings import comments
from minerwatch.config.schema import Config
from minerwatch.config.values import MODES, Duration, Mode

SCHEMA = Path(__file__).parent.parent / "deploy" / "helm" / "minerwatch" / "values.schema.json"
_OWN = Path(__file__).with_name("values.schema.json")

_CHARTS_OWN = (
    "listen",
    "socket",
    "node.name",
    "node.proc",
    "node.sys",
    "node.gpu_socket",
    "node.gpu_exporter",
)
"""Settings that the chart sets itself."""

_LIMITS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}

Schema = dict[str, Any]


def schema() -> str:
    """Return the schema as JSON."""
    whole: Schema = json.loads(_OWN.read_text(encoding="utf-8"))
    of_config = _schema(inspect.type_info(Config))
    for setting in _CHARTS_OWN:
        *sections, key = setting.split(".")
        held_in = of_config
        for section in sections:
            held_in = held_in["properties"][section]
        del held_in["properties"][key]
    whole["properties"]["config"] = of_config
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _schema(kind: inspect.Type) -> Schema:
    match kind:
        case inspect.Metadata(type=inner):
            return _schema(inner)
        case inspect.StructType():
            return _struct(kind)
        case inspect.UnionType(types=types):
            return {"anyOf": [_schema(each) for each in types]}
        case inspect.VarTupleType(item_type=item):
            least = {"minItems": kind.min_length} if kind.min_length else {}
            return {"type": "array", "items": _schema(item), **least}
        case inspect.EnumType(cls=cls):
            return {"enum": [each.value for each in cls]}
        case inspect.CustomType(cls=cls):
            return _custom(cls)
        case _:
            return {"type": _PLAIN[type(kind)], **_limits(kind)}


_PLAIN: dict[type[inspect.Type], str] = {
    inspect.StrType: "string",
    inspect.BoolType: "boolean",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.NoneType: "null",
    inspect.DateType: "string",
}


def _struct(kind: inspect.StructType) -> Schema:
    beside = comments(kind.cls.__name__)
    properties = {}
    for field in kind.fields:
        described = {"description": beside[field.name]} if field.name in beside else {}
        properties[field.encode_name] = {**described, **_schema(field.type)}
    needed = [field.encode_name for field in kind.fields if field.required]
    return {
        "type": "object",
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
        "properties": properties,
    }


def _custom(cls: type) -> Schema:
    if cls is Duration:
        return {"type": ["number", "string"], "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)?$"}
    if cls is Mode:
        return {"enum": [*MODES, False]}  # YAML 1.1 reads a bare "off" as false
    return {"type": "string"}


def _limits(kind: inspect.Type) -> Schema:
    given = {word: getattr(kind, name, None) for name, word in _LIMITS.items()}
    return {word: limit for word, limit in given.items() if limit is not None}
