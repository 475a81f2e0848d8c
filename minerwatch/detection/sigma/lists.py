"""Lists that rules share: ``lists/NAME.txt`` in a rule folder, one entry a line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from minerwatch.detection.sigma.yaml_document import read_text
from minerwatch.errors import RuleError


@dataclass(frozen=True, slots=True)
class Lists:
    """The entries of each list, for ``|expand`` placeholders."""

    folders: tuple[Path, ...] = ()  # searched for lists
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    broken: Mapping[str, RuleError] = field(default_factory=dict, hash=False)
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Of lists that a private folder extends: the entries from public folders."""

    def in_public(self) -> Lists:
        """Return the lists without the entries of private folders."""
        return replace(self, entries={**self.entries, **self.shown}, shown={})


def read_lists(folders: Iterable[Path], private: Collection[Path] = ()) -> Lists:
    """Read the lists of all rule folders.

    Entries are literal text; blank lines and lines with a leading ``#`` are skipped. Lists of the
    same name in several folders are merged, so that a private folder extends a shipped list.
    """
    entries: dict[str, dict[str, None]] = {}
    shown: dict[str, dict[str, None]] = {}
    in_private: set[str] = set()
    broken: dict[str, RuleError] = {}
    list_folders: list[Path] = []
    for folder in folders:
        list_folders.append(folder / "lists")
        for path in _list_files(list_folders[-1]):
            try:
                text, _ = read_text(path)
            except RuleError as error:
                broken.setdefault(path.stem, error)
                continue
            found = dict.fromkeys(_list_entries(text))
            entries.setdefault(path.stem, {}).update(found)
            if folder in private:
                in_private.add(path.stem)
            else:
                shown.setdefault(path.stem, {}).update(found)
    return Lists(
        tuple(list_folders),
        {name: tuple(found) for name, found in entries.items()},
        broken,
        {name: tuple(shown.get(name, ())) for name in in_private},
    )


def _list_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    except OSError:
        return []


def _list_entries(text: str) -> Iterator[str]:
    for line in text.splitlines():
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield entry
