"""Innocent programs that were sent, read, wrote or mapped every content pattern as data.

An outsider chooses what a server receives, what a file holds that somebody compresses, and what a
scanner looks for. None of these processes mines, and none may reach ``suspicious`` for it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.model import Level, ProcessId, Signal
from minerwatch.node.yara_scan import ContentReader
from tests import shipped
from tests.content.test_yara_rules import MATCH, RULES, apart, matches
from tests.waiting import PATIENCE_S

TARGETS = Path(__file__).parent.parent / "targets"
RULE_FILES = sorted((BUILT_IN_RULES / "content").glob("*.yar"))
RECEIVED_BYTES = 64 << 10  # as holds_data.c keeps

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads others' memory: run it as root")


def patterns() -> bytes:
    """Bytes in which every content rule matches."""
    return apart(*(sample for samples in MATCH.values() for sample in samples))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of nothing but patterns, named like a library."""
    path = tmp_path_factory.mktemp("uploaded") / "libfoo.so"
    path.write_bytes(patterns().ljust(RECEIVED_BYTES))
    assert matches(path.read_bytes()) == set(RULES)
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real library with every pattern among its constants."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("library")
    numbers = ",".join(map(str, patterns() * 16))  # so much that what prints it has to wait
    (folder / "foo.c").write_text(f"const unsigned char constants[] = {{{numbers}}};\n")
    built = folder / "libfoo.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, folder / "foo.c"], check=True)
    return built


@pytest.fixture(scope="module")
def reader() -> Iterator[ContentReader]:
    reader = ContentReader("/proc", RULE_FILES)
    yield reader
    reader.close()


@pytest.fixture
def matcher() -> Matcher:
    return shipped.matcher()


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs; all are killed at the end."""
    processes = []

    def started(*command: object, **options: object) -> subprocess.Popen[bytes]:
        if shutil.which(str(command[0])) is None:
            pytest.skip(f"install {command[0]} to see it spared")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(list(map(str, command)), **(pipes | options))  # type: ignore[call-overload]
        processes.append(process)
        return process  # type: ignore[no-any-return]

    yield started
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def content_of(reader: ContentReader, process: subprocess.Popen[bytes]) -> tuple[str, ...]:
    """Names of the rules that match in a process that runs."""
    assert process.poll() is None
    start_ticks = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    identity = ProcessId(process.pid, start_ticks)
    before = dict(reader.failures)
    reader.ask(identity)
    while not (answers := reader.answers()):
        time.sleep(0.005)
    names = answers[identity]
    assert reader.failures == before
    assert names is not None
    return names


def holds(process: subprocess.Popen[bytes]) -> bool:
    """Return True if some memory of the process, whatever it is, shows a pattern."""
    for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
        addresses, rights = line.split()[:2]
        start, end = (int(number, 16) for number in addresses.split("-"))
        if "r" not in rights or "[v" in line or end - start > 1 << 28:
            continue
        with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(start)
            try:
                piece = memory.read(end - start)
            except OSError:  # unmapped since: the process is still starting
                continue
            if "RandomX_Constants" in matches(piece or b""):
                return True
    return False


def assert_spared(reader: ContentReader, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while not holds(process):
        assert time.monotonic() < deadline_s, "it does not hold the patterns yet"
        time.sleep(0.1)
    assert content_of(reader, process) == ()


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    stdout: IO[bytes] | None = process.stdout
    assert stdout is not None
    line = stdout.readline()
    assert line
    return line


# Servers.


@pytest.mark.parametrize("linked", [[], ["-z", "execstack"]], ids=["usual", "executable stack"])
def test_a_server_in_c(
    reader: ContentReader, start: Start, data: Path, tmp_path: Path, linked: list[str]
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    program = tmp_path / "server"
    source = TARGETS / "holds_data.c"
    subprocess.run(["cc", "-O1", "-pthread", *linked, "-o", program, source], check=True)
    server = start(program, data)
    send(data, int(line_of(server)))
    line_of(server)
    is_executable = "rwxp" in Path(f"/proc/{server.pid}/maps").read_text()
    assert is_executable == bool(linked)
    assert_spared(reader, server)


def send(data: Path, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(data.read_bytes())


PYTHON_SERVER = """
import re, socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    client, _ = server.accept()
    received = b""
    while piece := client.recv(65536):
        received += piece
