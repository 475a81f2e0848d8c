"""Imports of parts of a package, deferred until they are used."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


def import_lazily(names: Iterable[str]) -> None:
    """From now on modules of these ``names`` are read at the first look into them.

    The standard library's own way (importlib, "Implementing lazy imports"), for imports that are
    not ours: a package that imports all that it has. Modules that are there already stay.
    """
    sys.meta_path.insert(0, _LazyFinder(frozenset(names)))


class _LazyFinder(MetaPathFinder):
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
