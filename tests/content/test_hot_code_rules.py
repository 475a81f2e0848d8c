"""The YARA rules for hot code, each against bytes and words that it must and must not match.

Constants are computed as the specifications say, or else copied from them, never from the rules.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
import yara_x

from minerwatch.config.schema import BUILT_IN_RULES
from tests.content.test_yara_rules import HARAKA, apart, quads, round_constants, words

FILES = sorted(BUILT_IN_RULES.rglob("*.hot.yar"))


def compiled(paths: Iterable[Path]) -> yara_x.Rules:
    compiler = yara_x.Compiler(includes_enabled=False)
    for path in paths:
        compiler.add_source(path.read_text(encoding="utf-8"))
    return compiler.build()


RULES = compiled(FILES)


def matches(content: bytes) -> set[str]:
    return {rule.identifier for rule in yara_x.Scanner(RULES).scan(content).matching_rules}


def primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % each for each in found):
            found.append(number)
        number += 1
    return found


def cube_root(number: int) -> int:
    low, high = 0, 1 << 120
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= number else (low, middle - 1)
    return low


def sha2_constants(bits: int, count: int) -> list[int]:
    """FIPS 180-4, 4.2.2 and 4.2.3: fractions of the cube roots of the first primes."""
    return [cube_root(each << 3 * bits) & (1 << bits) - 1 for each in primes(count)]


def times(a: int, b: int, modulus: int) -> int:
    """Product in the field of 256 elements."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (modulus if a & 0x80 else 0)
        b >>= 1
    return product


def column(value: int, factors: Iterable[int], modulus: int) -> bytes:
    return bytes(times(value, each, modulus) for each in factors)


def said(**counts: int) -> bytes:
    """Words: ``rol32_7=2`` is two of ``rol32.7``."""
    return "".join(f"\x1f{name.replace('_', '.')};" * n for name, n in counts.items()).encode()


def scattered(*values: bytes) -> bytes:
    """Numbers in instructions, as code without a loop has them."""
    return b"".join(b"\x41\x8d\x84\x03" + value + b"\x01\xd0\x89" for value in values)


AES = 0x11B
K256 = [words(each) for each in sha2_constants(32, 64)]
K512 = [quads(each) for each in sha2_constants(64, 80)]
KECCAK = quads(*round_constants())
SHA256_TURNS = said(rol32_30=1, rol32_19=1, rol32_10=1, rol32_26=1, rol32_21=1, rol32_7=1)
SHA512_TURNS = said(rol64_36=1, rol64_30=1, rol64_25=1, rol64_50=1, rol64_46=1, rol64_23=1)
BLAKE2B_TURNS = said(rol64_32=2, rol64_40=2, rol64_48=2, rol64_1=2)
SALSA = said(rol32_7=2, rol32_9=2, rol32_13=2, rol32_18=2)
CHACHA = said(rol32_16=2, rol32_12=2, rol32_8=2, rol32_7=2)
AES_TABLE = b"".join(column(s, (3, 1, 1, 2), AES) for s in (0x63, 0x7C, 0x77, 0x7B))
AES_TABLE_REVERSED = b"".join(column(s, (2, 1, 1, 3), AES) for s in (0x63, 0x7C, 0x77, 0x7B))
GROESTL = b"".join(column(s, (2, 7, 5, 3, 5, 4, 3, 2), AES) for s in (0x63, 0x7C))
FUGUE = b"".join(column(s, (4, 7, 1, 1), AES) for s in (0x63, 0x7C))
WHIRLPOOL = column(0x18, (1, 1, 4, 1, 8, 5, 2, 9), 0x11D)
BMW = quads(17 * 0x0555555555555555)
POWERS = [pow(41, n, 257) for n in range(128)]
SIMD = words(*POWERS)
SIMD_FROM_ITS_MIDDLE = (
    words(*POWERS[2:]),
    struct.pack("<64H", *(pow(163, n, 257) for n in range(64))),
)
JH = bytes.fromhex("72d5dea2df15f8677b84150ab7231557")
JH_LATER = (bytes.fromhex("0d550aa54af8a4c091e3e79f978ef19e"), bytes.fromhex("b51d3ea6aff2c908"))
LUFFA = words(0x303994A6, 0xC0E65299, 0x6CC33A12, 0xDC56983E)
LUFFA_BY_TWO = (
    quads(0xB6DE10ED303994A6, 0x70F47AAEC0E65299),
    quads(0x01685F3DE0337818, 0x05A17CF4441BA90D),
    quads(0xB213AFA5FC20D9D2, 0xC84EBE9534552E25),
    words(0xF0D2E9E3, 0xAC11D7FA),
)
CUBEHASH = said(rol32_7=32, rol32_11=32)
SKEIN = quads(0x1BD11BDAA9FC1A22)
# FADD_M, FSUB_M, FDIV_M and FSQRT_R of RandomX's interpreter, as compilers make them (Intel SDM)
FLOATS = bytes.fromhex("f30fe6c0660f5800 f30fe6c9660f5cc1 f3410fe6c0660f5ec8 660f5100")
FLOATS_BY_AVX = bytes.fromhex("c5fae604c6c5f95800 c57ae6c8c5b15cc1 c4c17ae6c0c5715ec8 c5f95100")
FNV = words(16777619)
KISS = (words(36969), words(18000), words(69069))
ITEMS = (9298411001130361340, 12065312585734608966, 9306329213124626780, 3398623926847679864)
CN_MASK = b"\x81\xe2" + words((1 << 21) - 1 & ~15)


