r"""Find what a text must contain for a predicate to hold: one of some literals, a long word.

One pass over a text finds thousands of literals, whereas each regular expression is a pass of its
own. A predicate is evaluated only where one of its literals is found.

Literals are searched in the normal form of a text: lower case, each run of blanks as one blank, a
blank at both ends. So ``(?:^|\s)-u\s+\S`` requires `` -u ``, which is rarer than ``-u``.

The standard library's parser reads the expression. Where RE2 and the parser may disagree, no
literal is required. Only ASCII literals are used: the characters that fold to ASCII are known from
Unicode's CaseFolding.txt (the Kelvin sign to k, the long s to s).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from minerwatch.detection.condition import Flag, How, Text, wildcard_regex
from minerwatch.detection.predicate import encoded

_MAX_EXACT = 160
"""Texts that a part of an expression is expanded to; beyond that it is not expanded."""
_MAX_LITERALS = 512
_MAX_LITERAL_LENGTH = 48
_MIN_LITERAL_LENGTH = 2
_MAX_WORD_LENGTH = 16
_MAX_COPIES = 4
"""Copies of a repeated part that are expanded."""
_LONG_ENOUGH = 12
"""Characters of a literal that exclude nearly as much as more would; each takes 70 bytes."""
_MIN_CORE_LENGTH = 6
"""Characters of the shortest text that stands for all literals that contain it."""

_LONG_WORD_LENGTH = 24
_LONG_WORD = b"w" * _LONG_WORD_LENGTH
_AS_WORDS = re.sub(rb"[0-9A-Za-z_\x80-\xff]", b"w", bytes(range(256)))
"""Bytes of words as one letter; a byte of a character that is not ASCII may fold to ASCII."""

_READ_DIFFERENTLY = re.compile(r"\[:\^?[a-z]+:\]|\\[QCpP]")
"""Syntax that RE2 has and the standard library has not: named classes, quoting."""

_ORDINARY = (
    " /usr/bin/python3 -m app --port 8080 -u user -p 80 -o out.json -c 4 -n 1 -t 30 -s x -d y -v"
    " -i in.txt -f file -r -a -w -e -l -k -b -x -g -h /usr/bin/node server.js /usr/local/bin/run.py"
    " /usr/lib/jvm/bin/java -jar /opt/app/lib/app.jar /bin/sh -c exec /bin/bash -l /usr/sbin/nginx"
    " /home/user/.local/share/conda/bin/pip --config=/etc/app/a.yml --name=worker --host 10.0.0.1"
    " --log-level info --user root /var/lib/data /tmp/x.log /proc/self gcc -o2 cargo build"
    " https://example.org:443/ 8 4096 git run start test local "
)
"""Common words of command lines: a literal in them is common, and a poor choice."""


def has_long_word(text: str) -> bool:
    """Return True if a text may have a word that few have: an address of a coin, or a digest."""
    return _LONG_WORD in encoded(text).translate(_AS_WORDS)  # a third of RE2's time


def normal_form(text: str) -> str:
    """Return the form of a text in which required literals are searched."""
    lower = f" {text.lower()} "
    if lower.isascii():
        if lower.isprintable() and "  " not in lower:
            return lower
    elif "ſ" in lower:
        lower = lower.replace("ſ", "s")
    words = " ".join(lower.split())
    return f" {words} " if words else " "


@dataclass(frozen=True, slots=True)
class Requirement:
    """Necessary conditions for a predicate to hold on a text."""

    literals: frozenset[str] | None  # its normal form contains one of these; None: none are known
    has_long_word: bool = False  # it contains a long word


_NO_REQUIREMENT = Requirement(None)


def requirement_of(text: Text | Flag) -> Requirement:
    """Return the requirement of a predicate on the texts of its fact."""
    if isinstance(text, Flag):
        return Requirement(frozenset((" true " if text.expected else " false ",)))
    match text.how:
        case How.REGEX:
            return requirement(text.pattern)
        case How.WILDCARD:
            return Requirement(requirement(wildcard_regex(text)).literals)
    literal = text.pattern
    if text.cased and not literal.isascii():
        return _NO_REQUIREMENT  # str.lower() may depend on the letters around
    starts = text.how in (How.EQUALS, How.STARTSWITH)
    ends = text.how in (How.EQUALS, How.ENDSWITH)
    inner = literal.lower().replace("ſ", "s")
    before = " " if starts or inner[:1].isspace() else ""
    after = " " if ends or inner[-1:].isspace() else ""
    normal = f"{before}{' '.join(inner.split())}{after}"
    is_long = len(normal.strip()) > 0 and len(normal) >= _MIN_LITERAL_LENGTH
    normal = _shortened(normal)
    return Requirement(frozenset((normal,))) if is_long else _NO_REQUIREMENT


def requirement(pattern: str) -> Requirement:
    """Return the requirement of RE2's ``pattern``, searched anywhere in a text."""
    if _READ_DIFFERENTLY.search(pattern):
        return _NO_REQUIREMENT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FutureWarning on "[[" and the like
            tree = _parser.parse(pattern.replace(r"\z", r"\Z"))
        part = _sequence(tree)
        is_long = _has_long_word(tree)
    except (re.error, RecursionError, OverflowError, AttributeError, ValueError, TypeError):
        return _NO_REQUIREMENT
    best = _rarer(part.needed, part.exact)
    if best is not None and min(map(len, best)) < _MIN_LITERAL_LENGTH:
        best = None
    return Requirement(best and _fewest(best), is_long)


