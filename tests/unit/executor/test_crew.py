"""The threads of a plugin and their queue: every piece of work is run, refused or taken back, once."""

from __future__ import annotations

import collections
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from blackhole_core.executor.bell import new_bell
from blackhole_core.executor.crew import Crew
from blackhole_core.executor.threadbatch import BatchHelp, ThreadBatch
from blackhole_core.messages import Calls, Replies
from tests.stage import eventually, in_threads


class _Work:
    def __init__(self, until: threading.Event | None = None) -> None:
        self.until = until
        self.fates: list[str] = []
        self.begun, self.told = threading.Event(), threading.Event()

    def run(self) -> None:
        self.begun.set()
        if self.until is not None:
            self.until.wait(10)
        self.fates.append("run")

    def refuse(self) -> None:
        self.fates.append("refused")
        self.told.set()

    def tell(self) -> None:
        self.told.set()


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew("blackhole-test")
    crew.add_thread()
    yield crew
    assert crew.stop(time.monotonic() + 10) == []


def test_work_is_run_in_order(crew: Crew) -> None:
    """One thread takes one piece of work after the other, and keeps none of them alive."""
    works = [_Work() for _ in range(20)]
    assert all(crew.submit(work) for work in works)
    assert all(work.told.wait(10) for work in works)
    assert [work.fates for work in works] == [["run"]] * 20
    last = weakref.ref(works[-1])
    del works
    assert eventually(lambda: last() is None)


def test_all_threads_take_part(crew: Crew) -> None:
    """Work that comes while a thread is busy wakes another one."""
    for _ in range(2):
        crew.add_thread()
    hold = threading.Event()
    works = [_Work(hold) for _ in range(3)]
    for work in works:
        crew.submit(work)
    assert all(work.begun.wait(10) for work in works)
    hold.set()


def test_queued_work_can_be_taken_back(crew: Crew) -> None:
    """What has not begun is withdrawn and never run; what has begun is not."""
    hold = threading.Event()
    running, queued = _Work(hold), _Work()
    crew.submit(running)
    crew.submit(queued)
    assert running.begun.wait(10)
    assert crew.withdraw(queued)
    assert not crew.withdraw(queued)
    assert not crew.withdraw(running)
    hold.set()
    assert crew.drained(10)
    assert queued.fates == []


def test_drained_means_that_nothing_is_queued_or_running(crew: Crew) -> None:
    """It is false while work runs or waits, and true as soon as the last of it was told or taken back."""
    hold = threading.Event()
    assert crew.drained(0)
    running, queued = _Work(hold), _Work()
    crew.submit(running)
    assert running.begun.wait(10)
    assert not crew.drained(0)
    crew.submit(queued)
    hold.set()
    assert queued.told.wait(10)
    assert crew.drained(0)


def test_who_waits_for_the_drain_is_told_of_a_withdrawal() -> None:
    """The last piece of work may also be taken back."""
    crew = Crew("blackhole-test")  # without a thread
    work = _Work()
    crew.submit(work)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(crew.drained(10)))
    waiting.start()
    assert eventually(lambda: crew._draining)
    crew.withdraw(work)
    waiting.join(10)
    assert found == [True]
    crew.stop(0.0)


def test_the_end_lets_what_is_queued_end_and_refuses_the_rest() -> None:
    """Work from before the end is run within the time given; what is left then is refused, and so is what comes later."""
    crew = Crew("blackhole-test")
    crew.add_thread()
    hold = threading.Event()
    running, queued = _Work(hold), _Work()
    crew.submit(running)
    crew.submit(queued)
    assert running.begun.wait(10)
    [left] = crew.stop(time.monotonic() + 0.05)
    assert (running.fates, queued.fates) == ([], ["refused"])
    assert not crew.submit(_Work())
    hold.set()
    left.join(10)
    assert running.fates == ["run"]
    assert not crew.threads


def test_a_thread_that_was_let_go_ends_with_its_work(crew: Crew) -> None:
    """Its work counts as running until then; a fresh thread takes what is queued."""
    hold = threading.Event()
    stuck, next_one = _Work(hold), _Work()
    crew.submit(stuck)
    crew.submit(next_one)
    assert stuck.begun.wait(10)
    [ident] = crew.threads
    thread = crew.let_go(ident)
    assert thread is not None
    assert crew.let_go(ident) is None
    crew.add_thread()
    assert next_one.told.wait(10)
    assert not crew.drained(0.02)
    hold.set()
    thread.join(10)
    assert crew.drained(10)


