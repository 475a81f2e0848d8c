"""The extra ``agent``: modules that the client, `pip install minerwatch`, does without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minerwatch.errors import MissingExtraError

AGENT_MODULES = frozenset(
    ("ahocorasick", "capstone", "cryptography", "prometheus_client", "sigma", "yara_x")
)


@contextmanager
def agent_modules_for(purpose: str) -> Iterator[None]:
    """Raise MissingExtraError, which says what to install, where one of the modules is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in AGENT_MODULES:
            raise
        raise MissingExtraError(
            f"{purpose} needs the module {error.name}: pip install 'minerwatch[agent]'"
        ) from error
