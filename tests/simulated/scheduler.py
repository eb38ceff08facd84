"""One thread at a time, in an order that a seed decides, on a clock that is a number.

The product's code runs as it is, on real threads, but what it waits with (locks, conditions, events, queues, sleeps, descriptors) is replaced by what is here, so that
exactly one thread runs and each point at which it waits, or takes a lock, is a point at which another may go on. Who does is drawn from the seed: the same seed leads to
the same history, and no history takes time. Time passes only when nothing else can happen, or when a test says so.

Locks are the finest grain: what two threads do to each other between two of them is not tried here.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import importlib
import pkgutil
import queue
import random
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from blackhole_core.stacks import StackReading

__all__ = ["Scheduler", "Stuck", "simulated"]

#: Seconds of real time after which a thread that was to go on for a moment counts as lost: it waits for something that is not simulated.
_LOST: Final = 20.0
#: Decisions after which what goes on without time's passing goes round in circles.
_MOST_AT_ONCE: Final = 10_000
#: Times in a thousand that a thread which takes a lock lets another one go first.
_PREEMPTED: Final = 60


class Stuck(AssertionError):
    """Somebody waits for what can never happen."""


class _Task:
    """A thread of the simulation. ``ready`` says whether it may go on, and at ``deadline`` it does whatever that says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn = threading.Lock()
        self.turn.acquire()
        self.work: Callable[[], object] | None = None
        self.ready: Callable[[], object] | None = None
        self.deadline: float | None = None
        self.thread: Any = None  # the product's view of it
        self.real: threading.Thread | None = None


class Scheduler:
    """Owned by the thread that makes it: the driver, which decides when others may run, and runs them when it waits itself."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.decisions = 0
        self.trace: list[str] = []  #: who was chosen, in order
        #: Things that may happen beside the threads: each call returns those that may happen now.
        self.sources: list[Callable[[], list[Callable[[], object]]]] = []
        #: Told just before time passes: nothing can happen any more without that.
        self.at_standstill: Callable[[], object] = lambda: None
        self.failures: list[BaseException] = []  #: what ended a thread
        self._tasks: list[_Task] = []
        self._idle: list[_Task] = []
        self._back = threading.Lock()
        self._back.acquire()
        self._current: _Task | None = None
        self._odds = self.random.randrange  # bound once: it is asked at each lock

    # --- the driver --------------------------------------------------------------------------------------------------

    def step(self, *, patient: bool = True) -> bool:
        """Let one thing happen; False when nothing can. ``patient``: time may pass for it."""
        chosen = self._candidates()
        if not chosen:
            due = min((task.deadline for task in self._tasks if task.deadline is not None), default=None)
            if due is None or not patient:
                return False
            self.at_standstill()
            self.now = max(self.now, due)
            chosen = self._candidates()
        self.decisions += 1
        one = chosen[self.random.randrange(len(chosen))] if len(chosen) > 1 else chosen[0]
        if isinstance(one, _Task):
            self._run(one)
        else:
            one()
        return True

    def _candidates(self) -> list[Any]:
        now = self.now
        found: list[Any] = [
            task for task in self._tasks if task.ready is None or (task.deadline is not None and task.deadline <= now) or task.ready()
        ]
        for source in self.sources:
            found += source()
        return found

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(_MOST_AT_ONCE):
            if not self.step(patient=False):
                return
        raise Stuck(f"something goes on for ever, and no time passes:\n{self.waiting()}")

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due in it happen, in an order that the seed decides where it is due at once."""
        end = self.now + seconds
        while True:
            self.settle()
            due = min((task.deadline for task in self._tasks if task.deadline is not None), default=None)
            self.at_standstill()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
        self.now = end
        self.settle()

    def _run(self, task: _Task) -> None:
        task.ready, task.deadline = None, None
        self._current = task
        task.turn.release()
        if not self._back.acquire(timeout=_LOST):
            raise Stuck(f"{task.name} does not come back:\n{_stack(task)}")
        self._current = None

    def close(self) -> None:
        """End the threads; all have nothing to do any more."""
        for task in self._idle:
            task.work = None
            task.turn.release()
        for task in self._idle:
            assert task.real is not None
            task.real.join()
        self._idle = []

    def waiting(self) -> str:
        """Say where each thread waits."""
        return "\n".join(f"{task.name}:\n{_stack(task)}" for task in self._tasks)

    @property
    def busy(self) -> list[str]:
        """The names of the threads that have not ended."""
        return [task.name for task in self._tasks]

    # --- any thread --------------------------------------------------------------------------------------------------

    def block(self, ready: Callable[[], object], seconds: float | None) -> bool:
        """Wait until ``ready()`` holds; False when ``seconds`` passed first."""
        deadline = None if seconds is None else self.now + seconds
        task = self._current
        if task is None:
            return self._drive(ready, deadline)
        task.ready, task.deadline = ready, deadline
        self._give_back(task)
        return bool(ready())

    def _drive(self, ready: Callable[[], object], deadline: float | None) -> bool:
        while not ready():
            if deadline is not None and self.now >= deadline:
                return False
            if self._candidates():
                self.step()
                continue
            due = min((task.deadline for task in self._tasks if task.deadline is not None), default=None)
            due = deadline if due is None else due if deadline is None else min(due, deadline)
            if due is None:
                raise Stuck(f"nothing will ever happen, and somebody waits:\n{self.waiting()}")
            self.at_standstill()
            self.now = max(self.now, due)
        return True

    def let_others(self) -> None:
        """Be one of those who may go on next."""
        if (task := self._current) is not None:
            self._give_back(task)

    def maybe(self, odds: int = _PREEMPTED) -> None:
        """Do so now and then."""
        if self._current is not None and self._odds(1000) < odds:
            self._give_back(self._current)

    def _give_back(self, task: _Task) -> None:
        self._back.release()
        task.turn.acquire()

    def start(self, thread: Any, run: Callable[[], object]) -> None:
        """Have ``run`` run as one more thread."""
        task = self._idle.pop() if self._idle else self._new_task()
        task.name, task.thread, task.work, task.ready = thread.name, thread, run, None
        self._tasks.append(task)

    def _new_task(self) -> _Task:
        task = _Task("")
        task.real = threading.Thread(target=self._serve, args=(task,), name="simulated", daemon=True)
        task.real.start()
        return task

    def _serve(self, task: _Task) -> None:
        task.turn.acquire()
        while task.work is not None:
            try:
                contextvars.Context().run(task.work)
            except BaseException as error:
                self.failures.append(error)
            task.work = None
            task.thread.ended = True
            task.thread = None
            self._tasks.remove(task)
            self._idle.append(task)
            self._back.release()
            task.turn.acquire()

    def current_thread(self) -> Any:
        return self._current.thread if self._current is not None else threading.current_thread()


