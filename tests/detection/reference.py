"""Sigma's semantics written down a second time: slow, simple, and sharing nothing with the matcher.

Works on the rule file's plain values. Only single regular expressions are left to RE2.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

import re2

Definition = Any
Holds = Callable[[str], bool]

STAR, ONE = object(), object()


def rule_holds(
    rule: Mapping[str, Any],
    facts: Mapping[str, Any],
    lists: Mapping[str, tuple[str, ...]] | None = None,
) -> bool:
    detection = dict(rule["detection"])
    condition = detection.pop("condition")
    conditions = condition if isinstance(condition, list) else [condition]

    def selection_holds(name: str) -> bool:
        return _definition_holds(detection[name], facts, lists or {})

    return any(
        ConditionParser(text, sorted(detection), selection_holds).value() for text in conditions
    )


class ConditionParser:
    """or < and < not; ``1 of x*``, ``any of them``, ``all of x*``; parentheses."""

    def __init__(self, text: str, names: list[str], holds: Holds) -> None:
        self.tokens = re.findall(r"[()]|[^\s()]+", text)
        self.names = names
        self.holds = holds

    def value(self) -> bool:
        value = self.disjunction()
        assert not self.tokens
        return value

    def taken(self, word: str) -> bool:
        if self.tokens and self.tokens[0] == word:
            self.tokens.pop(0)
            return True
        return False

    def disjunction(self) -> bool:
        values = [self.conjunction()]
        while self.taken("or"):
            values.append(self.conjunction())
        return any(values)

    def conjunction(self) -> bool:
        values = [self.negation()]
        while self.taken("and"):
            values.append(self.negation())
        return all(values)

    def negation(self) -> bool:
        if self.taken("not"):
            return not self.negation()
        if self.taken("("):
            value = self.disjunction()
            assert self.taken(")")
            return value
        word = self.tokens.pop(0)
        if word in ("1", "any", "all") and self.taken("of"):
            pattern = self.tokens.pop(0)
            chosen = [self.holds(name) for name in self.names if _selected(name, pattern)]
            return all(chosen) if word == "all" else any(chosen)
        return self.holds(word)


def _selected(name: str, pattern: str) -> bool:
    if name.startswith("_") and not pattern.startswith("_"):
        return False
    return pattern == "them" or re.fullmatch(pattern.replace("*", ".*"), name) is not None


def _definition_holds(
    definition: Definition, facts: Mapping[str, Any], lists: Mapping[str, tuple[str, ...]]
) -> bool:
    if isinstance(definition, dict):
        return all(_item_holds(key, value, facts, lists) for key, value in definition.items())
    if isinstance(definition, list):
        return any(
            _definition_holds(inner, facts, lists)
            if isinstance(inner, dict | list)
            else _item_holds("", inner, facts, lists)
            for inner in definition
        )
    return _item_holds("", definition, facts, lists)


def _item_holds(
    key: str, value: Any, facts: Mapping[str, Any], lists: Mapping[str, tuple[str, ...]]
) -> bool:
    name, *modifiers = key.split("|")
    values = value if isinstance(value, list) else [value]
    field = name or "CommandLine"
    if not name and not set(modifiers) & {"re"}:
        modifiers = [*modifiers, "contains"]
    if "expand" in modifiers:
        values = [filled for each in values for filled in _filled(each, modifiers, lists)]
    held = [_value_holds(field, modifiers, each, facts) for each in values]
    holds = all(held) if "all" in modifiers else any(held)
    if "neq" in modifiers:
        return not _empty(facts.get(field)) and not holds
    return holds


def _filled(value: str, modifiers: list[str], lists: Mapping[str, tuple[str, ...]]) -> list[str]:
    found = re.search(r"%([^%\\]+)%", value)
    if not found:
        return [value]
    filled = []
    for entry in lists[found[1]]:
        literal = re.escape(entry) if "re" in modifiers else re.sub(r"([*?\\])", r"\\\1", entry)
        head, tail = value[: found.start()], value[found.end() :]
        filled += [head + literal + rest for rest in _filled(tail, modifiers, lists)]
    return filled


def _empty(observed: Any) -> bool:
    return observed is None or (not any(observed) if isinstance(observed, str | tuple) else False)


def _elements(observed: Any) -> list[Any]:
    if observed is None:
        return []
    return list(observed) if isinstance(observed, tuple) else [observed]


def _value_holds(field: str, modifiers: list[str], value: Any, facts: Mapping[str, Any]) -> bool:
    observed = facts.get(field)
    if value is None:
        return _empty(observed)
    if "exists" in modifiers:
        return bool(_empty(observed) is not value)
    if "fieldref" in modifiers:
        others = [_text(each) for each in _elements(facts.get(value))]
        return any(
            _same(modifiers, _text(ours), other) for ours in _elements(observed) for other in others
        )
    if isinstance(value, str) and not {"re", "cidr"} & set(modifiers):
        tokens = _with_anchors(_tokens(value), modifiers)
        if tokens and all(token is STAR for token in tokens):
            return not _empty(observed)
    return any(_element_holds(modifiers, value, element) for element in _elements(observed))


def _same(modifiers: list[str], ours: str | None, other: str | None) -> bool:
    if ours is None or other is None:
        return False
    ours, other = ours.lower(), other.lower()
    if "contains" in modifiers or {"startswith", "endswith"} <= set(modifiers):
        return other in ours
    if "startswith" in modifiers:
        return ours.startswith(other)
    return ours.endswith(other) if "endswith" in modifiers else ours == other


def _text(element: Any) -> str | None:
    if isinstance(element, bool):
        return str(element).lower()
    if isinstance(element, int):
        return str(element)
    return element if isinstance(element, str) else None


def _element_holds(modifiers: list[str], value: Any, element: Any) -> bool:
    if isinstance(value, bool):
        text = _text(element) if isinstance(element, str | bool) else None
        return text is not None and text.lower() == str(value).lower()
    if isinstance(value, int | float):
        if "contains" in modifiers:
            return str(value) in (_text(element) or "")
        return _number_holds(modifiers, value, element)
    text = _text(element)
    if text is None:
        return False
    if "re" in modifiers:
        return _regex_holds(modifiers, value, text)
    if "cidr" in modifiers:
        return _address_holds(value, text)
    return _pattern_holds(modifiers, value, text)


def _number_holds(modifiers: list[str], value: float, element: Any) -> bool:
    if isinstance(element, bool):
        return False
    if isinstance(element, str):
        if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,9})?", element):
            return False
        element = float(element)
    if "gte" in modifiers:
        return bool(element >= value)
    if "gt" in modifiers:
        return bool(element > value)
    if "lte" in modifiers:
        return bool(element <= value)
    return bool(element < value) if "lt" in modifiers else bool(element == value)


def _regex_holds(modifiers: list[str], pattern: str, text: str) -> bool:
    flags = "".join(flag for flag in "ims" if flag in modifiers)
    return re2.search((f"(?{flags})" if flags else "") + pattern, text) is not None


def _address_holds(network: str, text: str) -> bool:
    try:
        return ipaddress.ip_address(text) in ipaddress.ip_network(network)
    except ValueError:
        return False


def _pattern_holds(modifiers: list[str], value: str, text: str) -> bool:
    if "base64" in modifiers:
        value = base64.b64encode(value.encode()).decode()
    tokens = _with_anchors(_tokens(value), modifiers)
    if "cased" not in modifiers:
        text = text.lower()
        tokens = [token.lower() if isinstance(token, str) else token for token in tokens]
    flat: list[Any] = []
    for token in tokens:
        flat += list(token) if isinstance(token, str) else [token]
    return _glob(flat, text)


def _with_anchors(tokens: list[Any], modifiers: list[str]) -> list[Any]:
    before = "contains" in modifiers or "endswith" in modifiers
    after = "contains" in modifiers or "startswith" in modifiers
    return [STAR] * before + tokens + [STAR] * after


def _tokens(value: str) -> list[Any]:
    r"""Literal texts and wildcards: ``\`` escapes ``*``, ``?`` and itself, else it is literal."""
    tokens: list[Any] = []
    literal, at = "", 0
    while at < len(value):
        here = value[at]
        if here == "\\" and value[at + 1 : at + 2] in ("*", "?", "\\"):
            literal += value[at + 1]
            at += 2
            continue
        if here in "*?":
            tokens += [literal] * bool(literal) + [STAR if here == "*" else ONE]
            literal = ""
        else:
            literal += here
        at += 1
    return tokens + [literal] * bool(literal)


def _glob(pattern: list[Any], text: str) -> bool:
    """Return True if all of ``text`` fits; ``reached``: where in it the pattern may be."""
    reached = {0}
    for token in pattern:
        if token is STAR:
            reached = set(range(min(reached), len(text) + 1)) if reached else set()
        else:
            reached = {
                at + 1 for at in reached if at < len(text) and (token is ONE or text[at] == token)
            }
    return len(text) in reached
