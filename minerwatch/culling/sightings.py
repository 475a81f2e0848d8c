"""Pods of each repository and client address on this node in seven days, flagged or not.

They show if others than a miner use an address. Names are kept as digests, in a file beside the
audit log. Until it reaches back for seven days, nothing is known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from minerwatch.culling.bans import SEEN_S, sighting_name
from minerwatch.errors import NOT_JSON
from minerwatch.model import Attribution, OwnerKind

MIN_AGE_S = 600.0
"""A pod that was watched for so long without being flagged counts as a user."""

FILE_NAME = "sightings.json"
_KINDS = frozenset((OwnerKind.REPOSITORY, OwnerKind.CLIENT))
_MAX_NAMES = 5000
_MAX_PODS_OF_NAME = 64
_MAX_PODS = 20_000
_MAX_FILE_BYTES = 64 << 20
_MAX_GAP_S = 3600.0
_EVERY_S = 60.0
_SAVED_EVERY_S = 300.0


class _Pod(msgspec.Struct, array_like=True):
    first_unix_s: float
    last_unix_s: float
    is_flagged: bool = False


class _Kept(msgspec.Struct):
    since_unix_s: float
    last_unix_s: float
    names: dict[str, dict[str, _Pod]] = {}


PodSeen = tuple[str, tuple[Attribution, ...]]
"""A pod's uid, and its names."""


class Sightings:
    """Counts pods by name; for one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: _Kept | None = None
        self._saved_s = self._updated_s = 0.0
        self._flagged: set[str] = set()
        self._pods = 0

    def update(self, pods: Iterable[PodSeen], flagged: frozenset[str], unix_s: float) -> None:
        """Keep the node's pods, and the uids of flagged ones; once a minute.

        A name that is a claim is skipped: a tenant could make an address one of many users.
        """
        kept = self._known(unix_s)
        self._flagged |= flagged
        if 0 <= unix_s - self._updated_s < _EVERY_S:
            return
        self._updated_s = kept.last_unix_s = unix_s
        flagged, self._flagged = frozenset(self._flagged), set()
        for uid, names in pods:
            for each in names:
                if each.kind in _KINDS and not each.is_claim:
                    self._add(kept, _digest(each), uid, unix_s, is_flagged=uid in flagged)
        if unix_s - self._saved_s >= _SAVED_EVERY_S:
            self._forget_old(kept, unix_s)
            self._save(kept)
            self._saved_s = unix_s

    def unflagged(self, each: Attribution, pod_uid: str, unix_s: float) -> int | None:
        """Return how many other pods of the name were not flagged; None: not known."""
        kept = self._kept
        if kept is None or unix_s - kept.since_unix_s < SEEN_S:
            return None
        pods = kept.names.get(_digest(each), {})
        return sum(
            uid != pod_uid
            and not pod.is_flagged
            and pod.last_unix_s > unix_s - SEEN_S
            and pod.last_unix_s - pod.first_unix_s >= MIN_AGE_S
            for uid, pod in pods.items()
        )

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _known(self, unix_s: float) -> _Kept:
        if self._kept is None:
            self._kept = self._loaded()
        kept = self._kept
        if kept is None:  # the file may be lost, or the node another of the same name
            kept = _Kept(unix_s, unix_s)
        elif unix_s - kept.last_unix_s > _MAX_GAP_S:
            kept.since_unix_s = unix_s  # pods may have come and gone unseen
        if self._kept is None:
            self._pods = sum(map(len, kept.names.values()))
        self._kept = kept
        return kept

    def _add(self, kept: _Kept, name: str, uid: str, unix_s: float, *, is_flagged: bool) -> None:
        is_full = len(kept.names) >= _MAX_NAMES or self._pods >= _MAX_PODS
        if is_full and uid not in kept.names.get(name, {}):
            kept.since_unix_s = unix_s  # not all are counted: nothing is known
            return
        pods = kept.names.setdefault(name, {})
        pod = pods.get(uid)
        if pod is None and len(pods) >= _MAX_PODS_OF_NAME:
            oldest = min(pods, key=lambda each: (not pods[each].is_flagged, pods[each].last_unix_s))
            del pods[oldest]
            self._pods -= 1
        self._pods += pod is None
        pods[uid] = _Pod(
            pod.first_unix_s if pod else unix_s, unix_s, is_flagged or bool(pod and pod.is_flagged)
        )

    def _forget_old(self, kept: _Kept, unix_s: float) -> None:
        for name in [*kept.names]:
            pods = kept.names[name]
            for uid in [uid for uid, pod in pods.items() if pod.last_unix_s <= unix_s - SEEN_S]:
                del pods[uid]
            if not pods:
                del kept.names[name]
        self._pods = sum(map(len, kept.names.values()))

    def _loaded(self) -> _Kept | None:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=_Kept)
        except (OSError, *NOT_JSON):
            return None

    def _save(self, kept: _Kept) -> None:
        part = self._path.with_suffix(".part")
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(kept))
        part.replace(self._path)


def _digest(each: Attribution) -> str:
    name = f"{each.kind}\n{sighting_name(each.kind, each.name)}"
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:16]
