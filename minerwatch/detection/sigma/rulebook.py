"""Stacked rule folders -> the rules in force, and again whenever a file changes.

A folder holds rule files (``*.yml``, ``*.yaml``, at any depth) and ``lists/*.txt``. Names that
begin with a dot are left out: a ConfigMap's files are links into a hidden folder whose name changes
with every update, and are read through the links only. The folders ``lists`` and ``tests`` hold no
rules. YARA files (``*.yar``) say what to look for in executables and memory; the rule files beside
them say what it means. A later folder's YARA file stands beside an earlier one's.

A later folder overrides: its rule replaces an earlier folder's rule of the same id, and its
deprecated rule switches that off. Its list extends an earlier folder's list of the same name.

Nothing here raises because of what a file holds. A file or folder that cannot be used is reported,
and the rules that it gave before stay in force.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from minerwatch.detection.condition import Known, predicates, shared
from minerwatch.detection.sigma.lists import Lists, read_lists
from minerwatch.detection.sigma.rule import Rule, SkippedRule, parse_rule
from minerwatch.detection.sigma.yaml_document import Stamp, read_text, stamp_of
from minerwatch.errors import RuleError

_NO_RULES_BELOW = frozenset(("lists", "tests"))
_RULE_SUFFIXES = frozenset((".yml", ".yaml"))
_CONTENT_SUFFIXES = frozenset((".yar", ".yara"))
_MAX_DEPTH = 16

Outcome = Rule | SkippedRule
Fingerprint = frozenset[tuple[str, Stamp | int]]
"""Of every file that matters its stamp, or the error number with which it could not be seen."""


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """What one rule file gave: when it is broken now, what it gave before."""

    folder: Path  # the one of the stack that it belongs to
    stamp: Stamp | None  # None: read it again next time
    outcome: Outcome | None
    error: RuleError | None
    names_secrets: bool = False  # the error may quote an entry of a private folder's list


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The rules in force, and what is wrong with the files that they come from."""

    folders: tuple[Path, ...]
    rules: tuple[Rule, ...]
    errors: tuple[RuleError, ...]
    skipped: tuple[SkippedRule, ...]
    fingerprint: Fingerprint
    content: tuple[Path, ...] = ()  # YARA files
    content_stamps: Fingerprint = frozenset()  # what changes whenever one of them does
    lists: Lists = field(default_factory=Lists, repr=False)
    files: Mapping[Path, _ReadFile] = field(default_factory=dict, repr=False)
    private: tuple[Path, ...] = ()  # folders whose rules are told by their ids only

    def public_reason(self, error: RuleError) -> str:
        """What may be logged of an error: of a private folder's file only where it is."""
        file = self.files.get(error.path)
        names_secrets = file is not None and file.names_secrets
        if not names_secrets and not any(
            error.path.is_relative_to(folder) for folder in self.private
        ):
            return str(error)
        return f"{error.path}:{error.line}: private: `minerwatch rules lint` says why"


def load(folders: Sequence[Path], private: Sequence[Path] = ()) -> RuleBook:
    """Read all rules; later folders override earlier ones. A single file may stand for a folder.

    ``private``: those of the folders whose rules are told by their ids only.
    """
    empty = RuleBook((), (), (), (), frozenset(), private=tuple(private))
    return _read(tuple(folders), empty)


def reload(previous: RuleBook) -> RuleBook:
    """Read what has changed since ``previous``; what is broken now keeps what it gave before."""
    return _read(previous.folders, previous)


def bare(book: RuleBook) -> RuleBook:
    """The same for matching alone: without what lint, tests and people read of a rule."""
    rules = {id(rule): _bare_rule(rule) for rule in book.rules}

    def bared(outcome: Outcome | None) -> Outcome | None:
        if not isinstance(outcome, Rule):
            return outcome
        return rules.get(id(outcome)) or _bare_rule(outcome)

    return replace(
        book,
        rules=tuple(rules[id(rule)] for rule in book.rules),
        files={path: replace(f, outcome=bared(f.outcome)) for path, f in book.files.items()},
    )


def _bare_rule(rule: Rule) -> Rule:
    return replace(
        rule,
        tests=(),
        description="",
        author="",
        date="",
        modified="",
        references=(),
        tags=(),
        falsepositives=(),
        unused_selections=(),
        field_lines={},
    )


def has_changed(book: RuleBook) -> bool:
    """Whether any file has changed since the book was read; cheap enough for every tick."""
    return fingerprint(book.folders) != book.fingerprint


