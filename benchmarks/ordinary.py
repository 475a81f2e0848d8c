"""More programs that compute for ever: science, solvers, archives, servers, crackers, logins."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

_TARGETS = Path(__file__).parents[1] / "tests" / "targets"
_FOLDER = "d=$(mktemp -d) && cd $d && trap 'rm -rf $d; kill 0' EXIT; "
_FILES = f"{_FOLDER} cp -r /usr/share/perl/5.*.* files; "
_TEXT = f"{_FOLDER} cat /usr/share/perl/5.*.*/*.pm > file; "
_WAVE = f"{_FOLDER} sox -n -r 44100 -c 2 -b 16 a.wav synth 600 pinknoise; "

_LOGIN = """
import hashlib, http.client, http.server, os, socket, socketserver, threading, time
{0}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        password = self.rfile.read(int(self.headers["Content-Length"]))
        database.sendall(b"SELECT hash FROM users WHERE name = $1;")
        database.recv(999)
        checked(password)
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): pass
class Database(socketserver.BaseRequestHandler):
    def handle(self):
        while self.request.recv(999): self.request.sendall(b"hash")
class Server(http.server.ThreadingHTTPServer): daemon_threads = True
tables = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Database)
threading.Thread(target=tables.serve_forever, daemon=True).start()
database = socket.create_connection(tables.server_address)
server = Server(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = http.client.HTTPConnection(*server.server_address)
while True:
    client.request("POST", "/login", b"a password")
    client.getresponse().read()
"""
"""A service whose users log in without a pause, beside a long session with a database."""

_QUIC = """
import asyncio, datetime, ipaddress, tempfile
from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
now = datetime.datetime.now(datetime.timezone.utc)
made = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + datetime.timedelta(9)).sign(key, hashes.SHA256())
server = QuicConfiguration(is_client=False, certificate=made, private_key=key)
async def answer(reader, writer):
    while data := await reader.read(65536): writer.write(data)
async def main():
    await serve("127.0.0.1", 14433, configuration=server, stream_handler=lambda r, w: asyncio.ensure_future(answer(r, w)))
    async with connect("127.0.0.1", 14433, configuration=QuicConfiguration(verify_mode=0)) as client:
        reader, writer = await client.create_stream()
        while True:
            writer.write(bytes(50000))
            await reader.readexactly(50000)
asyncio.run(main())
"""
_WASM = """
from wasmtime import Instance, Module, Store
store = Store()
module = Module(store.engine, '''(module (func (export "run") (param i32) (result {1}) (local {1})
  loop {0}
    local.get 0 i32.const 1 i32.sub local.tee 0 br_if 0 end local.get 1))''')
run = Instance(store, module, []).exports(store)["run"]
while True: run(store, 10000000)
"""
_WASM_INTEGERS = """local.get 1 i64.const 6364136223846793005 i64.mul i64.const 1442695040888963407 i64.add
  local.tee 1 i64.const 13 i64.rotl local.get 1 i64.xor local.set 1"""
_WASM_FLOATS = "local.get 1 f64.const 1.0000001 f64.mul f64.const 0.5 f64.add f64.sqrt local.set 1"

_TORCH = """
import torch as t
t.set_num_threads(1)
{0}
o = t.optim.Adam(m.parameters())
while True:
    o.zero_grad(); t.nn.functional.cross_entropy(m(x), y).backward(); o.step()
