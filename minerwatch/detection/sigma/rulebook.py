"""The rules in force, read from stacked rule folders, and read again when a file changes.

A folder holds rules and Sigma filters (``*.yml``, ``*.yaml``, at any depth), lists
(``lists/*.txt``) and YARA files (``*.yar``). Names with a leading dot are skipped: the files of a
ConfigMap are links into a hidden folder that is replaced with every update, and are read through
the links only. The folders ``lists`` and ``tests`` hold no rules.

A later folder overrides an earlier one: its rule or filter replaces that of the same id, a
deprecated one switches it off. Its list extends that of the same name; its YARA files are added.

The content of a file never raises here. A file or folder that cannot be used is reported, and the
rules that it gave before stay in force.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from minerwatch.detection.condition import Known, shared
from minerwatch.detection.sigma.filters import (
    describe_predicates,
    filter_of,
    is_filter,
    with_filters,
)
from minerwatch.detection.sigma.lists import Lists, read_lists
from minerwatch.detection.sigma.rule import Filter, Rule, SkippedRule, rule_of
from minerwatch.detection.sigma.yaml_document import Stamp, read_document, read_text, stamp_of
from minerwatch.errors import RuleError

_NO_RULES_BELOW = frozenset(("lists", "tests"))
_RULE_SUFFIXES = frozenset((".yml", ".yaml"))
_CONTENT_SUFFIXES = frozenset((".yar", ".yara"))
_MAX_DEPTH = 16

Outcome = Rule | Filter | SkippedRule
Fingerprint = frozenset[tuple[str, Stamp | int]]
"""The stamp of each file that matters, or the errno of the attempt to stat it."""


@dataclass(frozen=True, slots=True)
class _ParsedFile:
    """Result of one file; while the file is broken, the result of the last good version."""

    folder: Path  # of the stack
    stamp: Stamp | None  # None: read the file again next time
    outcome: Outcome | None
    error: RuleError | None
    names_secrets: bool = False  # the error may quote an entry of a private list


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The rules in force, and the errors of their files."""

    folders: tuple[Path, ...]
    rules: tuple[Rule, ...]
    errors: tuple[RuleError, ...]
    fingerprint: Fingerprint
    filters: tuple[Filter, ...] = ()
    content: tuple[Path, ...] = ()  # YARA files
    content_stamps: Fingerprint = frozenset()  # of the YARA files
    lists: Lists = field(default_factory=Lists, repr=False)
    files: Mapping[Path, _ParsedFile] = field(default_factory=dict, repr=False)
    private: tuple[Path, ...] = ()  # folders: only the ids of their rules leave the node

    def as_written(self, rule: Rule) -> Rule:
        """Return a rule in force without its filters."""
        outcome = self.files[rule.path].outcome
        return outcome if isinstance(outcome, Rule) else rule

    def public_reason(self, error: RuleError) -> str:
        """Return the error as it may be logged: without its reason if that may be private."""
        file = self.files.get(error.path)
        names_secrets = file is not None and file.names_secrets
        if not names_secrets and not any(
            error.path.is_relative_to(folder) for folder in self.private
        ):
            return str(error)
        return f"{error.path}:{error.line}: private: `minerwatch rules lint` says why"


def load(folders: Sequence[Path], private: Sequence[Path] = ()) -> RuleBook:
    """Read all rules; later folders override earlier ones. A folder may be a single file.

    Of rules in the folders ``private`` only the ids leave the node.
    """
    empty = RuleBook((), (), (), frozenset(), private=tuple(private))
    return _read(tuple(folders), empty)


def reload(previous: RuleBook) -> RuleBook:
    """Read the files that changed since ``previous``; a broken file keeps its last result."""
    return _read(previous.folders, previous)


def bare(book: RuleBook) -> RuleBook:
    """Return the book without the parts of its rules that only lint, tests and people read."""
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
    """Return True if a file has changed since the book was read; cheap enough for every tick."""
    return fingerprint(book.folders) != book.fingerprint


def fingerprint(folders: Sequence[Path]) -> Fingerprint:
    """Return a value that changes when a file is written, replaced, added or removed."""
    return frozenset(
        (seen.name, seen.stamp or seen.errno) for folder in folders for seen in _walk(folder)
    )


# Listing files.


class _Seen(NamedTuple):
    """A file that matters, or with ``errno`` a file or folder that cannot be read."""

    name: str  # a path; hundreds of these are listed each tick
    stamp: Stamp | None = None
    errno: int = 0
    is_rule: bool = False

    @property
    def path(self) -> Path:
        return Path(self.name)


def _walk(folder: Path) -> Iterator[_Seen]:
    """List the files of one folder of the stack in the order of their names."""
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


# Reading files.


