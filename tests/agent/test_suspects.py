from __future__ import annotations

from minerwatch.agent.tick import foremost
from minerwatch.model import ProcessId
from minerwatch.probes.base import Suspect


def suspect(pid: int, owner: str) -> Suspect:
    return Suspect(ProcessId(pid, 1), (0, 0, 0), is_settled=True, owner=owner)


def test_no_pod_crowds_out_another_among_suspects() -> None:
    decoys = [(1.0, suspect(pid, "decoys")) for pid in range(9)]
    busiest = (1.5, suspect(50, "decoys"))
    miner = (0.4, suspect(99, "another"))
    found = foremost([*decoys, busiest, miner], 4)
    assert [each.process.pid for each in found] == [50, 99, 8, 7]
