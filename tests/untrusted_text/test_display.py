from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.untrusted_text.display import CUT, printable, shortened, shown_name
from minerwatch.untrusted_text.redaction import redacted
from tests.report.samples import HOSTILE, POOL, WALLET, hostile_text

any_text = st.one_of(hostile_text, st.text(st.characters()))  # surrogates too


@given(any_text)
def test_nothing_printable_has_power_over_a_terminal_or_a_line(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    for character in shown:
        assert unicodedata.category(character)[0] not in "CZ" or character == " "
    shown.encode()


@given(st.text(st.characters(categories=("L", "N", "P", "Sm", "Sc"), max_codepoint=0x7FF)))
def test_ordinary_text_of_any_language_is_left_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31m", r"\e[31m"),
        ("\x9b\x7f\x00", r"\x9b\x7f\x00"),
        ("\u202eabc", r"\u202eabc"),
        ("\U000e0041", r"\U000e0041"),
        ("a\u00a0b\u3000c", r"a\xa0b\u3000c"),
        ("xm\u115frig", r"xm\u115frig"),
        ("e" + "\u0301" * 6, "e" + "\u0301" * 4 + r"\u0301\u0301"),
        ("नमस्ते, 日本 é", "नमस्ते, 日本 é"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_is_escaped_and_cut() -> None:
    assert shown_name("a\x1b/" + "b" * 300) == "a\\e/" + "b" * 252 + "…"


@given(any_text, st.integers(2, 100))
def test_a_cut_shows_in_a_mark(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= 10 * limit
    if len(text) > limit:
        assert shown.endswith("…")


@given(any_text, st.integers(20, 200))
def test_shortened_keeps_both_ends_within_the_limit(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert len(short) <= limit
    if len(text) <= limit:
        assert short == text
    else:
        start, _, end = short.partition(CUT)
        assert text.startswith(start)
        assert text.endswith(end)


SECRET = "hunter2-S3cr3t"


@pytest.mark.parametrize(
    "command",
    [
        f"app --password {SECRET} -o x",
        f"app --password={SECRET}",
        f"app --db-pass '{SECRET} and more {SECRET}'",
        f"PGPASSWORD={SECRET} psql",
        f"jupyter --NotebookApp.token='{SECRET}'",
        f"env JUPYTERHUB_API_TOKEN={SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f'{{"user": "a", "password": "{SECRET}"}}',
        f"curl -H Authorization: Bearer {SECRET} https://example.org",
        f"curl -H 'Authorization: Basic {SECRET}'",
        f"curl -H 'X-Api-Key: {SECRET}'",
        f"curl -u bob:{SECRET} https://example.org",
        f"git clone https://bob:{SECRET}@example.org/x.git",
        f"redis-cli -u redis://:{SECRET}@cache/0",
        f"sshpass -p {SECRET} ssh example.org",
        f"mysql -h db -p{SECRET} x",
        f"curl https://example.org/?access_token={SECRET}",
        "git push https://ghp_" + SECRET.replace("-", "") + "A" * 24 + "@example.org",
        f"x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx{SECRET}.{SECRET}",
        f"xmrig -o {POOL} -u {WALLET}.rig:{SECRET}",
        f"xmrig -o stratum+tcp://{WALLET}:{SECRET}@pool.example.org:3333",
    ],
)
def test_secrets_are_taken_out(command: str) -> None:
    assert SECRET not in redacted(command)
    assert "…" in redacted(command)


@pytest.mark.parametrize(
    "command",
    [
        f"xmrig -o {POOL} -u {WALLET} -p x",
        f"xmrig --url={POOL} --user={WALLET}",
        f"xmrig -o stratum+tcp://token.example.org:3333 -u {WALLET}",
        f"./secret {WALLET}",
        f"python3 token.py -u {WALLET} -o {POOL}",
        "lolMiner --algo ETHASH --pool eu1.example.org:4444 --user 0x" + "a1" * 20,
    ],
)
def test_wallets_and_pools_stay(command: str) -> None:
    assert redacted(command) == command


names = st.from_regex(r"[a-z]{1,10}(-[a-z]{1,10}){0,2}", fullmatch=True)


@given(names, names, st.integers(1, 65535))
def test_pool_addresses_stay_whatever_their_names(host: str, domain: str, port: int) -> None:
    command = f"miner -o stratum+ssl://{host}.{domain}.example:{port} -u {WALLET} -p x"
    assert redacted(command) == command


@given(any_text, st.from_regex(r"[A-Za-z0-9+/_.-]{12,40}", fullmatch=True))
def test_a_named_secret_never_survives(before: str, secret: str) -> None:
    marker = "Zq" + secret.strip("-") + "Qz"
    assert marker not in redacted(f"{before} --password={marker} tail")


@given(any_text)
def test_redaction_takes_any_text(text: str) -> None:
    redacted(text).encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_redaction_leaves_hostile_text_without_secrets_alone(text: str) -> None:
    assert redacted(text) == text
