"""The calls that plugin code makes of its host's hooks, seen from its worker, and those of the plugin's own that come back meanwhile."""

from __future__ import annotations

import contextvars
import itertools
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from blackhole_core.callcontext import get_deadline
from blackhole_core.executor.failure import Rebuilder
from blackhole_core.executor.mailbox import Job, Mailbox, MailboxTimeout
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import decode_open
from blackhole_core.executor.wire.parcels import Shelf, hand_over
from blackhole_core.executor.wire.signature import ResultDecoder
from blackhole_core.executor.wire.types import type_of_expression
from blackhole_core.executor.workerbinding import encode_argument

__all__ = ["HostCalls", "HostRelay", "request"]

#: The request of the host that this code runs in, 0 for a thread of the plugin's own.
request: Final[contextvars.ContextVar[int]] = contextvars.ContextVar("blackhole_request", default=0)


class HostCalls:
    """Those of one worker. ``_mailboxes`` are of the calls that wait for their answers, guarded by ``_lock``."""

    def __init__(self, send: Callable[[msgspec.Struct], None], shelf: Shelf | None) -> None:
        self.hooks: Mapping[str, codec.HookInfo] = {}  #: what the host offers; told when the plugin is bound
        self.send = send
        self._shelf = shelf
        self._lock = threading.Lock()
        self._mailboxes: dict[int, Mailbox[codec.Answer | codec.Error]] = {}
        self._numbers = itertools.count(1)
        self._rebuilder = Rebuilder("host", "the host", _known_here)

    def forget(self) -> None:
        """In a forked child: another thread may have held the lock."""
        self._lock = threading.Lock()

    def call(self, hook: str, kwargs: dict[str, Any]) -> Any:
        """Call a hook of the host and return its result; nested calls into this plugin run on this thread meanwhile."""
        info = self.hooks.get(hook)
        if info is None:
            raise AttributeError(f"the host has no hook {hook!r}")
        number = next(self._numbers)
        mailbox: Mailbox[codec.Answer | codec.Error] = Mailbox()
        with self._lock:
            self._mailboxes[number] = mailbox
        deadline = get_deadline()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            bodies = {name: encode_argument(name, value, hook, info, self._shelf) for name, value in kwargs.items()}
            self.send(codec.HostCall(number, hook, hand_over(bodies), timeout, request.get()))
            reply = mailbox.wait(deadline)
        except MailboxTimeout:
            raise TimeoutError(f"the host's hook {hook!r} gave no answer within {timeout or 0:g} s") from None
        finally:
            with self._lock:
                del self._mailboxes[number]
        if isinstance(reply, codec.Error):
            raise self._rebuilder.rebuild(reply.failure, hook)
        if info.result is None:
            return decode_open(reply.result)
        return ResultDecoder(type_of_expression(info.result)).decode(reply.result)

    def deliver(self, reply: codec.Answer | codec.Error) -> None:
        """Give the host's reply to who waits for it, if somebody still does."""
        mailbox = self._mailbox(reply.id)
        if mailbox is not None:
            mailbox.deliver(reply)

    def post(self, number: int, job: Job) -> bool:
        """Have the thread that waits for the reply to call ``number`` run ``job`` meanwhile; False when it does not wait any more."""
        mailbox = self._mailbox(number)
        return mailbox is not None and mailbox.post(job)

    def _mailbox(self, number: int) -> Mailbox[codec.Answer | codec.Error] | None:
        with self._lock:
            return self._mailboxes.get(number)


class HostRelay:
    """``context.hook`` in a worker: the host's hooks by name, with the call syntax of pluggy."""

    def __init__(self, calls: HostCalls) -> None:
        self.__calls = calls

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        if hook.startswith("_"):
            raise AttributeError(hook)
        calls = self.__calls

        def call(**kwargs: Any) -> Any:
            return calls.call(hook, kwargs)

        return call


def _known_here(module: str, name: str) -> type[Exception] | None:
    """Return an exception type of a module that is imported already: the host may raise in a plugin what the plugin knows."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