def smask(width: int) -> int:
    half = ((1 << width) - 1) * 16
    return half << 32 | half


MD5 = said(**{f"rol32_{n}": 16 for n in (7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10)})

SHUFFLES = {
    (64, 24): [3, 4, 5, 6, 7, 0, 1, 2],
    (64, 16): [2, 3, 4, 5, 6, 7, 0, 1],
    (32, 16): [2, 3, 0, 1],
    (32, 8): [1, 2, 3, 0],
    (32, 24): [3, 0, 1, 2],
}


def shuffle(width: int, right: int) -> bytes:
    """The mask by which bytes are moved to rotate to the right."""
    order = SHUFFLES[width, right]
    assert order == [(at + right // 8) % (width // 8) for at in range(width // 8)]
    return bytes(start + each for start in range(0, 16, width // 8) for each in order)


MATCH: dict[str, tuple[bytes, ...]] = {
    "SHA256_Rounds": (
        b"".join(K256) + SHA256_TURNS,
        scattered(*K256) + SHA256_TURNS,
        b"".join(K256) + said(sha256=8),
        # A miner folds the first rounds and the last ones.
        scattered(*K256[16:61]) + SHA256_TURNS,
        # Each constant for eight hashes at once
        b"".join(8 * each for each in K256) + SHA256_TURNS,
    ),
    "SHA512_Rounds": (
        b"".join(K512) + SHA512_TURNS,
        scattered(*K512) + SHA512_TURNS,
        b"".join(K512) + said(sha512=8),
    ),
    "Keccak_Rounds": (
        KECCAK,
        scattered(*(quads(each) for each in round_constants())),
        b"".join(quads(each) * 4 for each in round_constants()),
    ),
    "BLAKE2b_Rounds": (
        BLAKE2B_TURNS,
        shuffle(64, 24) + shuffle(64, 16) + said(rol64_32=4, rol64_1=4),
    ),
    "Argon2_Rounds": (
        BLAKE2B_TURNS + said(wide32=8),
        BLAKE2B_TURNS + said(mul64=16),
        shuffle(64, 24) + shuffle(64, 16) + said(rol64_32=4, rol64_1=4, wide32=8),
    ),
    "BLAKE2s_Rounds": (
        said(rol32_16=2, rol32_20=2, rol32_24=2, rol32_25=2),
        shuffle(32, 16) + shuffle(32, 8) + said(rol32_20=2, rol32_25=2),
    ),
    "ChaCha_Rounds": (CHACHA, shuffle(32, 16) + shuffle(32, 24) + said(rol32_12=2, rol32_7=2)),
    "Salsa20_Rounds": (SALSA,),
    "Yescrypt_Mixing": (
        b"\x48\xb8" + quads(smask(8)) + said(wide32=12),
        b"\x81\xe2\xf0\x0f\x00\x00\x01" * 4 + b"\x25\xf0\x0f\x00\x00" + said(wide32=6),
    ),
    "Yespower_Mixing": (
        b"\x48\xb8" + quads(smask(11)) + said(wide32=12),
        quads(smask(11)) + said(mul64=8),
        b"\x81\xe1\xf0\x7f\x00\x00\x01" * 4 + said(wide32=6),
    ),
    "AES_Rounds": (said(aes=10), AES_TABLE, AES_TABLE_REVERSED),
    "Haraka_Rounds": (HARAKA,),
    "VerusHash_Loop": (said(aes=4, clmul=2, mulhrs=1),),
    "CryptoNight_Loop": (
        CN_MASK + said(aes=1, wide64=1),
        b"\xbb" + words((1 << 20) - 1 & ~15) + said(aes=1, wide64=1),
    ),
    "ProgPoW_Loop": (scattered(FNV, *KISS),),
    "RandomX_Items": (quads(*ITEMS), scattered(*(quads(each) for each in ITEMS[1:]))),
    "RandomX_Interpreter": (FLOATS, FLOATS_BY_AVX, bytes(4096).join((b"", FLOATS, b""))),
    "Coin_Hash": (
        GROESTL, FUGUE, WHIRLPOOL, WHIRLPOOL[::-1], BMW, SIMD, JH, LUFFA, SKEIN,
        quads(0x243F6A8885A308D3, 0x13198A2E03707344),
        *SIMD_FROM_ITS_MIDDLE, *JH_LATER, *LUFFA_BY_TWO,
    ),
}  # fmt: skip
"""Rules that match alone."""

TOGETHER: dict[bytes, set[str]] = {
    KECCAK + FNV: {"Keccak_Rounds", "Ethash_Items"},
    SALSA + CHACHA: {"Salsa20_Rounds", "ChaCha_Rounds", "NeoScrypt_Rounds"},
    CN_MASK + AES_TABLE + said(wide64=1): {"AES_Rounds", "CryptoNight_Loop"},
    apart(GROESTL, JH, LUFFA): {"Coin_Hash", "Hash_Chain"},
    apart(KECCAK, SKEIN, BMW): {"Coin_Hash", "Hash_Chain", "Keccak_Rounds"},
    apart(LUFFA, SIMD): {"Coin_Hash", "Hash_Chain"},
    apart(JH, CUBEHASH): {"Coin_Hash", "Hash_Chain"},
    # Functions that others compute as well, or one that only coins do, twice
    apart(KECCAK, SKEIN, WHIRLPOOL): {"Coin_Hash", "Keccak_Rounds"},
    apart(LUFFA, *LUFFA_BY_TWO, SKEIN): {"Coin_Hash"},
    apart(GROESTL, MD5): {"Coin_Hash"},
    quads(smask(8)) + said(wide32=9) + SALSA: {"Yescrypt_Mixing", "Salsa20_Rounds"},
}

NO_MATCH: dict[str, bytes] = {
    "nothing": bytes(4096),
    "our own rules": b"\n".join(path.read_bytes() for path in FILES),
    "a text about them": b"rol32.7;rol32.9;rol32.13;rol32.18;" * 4 + b"0x428a2f98 SHA256",
    "tables of SHA-2 that code addresses and does not use": b"".join(K256 + K512),
    "SHA-256's rotations without its constants": SHA256_TURNS * 4,
    "a few constants of SHA-256": b"".join(K256[:7]) + SHA256_TURNS,
    "initial values of SHA-256": words(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
    "MD5": MD5,
    "RIPEMD-160": said(**{f"rol32_{n}": 10 for n in range(5, 16)}),
    "SHA-1": said(rol32_5=40, rol32_30=40, rol32_1=40) + words(0x5A827999, 0x6ED9EBA1),
    "SipHash": said(**{f"rol64_{n}": 8 for n in (13, 16, 17, 21, 32)}),
    "xxHash": said(rol64_31=8, rol64_27=8, rol64_33=4, mul64=24),
    "xoshiro256": said(rol64_45=4, rol64_7=4, mul64=4),
    "MurmurHash3": said(rol32_15=4, rol32_13=4, rol64_31=4, rol64_33=4, mul64=30),
    "big numbers": said(wide64=64, mul64=64),
    "AES-GCM": said(aes=2, clmul=40),
    "a CRC by products without carry": said(clmul=64),
    "FNV-1a": scattered(FNV) * 4,
    "a random number generator of 1994": b"".join(KISS),
    "a codec": said(wide32=64, rol64_32=64, mulhrs=64),
    "floats of two functions": bytes(600).join((FLOATS[:-4], FLOATS[-4:])),
    "coordinates: pairs converted twice, divided, and a root": FLOATS[8:],
    "a codec's floats": FLOATS[:-4] * 8,
    "a loop that is unrolled": FLOATS * 2,
    "four floats at once": FLOATS_BY_AVX.replace(b"\xc5\xfa\xe6", b"\xc5\xfe\xe6"),
    "masks of pages": b"\x81\xe2\xf0\x0f\x00\x00" * 8 + said(mul64=4),
    "a size of 2 MiB": words((1 << 21) - 1) + said(aes=4, wide64=4),
    "Poly1305 and ChaCha's key": b"expand 32-byte k" + said(wide64=40),
}


@pytest.mark.parametrize("name", MATCH)
def test_what_it_must_match(name: str) -> None:
    for sample in MATCH[name]:
        assert matches(apart(sample)) == {name}


@pytest.mark.parametrize("sample", TOGETHER, ids=lambda sample: "+".join(sorted(TOGETHER[sample])))
def test_what_several_must_match(sample: bytes) -> None:
    assert matches(sample) == TOGETHER[sample]


@pytest.mark.parametrize("sample", NO_MATCH.values(), ids=NO_MATCH)
def test_what_none_may_match(sample: bytes) -> None:
    assert matches(sample) == set()


def test_chance_is_no_match() -> None:
    content = random.Random(7).randbytes(16 << 20)
    often = said(**dict.fromkeys(("aes", "wide32", "wide64", "mul64", "clmul"), 4))
    for start in range(0, len(content), 1 << 18):
        assert matches(content[start : start + (1 << 18)] + often) == set()


def test_every_rule_is_tested_documented_and_judged() -> None:
    names = {rule.identifier: rule for rule in RULES}
    tested = set(MATCH).union(*TOGETHER.values())
    assert tested == set(names)
    of_memory = {
        rule.identifier for rule in compiled(sorted((BUILT_IN_RULES / "content").glob("*.yar")))
    }
    assert names.keys().isdisjoint(of_memory)
    judged: set[str] = set()
    for path in sorted((BUILT_IN_RULES / "compute").glob("*.yml")):
        detection = yaml.safe_load(path.read_text(encoding="utf-8"))["detection"]
        listed = set(detection.get("named", {}).get("ContentInHotCode", ()))
        assert listed <= names.keys() | of_memory
        judged |= listed
    assert names.keys() <= judged
    for rule in names.values():
        meta = dict(rule.metadata)
        assert meta.keys() == {"description", "reference", "date", "license", "confidence"}
        assert meta["license"] == "Apache-2.0"
        assert str(meta["reference"]).startswith("https://")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(meta["date"]))
        assert meta["confidence"] in {"coin", "general"}
