"""A RandomX target of another user, who keeps its files to itself, connected to this machine.

Usage: hidden_miner.py PORT (as root; it becomes nobody). Hashes, and calls nobody else.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

_PR_SET_DUMPABLE = 4
_NOBODY = 65534


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.targets import randomx_hashing

    randomx_hashing.library()  # nobody may be unable to read it
    held = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # Its files in /proc become nobody's, as they would be if nobody had started it (proc(5)).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    sys.argv[1:] = ["1", "600"]
    randomx_hashing.main()
    held.close()


if __name__ == "__main__":
    main()
