"""Loads rule files in a process that exits afterwards.

The agent runs this module and never imports it: pySigma, and the memory that parsing takes, go
with the process. Both sides are this program and the files are the operator's, so they exchange
pickles. Standard input holds the agent's version, then folders, private folders and the earlier
book or None; standard output returns the book as it is now, or the version of this program if it is
another: it was installed while the agent ran, and may have other types.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from contextlib import suppress

from minerwatch import __version__
from minerwatch.detection.sigma import rulebook
from minerwatch.garbage import skip_collection_at_exit
from minerwatch.node import confined

_RELOAD_NICE = 15
"""Nice value (setpriority(2)) when rules are loaded again: under a CPU quota ticks go first."""


def main() -> None:
    """Answer one question."""
    _bound_itself()
    gc.disable()  # what it finds is freed at the exit; looking for it takes an eighth of the time
    skip_collection_at_exit()
    if pickle.load(sys.stdin.buffer) != __version__:  # noqa: S301 - from the agent
        pickle.dump(__version__, sys.stdout.buffer)
        return
    folders, private, previous = pickle.load(sys.stdin.buffer)  # noqa: S301 - as above
    if previous is None:
        book = rulebook.load(folders, private)
    else:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _RELOAD_NICE)
        book = rulebook.reload(previous)
    pickle.dump(rulebook.bare(book), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


def _bound_itself() -> None:
    """Exit with the agent, keep only the right to read files, and be killed first on OOM."""
    confined.follow(int(sys.argv[1]))
    with suppress(OSError):
        confined.keep("DAC_READ_SEARCH")
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


if __name__ == "__main__":
    main()
