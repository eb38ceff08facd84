"""Signal handlers of plugins, which can be taken back from any thread.

Python sets handlers on the main thread only, and a plugin is swapped on any. So what is set, once per signal, is a :class:`_Relay` of the
host: it calls the handler that was leased last. Taking a handler back changes the relay's list. A relay whose list is empty puts
back what was there before it: at once on the main thread, else when the signal comes next (handlers run on the main thread).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeAlias

__all__ = ["Handler", "push_handler"]

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class _Relay:
    """Stands in for the handlers of one signal. ``handlers`` is replaced, never changed, under ``_lock``."""

    def __init__(self, number: int, before: Any) -> None:
        self.number = number
        self.before = before
        self.handlers: tuple[Handler, ...] = ()

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        if self.handlers:
            return self.handlers[-1](number, frame)
        signal.signal(number, self.before)
        if callable(self.before):
            return self.before(number, frame)
        return signal.raise_signal(number)  # SIG_DFL or SIG_IGN: what would have happened

    def remove(self, handler: Handler) -> None:
        """Take one handler out, the youngest of its kind."""
        with _lock:
            place = len(self.handlers) - 1 - self.handlers[::-1].index(handler)
            self.handlers = (*self.handlers[:place], *self.handlers[place + 1 :])
            if not self.handlers and _on_main_thread() and signal.getsignal(self.number) is self:
                signal.signal(self.number, self.before)


#: Guards every relay's list; re-entrant because a signal handler runs between two bytecodes of whatever holds it.
_lock: Final = threading.RLock()


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def push_handler(number: int, handler: Handler) -> Callable[[], None]:
    """Let ``handler`` answer signal ``number``; the returned function takes it back, from any thread.

    :raises RuntimeError: this is not the main thread, and no handler for this signal was leased before.
    """
    with _lock:
        relay = signal.getsignal(number)
        if not isinstance(relay, _Relay):
            if not _on_main_thread():
                raise RuntimeError(
                    f"a handler for {signal.Signals(number).name} can be set on the main thread only, and this is {threading.current_thread().name!r}; "
                    "load the plugin on the main thread at level none, or run it at level process, where it has a main thread of its own"
                )
            if relay is None:
                raise RuntimeError(f"{signal.Signals(number).name} has a handler that was not set from Python and could not be put back")
            relay = _Relay(number, relay)
            relay.handlers = (handler,)
            signal.signal(number, relay)
        else:
            relay.handlers = (*relay.handlers, handler)
        return lambda: relay.remove(handler)
