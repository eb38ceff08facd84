"""A blocked caller gets its answer, and runs the nested calls that only its thread can run."""

from __future__ import annotations

import threading
import time

import pytest

from blackhole_core.executor.mailbox import Job, Mailbox, MailboxTimeout
from tests.stage import in_threads


def _never() -> None:
    raise AssertionError("must not happen")


def test_the_answer_comes() -> None:
    """What was delivered before or after the wait began is returned."""
    mailbox: Mailbox[int] = Mailbox()
    mailbox.deliver(1)
    assert mailbox.wait(None) == 1
    later: Mailbox[int] = Mailbox()
    threading.Timer(0.01, later.deliver, [2]).start()
    assert later.wait(time.monotonic() + 10) == 2


def test_jobs_run_on_the_waiting_thread_in_order() -> None:
    """Nested calls run where the outer call is blocked, first come, first served."""
    mailbox: Mailbox[str] = Mailbox()
    ran: list[tuple[int, int]] = []
    for number in range(3):
        assert mailbox.post(Job(lambda number=number: ran.append((number, threading.get_ident())), _never))  # type: ignore[misc]  # a default binds the loop's value
    mailbox.deliver("end")
    assert mailbox.wait(None) == "end"
    assert ran == [(number, threading.get_ident()) for number in range(3)]


def test_a_job_may_post_another() -> None:
    """Calls nest while the mailbox is waited on."""
    mailbox: Mailbox[str] = Mailbox()
    ran: list[str] = []

    def outer() -> None:
        ran.append("outer")
        assert mailbox.post(Job(lambda: (ran.append("inner"), mailbox.deliver("end")), _never))

    mailbox.post(Job(outer, _never))
    assert mailbox.wait(None) == "end"
    assert ran == ["outer", "inner"]


@pytest.mark.parametrize("deadline", [0.0, -5.0])
def test_a_deadline_that_passed_ends_the_wait(deadline: float) -> None:
    """No answer in time is a MailboxTimeout."""
    with pytest.raises(MailboxTimeout):
        Mailbox[int]().wait(time.monotonic() + deadline)


def test_a_deadline_without_end_is_none() -> None:
    """An infinite deadline waits as long as the platform can."""
    mailbox: Mailbox[int] = Mailbox()
    mailbox.deliver(1)
    assert mailbox.wait(float("inf")) == 1


def test_after_the_wait_nothing_is_taken_and_nothing_is_left() -> None:
    """A job that came too late is refused, one that came behind the answer is told that it was abandoned."""
    mailbox: Mailbox[int] = Mailbox()
    abandoned: list[str] = []
    mailbox.deliver(1)
    assert mailbox.post(Job(_never, lambda: abandoned.append("behind the answer")))
    assert mailbox.wait(None) == 1
    assert abandoned == ["behind the answer"]
    assert not mailbox.post(Job(_never, _never))


def test_a_job_that_raises_ends_the_wait() -> None:
    """Ctrl-C in a nested call reaches the caller; later jobs are abandoned."""
    mailbox: Mailbox[int] = Mailbox()
    abandoned: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    mailbox.post(Job(interrupt, _never))
    mailbox.post(Job(_never, lambda: abandoned.append(1)))
    with pytest.raises(KeyboardInterrupt):
        mailbox.wait(None)
    assert abandoned == [1]


@pytest.mark.usefixtures("fast_switching")
def test_every_accepted_job_is_run_or_abandoned() -> None:
    """Posts race with the end of the wait: each job ends in exactly one of run, abandoned, refused."""
    for _ in range(200):
        mailbox: Mailbox[int] = Mailbox()
        fates: list[str] = []

        def post(number: int, mailbox: Mailbox[int] = mailbox, fates: list[str] = fates) -> None:
            if number == 0:
                mailbox.deliver(0)
            elif number == 1:
                mailbox.wait(time.monotonic() + 10)
            elif not mailbox.post(Job(lambda: fates.append("run"), lambda: fates.append("abandoned"))):
                fates.append("refused")

        in_threads(4, post)
        assert len(fates) == 2
