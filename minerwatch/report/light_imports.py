"""Modules without what they import but the agent never uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
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


@contextmanager
def loaded_when_used(module: str) -> Iterator[None]:
    """Who imports ``module`` within it has it loaded when something of it is used, not before.

    Others get the module itself. Where it has been imported already, nothing happens.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = _StandIn(module)
    try:
        yield
    finally:
        del sys.modules[module]


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> object:
        module = import_module(self.__name__)
        if module is self:  # still within it
            raise AttributeError(f"{self.__name__} is not to be used yet: {name}")
        return getattr(module, name)