def _fewest(literals: frozenset[str]) -> frozenset[str]:
    """Return fewer literals that exclude nearly as much, and take less memory.

    The longest text that all have in common, if it is rare; else those that contain no other one.
    """
    by_length = sorted(sorted(map(_shortened, literals)), key=len)
    core = _common_part(by_length)
    if core and not occurrences(core):
        return frozenset((core,))
    fewest: list[str] = []
    for literal in by_length:
        if not any(shorter in literal for shorter in fewest):
            fewest.append(literal)
    return frozenset(fewest)


def _shortened(literal: str) -> str:
    """Return the beginning of a long literal if it is as rare."""
    start = literal[:_LONG_ENOUGH]
    return literal if occurrences(start) > occurrences(literal) else start


def _common_part(by_length: list[str]) -> str:
    """Return the longest text that is in all; "" if it is too short to be rare."""
    first = by_length[0]
    for length in range(len(first), _MIN_CORE_LENGTH - 1, -1):
        for start in range(len(first) - length + 1):
            core = first[start : start + length]
            if all(core in each for each in by_length):
                return core
    return ""


def commonness(literals: frozenset[str]) -> tuple[int, int, int]:
    """Return a sort key: the higher, the more texts are expected to contain one of them."""
    return sum(map(occurrences, literals)), -min(map(len, literals), default=0), len(literals)


@lru_cache(maxsize=4096)
def occurrences(literal: str) -> int:
    """Return how often a literal is in ordinary command lines."""
    return _ORDINARY.count(literal)


# Parts of an expression. ``^`` and ``$`` stand for the blanks at the ends of a normal form.


_Texts = frozenset[str]


@dataclass(frozen=True, slots=True)
class _Part:
    """Normal forms, without the blanks at the ends, of the texts that a part matches."""

    exact: _Texts | None = None  # all of them
    needed: _Texts | None = None  # each contains one of these
    first: _Texts | None = None  # each begins with one of these
    last: _Texts | None = None  # each ends with one of these

    @property
    def heads(self) -> _Texts | None:
        return self.first if self.exact is None else self.exact

    @property
    def tails(self) -> _Texts | None:
        return self.last if self.exact is None else self.exact


_NOTHING = frozenset(("",))
_BLANK = frozenset((" ",))
_ANYTHING = _Part()


def _sequence(operators: Iterable[tuple[Any, Any]]) -> _Part:
    run: _Texts = _NOTHING
    first: _Texts | None = None
    needed: _Texts | None = None
    is_exact = True
    for part in _parts(operators):
        joined = _joined(run, part.exact) if part.exact is not None else None
        if joined is not None:
            run = joined
            continue
        if part.heads is not None:
            run = _joined(run, part.heads) or run
        first = run if is_exact else first
        is_exact = False
        needed = _rarer(_rarer(needed, run), part.needed)
        run = part.tails or _NOTHING
    if is_exact:
        return _Part(exact=run)
    return _Part(needed=_rarer(needed, run), first=first, last=run)


def _parts(operators: Iterable[tuple[Any, Any]]) -> Iterator[_Part]:
    """Yield the parts of a sequence; a word, which most of them are in, is one."""
    word = ""
    for operator, argument in operators:
        char = _ascii_character(argument) if str(operator) == "LITERAL" else None
        if word and (char is None or len(word) == _MAX_WORD_LENGTH):
            yield _Part(exact=frozenset((word,)))
            word = ""
        if char is None:
            yield _part(operator, argument)
        elif char != " " or word[-1:] != " ":
            word += char
    if word:
        yield _Part(exact=frozenset((word,)))


def _ascii_character(code: int) -> str | None:
    """Return the character in the normal form; None if it is not ASCII."""
    char = chr(code).lower().replace("ſ", "s")
    if char.isspace():
        return " "
    return char if char.isascii() else None


