"""Lists of names that rules share: one entry a line, in the ``lists`` folder of a rule folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from minerwatch.detection.sigma.yaml_document import read_text
from minerwatch.errors import RuleError


@dataclass(frozen=True, slots=True)
class Lists:
    """The entries that ``|expand`` placeholders stand for, by list name."""

    folders: tuple[Path, ...] = ()  # where they were looked for
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    broken: Mapping[str, RuleError] = field(default_factory=dict, hash=False)
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Of the lists that a private folder has: the entries that others have, too."""

    def in_public(self) -> Lists:
        """The same without what only private folders say."""
        return replace(self, entries={**self.entries, **self.shown}, shown={})


def read_lists(folders: Iterable[Path], private: Collection[Path] = ()) -> Lists:
    """The lists of all rule folders: ``<folder>/lists/<name>.txt``.

    One entry a line; blank lines and lines that begin with ``#`` are left out. Entries are
    literal text. Where several folders have a list of the same name, the entries add up, so that
    a private folder extends a list that is shipped.
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