def _stack(task: _Task) -> str:
    assert task.real is not None
    with StackReading() as tops:
        return "".join(traceback.format_stack(tops[task.real.ident or 0])) if task.real.ident in tops else "gone"


# --- what the product waits with --------------------------------------------------------------------------------------


def _threading(scheduler: Scheduler) -> types.ModuleType:  # noqa: C901 - a module in the shape of a function
    """Return what stands for ``threading``."""

    class Lock:
        __slots__ = ("_held",)

        def __init__(self) -> None:
            self._held = False

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if scheduler._current is not None:
                scheduler.maybe()
            if self._held and (not blocking or not scheduler.block(lambda: not self._held, None if timeout < 0 else timeout)):
                return False
            self._held = True
            return True

        def release(self) -> None:
            assert self._held
            self._held = False

        def locked(self) -> bool:
            return self._held

        __enter__ = acquire

        def __exit__(self, *_: object) -> None:
            self.release()

    class RLock:
        def __init__(self) -> None:
            self._owner: object = None
            self._count = 0

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            me = threading.get_ident()
            if self._owner != me:
                scheduler.maybe()
                if self._owner is not None and (
                    not blocking or not scheduler.block(lambda: self._owner is None, None if timeout < 0 else timeout)
                ):
                    return False
                self._owner = me
            self._count += 1
            return True

        def release(self) -> None:
            assert self._owner == threading.get_ident()
            self._count -= 1
            if not self._count:
                self._owner = None

        __enter__ = acquire

        def __exit__(self, *_: object) -> None:
            self.release()

        def suspend(self) -> int:
            count, self._count, self._owner = self._count, 0, None
            return count

        def resume(self, count: int) -> None:
            self.acquire()
            self._count = count

    class Condition:
        def __init__(self, lock: Any = None) -> None:
            self._lock = lock if lock is not None else RLock()
            self._waiters: collections.deque[list[bool]] = collections.deque()
            self.acquire, self.release = self._lock.acquire, self._lock.release

        def __enter__(self) -> bool:
            return bool(self._lock.acquire())

        def __exit__(self, *_: object) -> None:
            self._lock.release()

        def wait(self, timeout: float | None = None) -> bool:
            told = [False]
            self._waiters.append(told)
            count = self._lock.suspend() if isinstance(self._lock, RLock) else self._lock.release()
            try:
                return scheduler.block(lambda: told[0], timeout)
            finally:
                if told in self._waiters:
                    self._waiters.remove(told)
                self._lock.resume(count) if isinstance(self._lock, RLock) else self._lock.acquire()

        def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
            end = None if timeout is None else scheduler.now + timeout
            while not (result := predicate()):
                left = None if end is None else end - scheduler.now
                if left is not None and left <= 0:
                    return result
                self.wait(left)
            return result

        def notify(self, n: int = 1) -> None:
            while n and self._waiters:
                self._waiters.popleft()[0] = True
                n -= 1

        def notify_all(self) -> None:
            self.notify(len(self._waiters))

    class Event:
        def __init__(self) -> None:
            self._set = False

        def is_set(self) -> bool:
            return self._set

        def set(self) -> None:
            self._set = True

        def clear(self) -> None:
            self._set = False

        def wait(self, timeout: float | None = None) -> bool:
            return self._set or scheduler.block(lambda: self._set, timeout)

    class Thread:
        def __init__(
            self,
            group: None = None,
            target: Callable[..., object] = lambda: None,
            name: str = "thread",
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
            *,
            daemon: bool = True,
        ) -> None:
            self.name, self.daemon = name, daemon
            self._run = lambda: target(*args, **(kwargs or {}))
            self._begun = self.ended = False

        def start(self) -> None:
            self._begun = True
            scheduler.start(self, self._run)
            scheduler.maybe()

        def is_alive(self) -> bool:
            return self._begun and not self.ended

        def join(self, timeout: float | None = None) -> None:
            if not self.ended:
                scheduler.block(lambda: self.ended, timeout)

    return _shim(
        threading, Lock=Lock, RLock=RLock, Condition=Condition, Event=Event, Thread=Thread, current_thread=scheduler.current_thread
    )