def _joined(left: _Texts, right: _Texts) -> _Texts | None:
    if len(left) * len(right) > _MAX_EXACT:
        return None
    joined = frozenset(
        one + (other[1:] if one[-1:] == " " == other[:1] else other)
        for one in left
        for other in right
    )
    return joined if all(len(text) <= _MAX_LITERAL_LENGTH for text in joined) else None


def _part(operator: Any, argument: Any) -> _Part:
    match str(operator):
        case "LITERAL":
            return _of_characters([(operator, argument)])
        case "IN":
            return _of_characters(argument)
        case "AT":
            return _Part(exact=_BLANK if str(argument) in _ENDS else _NOTHING)
        case "SUBPATTERN":
            return _sequence(argument[-1])
        case "BRANCH":
            return _of_branch([_sequence(one) for one in argument[1]])
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, repeated = argument
            return _of_repeat(int(least), int(most), _sequence(repeated))
    return _ANYTHING


_ENDS = frozenset(("AT_BEGINNING", "AT_BEGINNING_STRING", "AT_END", "AT_END_STRING"))


def _of_characters(members: Iterable[tuple[Any, Any]]) -> _Part:
    found = set()
    for operator, argument in members:
        char = " " if str(argument) == "CATEGORY_SPACE" else None
        if str(operator) == "LITERAL":
            char = _ascii_character(argument)
        if char is None:
            return _ANYTHING
        found.add(char)
    return _Part(exact=frozenset(found))


def _of_branch(parts: list[_Part]) -> _Part:
    exact = _union([part.exact for part in parts], _MAX_EXACT)
    if exact is not None:
        return _Part(exact=exact)
    return _Part(
        needed=_union([_rarer(part.needed, part.exact) for part in parts], _MAX_LITERALS),
        first=_union([part.heads for part in parts], _MAX_EXACT),
        last=_union([part.tails for part in parts], _MAX_EXACT),
    )


def _union(each: list[_Texts | None], most: int) -> _Texts | None:
    known = [texts for texts in each if texts is not None]
    union = frozenset().union(*known)
    return union if len(known) == len(each) and len(union) <= most else None


def _of_repeat(least: int, most: int, part: _Part) -> _Part:
    if part.exact == _BLANK:  # several blanks are one
        return _Part(exact=_BLANK if least else _BLANK | _NOTHING)
    copies: list[_Texts] = [_NOTHING]
    while part.exact is not None and len(copies) <= min(most, _MAX_COPIES):
        more = _joined(copies[-1], part.exact)
        if more is None:
            break
        copies.append(more)
    if most < len(copies):
        exact = frozenset().union(*copies[least:])
        if len(exact) <= _MAX_EXACT:
            return _Part(exact=exact)
    if least == 0:
        return _ANYTHING
    if part.exact is None:
        return _Part(needed=part.needed, first=part.first, last=part.last)
    known = copies[min(least, len(copies) - 1)]
    return _Part(needed=_rarer(known, None), first=known, last=known)


def _rarer(one: _Texts | None, other: _Texts | None) -> _Texts | None:
    """Return the literals that fewer texts are expected to contain."""
    known = [each for each in (one, other) if each and "" not in each]
    return min(known, key=commonness, default=None)


def _has_long_word(operators: Iterable[tuple[Any, Any]]) -> bool:
    """Return True if all that the operators match contains a long word."""
    for operator, argument in operators:
        match str(operator):
            case "SUBPATTERN":
                has = _has_long_word(argument[-1])
            case "BRANCH":
                has = all(map(_has_long_word, argument[1]))
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, _, repeated = argument
                is_word = len(repeated) > 0 and all(map(_is_of_word, repeated))
                is_long = is_word and least >= _LONG_WORD_LENGTH
                has = is_long or (least > 0 and _has_long_word(repeated))
            case _:
                has = False
        if has:
            return True
    return False


def _is_of_word(part: tuple[Any, Any]) -> bool:
    """Return True if what a character or a class matches may be part of a long word."""
    match str(part[0]), part[1]:
        case "IN", members:
            return all(map(_is_of_word, members))
        case "LITERAL", char:
            return bool(_WORD.fullmatch(chr(char)))
        case "RANGE", (first, last):
            return bool(_WORD_RANGE.fullmatch(chr(first) + chr(last)))
        case "CATEGORY", category:
            return str(category) in ("CATEGORY_DIGIT", "CATEGORY_WORD")
    return False


_WORD = re.compile(r"\w", re.ASCII)
_WORD_RANGE = re.compile("[0-9]{2}|[a-z]{2}|[A-Z]{2}")


_parser: Any = getattr(re, "_parser")  # noqa: B009 - it has no public name
