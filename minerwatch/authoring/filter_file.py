"""Add a rule to the text of a Sigma filter, comments kept."""

from __future__ import annotations

from pathlib import Path

from minerwatch.detection.sigma.yaml_document import read_document

_AT = ("filter", "rules")


def with_rule(path: Path, text: str, identifier: str, comment: str) -> str:
    """Return the text with one more id, in the order of the ids.

    Raises ``RuleError`` if the text is not a filter with one id a line.
    """
    document = read_document(path, text)
    block = document.content.get("filter")
    ids = block.get("rules") if isinstance(block, dict) else None
    if not isinstance(ids, list) or not ids:
        raise document.error("not a Sigma filter: no list filter.rules", *_AT)
    lines = text.splitlines(keepends=True)
    places = [document.line(*_AT, index) - 1 for index in range(len(ids))]
    if not all(lines[place].lstrip().startswith("- ") for place in places):
        raise document.error(f"write one id a line, then add {identifier}", *_AT)
    following = (place for place, each in zip(places, ids, strict=True) if str(each) > identifier)
    at = next(following, places[-1] + 1)
    indent = lines[places[0]].partition("-")[0]
    lines.insert(at, f"{indent}- {identifier}  # {comment}\n")
    return "".join(lines)
