"""``map``: many calls of a hook give what a loop of plain calls gives, however the plugins take them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pluggy import HookimplMarker, HookspecMarker

from blackhole_core.errors import CallTimeout
from blackhole_core.hooks.gate import HookGate
from blackhole_core.hooks.manager import HookManager
from blackhole_core.messages import Columns, Replies, rows_of

hookspec, hookimpl = HookspecMarker("many"), HookimplMarker("many")

Function = Callable[..., Any]


class _Specs:
    @hookspec
    def both(self, a: int, b: int) -> Any: ...

    @hookspec(firstresult=True)
    def first(self, a: int, b: int) -> Any: ...

    @hookspec(historic=True)
    def told(self, a: int) -> Any: ...


def _together(function: Function, most: int, asked: list[int]) -> Function:
    """Let ``function`` take many calls at once, as the functions of a proxy do, ``most`` at a time; ``asked`` gets how many were given."""

    def call_many(columns: Columns, count: int, stop_at_failure: bool) -> Replies:
        asked.append(count)
        results: list[Any] = []
        failures: dict[int, BaseException] = {}
        for place, args in enumerate(rows_of(columns, count)[:most]):
            try:
                results.append(function(*args))
            except ValueError as error:
                failures[place] = error
                results.append(None)
                if stop_at_failure:
                    break
        return Replies(results, failures)

    function.__dict__["__call_many__"] = call_many
    return function


def _plugin(hook: str, function: Function) -> Any:
    plugin = type("Plugin", (), {})()
    setattr(plugin, hook, hookimpl(specname=hook)(function))
    return plugin


def _impl(kind: str, number: int) -> Function:
    """Return an implementation whose answers tell which it is; it fails, or has nothing to say, at values of its own."""

    def ab(a: int, b: int) -> Any:
        if a == number:
            raise ValueError(f"impl {number} at {a}, {b}")
        return None if (a + b) % 3 == number % 3 else (number, a, b)

    def only_b(b: int) -> Any:
        return ab(9, b)

    def ba(b: int, a: int) -> Any:
        return ab(a, b)

    return {"ab": ab, "b": only_b, "ba": ba}[kind]


def _outcome(call: Function) -> Any:
    try:
        return call()
    except ValueError as error:
        return str(error)


_IMPLS = st.lists(st.tuples(st.sampled_from(["ab", "b", "ba"]), st.sampled_from([None, 1, 3, 100])), min_size=1, max_size=4)
_ITEMS = st.lists(st.fixed_dictionaries({"a": st.integers(0, 5), "b": st.integers(0, 5)}), max_size=12)


@settings(max_examples=60)
@given(impls=_IMPLS, items=_ITEMS, window=st.integers(1, 5), hook=st.sampled_from(["both", "first"]))
def test_it_is_the_same_as_a_loop(impls: list[tuple[str, int | None]], items: list[dict[str, int]], window: int, hook: str) -> None:
    """Results, order, None, firstresult and the first failure are those of plain calls, however many the plugins take at once."""
    pm = HookManager("many")
    pm.add_hookspecs(_Specs)
    for number, (kind, most) in enumerate(impls):
        function = _impl(kind, number)
        pm.register(_plugin(hook, function if most is None else _together(function, most, [])))
    caller: Any = getattr(pm.hook, hook)
    looped = [_outcome(lambda item=item: caller(**item)) for item in items]  # type: ignore[misc]  # a default binds the loop's value
    mapped = caller.map(items, window=window, return_exceptions=True)
    assert [str(result) if isinstance(result, ValueError) else result for result in mapped] == looped
    failed = next((place for place, result in enumerate(looped) if isinstance(result, str)), None)
    if failed is None:
        assert caller.map(items, window=window) == looped
        return
    with pytest.raises(ValueError, match=looped[failed]) as caught:
        caller.map(items, window=window)
    assert f"item {failed} of map" in caught.value.__notes__


@pytest.fixture
def pm() -> Iterator[HookManager]:
    pm = HookManager("many")
    pm.add_hookspecs(_Specs)
    yield pm
    pm.close()


def test_a_window_is_taken_at_once_and_only_when_it_is_due(pm: HookManager) -> None:
    """A plugin that takes many calls is asked once for a window, and no more of an endless source is taken than is needed."""
    asked: list[int] = []
    pm.register(_plugin("both", _together(_impl("ab", 7), 100, asked)))
    taken: list[int] = []

    def source() -> Iterator[dict[str, int]]:
        for number in itertools.count(10):
            taken.append(number)
            yield {"a": 7 if number == 40 else number, "b": 0}

    assert len(pm.hook.both.map(itertools.islice(source(), 20), window=8)) == 20
    assert asked == [8, 8, 4]
    taken.clear()
    with pytest.raises(ValueError, match="impl 7"):
        pm.hook.both.map(source(), window=8)
    assert len(taken) == 32


def test_what_is_unusual_is_called_plainly(pm: HookManager) -> None:
    """Wrappers, hooks of the caller's own thread, extra or missing arguments: the same results and warnings as plain calls."""
    asked: list[int] = []
    assert pm.hook.both.map([{"a": 1, "b": 2}]) == [[]]
    plugin = _plugin("both", _together(_impl("ab", 7), 100, asked))
    pm.register(plugin)
    items = [{"a": 1, "b": 2}, {"a": 3, "b": 1, "c": 9}]
    assert pm.hook.both.map(items) == [pm.hook.both(**item) for item in items]
    with pytest.warns(UserWarning, match="'b'"), pytest.raises(Exception, match="'b'"):
        pm.hook.both.map([{"a": 1, "b": 1}, {"a": 1}])

    class Wrapper:
        @hookimpl(wrapper=True)
        def both(self) -> Any:
            return ["wrapped", *(yield)]

    pm.register(Wrapper())
    assert pm.hook.both.map([{"a": 1, "b": 1}]) == [["wrapped", (7, 1, 1)]]
    assert asked == []
    assert pm.subset_hook_caller("both", [plugin]).map([{"a": 1, "b": 1}]) == [["wrapped"]]


