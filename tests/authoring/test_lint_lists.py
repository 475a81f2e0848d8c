from __future__ import annotations

from pathlib import Path

from minerwatch.authoring.lint import lint
from tests.authoring.test_rule_tests import GOOD, book


def test_a_list_that_no_rule_uses_is_said(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.txt").write_text("# Source: here. Date: 2026-11-25\na\n")
    (remark,) = lint(book(tmp_path, GOOD))
    assert str(remark).startswith(f"{tmp_path}/lists/names.txt:1: warning: no rule uses %names%")


def test_entries_that_are_not_what_they_seem_are_said(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "names.txt"
    path.write_text("# names\nminer\n\n*.example.org\nMiner\nhttps://a/\n7\n")
    path.write_text(path.read_text() + "zeta  # in mines\n")
    text = GOOD.replace("{Comm: miner}, c", "{Comm|expand: '%names%'}, c")
    found = [str(remark) for remark in lint(book(tmp_path, text)) if remark.path == path]
    assert found == [
        f"{path}:1: warning: no date: add the day when the source was read, '# Date: 2026-11-24'",
        f"{path}:1: warning: no source: add '# Source: https://…'",
        f"{path}:4: warning: '*.example.org' follows 'miner': sort the entries",
        f"{path}:4: warning: * is literal in a list: write the text itself",
        f"{path}:5: warning: 'Miner' has capital letters: write lower case",
        f"{path}:5: warning: 'Miner' is also in line 2",
        f"{path}:6: warning: 'https://a/' is a URL: write the host only",
        f"{path}:8: warning: the comment is part of the entry: give it its own line",
    ]


def test_numbers_of_a_list_are_sorted_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "ports.txt"
    path.write_text("# Source: here. Date: 2026-11-25\n# Source: there\n80\n443\n3333\n")
    text = GOOD.replace("{Comm: miner}, c", "{DestinationPort|expand: '%ports%'}, c")
    assert [remark for remark in lint(book(tmp_path, text)) if remark.path == path] == []
