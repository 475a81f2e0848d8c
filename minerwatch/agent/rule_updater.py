"""Puts changed rules in force while the agent runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minerwatch.agent.parts import Parts
from minerwatch.agent.rule_loader import RuleLoader, RuleSet
from minerwatch.detection.sigma import rulebook


class RuleUpdater:
    """Loads changed rule files in the background, and hands loaded rules to the watch."""

    def __init__(self, loader: RuleLoader, parts: Parts, on_change: Callable[[], None]) -> None:
        self._loader = loader
        self._state = parts.state
        self._watch = parts.node.watch
        self._telemetry = parts.telemetry
        self._on_change = on_change
        self._is_load_due = False
        self._publish()

    def use_folders(self, folders: tuple[Path, ...], private: tuple[Path, ...]) -> None:
        """Load from other folders from now on."""
        rules = self._state.rules
        book = replace(rules.book, folders=folders, private=private)
        self._state.rules = replace(rules, book=book)

    def request_load(self) -> None:
        """Load all rules at the next ``refresh``, changed or not."""
        self._is_load_due = True

    def refresh(self) -> None:
        """Begin to load rules if files have changed; they come into force once loaded."""
        self.apply_loaded()
        is_due = self._is_load_due or rulebook.has_changed(self._state.rules.book)
        if is_due and self._loader.begin(self._state.rules):
            self._is_load_due = False

    def apply_loaded(self) -> None:
        """Put rules in force that have been loaded since the last call."""
        loaded = self._loader.answer()
        if loaded is None:
            return
        try:
            self._use(loaded)
        except Exception as error:  # noqa: BLE001 - as in a tick
            self._telemetry.fail("rules", error)

    def _use(self, loaded: RuleSet) -> None:
        before, book = self._state.rules.book, loaded.book
        self._watch.use(loaded.matcher)
        if book.content_stamps != before.content_stamps:
            self._watch.use_content_rules(book.content)
        # Other folders may have been configured meanwhile.
        book = replace(book, folders=before.folders, private=before.private)
        self._state.rules = replace(loaded, book=book)
        self._on_change()
        self._publish()
        self._telemetry.log.info("rules loaded", rules=len(book.rules), broken=len(book.errors))

    def _publish(self) -> None:
        book, errors = self._state.rules.book, self._state.rules.errors
        for error in errors:
            reason = book.public_reason(error)
            message = "rule file cannot be used"
            self._telemetry.once.warning(message, about=str(error), reason=reason)
        self._telemetry.metrics.rules_loaded(book.rules, len(errors), time.time())
