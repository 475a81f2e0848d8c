"""Plants the canary and notes when its finding arrives: proof that a miner would be found."""

from __future__ import annotations

import os
import time

from minerwatch.agent.parts import Parts
from minerwatch.agent.tick import Watch
from minerwatch.config.schema import Config
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.model import Finding
from minerwatch.node import canary
from minerwatch.node.canary import Canary

_MAX_UNSEEN_S = 1800.0
"""As in the alert MinerwatchCanaryNotSeen."""


class SelfTest:
    """The agent's own canary, where the node allows one."""

    def __init__(self, parts: Parts) -> None:
        self._telemetry = parts.telemetry
        self.off = _reason_against(parts.state.config, parts.state.rules.book, parts.node.watch)
        """Why there is no canary; empty if there is one."""
        self._canary = Canary()
        self._now_s = parts.now_s
        self._seen_s = parts.now_s()  # or when it began
        self._is_seen = False
        if not self.off:
            self._telemetry.metrics.expect_canaries()

    def tend(self, at_s: float) -> None:
        """Plant the canary when it is due; remove it when it is late."""
        if self.off:
            return
        try:
            self._canary.tend(at_s)
        except OSError as error:
            self._telemetry.fail("canary", error)

    def handle(self, finding: Finding) -> None:
        """Report that the canary's rule has matched; remove the agent's own canary."""
        if finding.rule != canary.RULE:
            return
        is_own = finding.process is not None and finding.process.pid == self._canary.pid
        self._telemetry.metrics.canary_seen(time.time(), is_own=is_own)
        if is_own:
            self._seen_s, self._is_seen = self._now_s(), True
            self.close()

    @property
    def has_failed(self) -> bool:
        """Return True if no canary was found for longer than the alert on it permits."""
        return not self.off and self._now_s() - self._seen_s > _MAX_UNSEEN_S

    @property
    def result(self) -> str:
        """Return when the agent last found its canary; "": there is none."""
        if self.off:
            return ""
        ago = f"{self._now_s() - self._seen_s:.0f} s"
        return f"last found {ago} ago" if self._is_seen else f"not found in {ago}"

    def close(self) -> None:
        """Remove the canary, if it is planted."""
        self._canary.remove()


def _reason_against(config: Config, book: RuleBook, watch: Watch) -> str:
    if not config.probes.canary:
        return "switched off (probes.canary)"
    if all(rule.id != canary.RULE for rule in book.rules):
        return "its rule is not in force (built_in_rules)"
    if watch.container_of(os.getpid()) is None:
        return "the agent itself runs in no container that it watches"
    return ""
