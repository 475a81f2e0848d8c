"""Programs that compute for ever, local ones only: hash functions, RandomX, and ordinary work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks import ordinary

TARGETS = Path(__file__).parents[1] / "tests" / "targets"


@dataclass(frozen=True, slots=True)
class Computing:
    """One program. ``kind``: randomx, hash, login, benchmark, stream, server, ordinary."""

    kind: str
    name: str
    command: tuple[str, ...]
    output: Path | None = None
    """A file for its output."""


_CRYPT = """
import ctypes
crypt = ctypes.CDLL("libcrypt.so.1")
crypt.crypt.restype = crypt.crypt_gensalt.restype = ctypes.c_char_p
salt = crypt.crypt_gensalt(b"{0}", ctypes.c_ulong(5), None, 0)
while True: crypt.crypt(b"x", salt)
"""
_ARGON2 = """
from argon2.low_level import Type, hash_secret_raw
while True: hash_secret_raw(b"xxxxxxxx", b"yyyyyyyy", {1}, 65536, 1, 32, Type.{0})
"""
_HASHLIB = "import hashlib\nblock = bytes(1 << 20)\nwhile True: hashlib.new('{0}', block)"
_NUMPY = "import numpy as n\n{0}"

_PYTHON: dict[tuple[str, str], tuple[str, str]] = {
    # kind, name -> module that it needs, source
    **{
        ("hash", f"scrypt N={n} r={r}"): (
            "hashlib",
            f"import hashlib\nwhile True: hashlib.scrypt(b'x', salt=b'y', n={n}, r={r}, p=1,"
            " maxmem=1 << 28)",
        )
        for n, r in ((1024, 1), (16384, 8))
    },
    **{
        ("hash", f"Argon2{kind.lower()}"): ("argon2", _ARGON2.format(kind, 3))
        for kind in ("D", "I", "ID")
    },
    ("hash", "Argon2d, one pass"): ("argon2", _ARGON2.format("D", 1)),
    **{
        ("hash", f"{name}, blocks of 1 MiB"): ("hashlib", _HASHLIB.format(name))
        for name in (
            *("sha256", "sha512", "sha3_256", "blake2b", "blake2s", "md5", "sha1", "shake_256"),
            "ripemd160",
        )
    },
    **{
        ("hash", f"crypt {name}"): ("ctypes", _CRYPT.format(prefix))
        for name, prefix in {"yescrypt": "$y$", "gost-yescrypt": "$gy$", "SHA-512": "$6$"}.items()
    },
    **{
        ("hash", name): (
            module,
            f"import {module} as m\nwhile True: m.getPoWHash(bytes(80))",
        )
        for name, module in {"X11": "dash_hash", "yespower": "bitweb_yespower"}.items()
    },
    **{  # neoscrypt-python, lyra2re2-hash: what they have for Python fails since 3.10
        ("hash", name): (
            module,
            f"import ctypes, {module} as m\nhashed = ctypes.CDLL(m.__file__).{module}\n"
            "out = ctypes.create_string_buffer(32)\nwhile True: hashed(bytes(80), out, 0)",
        )
        for name, module in {"NeoScrypt": "neoscrypt", "Lyra2REv2": "lyra2re2_hash"}.items()
    },
    ("login", "crypt bcrypt"): ("ctypes", _CRYPT.format("$2b$")),
    ("login", "bcrypt"): (
        "bcrypt",
        "import bcrypt\nwhile True: bcrypt.hashpw(b'x', bcrypt.gensalt(10))",
    ),
    ("login", "PBKDF2"): (
        "hashlib",
        "import hashlib\nwhile True: hashlib.pbkdf2_hmac('sha256', b'x', b'y', 200000)",
    ),
    ("hash", "SHA-256d from Python, one at a time"): (
        "hashlib",
        "import hashlib\nnumber = 0\nwhile True:\n    number += 1\n"
        "    hashlib.sha256(hashlib.sha256(b'%080d' % number).digest()).digest()",
    ),
    **{
        ("ordinary", f"numpy {name}"): ("numpy", _NUMPY.format(source))
        for name, source in {
            "matrix product": "a = n.random.rand(900, 900)\nwhile True: a @ a",
            "FFT": "a = n.random.rand(1 << 20)\nwhile True: n.fft.fft(a)",
            "sort": "while True: n.sort(n.random.randint(0, 1 << 60, 1 << 20))",
            "Philox": "g = n.random.Generator(n.random.Philox())\nwhile True: g.integers(0, 1 << 60, 1 << 20)",
            "PCG64": "g = n.random.default_rng(1)\nwhile True: g.integers(0, 1 << 60, 1 << 20)",
            "normal": "g = n.random.default_rng(1)\nwhile True: g.normal(size=1 << 20)",
            "integers": "a = n.arange(1 << 20)\nwhile True: a = a * 3 ^ (a >> 7)",
            "inverse": "a = n.random.rand(600, 600)\nwhile True: n.linalg.inv(a)",
        }.items()
    },
    **{
        ("ordinary", f"Python {name}"): ("json", source)
        for name, source in {
            "loop": "x = 0\nwhile True: x = (x * 31 + 7) % 1000003",
            "JSON": "import json\nd = [{'a': i, 'b': 'x' * 9} for i in range(1000)]\nwhile True: json.loads(json.dumps(d))",
            "re": "import re\ns = 'abc def ' * 10000\nwhile True: re.findall(r'\\w+', s)",
            "zlib": "import os, zlib\nb = os.urandom(1000) * 500\nwhile True: zlib.compress(b, 6)",
            "large integers": "x = 7 ** 20000\nwhile True: x * x % 10 ** 9000",
            "SQLite": "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t(a, b)')\n"
            "c.executemany('insert into t values(?, ?)', ((i, str(i)) for i in range(50000)))\n"
            "while True: c.execute('select count(*) from t where b like \"%77%\" group by a % 100').fetchall()",
        }.items()
    },
    ("ordinary", "numba Monte Carlo"): (
        "numba",
        """
