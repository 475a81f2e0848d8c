"""Sends messages to webhooks: one thread a receiver, within bounds; a tick never waits for one.

Messages of some time are sent as one. A receiver that is away is tried again for an hour; what
there is no room for is counted by owner, and the next message says so. Redirects are not followed:
addresses are secrets.
"""

from __future__ import annotations

import random
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from threading import Condition, Event
from urllib.parse import urlsplit

from minerwatch import __version__
from minerwatch.api.types import ContainerStatus
from minerwatch.backoff import Backoff
from minerwatch.config.schema import Webhook
from minerwatch.detection.judge import announced_levels
from minerwatch.errors import MinerwatchError
from minerwatch.format import rfc3339
from minerwatch.model import Abuse, AnnouncedLevel, ContainerKey, Level, Verdict
from minerwatch.report.messages import ACTION, Batch, Notice, bodies, in_turn, notice
from minerwatch.report.one_request import FAILURES, send
from minerwatch.worker import Worker

DROPPED = "dropped"
"""Notices that were never sent: refused, without room, or the receiver was away for too long."""

_MAX_WAITING = 500
_MAX_WAITING_OF_OWNER = 20
_MAX_OWNERS = 100  # that left-out notices are counted for by name
_MAX_ANNOUNCED = 10_000
_MAX_SECRET_BYTES = 4096
_CLOSE_S = 1.5
_LEVELS = {AnnouncedLevel.LIKELY: Level.LIKELY, AnnouncedLevel.CONFIRMED: Level.CONFIRMED}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class NotSentError(MinerwatchError):
    """A message was not sent; ``reason`` is a word for metrics, the text never has the address."""

    def __init__(self, reason: str, text: str, *, retry_s: float | None) -> None:
        super().__init__(text)
        self.reason = reason
        self.retry_s = retry_s  # try again, after at least this long; None: never


@dataclass(frozen=True, slots=True)
class NotifyPace:
    """Delays of retries, in seconds."""

    first_delay_s: float = 2.0
    longest_delay_s: float = 300.0
    give_up_s: float = 3600.0
    answer_s: float = 10.0


