from __future__ import annotations

import threading

import pytest

from minerwatch.culling.mailbox import Mailbox, PendingRequest
from minerwatch.errors import MinerwatchError
from tests.builders import make_container, make_observation

TICK = (make_observation(make_container()),)


def test_requests_come_before_the_latest_tick() -> None:
    mailbox = Mailbox()
    mailbox.put_tick(())
    mailbox.put_tick(TICK)
    mailbox.post(lambda: None)
    assert isinstance(mailbox.pop(), PendingRequest)
    assert mailbox.has_tick
    assert mailbox.pop() == TICK
    assert not mailbox.has_tick


def test_a_result_and_an_exception_reach_the_caller() -> None:
    mailbox = Mailbox()

    def serve() -> None:
        while isinstance(work := mailbox.pop(), PendingRequest):
            work.run()

    thread = threading.Thread(target=serve)
    thread.start()
    assert mailbox.call(lambda: 7, 20) == 7
    with pytest.raises(ZeroDivisionError):
        mailbox.call(lambda: 1 // 0, 20)
    mailbox.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_request_that_timed_out_is_not_run() -> None:
    mailbox = Mailbox()
    mailbox.put_tick(())
    with pytest.raises(MinerwatchError, match="nothing was done"):
        mailbox.call(lambda: 7, 0.01)
    assert mailbox.pop() == ()


def test_too_many_requests_and_those_after_the_end_are_refused() -> None:
    mailbox = Mailbox()
    for _ in range(16):
        mailbox.post(lambda: None)
    with pytest.raises(MinerwatchError, match="too many"):
        mailbox.call(lambda: 7, 20)
    mailbox.close()
    assert mailbox.pop() is None
    with pytest.raises(MinerwatchError, match="try again"):
        mailbox.call(lambda: 7, 20)
