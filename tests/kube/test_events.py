from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.judge import announced_levels, joined_score, signal_scores
from minerwatch.kube.client import ApiError, Cluster
from minerwatch.kube.events import (
    ACTION_REASONS,
    CONTROLLER,
    DROPPED,
    MAX_NOTE_BYTES,
    EventPace,
    EventReason,
    EventSender,
    event_note,
)
from minerwatch.model import (
    Abuse,
    Action,
    ContainerKey,
    Evidence,
    Finding,
    Level,
    Maturity,
    Pod,
    PodContainerKind,
    Signal,
    Verdict,
)
from tests.builders import make_finding, make_pod, make_pod_container
from tests.kube.api_server import (
    Answering,
    ApiServer,
    Dropping,
    Hanging,
    LosingTheAnswer,
    eventually,
)
from tests.report.samples import POOL, WALLET, hostile_text
from tests.waiting import PATIENCE_S

EVENTS = "/apis/events.k8s.io/v1"
CONTACT = "If this is wrong, write to abuse@example.org."
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")  # RFC 1123
NOON = 1_795_435_200.25
IMPATIENT = EventPace(first_delay_s=0.01, longest_delay_s=0.02, answer_s=5.0)


def finding(
    title: str = "XMRig command line",
    score: float = 88.0,
    signal: Signal = Signal.IDENTITY,
    maturity: Maturity = Maturity.STABLE,
) -> Finding:
    evidence = Evidence("CommandLine", f"./a -o {POOL} -u {WALLET}", f"contains '{WALLET}'")
    return make_finding(
        signal, score, rule="id", title=title, maturity=maturity, since_s=60.0, evidence=(evidence,)
    )


BUSY = finding("Core busy steadily", 29.0, Signal.BEHAVIOUR, Maturity.TEST)
UNPROVEN = finding("New idea", 88.0, Signal.COMPUTE, Maturity.EXPERIMENTAL)


def verdict(*findings: Finding, level: Level | None = None) -> Verdict:
    score = joined_score(signal_scores(findings))
    held = Level.of(score) if level is None else level
    return Verdict(ContainerKey("/kubepods/x", 1), 100.0, score, held, 60.0, findings)


LIKELY = verdict(finding())
HASHES = finding("Hashes like RandomX", 60.0, Signal.COMPUTE)
CONFIRMED = verdict(finding(), HASHES, BUSY)
CLEAR = verdict()


def pod(name: str = "miner", uid: str = "u-1", **changes: Any) -> Pod:
    kinds = (PodContainerKind.MAIN, PodContainerKind.INIT, PodContainerKind.EPHEMERAL)
    containers = tuple(make_pod_container(f"{kind}-id", str(kind), kind=kind) for kind in kinds)
    return make_pod(name, uid, **{"containers": containers, **changes})


class Clock:
    def __init__(self) -> None:
        self.unix_s = NOON

    def __call__(self) -> float:
        return self.unix_s


Open = Callable[..., EventSender]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sender(cluster: Cluster, clock: Clock) -> Iterator[Open]:
    opened: list[EventSender] = []

    def open_sender(pace: EventPace = IMPATIENT, **options: Any) -> EventSender:
        options = {"contact": CONTACT, "now_unix_s": clock, **options}
        opened.append(EventSender(cluster, node="n1", pace=pace, **options))
        return opened[-1]

    yield open_sender
    for each in opened:
        each.close()


def stored(api: ApiServer, count: int) -> list[dict[str, Any]]:
    """The events on the server, as soon as there are so many."""
    eventually(lambda: len(api.items("events", EVENTS)) >= count, f"not {count} events")
    found = api.items("events", EVENTS)
    assert len(found) == count
    return found


# the note


def test_a_note_says_why_and_whom_to_turn_to() -> None:
    assert event_note("notebook", EventReason.SUSPECTED, LIKELY.findings, CONTACT) == (
        "Container notebook looks as if it mines cryptocurrency: XMRig command line. "
        "If this is wrong, write to abuse@example.org."
    )
    assert event_note("notebook", EventReason.CONFIRMED, CONFIRMED.findings, "") == (
        "Container notebook almost certainly mines cryptocurrency: "
        "XMRig command line; Hashes like RandomX; Core busy steadily."
    )
    assert event_note("notebook", EventReason.CLEARED, LIKELY.findings, "") == (
        "Container notebook shows no more signs of mining cryptocurrency."
    )


