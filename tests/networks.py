"""A pod's network and one that stands for the internet; nothing leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.networks import Networks, NoNetworksError, networks


@contextmanager
def two_networks() -> Iterator[Networks]:
    """Make them, or skip the test."""
    try:
        with networks() as found:
            yield found
    except NoNetworksError as error:
        pytest.skip(f"{error}: run it as root")
