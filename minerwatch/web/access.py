"""Checks of a request for a page: the token, and on loopback the name that the browser was given.

A browser prompts for the token by itself (HTTP Basic, any user name), so there is no form, no
cookie, and no token in an address that a history or a log would keep. Programs send it as a bearer
token. On loopback a Host header of another name is a page from elsewhere whose name was pointed at
this machine (DNS rebinding).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from email.message import Message
from http import HTTPStatus
from pathlib import Path

from minerwatch.config.schema import Web
from minerwatch.config.values import host_and_port, is_loopback
from minerwatch.errors import ListenError
from minerwatch.report.http_server import Answer

MIN_TOKEN_CHARS = 16
_MAX_TOKEN_BYTES = 4096
_CHALLENGE = ("WWW-Authenticate", 'Basic realm="minerwatch: any name, the token as password"')


class Access:
    """Decides which requests get a page."""

    def __init__(self, settings: Web) -> None:
        """Raises ListenError for a token that cannot be used."""
        self._file = Path(settings.token_file) if settings.token_file else None
        self.is_on_loopback = is_loopback(host_and_port(settings.listen)[0])
        try:
            self._token()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ListenError(f"web.token_file: {self._file}: {reason}") from error

    @property
    def shows_arguments(self) -> bool:
        """Return True if pages show arguments, connections and users of processes."""
        return self.is_on_loopback and self._file is not None

    def refusal(self, headers: Message) -> Answer | None:
        """Return the answer to a request that gets no page; None: it gets one."""
        if self.is_on_loopback and not _is_own_name(headers.get_all("Host", [])):
            return refused("ask for 127.0.0.1 or localhost", HTTPStatus.MISDIRECTED_REQUEST)
        if _is_part_of_another_site(headers):
            return refused("a page of another site asks: open the address", HTTPStatus.FORBIDDEN)
        if self._file is None:
            return None
        try:
            wanted = self._token()
        except (OSError, ValueError):
            return refused("the token's file cannot be read", HTTPStatus.SERVICE_UNAVAILABLE)
        if hmac.compare_digest(_digest(wanted), _digest(_shown(headers))):
            return None
        return refused("the token is missing or wrong", HTTPStatus.UNAUTHORIZED, _CHALLENGE)

    def _token(self) -> str:
        """Return the token as it is in the file now; raises OSError or ValueError."""
        if self._file is None:
            return ""
        with self._file.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
        if len(token) < MIN_TOKEN_CHARS:
            raise ValueError(
                f"a token of {len(token)} characters: use at least {MIN_TOKEN_CHARS}, such as"
                " those of openssl rand -hex 32"
            )
        return token


def refused(text: str, status: HTTPStatus, *headers: tuple[str, str]) -> Answer:
    """Return an answer of one line."""
    return Answer(f"{text}\n".encode(), status=status, headers=headers)


def _is_own_name(hosts: list[str]) -> bool:
    if len(hosts) != 1:
        return False
    name, _, port = hosts[0].rpartition(":")
    if not port.isdecimal() or not name:
        name = hosts[0]
    return is_loopback(name.strip("[]"))


def _is_part_of_another_site(headers: Message) -> bool:
    """Return True for an image, frame, … of another site's page; a link there may be followed."""
    is_elsewhere = headers.get("Sec-Fetch-Site", "none") in ("cross-site", "same-site")
    return is_elsewhere and headers.get("Sec-Fetch-Dest") != "document"


def _shown(headers: Message) -> str:
    """Return the token that the client shows; "": none."""
    scheme, _, value = str(headers.get("Authorization", "")).partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value.strip()).decode().partition(":")[2]
            except ValueError:
                return ""
        case _:
            return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
