"""Guard sizes, words, private names, skips: ``python -m tests.guards [FILE…]``, in `make check`.

Without files it checks all of them. It lists the violations, and exits with 1 if there is any.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minerwatch"
RULES = ROOT / "rules"
TESTS = ROOT / "tests"

MAX_MODULE_LINES = 500
MAX_CLASS_LINES = 300
MAX_FUNCTION_LINES = 60
"""Without the docstring: that of a command is its help page."""
MAX_CONSTRUCTOR_PARAMETERS = 8

_WORDS = re.compile(
    r"\b(who|whom|whoever|nobody|anew|burn(?:s|t|ing)?|told|lets? go)\b", re.IGNORECASE
)
_WORDS_OF_RULES = re.compile(r"\b(whom|whoever|nobody|anew|burn(?:s|t|ing)?)\b", re.IGNORECASE)
_TEST_OF_A_RULE = re.compile(r" *- \{")
_REPHRASE = "the word {!r}: name the role (operator, tenant, process), or rephrase"
_OPENINGS = re.compile(r"(What|Whether|Return whether|Who|Of|How|When|Where|Those|At|In|From|By)\b")
_OPENINGS_OF_FUNCTIONS = re.compile(r"(?:The|An?|All|Why|One|Each|Every|Field)\b|``")
_PLACE = re.compile(r"\b_?places?\b")
_PATCHING = frozenset(("setattr", "getattr", "delattr", "hasattr"))
_PUBLIC = frozenset(("_replace", "_asdict", "_fields", "_make", "_exit"))
"""Of named tuples and of ``os``: public in spite of their names."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Violation:
    line: int
    text: str


@lru_cache(maxsize=1)  # a file is guarded in several ways
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def size_violations(source: str) -> Iterator[Violation]:
    """Modules, classes, functions and constructors that are too large."""
    lines = source.count("\n")
    if lines > MAX_MODULE_LINES:
        yield Violation(1, f"module of {lines} lines (at most {MAX_MODULE_LINES}): split it")
    for node in _nodes(source):
        if isinstance(node, ast.ClassDef) and (lines := _lines(node)) > MAX_CLASS_LINES:
            yield Violation(
                node.lineno, f"class {node.name} of {lines} lines (at most {MAX_CLASS_LINES})"
            )
        if isinstance(node, _Function):
            yield from _function_violations(node)


def _function_violations(function: _Function) -> Iterator[Violation]:
    lines = _lines(function) - _docstring_lines(function)
    if lines > MAX_FUNCTION_LINES:
        yield Violation(
            function.lineno,
            f"function {function.name} of {lines} lines (at most {MAX_FUNCTION_LINES})",
        )
    arguments = function.args
    count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
    if function.name == "__init__" and count > MAX_CONSTRUCTOR_PARAMETERS:
        yield Violation(
            function.lineno,
            f"constructor with {count} parameters (at most {MAX_CONSTRUCTOR_PARAMETERS})",
        )