import numba, numpy as n
@numba.njit
def total(count, a, b):
    s = 0.0
    for _ in range(count):
        r = a + b
        b ^= a
        a = (a << n.uint64(24) | a >> n.uint64(40)) ^ b ^ (b << n.uint64(16))
        b = b << n.uint64(37) | b >> n.uint64(27)
        x = (r >> n.uint64(11)) * (1.0 / 9007199254740992.0)
        s += x * x
    return s
while True: total(100000000, n.uint64(1), n.uint64(2))
""",
    ),
    ("benchmark", "zlib.crc32 in memory"): (
        "zlib",
        "import zlib\nb = bytes(1 << 22)\nwhile True: zlib.crc32(b)",
    ),
}

_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_SHELL: dict[tuple[str, str], tuple[str, str]] = {
    # kind, name -> program that it needs, script
    ("stream", "sha256sum"): ("sha256sum", f"while :; do sha256sum {_LIBRARIES}/*.so*; done"),
    ("stream", "b2sum"): ("b2sum", f"while :; do b2sum {_LIBRARIES}/*.so*; done"),
    ("stream", "openssl enc -chacha20"): (
        "openssl",
        f"while :; do cat {_LIBRARIES}/*.so | openssl enc -chacha20 -K 00 -iv 00; done",
    ),
    **{
        ("benchmark", f"openssl speed {name}"): (
            "openssl",
            f"while :; do openssl speed -seconds 5 {option}{name}; done",
        )
        for name, option in {
            **dict.fromkeys(("sha256", "sha512", "rsa2048", "ecdsap256", "ed25519"), ""),
            **dict.fromkeys(("aes-256-gcm", "chacha20-poly1305"), "-evp "),
        }.items()
    },
    ("ordinary", "openssl dhparam"): ("openssl", "while :; do openssl dhparam 2048; done"),
    **{
        ("ordinary", name): (name, f"while :; do tar c {_LIBRARIES} | {name} {option}; done")
        for name, option in {"xz": "-6", "gzip": "-9", "zstd": "-19", "bzip2": ""}.items()
    },
    ("ordinary", "grep -r"): ("grep", "while :; do grep -r mining /usr/share; done"),
    ("ordinary", "awk"): (
        "awk",
        "awk 'BEGIN { while (1) { x = x * 1.0001 + 1; a[int(x) % 1000] += x } }'",
    ),
    ("ordinary", "gcc -O2"): (
        "gcc",
        "d=$(mktemp -d); cd $d; for i in $(seq 2000); do"
        ' echo "int f$i(int *a, int b) { for (int i = 0; i < b; i++) a[i] = a[i] * $i + (a[i] >> 3) ^ b; return a[b / 2]; }";'
        " done > a.c; while :; do gcc -O2 -c a.c -o /dev/null; done",
    ),
    ("ordinary", "stockfish"): (
        "/usr/games/stockfish",
        "(echo setoption name Threads value 1; echo go infinite; sleep 900) | /usr/games/stockfish",
    ),
    **{
        ("ordinary", f"ffmpeg {codec}"): (
            "ffmpeg",
            f"while :; do ffmpeg -f lavfi -i testsrc=size=1280x720:rate=30 -t 20 -c:v {codec} -f null -; done",
        )
        for codec in ("libx264", "libx265", "libvpx-vp9")
    },
    ("ordinary", "octave FFT"): (
        "octave-cli",
        "octave-cli --eval 'while 1; fft(rand(1, 1e6)); end'",
    ),
    ("ordinary", "R solve"): ("R", "R --vanilla -e 'repeat solve(matrix(runif(250000), 500))'"),
    ("ordinary", "gp factor"): ("gp", "echo 'while(1, factor(random(10^45)))' | gp -q"),
    ("ordinary", "ecm"): ("ecm", "while :; do echo 2^409-1 | ecm -c 50 50000; done"),
    **{
        ("ordinary", f"luajit {name}"): ("luajit", f"luajit -e '{source}'")
        for name, source in {
            "floats": "local x = 1.5 while true do for i = 1, 1e7 do x = x * 1.0000001 + i % 3 end end",
            "integers": 'local b = require("bit") local x = 1 while true do for i = 1, 1e7 do'
            " x = b.bxor(x, b.lshift(x, 13)) x = b.bxor(x, b.rshift(x, 17)) x = b.bxor(x, b.lshift(x, 5)) end end",
        }.items()
    },
    **{
        ("ordinary", f"node {name}"): ("node", f"node -e '{source}'")
        for name, source in {
            "integers": "let x = 1; for (;;) for (let i = 0; i < 1e7; i++) { x ^= x << 13; x ^= x >>> 17; x ^= x << 5 }",
            "floats": "let x = 1.5; for (;;) for (let i = 0; i < 1e7; i++) x = Math.sin(x) + Math.sqrt(x * x + 1)",
            "JSON": 'const d = Array.from({length: 1000}, (_, i) => ({a: i, b: "x" + i})); for (;;) JSON.parse(JSON.stringify(d))',
        }.items()
    },
    ("hash", "node scrypt"): (
        "node",
        'node -e \'const c = require("crypto"); for (;;) c.scryptSync("x", "y", 32)\'',
    ),
}


_FOLDER = "d=$(mktemp -d) && cd $d && trap 'rm -rf $d' EXIT; "
_PROBLEM = """(declare-const x (_ BitVec 40)) (declare-const y (_ BitVec 40))
(assert (= (bvmul x y) #x4d2f8a91c3)) (assert (bvugt x #x0000010000)) (assert (bvugt y #x0000010000))
(assert (bvult x #x0010000000)) (assert (bvult y #x0010000000)) (check-sat)"""
_PIGEONS = """BEGIN { n = 11; print "p cnf", n * (n - 1), n + (n - 1) * n * (n - 1) / 2
for (i = 0; i < n; i++) { for (j = 1; j < n; j++) printf "%d ", i * (n - 1) + j; print 0 }
for (j = 1; j < n; j++) for (i = 0; i < n; i++) for (k = 0; k < i; k++)
print -(i * (n - 1) + j), -(k * (n - 1) + j), 0 }"""
_BASES = """BEGIN { srand(1); for (i = 0; i < 20000; i++) { print ">" i; s = ""
for (k = 0; k < 100; k++) s = s substr("ACGT", int(rand() * 4) + 1, 1); print s } }"""
_WATER = """#include "oplsaa.ff/forcefield.itp"
#include "oplsaa.ff/spce.itp"
[ system ]
water
[ molecules ]"""
_NGINX = """daemon off; worker_processes 1; pid pid; error_log stderr; events { }
http { access_log off; server { listen 127.0.0.1:18443 ssl; ssl_certificate c; ssl_certificate_key k; } }"""
_JAVA = """import java.util.*; public class A { public static void main(String[] a) { while (true) {
Map<Integer, String> m = new HashMap<>(); for (int i = 0; i < 500000; i++) m.put(i * 31, "x" + i);
List<String> l = new ArrayList<>(m.values()); Collections.sort(l); } } }"""
_JAVA_NOISE = """public class A { static void add(double[] o, int seed) { for (int k = 0; k < o.length; k++) {
int h = k * 374761393 + seed; h = (h ^ (h >>> 13)) * 1274126177; o[k] += (h ^ (h >>> 16)) * 4.6e-10; } }
public static void main(String[] a) { double[] o = new double[4096]; for (int s = 0;; s++) add(o, s); } }"""

_SHELL |= {
    ("stream", "b3sum of a mapped file"): (
        "b3sum",
        f"{_FOLDER} truncate -s 500M file; while :; do b3sum --num-threads 1 file; done",
    ),
    ("stream", "git hash-object"): (
        "git",
        f"{_FOLDER} truncate -s 200M file; while :; do git hash-object file; done",
    ),
    ("server", "redis under load"): (
        "redis-benchmark",
        f"{_FOLDER} redis-server --port 0 --unixsocket $d/s --save '' & sleep 3;"
        " redis-benchmark -s s -l",
    ),
    ("server", "nginx TLS under load"): (
        "nginx",
        f"{_FOLDER} openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -subj /CN=x;"
        f" echo '{_NGINX}' > conf; nginx -p . -c conf & sleep 3;"
        " while :; do openssl s_time -connect 127.0.0.1:18443 -new -time 30; done",
    ),
    ("ordinary", "z3"): ("z3", f"{_FOLDER} echo '{_PROBLEM}' > a; while :; do z3 a; done"),
    ("ordinary", "minisat"): (
        "minisat",
        f"{_FOLDER} awk '{_PIGEONS}' > a; while :; do minisat a; done",
    ),
    ("ordinary", "minimap2"): (
        "minimap2",
        f"{_FOLDER} awk '{_BASES}' > a; while :; do minimap2 -t 1 -x ava-ont a a; done",
    ),
    ("ordinary", "gromacs"): (
        "gmx",
        f"{_FOLDER} echo '{_WATER}' > topol.top; printf 'integrator = md\\nnsteps = -1\\n' > a.mdp;"
        " gmx solvate -cs -box 3 3 3 -o a.gro -p topol.top;"
        " gmx grompp -f a.mdp -c a.gro -maxwarn 9 -o a.tpr; gmx mdrun -s a.tpr -nt 1",
    ),
    **{
        ("ordinary", f"java {name}"): ("javac", f"{_FOLDER} echo '{code}' > A.java; java A.java")
        for name, code in {"collections": _JAVA, "noise, as of landscapes": _JAVA_NOISE}.items()
    },
}


def computing() -> tuple[list[Computing], list[str]]:
    """Return the programs that can run here, and the names of those that cannot."""
    found, missing = [], []
    for (kind, name), (module, source) in (_PYTHON | ordinary.PYTHON).items():
        if find_spec(module) is None:
            missing.append(name)
        else:
            found.append(Computing(kind, name, (sys.executable, "-c", source)))
    for (kind, name), (program, script) in (_SHELL | ordinary.SHELL).items():
        if shutil.which(program) is None:
            missing.append(name)
        else:
            found.append(Computing(kind, name, ("sh", "-c", script)))
    if find_spec("cyrx") is None:
        missing.append("RandomX")
    else:
        found += _randomx()
    return found, missing


def _randomx() -> Iterator[Computing]:
    hashing, evading = str(TARGETS / "randomx_hashing.py"), str(TARGETS / "randomx_evading.py")
    for name, options in {
        "RandomX, 1 thread": (hashing, "1", "1e9"),
        "RandomX, 2 threads": (hashing, "2", "1e9"),
        "RandomX without JIT": (hashing, "1", "1e9", "nojit"),
        "RandomX in workers of 3 s": (evading, "workers", "1e9"),
        "RandomX in bursts of 5 processes": (evading, "bursts", "1e9"),
        "RandomX with resets before each sleep": (evading, "reset", "1e9"),
    }.items():
        yield Computing("randomx", name, (sys.executable, *options))


def start(program: Computing) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own."""
    with (program.output or Path(os.devnull)).open("wb") as output:
        return subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
