"""``await pm.ahook.x(...)``."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest
from pluggy import HookimplMarker

from blackhole_core import callcontext
from blackhole_core.errors import CallTimeout
from blackhole_core.hooks.gate import HookGate

hookimpl = HookimplMarker("t")

SOON = 20.0


async def drained(gate: HookGate, seconds: float) -> bool:
    """Drain from a coroutine without blocking its loop."""
    return await asyncio.to_thread(gate.drained, seconds)


def test_the_same_results_as_without_await(pm, plugin_of):
    """Order, None, firstresult and wrappers are those of ``pm.hook``."""

    def wrap(x):
        return ["wrapped", *(yield)]

    pm.register(plugin_of(a=lambda x: x, first=lambda x: "never"))
    pm.register(plugin_of(a=lambda x: None, first=lambda x: "found"))
    pm.register(plugin_of(a=lambda x: x + 1, b=hookimpl(wrapper=True)(wrap)))

    async def main():
        assert await pm.ahook.a(x=1) == pm.hook.a(x=1) == [2, 1]
        assert await pm.ahook.b(x=1) == pm.hook.b(x=1) == ["wrapped"]
        assert await pm.ahook.first(x=1) == "found"

    asyncio.run(main())


def test_awaitable_results_are_awaited_in_order_on_the_loop(pm, plugin_of):
    """An ``async def`` implementation runs on the caller's loop; None is dropped after awaiting too."""
    seen = []

    async def one(x):
        seen.append((1, asyncio.get_running_loop(), threading.current_thread()))
        await asyncio.sleep(0)
        return 1

    async def nothing(x):
        seen.append((2, asyncio.get_running_loop(), threading.current_thread()))

    pm.register(plugin_of(a=one, first=one))
    pm.register(plugin_of(a=nothing))
    pm.register(plugin_of(a=lambda x: "plain"))

    async def main():
        assert await pm.ahook.a(x=0) == ["plain", 1]
        assert await pm.ahook.first(x=0) == 1
        loop, thread = asyncio.get_running_loop(), threading.current_thread()
        assert seen == [(2, loop, thread), (1, loop, thread), (1, loop, thread)]

    asyncio.run(main())


def test_the_loop_runs_on_while_a_hook_blocks(pm, plugin_of):
    """The implementation waits for something that only the loop can do."""
    told = threading.Event()
    pm.register(plugin_of(a=lambda x: told.wait(SOON)))

    async def main():
        call = asyncio.create_task(pm.ahook.a(x=1))
        await asyncio.sleep(0)
        told.set()
        assert await call == [True]

    asyncio.run(main())


def test_context_variables_follow(pm, plugin_of):
    """The deadline and the host's own variables are seen in the pool's thread."""
    mine = contextvars.ContextVar("mine")
    pm.register(plugin_of(a=lambda x: (mine.get(), callcontext.get_deadline() is not None)))

    async def main():
        mine.set("set")
        with callcontext.deadline(SOON):
            assert await pm.ahook.a(x=1) == [("set", True)]

    asyncio.run(main())


def test_an_unknown_hook_is_an_attribute_error(pm):
    """As with ``pm.hook``."""
    with pytest.raises(AttributeError, match="'nobody'"):
        pm.ahook.nobody  # noqa: B018 - looking it up is what is tested


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration("x"), asyncio.CancelledError("x")])
def test_exceptions_arrive(pm, plugin_of, error):
    """Even those that a future cannot carry; StopIteration becomes a RuntimeError in any coroutine."""

    def fail(x):
        raise error

    pm.register(plugin_of(a=fail))
    wanted = RuntimeError if isinstance(error, StopIteration) else type(error)

    async def main():
        with pytest.raises(wanted):
            await asyncio.wait_for(pm.ahook.a(x=1), SOON)

    asyncio.run(main())


def test_a_failing_await_is_attributed_and_ends_the_others(pm, plugin_of):
    """The note names the plugin whose coroutine raised; coroutines after it never begin and do not warn."""

    async def fail(x):
        raise ValueError(x)

    async def later(x):
        raise AssertionError

    pm.label_of = lambda name: f"{name}@1"
    pm.register(plugin_of(a=later), name="later")
    pm.register(plugin_of(a=fail), name="failing")

    async def main():
        with pytest.raises(ValueError, match="1") as caught:
            await pm.ahook.a(x=1)
        assert caught.value.__notes__ == ["plugin failing@1, hook a, level none"]

    asyncio.run(main())
    assert not pm.caller("a").door.tickets


