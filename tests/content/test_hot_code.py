"""Real programs are named by what they compute, and not by what they hold, read, send or quote."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.evading import masked
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ProcessId
from minerwatch.node.executed_code import CodeSampler
from minerwatch.node.hot_code import HotCodeFindings, HotCodeReader
from tests.content.test_hot_code_rules import MATCH, TOGETHER
from tests.content.test_yara_rules import MATCH as MATCH_IN_MEMORY
from tests.content.test_yara_rules import apart
from tests.waiting import PATIENCE_S, until

SOURCE = Path(__file__).parent.parent / "targets" / "hot_functions.c"
RULE_FILES = sorted(BUILT_IN_RULES.rglob("*.yar"))
SAMPLES = 48

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def reader() -> Iterator[HotCodeReader]:
    reader = HotCodeReader("/proc", RULE_FILES, idle_s=30.0)
    yield reader
    reader.close()


@pytest.fixture
def sampler() -> Iterator[CodeSampler]:
    try:
        sampler = CodeSampler(hz=397.0)  # often: less CPU time of each target
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    yield sampler
    sampler.close()


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs and waits for their first line; all are killed at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def started(*command: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), f"{command[0]} has ended"
        return process

    yield started
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Seen:
    """Looks at the hot code of a process as the agent does."""

    def __init__(self, sampler: CodeSampler, reader: HotCodeReader) -> None:
        self._sampler = sampler
        self._reader = reader

    def of(self, process: subprocess.Popen[bytes]) -> HotCodeFindings:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        identity = ProcessId(process.pid, int(stat.rpartition(")")[2].split()[19]))
        addresses = self._addresses(process)
        assert self._reader.ask(identity, process.pid, addresses)
        found: dict[ProcessId, HotCodeFindings | None] = {}
        until(lambda: found.update(self._reader.answers()) or identity in found)
        findings = found[identity]
        assert findings is not None
        return findings

    def _addresses(self, process: subprocess.Popen[bytes]) -> Counter[int]:
        addresses: Counter[int] = Counter()
        self._sampler.read()  # from before
        end_s = time.monotonic() + PATIENCE_S
        while addresses.total() < SAMPLES:
            assert process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.05)
            addresses.update(
                each[1] for each in self._sampler.read().samples if each[0] == process.pid
            )
        return addresses


@pytest.fixture
def seen(sampler: CodeSampler, reader: HotCodeReader) -> Seen:
    return Seen(sampler, reader)


def python(start: Start, script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return start(sys.executable, "-uc", textwrap.dedent(script), *arguments)


HASHLIB = """
    import hashlib
    content = bytes(1 << 20)
    print("hashing")
    while True:
        {}
"""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("hashlib.sha256(content).digest()", "SHA256_Rounds"),
        ("hashlib.sha512(content).digest()", "SHA512_Rounds"),
        ("hashlib.sha3_256(content).digest()", "Keccak_Rounds"),
        ("hashlib.blake2b(content).digest()", "BLAKE2b_Rounds"),
        ("hashlib.blake2s(content).digest()", "BLAKE2s_Rounds"),
        ("hashlib.pbkdf2_hmac('sha512', b'a', b'b', 99999)", "SHA512_Rounds"),
        ("hashlib.scrypt(b'a', salt=b'b', n=1 << 14, r=8, p=1)", "Salsa20_Rounds"),
    ],
)
def test_hash_functions_of_python(call: str, expected: str, start: Start, seen: Seen) -> None:
    found = seen.of(python(start, HASHLIB.format(call)))
    assert found.names == (expected,)
    assert found.fingerprints
    assert found.foreign == ()


@pytest.mark.parametrize("call", ["hashlib.md5(content)", "hashlib.sha1(content)"])
def test_functions_without_a_rule(call: str, start: Start, seen: Seen) -> None:
    assert seen.of(python(start, HASHLIB.format(call))).names == ()


CRYPT = """
    import ctypes
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_gensalt.restype = ctypes.c_char_p
    salt = library.crypt_gensalt({!r}, 0, None, 0)
    print("hashing")
    while True:
        library.crypt(b"a password", salt)