@pytest.mark.parametrize("replace", [False, True], ids=["unregistered", "replaced"])
def test_nothing_is_kept_of_a_plugin_that_is_gone(pm: HookManager, replace: bool) -> None:
    """What a window found behind the hook serves the next one, and goes with the plugin."""
    plugin = _plugin("both", _together(_impl("ab", 7), 100, []))
    pm.register(plugin, name="p")
    assert pm.hook.both.map([{"a": 1, "b": 1}] * 2) == [[(7, 1, 1)]] * 2
    gone = weakref.ref(plugin)
    if replace:
        pm.replace("p", _plugin("both", _together(_impl("ab", 9), 100, [])))
    else:
        pm.unregister(plugin)
    del plugin
    gc.collect()
    assert gone() is None
    assert pm.hook.both.map([{"a": 1, "b": 1}] * 2) == [[(9, 1, 1)] if replace else []] * 2


def test_what_a_finaliser_found_in_the_middle_of_a_change_serves_no_window(pm: HookManager) -> None:
    """It had to do with what stood there before."""
    pm.register(_plugin("both", _together(_impl("ab", 7), 100, [])), name="p")
    items = [{"a": 1, "b": 1}] * 2
    assert pm.hook.both.map(items) == [[(7, 1, 1)]] * 2
    found = pm.hook.both.plan
    assert found is not None
    pm.replace("p", _plugin("both", _together(_impl("ab", 9), 100, [])))
    pm.hook.both.plan = found  # as if a finaliser had called the hook after the old plan was dropped, and before the list was changed
    assert pm.hook.both.map(items) == [[(9, 1, 1)]] * 2