def test_a_note_tells_a_private_rule_by_its_id_only() -> None:
    secret = replace(finding("Our rivals' pool"), private=True)
    note = event_note("main", EventReason.SUSPECTED, [secret], "")
    assert "private rule id" in note
    assert "rivals" not in note


def test_a_note_has_nothing_of_what_rules_saw() -> None:
    seen = (Evidence("CommandLine", "--token hunter2", "contains '--token'"),)
    found = tuple(replace(each, evidence=seen) for each in LIKELY.findings)
    assert found
    assert "--token" not in event_note("notebook", EventReason.CONFIRMED, found, "")


def test_a_note_names_the_foremost_rules_once() -> None:
    findings = [finding("a"), finding("a"), finding("b"), UNPROVEN, finding("c"), finding("d")]
    note = event_note("x", EventReason.SUSPECTED, findings, "")
    assert note.endswith(": a; b; c; and 1 more.")


@given(hostile_text, st.lists(hostile_text.map(finding), max_size=6), hostile_text)
def test_a_note_is_one_short_line_whatever_it_is_made_of(
    container: str, findings: list[Finding], contact: str
) -> None:
    for reason in EventReason:
        note = event_note(container, reason, findings, contact)
        assert len(note.encode()) <= MAX_NOTE_BYTES
        assert note.isprintable()
        assert WALLET not in note
        assert POOL not in note


def test_a_long_contact_leaves_room_for_the_reasons() -> None:
    note = event_note("x", EventReason.SUSPECTED, [finding("y" * 5000)], "é" * 5000)
    assert "mines cryptocurrency: yyy" in note
    assert "é" in note


# the level that is told


@pytest.mark.parametrize(
    ("judged", "level"),
    [
        (CLEAR, Level.CLEAR),
        (LIKELY, Level.LIKELY),
        (CONFIRMED, Level.CONFIRMED),
        (verdict(finding(), UNPROVEN), Level.LIKELY),
        (verdict(UNPROVEN), Level.SUSPICIOUS),
        (verdict(level=Level.CONFIRMED), Level.SUSPICIOUS),  # held up, and falling
        (verdict(finding(), level=Level.CLEAR), Level.CLEAR),
    ],
)
def test_rules_on_trial_raise_no_events(judged: Verdict, level: Level) -> None:
    assert max(announced_levels(judged).values(), default=Level.CLEAR) is level


# what is sent


def test_an_event_is_what_the_api_asks_for(api: ApiServer, sender: Open) -> None:
    sender().announce(pod(), "main", LIKELY)
    (event,) = stored(api, 1)
    request = next(r for r in api.requests if r.method == "POST")
    assert request.path == f"{EVENTS}/namespaces/binder/events"
    assert event["apiVersion"] == "events.k8s.io/v1"
    assert event["kind"] == "Event"
    assert event["metadata"]["namespace"] == "binder"
    assert event["reason"] == "MinerSuspected"
    assert event["type"] == "Warning"
    assert event["action"] == "Judging"
    assert (event["reportingController"], event["reportingInstance"]) == (CONTROLLER, "n1")
    assert event["eventTime"] == "2026-11-23T12:00:00.250000Z"
    assert event["note"].endswith(CONTACT)
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "binder",
        "name": "miner",
        "uid": "u-1",
        "fieldPath": "spec.containers{main}",
    }


def test_a_miner_is_suspected_confirmed_and_cleared(api: ApiServer, sender: Open) -> None:
    events = sender()
    for judged in (CLEAR, LIKELY, LIKELY, CONFIRMED, LIKELY, CONFIRMED, CLEAR, CLEAR):
        events.announce(pod(), "main", judged)
    reasons = [(event["reason"], event["type"]) for event in stored(api, 3)]
    assert reasons == [
        ("MinerSuspected", "Warning"),
        ("MinerConfirmed", "Warning"),
        ("MinerCleared", "Normal"),
    ]
    eventually(lambda: events.sent == 3)


