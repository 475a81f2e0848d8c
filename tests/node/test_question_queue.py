from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ProcessId
from minerwatch.node.question_queue import MAX_PENDING_PER_OWNER as MOST
from minerwatch.node.question_queue import Question, Questions


def taken(questions: Questions) -> list[Question]:
    found = []
    while (question := questions.pop(0.0)) is not None:
        found.append(question)
    return found


def test_a_question_is_open_until_it_is_closed() -> None:
    questions = Questions()
    process = ProcessId(1, 1)
    assert questions.put(process, "a")
    assert questions.put(process, "a")
    assert taken(questions) == [Question(process, "a")]
    assert process in questions
    assert questions.put(process, "a")
    assert taken(questions) == []
    questions.close(process)
    questions.close(process)
    assert process not in questions
    assert questions.put(process, "a")
    assert taken(questions) == [Question(process, "a")]


@given(st.lists(st.tuples(st.sampled_from([*"abc", None]), st.integers(1, 3 * MOST))))
def test_no_owner_has_too_many_open_and_nothing_accepted_is_lost(
    puts: list[tuple[str | None, int]],
) -> None:
    questions = Questions()
    accepted: dict[ProcessId, str | None] = {}
    for number, (owner, pid) in enumerate(puts):
        process = ProcessId(pid, number % 2)
        if questions.put(process, owner):
            accepted.setdefault(process, owner)
        else:
            assert list(accepted.values()).count(owner) == MOST
    assert len(questions) == len(accepted)
    found = taken(questions)
    assert {each.process: each.owner for each in found} == accepted
    for owner in set(accepted.values()):
        first = next(at for at, each in enumerate(found) if each.owner == owner)
        assert first < len(set(accepted.values()))
    for process in accepted:
        questions.close(process)
    assert len(questions) == 0
    for owner in set(accepted.values()):  # none is held against them
        assert all(questions.put(ProcessId(pid, 2), owner) for pid in range(MOST))
        for pid in range(MOST):
            questions.close(ProcessId(pid, 2))


def test_whoever_waits_is_woken() -> None:
    questions = Questions()
    found: list[Question | None] = []
    thread = threading.Thread(target=lambda: found.append(questions.pop()))
    thread.start()
    questions.wake()
    thread.join(60)
    assert found == [None]
    thread = threading.Thread(target=lambda: found.append(questions.pop()))
    thread.start()
    questions.put(ProcessId(1, 1), "a")
    thread.join(60)
    assert found == [None, Question(ProcessId(1, 1), "a")]