def _read(folders: tuple[Path, ...], previous: RuleBook) -> RuleBook:
    # Taken before any file is read, so that a change meanwhile is found next time.
    marks = fingerprint(folders)
    lists = read_lists(map(_list_folder, folders), frozenset(map(_list_folder, previous.private)))
    changed = _changed_lists(lists, previous.lists)
    known = _known_conditions(previous)
    files: dict[Path, _ParsedFile] = {}
    folder_errors: list[RuleError] = []
    content: dict[Path, Stamp | int] = {}
    for folder in folders:
        for seen in _walk(folder):
            if seen.is_rule:
                file = _read_file(folder, seen, lists, changed, previous)
                files[seen.path] = replace(file, outcome=_share(file.outcome, known))
            elif seen.path.suffix in _CONTENT_SUFFIXES:
                content[seen.path] = seen.stamp or seen.errno
            elif seen.errno and seen.path.suffix != ".txt":
                reason = f"cannot be read: {os.strerror(max(seen.errno, 0))}"
                folder_errors.append(RuleError(seen.path, 1, reason))
                files.update(_kept_below(seen.path, folder, previous))
    in_force, clashes = _in_force(folders, files)
    filters = tuple(each for each in in_force if isinstance(each, Filter))
    rules = (with_filters(each, filters) for each in in_force if isinstance(each, Rule))
    file_errors = [file.error for file in files.values() if file.error is not None]
    errors = (*folder_errors, *lists.broken.values(), *file_errors, *clashes)
    by_text = {str(error): error for error in errors}
    return RuleBook(
        folders=folders,
        rules=tuple(_share(rule, known) for rule in rules),
        errors=tuple(by_text.values()),
        fingerprint=marks,
        filters=filters,
        content=tuple(content),
        content_stamps=frozenset((str(path), stamp) for path, stamp in content.items()),
        lists=lists,
        files=files,
        private=previous.private,
    )


def _list_folder(folder: Path) -> Path:
    """Return the folder with the lists: for a single file, the folder that it is in."""
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


def _kept_below(path: Path, folder: Path, previous: RuleBook) -> dict[Path, _ParsedFile]:
    """Return the last results of the files below a folder that can no longer be read."""
    return {
        at: _ParsedFile(folder, None, file.outcome, file.error)
        for at, file in previous.files.items()
        if at.is_relative_to(path)
    }


def _read_file(
    folder: Path, seen: _Seen, lists: Lists, changed: frozenset[str], previous: RuleBook
) -> _ParsedFile:
    before = previous.files.get(seen.path)
    private = folder in previous.private
    if before is not None and _still_good(before, seen, changed):
        return replace(before, outcome=_marked(before.outcome, private=private))
    kept, text = None if before is None else before.outcome, ""
    try:
        text, stamp = read_text(seen.path)
        outcome = _parse(seen.path, text, lists)
    except RuleError as error:
        kept = _marked(kept, private=private)
        quotes_list = any(f"%{name}%" in text for name in lists.shown)
        return _ParsedFile(folder, None, kept, error, names_secrets=quotes_list)
    if not (
        private or isinstance(outcome, SkippedRule) or lists.shown.keys().isdisjoint(outcome.lists)
    ):
        outcome = _with_secrets(outcome, text, lists)
    return _ParsedFile(folder, stamp, _marked(outcome, private=private), None)


def _parse(path: Path, text: str, lists: Lists) -> Outcome:
    document = read_document(path, text)
    return filter_of(document, lists) if is_filter(document) else rule_of(document, lists)


def _with_secrets(outcome: Rule | Filter, text: str, lists: Lists) -> Rule | Filter:
    """Mark the predicates that come from the lists of private folders only."""
    secrets = describe_predicates(outcome.condition)
    try:
        public = _parse(outcome.path, text, lists.in_public())
    except RuleError:  # all its entries are private
        return replace(outcome, secrets=secrets)
    if isinstance(public, SkippedRule):
        return outcome
    return replace(outcome, secrets=secrets - describe_predicates(public.condition))


def _known_conditions(book: RuleBook) -> Known:
    """Return the conditions in memory, so that files read later share equal ones."""
    known: Known = {}
    for outcome in (*book.rules, *(file.outcome for file in book.files.values())):
        _share(outcome, known)
    return known


_AnyOutcome = TypeVar("_AnyOutcome", bound=Outcome | None)


def _share(outcome: _AnyOutcome, known: Known) -> _AnyOutcome:
    """Replace conditions of the outcome by equal ones in ``known``."""
    if not isinstance(outcome, Rule | Filter):
        return outcome
    condition = shared(outcome.condition, known)
    return outcome if condition is outcome.condition else replace(outcome, condition=condition)


def _marked(outcome: Outcome | None, *, private: bool) -> Outcome | None:
    if isinstance(outcome, SkippedRule | None) or outcome.private is private:
        return outcome
    return replace(outcome, private=private)


def _still_good(before: _ParsedFile, seen: _Seen, changed: frozenset[str]) -> bool:
    if before.error is not None or before.stamp is None or before.stamp != seen.stamp:
        return False
    outcome = before.outcome
    return isinstance(outcome, SkippedRule | None) or changed.isdisjoint(outcome.lists)


def _in_force(
    folders: Sequence[Path], files: Mapping[Path, _ParsedFile]
) -> tuple[tuple[Rule | Filter, ...], list[RuleError]]:
    """Keep one outcome for each id, the last folder's; two in one folder are an error."""
    in_force: dict[str, Rule | Filter] = {}
    clashes: list[RuleError] = []
    for folder in folders:
        here: dict[str, Outcome] = {}
        for file in files.values():
            if file.folder != folder or file.outcome is None:
                continue
            outcome = file.outcome
            if outcome.id and outcome.id in here:
                reason = f"id {outcome.id} is also that of {here[outcome.id].path}"
                clashes.append(RuleError(outcome.path, outcome.id_line, reason))
            else:
                here[outcome.id] = outcome
        for identifier, outcome in here.items():
            in_force.pop(identifier, None)
            if not isinstance(outcome, SkippedRule):
                in_force[identifier] = outcome
    return tuple(in_force.values()), clashes