def test_who_was_never_suspected_is_not_cleared(api: ApiServer, sender: Open) -> None:
    events = sender()
    events.announce(pod(), "main", verdict(UNPROVEN))
    events.announce(pod(), "main", CLEAR)
    events.announce(pod("other", "u-2"), "main", LIKELY)
    assert [event["regarding"]["name"] for event in stored(api, 1)] == ["other"]


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ("init", "spec.initContainers{init}"),
        ("ephemeral", "spec.ephemeralContainers{ephemeral}"),
        ("3f2a9c1b44de", None),  # nested in one that the API knows
    ],
)
def test_the_field_path_names_the_kind_of_container(
    api: ApiServer, sender: Open, container: str, field: str | None
) -> None:
    sender().announce(pod(), container, LIKELY)
    (event,) = stored(api, 1)
    assert event["regarding"].get("fieldPath") == field


@pytest.mark.parametrize("name", ["a", "p" * 253, "a.b-" + "c." * 120 + "d", "UPPER_case"])
def test_names_are_unique_and_valid(api: ApiServer, sender: Open, name: str) -> None:
    events = sender()
    for number, container in enumerate(("main", "init", "ephemeral")):
        key = ContainerKey("/kubepods/x", number)
        events.announce(pod(name), container, replace(LIKELY, container=key))
    names = {event["metadata"]["name"] for event in stored(api, 3)}
    assert len(names) == 3
    assert all(NAME.fullmatch(each) and len(each) <= 253 for each in names)


def test_a_container_that_gets_its_name_late_is_not_told_again(
    api: ApiServer, sender: Open
) -> None:
    events = sender()
    for name in ("3f2a9c1b44de", "main"):
        events.announce(pod(), name, LIKELY)
    events.announce(pod(), "main", CLEAR)
    assert [event["reason"] for event in stored(api, 2)] == ["MinerSuspected", "MinerCleared"]


def flap(events: EventSender) -> None:
    events.announce(pod(), "main", LIKELY)
    events.announce(pod(), "main", CLEAR)


def test_the_same_within_ten_minutes_is_a_series(
    api: ApiServer, sender: Open, clock: Clock
) -> None:
    events = sender()
    for _ in range(3):
        flap(events)
        clock.unix_s += 60
    eventually(lambda: events.sent == 6)
    suspected, cleared = stored(api, 2)
    for event in (suspected, cleared):
        assert event["series"]["count"] == 3
        assert datetime.fromisoformat(event["series"]["lastObservedTime"]).timestamp() == (
            NOON + 120
        )
    clock.unix_s += 601
    flap(events)
    stored(api, 4)


def test_a_series_whose_event_was_removed_begins_anew(api: ApiServer, sender: Open) -> None:
    events = sender()
    flap(events)
    for event in stored(api, 2):
        api.remove("binder", event["metadata"]["name"], EVENTS, "events")
    flap(events)
    assert all("series" not in event for event in stored(api, 2))


# too many, and what goes wrong


def test_no_more_than_the_bucket_holds(api: ApiServer, sender: Open) -> None:
    events = sender(EventPace(per_minute=0.001, burst=3))
    for _ in range(5):
        for number in range(10):
            events.announce(pod(f"p{number}", f"u{number}"), "main", LIKELY)
    stored(api, 3)
    assert sum(events.failures.values()) == 0


def test_what_the_bucket_had_no_room_for_is_told_later(api: ApiServer, sender: Open) -> None:
    events = sender(EventPace(per_minute=6000.0, burst=1))

    def tick() -> int:
        for number in range(10):
            events.announce(pod(f"p{number}", f"u{number}"), "main", LIKELY)
        return len(api.items("events", EVENTS))

    eventually(lambda: tick() == 10)
    assert {event["regarding"]["name"] for event in stored(api, 10)} == {f"p{n}" for n in range(10)}


def test_that_a_pod_is_clear_needs_no_room_in_the_bucket(api: ApiServer, sender: Open) -> None:
    events = sender(EventPace(per_minute=0.001, burst=1))
    flap(events)
    events.announce(pod("other", "u-2"), "main", LIKELY)
    assert {event["reason"] for event in stored(api, 2)} == {"MinerSuspected", "MinerCleared"}