words, text, pattern = received.split(b" "), received.decode("latin-1"), re.escape(received)
compiled = re.compile(pattern, re.DOTALL)
assert compiled.search(received)
print("kept", flush=True)
input()
"""


def test_a_server_in_python(reader: ContentReader, start: Start, data: Path) -> None:
    server = start(sys.executable, "-c", PYTHON_SERVER)
    send(data, int(line_of(server)))
    line_of(server)
    assert_spared(reader, server)


NODE_SERVER = r"""
const received = [];
const server = require("net").createServer(client => {
  client.on("data", piece => received.push(piece));
  client.on("end", () => {
    const kept = Buffer.concat(received), text = kept.toString("latin1");
    const word = new RegExp(text.slice(0, 9000).replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"), "s");
    let sum = 0;  // often, so that it is compiled
    for (let i = 0; i < 300; i++) {
      sum += word.test(text + i);
      for (const byte of kept) sum += byte ^ i;
    }
    globalThis.kept = [kept, text, word, sum];
    console.log("kept");
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


def test_a_server_in_node_that_compiles_what_it_received(
    reader: ContentReader, start: Start, data: Path
) -> None:
    server = start("node", "-e", NODE_SERVER)
    send(data, int(line_of(server)))
    line_of(server)
    assert_spared(reader, server)


LISP = """
(defvar *data* (with-open-file (s "{data}" :element-type '(unsigned-byte 8))
  (let ((a (make-array (file-length s) :element-type '(unsigned-byte 8))))
    (read-sequence a s) a)))
"""


def test_lisp_and_forth_keep_data_in_executable_memory(
    reader: ContentReader, start: Start, data: Path
) -> None:
    """Run with: apt install sbcl gforth."""
    small = ("--dynamic-space-size", "200MB")  # memory that ``holds`` searches
    lisp = start("sbcl", "--noinform", *small, "--eval", LISP.format(data=data))
    forth = start("gforth", "-e", f's" {data}" slurp-file here over allot swap move key')
    assert_spared(reader, lisp)
    assert_spared(reader, forth)


HEAP_OF_CODE = """
import ctypes, mmap, sys
rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
heap = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE, prot=rights)
for at in range(0, len(heap), 4096):
    heap[at] = 1
with open(sys.argv[1], "rb") as file:
    heap[8192 : 8192 + 65536] = file.read()
print("kept", flush=True)
input()
"""


def test_a_heap_that_is_executable_as_a_whole(
    reader: ContentReader, start: Start, data: Path
) -> None:
    """As Lisp and Forth have it, which are not everywhere."""
    process = start(sys.executable, "-c", HEAP_OF_CODE, data)
    line_of(process)
    assert_spared(reader, process)


# Readers, compressors, scanners.


def test_what_reads_a_file(reader: ContentReader, start: Start, data: Path) -> None:
    cat = start("cat")
    write(cat, data)
    assert_spared(reader, cat)


def write(process: subprocess.Popen[bytes], data: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(data.read_bytes())
    process.stdin.flush()


def test_what_compresses(reader: ContentReader, start: Start, data: Path) -> None:
    xz = start("xz", "-6", "--stdout")
    write(xz, data)
    assert_spared(reader, xz)


def test_what_searches_for_them(reader: ContentReader, start: Start, data: Path) -> None:
    words = ["--text", "--fixed-strings", "--file", data]
    grep = start("grep", *words, "-", env={**os.environ, "LC_ALL": "C"})
    assert_spared(reader, grep)


@pytest.mark.parametrize("command", [["objdump", "--full-contents"], ["od", "-v"]], ids=" ".join)
def test_what_takes_a_library_apart(
    reader: ContentReader, start: Start, library: Path, command: list[str]
) -> None:
    """It waits, since its output is not read."""
    process = start(*command, library)
    time.sleep(1)
    assert content_of(reader, process) == ()


MAPPER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    views = [
        mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
        for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED)
    ]
held = [bytes(view) for view in views]
print("mapped", flush=True)
input()
"""


@pytest.mark.parametrize("uploaded", ["data", "library"])
def test_what_maps_a_file(
    reader: ContentReader, start: Start, uploaded: str, request: pytest.FixtureRequest
) -> None:
    """A data set, an editor's file, a library that somebody uploaded and nobody loads."""
    process = start(sys.executable, "-c", MAPPER, request.getfixturevalue(uploaded))
    line_of(process)
    assert_spared(reader, process)


def test_an_editor_of_the_rules_themselves(reader: ContentReader, start: Start) -> None:
    script = "import sys; held = [open(path).read() for path in sys.argv[1:]]; print(1); input()"
    process = start(sys.executable, "-u", "-c", script, *RULE_FILES)
    line_of(process)
    assert content_of(reader, process) == ()


LISTING = """
import sys
names = ["_Z13ethash_search", "_Z25ethash_calculate_dag_itemj", "mining.subscribe",
         "mining.authorize", "mining.submit", "mining.notify"]
listing = "".join(f"0000000000401136 T {name}\\n.entry {name}(\\n" for name in names) * 1000
table = "\\0".join(["", *names, ""]) * 1000
print("listed", flush=True)
input()
"""


def test_listings_of_nm_and_ptxas(reader: ContentReader, start: Start) -> None:
    process = start(sys.executable, "-c", LISTING)
    line_of(process)
    assert content_of(reader, process) == ()


YARA_X = """
import sys, yara_x
compiler = yara_x.Compiler()
for path in sys.argv[2:]:
    compiler.add_source(open(path).read())
scanner, data = yara_x.Scanner(compiler.build()), open(sys.argv[1], "rb").read()
found = scanner.scan(data)
print(len(found.matching_rules), flush=True)
while True:
    scanner.scan(data)
"""


def test_a_scanner_in_python(reader: ContentReader, start: Start, data: Path) -> None:
    """It looks for these very rules, finds them, and compiles conditions to machine code."""
    process = start(sys.executable, "-c", YARA_X, data, *RULE_FILES)
    assert int(line_of(process)) == len(RULES)
    assert_spared(reader, process)


def test_a_scanner_under_a_name_of_its_own(
    reader: ContentReader, start: Start, tmp_path: Path
) -> None:
    yara = shutil.which("yara")
    if yara is None:
        pytest.skip("needs a scanner: apt install yara")
    program = tmp_path / "a"
    shutil.copy(yara, program)
    os.mkfifo(tmp_path / "never written")
    rules = tmp_path / "rules.yar"
    rules.write_text("\n".join(path.read_text() for path in RULE_FILES))
    process = start(program, rules, tmp_path / "never written")
    time.sleep(1)
    assert content_of(reader, process) == ()


# And what mines is found, whatever it is called.


NAMES_OF_SPARED = ("yara", "falco", "clamd", "monerod", "python3")
"""Programs that are innocent under these names. All of them interpreted, too: by night."""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *(pytest.param([], name, id=f"compiled-{name}") for name in NAMES_OF_SPARED),
        *(
            pytest.param(
                ["nojit"],
                name,
                id=f"interpreted-{name}",
                marks=() if name == "yara" else pytest.mark.nightly,
            )
            for name in NAMES_OF_SPARED
        ),
    ],
)
def test_randomx_is_found_under_any_name(
    reader: ContentReader,
    start: Start,
    matcher: Matcher,
    tmp_path: Path,
    name: str,
    options: list[str],
) -> None:
    pytest.importorskip("cyrx", reason="needs a RandomX binding: pip install cyrx")
    program = tmp_path / name
    shutil.copy(Path(sys.executable).resolve(), program)
    target = TARGETS / "randomx_hashing.py"
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("platlib")}
    process = start(program, target, "1", "120", *options, env=environment)
    assert line_of(process) == b"hashing\n"
    time.sleep(0.5)
    names = content_of(reader, process)
    assert set(names) == {"RandomX_Constants", "RandomX_Code"}
    found = matcher.matches({"ContentMatches": names, "Image": f"/usr/bin/{name}"})
    scores = [match.rule.score for match in found if match.rule.signal is Signal.CONTENT]
    assert Level.of(max(scores)) is Level.SUSPICIOUS


LOADER = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
touched = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, "constants")), 100_000)
print("loaded", flush=True)
input()
"""


def test_constants_of_a_library_that_is_loaded_are_found(
    reader: ContentReader, start: Start, library: Path
) -> None:
    process = start(sys.executable, "-c", textwrap.dedent(LOADER), library)
    line_of(process)
    assert set(content_of(reader, process)) >= set(RULES) - {"Ethash_Kernels"}
