"""Kubernetes Events on pods that are abused, for their owners.

Event v1 events.k8s.io in the API reference, and ``ValidateEventCreate`` of Kubernetes: a note has
at most 1,024 bytes; once created, only the series of an event may change.

``EventSender.announce`` never waits: it puts events into a bounded queue, which a thread sends.
"""

from __future__ import annotations

import hashlib
import queue
import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from threading import Event, Lock
from typing import TypeVar

import msgspec

from minerwatch.abuse_text import text_of
from minerwatch.backoff import Backoff
from minerwatch.detection.judge import announced, announced_levels
from minerwatch.format import micro_time
from minerwatch.kube.client import MERGE_PATCH, ApiError, Cluster, one_line, reason_of
from minerwatch.kube.pods import REASONS
from minerwatch.model import (
    Abuse,
    Action,
    ContainerKey,
    Finding,
    Level,
    Pod,
    PodContainerKind,
    Verdict,
    public_finding,
)
from minerwatch.worker import Worker

CONTROLLER = "minerwatch.io/agent"
DROPPED = "dropped"
"""Events that were never sent: refused for good, or the API server was away for too long."""

MAX_NOTE_BYTES = 1024
_MAX_CONTACT_BYTES = 512
_MAX_OWNERS_BYTES = 200
_MAX_TITLES = 3
_MAX_TITLE_CHARS = 120
_MAX_NAME_LENGTH = 253  # a DNS subdomain (RFC 1123)
_MAX_INSTANCE_LENGTH = 128
_MAX_WAITING = 100
_MAX_ANNOUNCED = 10_000
_MAX_SERIES = 1000
_CLOSE_S = 1.5
_NO_SUBDOMAIN = re.compile(r"[^a-z0-9.-]")

_FIELD_PATHS: Mapping[PodContainerKind, str] = {
    PodContainerKind.MAIN: "spec.containers",
    PodContainerKind.INIT: "spec.initContainers",
    PodContainerKind.SIDECAR: "spec.initContainers",
    PodContainerKind.EPHEMERAL: "spec.ephemeralContainers",
}


class EventReason(StrEnum):
    """Reason of an Event, without the kind of abuse."""

    SUSPECTED = "Suspected"
    CONFIRMED = "Confirmed"
    CLEARED = "Cleared"
    QUARANTINED = "Quarantined"
    STOPPED = "Stopped"
    KILLED = "Killed"
    SERVER_STOPPED = "ServerStopped"
    EVICTED = "Evicted"
    DELETED = "Deleted"
    RELEASED = "Released"

    @property
    def type(self) -> str:
        """``Warning`` or ``Normal``."""
        return "Normal" if self in _GOOD_NEWS else "Warning"

    def of(self, abuse: str) -> str:
        """Return the word by which Events are searched, such as ScanConfirmed."""
        return f"{text_of(abuse).word}{self.value}"


_GOOD_NEWS = (EventReason.CLEARED, EventReason.RELEASED)

ACTION_REASONS: Mapping[Action, EventReason] = {
    Action.LABEL: EventReason.QUARANTINED,
    Action.STOP: EventReason.STOPPED,
    Action.KILL: EventReason.KILLED,
    Action.STOP_SERVER: EventReason.SERVER_STOPPED,
    Action.EVICT: EventReason.EVICTED,
    Action.DELETE: EventReason.DELETED,
}
"""Text of the Event on an action that was carried out."""


_ALMOST_CERTAIN = "container {name} almost certainly {does}"
_WORDING: Mapping[EventReason, tuple[str, str]] = {
    EventReason.SUSPECTED: ("Judging", "Container {name} looks as if it {does}"),
    EventReason.CONFIRMED: ("Judging", "Container {name} almost certainly {does}"),
    EventReason.CLEARED: ("Judging", "Container {name} shows no more signs of {doing}"),
    EventReason.QUARANTINED: ("Labelling", f"Labelled for quarantine: {_ALMOST_CERTAIN}"),
    EventReason.STOPPED: ("Stopping", f"Processes stopped: {_ALMOST_CERTAIN}"),
    EventReason.KILLED: ("Killing", f"Processes killed: {_ALMOST_CERTAIN}"),
    EventReason.SERVER_STOPPED: ("Stopping", f"Server stopped by the hub: {_ALMOST_CERTAIN}"),
    EventReason.EVICTED: ("Evicting", f"Evicted: {_ALMOST_CERTAIN}"),
    EventReason.DELETED: ("Deleting", f"Deleted: {_ALMOST_CERTAIN}"),
    EventReason.RELEASED: ("Releasing", "Released by an operator: container {name} is left alone"),
}
"""The event's action, and its sentence."""


