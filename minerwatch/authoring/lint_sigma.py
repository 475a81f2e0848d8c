"""Lint by pySigma's validators, except those that fetch data or are about Windows."""

from __future__ import annotations

from collections.abc import Iterator

from minerwatch.authoring.diagnostic import Problems
from minerwatch.detection.sigma.rule import Rule
from minerwatch.detection.sigma.yaml_document import Document, KeyPath, Value


def check_by_sigma(rule: Rule, document: Document) -> Problems:
    """Warn of what pySigma warns of.

    Not "all without contains" and "windash with all", which are correct here.
    """
    from sigma.rule import SigmaDetectionItem, SigmaRule
    from sigma.validators.core import metadata, modifiers, tags, values

    content = {key: value for key, value in document.content.items() if key != "minerwatch"}
    # As texts: the validator puts references into a set.
    sigma = SigmaRule.from_dict({**content, "references": list(rule.references)})
    for key, validator in (
        ("tags", tags.CVETagValidator()),
        ("references", metadata.DuplicateReferencesValidator()),
    ):
        for issue in validator.validate(sigma):
            yield document.line(key), f"{key}: {_uncapitalized(issue.description)}"
    item_validators = (
        modifiers.InvalidModifierCombinationsValidator(),
        values.ControlCharacterValidator(),
        values.DoubleWildcardValidator(),
        values.WildcardsInsteadOfModifiersValidator(),
    )
    correct_here = (
        modifiers.AllWithoutContainsModifierIssue,
        modifiers.WindowsDashCombinedWithAllModifierIssue,
    )
    for at, key, value in _items(document.content["detection"], ("detection",)):
        item = SigmaDetectionItem.from_mapping(key, value)  # type: ignore[arg-type]
        for item_validator in item_validators:
            item_validator.rule = sigma
            for issue in item_validator.validate_detection_item(item):
                if not isinstance(issue, correct_here):
                    yield document.line(*at), f"{key}: {_uncapitalized(issue.description)}"


def _items(definition: Value, at: KeyPath) -> Iterator[tuple[KeyPath, str, Value]]:
    """Yield each ``field|modifiers: value`` of the selections, with its place."""
    if isinstance(definition, list):
        for index, inner in enumerate(definition):
            yield from _items(inner, (*at, index))
    elif isinstance(definition, dict):
        for key, value in definition.items():
            if len(at) > 1:
                yield (*at, key), key, value
            elif key != "condition":
                yield from _items(value, (*at, key))


def _uncapitalized(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
