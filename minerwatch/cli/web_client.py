"""GET over HTTP, for commands: within bounds, with a token that goes to no other server."""

from __future__ import annotations

import ssl
import urllib.request
from http.client import HTTPException
from pathlib import Path

import click

from minerwatch.errors import SnapshotError


def check_address(option: str, url: str | None, token_file: Path | None) -> None:
    """Raise UsageError if the address is none, or a token would be sent in the clear."""
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"{option}: give an address that begins with http:// or https://")
    if url is not None and "@" in url.partition("://")[2].partition("/")[0]:
        raise click.UsageError(f"{option}: leave user and password out: they would be shown")
    if token_file is not None and not (url or "").startswith("https://"):
        raise click.UsageError("--token-file: a token is sent over https:// only")


def fetched(
    url: str,
    token_file: Path | None,
    *,
    timeout_s: float,
    max_bytes: int,
    ca: Path | None = None,
    skip_verify: bool = False,
) -> bytes:
    """Return the body that ``url`` answers, its first ``max_bytes``. Raises SnapshotError."""
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        if skip_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(url)  # noqa: S310 - its scheme was checked
        if token_file is not None:
            token = token_file.read_text(encoding="utf-8").strip()
            # not sent on to where a redirect leads
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as response:  # noqa: S310 - the same
            body: bytes = response.read(max_bytes)
            return body
    except (OSError, HTTPException, ValueError) as error:
        raise SnapshotError(f"{url.partition('?')[0]} does not answer: {error}") from error