def event_note(
    container: str,
    reason: EventReason,
    findings: Iterable[Finding],
    contact: str,
    abuse: str = Abuse.MINING,
    owners: str = "",
) -> str:
    """Return reasons, owners and contact in one line of 1,024 bytes: no evidence but rules' titles.

    ``owners``: names that are no secret, such as the repository.
    """
    of_abuse = [each for each in announced(findings) if each.abuse == abuse]
    titles = [*dict.fromkeys(one_line(public_finding(each).title) for each in of_abuse)]
    if reason in _GOOD_NEWS:
        titles = []
    named = [title[:_MAX_TITLE_CHARS] for title in titles[:_MAX_TITLES]]
    if len(titles) > len(named):
        named.append(f"and {len(titles) - len(named)} more")
    text = text_of(abuse)
    sentence = _WORDING[reason][1].format(
        name=one_line(container), does=text.does, doing=text.doing
    ) + (": " if named else "")
    last = _cut(one_line(contact), _MAX_CONTACT_BYTES) if contact.strip() else ""
    if owners and reason not in _GOOD_NEWS:
        last = f"It is of {_cut(owners, _MAX_OWNERS_BYTES)}. {last}".rstrip()
    room = MAX_NOTE_BYTES - len(last.encode()) - len(". ")
    return f"{_cut(sentence + '; '.join(named), room)}. {last}".rstrip()


@dataclass(frozen=True, slots=True)
class EventPace:
    """Rate limit of Events, in seconds and numbers."""

    per_minute: float = 10.0  # of one agent, in the long run
    burst: int = 20
    series_s: float = 600.0  # the same again within this time is counted in a series
    first_delay_s: float = 1.0  # after a failure; doubled with each one that follows
    longest_delay_s: float = 60.0
    give_up_s: float = 600.0  # older news are none
    answer_s: float = 10.0


_Subject = tuple[str, str, ContainerKey]
"""A pod's uid, the action ("": a verdict), and the run of the container: a restarted container
is reported again, one that only got its name is not."""


@dataclass(frozen=True, slots=True)
class _News:
    pod: Pod
    container: str
    reason: EventReason
    abuse: str
    note: str
    at_unix_s: float
    subject: _Subject


@dataclass(frozen=True, slots=True)
class _Series:
    path: str  # of the event that it began with
    count: int
    last_unix_s: float


