"""Asking a worker which of the plugin's modules it has imported, so that its successor can import them before it serves.

Invariants, guarded by ``_lock``: a question is in ``_open`` until it was answered, its asker gave up, or the worker ended; whatever else a worker
says about its modules is dropped, so one that says much of it fills nothing. After :meth:`Questions.end` no question is open.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import msgspec

from blackhole_core.executor.mailbox import Mailbox, MailboxTimeout
from blackhole_core.executor.wire import codec

__all__ = ["Questions"]


class Questions:
    """What was asked of one worker and is not answered yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, Mailbox[tuple[str, ...] | None]] = {}
        self._ended = False

    def ask(self, send: Callable[[msgspec.Struct], None], seconds: float) -> tuple[str, ...] | None:
        """Return the dotted names of the modules, None when the worker ended or did not say within ``seconds``."""
        mailbox: Mailbox[tuple[str, ...] | None] = Mailbox()
        number = next(self._numbers)
        with self._lock:
            if self._ended:
                return None
            self._open[number] = mailbox
        try:
            send(codec.AskImported(number))
            return mailbox.wait(time.monotonic() + seconds)
        except MailboxTimeout:
            return None
        finally:
            with self._lock:
                self._open.pop(number, None)

    def hear(self, message: codec.Imported) -> None:
        """Take in what the worker says, once per question; a name that could not stand in a program is left out. Never blocks."""
        with self._lock:
            mailbox = self._open.pop(message.id, None)
        if mailbox is not None:
            mailbox.deliver(tuple(name for name in message.names if all(part.isidentifier() for part in name.split("."))))

    def end(self) -> None:
        """Take in that the worker ended."""
        with self._lock:
            self._ended = True
            waiting, self._open = list(self._open.values()), {}
        for mailbox in waiting:
            mailbox.deliver(None)
