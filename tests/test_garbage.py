from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from minerwatch.garbage import collector_paused


def test_the_collector_is_paused_and_goes_on() -> None:
    with collector_paused():
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_paused():
        1 / 0  # noqa: B018
    assert gc.isenabled()


def test_nothing_is_collected_at_the_exit() -> None:
    script = (
        "from minerwatch.garbage import skip_collection_at_exit\n"
        "class Ring:\n"
        "    def __del__(self): print('collected')\n"
        "ring = Ring(); ring.itself = ring; del ring\n"
    )
    assert subprocess.check_output([sys.executable, "-c", script]) == b"collected\n"
    script += "skip_collection_at_exit()"
    assert subprocess.check_output([sys.executable, "-c", script]) == b""
