"""Literals of which a text must hold one for a regular expression to match it at all.

Looking for thousands of literals costs one pass over a text, whatever they are; a regular
expression is a pass of its own. So those whose literals are not there are never asked.

The standard library's parser reads the pattern: where RE2 and it agree, the tree is the same, and
where they might not, there is no answer. Only ASCII counts: what folds to it is known
(CaseFolding.txt of Unicode: the Kelvin sign is a k, the long s is an s).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_MOST_EXACT = 64
"""Texts that a piece of a pattern may stand for before it is no longer written out."""
_MOST_LITERALS = 512
_LONGEST = 48
_LONGEST_LEAST = 1 << 16

_SHORTEST = 2
"""Nearly every text has any one character in it."""

_NOT_THE_SAME = re.compile(r"\[:\^?[a-z]+:\]|\\[QCpP]")
"""What RE2 reads otherwise than the standard library: classes by name, quoting."""


def folded(text: str) -> str:
    """The form of a text in which a ``Requirement``'s literals are to be looked for."""
    lower = text.lower()
    return lower.replace("ſ", "s") if "ſ" in lower else lower


@dataclass(frozen=True, slots=True)
class Requirement:
    """What every text that a pattern matches has."""

    literals: frozenset[str] | None  # one of these in its folded form; None: none are known
    least_length: int  # characters


_NO_REQUIREMENT = Requirement(None, 0)


def requirement(pattern: str) -> Requirement:
    """What a text must have for RE2's ``pattern`` to match somewhere in it."""
    if _NOT_THE_SAME.search(pattern):
        return _NO_REQUIREMENT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of signs that may mean something else some day
            tree = _parser.parse(pattern.replace(r"\z", r"\Z"))
        found = _piece(tree)
        least_length = min(int(tree.getwidth()[0]), _LONGEST_LEAST)
    except (re.error, RecursionError, OverflowError, AttributeError, ValueError, TypeError):
        return _NO_REQUIREMENT
    best = _better(found.needed, _as_needed(found.exact))
    if best is not None and min(map(len, best)) < _SHORTEST:
        best = None
    return Requirement(best, least_length)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is known of a part of a pattern."""

    exact: frozenset[str] | None  # all texts that it matches, folded
    needed: frozenset[str] | None  # each text that it matches holds one of these
    ends: frozenset[str] | None = None  # each begins with one of these, and ends with one


_EMPTY = _Piece(frozenset(("",)), None)
_ANYTHING = _Piece(None, None)


def _piece(sequence: Iterable[tuple[Any, Any]]) -> _Piece:
    """What is known of a sequence, one piece after the other."""
    run: frozenset[str] = frozenset(("",))
    is_exact = True
    needed: frozenset[str] | None = None
    for operator, argument in sequence:
        piece = _of_operator(operator, argument)
        joined = _joined(run, piece.exact) if piece.exact is not None else None
        if joined is not None:
            run = joined
            continue
        is_exact = False
        ends = piece.exact if piece.exact is not None else piece.ends
        if piece.ends is not None:
            run = _joined(run, piece.ends) or run
        needed = _better(_better(needed, _as_needed(run)), piece.needed)
        run = ends if ends is not None else frozenset(("",))
    return _Piece(run, None) if is_exact else _Piece(None, _better(needed, _as_needed(run)))


def _joined(left: frozenset[str], right: frozenset[str]) -> frozenset[str] | None:
    if len(left) * len(right) > _MOST_EXACT:
        return None
    joined = frozenset(one + other for one in left for other in right)
    return joined if all(len(text) <= _LONGEST for text in joined) else None


def _of_operator(operator: Any, argument: Any) -> _Piece:
    match str(operator):
        case "LITERAL":
            char = folded(chr(argument))
            return _Piece(frozenset((char,)), None) if char.isascii() else _ANYTHING
        case "AT":
            return _EMPTY
        case "IN":
            return _of_set(argument)
        case "SUBPATTERN":
            return _piece(argument[-1])
        case "BRANCH":
            return _of_branch([_piece(one) for one in argument[1]])
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, repeated = argument
            return _of_repeat(least, most, _piece(repeated))
    return _ANYTHING


def _of_set(members: list[tuple[Any, Any]]) -> _Piece:
    chars = {folded(chr(argument)) for operator, argument in members if str(operator) == "LITERAL"}
    is_all = all(str(operator) == "LITERAL" for operator, _ in members)
    if not is_all or not all(char.isascii() for char in chars):
        return _ANYTHING
    return _Piece(frozenset(chars), None)


def _of_branch(pieces: list[_Piece]) -> _Piece:
    if all(piece.exact is not None for piece in pieces):
        exact = frozenset(text for piece in pieces for text in piece.exact or ())
        if len(exact) <= _MOST_EXACT:
            return _Piece(exact, None)
    each = [_better(piece.needed, _as_needed(piece.exact)) for piece in pieces]
    if any(literals is None for literals in each):
        return _ANYTHING
    needed = frozenset(literal for literals in each for literal in literals or ())
    return _Piece(None, needed if len(needed) <= _MOST_LITERALS else None)


def _of_repeat(least: int, most: int, piece: _Piece) -> _Piece:
    if (least, most) == (1, 1):
        return piece
    if least == 0:
        if most == 1 and piece.exact is not None and len(piece.exact) < _MOST_EXACT:
            return _Piece(piece.exact | {""}, None)
        return _ANYTHING
    return _Piece(None, _better(piece.needed, _as_needed(piece.exact)), piece.exact)


def _as_needed(exact: frozenset[str] | None) -> frozenset[str] | None:
    return None if exact is None or "" in exact or not exact else exact


def _better(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """The literals that fewer texts will hold: the longer ones, then the fewer."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda each: (min(map(len, each)), -len(each)))


_parser: Any = getattr(re, "_parser")  # noqa: B009 - it has no public name