def test_a_pending_await_is_in_flight(pm, plugin_of):
    """S-02: a gate waits for a coroutine that is suspended in the plugin's code."""

    async def main():
        inside, leave = asyncio.Event(), asyncio.Event()

        async def slow(x):
            inside.set()
            await leave.wait()
            return x

        pm.register(plugin_of(a=slow))
        call = asyncio.create_task(pm.ahook.a(x=1))
        await inside.wait()
        with HookGate(pm, ["a"]) as gate:
            assert not await drained(gate, 0.02)
            leave.set()
            assert await drained(gate, SOON)
            assert await call == [1]

    asyncio.run(main())


def test_a_cancelled_await_is_not_in_flight_any_more(pm, plugin_of):
    """Cancelling releases the hold."""

    async def main():
        inside = asyncio.Event()

        async def endless(x):
            inside.set()
            await asyncio.Event().wait()

        pm.register(plugin_of(a=endless))
        call = asyncio.create_task(pm.ahook.a(x=1))
        await inside.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with HookGate(pm, ["a"]) as gate:
            assert await drained(gate, SOON)

    asyncio.run(main())


def test_a_call_cancelled_in_the_pool_is_let_go(pm, plugin_of):
    """The thread runs on; what it brings is closed, and the hold ends with it."""
    inside, leave = threading.Event(), threading.Event()

    async def never_awaited():
        raise AssertionError

    def blocking(x):
        inside.set()
        assert leave.wait(SOON)
        return never_awaited()

    pm.register(plugin_of(a=blocking))

    async def main():
        call = asyncio.create_task(pm.ahook.a(x=1))
        await asyncio.to_thread(inside.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with HookGate(pm, ["a"]) as gate:
            assert not await drained(gate, 0.02)
            leave.set()
            assert await drained(gate, SOON)

    asyncio.run(main())


def test_waiting_at_a_gate_takes_no_thread(pm, plugin_of):
    """More calls wait than the pool has threads, and an awaited hook still gets one: the drain ends."""

    async def main():
        inside, leave = asyncio.Event(), asyncio.Event()

        async def outer(x):
            inside.set()
            await leave.wait()
            return await pm.ahook.b(x=x)

        pm.register(plugin_of(a=outer, b=lambda x: "old"), name="p")
        call = asyncio.create_task(pm.ahook.a(x=1))
        await inside.wait()
        with HookGate(pm, ["a", "b"]) as gate:
            waiting = [asyncio.create_task(pm.ahook.b(x=number)) for number in range(40)]
            await asyncio.sleep(0.02)
            leave.set()
            assert await asyncio.wait_for(call, SOON) == [["old"]]
            assert await drained(gate, SOON)
            assert not any(task.done() for task in waiting)
            pm.replace("p", plugin_of(b=lambda x: "new"))
        assert await asyncio.wait_for(asyncio.gather(*waiting), SOON) == [["new"]] * 40

    asyncio.run(main())


def test_waiting_at_a_gate_ends_with_the_deadline(pm, plugin_of):
    """An awaited call waits no longer than a plain one would."""
    pm.register(plugin_of(a=lambda x: x))

    async def main():
        with HookGate(pm, ["a"], plugin="upper@1.0.0") as gate:
            began = time.monotonic()
            with callcontext.deadline(0.02), pytest.raises(CallTimeout, match="upper@1.0.0"):
                await pm.ahook.a(x=1)
            assert time.monotonic() - began < SOON
            assert gate._on_open == []
        assert await pm.ahook.a(x=1) == [1]

    asyncio.run(main())


def test_an_awaited_call_inside_a_plain_one_passes_its_gate(pm, plugin_of):
    """Hook a runs a loop of its own and awaits hook b; the gate over both waits for a."""
    inside, leave = threading.Event(), threading.Event()

    def outer(x):
        inside.set()
        assert leave.wait(SOON)

        async def ask():
            return await pm.ahook.b(x=x)

        return asyncio.run(ask())

    pm.register(plugin_of(a=outer, b=lambda x: "old"))
    results = []
    thread = threading.Thread(target=lambda: results.append(pm.hook.a(x=1)))
    thread.start()
    inside.wait()
    with HookGate(pm, ["a", "b"]) as gate:
        leave.set()
        assert gate.drained(SOON)
    thread.join()
    assert results == [[["old"]]]


def test_closing_the_manager_ends_its_threads(manager_class, plugin_of):
    """The pool is the manager's: closed with it, and not made again."""
    pm = manager_class("own")
    pm.register(type("P", (), {"h": HookimplMarker("own")(lambda self: threading.current_thread())})())

    async def main():
        (thread,) = await pm.ahook.h()
        assert thread.name.startswith("own-ahook")
        pm.close()
        pm.close()
        assert not thread.is_alive()
        with pytest.raises(RuntimeError, match="'own' is closed"):
            await pm.ahook.h()

    asyncio.run(main())
    assert pm.hook.h() == [threading.current_thread()]