def fingerprint(folders: Sequence[Path]) -> Fingerprint:
    """What changes whenever a rule or list file is written, replaced, added or removed."""
    marks: set[tuple[str, Stamp | int]] = set()
    for folder in folders:
        for seen in _walk(folder):
            marks.add((seen.place, seen.stamp or seen.errno))
    return frozenset(marks)


# The folders as they are on disk.


class _Seen(NamedTuple):
    """A file that matters, or a folder that cannot be listed (then ``errno`` says why)."""

    place: str  # a path; hundreds of these are looked at each tick
    stamp: Stamp | None = None
    errno: int = 0
    is_rule: bool = False

    @property
    def path(self) -> Path:
        return Path(self.place)


def _walk(folder: Path) -> Iterator[_Seen]:
    """Every rule and list file of one folder of the stack, in the order of their names."""
    try:
        status = folder.stat()
    except OSError as error:
        yield _Seen(str(folder), errno=error.errno or -1)
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk_below(str(folder), frozenset(((status.st_dev, status.st_ino),)))
    else:
        yield _Seen(str(folder), stamp_of(status), is_rule=True)
        yield from _list_marks(str(folder.parent / "lists"))


def _walk_below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[_Seen]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        yield _Seen(folder, errno=error.errno or -1)
        return
    for entry in found:
        suffix = os.path.splitext(entry.name)[1]  # noqa: PTH122 - hot
        try:
            status = entry.stat()
        except OSError as error:
            if suffix in _RULE_SUFFIXES:
                yield _Seen(entry.path, errno=error.errno or -1, is_rule=True)
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk_folder(entry, status, above)
        elif suffix in _RULE_SUFFIXES or suffix in _CONTENT_SUFFIXES:
            yield _Seen(entry.path, stamp_of(status), is_rule=suffix in _RULE_SUFFIXES)


def _walk_folder(
    entry: os.DirEntry[str], status: os.stat_result, above: frozenset[tuple[int, int]]
) -> Iterator[_Seen]:
    here = (status.st_dev, status.st_ino)
    if entry.name == "lists":
        yield from _list_marks(entry.path)
    elif entry.name not in _NO_RULES_BELOW and here not in above and len(above) < _MAX_DEPTH:
        yield from _walk_below(entry.path, above | {here})


