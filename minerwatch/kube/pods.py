"""All pods of one node, kept up to date by one watch.

"Efficient detection of changes" in the API concepts of the Kubernetes documentation: one list,
then a watch from the list's resource version; the watch is resumed from the version of the last
event, and where the server has forgotten that version (410 Gone) there is a new list.

The kubelet's ``/pods`` and the runtime's CRI socket know a container a moment earlier, but the
first exposes every environment variable of every pod and needs ``nodes/proxy``, which permits
running programs in them; the second is root on the node. A watch for the pods of one node needs
``list`` and ``watch`` on pods, and costs the API server what a kubelet does.

After a failure the last known pods are kept; ``synced_unix_s`` is their time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Lock
from typing import NamedTuple

import msgspec

from minerwatch.backoff import Backoff
from minerwatch.kube.client import (
    ANSWER_TIMEOUT_S,
    ApiError,
    Cluster,
    Response,
    decoded,
    one_line,
    reason_of,
    refusal,
)
from minerwatch.kube.list_stream import MAX_ITEM_BYTES, ListError, ListReader
from minerwatch.kube.objects import Head, Metadata
from minerwatch.kube.pod_cache import REMEMBERED_S, PodCache
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Pod
from minerwatch.worker import Worker

PATH = "/api/v1/pods"
REASONS: tuple[str, ...] = (
    *("unauthorized", "forbidden", "gone", "throttled", "server"),
    *("connection", "timeout", "garbage", "unexpected"),
)

_CLOSE_S = 1.5
_ON_TIME_S = 2.0  # a watch may end so much before its timeout
_PAGE_ITEMS = 500
_MAX_PAGES = 100
_RENEWED_EVERY = 4  # failures in a row
_FROM_CACHE, _FROM_STORE = "0", ""


@dataclass(frozen=True, slots=True)
class Pace:
    """Delays and timeouts, in seconds."""

    first_delay_s: float = 1.0  # after a failure; doubled with each one that follows
    longest_delay_s: float = 120.0
    longest_retry_after_s: float = 300.0  # the most that a server can ask for
    settled_s: float = 30.0  # a watch that held this long is no failure
    shortest_watch_s: float = 300.0  # between these two, by chance, so that the agents of a
    longest_watch_s: float = 600.0  # cluster do not come back at the same moment
    spread_s: float = 10.0  # over which they do come back where all were cut off at the same moment
    answer_s: float = ANSWER_TIMEOUT_S
    remembered_s: float = REMEMBERED_S


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Clocks(NamedTuple):
    """The clocks a watch reads, in seconds."""

    unix_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic


_CLOCKS = Clocks()


class WatchDelays:
    """Delays between the requests of one watch.

    All agents fail at the same moment: a server that stops ends its watches, in good order or not,
    and refuses every request before it is back.
    """

    def __init__(self, pace: Pace, rng: random.Random, monotonic_s: Callable[[], float]) -> None:
        self._pace = pace
        self._rng = rng
        self._monotonic_s = monotonic_s
        self._opened_s: float | None = None  # the watch that is open, or was last
        self._ends_s = 0.0  # when the server is to end it
        delays = (pace.first_delay_s, pace.longest_delay_s, rng)
        self._after_failure = Backoff(*delays)
        # Apart: a server that was away answers 410, and the list that follows must not wait for as
        # long as the server was away.
        self._after_gone = Backoff(*delays)

    @property
    def is_open(self) -> bool:
        """Return True if a watch was opened since the last request began."""
        return self._opened_s is not None

    @property
    def failures(self) -> int:
        """Return the number of failures in a row."""
        return self._after_failure.failures

    def begin(self) -> None:
        """Forget the last watch: another request begins."""
        self._opened_s = None

    def start_watch(self, watch_s: float) -> float:
        """Start the clocks of a watch of ``watch_s``; return the time now."""
        self._opened_s = self._monotonic_s()
        self._ends_s = self._opened_s + watch_s
        return self._opened_s

    def next_s(self, error: Exception | None) -> float:
        """Return how long to leave the server alone; 0 after a watch that ended in its time."""
        now_s = self._monotonic_s()
        held_s = 0.0 if self._opened_s is None else now_s - self._opened_s
        is_cut = self._opened_s is not None and now_s < self._ends_s - _ON_TIME_S
        if held_s >= self._pace.settled_s:
            self._after_failure.reset()
            self._after_gone.reset()
            if error is None and not is_cut:
                return 0.0
        is_gone = error is not None and reason_of(error) == "gone"
        delay_s = (self._after_gone if is_gone else self._after_failure).next_s()
        if is_cut or not is_gone:
            delay_s = max(delay_s, self._rng.uniform(0, self._pace.spread_s))
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        asked_s = min(asked_s, self._pace.longest_retry_after_s) * self._rng.uniform(1, 1.5)
        return max(delay_s, asked_s)


class PodWatch:
    """Follow the pods of ``node``; for many threads.

    ``on_error`` is called in the watch's thread, once for each failure. ``failures`` counts them by
    ``client.Reason``; ``unexpected`` is a fault of minerwatch's own.
    """

    def __init__(
        self,
        cluster: Cluster,
        node: str,
        *,
        keep: PodFields,
        on_error: Callable[[str, Exception], None],
        rng: random.Random,
        pace: Pace | None = None,
        clocks: Clocks = _CLOCKS,
        closing: Event | None = None,
    ) -> None:
        """``closing`` is waited on between requests: a simulation brings its own."""
        self.failures: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.synced_unix_s: float | None = None
        self.synced_s = 0.0  # the same moment on the monotonic clock
        """When the pods were last known to be as they are here; None before the first list.

        While a watch is open and nothing happens the server says so about once a minute
        (a bookmark), so an age of one to two minutes is usual.
        """
        self.trouble = "they have not been listed yet"
        """Why the pods are not known as they are now; "": they are."""
        self.trouble_reason = "not yet"  # the same in a word or two, public
        self._pace = pace or Pace()
        self._cluster = cluster
        # pods that are over are dropped: nothing runs in them, and they are kept for long
        self._selector = f"spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
        self._parser = PodParser(keep)
        self._monotonic_s = clocks.monotonic_s
        self.cache = PodCache(clocks.monotonic_s, self._pace.remembered_s)
        self._on_error = on_error
        self._rng = rng
        self._now_unix_s = clocks.unix_s
        self._version = ""  # that the cache is at; "": all pods must be listed
        self._list_version = _FROM_CACHE
        self._has_progressed = True  # since the last list
        self._delays = WatchDelays(self._pace, rng, clocks.monotonic_s)
        self._closing = closing or Event()
        self._answer_lock = Lock()
        self._answer: Response | None = None  # that the thread may be waiting for
        self._thread = Worker("pods", self.run)

    def start(self) -> None:
        """Begin; the pods are known some time later, when ``synced_unix_s`` is not None."""
        self._thread.start()

    def close(self) -> None:
        """End within 2 s: a thread that hangs is left behind, and ends when its wait does."""
        self._closing.set()
        self._thread.close()
        with self._answer_lock:
            if self._answer is not None:
                self._answer.interrupt()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    @property
    def is_following(self) -> bool:
        """Return True while a watch is open."""
        return self._answer is not None and self._delays.is_open

    def run(self) -> None:
        """Follow in this thread, until closed from another one."""
        while not self._closing.is_set():
            error: Exception | None = None
            self._delays.begin()
            try:
                if not self._version:
                    self.list_all()
                self.follow()
            except Exception as failure:  # noqa: BLE001 - nothing may end this thread
                error = failure
            if self._closing.is_set():
                return
            if error is not None:
                self._handle_failure(error)
            self._closing.wait(self._delays.next_s(error))

    def list_all(self) -> None:
        """Replace what is known by a list of all pods; raises ApiError."""
        query: dict[str, str | int] = {"fieldSelector": self._selector, "limit": _PAGE_ITEMS}
        if self._list_version:
            query["resourceVersion"] = self._list_version
        pods: list[Pod] = []
        for _ in range(_MAX_PAGES):
            metadata = self._read_page(query, pods)
            if not metadata.continue_:
                break
            query.pop("resourceVersion", None)  # the token holds it
            query["continue"] = metadata.continue_
        else:
            raise ApiError("garbage", f"{PATH}: a list of more than {_MAX_PAGES} pages")
        if not metadata.resource_version:
            raise ApiError("garbage", f"{PATH}: a list without a resource version")
        if self._closing.is_set():
            return
        self.cache.replace(pods)
        self._version = metadata.resource_version
        self._progress()
        self._has_progressed = False

    def _read_page(self, query: dict[str, str | int], pods: list[Pod]) -> Metadata:
        """Add the pods of a page to ``pods`` as they arrive; return the page's metadata."""
        answer = self._cluster.open("GET", PATH, query, timeout_s=self._pace.answer_s)
        with self._interruptible(answer):
            page = ListReader(answer.pieces())
            try:
                pods.extend(pod for item in page.items() if (pod := self._pod(item)))
            except ListError as error:
                raise ApiError("garbage", f"{PATH}: not a list: {error}") from error
            return decoded(page.metadata, Metadata, f"the metadata of {PATH}")

    def follow(self) -> None:
        """Apply events until the watch ends; raises ApiError unless it ends regularly."""
        watch_s = self._rng.uniform(self._pace.shortest_watch_s, self._pace.longest_watch_s)
        query: dict[str, str | int] = {
            "fieldSelector": self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": max(1, round(watch_s)),
        }
        answer = self._cluster.open("GET", PATH, query, timeout_s=self._pace.answer_s)
        opened_s = self._delays.start_watch(watch_s)
        patience_s = watch_s + self._pace.answer_s
        with self._interruptible(answer):
            answer.wait_for_pieces(patience_s)
            for line in _lines(answer, opened_s + patience_s, self._monotonic_s):
                self._apply_event(line)
        self._progress()

    def _apply_event(self, line: bytes) -> None:
        event = decoded(line, _WatchEvent, f"an event of {PATH}")
        head = decoded(event.object, Head, f"an event of {PATH}")
        if event.type == "ERROR":
            raise refusal(head.code, f"{PATH}: {head.code} {one_line(head.message or '')}")
        if event.type in {"ADDED", "MODIFIED"}:
            pod = self._pod(event.object)
            if pod is not None:
                self.cache.put(pod)
        elif event.type == "DELETED":
            self.cache.remove(head.metadata.uid)
        elif event.type != "BOOKMARK":
            raise ApiError("garbage", f"{PATH}: an event of unknown type {event.type[:40]!r}")
        self._version = head.metadata.resource_version or self._version
        self._progress()

    def _pod(self, json: bytes | msgspec.Raw) -> Pod | None:
        pod = self._parser.pod(json)
        if pod is None:
            error = ApiError("garbage", f"{PATH}: a pod that could not be decoded was left out")
            self._count("garbage", error)
        return pod

    def _progress(self) -> None:
        self._has_progressed = True
        self.synced_unix_s, self.synced_s = self._now_unix_s(), time.monotonic()
        self.trouble = ""

    @contextmanager
    def _interruptible(self, answer: Response) -> Iterator[None]:
        """Let ``close`` interrupt the reading of ``answer``."""
        with self._answer_lock:
            self._answer = answer
            if self._closing.is_set():
                answer.interrupt()
        try:
            yield
        finally:
            with self._answer_lock:
                self._answer = None
            answer.close()

    def _handle_failure(self, error: Exception) -> None:
        reason = reason_of(error)
        self.trouble, self.trouble_reason = one_line(error), reason
        self._count(reason if reason in self.failures else "server", error)
        # The server may have another address or authority, which the configuration tells.
        is_lost = self._delays.failures % _RENEWED_EVERY == _RENEWED_EVERY - 1
        if reason == "unauthorized" or (reason == "connection" and is_lost):
            self._cluster.renew_credentials()
        elif reason in {"gone", "garbage", "unexpected"}:
            self._version = ""
            # If the server's cache is too far behind to be followed, list from etcd; that costs the
            # server more, so it is tried second.
            self._list_version = _FROM_CACHE if self._has_progressed else _FROM_STORE

    def _count(self, reason: str, error: Exception) -> None:
        self.failures[reason] += 1
        with suppress(Exception):  # whatever reports it must not end this thread
            self._on_error(reason, error)


def _lines(answer: Response, until_s: float, monotonic_s: Callable[[], float]) -> Iterator[bytes]:
    """Yield an answer's lines as they come; raises ApiError if one is cut off or has no end."""
    held = bytearray()
    while piece := answer.piece():
        searched = len(held)
        held += piece
        while (end := held.find(b"\n", searched)) >= 0:
            with memoryview(held) as view:
                line = bytes(view[:end])
            del held[: end + 1]
            yield line
            searched = 0
        if len(held) > MAX_ITEM_BYTES:
            raise ApiError("garbage", f"{PATH}: a line of more than {MAX_ITEM_BYTES >> 20} MiB")
        if monotonic_s() > until_s:
            return  # the server ignores the timeout
    if held.strip():
        raise ApiError("connection", f"{PATH}: the connection was cut in the middle of a line")
