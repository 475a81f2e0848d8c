"""What there is to be fuzzed: one entry a parser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

Run = Callable[[bytes], None]

SEPARATOR = b"\n%%\n"
"""Between the files, messages or names that one input is made of."""

_MODULES = ("node", "processes", "rules", "socket", "reports", "cluster", "web")


@dataclass(frozen=True, slots=True)
class Target:
    """A parser with its contract."""

    name: str
    run: Run  # raises for whatever the contract does not permit
    parses: tuple[str, ...]  # modules of minerwatch whose parsing it covers
    max_bytes: int = 4096
    cost: int = 1  # of one input, in those of a cheap target: it gets so many fewer of them


_registered: dict[str, Target] = {}


def target(*parses: str, max_bytes: int = 4096, cost: int = 1) -> Callable[[Run], Run]:
    """Registers a function under its own name as the target for what ``parses`` names."""

    def register(run: Run) -> Run:
        name = run.__name__
        assert name not in _registered, name
        modules = tuple(f"minerwatch.{module}" for module in parses)
        _registered[name] = Target(name, run, modules, max_bytes, cost)
        return run

    return register


def named(name: str) -> Target:
    """One target, without the modules that only others need."""
    folder = Path(__file__).parent / "targets"
    for module in _MODULES:
        if f"\ndef {name}(" in (folder / f"{module}.py").read_text():
            import_module(f"tests.fuzz.targets.{module}")
            return _registered[name]
    raise KeyError(name)


@cache
def targets() -> dict[str, Target]:
    """All of them, by name."""
    for module in _MODULES:
        import_module(f"tests.fuzz.targets.{module}")
    return dict(sorted(_registered.items()))


def parts(data: bytes, count: int) -> list[bytes]:
    """Exactly ``count`` pieces of an input; the last holds what is left, missing ones are empty."""
    found = data.split(SEPARATOR, count - 1)
    return found + [b""] * (count - len(found))
