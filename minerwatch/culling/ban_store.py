"""The ConfigMap of bans and notices: read, changed, and written if nothing else changed it.

Other keys of the object are kept. What cannot be parsed is never overwritten.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import msgspec

from minerwatch.culling.bans import Ban, HubBans, Notice
from minerwatch.culling.compare_and_swap import SwapPace, compare_and_swap
from minerwatch.errors import NOT_JSON
from minerwatch.kube.client import ApiError, Cluster, one_line

BANS, NOTICES = "bans.json", "notices.json"
"""Keys of the ConfigMap."""

_MIN_ANSWER_S = 0.1
_MAX_BYTES = 2 << 20
_MAX_DATA_BYTES = 900_000
"""Kubernetes takes 1 MiB in all."""
_PACE = SwapPace(tries=8, give_up_s=30.0, first_delay_s=0.1, answer_s=10.0)


class _Object(msgspec.Struct, omit_defaults=True, rename={"binary_data": "binaryData"}):
    metadata: dict[str, Any]
    data: dict[str, str] | None = None
    binary_data: dict[str, str] | None = None


class BanStore:
    """Reads and changes bans and notices; for one thread. Raises ApiError in one line."""

    def __init__(
        self,
        cluster: Cluster,
        config_map: Callable[[], str],
        pace: SwapPace = _PACE,
        closing: Event | None = None,
    ) -> None:
        """``config_map`` returns NAMESPACE/NAME."""
        self._cluster = cluster
        self._config_map = config_map
        self._pace = pace
        self._closing = closing or Event()
        self._rng = random.Random()  # noqa: S311 - it spreads requests

    def read(self) -> HubBans:
        """Return bans and notices; none if the ConfigMap does not exist."""
        found = self._get()
        return self._decoded(found) if found else HubBans()

    def update(self, change: Callable[[HubBans], HubBans]) -> HubBans:
        """Write what ``change`` returns, and return it; try again if the object changed meanwhile.

        ``change`` may raise: nothing is written then.
        """

        def attempt(until_s: float) -> HubBans:
            found = self._get(until_s)
            before = self._decoded(found) if found else HubBans()
            after = change(before)
            if after != before:
                self._put(found, after, until_s)
            return after

        return compare_and_swap(attempt, self._cluster, self._pace, self._closing, self._rng)

    def _answer_s(self, until_s: float) -> float:
        return max(_MIN_ANSWER_S, min(self._pace.answer_s, until_s - time.monotonic()))

    def _get(self, until_s: float = math.inf) -> _Object | None:
        _, path = self._paths()
        timeout_s = self._answer_s(until_s)
        try:
            body = self._cluster.open("GET", path, timeout_s=timeout_s).body(_MAX_BYTES)
        except ApiError as error:
            if error.reason == "missing":
                return None
            raise
        try:
            return msgspec.json.decode(body, type=_Object)
        except NOT_JSON as error:
            raise self._broken("it is no ConfigMap", error) from error

    def _put(self, found: _Object | None, hub_bans: HubBans, until_s: float) -> None:
        collection, path = self._paths()
        namespace, name = self._config_map().split("/")
        data = dict(found.data or {}) if found else {}
        data[BANS] = msgspec.json.encode(hub_bans.bans).decode()
        data[NOTICES] = msgspec.json.encode(hub_bans.notices).decode()
        if sum(len(text.encode()) for text in data.values()) > _MAX_DATA_BYTES:
            raise ApiError(
                "server", f"{self._config_map()}: it is full: release some bans", status=413
            )
        whole = found or _Object({"namespace": namespace, "name": name})
        body = {"apiVersion": "v1", "kind": "ConfigMap", **msgspec.to_builtins(whole), "data": data}
        method, where = ("PUT", path) if found else ("POST", collection)
        self._cluster.call(
            method, where, body=msgspec.json.encode(body), timeout_s=self._answer_s(until_s)
        )

    def _decoded(self, found: _Object) -> HubBans:
        data = found.data or {}
        try:
            bans = msgspec.json.decode(data.get(BANS, "[]"), type=tuple[Ban, ...])
            notices = msgspec.json.decode(data.get(NOTICES, "[]"), type=tuple[Notice, ...])
        except NOT_JSON as error:
            raise self._broken("its bans cannot be read: mend or delete it", error) from error
        return HubBans(bans, notices)

    def _broken(self, what: str, error: Exception) -> ApiError:
        return ApiError("garbage", f"ConfigMap {self._config_map()}: {what}: {one_line(error)}")

    def _paths(self) -> tuple[str, str]:
        namespace, _, name = self._config_map().partition("/")
        collection = f"/api/v1/namespaces/{namespace}/configmaps"
        return collection, f"{collection}/{name}"