def _queue(scheduler: Scheduler) -> types.ModuleType:
    class SimpleQueue:
        """``put`` lets nobody else run: finalisers call it."""

        def __init__(self) -> None:
            self._items: collections.deque[Any] = collections.deque()

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            self._items.append(item)

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if not self._items and (not block or not scheduler.block(lambda: self._items, timeout)):
                raise queue.Empty
            return self._items.popleft()

        def get_nowait(self) -> Any:
            return self.get(block=False)

        def empty(self) -> bool:
            return not self._items

        def qsize(self) -> int:
            return len(self._items)

    return _shim(queue, SimpleQueue=SimpleQueue)


def _time(scheduler: Scheduler) -> types.ModuleType:
    def sleep(seconds: float) -> None:
        scheduler.block(lambda: False, seconds)

    return _shim(time, monotonic=lambda: scheduler.now, time=lambda: 1.7e9 + scheduler.now, sleep=sleep)


def _shim(real: types.ModuleType, **replaced: Any) -> types.ModuleType:
    shim = types.ModuleType(real.__name__)
    shim.__dict__.update({name: value for name, value in vars(real).items() if not name.startswith("__")})
    shim.__dict__.update(replaced)
    return shim


@functools.cache
def _import_all() -> None:
    """Have everything imported that may be, so that nothing is while others run."""
    for package in ("hooks", "lifecycle", "executor", "executor.wire", "state"):
        for info in pkgutil.iter_modules(importlib.import_module(f"blackhole_core.{package}").__path__, f"blackhole_core.{package}."):
            if not info.ispkg:
                importlib.import_module(info.name)


def _places() -> list[tuple[types.ModuleType, str, str]]:
    """Return where the product names what is replaced: module, attribute, and what it means."""
    meant = {id(threading): "threading", id(queue): "queue", id(time): "time", id(queue.SimpleQueue): "SimpleQueue"}
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("blackhole_core") and module is not None]
    return [(module, name, meant[id(value)]) for module in modules for name, value in vars(module).items() if id(value) in meant]


@contextmanager
def simulated(seed: int) -> Iterator[Scheduler]:
    """Have the product wait with what is here, for the length of the block; everything it makes must have ended by then."""
    _import_all()
    scheduler = Scheduler(seed)
    shims: dict[str, Any] = {"threading": _threading(scheduler), "queue": _queue(scheduler), "time": _time(scheduler)}
    shims["SimpleQueue"] = shims["queue"].SimpleQueue
    real = {"threading": threading, "queue": queue, "time": time, "SimpleQueue": queue.SimpleQueue}
    places = _places()
    for module, name, what in places:
        setattr(module, name, shims[what])
    try:
        yield scheduler
    finally:
        for module, name, what in places:
            setattr(module, name, real[what])
        scheduler.close()