class Receiver:
    """One webhook: levels that were sent, pending notices, and the thread that sends them.

    ``failures`` counts failed requests by reason, and under ``dropped`` notices never sent.
    """

    def __init__(
        self,
        settings: Webhook,
        on_error: Callable[[str, Exception], None],
        pace: NotifyPace | None = None,
    ) -> None:
        self.name = settings.name
        self.shows_command_lines = settings.command_lines
        self.failures: Counter[str] = Counter()
        self.sent = 0
        self._settings = settings
        self._least = _LEVELS[settings.level]
        self._on_error = on_error
        self._pace = pace or NotifyPace()
        self._announced: OrderedDict[ContainerKey, Mapping[Abuse, Level]] = OrderedDict()
        self._waiting: list[Notice] = []
        self._accounts: Counter[tuple[str, str]] = Counter()  # of those that wait
        self._left_out: Counter[str] = Counter()
        self._most_tokens = max(1.0, settings.per_hour / 10)  # messages at once
        self._tokens, self._tokens_s = self._most_tokens, time.monotonic()
        self._changed = Condition()
        self._closing = Event()
        self._thread = Worker(f"notify {self.name}", self._run).start()

    def announce(
        self, verdict: Verdict, namespace: str, status: Callable[[], ContainerStatus]
    ) -> None:
        """Queue a notice of each kind of abuse that is news to the receiver; return at once."""
        announced = self._announced.get(verdict.container, {})
        is_clear = verdict.level is Level.CLEAR
        if not announced and verdict.level < self._least:
            return
        kinds = {finding.abuse for finding in verdict.findings}
        if (
            announced
            and not is_clear
            and announced.keys() >= kinds
            and verdict.level <= min(announced.values())
        ):
            return  # most ticks bring no news
        news = self._news(announced, announced_levels(verdict))
        if not news or not self._is_for(namespace):
            return
        shown, at = status(), rfc3339(time.time())
        for abuse, level in news.items():
            self._queue(
                notice(
                    shown,
                    "cleared" if is_clear else "verdict",
                    at,
                    command_lines=self._settings.command_lines,
                    abuse=abuse.value,
                    level=level.label,
                )
            )
        self._announced.pop(verdict.container, None)
        if not is_clear:
            self._announced[verdict.container] = {**announced, **news}
            while len(self._announced) > _MAX_ANNOUNCED:
                self._announced.popitem(last=False)

    def _news(
        self, announced: Mapping[Abuse, Level], levels: Mapping[Abuse, Level]
    ) -> dict[Abuse, Level]:
        """Return the levels that rose; of a container that is clear, those that were sent."""
        if not levels:
            return dict.fromkeys(announced, Level.CLEAR)
        return {
            abuse: level
            for abuse, level in levels.items()
            if level >= self._least and level > announced.get(abuse, Level.CLEAR)
        }

    def queue(self, item: Notice) -> None:
        """Queue a notice of an action; return at once."""
        if self._is_for(item.namespace):
            self._queue(item)

    def forget(self, container: ContainerKey) -> None:
        """Forget a container that is gone: its name may be long, and does not come again."""
        self._announced.pop(container, None)

    def close(self) -> None:
        """End within 2 s; what has not been sent is dropped."""
        self._closing.set()
        self._thread.close()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(_CLOSE_S)

    def _is_for(self, namespace: str) -> bool:
        return any(fnmatchcase(namespace, pattern) for pattern in self._settings.namespaces)

    def _queue(self, item: Notice) -> None:
        with self._changed:
            if item.event == ACTION or self._accounts[item.account] < _MAX_WAITING_OF_OWNER:
                self._waiting.append(item)
                self._accounts[item.account] += 1
            else:
                self._drop(item)
            if len(self._waiting) >= 2 * _MAX_WAITING:  # seldom: a tick that finds many waits
                self._trim()
            self._changed.notify_all()

    def _trim(self) -> None:
        """Drop what is too much, of the namespace and the owner with most."""
        ordered = [*in_turn(self._waiting)]
        self._waiting = ordered[:_MAX_WAITING]
        for each in ordered[_MAX_WAITING:]:
            self._drop(each)
        self._accounts = Counter(each.account for each in self._waiting)

    def _drop(self, item: Notice) -> None:
        self.failures[DROPPED] += 1
        self._leave_out(item.owner or item.full_name, 1)

    def _leave_out(self, owner: str, count: int) -> None:
        is_named = owner in self._left_out or len(self._left_out) < _MAX_OWNERS
        self._left_out[owner if is_named else ""] += count

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            self._closing.wait(self._settings.group_for)
            self._wait_for_token()
            if not self._closing.is_set():
                self._send(self._pop_batch())

    def _wait_for_token(self) -> None:
        """Wait until the rate limit allows a message."""
        per_second = self._settings.per_hour / 3600
        while not self._closing.is_set():
            now_s = time.monotonic()
            gained = (now_s - self._tokens_s) * per_second
            self._tokens = min(self._most_tokens, self._tokens + gained)
            self._tokens_s = now_s
            if self._tokens >= 1:
                self._tokens -= 1
                return
            self._closing.wait((1 - self._tokens) / per_second)

    def _pop_batch(self) -> Batch:
        with self._changed:
            self._trim()
            notices, self._waiting = tuple(self._waiting), []
            self._accounts.clear()
            left_out, self._left_out = self._left_out, Counter()
        return Batch(notices, left_out)

    def _send(self, batch: Batch) -> None:
        began_s = time.monotonic()
        waiting, lost = list(bodies(self._settings.format, batch)), list[Batch]()
        backoff = Backoff(self._pace.first_delay_s, self._pace.longest_delay_s, random.Random())  # noqa: S311 - spreads requests
        while waiting and not self._closing.is_set():
            try:
                post(self._settings, waiting[0][0], self._pace.answer_s)
            except NotSentError as error:
                self._count_failure(error.reason, error)
                is_over = time.monotonic() - began_s > self._pace.give_up_s
                if is_over:
                    break
                if error.retry_s is None:
                    lost.append(waiting.pop(0)[1])
                    continue
                self._closing.wait(
                    min(max(error.retry_s, backoff.next_s()), self._pace.longest_delay_s)
                )
            else:
                self.sent += 1
                backoff.reset()
                del waiting[0]
        with self._changed:
            for part in (*lost, *(part for _, part in waiting)):
                for owner, count in part.left_out.items():
                    self._leave_out(owner, count)
                for each in part.notices:
                    self._drop(each)

    def _count_failure(self, reason: str, error: Exception) -> None:
        self.failures[reason] += 1
        with suppress(Exception):  # whatever reports it must not end this thread
            self._on_error(f"notify {self.name}", error)


