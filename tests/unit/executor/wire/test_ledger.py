"""After a death: what may have run is never sent again, what certainly did not is never lost."""

from __future__ import annotations

import collections

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blackhole_core.executor.wire.ledger import Ledger


def test_the_first_of_the_unanswered_may_have_begun() -> None:
    """With two threads the first two unanswered requests may have begun, the others have not."""
    ledger = Ledger(2)
    for number in (1, 2, 3, 4):
        ledger.sent(number, nested=False)
    assert ledger.split() == ((1, 2), (3, 4))
    assert ledger.answered(1)
    assert ledger.split() == ((2, 3), (4,))


def test_nested_requests_count_as_begun() -> None:
    """A nested request runs at once on a thread that waits."""
    ledger = Ledger(1)
    for number, nested in ((1, False), (2, False), (3, True)):
        ledger.sent(number, nested=nested)
    assert ledger.split() == ((1, 3), (2,))


def test_an_answer_to_nothing_is_told() -> None:
    """A10: unknown, doubled and invented answers are breaches."""
    ledger = Ledger(1)
    ledger.sent(1, nested=True)
    assert ledger.answered(1)
    assert not ledger.answered(1)
    assert not ledger.answered(2)


class _Death(RuleBasedStateMachine):
    """A simulated worker: it takes requests in order on its threads, answers, cancels, and may die between any two steps.

    Steps are as fine as the real worker's: an answer is on the wire before its thread takes the next request, and a
    cancelled request is answered before any thread can pass it by.
    """

    @initialize(threads=st.integers(1, 4))
    def begin(self, threads: int) -> None:
        self.threads = threads
        self.ledger = Ledger(threads)
        self.numbers = iter(range(1, 10_000))
        self.queue: collections.deque[int] = collections.deque()  # in the worker, not begun
        self.running: set[int] = set()
        self.nested: set[int] = set()
        self.begun: set[int] = set()
        self.wire: collections.deque[int] = collections.deque()  # answers written by the worker, not yet read by the host
        self.sent: set[int] = set()
        self.answered: set[int] = set()

    @rule()
    def send(self) -> None:
        number = next(self.numbers)
        self.sent.add(number)
        self.ledger.sent(number, nested=False)
        self.queue.append(number)

    @precondition(lambda self: self.running)
    @rule()
    def nest(self) -> None:
        number = next(self.numbers)
        self.sent.add(number)
        self.ledger.sent(number, nested=True)
        self.nested.add(number)
        self.begun.add(number)

    @precondition(lambda self: self.queue and len(self.running) < self.threads)
    @rule()
    def take(self) -> None:
        number = self.queue.popleft()
        self.running.add(number)
        self.begun.add(number)

    @precondition(lambda self: self.running or self.nested)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.running | self.nested)))
        self.running.discard(number)
        self.nested.discard(number)
        self.wire.append(number)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.queue)))
        self.queue.remove(number)
        self.wire.append(number)

    @precondition(lambda self: self.wire)
    @rule()
    def read(self) -> None:
        number = self.wire.popleft()
        assert self.ledger.answered(number)
        self.answered.add(number)

    @invariant()
    def would_be_right_to_die_now(self) -> None:
        """The host reads what is on the wire, then judges; here on a copy, since dying is always possible."""
        if not hasattr(self, "ledger"):
            return
        judged = Ledger(self.threads)
        lost, untouched = self.ledger.split()
        nested = self.nested | {number for number in self.wire if number in self.begun and number not in self.ledger._sent}
        for number in sorted({*lost, *untouched}):
            judged.sent(number, nested=number in nested)
        for number in self.wire:
            assert judged.answered(number)
        lost, untouched = judged.split()
        assert not set(lost) & set(untouched)
        assert set(lost) | set(untouched) == self.sent - self.answered - set(self.wire)
        assert not set(untouched) & self.begun, "a request that had begun would be sent again"
        assert list(untouched) == sorted(untouched)
        assert len(lost) <= self.threads + len(self.nested)


TestDeath = _Death.TestCase
TestDeath.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
