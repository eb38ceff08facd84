"""What a plugin gets in ``plugin_start``: who it is, a way to call the host, and leases.

Whatever a plugin puts outside itself (a thread, a handler on a logger, a patched function) outlives it, unless somebody undoes it. What is
registered through the context is undone when the plugin stops, youngest first: see ``docs/how-to/clean-up.md``. The same object, with
the same methods, at every level. This module imports little: the worker process starts with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from blackhole_core.executor.leases import Lease, Leases, NotUndone, standing_at
from blackhole_core.ids import PluginId

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future, ThreadPoolExecutor

    from blackhole_core.executor.patches import Patch
    from blackhole_core.executor.signalling import Handler
    from blackhole_core.executor.timers import Timer, Timers

__all__ = ["PluginContext", "leases_of"]

T = TypeVar("T")

logger = logging.getLogger("blackhole.context")


def leases_of(plugin: PluginId, generation: int) -> Leases:
    """Return the empty leases of one instance."""
    return Leases(f"plugin {plugin}, generation {generation}")


def _new_directory(name: str) -> Path:
    """Make a directory where temporary files go: in a worker that is its own, which the host removes after it."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix=f"blackhole-{name}-"))


def _nobody() -> None:
    """Be told of changes where nobody wants to know."""


@attrs.frozen(eq=False)
class PluginContext:
    """What a plugin gets in ``plugin_start``: who it is, its configuration, a way to call the host's hooks, and leases.

    ``hook`` has the call syntax of the host's own relay (``context.hook.transform(text="hi")``) at every isolation level.

    Every other method registers something that is undone when the plugin stops, in reverse order: after ``plugin_stop``, and in a worker
    before the process ends. One that cannot be undone is reported and keeps none of the others. Each may be called from any thread, and raises
    :class:`~blackhole_core.executor.leases.PluginStopped` once the plugin has stopped.
    """

    name: str
    version: str | None
    generation: int
    config: Mapping[str, Any]
    hook: Any
    _leases: Leases = attrs.field(
        default=attrs.Factory(lambda self: leases_of(PluginId(self.name, self.version), self.generation), takes_self=True), repr=False
    )
    _on_state_change: Callable[[], object] = attrs.field(default=_nobody, repr=False)
    _new_directory: Callable[[str], Path] = attrs.field(default=_new_directory, repr=False)
    _clock: list[Timers] = attrs.field(factory=list, init=False, repr=False)  # empty until the first timer

    @property
    def stopping(self) -> threading.Event:
        """Set when the plugin begins to stop, before ``plugin_stop`` is called. Threads wait on it instead of sleeping."""
        return self._leases.stopping

    def state_changed(self) -> None:
        """Say that the plugin's state changed. With ``state: {snapshot: {on_change: true}}`` in its manifest the host saves the state soon, at most once a second.

        It costs next to nothing and may be called after every change, from any thread; without that line in the manifest nothing happens.
        """
        self._on_state_change()

    # --- anything ----------------------------------------------------------------------------------------------------

    def lease(self, undo: Callable[[], object], *, what: str = "") -> Lease:
        """Have ``undo()`` called when the plugin stops. ``what`` names it in reports."""
        return self._leases.add(what or f"a lease ({_name_of(undo)})", undo)

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter ``manager`` now and leave it, without an exception, when the plugin stops; return what ``__enter__`` returns."""
        what = f"the context manager {type(manager).__qualname__}"
        self._leases.check(what)
        value = manager.__enter__()
        self._leases.add(what, lambda: manager.__exit__(None, None, None))
        return value

    def subscribe(self, register: Callable[[], T], unregister: Callable[[], object]) -> T:
        """Call ``register()`` now and ``unregister()`` when the plugin stops; return what ``register`` returns."""
        what = f"the subscription {_name_of(register)}"
        self._leases.check(what)
        value = register()
        self._leases.add(what, unregister)
        return value

    def atexit(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> Lease:
        """Call ``function(*args, **kwargs)`` when the plugin stops, rather than when the interpreter exits: the place of ``atexit.register``."""
        return self._leases.add(f"the exit function {_name_of(function)}", lambda: function(*args, **kwargs))

    # --- threads and time --------------------------------------------------------------------------------------------

    def thread(self, target: Callable[..., object], *args: Any, name: str | None = None, daemon: bool = True) -> threading.Thread:
        """Start a thread that runs ``target(*args)`` and return it.

        It is asked to end through :attr:`stopping` and waited for, half of the plugin's ``stop_grace`` at most; one that has not
        ended by then is reported with the line it stands at, and lives on.
        """
        name = name or f"{self.name}-{_name_of(target)}"
        what = f"thread {name!r}"
        self._leases.check(what)

        def run() -> None:
            try:
                target(*args)
            finally:
                lease.forget()  # ended by itself: a plugin that starts a thread per job must not pile up leases

        thread = threading.Thread(target=run, name=name, daemon=daemon)
        lease = self._leases.add(what, lambda: self._join(thread))
        try:
            thread.start()
        except BaseException:
            lease.forget()
            raise
        return thread

    def timer(self, seconds: float, function: Callable[[], object]) -> Lease:
        """Call ``function()`` once, in ``seconds``, unless the plugin stops before that or the lease is ended.

        All timers of a plugin share one thread: a function that takes long delays the others. One that raises is logged.
        """
        return self._later(seconds, function, again=False)

    def every(self, seconds: float, function: Callable[[], object]) -> Lease:
        """Call ``function()`` again and again, ``seconds`` after the last call ended, until the plugin stops or the lease is ended.

        One thread and the treatment of exceptions as with :meth:`timer`; a call that raised is followed by the next one.
        """
        if seconds <= 0:
            raise ValueError(f"context.every wants a pause of more than 0 seconds, got {seconds!r}: it would never let another timer run")
        return self._later(seconds, function, again=True)

    def executor(self, max_workers: int) -> ThreadPoolExecutor:
        """Return a new thread pool. When the plugin stops, what has not begun is cancelled, and what has is waited for like a thread."""
        from concurrent.futures import ThreadPoolExecutor

        name = f"{self.name}-executor"
        self._leases.check(name)
        threads: list[threading.Thread] = []
        pool = ThreadPoolExecutor(max_workers, name, initializer=lambda: threads.append(threading.current_thread()))

        def end() -> None:
            pool.shutdown(wait=False, cancel_futures=True)
            for thread in threads:
                self._join(thread)

        self._leases.add(f"executor {name!r}", end)
        return pool

    def task(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` as a task of ``loop``, which may run on any thread; return a future of :mod:`concurrent.futures`.

        When the plugin stops the task is cancelled, and waited for unless this happens on the loop's own thread. Cancelling the future cancels the task.
        """
        from blackhole_core.executor.tasks import run_task

        try:
            self._leases.check(f"task {coroutine!r}")
        except RuntimeError:
            coroutine.close()
            raise
        return run_task(self._leases, loop, coroutine)

    # --- the process's own registries --------------------------------------------------------------------------------

    def add_log_handler(self, logger: logging.Logger | str, handler: logging.Handler) -> Lease:
        """Add ``handler`` to a logger, by object or name (``""`` is the root); removed and closed when the plugin stops."""
        target = logging.getLogger(logger) if isinstance(logger, str) else logger
        what = f"a log handler on {target.name!r}"

        def undo() -> None:
            target.removeHandler(handler)
            handler.close()

        lease = self._leases.add(what, undo)
        target.addHandler(handler)
        return lease

    def add_log_filter(self, logger: logging.Logger | str, filter: logging.Filter | Callable[[logging.LogRecord], Any]) -> Lease:  # noqa: A002  (logging's own word)
        """Add ``filter`` to a logger, by object or name; removed when the plugin stops."""
        target = logging.getLogger(logger) if isinstance(logger, str) else logger
        lease = self._leases.add(f"a log filter on {target.name!r}", lambda: target.removeFilter(filter))
        target.addFilter(filter)
        return lease

    def patch(self, target: object, attribute: str, value: object) -> Patch:
        """Replace ``target.attribute`` by ``value``; what was there is put back when the plugin stops.

        A replacement calls what it replaced as ``patch.original(…)``: that skips what other generations of this plugin have put there, and stays right
        while plugins come and go. When somebody else has replaced the attribute once more, theirs stays and the plugin is reported.

        :raises AttributeError: there is no such attribute.
        """
        from blackhole_core.executor.patches import Patch

        self._leases.check(f"a patch of {attribute!r}")
        return Patch(self._leases, self.name, target, attribute, value)

    def signal(self, number: int, handler: Handler) -> Lease:
        """Let ``handler(number, frame)`` answer a signal; the handler before it is put back when the plugin stops.

        :raises RuntimeError: not on the main thread, where Python wants signal handlers to be set; at level thread this is always so.
        """
        from blackhole_core.executor.signalling import push_handler

        what = f"the handler for signal {int(number)}"
        self._leases.check(what)
        return self._leases.add(what, push_handler(number, handler))

    def temp_dir(self) -> Path:
        """Return a new directory, readable by this user alone; it is removed with all it holds when the plugin stops."""
        import shutil

        self._leases.check("a temporary directory")
        path = self._new_directory(self.name)
        self._leases.add(f"the temporary directory {path}", lambda: shutil.rmtree(path) if path.exists() else None)
        return path

    # --- how they end ------------------------------------------------------------------------------------------------

    def _join(self, thread: threading.Thread | None) -> None:
        if thread is None or thread is threading.current_thread():
            return
        left = self._leases.time_to_join()
        thread.join(left)
        if thread.is_alive():
            raise NotUndone(
                f"thread {thread.name!r} did not end after context.stopping was set{standing_at(thread)}; let it wait on context.stopping"
            )

    def _later(self, seconds: float, function: Callable[[], object], *, again: bool) -> Lease:
        what = f"{'a repeated' if again else 'a'} timer ({_name_of(function)})"
        timers = self._timers(what)
        pending: list[Timer] = []

        def fire() -> None:
            if lease.ended if again else lease.forget() is None:
                return
            try:
                function()
            except Exception:
                logger.exception("%s: %s raised", self._leases.owner, what)
            if again and not lease.ended:
                pending[:] = [timers.after(seconds, fire)]

        def undo() -> None:
            for timer in pending:
                timer.cancel()

        lease = self._leases.add(what, undo)
        pending.append(timers.after(seconds, fire))
        return lease

    def _timers(self, what: str) -> Timers:
        """Return the thread that all timers share; it ends after the last of them, since it was leased first."""
        from blackhole_core.executor.timers import Timers

        with self._leases.lock:
            self._leases.check(what)
            if not self._clock:
                timers = Timers(f"{self.name}-timers")
                self._leases.add("the timers", lambda: self._end_timers(timers))
                self._clock.append(timers)
            return self._clock[0]

    def _end_timers(self, timers: Timers) -> None:
        self._join(timers.close(self._leases.time_to_join()))


def _name_of(function: object) -> str:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__