def test_mistakes_are_told(pm: HookManager) -> None:
    """Historic hooks, windows of nothing and items that are no arguments are refused as plain calls would be, or with a sentence."""
    pm.register(_plugin("both", _together(_impl("ab", 7), 100, [])))
    with pytest.raises(AssertionError, match="historic"):
        pm.hook.told.map([{"a": 1}])
    with pytest.raises(ValueError, match="window is the number of calls"):
        pm.hook.both.map([{"a": 1, "b": 1}], window=0)
    with pytest.raises(TypeError, match="mapping"):
        pm.hook.both.map([7])


def test_a_gate_waits_for_the_window_and_the_next_window_waits_for_it(pm: HookManager) -> None:
    """The calls of a window belong together; those after it find the gate closed, and give up as plain calls do."""
    gate = HookGate(pm, ["both"], plugin="upper")
    seen: list[bool] = []

    def close_in_the_third(a: int, b: int) -> int:
        if a == 2:
            gate.close()
            seen.append(gate.drained(0))
        return a

    pm.register(_plugin("both", _together(close_in_the_third, 100, [])))
    pm.gate_timeout = 0.01
    outcomes = pm.hook.both.map([{"a": number, "b": 0} for number in range(8)], window=4, return_exceptions=True)
    assert outcomes[:4] == [[0], [1], [2], [3]]
    assert all(isinstance(outcome, CallTimeout) for outcome in outcomes[4:])
    assert seen == [False]
    assert gate.drained(10)
    gate.open()
    assert pm.hook.both.map([{"a": 0, "b": 0}] * 2) == [[0], [0]]


def test_telemetry_counts_each_call(pm: HookManager) -> None:
    """A call in a window is a call."""
    pm.register(_plugin("both", _together(_impl("ab", 3), 100, [])))
    pm.telemetry.start()
    pm.hook.both.map([{"a": number, "b": 0} for number in range(6)], return_exceptions=True)
    counted = pm.telemetry.read().hooks["both"].total
    assert (counted.count, counted.errors) == (6, 1)


def test_telemetry_counts_no_call_that_never_began(pm: HookManager) -> None:
    """A failure that ends the window leaves out what is behind it, and so does the count."""
    pm.register(_plugin("both", _together(_impl("ab", 3), 100, [])))
    pm.telemetry.start()
    with pytest.raises(ValueError, match="impl 3"):
        pm.hook.both.map([{"a": number, "b": 0} for number in range(6)])
    counted = pm.telemetry.read().hooks["both"].total
    assert (counted.count, counted.errors) == (4, 1)


# --- on an event loop ------------------------------------------------------------------------------------------------


def test_it_can_be_awaited(pm: HookManager) -> None:
    """The same results, and awaitable answers are awaited in order."""

    async def slow(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a * b

    pm.register(_plugin("both", slow))
    pm.register(_plugin("both", _together(_impl("ab", 3), 2, [])))
    items = [{"a": number, "b": 2} for number in range(3)]
    expected = [[(3, 0, 2), 0], [2], [(3, 2, 2), 4]]
    assert asyncio.run(pm.ahook.both.map(items, window=2)) == expected
    items.append({"a": 3, "b": 2})
    *fine, error = asyncio.run(pm.ahook.both.map(items, return_exceptions=True))
    assert fine == expected
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="impl 3") as caught:
        asyncio.run(pm.ahook.both.map(items, window=3))
    assert "item 3 of map" in caught.value.__notes__


def test_what_is_not_awaited_is_closed(pm: HookManager) -> None:
    """A failure leaves no coroutine behind that nobody awaits (which would be a warning), and the gate can drain."""

    async def fails(a: int, b: int) -> int:
        raise ValueError(a)

    pm.register(_plugin("both", fails))
    with pytest.raises(ValueError, match="0"):
        asyncio.run(pm.ahook.both.map([{"a": number, "b": 2} for number in range(3)]))
    with HookGate(pm, ["both"]) as gate:
        assert gate.drained(10)
