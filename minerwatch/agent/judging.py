"""Updates the verdicts of containers, from all that matches in them at this tick."""

from __future__ import annotations

from collections.abc import Iterable

from minerwatch.agent.tracked import TrackedContainer, newly_found, observation_of
from minerwatch.detection.judge import Judge
from minerwatch.model import Change, ContainerKind, Finding


def judge_containers(
    judge: Judge, containers: Iterable[TrackedContainer], at_s: float, *, is_tick: bool
) -> tuple[tuple[Change, ...], tuple[Finding, ...]]:
    """Update verdicts; return those whose level changed, and the findings that are new.

    ``is_tick``: False between two ticks, when a level may rise but not fall.
    """
    changes, began = [], []
    for container in containers:
        key = container.container.key
        sightings = (*container.static_sightings, *container.dynamic_sightings)
        if not sightings and key not in judge:
            continue
        previous = container.verdict
        is_host = container.container.kind is ContainerKind.HOST
        container.verdict = judge.verdict(key, sightings, at_s, apart=is_host, is_tick=is_tick)
        began += newly_found(container)
        if container.verdict.level is not previous.level:
            changes.append((container, previous.level))
    return (
        tuple(Change(observation_of(container, 0), level) for container, level in changes),
        tuple(began),
    )


def newly_matched(
    touched: Iterable[TrackedContainer], known: Iterable[TrackedContainer]
) -> list[TrackedContainer]:
    """Return containers of ``touched`` with a static match that are not in ``known``, once each."""
    known_ids = {id(each) for each in known}
    found = {id(each): each for each in touched if each.static_sightings}
    return [each for each in found.values() if id(each) not in known_ids]
