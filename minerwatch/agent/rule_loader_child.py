"""Reads rule files in a process that ends when it is done.

The agent runs this module and never imports it: pySigma, which parses the files, and whatever
parsing leaves behind go with the process. Both sides are this program and the files are the
operator's, so pickles pass between them. Standard input brings folders, private folders and the
book that was read before, or None; standard output answers with the book as it is now.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from contextlib import suppress

from minerwatch.detection.sigma import rulebook
from minerwatch.node import confined

_PATIENT = 15
"""The nice value (setpriority(2)) of a process that reads rules again."""
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def main() -> None:
    """Answers one question."""
    _bound_itself()
    folders, private, previous = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the agent
    if previous is None:
        book = rulebook.load(folders, private)
    else:
        with suppress(OSError):  # under a CPU quota ticks go first; at the start there are none
            os.setpriority(os.PRIO_PROCESS, 0, _PATIENT)
        book = rulebook.reload(previous)
    pickle.dump(rulebook.bare(book), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


def _bound_itself() -> None:
    """It goes when the agent does, may read files only, and goes first where memory runs out."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)  # the agent went before this was asked for
    with suppress(OSError):
        confined.keep("DAC_READ_SEARCH")
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


if __name__ == "__main__":
    main()