def test_the_tick_never_waits_for_a_server_that_hangs(api: ApiServer, sender: Open) -> None:
    api.misbehave(Hanging(), times=1000)
    events = sender(EventPace(burst=1000))
    done = threading.Event()

    def tick() -> None:
        for judged in (LIKELY, CLEAR):
            for number in range(300):
                events.announce(pod(f"p{number}", f"u{number}"), "main", judged)
        done.set()

    threading.Thread(target=tick, daemon=True).start()
    assert done.wait(PATIENCE_S)
    # Only of those that had been told of: a hundred, and one more or less, for one is being sent.
    assert 99 <= events.failures[DROPPED] <= 101


def test_a_container_that_was_restarted_is_told_anew(api: ApiServer, sender: Open) -> None:
    events = sender()
    events.announce(pod(), "main", LIKELY)
    events.announce(pod(), "main", replace(LIKELY, container=ContainerKey("/kubepods/y", 2)))
    eventually(lambda: events.sent == 2)
    assert stored(api, 1)[0]["series"]["count"] == 2


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Answering(429, headers={"Retry-After": "0"}), "throttled"),
        (Answering(503), "server"),
        (Answering(401), "unauthorized"),
        (Dropping(), "connection"),
    ],
)
def test_what_may_pass_is_tried_again(
    api: ApiServer, sender: Open, failure: Any, reason: str
) -> None:
    api.misbehave(failure, times=2)
    events = sender()
    events.announce(pod(), "main", LIKELY)
    stored(api, 1)
    assert events.failures[reason] == 2
    assert events.failures[DROPPED] == 0


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "forbidden"), (404, "missing"), (422, "server")]
)
def test_what_is_refused_for_good_is_dropped(
    api: ApiServer, sender: Open, status: int, reason: str
) -> None:
    told: list[tuple[str, Exception]] = []
    api.misbehave(Answering(status, "no"), times=1)
    events = sender(on_error=lambda reason, error: told.append((reason, error)))
    events.announce(pod(), "main", LIKELY)
    events.announce(pod("other", "u-2"), "main", LIKELY)
    stored(api, 1)
    assert (events.failures[reason], events.failures[DROPPED]) == (1, 1)
    ((said, error),) = told
    assert said == reason
    assert isinstance(error, ApiError)


def test_old_news_are_given_up(api: ApiServer, sender: Open, clock: Clock) -> None:
    api.vanish()
    events = sender()
    events.announce(pod(), "main", LIKELY)
    eventually(lambda: events.failures["connection"] >= 2)
    clock.unix_s += IMPATIENT.give_up_s + 1
    eventually(lambda: events.failures[DROPPED] == 1)
    api.listen()
    events.announce(pod("other", "u-2"), "main", LIKELY)
    assert stored(api, 1)[0]["regarding"]["name"] == "other"
    events.announce(pod(), "main", LIKELY)  # it still mines, and its owner has not heard of it
    stored(api, 2)


def test_an_event_whose_answer_was_lost_is_there_once(api: ApiServer, sender: Open) -> None:
    api.misbehave(LosingTheAnswer())
    events = sender()
    events.announce(pod(), "main", LIKELY)
    eventually(lambda: events.sent == 1)
    assert "series" not in stored(api, 1)[0]
    assert events.failures["connection"] == 1


def test_an_agent_that_was_restarted_goes_on_with_the_event_of_the_one_before(
    api: ApiServer, sender: Open
) -> None:
    for _ in range(2):
        events = sender()
        events.announce(pod(), "main", LIKELY)
        eventually(partial(has_sent, events, 1))
    assert stored(api, 1)[0]["series"]["count"] == 2
    assert sum(events.failures.values()) == 0


def has_sent(events: EventSender, count: int) -> bool:
    return events.sent == count


def test_an_observer_that_fails_ends_nothing(api: ApiServer, sender: Open) -> None:
    def fail(_reason: str, _error: Exception) -> None:
        raise RuntimeError("a broken observer")

    api.misbehave(Answering(503), times=1)
    events = sender(on_error=fail)
    events.announce(pod(), "main", LIKELY)
    stored(api, 1)


