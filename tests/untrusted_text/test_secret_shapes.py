"""Tokens are made up from prefix and alphabet: written out, they would set off scanners."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.untrusted_text.redaction import redacted
from minerwatch.untrusted_text.secret_shapes import is_wallet, random_words, tokens
from minerwatch.untrusted_text.secret_values import MASK

LOWER, HEX = string.ascii_lowercase + string.digits, "0123456789abcdef"
ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
URL = ALNUM + "_-"

FORMS = [
    ("ghp_", ALNUM, 36), ("gho_", ALNUM, 36), ("ghu_", ALNUM, 36), ("ghs_", ALNUM, 36),
    ("ghr_", ALNUM, 76), ("github_pat_", ALNUM + "_", 82), ("glpat-", URL, 20), ("gldt-", URL, 20),
    ("glptt-", HEX, 40), ("glrt-", URL, 20), ("glcbt-", URL, 20), ("npm_", ALNUM, 36),
    ("pypi-AgEIcHlwaS5vcmc", URL, 50), ("rubygems_", HEX, 48), ("oy2", LOWER, 43),
    ("dckr_pat_", URL, 27), ("dckr_oat_", URL, 32), ("AKCp8", ALNUM, 68), ("ATATT3", URL, 186),
    ("xoxb-", string.digits, 12), ("xoxp-", string.digits + "-", 40), ("xoxc-", HEX + "-", 60),
    ("xapp-1-", UPPER, 40), ("xoxe.xoxp-1-", ALNUM, 100), ("SG.", URL, 22, ".", URL, 43),
    ("sk_live_", ALNUM, 24), ("rk_live_", ALNUM, 24), ("sk_test_", ALNUM, 24),
    ("whsec_", ALNUM, 32),
    ("xkeysib-", HEX, 64), ("key-", HEX, 32), ("sq0atp-", URL, 22), ("EAAA", URL, 60),
    ("shpat_", HEX, 32), ("shpss_", HEX, 32), ("EZAK", ALNUM, 54), ("AKIA", UPPER, 16),
    ("ASIA", UPPER, 16), ("AIza", URL, 35), ("ya29.", URL, 60), ("GOCSPX-", URL, 28),
    ("1//0", URL, 60), ("LTAI", ALNUM, 20), ("AKID", ALNUM, 32), ("dop_v1_", HEX, 64),
    ("dapi", HEX, 32), ("sha256~", URL, 43), ("fo1_", URL, 43), ("hvs.", URL, 90),
    ("hvb.", URL, 140),
    ("s.", ALNUM, 24), ("dp.pt.", ALNUM, 43), ("tskey-auth-", ALNUM, 12, "-", ALNUM, 30),
    ("glc_", ALNUM, 60), ("glsa_", ALNUM, 32), ("sntrys_", ALNUM, 60), ("hf_", ALNUM, 34),
    ("api_org_", ALNUM, 34), ("r8_", ALNUM, 37), ("sbp_", HEX, 40), ("figd_", URL, 40),
    ("lin_api_", ALNUM, 40), ("ntn_", ALNUM, 46), ("pscale_tkn_", URL, 43), ("sgp_", HEX, 40),
    ("sk-", ALNUM, 48), ("sk-proj-", URL, 60), ("sk-ant-api03-", URL, 95), ("gsk_", ALNUM, 52),
    ("xai-", ALNUM, 80), ("pplx-", ALNUM, 48), ("nvapi-", URL, 64), ("NRAK-", UPPER, 27),
    ("PMAK-", HEX, 24, "-", HEX, 34), ("HRKU-", URL, 60), ("lsv2_pt_", HEX, 32),
    ("nfp_", ALNUM, 36), ("rnd_", ALNUM, 28), ("bkua_", HEX, 40), ("CCIPAT_", ALNUM, 40),
    ("AGE-SECRET-KEY-1", UPPER, 58), ("eyJ", ALNUM, 33, ".eyJ", ALNUM, 40, ".", URL, 43),
    ("eyJ", ALNUM, 20, ".eyJ", ALNUM, 16, ".", URL, 8), ("ops_eyJ", ALNUM, 250),
    ("123456789:AA", URL, 33), ("M", ALNUM, 23, ".", ALNUM, 6, ".", URL, 27), ("phx_", ALNUM, 43),
    ("$6$", ALNUM, 8, "$", ALNUM, 86), ("$2y$10$", ALNUM, 53), ("$argon2id$v=19$", ALNUM, 40),
]  # fmt: skip


@st.composite
def shaped(draw: st.DrawFn) -> tuple[str, str]:
    """A token, and what must not be seen of it."""
    form = draw(st.sampled_from(FORMS))
    token, most = "", ""
    for prefix, alphabet, length in zip(form[::3], form[1::3], form[2::3], strict=True):
        inner = st.text(str(alphabet), min_size=int(length) - 2, max_size=int(length) - 2)
        body = "a" + draw(inner) + "7" if alphabet != UPPER else "A" + draw(inner) + "7"
        token += f"{prefix}{body}"
        most = max(most, body, key=len)
    return token, most


AROUND = (
    "app {}", "app --some={}", "app -x{}", "X={} app", "app '{}'", 'app "{}" b', "app a:{}",
    "app {}:b", "https://example.org/{}", "https://example.org/a?b={}&c=d", "app a,{},b",
    "app ({})", "app [{}]",
    'app {{"a": "{}"}}', "app a={};b=c", "a\u00a0{}\u00a0b", "/path/{}/x",
)  # fmt: skip


@given(shaped(), st.sampled_from(AROUND))
def test_tokens_of_known_form_are_masked_wherever_they_stand(
    token: tuple[str, str], around: str
) -> None:
    if around == "app -x{}" or (around == "/path/{}/x" and not token[0].startswith("gh")):
        return  # an option's letters may be a token's first
    line = around.format(token[0])
    text = redacted(line)
    assert token[1] not in text, line
    assert MASK in text


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.slack.com/services/T000/B000/{}",
        "https://hooks.slack.com/workflows/T0/A0/1/{}",
        "https://discord.com/api/webhooks/123/{}",
        "https://discordapp.com/api/v10/webhooks/123/{}",
        "https://api.telegram.org/bot123456:{}/sendMessage",
        "https://x.webhook.office.com/webhookb2/{}",
        "https://outlook.office.com/webhook/{}",
        "https://hooks.zapier.com/hooks/catch/1/{}/",
        "https://maker.ifttt.com/trigger/a/with/key/{}",
        "https://mattermost.example.org/hooks/{}",
        "https://ci.example.org/webhook/{}",
        "rtmp://live.twitch.tv/app/{}",
        "rtmps://a.example.org:443/rtmp/{}",
    ],
)
@given(st.text(LOWER, min_size=8, max_size=40))
def test_addresses_that_are_secrets_are_masked(address: str, secret: str) -> None:
    for line in (f"curl {address.format(secret)}", f"a --url={address.format(secret)} -x"):
        assert f"/{secret}" not in redacted(line)
        assert f":{secret}" not in redacted(line)


def test_words_drawn_by_chance_are_masked_where_nothing_says_what_they_are() -> None:
    for word in ("S3cr3tV4lue9xQ", "q7Zp2Lx9Wv4T", "dXNlcjpTM2NyM3RWNGx1ZTl4UQ=="):
        assert redacted(f"app {word} x") == f"app {MASK} x" or "==" in word
        assert word[:8] not in redacted(f"app a:{word},b")
    for word in ("Qwen2ForCausalLM", "HG00096", "SRR1234567", "XMRig6", "TensorFlow2Model"):
        assert redacted(f"app {word}") == f"app {word}"


def test_two_tokens_side_by_side_are_both_masked() -> None:
    token = "gh" + "p_" + "a1" * 18
    assert redacted(f"{token},{token}") == f"{MASK},{MASK}"


@given(st.text())
def test_any_text_may_be_searched(text: str) -> None:
    for start, end in (*tokens(text), *random_words(text)):
        assert 0 <= start < end <= len(text)
    is_wallet(text)