def _list_marks(folder: str) -> Iterator[_Seen]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (e for e in entries if e.name.endswith(".txt") and not e.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError:
        return
    for entry in found:
        try:
            yield _Seen(entry.path, stamp_of(entry.stat()))
        except OSError as error:
            yield _Seen(entry.path, errno=error.errno or -1)


# Reading.


def _read(folders: tuple[Path, ...], previous: RuleBook) -> RuleBook:
    # Taken before anything is read: a file that changes meanwhile differs from it next time.
    marks = fingerprint(folders)
    lists = read_lists(map(_list_place, folders), frozenset(map(_list_place, previous.private)))
    changed = _changed_lists(lists, previous.lists)
    known = _conditions_of(previous)
    files: dict[Path, _ReadFile] = {}
    folder_errors: list[RuleError] = []
    content: dict[Path, Stamp | int] = {}
    for folder in folders:
        for seen in _walk(folder):
            if seen.is_rule:
                file = _read_file(folder, seen, lists, changed, previous)
                files[seen.path] = replace(file, outcome=_sharing(file.outcome, known))
            elif seen.path.suffix in _CONTENT_SUFFIXES:
                content[seen.path] = seen.stamp or seen.errno
            elif seen.errno and seen.path.suffix != ".txt":
                reason = f"cannot be read: {os.strerror(max(seen.errno, 0))}"
                folder_errors.append(RuleError(seen.path, 1, reason))
                files.update(_kept_below(seen.path, folder, previous))
    rules, skipped, clashes = _in_force(folders, files)
    file_errors = [file.error for file in files.values() if file.error is not None]
    errors = (*folder_errors, *lists.broken.values(), *file_errors, *clashes)
    by_text = {str(error): error for error in errors}
    return RuleBook(
        folders=folders,
        rules=rules,
        errors=tuple(by_text.values()),
        skipped=skipped,
        fingerprint=marks,
        content=tuple(content),
        content_stamps=frozenset((str(path), stamp) for path, stamp in content.items()),
        lists=lists,
        files=files,
        private=previous.private,
    )


def _list_place(folder: Path) -> Path:
    """The folder that has the lists of one; of a single file the one that it is in."""
    return folder if folder.is_dir() else folder.parent


def _changed_lists(now: Lists, before: Lists) -> frozenset[str]:
    names = {*now.entries, *now.broken, *before.entries, *before.broken}
    return frozenset(
        name
        for name in names
        if now.entries.get(name) != before.entries.get(name)
        or now.shown.get(name) != before.shown.get(name)
        or name in now.broken
        or name in before.broken
    )


def _kept_below(path: Path, folder: Path, previous: RuleBook) -> dict[Path, _ReadFile]:
    """What the files below a folder gave before it could no longer be read."""
    return {
        at: _ReadFile(folder, None, file.outcome, file.error)
        for at, file in previous.files.items()
        if at.is_relative_to(path)
    }


def _read_file(
    folder: Path, seen: _Seen, lists: Lists, changed: frozenset[str], previous: RuleBook
) -> _ReadFile:
    before = previous.files.get(seen.path)
    private = folder in previous.private
    if before is not None and _still_good(before, seen, changed):
        return replace(before, outcome=_marked(before.outcome, private=private))
    kept, text = None if before is None else before.outcome, ""
    try:
        text, stamp = read_text(seen.path)
        outcome = parse_rule(seen.path, text, lists)
    except RuleError as error:
        kept = _marked(kept, private=private)
        return _ReadFile(folder, None, kept, error, names_secrets=_asks_for(lists.shown, text))
    if (
        not private
        and isinstance(outcome, Rule)
        and not lists.shown.keys().isdisjoint(outcome.lists)
    ):
        outcome = _with_secrets(outcome, text, lists)
    return _ReadFile(folder, stamp, _marked(outcome, private=private), None)


def _asks_for(names: Iterable[str], text: str) -> bool:
    return any(f"%{name}%" in text for name in names)


def _with_secrets(rule: Rule, text: str, lists: Lists) -> Rule:
    """The same; it knows which of its conditions it has from the lists of private folders only."""
    try:
        public = parse_rule(rule.path, text, lists.in_public())
    except RuleError:  # it has nothing without them
        return replace(rule, secrets=_asked_for(rule))
    return replace(rule, secrets=_asked_for(rule) - _asked_for(public))


def _asked_for(rule: Outcome) -> frozenset[tuple[str, str]]:
    """What evidence of the rule may say: each field, and what it was asked for."""
    if isinstance(rule, SkippedRule):
        return frozenset()
    return frozenset((each.field, each.describe()) for each in predicates(rule.condition))


def _conditions_of(book: RuleBook) -> Known:
    """The conditions that rules to be read may share."""
    known: Known = {}
    for file in book.files.values():
        _sharing(file.outcome, known)
    return known


def _sharing(outcome: Outcome | None, known: Known) -> Outcome | None:
    """The same, made of what is ``known`` already."""
    if not isinstance(outcome, Rule):
        return outcome
    condition = shared(outcome.condition, known)
    return outcome if condition is outcome.condition else replace(outcome, condition=condition)


def _marked(outcome: Outcome | None, *, private: bool) -> Outcome | None:
    if not isinstance(outcome, Rule) or outcome.private is private:
        return outcome
    return replace(outcome, private=private)


def _still_good(before: _ReadFile, seen: _Seen, changed: frozenset[str]) -> bool:
    if before.error is not None or before.stamp is None or before.stamp != seen.stamp:
        return False
    return not (isinstance(before.outcome, Rule) and changed.intersection(before.outcome.lists))


def _in_force(
    folders: Sequence[Path], files: Mapping[Path, _ReadFile]
) -> tuple[tuple[Rule, ...], tuple[SkippedRule, ...], list[RuleError]]:
    """One rule an id: the last folder's; within a folder the same id twice is an error."""
    rules: dict[str, Rule] = {}
    skipped: list[SkippedRule] = []
    clashes: list[RuleError] = []
    for folder in folders:
        here: dict[str, Outcome] = {}
        for file in files.values():
            if file.folder != folder or file.outcome is None:
                continue
            outcome = file.outcome
            if outcome.id and outcome.id in here:
                clashes.append(_clash(outcome, here[outcome.id]))
            else:
                here[outcome.id] = outcome
                if isinstance(outcome, SkippedRule):
                    skipped.append(outcome)
        for identifier, outcome in here.items():
            rules.pop(identifier, None)
            if isinstance(outcome, Rule):
                rules[identifier] = outcome
    return tuple(rules.values()), tuple(skipped), clashes


def _clash(outcome: Outcome, first: Outcome) -> RuleError:
    line = outcome.line if isinstance(outcome, SkippedRule) else outcome.id_line
    return RuleError(outcome.path, line, f"id {outcome.id} is also that of {first.path}")