def test_a_thread_that_was_let_go_in_its_sleep_keeps_no_ring(crew: Crew) -> None:
    """It may be the one who wakes when work comes: then it wakes another one, also at the end."""
    for _ in range(7):
        crew.add_thread()
    assert eventually(lambda: len(crew._asleep) == 8)
    left = [crew.let_go(ident) for ident in list(crew.threads)[:-2]]
    for _ in range(3):
        work = _Work()
        crew.submit(work)
        assert work.told.wait(10)
    assert crew.stop(time.monotonic() + 10) == []
    for thread in left:
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.usefixtures("fast_switching")
@pytest.mark.parametrize("threads", [1, 3])
def test_no_work_is_lost_or_doubled_when_the_end_comes(threads: int) -> None:
    """Callers submit and take back while the crew is stopped: each piece of work has exactly one fate."""
    for _ in range(30):
        crew = Crew("blackhole-test")
        for _ in range(threads):
            crew.add_thread()
        works: list[_Work] = []

        def act(number: int, crew: Crew = crew, works: list[_Work] = works) -> None:
            if number == 0:
                assert crew.stop(time.monotonic() + 10) == []
                return
            for turn in range(20):
                work = _Work()
                works.append(work)
                if not crew.submit(work):
                    work.fates.append("not taken")
                elif turn % 3 == number and crew.withdraw(work):
                    work.fates.append("withdrawn")

        assert in_threads(4, act) == [None] * 4
        assert [work.fates for work in works if len(work.fates) != 1] == []
        assert crew.drained(0)


# --- the moments that threads seldom meet in -------------------------------------------------------------------------


class _Sleepers(set[int]):
    """Lets something happen just before a thread says that it sleeps."""

    def __init__(self, before: list[Callable[[], object]]) -> None:
        self.before = before

    def add(self, ident: int) -> None:
        while self.before:
            self.before.pop()()
        super().add(ident)


class _Queue(collections.deque[Any]):
    """Looks at the crew when work has just been taken."""

    def __init__(self, look: Callable[[], object]) -> None:
        super().__init__()
        self.look = look

    def popleft(self) -> Any:
        work = super().popleft()
        self.look()
        return work


@pytest.mark.parametrize("what", ["work", "the end"])
def test_nothing_is_slept_through(what: str) -> None:
    """What comes after a thread found nothing to do and before it says that it sleeps is seen all the same."""
    crew = Crew("blackhole-test")
    work = _Work()
    happens: list[Callable[[], object]] = [lambda: crew.submit(work)]
    if what == "the end":
        happens = [lambda: setattr(crew, "closed", True)]
    crew._asleep = _Sleepers(happens)
    crew.add_thread()
    [thread] = crew.threads.values()
    if what == "work":
        assert work.told.wait(10)
        crew.stop(time.monotonic() + 10)
    thread.join(10)
    assert not thread.is_alive()


def test_drained_is_never_true_while_work_is_between_queue_and_thread() -> None:
    """The moment after work was taken counts as running; the moment before its caller is told does not."""
    crew = Crew("blackhole-test")
    found: list[bool] = []
    crew._queue = _Queue(lambda: found.append(crew.drained(0)))
    crew.add_thread()

    class Looking(_Work):
        def tell(self) -> None:
            found.append(crew.drained(0))
            super().tell()

    work = Looking()
    crew.submit(work)
    assert work.told.wait(10)
    assert found == [False, True]
    crew.stop(time.monotonic() + 10)


def test_a_batch_that_was_taken_is_not_over_because_its_help_was_refused() -> None:
    """The end comes when one thread has taken the batch and not begun it, and the other's part is still queued."""
    crew = Crew("blackhole-test")
    batch = ThreadBatch(SimpleNamespace(plugin="p@1"), threading.get_ident(), Calls("add", [[-1, -2]], 2, 0), abs, new_bell())
    over: list[bool] = []

    def end() -> None:
        crew.stop(0.0)
        over.append(batch.done)

    crew._queue = _Queue(end)
    crew.submit(batch)
    crew.submit(BatchHelp(batch))
    crew.add_thread()
    [thread] = crew.threads.values()
    batch.wait()
    assert not any(over)
    assert batch.replies() == Replies([1, 2], {})
    thread.join(10)


def test_work_that_comes_behind_the_end_is_not_left_in_the_queue() -> None:
    """A caller who had looked before the end, and puts its work in after it, is told that it will not be run."""
    crew = Crew("blackhole-test")

    class Late(collections.deque[Any]):
        def append(self, work: Any) -> None:
            crew.stop(0.0)
            super().append(work)

    crew._queue = Late()
    assert not crew.submit(_Work())
    assert not crew._queue
