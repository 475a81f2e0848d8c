"""Modules of a package without what the package itself imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def parts_only(package: str) -> Iterator[None]:
    """Within it ``package``'s modules can be imported, and its ``__init__`` is not run.

    Who imports the whole package later gets it whole, made of the same modules. Where it has been
    imported already, nothing happens.
    """
    if package in sys.modules:
        yield
        return
    spec = find_spec(package)
    stand_in = ModuleType(package)
    stand_in.__spec__ = spec
    stand_in.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]
