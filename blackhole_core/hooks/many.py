"""``pm.hook.transform.map([{"text": "a"}, {"text": "b"}])``: one caller with many calls of a hook outstanding.

The calls are taken in windows. A window reaches each plugin outside of the caller's thread as one piece of work, so that a call costs little
more than running it. Rules:

* What comes back is what a loop of plain calls would have given, in order. In a window one implementation may answer a later call before the
  next implementation answers an earlier one; of each call, the implementations run in their order.
* A window holds a ticket of the hook's door from before it looks at what stands behind the hook until all of it is answered: a gate waits for
  it, and each call is answered by one version.
* What is out of the ordinary (wrappers, monitoring, a missing argument, no plugin outside of the caller's thread) is called plainly, one by one.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pluggy import HookImpl

from blackhole_core.errors import CallTimeout
from blackhole_core.hooks.compiling import parameters_of
from blackhole_core.messages import Columns, Replies, rows_of

if TYPE_CHECKING:
    from blackhole_core.hooks.caller import HookCaller
    from blackhole_core.hooks.telemetry import Meter

__all__ = ["WINDOW", "Item", "Plan", "answer", "answer_inside", "loop", "map_calls", "noted", "windows"]

#: Calls on their way at once. More is hardly faster (a wake-up of 8 µs is shared by 64 already) and holds a swap up longer.
WINDOW: Final = 64

#: The arguments of one call.
Item = Mapping[str, Any]


def map_calls(answer: Callable[[Sequence[Item], bool], Replies], calls: Iterable[Item], window: int, return_exceptions: bool) -> list[Any]:
    """Give ``calls`` in windows to ``answer``, which is told whether a failure ends the whole, and return the results in order."""
    results: list[Any] = []
    for items in windows(calls, window):
        replies = answer(items, not return_exceptions)
        if replies.failures and not return_exceptions:
            place = min(replies.failures)
            error = noted(replies.failures[place], len(results) + place)
            try:
                raise error
            finally:
                del error, replies  # or the traceback holds the frame that holds the traceback
        results += (
            [replies.failures.get(place, result) for place, result in enumerate(replies.results)] if replies.failures else replies.results
        )
    return results


def windows(calls: Iterable[Item], window: int) -> Iterator[Sequence[Item]]:
    """Yield ``calls`` in lists of at most ``window``, each taken when the one before it was used.

    :raises ValueError: ``window`` is less than 1.
    """
    if window < 1:
        raise ValueError(f"window is the number of calls that are on their way at once, 1 or more, got {window!r}")
    left = iter(calls)
    while items := list(itertools.islice(left, window)):
        yield items


def noted(error: BaseException, index: int) -> BaseException:
    """Note which of the calls failed."""
    error.add_note(f"item {index} of map")
    return error


def loop(call: Callable[..., Any], items: Sequence[Item], stop: bool) -> Replies:
    """Call plainly, one by one."""
    results: list[Any] = []
    failures: dict[int, BaseException] = {}
    for place, item in enumerate(items):
        try:
            results.append(call(**item))
        except Exception as error:
            failures[place] = error
            results.append(None)
            if stop:
                break
    return Replies(results, failures)


def answer(caller: HookCaller, items: Sequence[Item], stop: bool) -> Replies:
    """Answer one window; with ``stop`` it ends at the first failure."""
    _refuse_historic(caller)
    if not any(map(_together, caller._hookimpls)):
        return loop(caller.function, items, stop)
    try:
        ticket = caller.door.enter(caller.manager.gate_timeout)
    except CallTimeout as error:
        return Replies([None] * len(items), dict.fromkeys(range(len(items)), error))
    try:
        return answer_inside(caller, items, stop)
    finally:
        caller.door.leave(ticket)


def _refuse_historic(caller: HookCaller) -> None:
    """Refuse what pluggy refuses, in its words."""
    assert not caller.is_historic(), "Cannot directly call a historic hook - use call_historic instead."


def answer_inside(caller: HookCaller, items: Sequence[Item], stop: bool) -> Replies:
    """Answer one window under a ticket of the hook's door."""
    _refuse_historic(caller)
    plan = _plan(caller)
    columns = None if plan is None else _columns(items, plan.parameters)
    if plan is None or columns is None:
        return loop(caller.function, items, stop)
    meter = None if caller.manager.measuring is None else caller.measured()
    window = _Window(caller, plan, columns, len(items), stop)
    begun = len(items)  # after an interrupt: as many as there may have been
    if meter is None:
        return window.answer()
    began = time.perf_counter_ns()
    try:
        replies = window.answer()
        begun = len(replies.results)
        return replies
    finally:
        _count(meter, begun, len(window.failures), time.perf_counter_ns() - began)


def _count(meter: Meter, calls: int, failures: int, nanoseconds: int) -> None:
    """Have telemetry count calls; each took as long as their window."""
    for _ in range(calls):
        next(meter.aside)
        meter.histogram.add(nanoseconds)
    for _ in range(failures):
        next(meter.aside_failed)


class Plan(NamedTuple):
    """How a hook's calls are answered together: its parameters, and its implementations in the order in which they are called.

    ``impls`` are what it was made for, in pluggy's order.
    """

    impls: Sequence[HookImpl]
    parameters: tuple[str, ...]
    order: tuple[HookImpl, ...]
    firstresult: bool


