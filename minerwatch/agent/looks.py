"""Chooses the processes that the probes examine: by findings, and by the CPU time of containers.

A container earns a look at its process that used most CPU and GPU time since its last look, once
for every ``cpu_per_look`` seconds of that time, so that neither many small processes nor
short-lived ones escape, and idle ones earn nothing. Where a container is held back (by its limit,
or because it waits for a CPU) the time counts in which it would have run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import nlargest
from itertools import islice
from typing import Protocol

from minerwatch.agent.tracked import LookAccount, TrackedContainer, TrackedNode
from minerwatch.config.schema import Examination
from minerwatch.fair_queue import interleaved
from minerwatch.model import ContainerKey, CpuLimit
from minerwatch.probes.base import Suspect

_EARLY_CPU_S = 3.0
"""After this CPU time, or a tenth of a look's if that is less, cheap probes look already."""
_MAX_LOOKS_PER_TICK = 8
"""Of one container."""
_KEPT_S = 600.0
"""A process remains a suspect for so long after its last look."""
_TICKS_PER_CHECK = 6
"""Ticks in which a container ran, between two checks of its limit."""
_HELD_BACK_SHARE = 0.5
"""Of its periods throttled, or of the time waiting for a CPU."""
_AT_LIMIT_SHARE = 0.9


class Limits(Protocol):
    """A source of what holds a container back."""

    def limit(self, key: ContainerKey) -> CpuLimit | None:
        """Return the tightest CPU limit on a container; None if it is gone."""

    def waited_s(self, key: ContainerKey) -> float | None:
        """Return how long some thread of a container has waited for a CPU; None: not known."""


class Looks:
    """Counts CPU time towards looks, and chooses suspects."""

    def __init__(
        self, node: TrackedNode, limits: Limits, examination: Examination, max_suspects: int
    ) -> None:
        self._node = node
        self._limits = limits
        self._cpu_per_look_s = examination.cpu_per_look
        self._early_cpu_s = min(_EARLY_CPU_S, examination.cpu_per_look / 10)
        self._max_suspects = max_suspects

    def earn(self, used_s: Mapping[ContainerKey, float], elapsed_s: float, at_s: float) -> None:
        """Count the CPU time that containers used since the last tick, ``elapsed_s`` ago."""
        for key, cpu_s in used_s.items():
            if cpu_s <= 0:
                continue
            account = self._node.containers[key].looks
            if cpu_s < elapsed_s:  # one that used more gains nothing by being held back
                account.ticks_since_check += 1
                if account.ticks_since_check >= _TICKS_PER_CHECK:
                    self._check(key, account, cpu_s / elapsed_s, at_s)
                if account.is_held_back:
                    cpu_s = elapsed_s
            account.cpu_s += cpu_s

    def earn_gpu(self, used_s: Mapping[ContainerKey, float]) -> None:
        """Count the GPU time that containers used since the last tick: it earns looks, too."""
        for key, gpu_s in used_s.items():
            if (container := self._node.containers.get(key)) is not None:
                container.looks.cpu_s += gpu_s

    def wants(self, container: TrackedContainer, at_s: float) -> bool:
        """Return True if its processes are to be measured: for a look, or while it is kept."""
        account = container.looks
        return account.cpu_s >= self._cpu_per_look_s or at_s < account.kept_until_s

    def suspects(self, hot: Iterable[TrackedContainer], at_s: float) -> list[Suspect]:
        """Return processes with a finding or a look: the busiest of each owner in turn."""
        found: list[tuple[float, Suspect]] = []
        for container in hot:
            looked_at = self._buy_looks(container, at_s)
            flagged = {finding.process for finding in container.verdict.findings}
            for process in container.measured_processes():
                identity = process.process.id
                has_finding = bool(process.matches) or identity in flagged
                is_kept = at_s < process.looked_at_s + _KEPT_S
                if has_finding or is_kept:
                    suspect = Suspect(
                        identity,
                        process.process.program,
                        is_for_all_probes=has_finding or process.had_full_look,
                        owner=container.owner,
                        is_due=has_finding or identity.pid in looked_at,
                    )
                    found.append((process.cpu_cores or 0.0, suspect))
        return foremost(found, self._max_suspects)

    def _buy_looks(self, container: TrackedContainer, at_s: float) -> set[int]:
        """Use what the container has earned; return the PIDs that it bought looks at."""
        account = container.looks
        count, is_early = int(account.cpu_s / self._cpu_per_look_s), False
        if count:
            account.cpu_s %= self._cpu_per_look_s
        elif account.cpu_s >= self._early_cpu_s and not account.had_early:
            count, is_early = 1, True
        if not count:
            return set()
        account.had_early = is_early
        ran = (
            each
            for each in container.measured_processes()
            if each.unlooked_s > 0 and not (is_early and each.had_full_look)
        )
        chosen = nlargest(min(count, _MAX_LOOKS_PER_TICK), ran, key=lambda each: each.unlooked_s)
        for process in chosen:
            process.looked_at_s = at_s
            account.kept_until_s = at_s + _KEPT_S
            if not is_early:
                process.count_look()
        return set() if is_early else {each.process.id.pid for each in chosen}

    def _check(self, key: ContainerKey, account: LookAccount, cores: float, at_s: float) -> None:
        account.ticks_since_check = 0
        limit, waited_s = self._limits.limit(key), self._limits.waited_s(key)
        before, account.limit = account.limit, limit
        at_limit = False
        if limit is not None and limit.cores is not None:
            at_limit = cores >= _AT_LIMIT_SHARE * limit.cores
            if before is not None and limit.periods > before.periods:
                throttled = limit.throttled_periods - before.throttled_periods
                at_limit |= throttled >= _HELD_BACK_SHARE * (limit.periods - before.periods)
        before_s, account.waited_s = account.waited_s, waited_s
        elapsed_s, account.checked_at_s = at_s - account.checked_at_s, at_s
        is_waiting = (
            before_s is not None
            and waited_s is not None
            and waited_s - before_s >= _HELD_BACK_SHARE * elapsed_s
        )
        account.is_held_back = at_limit or is_waiting


def foremost(suspects: Iterable[tuple[float, Suspect]], limit: int) -> list[Suspect]:
    """Return ``limit`` suspects, the busiest of each owner in turn; each comes with its rate."""
    ranked = sorted(suspects, key=lambda each: (each[0], each[1].process), reverse=True)
    busiest = (suspect for _, suspect in ranked)
    return list(islice(interleaved(busiest, lambda each: each.owner), limit))