"""

PYTHON: dict[tuple[str, str], tuple[str, str]] = {
    # kind, name -> module that it needs, source
    **{
        ("ordinary", f"torch training of {name}"): ("torch", _TORCH.format(model))
        for name, model in {
            "a dense network": "m = t.nn.Sequential(t.nn.Linear(784, 512), t.nn.ReLU(), t.nn.Linear(512, 10))\n"
            "x, y = t.rand(256, 784), t.randint(0, 10, (256,))",
            "a convolution": "m = t.nn.Sequential(t.nn.Conv2d(3, 32, 3), t.nn.ReLU(), t.nn.Flatten(), t.nn.Linear(28800, 10))\n"
            "x, y = t.rand(32, 3, 32, 32), t.randint(0, 10, (32,))",
        }.items()
    },
    ("login", "login service, PBKDF2"): (
        "hashlib",
        _LOGIN.format("checked = lambda p: hashlib.pbkdf2_hmac('sha256', p, b'salt', 100000)"),
    ),
    ("login", "login service, scrypt"): (
        "hashlib",
        _LOGIN.format("checked = lambda p: hashlib.scrypt(p, salt=b'salt', n=16384, r=8, p=1)"),
    ),
    ("login", "login service, Argon2id"): (
        "argon2",
        _LOGIN.format("import argon2\nchecked = argon2.PasswordHasher(parallelism=1).hash"),
    ),
    ("login", "login service, bcrypt"): (
        "bcrypt",
        _LOGIN.format("import bcrypt\nchecked = lambda p: bcrypt.hashpw(p, bcrypt.gensalt(10))"),
    ),
    ("server", "aioquic echo"): ("aioquic", _QUIC),
    ("ordinary", "wasmtime integers"): ("wasmtime", _WASM.format(_WASM_INTEGERS, "i64")),
    ("ordinary", "wasmtime floats"): ("wasmtime", _WASM.format(_WASM_FLOATS, "f64")),
    **{
        ("ordinary", f"scikit-learn {name}"): (
            "sklearn",
            f"import numpy as n\nfrom sklearn import {modules}\n"
            f"x = n.random.rand(20000, 20)\ny = x[:, 0] + x[:, 1] > 1\nwhile True: {work}",
        )
        for name, modules, work in (
            ("random forest", "ensemble", "ensemble.RandomForestClassifier(20).fit(x, y)"),
            (
                "gradient boosting",
                "ensemble",
                "ensemble.HistGradientBoostingClassifier().fit(x, y)",
            ),
            ("k-means", "cluster", "cluster.KMeans(20).fit(x)"),
            ("SVM", "svm", "svm.SVC().fit(x[:3000], y[:3000])"),
        )
    },
    ("ordinary", "scikit-learn hashing of words"): (
        "sklearn",
        "from sklearn.feature_extraction.text import HashingVectorizer\n"
        "t = ['some words of a text %d' % i for i in range(20000)]\nv = HashingVectorizer()\n"
        "while True: v.transform(t)",
    ),
    ("ordinary", "pandas grouping"): (
        "pandas",
        "import numpy as n, pandas as p\nd = p.DataFrame({'a': n.random.randint(0, 9999, 10**6),"
        " 'b': n.random.rand(10**6)})\nwhile True: d.groupby('a').b.agg(['mean', 'std'])",
    ),
    ("ordinary", "pandas hashing of a column"): (
        "pandas",
        "import numpy as n, pandas as p\na = n.arange(10**6)\nwhile True: p.util.hash_array(a)",
    ),
    ("ordinary", "scipy sparse solve"): (
        "scipy",
        "import warnings; warnings.simplefilter('ignore')\nimport scipy.sparse as s, scipy.sparse.linalg as l, numpy as n\n"
        "a = s.diags([1, -4, 1, 1, 1], [0, 1, -1, 99, -99], (20000, 20000), 'csc') + s.eye(20000, format='csc') * 9\n"
        "while True: l.spsolve(a, n.ones(20000))",
    ),
    ("ordinary", "networkx betweenness"): (
        "networkx",
        "import networkx as n\ng = n.gnp_random_graph(300, 0.05)\nwhile True: n.betweenness_centrality(g)",
    ),
    ("ordinary", "sympy integrals"): (
        "sympy",
        "import sympy as s\nx = s.symbols('x')\nwhile True: s.integrate(s.sin(x) ** 5 * s.exp(x), x); s.core.cache.clear_cache()",
    ),
    ("ordinary", "OR-tools CP-SAT"): (
        "ortools",
        "from ortools.sat.python import cp_model as c\nimport random\nwhile True:\n"
        "    m = c.CpModel(); v = [m.NewBoolVar('') for _ in range(300)]\n"
        "    for _ in range(60): m.Add(sum(random.randint(1, 99) * x for x in v) <= 3000)\n"
        "    m.Maximize(sum(random.randint(1, 99) * x for x in v)); s = c.CpSolver()\n"
        "    s.parameters.num_workers = 1; s.parameters.max_time_in_seconds = 20; s.Solve(m)",
    ),
    ("ordinary", "Pillow resizing"): (
        "PIL",
        "from PIL import Image, ImageFilter\ni = Image.effect_noise((1500, 1500), 50)\n"
        "while True: i.resize((900, 900), 1).filter(ImageFilter.GaussianBlur(3))",
    ),
    ("ordinary", "lxml parsing"): (
        "lxml",
        "from lxml import etree\nt = b'<a>' + b'<b c=\"d\">text</b>' * 50000 + b'</a>'\nwhile True: etree.fromstring(t).xpath('count(//b[@c=\"d\"])')",
    ),
    ("ordinary", "datasketch MinHash"): (
        "datasketch",
        "from datasketch import MinHash\nw = [b'%d' % i for i in range(2000)]\nwhile True: MinHash().update_batch(w)",
    ),
    ("ordinary", "numba xorshift to floats"): (
        "numba",
        "import numba, numpy as n\ni = n.int32\n"
        "@numba.njit\ndef fill(s, out):\n    for k in range(s.size):\n        x = i(s[k])\n"
        + 2
        * "        x = i(x ^ i(x << 13)); x = i(x ^ i(x >> 17)); x = i(x ^ i(x << 5))\n"
        + "        s[k] = x\n        out[k] = n.float64(x) * 4.6e-10\n"
        "@numba.njit\ndef run(s, out, times):\n    for _ in range(times): fill(s, out)\n"
        "s, out = n.arange(1, 4097).astype(i), n.zeros(4096)\nwhile True: run(s, out, 10000)",
    ),
    ("benchmark", "xxhash in memory"): (
        "xxhash",
        "import xxhash\nb = bytes(1 << 22)\nwhile True: xxhash.xxh64(b).digest()",
    ),
    ("benchmark", "AES-GCM in memory"): (
        "cryptography",
        "from cryptography.hazmat.primitives.ciphers.aead import AESGCM\n"
        "c, b = AESGCM(bytes(32)), bytes(1 << 20)\nwhile True: c.encrypt(bytes(12), b, None)",
    ),
}
_CGAL = """#include <CGAL/Exact_predicates_{0}_constructions_kernel.h>
#include <CGAL/Delaunay_triangulation_2.h>
#include <CGAL/point_generators_2.h>
#include <vector>
typedef CGAL::Exact_predicates_{0}_constructions_kernel K;
int main() {{ for (;;) {{
  CGAL::Random_points_in_square_2<K::Point_2> g(1.0);
  std::vector<K::Point_2> p; for (int i = 0; i < 20000; i++) p.push_back(CGAL::midpoint(*g++, *g++));
  CGAL::Delaunay_triangulation_2<K> t(p.begin(), p.end());
  if (!t.is_valid()) return 1; }} }}"""
_COMPILED = "(setsid g++ -O2 -w a.cpp -o b -lgmp -lmpfr >/dev/null &) ; until [ -x b ] && ./b; do sleep 1; done"
"""It is not the compiler that is to be seen: that is no child of the shell."""
_TUNNEL = """d=$(mktemp -d) && cd $d && trap 'rm -rf $d; kill 0' EXIT
unshare -n sleep inf & b=$!; sleep 1
ip link add v0 type veth peer name v1 netns $b
ip link set lo up; ip addr add 10.99.0.1/24 dev v0; ip link set v0 up
b="nsenter -n -t $b"; $b ip addr add 10.99.0.2/24 dev v1; $b ip link set v1 up
{0}
sleep 6
$b python3 -c 'import socket; c = socket.create_server(("", 99)).accept()[0]
while c.recv(1 << 18): pass' & sleep 2
python3 -c 'import socket; s = socket.create_connection(("10.98.0.2", 99))
while 1: s.send(bytes(1 << 17))'
"""
"""Between two network namespaces of its own; the ends of the connection compute next to nothing."""
_OPENVPN = """openvpn --genkey secret k
o="openvpn --dev tun --secret k --cipher AES-256-CBC --remote"
$o 10.99.0.2 --ifconfig 10.98.0.1 10.98.0.2 & $b $o 10.99.0.1 --ifconfig 10.98.0.2 10.98.0.1 &"""
_WIREGUARD = """umask 77; wg genkey > k1; wg genkey > k2; export GOMAXPROCS=1
wireguard-go -f wg1 & $b wireguard-go -f wg2 & sleep 2
wg set wg1 listen-port 51820 private-key k1 peer $(wg pubkey < k2) allowed-ips 0.0.0.0/0 endpoint 10.99.0.2:51820
$b wg set wg2 listen-port 51820 private-key k2 peer $(wg pubkey < k1) allowed-ips 0.0.0.0/0
ip addr add 10.98.0.1/24 dev wg1; ip link set wg1 up
$b ip addr add 10.98.0.2/24 dev wg2; $b ip link set wg2 up"""

SHELL: dict[tuple[str, str], tuple[str, str]] = {
    # kind, name -> program that it needs, script
    **{
        ("ordinary", f"CGAL, {name} constructions"): (
            "g++",
            f"{_FOLDER} echo '{_CGAL.format(name)}' > a.cpp; {_COMPILED}",
        )
        for name in ("exact", "inexact")
    },
    ("server", "datagrams by ChaCha20, in C"): (
        "gcc",
        f"{_FOLDER} gcc -O2 {_TARGETS}/datagrams.c -l:libcrypto.so.3 && ./a.out",
    ),
    **{
        ("server", program): (
            program,
            f"exec unshare -n sh -c {quote(_TUNNEL.format(sets_up))}",
        )
        for program, sets_up in {"openvpn": _OPENVPN, "wireguard-go": _WIREGUARD}.items()
    },
    **{
        ("cracker", f"john {form}"): ("john", f"{_FOLDER} john --test=600 --format={form}")
        for form in ("bcrypt", "md5crypt", "descrypt")
    },
    **{
        ("stream", name): (program, f"{_TEXT} while :; do {command}; done")
        for name, program, command in (
            ("brotli", "brotli", "brotli -q 10 -c file"),
            ("lz4 -9", "lz4", "lz4 -9 -c file"),
            ("pigz", "pigz", "pigz -p 1 -9 -c file"),
            ("7z", "7z", "7z a -mmt1 -bso0 x.7z file; rm x.7z"),
            ("gpg symmetric", "gpg", "gpg --homedir . --batch --passphrase x -c -o - file"),
            ("par2", "par2", "par2 create -q -r10 -s4096 file; rm -f *.par2"),
        )
    },
    ("stream", "restic backup"): (
        "restic",
        f"{_FILES} export RESTIC_PASSWORD=x GOMAXPROCS=1; while :; do restic init -q -r r;"
        " restic backup -q --no-cache -r r files; rm -rf r; done",
    ),
    ("stream", "borg create"): (
        "borg",
        f"{_FILES} export BORG_PASSPHRASE=x BORG_BASE_DIR=$d; while :; do"
        " borg init -e repokey r; borg create -C zstd r::a files; rm -rf r .config .cache; done",
    ),
    ("ordinary", "clamscan"): (
        "clamscan",
        f"{_FILES} echo 'A:0:*:6d696e657277617463682d6e6f776865726521' > a.ndb;"
        " while :; do clamscan -d a.ndb -r --quiet files /usr/lib/x86_64-linux-gnu; done",
    ),
    ("ordinary", "bwa mem"): (
        "bwa",
        f'{_FOLDER} awk \'BEGIN {{ srand(1); print ">c"; for (i = 0; i < 300000; i++)'
        ' printf "%s", substr("ACGT", int(rand() * 4) + 1, 1); print "" }\' > a;'
        " bwa index a; awk 'NR == 2 { for (i = 1; i < 290000; i += 13)"
        ' print ">r" i "\\n" substr($0, i, 120) }\' a > b; while :; do bwa mem -t 1 a b; done',
    ),
    ("ordinary", "autodock-vina"): (
        "vina",
        f"{_FOLDER} awk 'BEGIN {{ srand(2); for (i = 1; i <= 900; i++) printf"
        ' "ATOM  %5d  C   ALA A %3d    %8.3f%8.3f%8.3f  1.00  0.00    +0.000 C \\n",'
        " i, i / 9 + 1, rand() * 24, rand() * 24, rand() * 24 }' > r.pdbqt;"
        " (echo ROOT; head -12 r.pdbqt; echo ENDROOT; echo TORSDOF 0) > l.pdbqt;"
        " while :; do vina --receptor r.pdbqt --ligand l.pdbqt --cpu 1 --exhaustiveness 32"
        " --center_x 12 --center_y 12 --center_z 12 --size_x 20 --size_y 20 --size_z 20 --out o; done",
    ),
    **{
        ("ordinary", name): (program, f"{_WAVE} while :; do {command}; done")
        for name, program, command in (
            ("lame", "lame", "lame --quiet -q 0 a.wav - "),
            ("flac", "flac", "flac -s -8 -e -p -c a.wav"),
            ("opusenc", "opusenc", "opusenc --quiet --comp 10 a.wav -"),
        )
    },
    ("ordinary", "GraphicsMagick"): (
        "gm",
        f"{_FOLDER} gm convert -size 1200x1200 plasma: a.png;"
        " while :; do OMP_NUM_THREADS=1 gm convert a.png -blur 0x5 -resize 50% b.jpg; done",
    ),
    ("ordinary", "POV-Ray"): (
        "povray",
        f"{_FOLDER} echo 'camera {{ location <0, 2, -5> look_at 0 }} light_source {{ <9, 9, -9> 1 }}"
        " sphere { 0, 1 pigment { granite } finish { reflection 0.5 } } plane { y, -1 pigment { bozo } }'"
        " > a.pov; while :; do povray a.pov +W1600 +H1200 +A0.01 -D +WT1 +Oa.png; done",
    ),
    ("ordinary", "CaDiCaL"): (
        "cadical",
        f'{_FOLDER} awk \'BEGIN {{ srand(3); n = 250; m = 1070; print "p cnf", n, m;'
        " for (i = 0; i < m; i++) { for (k = 0; k < 3; k++)"
        ' printf "%d ", (rand() < 0.5 ? -1 : 1) * (int(rand() * n) + 1); print 0 } }\' > a;'
        " while :; do cadical -q a; done",
    ),
    ("ordinary", "GLPK"): (
        "glpsol",
        f"{_FOLDER} echo 'param n := 60; set I := 1..n; set J := 1..8; param w{{i in I, j in J}} := Uniform(1, 99);"
        " param c{i in I, j in J} := 111 - w[i,j] + Uniform(-10, 10); var x{i in I, j in J} binary;"
        " minimize z: sum{i in I, j in J} c[i,j] * x[i,j]; s.t. a{i in I}: sum{j in J} x[i,j] = 1;"
        " s.t. b{j in J}: sum{i in I} w[i,j] * x[i,j] <= sum{i in I} w[i,j] / 10; end;'"
        " > a.mod; while :; do glpsol --cuts --math a.mod --tmlim 900; done",
    ),
    **{
        ("ordinary", name): (program, f"{program} {option} '{source}'")
        for name, program, option, source in (
            (
                "PHP loop",
                "php",
                "-r",
                "$x = 1; while (1) { $x = ($x * 31 + 7) % 1000003; $a[$x % 999] = strrev((string) $x); }",
            ),
            (
                "Ruby loop",
                "ruby",
                "-e",
                "a = {}; x = 1; loop { x = (x * 31 + 7) % 1000003; a[x % 999] = x.to_s }",
            ),
            (
                "Perl loop",
                "perl",
                "-e",
                "while (1) { $x = ($x * 31 + 7) % 1000003; $a{$x % 999} .= chr($x % 256); %a = () if $x == 7 }",
            ),
        )
    },
    ("hash", "PHP, MD5 of each number"): (
        "php",
        "php -r 'for ($x = 0;; $x++) $a[$x % 999] = md5($x);'",
    ),
    ("ordinary", "rustc"): (
        "rustc",
        f'{_FOLDER} for i in $(seq 400); do echo "pub fn f$i(a: &[u64]) -> u64 {{'
        ' a.iter().map(|x| x.wrapping_mul($i) ^ 7).sum() }"; done > a.rs;'
        " while :; do rustc -O --crate-type lib -C codegen-units=1 a.rs; done",
    ),
    ("server", "pgbench"): (
        "pgbench",
        f"{_FOLDER} chown postgres $d; b=$(ls -d /usr/lib/postgresql/*/bin);"
        ' s() { setpriv --reuid postgres --regid postgres --clear-groups $b/"$@"; }; s initdb -D $d/p;'
        " s postgres -D $d/p -k $d -h '' & sleep 9; s pgbench -h $d -i postgres;"
        " while :; do s pgbench -h $d -S -T 60 postgres; done",
    ),
    ("benchmark", "gnutls ciphers"): (
        "gnutls-cli",
        "while :; do gnutls-cli --benchmark-ciphers; done",
    ),
}
