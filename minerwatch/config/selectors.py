"""Kubernetes label selectors, in the one-line form of ``kubectl get --selector``.

Equality and sets as in "Labels and Selectors" of the Kubernetes documentation: ``a=b``, ``a==b``,
``a!=b``, ``a in (b, c)``, ``a notin (b, c)``, ``a``, ``!a``; a comma means "and".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from minerwatch.errors import ConfigError

_KEY = r"(?P<key>(?:[a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)"
_COMPARED = re.compile(rf"{_KEY}\s*(?P<operator>==?|!=)\s*(?P<values>[-A-Za-z0-9_.]*)")
_IN_SET = re.compile(rf"{_KEY}\s+(?P<operator>in|notin)\s*\((?P<values>[-A-Za-z0-9_.,\s]*)\)")
_PRESENT = re.compile(rf"(?P<operator>!?)\s*{_KEY}")
_BETWEEN_REQUIREMENTS = re.compile(r",(?![^(]*\))")


class Selector(str):
    """A selection of pods by their labels; an empty one selects all."""

    __slots__ = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if every requirement holds on ``labels``."""
        return all(requirement.holds(labels) for requirement in _requirements(str(self)))

    @property
    def keys(self) -> frozenset[str]:
        """Return the labels that it depends on."""
        return frozenset(requirement.key for requirement in _requirements(str(self)))


def selector(text: str) -> Selector:
    """Parse a selector; raises ConfigError where Kubernetes would refuse it."""
    if not isinstance(text, str):
        raise ConfigError(f"invalid label selector {text!r}: use a form like 'app=web,!keep'")
    _requirements(text)
    return Selector(text)


@dataclass(frozen=True, slots=True)
class _Requirement:
    key: str
    values: frozenset[str] | None  # None: the key is enough
    is_negated: bool  # also holds if the key is missing

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found is not self.is_negated


@lru_cache(maxsize=256)
def _requirements(text: str) -> tuple[_Requirement, ...]:
    if not text.strip():
        return ()
    return tuple(_requirement(part.strip(), text) for part in _BETWEEN_REQUIREMENTS.split(text))


def _requirement(part: str, text: str) -> _Requirement:
    for form in (_COMPARED, _IN_SET, _PRESENT):
        match = form.fullmatch(part)
        if match is not None:
            break
    else:
        raise ConfigError(
            f"invalid label requirement {part!r} in {text!r}: use a=b, a!=b, a in (b, c), "
            "a notin (b, c), a or !a"
        )
    values = None
    if form is not _PRESENT:
        values = frozenset(value.strip() for value in match["values"].split(","))
    return _Requirement(match["key"], values, match["operator"] in ("!", "!=", "notin"))
