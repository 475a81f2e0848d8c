"""One spelling of a repository's address, so that a tenant is one owner however it is written."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

ADDRESS_SCHEMES = frozenset({"http", "https", "git", "ssh"})
FORGES = {
    "github.com": "GitHubRepoProvider",
    "gist.github.com": "GistRepoProvider",
    "gitlab.com": "GitLabRepoProvider",
}
"""Hosts at which case counts in no owner's and no repository's name; BinderHub's class of each."""

_CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")
_REPOSITORY_PARTS = 2  # OWNER/NAME; what follows is a ref, in which case counts


def one_spelling(name: str) -> str:
    """Return the name; an address without credentials and query, in the one spelling of git."""
    bare = without_credentials(name)
    try:
        parts = urlsplit(bare)
        host, port = (parts.hostname or "").removeprefix("www.").rstrip("."), parts.port
    except ValueError:
        return bare
    if parts.scheme not in ADDRESS_SCHEMES or not host:
        return bare
    path = without_dots(unquote(parts.path))
    if not path.isprintable():
        return bare
    if host in FORGES:
        pieces = path.split("/")
        owner_and_name = [piece.lower() for piece in pieces[:_REPOSITORY_PARTS]]
        owner_and_name[-1] = owner_and_name[-1].removesuffix(".git")
        path = "/".join(owner_and_name + pieces[_REPOSITORY_PARTS:])
        return f"https://{host}/{path}"
    authority = host if port in (None, 80, 443) else f"{host}:{port}"
    scheme = "https" if parts.scheme == "http" else parts.scheme
    return f"{scheme}://{authority}/{path}" if path else f"{scheme}://{authority}"


def without_credentials(name: str) -> str:
    """Return the name, if it is an address without the user and the password in it."""
    return _CREDENTIALS.sub("", name, count=1)


def without_dots(path: str) -> str:
    """Return the path as git requests it: without empty and dot segments, and without .git."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    return "/".join(kept).removesuffix(".git")