def _lines(node: ast.ClassDef | _Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _docstring_lines(function: _Function) -> int:
    if ast.get_docstring(function) is None:
        return 0
    docstring = function.body[0]
    return (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1


def vocabulary_violations(source: str) -> Iterator[Violation]:
    """Words that stand for a person where a role is meant, and docstrings that open as a clause."""
    for line, text in _texts(source):
        for match in _WORDS.finditer(text):
            yield Violation(
                line + text[: match.start()].count("\n"),
                _REPHRASE.format(match[0]),
            )
    for node in _nodes(source):
        if isinstance(node, ast.Module | ast.ClassDef | _Function):
            docstring = ast.get_docstring(node) or ""
            opening = _OPENINGS.match(docstring)
            if not opening and isinstance(node, _Function) and not _is_property(node):
                opening = _OPENINGS_OF_FUNCTIONS.match(docstring)
            if opening:
                yield Violation(
                    getattr(node, "lineno", 1),
                    f"docstring opens with {opening[0]!r}: open with a verb or a noun",
                )


def _is_property(function: _Function) -> bool:
    return function.name == "__init__" or any(
        "property" in ast.unparse(each) for each in function.decorator_list
    )


def place_violations(source: str) -> Iterator[Violation]:
    """Names of an index, a path or a slot: a place is where a process runs, and nothing else."""
    if re.search(r"\bPlace\b", source) or not _PLACE.search(source):  # few have the word
        return
    for node in _nodes(source):
        named = (getattr(node, each, None) for each in ("id", "attr", "name"))
        argument = node.arg if isinstance(node, ast.arg) else None
        for name in (*named, argument):
            if isinstance(name, str) and _PLACE.fullmatch(name):
                line = getattr(node, "lineno", 1)
                yield Violation(line, f"{name!r}: call it index, offset, slot, path or name")


def rule_vocabulary_violations(source: str) -> Iterator[Violation]:
    """The same words in a rule file, except in the facts of its tests."""
    for number, line in enumerate(source.splitlines(), 1):
        if not _TEST_OF_A_RULE.match(line) and (match := _WORDS_OF_RULES.search(line)):
            yield Violation(number, _REPHRASE.format(match[0]))


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """Comments and strings, with their first lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in _nodes(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def private_reaches(source: str) -> Iterator[Violation]:
    """Private names that are not the class's own: used, imported, or patched by a string.

    Make what a test sets a parameter.
    """
    for node in _nodes(source):
        if isinstance(node, ast.Attribute):
            names: Iterable[str] = (
                () if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                else (node.attr,)
            )  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            names = (alias.name for alias in node.names)
        elif isinstance(node, ast.Call):
            names = _patched_names(node)
        else:
            continue
        for name in names:
            if name.startswith("_") and not name.startswith("__") and name not in _PUBLIC:
                yield Violation(node.lineno, name)


def _patched_names(call: ast.Call) -> Iterator[str]:
    called = call.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name in _PATCHING:
        for argument in call.args[:2]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value.rpartition(".")[2]


def skip_violations(source: str) -> Iterator[Violation]:
    """Skipped tests whose reason does not say what would run them."""
    for node in _nodes(source):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in _SKIPS:
            reason = [each.value for each in node.keywords if each.arg == "reason"] or node.args[:1]
            if not _REMEDY.search(ast.unparse(reason[0]) if reason else ""):
                yield Violation(node.lineno, "reason of a skip: say what would run the test")


_SKIPS = frozenset(
    (
        *("pytest.skip", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif"),
        "unavailable",  # of tests.engines
    )
)
_REMEDY = re.compile(
    r"\brun (?:it|as|the tests)\b|\binstall\b|\bmake |\bset |`podman|\bname (?:its|an) |^[A-Z_]+$"
    r"|\byet: "
)


def main(files: Sequence[str]) -> int:
    """Print what is found; 1 if a limit is exceeded."""
    if files:
        return 1 if sum(_print_violations(Path(file).resolve()) for file in files) else 0
    _print_line_counts()
    violations = sum(_print_violations(path) for path in sorted(PACKAGE.rglob("*.py")))
    violations += sum(_print_violations(path) for path in sorted(RULES.rglob("*.yml")))
    violations += sum(_print_violations(path) for path in sorted(TESTS.rglob("*.py")))
    print(f"{violations} violations of size and vocabulary, private names and reasons of skips")
    return 1 if violations else 0


def _print_violations(path: Path) -> int:
    name = str(path.relative_to(ROOT))
    source = path.read_text(encoding="utf-8")
    if TESTS in path.parents:
        found = sorted({*private_reaches(source), *skip_violations(source)})
    elif path.suffix == ".yml":
        found = sorted(rule_vocabulary_violations(source))
    else:
        found = sorted(
            {
                *size_violations(source),
                *vocabulary_violations(source),
                *place_violations(source),
            }
        )
    for violation in found:
        print(f"{name}:{violation.line}: {violation.text}")
    return len(found)


def _print_line_counts() -> None:
    counts: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        inner = path.relative_to(PACKAGE).parts
        counts[inner[0] if len(inner) > 1 else "."] += path.read_text("utf-8").count("\n")
    folders = ", ".join(f"{folder} {count:,}" for folder, count in sorted(counts.items()))
    print(f"minerwatch/ has {counts.total():,} lines: {folders}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
