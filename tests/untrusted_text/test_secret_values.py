from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.untrusted_text.secret_values import Secrecy, is_plain, secrecy, takes_value


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PGPASSWORD",
        "MYSQL_PWD",
        "keyStorePassword",
        "db.passwd",
        "smtpPass",
        "token",
        "API_TOKEN",
        "authToken",
        "x-api-key",
        "AWS_SECRET_ACCESS_KEY",
        "client-secret",
        "sig",
        "Cookie",
        "Authorization",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "pin",
        "SSHPASS",
    ],
)
def test_these_names_are_those_of_secrets(name: str) -> None:
    assert secrecy(name) is Secrecy.SURE


@pytest.mark.parametrize("name", ["key", "db.key", "auth", "session", "SALT"])
def test_these_may_be(name: str) -> None:
    assert secrecy(name) is Secrecy.DOUBTFUL


@pytest.mark.parametrize(
    "name",
    [
        "password-file",
        "secretName",
        "token_url",
        "max_tokens",
        "tokenizer",
        "pin-memory",
        "keys-dir",
        "public_key",
        "AWS_ACCESS_KEY_ID",
        "bypass",
        "compass",
        "passes",
        "author",
        "keyboard",
        "",
        "passthrough",
        "param-key",
        "monkey",
        "turkey",
    ],
)
def test_these_are_not(name: str) -> None:
    assert secrecy(name) is Secrecy.NONE


def test_who_only_asks_for_a_secret_is_given_none() -> None:
    assert not takes_value("no-password")
    assert not takes_value("ask-pass")
    assert takes_value("password")


@pytest.mark.parametrize(
    "value", ["/etc/k.pem", "~/k", "id_rsa.pub", "true", "8", "10s", "1.5", "rsa"]
)
def test_plain_values(value: str) -> None:
    assert is_plain(value)


@pytest.mark.parametrize("value", ["hunter2", "S3cr3t", "correct-Horse7", "93847261", "a:b", "x!"])
def test_values_that_may_be_secrets(value: str) -> None:
    assert not is_plain(value)


@given(st.text())
def test_any_text_may_be_asked_about(text: str) -> None:
    secrecy(text)
    takes_value(text)
    is_plain(text)