def _plan(caller: HookCaller) -> Plan | None:
    """Return the plan for what the window runs; None when the hook is to be called plainly.

    The caller keeps it until what stands behind the hook changes. It is compared all the same: a finaliser that calls the hook in the middle of a change
    has one kept that is out of date when the change is complete.
    """
    if not caller.manager.calls_plainly():
        return None
    with caller.manager.hook_lock:
        impls = caller.passing()
        if caller.plan is None or caller.plan.impls is not impls:
            plan = _planned(caller, impls)
            if caller.door.gates:
                return plan  # of what stood here before: to keep it would keep old plugins alive
            caller.plan = plan
        return caller.plan


def _planned(caller: HookCaller, impls: Sequence[HookImpl]) -> Plan | None:
    elsewhere = False
    for impl in impls:
        if impl.wrapper or impl.hookwrapper or impl.kwargnames:
            return None
        elsewhere = elsewhere or _together(impl) is not None
    if not elsewhere:
        return None
    order = tuple(reversed(impls))
    parameters = parameters_of(caller.spec, order)
    return Plan(impls, parameters, order, caller.firstresult()) if parameters else None


def _together(impl: HookImpl) -> Callable[[Columns, int, bool], Replies] | None:
    """Return what takes many calls of an implementation at once, None for one that runs in the caller's thread."""
    found: Callable[[Columns, int, bool], Replies] | None = getattr(impl.function, "__call_many__", None)
    return found


def _columns(items: Sequence[Item], parameters: Sequence[str]) -> dict[str, list[Any]] | None:
    """Return the values that the calls have for each of ``parameters``; None if any of them gives more, or less, or is no plain dict."""
    if list(map(type, items)).count(dict) != len(items):
        return None
    try:
        columns = {name: list(map(operator.itemgetter(name), items)) for name in parameters}
    except KeyError:
        return None
    return columns if sum(map(len, items)) == len(items) * len(parameters) else None  # none has less, so none has more


class _Window:
    """Calls that are answered together, from implementation to implementation. ``failures`` are those that failed, by place."""

    def __init__(self, caller: HookCaller, plan: Plan, columns: Mapping[str, list[Any]], count: int, stop: bool) -> None:
        self._caller = caller
        self._plan = plan
        self._columns = columns
        self._count = count
        self._stop = stop
        self.failures: dict[int, BaseException] = {}

    def answer(self) -> Replies:
        firstresult = self._plan.firstresult
        results: list[Any] = []
        live: Sequence[int] = range(self._count)  # the places that go on to the next implementation
        for impl in self._plan.order:
            replies = self._ask(impl, self._arguments(impl, live), len(live))
            for index, error in replies.failures.items():
                self.failures[live[index]] = error
            if not results:
                results = list(replies.results) if firstresult else [[] if value is None else [value] for value in replies.results]
            else:
                _put(results, live, replies.results, firstresult=firstresult)
            live = self._unfailed(live)
            if firstresult:
                live = [place for place in live if results[place] is None]
            if not live:
                break
        for place in self.failures:
            results[place] = None
        return Replies(results, self.failures)

    def _unfailed(self, live: Sequence[int]) -> Sequence[int]:
        if not self.failures:
            return live
        if self._stop:
            first = min(self.failures)
            return [place for place in live if place < first]
        return [place for place in live if place not in self.failures]

    def _arguments(self, impl: HookImpl, live: Sequence[int]) -> Columns:
        columns = [self._columns[name] for name in impl.argnames]
        return columns if len(live) == self._count else [[column[place] for place in live] for column in columns]

    def _ask(self, impl: HookImpl, columns: Columns, count: int) -> Replies:
        """Return the replies of one implementation: to all calls, or up to the first failure where that ends the whole."""
        together = _together(impl)
        if together is None:
            return self._one_by_one(impl, rows_of(columns, count))
        replies = together(columns, count, self._stop)
        if len(replies.results) == count:
            return replies
        results, failures = list(replies.results), dict(replies.failures)
        while (done := len(results)) < count and not (failures and self._stop):
            replies = together([column[done:] for column in columns], count - done, self._stop)
            assert replies.results, "there is at least one reply"
            failures.update((done + index, error) for index, error in replies.failures.items())
            results += replies.results
        return Replies(results, failures)

    def _one_by_one(self, hook_impl: HookImpl, arguments: Sequence[tuple[Any, ...]]) -> Replies:
        results: list[Any] = []
        failures: dict[int, BaseException] = {}
        for args in arguments:
            try:
                results.append(hook_impl.function(*args))
            except BaseException as error:
                self._caller.attribute(error, self._plan.order[::-1])
                if not isinstance(error, Exception):
                    raise
                failures[len(results)] = error
                results.append(None)
                if self._stop:
                    break
        return Replies(results, failures)


def _put(results: list[Any], places: Sequence[int], values: Sequence[Any], *, firstresult: bool) -> None:
    """Add one implementation's values to the results; there are fewer of them where a failure has ended it all."""
    for place, value in zip(places, values, strict=False):
        if firstresult:
            results[place] = value
        elif value is not None:
            results[place].append(value)