"""


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (b"$y$", {"Yescrypt_Mixing", "Salsa20_Rounds"}),
        (b"$7$", {"Salsa20_Rounds"}),
        (b"$6$", {"SHA512_Rounds"}),
    ],
)
def test_hashes_of_passwords(method: bytes, expected: set[str], start: Start, seen: Seen) -> None:
    try:
        process = python(start, CRYPT.format(method))
    except AssertionError:
        pytest.skip("needs libxcrypt: apt install libcrypt1")
    names = set(seen.of(process).names)
    # yescrypt spends little in the rounds of Salsa20; it and scrypt begin and end with PBKDF2.
    assert max(expected, key=len) in names or names == expected
    assert names <= expected | ({"SHA256_Rounds"} if method != b"$6$" else set())


def test_argon2(start: Start, seen: Seen) -> None:
    if importlib.util.find_spec("argon2") is None:
        pytest.skip("needs argon2: pip install argon2-cffi")
    script = """
        from argon2.low_level import Type, hash_secret_raw
        print("hashing")
        while True:
            hash_secret_raw(b"a" * 16, b"b" * 16, 3, 65536, 1, 32, Type.ID)
    """
    assert seen.of(python(start, script)).names == ("Argon2_Rounds",)


def test_blake3(start: Start, seen: Seen) -> None:
    if importlib.util.find_spec("blake3") is None:
        pytest.skip("needs BLAKE3: pip install blake3")
    script = "import blake3\nprint(1)\nwhile True: blake3.blake3(bytes(1 << 16)).digest()"
    assert seen.of(python(start, script)).names == ("BLAKE2s_Rounds",)


BUILDS = {
    "gcc": ("gcc", "-O2"),
    "gcc, static": ("gcc", "-O2", "-static"),
    "gcc, all of the processor": ("gcc", "-O3", "-march=native"),
    "clang": ("clang", "-O3"),
}


def built(folder: Path, *command: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}: install it")
    path = folder / "hot"
    subprocess.run([*command, "-o", path, SOURCE], check=True)
    return path


@pytest.mark.parametrize(
    "build",
    ["gcc", *(pytest.param(each, marks=pytest.mark.nightly) for each in BUILDS if each != "gcc")],
)
def test_functions_in_c(build: str, start: Start, seen: Seen, tmp_path: Path) -> None:
    program = built(tmp_path, *BUILDS[build])
    expected = {
        "keccak": {"Keccak_Rounds"},
        "ethash": {"Ethash_Items", "Keccak_Rounds"},
        "chacha": {"ChaCha_Rounds"},
        "chain": {"Coin_Hash", "Hash_Chain"},
    }
    if platform.machine() == "x86_64":
        expected |= {"cryptonight": {"CryptoNight_Loop"}, "yespower": {"Yespower_Mixing"}}
    for name, names in expected.items():
        process = start(program, name)
        assert set(seen.of(process).names) == names, name
        process.kill()


def test_x11_is_a_chain_at_each_look(start: Start, seen: Seen) -> None:
    """It lies in 40 pages, and a look reads 16."""
    if importlib.util.find_spec("dash_hash") is None:
        pytest.skip("needs X11 as a plain function: pip install dash-hash")
    script = "import dash_hash\nprint(1)\nwhile True: dash_hash.getPoWHash(bytes(80))"
    process = python(start, script)
    assert all("Hash_Chain" in seen.of(process).names for _ in range(3))


def test_randomx(start: Start, seen: Seen) -> None:
    if importlib.util.find_spec("cyrx") is None:
        pytest.skip("needs a RandomX binding: pip install cyrx")
    target = SOURCE.with_name("randomx_hashing.py")
    compiled = start(sys.executable, target, 1, 3600)

    def is_named() -> bool:  # not each program that it generates sets the rounding mode
        found = seen.of(compiled)
        assert found.fingerprints == ()
        assert "RandomX_Items" not in found.names
        return "RandomX_Code" in found.names

    until(is_named)
    interpreted = seen.of(start(sys.executable, target, 1, 3600, "nojit"))
    assert {"RandomX_Constants", "RandomX_Items"} & set(interpreted.names)


def test_randomx_without_generated_code_and_with_other_constants(
    start: Start, seen: Seen, tmp_path: Path
) -> None:
    binding = importlib.util.find_spec("cyrx._cyrx") if importlib.util.find_spec("cyrx") else None
    if binding is None or binding.origin is None:
        pytest.skip("needs a RandomX binding: pip install cyrx")
    (library := tmp_path / "other.so").write_bytes(masked(Path(binding.origin).read_bytes()))
    target = SOURCE.with_name("randomx_hashing.py")
    uses = ("env", f"RANDOMX_LIBRARY={library}")
    names = set(seen.of(start(*uses, sys.executable, target, 1, 3600, "nojit")).names)
    assert "RandomX_Interpreter" in names
    assert names.isdisjoint(("RandomX_Code", "RandomX_Constants", "RandomX_Items"))


def test_a_file_in_memory_has_a_foreign_fingerprint(
    start: Start, seen: Seen, tmp_path: Path
) -> None:
    program = built(tmp_path, *BUILDS["gcc"])
    places = [program, Path(f"/dev/shm/minerwatch-test-{os.getpid()}")]
    shutil.copy(program, places[1])
    try:
        found = [seen.of(start(place, "chacha")) for place in places]
    finally:
        places[1].unlink()
    assert found[0].fingerprints == found[1].fingerprints != ()
    assert found[1].foreign == found[1].fingerprints


# Programs that hold the same constants, and compute something else.


def patterns() -> bytes:
    """Bytes and words in which every rule matches."""
    samples = [*MATCH.values(), *MATCH_IN_MEMORY.values(), tuple(TOGETHER)]
    return apart(*(sample for each in samples for sample in each))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "libfoo.so"
    path.write_bytes(patterns() * 4)
    return path


HOLDS = {
    "in memory": "kept = open(path, 'rb').read()",
    "in a file that is mapped": """
        import mmap
        file = open(path, 'rb')
        kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        sum(kept[::4096])""",
    "as source and listings": """
        kept = open(path, 'rb').read().hex(' ')
        kept += ' '.join(f'0000 r SHA256_Rounds rol32.{n};' for n in range(32))""",
    "from a socket": """
        import socket
        one, other = socket.socketpair()
        content = open(path, 'rb').read()
        kept = b''
        while len(kept) < len(content):
            one.send(content[len(kept) : len(kept) + 4096])
            kept += other.recv(65536)""",
}
COMPUTES = {
    "a checksum": "zlib.crc32(content)",
    "numbers": "sum(n * n ^ n >> 3 for n in range(10000))",
    "MD5": "hashlib.md5(content)",
    "a compressor": "zlib.compress(kept if isinstance(kept, bytes) else kept[:].encode())",
}
_NO_BYTES = {("a compressor", how) for how in HOLDS if "mapped" in how}


@pytest.mark.parametrize(
    ("what", "how"),
    [(what, how) for what in COMPUTES for how in HOLDS if (what, how) not in _NO_BYTES],
)
def test_data_is_no_evidence(how: str, what: str, data: Path, start: Start, seen: Seen) -> None:
    lines = ["import hashlib, sys, zlib", "path = sys.argv[1]"]
    lines += textwrap.dedent(HOLDS[how]).strip().splitlines()
    lines += ["content = bytes(1 << 20)", "print('holds it')", f"while True: {COMPUTES[what]}"]
    assert seen.of(python(start, "\n".join(lines), data)).names == ()


def test_constants_beside_code_that_does_not_use_them(
    start: Start, seen: Seen, tmp_path: Path
) -> None:
    """Even where its code addresses a table of them, words say what it does with it."""
    path = built(tmp_path, "gcc", "-O2", f"-DCONSTANTS={','.join(map(str, patterns()))}")
    assert len(path.read_bytes()) > len(patterns())
    process = start(path, "random")
    assert seen.of(process).names == ()


@pytest.mark.parametrize("words", [("openssl", "speed", "-seconds", "99", "md5"), ("xz", "-9e")])
def test_ordinary_programs(words: tuple[str, ...], seen: Seen) -> None:
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}: install it")
    with (
        Path("/dev/urandom").open("rb") as source,
        subprocess.Popen(
            words, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process,
    ):
        try:
            assert seen.of(process).names == ()
        finally:
            process.kill()


def test_a_server_that_was_sent_all_of_it(seen: Seen) -> None:
    script = """
        import socket, sys
        server = socket.create_server(("127.0.0.1", 0))
        print(server.getsockname()[1])
        connection, _ = server.accept()
        received = bytearray()
        while len(received) < 1 << 16:
            received += connection.recv(65536)
        while True:
            bytes(received).translate(None, b"x").count(b"rol")
    """
    process = subprocess.Popen(
        [sys.executable, "-uc", textwrap.dedent(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(patterns()[: 1 << 16].ljust(1 << 16))
            assert seen.of(process).names == ()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
