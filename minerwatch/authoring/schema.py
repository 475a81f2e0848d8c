"""The JSON schema of rule files, for editors: msgspec generates it from the types below.

`minerwatch rules lint` checks more than a schema can express.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from minerwatch.detection.field_types import Field
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS
from minerwatch.detection.sigma.dialect import MODIFIERS
from minerwatch.detection.sigma.rule import BEHAVIOUR_LIMIT, CATEGORY_SIGNALS, LEVEL_SCORES
from minerwatch.model import Abuse, Maturity, Signal

_Scalar = str | float | bool | None
_Value = _Scalar | Annotated[list[_Scalar], Meta(min_length=1)]
_Uuid = Annotated[str, Meta(pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
_Day = Annotated[str, Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
_Tag = Annotated[str, Meta(pattern="^[a-z0-9_-]+(\\.[a-z0-9_.-]+)+$")]
_Duration = Annotated[str, Meta(pattern="^[0-9]+(\\.[0-9]+)?\\s*(ms|s|m|h|d)?$")]
_FACT_TYPES = {"": str, "bool": bool, "count": int, "list": list[str | int] | str | int}

_Key = tuple[str, Any, str]
"""Name, type and description of a key."""


def rule_schema() -> dict[str, Any]:
    """Return the schema as JSON values."""
    _, parts = msgspec.json.schema_components([_rule_file()], ref_template="#/$defs/{name}")
    (value,), _ = msgspec.json.schema_components([_Value])
    names = "|".join(sorted({*KNOWN_FIELDS, *SIGMA_FIELDS}))
    modifiers = "|".join(sorted(MODIFIERS))
    parts["Conditions"] |= {
        "minProperties": 1,
        "patternProperties": {f"^({names})?(\\|({modifiers}))*$": value},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **parts.pop("Rule"),
        "title": "minerwatch rule",
        "description": "A Sigma 2 rule or filter. `minerwatch rules lint` checks more than this.",
        "anyOf": [{"required": ["detection"]}, {"required": ["filter"]}],
        "$defs": parts,
    }


def _struct(
    name: str, keys: Iterable[_Key], required: Iterable[str] = (), *, open_: bool = False
) -> Any:
    """Define a mapping with these keys; ``open_`` permits others."""
    fields = []
    for key, type_, description in keys:
        annotated = Annotated[type_, Meta(description=description)] if description else type_
        if key in required:
            fields.append((f"key_{key}", annotated, msgspec.field(name=key)))
        else:
            optional = annotated | UnsetType
            fields.append((f"key_{key}", optional, msgspec.field(name=key, default=UNSET)))
    return msgspec.defstruct(name, fields, forbid_unknown_fields=not open_, kw_only=True)


def _one_of(words: Iterable[str]) -> Any:
    """Define a text with these values; unlike ``Literal`` the schema keeps their order."""
    return Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in words]})]


def _rule_file() -> Any:
    levels = ", ".join(f"{level} {score}" for level, score in LEVEL_SCORES.items())
    categories = (("product", _one_of(("linux",)), ""), ("category", _one_of(CATEGORY_SIGNALS), ""))
    texts = list[str]
    conditions = _struct(
        "Conditions", ((field.name, Any, _meaning(field)) for field in KNOWN_FIELDS.values())
    )
    keys: tuple[_Key, ...] = (
        ("title", Annotated[str, Meta(min_length=1)], "name of the finding, for the on-call"),
        ("id", _Uuid, "random, of this rule alone: create it with uuidgen"),
        ("name", str, ""),
        ("related", list[Any], ""),
        ("taxonomy", str, ""),
        ("license", str, ""),
        (
            "status",
            _one_of((*Maturity, "deprecated", "unsupported")),
            "experimental: metrics and log; test: also Events; stable: may count towards culling",
        ),
        ("description", str, "behaviour of miners, and why other programs differ"),
        ("author", str, ""),
        ("references", texts, "addresses of documentation, reports or manual pages"),
        ("date", _Day, ""),
        ("modified", _Day, ""),
        ("tags", list[_Tag], ""),
        ("logsource", _struct("LogSource", categories, open_=True), ""),
        ("detection", _selections(conditions), "selections, and a condition over their names"),
        (
            "filter",
            _selections(conditions, rules=Annotated[list[_Uuid], Meta(min_length=1)]),
            "Sigma filter: the rules that it lists match only where its condition also holds",
        ),
        ("fields", texts, ""),
        ("falsepositives", texts, "programs that match without mining, however rare"),
        ("scope", texts, ""),
        ("level", _one_of(LEVEL_SCORES), levels),
        ("minerwatch", _own_keys(), "keys that Sigma does not have"),
    )
    return _struct("Rule", keys, ("title", "id", "logsource"), open_=True)


def _own_keys() -> Any:
    facts = _struct(
        "Facts",
        ((field.name, _fact_type(field), _meaning(field)) for field in KNOWN_FIELDS.values()),
        open_=True,
    )
    cases = list[facts]  # type: ignore[valid-type]
    tests = (
        ("match", cases, "facts that the rule must match"),
        ("no_match", cases, "facts that it must not match, the most similar first"),
    )
    score = Annotated[float, Meta(ge=0, le=100)]
    keys = (
        ("signal", _one_of(Signal), "family of evidence that the rule speaks for"),
        ("abuse", _one_of(Abuse), "kind of abuse, mining if absent; scores of kinds do not add up"),
        ("score", score, f"overrides the level's score; behaviour: at most {BEHAVIOUR_LIMIT}"),
        ("for", _Duration | float, "time that the rule must hold before it counts, such as 2m"),
        ("tests", _struct("Tests", tests), "run by `minerwatch rules test`"),
    )
    return _struct("OwnKeys", keys)


def _selections(conditions: Any, **more_keys: Any) -> Any:
    """Define named selections with their condition, and more keys beside it."""
    alternatives = Annotated[list[conditions | str | float], Meta(min_length=1)]
    condition = Annotated[str, Meta(min_length=1)] | list[str]
    schemas, _ = msgspec.json.schema_components([condition, *more_keys.values()])
    properties = dict(zip(("condition", *more_keys), schemas, strict=True))
    extra = {"required": list(properties), "properties": properties}
    selection: Any = conditions | alternatives | str
    return Annotated[dict[str, selection], Meta(extra_json_schema=extra)]


def _fact_type(field: Field) -> Any:
    return int if field.name == "ProcessId" else _FACT_TYPES.get(field.unit, float)


def _meaning(field: Field) -> str:
    has_unit = field.unit not in ("", "bool", "list", "count")
    return f"{field.meaning} ({field.unit})" if has_unit else field.meaning
