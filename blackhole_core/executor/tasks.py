"""Asyncio tasks started and ended from another thread.

Unlike :func:`asyncio.run_coroutine_threadsafe` this knows when the task itself has ended, not only its future: a cancelled task runs its
``finally`` blocks first, and the plugin's code is in use until then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from blackhole_core.executor.leases import Lease, Leases, NotUndone

__all__ = ["run_task"]

T = TypeVar("T")


def run_task(leases: Leases, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run ``coroutine`` on ``loop`` under a lease; see :meth:`PluginContext.task`."""
    carried = _Carried(loop, coroutine)
    carried.lease = leases.add(f"task {carried.name}", lambda: carried.end(leases.time_to_join()))
    loop.call_soon_threadsafe(carried.start)
    return carried.future


class _Carried(Generic[T]):
    """One task and the future that stands for it elsewhere. ``_task`` belongs to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.name = getattr(coroutine, "__qualname__", repr(coroutine))
        self.future: Future[T] = Future()
        self.ended = threading.Event()
        self.lease: Lease | None = None  # given right after it is made
        self._loop = loop
        self._coroutine: Coroutine[Any, Any, T] | None = coroutine
        self._task: asyncio.Task[T] | None = None

    def start(self) -> None:
        assert self._coroutine is not None
        coroutine, self._coroutine = self._coroutine, None
        if self.future.cancelled():
            coroutine.close()
            self._has_ended()
            return
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._settle)
        self.future.add_done_callback(self._pass_on)

    def _has_ended(self) -> None:
        self._task = None
        self.ended.set()
        if self.lease is not None:
            self.lease.forget()  # a plugin that runs many tasks must not pile up leases

    def _settle(self, task: asyncio.Task[T]) -> None:
        self._has_ended()
        if task.cancelled():
            self.future.cancel()
            self.future.set_running_or_notify_cancel()
        elif self.future.set_running_or_notify_cancel():
            error = task.exception()
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(task.result())

    def _pass_on(self, future: Future[T]) -> None:
        """The future was cancelled, on whatever thread: cancel the task."""
        if future.cancelled() and not self.ended.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def end(self, seconds: float) -> None:
        """Cancel, and wait for the end where that can come while we wait."""
        self.future.cancel()
        if self._loop.is_closed():
            if self._coroutine is not None:
                self._coroutine.close()
            return
        if not self._loop.is_running():
            raise NotUndone(
                f"task {self.name} was cancelled, but its event loop is not running, so it cannot end; run the loop, or close it"
            )
        if self._on_loop():
            return
        if not self.ended.wait(seconds):
            raise NotUndone(f"task {self.name} did not end after it was cancelled; let asyncio.CancelledError pass through it")

    def _on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False
