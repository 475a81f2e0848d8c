"""Reports on an agent's port: their paths, and the audience of tokens for them."""

from __future__ import annotations

REPORT_PATH = "/report"
"""Non-resource URL that a token's user must be allowed to get, for both paths."""
FULL_REPORT_PATH = "/report/full"

TOKEN_HEADER = "X-Minerwatch-Token"  # noqa: S105 - the API server removes ``Authorization``
_AUDIENCE = "minerwatch.io/node/"


def audience(node: str) -> str:
    """Return the audience of tokens for one node's agent, which no other server accepts."""
    return _AUDIENCE + node
