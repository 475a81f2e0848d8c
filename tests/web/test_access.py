from __future__ import annotations

import base64
from email.message import Message
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import OwnerStatus
from minerwatch.config.schema import Web
from minerwatch.errors import ListenError
from minerwatch.web.access import Access
from minerwatch.web.masking import masked
from tests.report.samples import MINER

TOKEN = "0123456789abcdef0123456789abcdef"


def headers(host: str | None = "127.0.0.1:9798", authorization: str | None = None) -> Message:
    found = Message()
    if host is not None:
        found["Host"] = host
    if authorization is not None:
        found["Authorization"] = authorization
    return found


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def status(access: Access, given: Message) -> int:
    refusal = access.refusal(given)
    return 200 if refusal is None else refusal.status.value


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1:9798", 200),
        ("127.0.0.1", 200),
        ("localhost:80", 200),
        ("[::1]:9798", 200),
        ("127.9.9.9", 200),
        ("evil.example", 421),
        ("evil.example:9798", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:9798", 421),
        ("10.0.0.1:9798", 421),
        ("", 421),
        (":9798", 421),
        ("[::1", 421),
        (None, 421),
    ],
)
def test_on_loopback_another_sites_name_gets_no_page(host: str | None, wanted: int) -> None:
    access = Access(Web(listen="127.0.0.1:9798"))
    assert status(access, headers(host)) == wanted


@pytest.mark.parametrize(
    ("site", "destination", "wanted"),
    [
        ("none", "document", 200),
        ("same-origin", "document", 200),
        ("cross-site", "document", 200),
        ("cross-site", "image", 403),
        ("cross-site", "iframe", 403),
        ("cross-site", "empty", 403),
        ("cross-site", None, 403),
        ("same-site", "script", 403),
    ],
)
def test_another_sites_page_may_link_but_not_load(
    site: str, destination: str | None, wanted: int
) -> None:
    given = headers()
    given["Sec-Fetch-Site"] = site
    if destination is not None:
        given["Sec-Fetch-Dest"] = destination
    assert status(Access(Web(listen="127.0.0.1:9798")), given) == wanted


def test_two_host_headers_get_no_page() -> None:
    given = headers("127.0.0.1")
    given["Host"] = "evil.example"
    assert status(Access(Web(listen="127.0.0.1:9798")), given) == 421


def test_elsewhere_any_name_will_do_but_none_without_the_token(token_file: Path) -> None:
    access = Access(Web(listen="10.0.0.1:9798", token_file=str(token_file)))
    assert status(access, headers("minerwatch.example")) == 401
    assert status(access, headers("minerwatch.example", f"Bearer {TOKEN}")) == 200
    assert not access.shows_arguments


@pytest.mark.parametrize(
    ("authorization", "wanted"),
    [
        (None, 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (basic(TOKEN), 200),
        (basic(TOKEN, user=""), 200),
        (basic("", user=TOKEN), 401),
        (basic(f"{TOKEN}x"), 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("Basic", 401),
        ("Basic !!!", 401),
        ("Basic /w==", 401),
        (TOKEN, 401),
        (f"Digest {TOKEN}", 401),
    ],
)
def test_the_token_is_asked_for(authorization: str | None, wanted: int, token_file: Path) -> None:
    access = Access(Web(listen="127.0.0.1:9798", token_file=str(token_file)))
    assert status(access, headers(authorization=authorization)) == wanted
    assert access.shows_arguments


@given(authorization=st.text())
def test_no_other_text_is_taken_for_the_token(
    authorization: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "a-token"
    path.write_text(TOKEN)
    access = Access(Web(listen="127.0.0.1:9798", token_file=str(path)))
    given = headers()
    given.add_header("Authorization", authorization.replace("\n", "").replace("\r", ""))
    assert status(access, given) == 401


def test_a_browser_is_told_to_ask_for_it(token_file: Path) -> None:
    access = Access(Web(listen="127.0.0.1:9798", token_file=str(token_file)))
    refusal = access.refusal(headers())
    assert refusal is not None
    assert dict(refusal.headers)["WWW-Authenticate"].startswith("Basic realm=")
    assert TOKEN.encode() not in refusal.body


def test_a_new_token_counts_at_once_and_a_lost_file_lets_none_in(token_file: Path) -> None:
    access = Access(Web(listen="127.0.0.1:9798", token_file=str(token_file)))
    token_file.write_text("f" * 32)
    assert status(access, headers(authorization=f"Bearer {TOKEN}")) == 401
    assert status(access, headers(authorization=f"Bearer {'f' * 32}")) == 200
    for content in ("", "short", "ü" * 40):
        token_file.write_text(content)
        assert status(access, headers(authorization=f"Bearer {content}")) == 503
    token_file.unlink()
    assert status(access, headers(authorization="Bearer ")) == 503


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("", "a token of 0 characters: use at least 16, such as those of openssl rand -hex 32"),
        ("secret", "a token of 6 characters: use at least 16"),
    ],
)
def test_a_token_that_is_no_use_is_said_at_the_start(
    content: str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ListenError) as raised:
        Access(Web(listen="127.0.0.1:9798", token_file=str(path)))
    assert str(raised.value).startswith(f"web.token_file: {path}: {said}")


def test_the_address_of_a_client_is_hidden() -> None:
    owners = (
        OwnerStatus("x", "192.0.2.7", "client"),
        OwnerStatus("y", "https://h/r", "repository"),
    )
    assert [each.kind for each in masked(structs.replace(MINER, owners=owners)).owners] == [
        "repository"
    ]
