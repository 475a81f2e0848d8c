"""The agent as it is, only that its log says when a tick has ended: what is before what is exact.

python -m tests.soak.counted_ticks -m minerwatch agent ...
"""

from __future__ import annotations

import sys

from minerwatch.agent.daemon import Agent
from minerwatch.cli.main import main
from minerwatch.report.log import logger

TICK_ENDED = "tick ended"


def _count_ticks() -> None:
    tick, log = Agent.tick, logger(as_json=True)

    def counted(agent: Agent) -> None:
        tick(agent)
        log.info(TICK_ENDED)

    Agent.tick = counted  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    _count_ticks()
    sys.argv[1:] = sys.argv[3:]
    main()
