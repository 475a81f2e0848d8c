from __future__ import annotations

from pathlib import Path

import pytest

from tests import guards
from tests.guards import (
    place_violations,
    private_reaches,
    rule_vocabulary_violations,
    size_violations,
    skip_violations,
    vocabulary_violations,
)


def body(lines: int, indent: int = 4) -> str:
    return (" " * indent + "x = 1\n") * lines


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 500, []),
        ("x = 1\n" * 501, ["module of 501 lines"]),
        ("class A:\n" + body(299), []),
        ("class A:\n" + body(300), ["class A of 301 lines"]),
        ("def f():\n" + body(59), []),
        ("def f():\n" + body(60), ["function f of 61 lines"]),
        ("async def f():\n" + body(60), ["function f of 61 lines"]),
        ('def f():\n    """Help.\n' + "\n" * 70 + '    """\n', []),
        ("class A:\n    def __init__(self, a, b, c, d, e, f, /, g, *, h): ...\n", []),
        (
            "class A:\n    def __init__(self, a, b, c, d, e, f, /, g, *, h, i): ...\n",
            ["constructor"],
        ),
    ],
)
def test_sizes(source: str, found: list[str]) -> None:
    violations = list(size_violations(source))
    assert len(violations) == len(found)
    assert all(each.text.startswith(text) for each, text in zip(violations, found, strict=True))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("x = 1  # nobody reads it\n", 1),
        ('"""A line.\n\nWho reads it?"""\n', 3),
        ('x = f"for {1} whom"\n', 1),
        ('def f():\n    """What it is."""\n', 1),
        ('class A:\n    """Whether it is."""\n', 1),
        ('def f():\n    """Return whether it is."""\n', 1),
        ('"""How."""\n', 1),
        ('def f():\n    """The rest."""\n', 1),
        ('def f():\n    """``a`` and the rest."""\n', 1),
    ],
)
def test_words(source: str, line: int) -> None:
    (violation,) = vocabulary_violations(source)
    assert violation.line == line


def test_a_place_is_where_a_process_runs() -> None:
    source = "def f(place):\n    return [g.places for _place in place]\n"
    assert [each.line for each in place_violations(source)] == [1, 2, 2, 2]
    assert not list(place_violations("def f(place: Place): ...\nlog(place=1, replace=2)\n"))
    assert not list(place_violations("log(place=1, replace=2)\n"))


def test_words_of_rules() -> None:
    source = """title: A process that burns CPU
# People who build there, users of the account nobody:
    match:
      - {CommandLine: sudo -u nobody ./a}
"""
    assert [each.line for each in rule_vocabulary_violations(source)] == [1, 2]


def test_a_property_or_a_constructor_opens_with_a_noun() -> None:
    of_class = '    @property\n    def f(self):\n        """The rest."""\n'
    of_class += '    def __init__(self, a):\n        """``a``: the rest."""\n'
    assert not list(vocabulary_violations(f"class A:\n{of_class}"))


def test_words_of_the_field_are_none() -> None:
    assert not list(vocabulary_violations('"""Return whose it is."""\nwho = "whole"  # however\n'))


@pytest.mark.parametrize(
    ("call", "count"),
    [
        ("pytest.skip('needs helm: make helm')", 0),
        ("pytest.mark.skipif(True, reason='mounts: run it as root')", 0),
        ("pytest.skip(str(error))", 1),
        ("pytest.mark.skipif(True)", 1),
        ("pytest.importorskip('x', reason='needs x')", 1),
    ],
)
def test_a_skip_says_what_would_run_it(call: str, count: int) -> None:
    assert len(list(skip_violations(call))) == count


def test_private_names() -> None:
    source = """
from minerwatch.worker import _note, Worker
import minerwatch.worker as worker
class A:
    def f(self, other):
        self._own = worker.__doc__
        other._theirs = point._replace(x=1)
        monkeypatch.setattr(worker, "_STEADY_S", 0)
        monkeypatch.setattr("minerwatch.worker._LATE_S", 0)
"""
    found = [each.text for each in private_reaches(source)]
    assert sorted(found) == ["_LATE_S", "_STEADY_S", "_note", "_theirs"]


def test_violations_of_a_file_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guards, "ROOT", tmp_path)
    monkeypatch.setattr(guards, "TESTS", tmp_path / "tests")
    (tmp_path / "tests").mkdir()
    (tmp_path / "a.py").write_text("# anew\n")
    (tmp_path / "tests" / "test_a.py").write_text("x._y = 1\n")
    paths = [str(tmp_path / "a.py"), str(tmp_path / "tests" / "test_a.py")]
    assert guards.main(paths) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a.py:1: the word 'anew': name the role (operator, tenant, process), or rephrase",
        "tests/test_a.py:1: _y",
    ]
    (tmp_path / "a.py").write_text("")
    assert guards.main(paths[:1]) == 0