def test_closing_does_not_wait_for_the_server(api: ApiServer, sender: Open) -> None:
    api.vanish()
    events = sender()
    events.announce(pod(), "main", LIKELY)
    events.close()
    assert events.sent == 0


@pytest.mark.parametrize("action", ACTION_REASONS)
def test_an_action_is_told_with_its_reason(api: ApiServer, sender: Open, action: Action) -> None:
    events = sender()
    reason = ACTION_REASONS[action]
    events.announce_action(pod(), "notebook", reason, CONFIRMED.container, CONFIRMED.findings)
    (event,) = stored(api, 1)
    assert (event["reason"], event["type"]) == (f"Miner{reason.value}", "Warning")
    assert event["action"] != "Judging"
    assert "container notebook almost certainly mines cryptocurrency: XMRig" in event["note"]
    assert event["note"].endswith(CONTACT)
    assert WALLET not in event["note"]


def test_a_scan_is_never_called_a_miner(api: ApiServer, sender: Open) -> None:
    scans = verdict(
        replace(finding("Many connections fail", 75.0, Signal.NETWORK), abuse=Abuse.SCANNING)
    )
    events = sender()
    events.announce(pod(), "main", scans)
    events.announce(pod(), "main", replace(scans, level=Level.CLEAR, findings=()))
    for reason in EventReason:
        if reason not in {EventReason.SUSPECTED, EventReason.CLEARED}:
            events.announce_action(
                *(pod(), "main", reason, scans.container, scans.findings, Abuse.SCANNING)
            )
    told = stored(api, len(EventReason))
    assert {event["reason"] for event in told} == {f"Scan{reason}" for reason in EventReason}
    words = [f"{event['reason']} {event['note']}" for event in told]
    assert not re.search("(?i)miner|mining|crypto", " ".join(words))
    assert any("looks as if it scans ports of other machines" in each["note"] for each in told)
    assert any("no more signs of scanning ports" in each["note"] for each in told)


def test_each_kind_of_abuse_is_told_once_with_its_own_reasons(api: ApiServer, sender: Open) -> None:
    scan = replace(finding("Many connections fail", 75.0, Signal.NETWORK), abuse=Abuse.SCANNING)
    both = replace(verdict(finding()), findings=(finding(), scan))
    events = sender()
    for _ in range(4):
        events.announce(pod(), "main", both)
    miner, scanner = sorted(stored(api, 2), key=lambda event: str(event["reason"]))
    assert (miner["reason"], scanner["reason"]) == ("MinerSuspected", "ScanSuspected")
    assert "XMRig" in miner["note"]
    assert "connections" not in miner["note"]
    assert "XMRig" not in scanner["note"]


def test_a_release_is_told_without_a_reproach(api: ApiServer, sender: Open) -> None:
    sender().announce_action(pod(), "notebook", EventReason.RELEASED, CONFIRMED.container)
    (event,) = stored(api, 1)
    assert (event["reason"], event["type"]) == ("MinerReleased", "Normal")
    assert event["note"].startswith("Released by an operator: container notebook is left alone.")


def test_what_was_done_does_not_keep_a_verdict_from_being_told(
    api: ApiServer, sender: Open
) -> None:
    events = sender()
    events.announce_action(
        pod(), "main", EventReason.STOPPED, CONFIRMED.container, CONFIRMED.findings
    )
    events.announce(pod(), "main", CONFIRMED)
    assert {event["reason"] for event in stored(api, 2)} == {"MinerStopped", "MinerConfirmed"}


def test_a_note_names_the_repository_but_not_where_a_container_is_clear() -> None:
    names = "repository https://github.com/a/b"
    note = event_note("x", EventReason.SUSPECTED, LIKELY.findings, CONTACT, owners=names)
    assert note.endswith(f". It is of {names}. {CONTACT}")
    assert names not in event_note("x", EventReason.CLEARED, (), CONTACT, owners=names)
    long = event_note("x", EventReason.SUSPECTED, LIKELY.findings, "é" * 5000, owners="ü" * 5000)
    assert len(long.encode()) <= 1024
