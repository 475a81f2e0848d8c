"""The YARA rules that are shipped, each against bytes that it must and must not match.

Where a specification says how a constant comes about, the samples are computed by it and not
copied from the rule.
"""

from __future__ import annotations

import hashlib
import re
import struct
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
import yara_x

from minerwatch.config.schema import BUILT_IN_RULES

FILES = sorted((BUILT_IN_RULES / "content").glob("*.yar"))


def compiled() -> yara_x.Rules:
    compiler = yara_x.Compiler(includes_enabled=False)
    for path in FILES:
        compiler.new_namespace(path.stem)
        compiler.add_source(path.read_text(encoding="utf-8"))
    return compiler.build()


RULES = {rule.identifier: rule for rule in compiled()}


def matches(content: bytes) -> set[str]:
    return {rule.identifier for rule in yara_x.Scanner(compiled()).scan(content).matching_rules}


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def quads(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def blake2b(text: str, size: int = 64) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


# doc/specs.md of RandomX, 3.2 and 3.4
GENERATOR_KEYS = blake2b("RandomX AesGenerator1R keys")
HASH_STATE = blake2b("RandomX AesHash1R state")
HASH_KEYS = blake2b("RandomX AesHash1R xkeys", 32)

KECCAK_ROTATIONS = [(t + 1) * (t + 2) // 2 % 64 for t in range(24)]
MASK = (1 << 64) - 1


def rotated(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & MASK


def round_constants() -> list[int]:
    register, constants = 1, []
    for _ in range(24):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << ((1 << j) - 1)
            register = (register << 1 ^ (register >> 7) * 0x171) & 0xFF
        constants.append(constant)
    return constants


def keccak_f(state: list[int]) -> list[int]:
    """FIPS 202, 3.3."""
    for constant in round_constants():
        parity = [
            state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20]
            for x in range(5)
        ]
        state = [
            each ^ parity[(at - 1) % 5] ^ rotated(parity[(at + 1) % 5], 1)
            for at, each in enumerate(state)
        ]
        moved = list(state)
        x, y = 1, 0
        held = state[1]
        for by in KECCAK_ROTATIONS:
            x, y = y, (2 * x + 3 * y) % 5
            moved[x + 5 * y], held = rotated(held, by), state[x + 5 * y]
        state = [
            moved[at]
            ^ (~moved[at // 5 * 5 + (at + 1) % 5] & MASK & moved[at // 5 * 5 + (at + 2) % 5])
            for at in range(25)
        ]
        state[0] ^= constant
    return state


def cshake_block(name: bytes) -> bytes:
    """NIST SP 800-185, 3.3: bytepad(encode_string("") || encode_string(name), 136)."""
    return (b"\x01\x88\x01\x00\x01" + bytes([8 * len(name)]) + name).ljust(136, b"\0")


def cshake_state(name: bytes) -> bytes:
    return quads(*keccak_f([*struct.unpack("<17Q", cshake_block(name)), *[0] * 8]))


def test_the_sponge_of_these_tests_is_the_standards() -> None:
    padded = b"abc\x06".ljust(135, b"\0") + b"\x80"
    state = keccak_f([*struct.unpack("<17Q", padded), *[0] * 8])
    assert quads(*state)[:32] == hashlib.sha3_256(b"abc").digest()


def apart(*pieces: bytes) -> bytes:
    return bytes(100).join((b"", *pieces, b""))


CFROUND = bytes.fromhex("498bc348c1c80b25006000000dc09f0000")
MESSAGES = (
    b"%s \x1b[1;32maccepted\x1b[0m (%ld/%ld) diff \x1b[1;37m%lu%s\x1b[0m \x1b[1;90m(%lu ms)\x1b[0m",
    b"%s \x1b[1;31mrejected\x1b[0m (%ld/%ld) diff \x1b[1;37m%lu%s\x1b[0m ",
    b"%s \x1b[1;35mnew job\x1b[0m from \x1b[1;37m%s:%d\x1b[0m diff \x1b[1;37m%lu%s\x1b[0m algo ",
)
AUTHORIZE = b'{"id": 2, "method": "mining.authorize", "params": ["%s", "%s"]}'
SUBMIT = b'{"method": "mining.submit", "params": ["%s", "%s", "%s", "%s", "%s"], "id":%u}'
SUBMIT_LAST = b'{"params": ["%s", "%s", "%s", "%s", "%s"], "id": %d, "method": "mining.submit"}'
SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}'
METHODS = b"\0mining.subscribe\0mining.authorize\0mining.submit\0mining.notify\0"
CPUCHAIN = b"CPUpower: The number of CPU working or available for proof-of-work mining\0"
MAGPIE = b"Magpies are birds of the Corvidae family.\0"
CHAIN = (
    words(0x2AEA2A61, 0x50F494D4, 0x2D538B8B, 0x4167D83E),
    words(0x0BA16B95, 0x72F999AD, 0x9FECC2AE, 0xBA3264FC),
    words(0x72FCCDD8, 0x79CA4727, 0x128A077B, 0x40D55AEC),
    words(0x6D251E69, 0x44B051E0, 0x4EAA6FB4, 0xDBF78465),
    quads(0x4903ADFF749C51CE, 0x0D95DE399746DF03),
)
JH256 = bytes.fromhex("eb98a3412c20d3eb92cdbe7b9cb245c1")
SKEIN = quads(0xCCD044A12FDB3E13, 0xE83590301A79A9EB)
HARAKA = words(0x75817B9D, 0xB2C5FEF0, 0xE620C00A, 0x0684704C) + words(
    0x2F08F717, 0x640F6BA4, 0x88F3A06B, 0x8B66B4E1
)

MATCH: dict[str, tuple[bytes, ...]] = {
    "RandomX_Constants": (
        GENERATOR_KEYS,
        HASH_STATE,
        apart(b"RandomX\x03", HASH_KEYS),
        apart(b"RandomX\x03", GENERATOR_KEYS[:16], HASH_STATE[:16]),
        apart(GENERATOR_KEYS[48:], quads(9298411001130361340, 12065312585734608966)),
    ),
    "RandomX_Code": (
        CFROUND + bytes.fromhex("500fae142458"),
        CFROUND + bytes.fromhex("894424fc0fae5424fc"),
        CFROUND + bytes.fromhex("3b0424740a8904240fae1424"),
        bytes.fromhex("498bc548c1c83f83e00c0fae1404"),
        bytes.fromhex("c4c3fbf0c01183e00c3b442420740a0fae1404eb0089442420"),
    ),
    "CryptoNight_Constants": (apart(JH256, SKEIN), apart(SKEIN, JH256)),
    "HashChain_Constants": (apart(*CHAIN[:4]), apart(*CHAIN)),
    "KawPow_Constants": (
        words(*b"rAVENCOINKAWPOW"),
        words(*b"EVRMORE-PROGPOW"),
        words(*b"MEOWCOINMEOWPOW"),
    ),
    "Equihash_Personalisation": (
        b"ZcashPoW" + words(200, 9),
        b"BgoldPoW" + words(144, 5),
        b"ZelProof" + words(125, 4),
        b"Beam-PoW" + words(150, 5),
    ),
    "HeavyHash_Constants": (
        cshake_state(b"ProofOfWorkHash"),
        cshake_state(b"HeavyHash"),
        cshake_block(b"ProofOfWorkHash"),
        cshake_block(b"HeavyHash"),
    ),
    "VerusHash_Constants": (apart(HARAKA, b"_Z15verushash_v2_2P"), apart(b"VerusHash", HARAKA)),
    "XMRig_Messages": (apart(*MESSAGES), apart(*MESSAGES[1:])),
    "Stratum_Templates": (
        apart(AUTHORIZE, SUBMIT),
        apart(AUTHORIZE, SUBMIT_LAST),
        apart(SUBSCRIBE, SUBMIT),
        apart(
            b'{"method": "login", "params": {"login": "%s", "pass": "%s", "agent": "%s"}, "id": 1}',
            b'{"method": "submit", "params": {"id": "%s", "job_id": "%s", "nonce": "%s", "res',
        ),
    ),
    "Stratum_Words": (METHODS, METHODS.replace(b"\0mining.notify", b"")),
    "Yespower_Personalisations": (apart(CPUCHAIN, MAGPIE),),
    "Ethash_Kernels": (
        b"\0_Z13ethash_searchILj4EEvPVjm\0",
        b".entry _Z25ethash_calculate_dag_itemj(",
    ),
    "ProgPoW_Kernels": (
        b"// Inner loop for prog_seed 1234567\n__device__ void progPowLoop(",
        b"\0// Inner loop for prog_seed \0",
    ),
}

PROSE = (
    b'RandomX\\x03 "RandomX\\003" 0x6daca553, 0x62716609, 0xdbb5552b, 0xb4f44917 RandomX '
    b"53 a5 ac 6d 09 66 71 62 9298411001130361340 kawpow rAVENCOINKAWPOW ZcashPoW BgoldPoW "
    b"HeavyHash ProofOfWorkHash VerusHash haraka ethash_search '_Z13ethash_search'\n"
    b'ret << "// Inner loop for prog_seed " << prog_seed; as // Inner loop for prog_seed 12 there\n'
)
SOURCE = b"\n".join(
    each.replace(b'"', b'\\"')
    .replace(b"\x1b[1;32m", b'" GREEN_BOLD("')
    .replace(b"\x1b[0m", b'") "')
    for each in (
        *MESSAGES[:1],
        AUTHORIZE,
        SUBMIT,
        SUBMIT_LAST,
        SUBSCRIBE,
        CPUCHAIN[:-1],
        MAGPIE[:-1],
    )
)
LOG = (
    b"net      \x1b[1;35mnew job\x1b[0m from \x1b[1;37m192.0.2.1:3333\x1b[0m diff 1000\n"
    b"cpu      \x1b[1;32maccepted\x1b[0m (1/0) diff \x1b[1;37m1000\x1b[0m\n"
    b'{"id": 2, "method": "mining.authorize", "params": ["4Adk", "x"]}\n'
    b'{"method": "mining.submit", "params": ["4Adk", "1", "2", "3", "4"], "id":4}\n'
)

NO_MATCH: dict[str, bytes] = {
    "nothing": bytes(4096),
    "prose": PROSE,
    "a miner's source": SOURCE,
    "a miner's log and traffic": LOG,
    "our own rules": b"\n".join(path.read_bytes() for path in FILES),
    "one message": MESSAGES[0],
    "one request": SUBMIT,
    "a salt and Knuth's multiplier": apart(b"RandomX\x03", quads(6364136223846793005)),
    "two constants of RandomX": apart(b"RandomX\x03", GENERATOR_KEYS[:16]),
    "words of the protocol, quoted": METHODS.replace(b"\0", b'", "'),
    "two words of the protocol": b"\0mining.subscribe\0mining.submit\0",
    "JH-256": JH256,
    "a library with three candidates": apart(*CHAIN[:3]),
    "SPHINCS+ with Haraka": HARAKA,
    "one coin's personalisation": CPUCHAIN,
    "libxcrypt's yescrypt": b"\0yescrypt-prehash\0yescrypt-ROMhash\0Client Key\0",
    "a rounding mode that is set": bytes.fromhex(
        "0fae5c24fc8b4424fc25ff9fffff0d006000000fae5424fc"
    ),
    "another generator of BLAKE2b": blake2b("RandomX AesGenerator4R keys 4-7"),
    "Zcash's other personalisations": b"ZcashPRFExpandSeed"
    + words(200, 9)
    + b"ZcashPoW"
    + words(1),
}


@pytest.mark.parametrize("name", MATCH)
def test_what_it_must_match(name: str) -> None:
    for sample in MATCH[name]:
        assert matches(apart(sample)) == {name}
        assert matches(sample * 2) == {name}


@pytest.mark.parametrize("sample", NO_MATCH.values(), ids=NO_MATCH)
def test_what_none_may_match(sample: bytes) -> None:
    assert matches(sample) == set()


def test_every_rule_is_tested_documented_and_judged() -> None:
    assert set(MATCH) == set(RULES)
    judged: list[str] = []
    for path in sorted((BUILT_IN_RULES / "content").glob("*.yml")):
        detection = yaml.safe_load(path.read_text(encoding="utf-8"))["detection"]
        judged += detection["selection"]["ContentMatches"]
    assert set(judged) == set(RULES)
    for rule in RULES.values():
        meta = dict(rule.metadata)
        assert meta.keys() == {"description", "reference", "date", "license", "confidence"}
        assert meta["license"] == "Apache-2.0"
        assert str(meta["reference"]).startswith("https://")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(meta["date"]))
        assert meta["confidence"] in {"miner", "algorithm"}


def scanned(paths: Iterable[Path], at_most: int) -> int:
    scanner = yara_x.Scanner(compiled())
    size = 0
    for path in sorted({each.resolve() for each in paths}):
        content = path.read_bytes()
        found = [rule.identifier for rule in scanner.scan(content).matching_rules]
        assert found == [], path
        size += len(content)
        if size > at_most:
            break
    return size


def test_the_executables_of_this_machine_are_innocent() -> None:
    programs = [path for path in Path("/usr/bin").glob("[a-p]*") if path.is_file()]
    libraries = [*Path("/usr/lib/x86_64-linux-gnu").glob("lib[cgs]*.so.*")]
    assert scanned((*libraries, *programs), 256 << 20) > 1 << 20


# RandomX itself, which the tests mine with, and the rules' own package.
TELLS = {"cyrx", "randomx", "minerwatch"}


@pytest.mark.nightly
def test_the_installed_python_packages_are_innocent() -> None:
    packages = Path(sysconfig.get_path("platlib"))
    extensions = (
        path
        for path in packages.rglob("*.so")
        if path.is_file() and TELLS.isdisjoint(path.relative_to(packages).parts)
    )
    assert scanned(extensions, 256 << 20) > 1 << 20
    sources = (
        path
        for path in packages.rglob("*.py")
        if TELLS.isdisjoint(path.relative_to(packages).parts)
    )
    assert scanned(sources, 16 << 20) > 1 << 18
