"""Looks at hot code by a real child, and children that hang or lie."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import GuardedProgram
from minerwatch.node.hot_code import HotCodeFindings, HotCodeReader
from minerwatch.node.proc_files import ProcessFiles
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads others' memory: run it as root")

MARK = bytes(range(100, 132))
RULE = f"rule Marked {{ strings: $a = {{ {MARK.hex(' ')} }} condition: $a }}"
MIXING = bytes.fromhex("8d0c37c1c10731cb" * 16)


def me() -> ProcessId:
    found = ProcessFiles("/proc", {}).stat(os.getpid())
    assert found is not None
    return found[0].id


@pytest.fixture
def code() -> Iterator[int]:
    """The address of code of this process that has a mark."""
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(MIXING + MARK)
    view = ctypes.c_char.from_buffer(memory)
    yield ctypes.addressof(view)
    del view
    memory.close()


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "a.hot.yar"
    path.write_text(RULE)
    return path


def findings(reader: HotCodeReader, process: ProcessId) -> HotCodeFindings | None:
    found: dict[ProcessId, HotCodeFindings | None] = {}
    until(lambda: found.update(reader.answers()) or process in found)
    return found[process]


def test_a_process_is_named_by_its_hot_code(code: int, rules: Path) -> None:
    reader = HotCodeReader("/proc", [rules], idle_s=0.2)
    try:
        assert reader.ask(me(), "me", {code: 20, code + 3: 5, 64: 1})
        assert findings(reader, me()) == HotCodeFindings(("Marked",))
        rules.write_text(RULE.replace("Marked", "Renamed"))
        reader.use([rules])
        assert reader.ask(me(), "me", {code: 20})
        assert findings(reader, me()) == HotCodeFindings(("Renamed",))
        assert set(reader.failures.values()) == {0}
    finally:
        reader.close()


def test_a_process_that_has_exited(code: int, rules: Path) -> None:
    reader = HotCodeReader("/proc", [rules])
    try:
        for process in (ProcessId(1 << 22, 1), ProcessId(os.getpid(), 1)):
            assert reader.ask(process, "me", {code: 20})
            assert findings(reader, process) is None
        assert set(reader.failures.values()) == {0}
    finally:
        reader.close()


def lying(folder: Path, answer: str) -> GuardedProgram:
    script = folder / "lies.py"
    script.write_text(
        "import os, sys\nos.write(1, b'{\"broken\": []}\\n')\nsys.stdin.buffer.readline()\n"
        f"for _ in sys.stdin.buffer: os.write(1, {answer!r}.encode() + b'\\n')\n"
    )
    return GuardedProgram(script)


@pytest.mark.parametrize(
    "answer", ["nonsense", "[]", "{}", '{"is_there": true, "names": [1]}', '{"is_there": 1}']
)
def test_nonsense_is_no_finding(answer: str, tmp_path: Path) -> None:
    reader = HotCodeReader("/proc", [], program=lying(tmp_path, answer))
    try:
        assert reader.ask(me(), "me", {64: 1})
        assert findings(reader, me()) is None
        assert reader.failures["child"] == 1
    finally:
        reader.close()


def test_what_has_no_form_of_a_name_is_dropped(tmp_path: Path) -> None:
    answer = (
        '{"is_there": true, "names": ["a b", "Good", "\\u001b[1m"], "fingerprints":'
        f' ["{"A" * 32}", "{"0" * 31}", "{"ab" * 16}", "{"<" * 32}"], "foreign": ["x"]}}'
    )
    reader = HotCodeReader("/proc", [], program=lying(tmp_path, answer))
    try:
        assert reader.ask(me(), "me", {64: 1})
        assert findings(reader, me()) == HotCodeFindings(("Good",), ("ab" * 16,))
    finally:
        reader.close()


def test_a_look_that_hangs_costs_its_container_only(tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text("import os, time\nos.write(1, b'{\"broken\": []}\\n')\ntime.sleep(1000)\n")
    reader = HotCodeReader("/proc", [], program=GuardedProgram(script), stall_s=0.2)
    try:
        for _ in range(3):
            assert reader.ask(me(), "me", {64: 1})
            assert findings(reader, me()) is None
        assert reader.failures["timeout"] == 1
        assert sum(reader.failures.values()) == 1
    finally:
        reader.close()


def test_many_questions_of_one_container_are_refused(code: int, rules: Path) -> None:
    reader = HotCodeReader("/proc", [rules])
    try:
        accepted = [reader.ask(ProcessId(n, 1), "loud", {64: 1}) for n in range(1, 100)]
        assert sum(accepted) < 50
        assert reader.ask(me(), "quiet", {code: 20})
        assert findings(reader, me()) == HotCodeFindings(("Marked",))
    finally:
        reader.close()