class Notifier:
    """All receivers."""

    def __init__(self, receivers: Sequence[Receiver] = ()) -> None:
        self.receivers = tuple(receivers)
        self.shows_command_lines = any(each.shows_command_lines for each in self.receivers)

    @classmethod
    def of(
        cls, webhooks: Sequence[Webhook], on_error: Callable[[str, Exception], None]
    ) -> Notifier:
        """Start a receiver for each of ``webhooks``."""
        return cls([Receiver(each, on_error) for each in webhooks])

    def announce(
        self, verdict: Verdict, namespace: str, status: Callable[[], ContainerStatus]
    ) -> None:
        """Queue a notice at each receiver to which ``verdict`` is news."""
        for receiver in self.receivers:
            receiver.announce(verdict, namespace, status)

    def queue(self, item: Notice) -> None:
        """Queue a notice of an action at each receiver."""
        for receiver in self.receivers:
            receiver.queue(item)

    def forget(self, container: ContainerKey) -> None:
        """Forget a container that is gone."""
        for receiver in self.receivers:
            receiver.forget(container)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield failures since the start: receiver, reason, count."""
        for each in self.receivers:
            yield from ((f"notify {each.name}", *item) for item in [*each.failures.items()])

    def close(self) -> None:
        """End all threads."""
        for receiver in self.receivers:
            receiver.close()


def post(settings: Webhook, body: bytes, answer_s: float) -> None:
    """Send one request; all of it within ``answer_s``. Raises NotSentError."""
    url, headers = _address(settings)
    try:
        answer = send("POST", url, headers, body, ca=settings.ca, answer_s=answer_s)
    except TimeoutError:
        text = f"no answer within {answer_s:g} s"
        raise NotSentError("timeout", text, retry_s=0) from None
    except ssl.SSLError as error:
        text = f"its certificate cannot be verified: set ca ({type(error).__name__})"
        raise NotSentError("tls", text, retry_s=0) from None
    except FAILURES as error:
        text = f"it cannot be reached ({type(error).__name__})"  # not the error's text: the address
        raise NotSentError("unreachable", text, retry_s=0) from None
    _check(answer.status, answer.retry_after)


def _check(status: int, after: str) -> None:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    text = f"it answered with status {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise NotSentError("unavailable", text, retry_s=float(after) if after.isdecimal() else 0)
    if status < HTTPStatus.BAD_REQUEST:
        raise NotSentError("redirect", f"{text}: redirects are not followed", retry_s=None)
    raise NotSentError("refused", f"{text}: check its address and format", retry_s=None)


def _address(settings: Webhook) -> tuple[str, dict[str, str]]:
    """Return address and headers, read each time: secrets are rotated. Raises NotSentError."""
    url = _secret(settings.url_file)
    try:
        parts = urlsplit(url)
    except ValueError:  # its text quotes the address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        text = f"{settings.url_file} holds no http or https address"
        raise NotSentError("address", text, retry_s=0)
    headers = {"Content-Type": "application/json", "User-Agent": f"minerwatch/{__version__}"}
    if settings.authorization_file:
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            text = "authorization_file wants https: it would be sent in the clear"
            raise NotSentError("address", text, retry_s=0)
        headers["Authorization"] = _secret(settings.authorization_file)
    return url, headers


def _secret(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise NotSentError("address", f"{path}: {why}", retry_s=0) from error
    if not text.strip() or "\n" in text.strip():
        raise NotSentError("address", f"{path}: it must hold one line", retry_s=0)
    return text.strip()