_SeriesKey = tuple[str, str, str]  # a pod's uid, container, reason
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class EventSender:
    """Send Events about the pods of one node.

    The same Event on the same container within ten minutes becomes a series of the first one.
    ``failures`` counts failed requests by reason, and under ``dropped`` events never sent.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        node: str,
        contact: str = "",
        on_error: Callable[[str, Exception], None] = lambda _reason, _error: None,
        pace: EventPace | None = None,
        now_unix_s: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """``contact`` ends every note: where to ask or object."""
        self.failures: dict[str, int] = dict.fromkeys((*REASONS, "missing", "conflict", DROPPED), 0)
        self.sent = 0
        self._cluster = cluster
        self._node = node
        self._contact = contact
        self._on_error = on_error
        self._pace = pace or EventPace()
        self._now_unix_s = now_unix_s
        self._rng = rng or random.Random()  # noqa: S311 - spreads requests
        self._tokens = float(self._pace.burst)
        self._tokens_s = time.monotonic()
        self._announced: OrderedDict[_Subject, Mapping[Abuse, Level]] = OrderedDict()
        self._series: OrderedDict[_SeriesKey, _Series] = OrderedDict()
        self._lock = Lock()  # guards what was sent, and the counts
        self._waiting: queue.Queue[_News | None] = queue.Queue(_MAX_WAITING)
        self._closing = Event()
        self._thread = Worker("events", self._run).start()

    def announce(self, pod: Pod, container: str, verdict: Verdict, owners: str = "") -> None:
        """Queue an Event if ``verdict`` is new to the owner of ``pod``; return at once.

        It is new when the level of a kind of abuse, without experimental rules, rises to likely or
        confirmed, and when a reported container is clear again. An event that was lost is sent at
        a later tick.
        """
        levels = announced_levels(verdict)
        subject = (pod.uid, "", verdict.container)
        with self._lock:
            news = self._news(subject, levels)
            if news is None or not self._may_send(news[0]):
                return
            reason, abuse = news
            if not self._queue(pod, container, reason, abuse, subject, verdict.findings, owners):
                if reason is EventReason.CLEARED:  # no later tick would send it
                    self.failures[DROPPED] += 1
                return
            self._tokens -= 1
            if reason is EventReason.CLEARED:
                del self._announced[subject]
            else:
                announced = {**self._announced.get(subject, {}), abuse: levels[abuse]}
                _remember(self._announced, subject, announced, _MAX_ANNOUNCED)

    def announce_action(
        self,
        pod: Pod,
        container: str,
        reason: EventReason,
        key: ContainerKey,
        findings: Iterable[Finding] = (),
        abuse: str = Abuse.MINING,
        owners: str = "",
    ) -> None:
        """Send an event about something that was done to ``pod``, and why; returns at once."""
        subject = (pod.uid, str(reason), key)
        if not self._queue(pod, container, reason, abuse, subject, findings, owners):
            self._count(DROPPED)

    def close(self) -> None:
        """End within 2 s; what has not been sent is dropped."""
        self._closing.set()
        self._thread.close()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(_CLOSE_S)

    def _queue(
        self,
        pod: Pod,
        container: str,
        reason: EventReason,
        abuse: str,
        subject: _Subject,
        findings: Iterable[Finding],
        owners: str,
    ) -> bool:
        """Return False if there is no room."""
        note = event_note(container, reason, findings, self._contact, abuse, owners)
        try:
            self._waiting.put_nowait(
                _News(pod, container, reason, abuse, note, self._now_unix_s(), subject)
            )
        except queue.Full:
            return False
        return True

    def _news(
        self, subject: _Subject, levels: Mapping[Abuse, Level]
    ) -> tuple[EventReason, Abuse] | None:
        """Return what is new: of several kinds of abuse the worst, the others at later ticks."""
        announced = self._announced.get(subject, {})
        if not levels:
            worst = max(announced, key=announced.__getitem__, default=None)
            return None if worst is None else (EventReason.CLEARED, worst)
        for abuse, level in levels.items():
            if level >= Level.LIKELY and level > announced.get(abuse, Level.CLEAR):
                is_sure = level is Level.CONFIRMED
                return (EventReason.CONFIRMED if is_sure else EventReason.SUSPECTED), abuse
        return None

    def _may_send(self, reason: EventReason) -> bool:
        """Return True if the rate limit allows it; a reported pod's Cleared is always sent."""
        now_s = time.monotonic()
        gained = (now_s - self._tokens_s) * self._pace.per_minute / 60
        self._tokens = min(self._pace.burst, self._tokens + gained)
        self._tokens_s = now_s
        return self._tokens >= 1 or reason is EventReason.CLEARED

    def _run(self) -> None:
        while not self._closing.is_set():
            news = self._waiting.get()
            if news is not None:
                self._send(news)

    def _send(self, news: _News) -> None:
        backoff = Backoff(self._pace.first_delay_s, self._pace.longest_delay_s, self._rng)
        while not self._closing.is_set():
            try:
                self._send_once(news, is_first=not backoff.failures)
            except Exception as error:  # noqa: BLE001 - nothing may end this thread
                self._report_failure(error)
                if not isinstance(error, ApiError) or not error.is_transient:
                    break
                if self._now_unix_s() - news.at_unix_s > self._pace.give_up_s:
                    with self._lock:  # the next tick sends it again
                        self._announced.pop(news.subject, None)
                    break
                wait_s = max(error.retry_after_s or 0.0, backoff.next_s())
                self._closing.wait(min(wait_s, self._pace.longest_delay_s))
            else:
                self.sent += 1
                return
        self._count(DROPPED)

    def _send_once(self, news: _News, *, is_first: bool) -> None:
        key = (news.pod.uid, news.container, news.reason.of(news.abuse))
        series = self._series.get(key)
        is_recent = series and news.at_unix_s - series.last_unix_s <= self._pace.series_s
        if series and is_recent and self._has_gone_on(key, series, news.at_unix_s):
            return
        name = _event_name(news, self._pace.series_s)
        collection = f"/apis/events.k8s.io/v1/namespaces/{news.pod.namespace}/events"
        begun = _Series(f"{collection}/{name}", 1, news.at_unix_s)
        try:
            self._call("POST", collection, _body(news, name, self._node))
        except ApiError as error:
            if error.reason != "conflict":
                raise
            if is_first and self._has_gone_on(key, begun, news.at_unix_s):
                return  # sent by an earlier agent
        _remember(self._series, key, begun, _MAX_SERIES)

    def _has_gone_on(self, key: _SeriesKey, series: _Series, at_unix_s: float) -> bool:
        """Count the series on; False if its event is no more: servers keep them for an hour."""
        count = series.count + 1
        patch = {"series": {"count": count, "lastObservedTime": micro_time(at_unix_s)}}
        try:
            self._call("PATCH", series.path, patch, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.reason != "missing":
                raise
            return False
        _remember(self._series, key, _Series(series.path, count, at_unix_s), _MAX_SERIES)
        return True

    def _call(
        self, method: str, path: str, body: object, content_type: str = "application/json"
    ) -> None:
        self._cluster.call(
            method,
            path,
            body=msgspec.json.encode(body),
            content_type=content_type,
            timeout_s=self._pace.answer_s,
        )

    def _report_failure(self, error: Exception) -> None:
        reason = reason_of(error)
        self._count(reason)
        with suppress(Exception):  # whatever reports it must not end this thread
            self._on_error(reason, error)
        if reason == "unauthorized":
            self._cluster.renew_credentials()

    def _count(self, reason: str) -> None:
        with self._lock:
            self.failures[reason] += 1


def _cut(text: str, limit_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    return encoded[: limit_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _event_name(news: _News, series_s: float) -> str:
    """Return the same name for the same event within ``series_s``, so that it exists once."""
    window = int(news.at_unix_s // series_s)
    identity = f"{news.pod.uid}\n{news.container}\n{news.reason.of(news.abuse)}\n{window}"
    unique = "." + hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    start = _NO_SUBDOMAIN.sub("-", news.pod.name)[: _MAX_NAME_LENGTH - len(unique)]
    return (start.strip(".-") + unique).lstrip(".")


def _body(news: _News, name: str, node: str) -> dict[str, object]:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": news.pod.namespace},
        "eventTime": micro_time(news.at_unix_s),
        "reportingController": CONTROLLER,
        "reportingInstance": node[:_MAX_INSTANCE_LENGTH] or "unknown",
        "action": _WORDING[news.reason][0],
        "reason": news.reason.of(news.abuse),
        "type": news.reason.type,
        "note": news.note,
        "regarding": _regarding(news.pod, news.container),
    }


def _regarding(pod: Pod, container: str) -> dict[str, str]:
    """Return the pod, with the field of its container unless that is nested in another."""
    about = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
    }
    kinds = (each.kind for each in pod.containers if each.name == container)
    fields = [f"{_FIELD_PATHS[kind]}{{{container}}}" for kind in kinds]
    return {**about, "fieldPath": fields[0]} if fields else about


def _remember(held: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Keep ``value``; the oldest are dropped."""
    held[key] = value
    held.move_to_end(key)
    while len(held) > most:
        held.popitem(last=False)
