from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.condition import predicates
from minerwatch.detection.judge import Sighting
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.rule import Rule, SkippedRule
from minerwatch.detection.sigma.rulebook import RuleBook, bare, has_changed, load, reload

TEMPLATE = """\
title: {title}
id: {id}
status: {status}
logsource: {{product: linux, category: process_creation}}
detection:
  a:
    {item}
  condition: a
level: high
"""


def an_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def write(
    path: Path,
    title: str,
    name: str = "",
    item: str = "Image|endswith: /x",
    status: str = "test",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = TEMPLATE.format(title=title, id=an_id(name or title), item=item, status=status)
    path.write_text(text)
    return path


def titles(book: RuleBook) -> list[str]:
    return [rule.title for rule in book.rules]


def test_rules_are_found_at_any_depth_but_not_where_none_are(tmp_path: Path) -> None:
    write(tmp_path / "a.yml", "one")
    write(tmp_path / "deep" / "er" / "b.yaml", "two")
    for folder in ("lists", "tests", ".hidden", "deep/tests"):
        write(tmp_path / folder / "c.yml", f"in {folder}")
    write(tmp_path / "content" / "d.yml", "three")
    (tmp_path / "content" / "d.yar").write_text("rule of_another_kind { condition: false }")
    write(tmp_path / ".d.yml", "hidden")
    (tmp_path / "README.md").write_text("not a rule")
    book = load([tmp_path])
    assert titles(book) == ["one", "three", "two"]
    assert book.errors == ()


def test_later_folder_overrides_by_id(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.yml", "shipped", "same")
    write(tmp_path / "a" / "y.yml", "other")
    write(tmp_path / "b" / "z.yml", "own", "same")
    assert sorted(titles(load([tmp_path / "a", tmp_path / "b"]))) == ["other", "own"]
    assert sorted(titles(load([tmp_path / "b", tmp_path / "a"]))) == ["other", "shipped"]


def test_deprecated_rule_of_a_later_folder_switches_off(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.yml", "shipped", "same")
    write(tmp_path / "b" / "x.yml", "gone", "same", status="deprecated")
    book = load([tmp_path / "a", tmp_path / "b"])
    assert book.rules == ()
    assert book.errors == ()
    assert [type(file.outcome) for file in book.files.values()] == [Rule, SkippedRule]


def test_same_id_twice_in_one_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.yml", "first", "same")
    write(tmp_path / "b.yml", "second", "same")
    book = load([tmp_path])
    assert titles(book) == ["first"]
    expected = f"{tmp_path}/b.yml:2: id {an_id('same')} is also that of {tmp_path}/a.yml"
    assert [str(error) for error in book.errors] == [expected]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    book = load([tmp_path / "none"])
    assert [str(error) for error in book.errors] == [
        f"{tmp_path}/none:1: cannot be read: No such file or directory"
    ]


def test_single_file_may_stand_for_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yml", "one", item="Image|expand: '%names%'")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.txt").write_text("xmrig\n")
    book = load([path])
    assert titles(book) == ["one"]
    assert book.errors == ()


def test_unchanged_rules_are_not_read_again(tmp_path: Path) -> None:
    write(tmp_path / "a.yml", "one")
    book = load([tmp_path])
    assert not has_changed(book)
    assert reload(book).rules[0] is book.rules[0]


def test_broken_file_is_told_and_its_last_rule_stays(tmp_path: Path) -> None:
    broken = write(tmp_path / "a.yml", "one")
    changed = write(tmp_path / "b.yml", "two")
    book = load([tmp_path])
    broken.write_text("title: [")
    write(changed, "two, changed", "two")
    write(tmp_path / "c.yml", "three")
    assert has_changed(book)
    book = reload(book)
    assert titles(book) == ["one", "two, changed", "three"]
    assert [error.path for error in book.errors] == [broken]
    book = reload(book)
    assert titles(book) == ["one", "two, changed", "three"]
    write(broken, "one, mended", "one")
    book = reload(book)
    assert titles(book) == ["one, mended", "two, changed", "three"]
    assert book.errors == ()


def test_removed_file_takes_its_rule_along(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yml", "one")
    book = load([tmp_path])
    path.unlink()
    assert has_changed(book)
    assert reload(book).rules == ()


def test_changed_list_reaches_the_rules_that_use_it(tmp_path: Path) -> None:
    write(tmp_path / "a.yml", "one", item="Image|expand: '%names%'")
    write(tmp_path / "b.yml", "two")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "names.txt").write_text("xmrig\n")
    book = load([tmp_path])
    (lists / "names.txt").write_text("xmrig\nt-rex\n")
    assert has_changed(book)
    again = reload(book)
    assert again.rules[0] != book.rules[0]
    assert again.rules[1] is book.rules[1]
    (lists / "names.txt").write_bytes(b"xmrig\n\xff\n")
    broken = reload(again)
    assert broken.rules == again.rules
    assert [str(error) for error in broken.errors] == [f"{lists}/names.txt:2: not UTF-8: byte 0xff"]
    (lists / "names.txt").unlink()
    gone = reload(broken)
    assert gone.rules == again.rules
    assert "no list for %names%" in str(gone.errors[0])


def config_map(folder: Path, version: str, files: dict[str, str]) -> None:
    """Write files as a kubelet does: a new hidden folder, then one atomic rename of ``..data``."""
    folder.mkdir(exist_ok=True)
    data = folder / version
    data.mkdir()
    for name, title in files.items():
        write(data / name, title, name)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").rename(folder / "..data")


def test_swap_of_a_config_map_is_seen_and_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    config_map(folder, "..2026_11_23", {"a.yml": "old", "b.yml": "same"})
    book = load([folder])
    assert titles(book) == ["old", "same"]
    assert book.errors == ()
    config_map(folder, "..2026_11_24", {"a.yml": "new", "b.yml": "same"})
    assert has_changed(book)
    book = reload(book)
    assert titles(book) == ["new", "same"]
    assert not has_changed(book)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    (folder / "..data" / "lists").mkdir(parents=True)
    (folder / "..data" / "lists" / "names.txt").write_text("xmrig\n")
    (folder / "lists").symlink_to("..data/lists")
    write(folder / "a.yml", "one", item="Image|expand: '%names%'")
    (folder / "round").symlink_to(".")
    book = load([folder])
    assert titles(book) == ["one"]
    assert book.errors == ()


def test_dangling_link_keeps_the_last_rule(tmp_path: Path) -> None:
    write(tmp_path / "..data" / "a.yml", "one")
    (tmp_path / "a.yml").symlink_to("..data/a.yml")
    book = load([tmp_path])
    (tmp_path / "..data" / "a.yml").unlink()
    book = reload(book)
    assert titles(book) == ["one"]
    assert "No such file" in str(book.errors[0])


def test_vanished_folder_keeps_its_rules(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.yml", "one")
    write(tmp_path / "b" / "y.yml", "two")
    book = load([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").rename(tmp_path / "c")
    assert has_changed(book)
    book = reload(book)
    assert titles(book) == ["one", "two"]
    assert len(book.errors) == 1


def test_unreadable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "shut" / "x.yml", "one")
    write(tmp_path / "y.yml", "two")
    book = load([tmp_path])
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    book = reload(book)
    assert sorted(titles(book)) == ["one", "two"]
    assert [str(error) for error in book.errors] == [
        f"{tmp_path}/shut:1: cannot be read: Permission denied"
    ]


def test_file_that_vanishes_between_listing_and_reading_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.yml", "one")
    book = load([tmp_path])
    monkeypatch.setattr(
        "os.open", lambda *_args: (_ for _ in ()).throw(FileNotFoundError(2, "gone"))
    )
    os.utime(tmp_path / "a.yml", ns=(1, 1))
    book = reload(book)
    assert titles(book) == ["one"]
    assert len(book.errors) == 1


def test_rules_of_a_private_folder_are_marked(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.yml", "shown")
    secret = write(tmp_path / "b" / "y.yml", "secret")
    write(tmp_path / "b" / "z.yml", "broken", item="Image|sounds: hush")
    book = load([tmp_path / "a", tmp_path / "b"], private=[tmp_path / "b"])
    assert {rule.title: rule.private for rule in book.rules} == {"shown": False, "secret": True}
    (error,) = book.errors
    assert "sounds" in str(error)
    assert book.public_reason(error) == (
        f"{tmp_path}/b/z.yml:{error.line}: private: `minerwatch rules lint` says why"
    )
    secret.write_text("title: [")  # what it gave before stays in force, and stays private
    again = reload(book)
    assert {rule.title: rule.private for rule in again.rules} == {"shown": False, "secret": True}
    assert all("private:" in again.public_reason(error) for error in again.errors)
    shown = reload(replace(again, private=()))
    assert [rule.private for rule in shown.rules] == [False, False]


def test_a_private_rule_that_replaces_a_shipped_one_is_private(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.yml", "shipped", "same")
    write(tmp_path / "b" / "y.yml", "ours", "same")
    (rule,) = load([tmp_path / "a", tmp_path / "b"], private=[tmp_path / "b"]).rules
    assert (rule.title, rule.private) == ("ours", True)


def test_entries_of_a_private_list_are_private_also_in_a_public_rule(tmp_path: Path) -> None:
    shown, hidden = tmp_path / "a", tmp_path / "b"
    write(shown / "x.yml", "shown", item="Image|endswith|expand: '/%names%'")
    for folder, name in ((shown, "known"), (hidden, "zebra")):
        (folder / "lists").mkdir(parents=True)
        (folder / "lists" / "names.txt").write_text(name + "\n")

    def told(book: RuleBook, image: str) -> bool:
        (rule,) = book.rules
        (match,) = Matcher(book.rules).matches({"Image": image})
        return not Sighting(rule, None, match.evidence).private

    book = load([shown, hidden], private=[hidden])
    assert told(book, "/x/known")
    assert not told(book, "/x/zebra")
    assert told(load([shown, hidden]), "/x/zebra")
    bared = bare(book)
    assert not told(bared, "/x/zebra")
    (hidden / "lists" / "names.txt").write_text("known\nlion\n")
    book = reload(book)  # what others have, too, is no secret
    assert told(book, "/x/known")
    assert not told(book, "/x/lion")
    (shown / "lists" / "names.txt").write_text("lion\n")
    book = reload(book)
    assert told(book, "/x/lion")
    assert not told(book, "/x/known")
    (shown / "lists" / "names.txt").unlink()
    book = reload(book)
    assert not told(book, "/x/known")
    assert told(reload(replace(book, private=())), "/x/known")


def test_the_error_of_a_public_rule_does_not_tell_a_private_list(tmp_path: Path) -> None:
    shown, hidden = tmp_path / "a", tmp_path / "b"
    write(shown / "x.yml", "shown", item="Image|re|expand: 'x{1,%names%}'")
    (hidden / "lists").mkdir(parents=True)
    (hidden / "lists" / "names.txt").write_text("4711\n")
    book = load([shown, hidden], private=[hidden])
    (error,) = book.errors
    assert "4711" in str(error)  # lint shows it
    assert "4711" not in book.public_reason(error)
    assert str(shown) in book.public_reason(error)


def test_equal_conditions_are_one_object_also_after_a_reload(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.txt").write_text("grep\nless\nvim\n")
    for title in ("one", "two"):
        write(tmp_path / f"{title}.yml", title, item="Comm|expand: '%names%'")
    before = load([tmp_path])
    write(tmp_path / "three.yml", "three", item="Comm|expand: '%names%'")
    after = reload(before)
    assert len(after.rules) == 3
    assert len({id(rule.condition) for rule in (*before.rules, *after.rules)}) == 1


def test_the_shipped_rules_are_made_of_few_predicates() -> None:
    rules = load([BUILT_IN_RULES]).rules
    kept = {id(each): each for rule in rules for each in predicates(rule.condition)}
    assert len(kept) == len(set(kept.values()))
