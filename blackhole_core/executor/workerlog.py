"""Log records of a worker go to the host, which has the handlers."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import msgspec

from blackhole_core.executor.wire import codec
from blackhole_core.printable import printable

__all__ = ["report_logging"]


class _ToHost(logging.Handler):
    """Sends the plugin's log records to the host, which has the handlers."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            self._send(codec.Log(record.levelno, printable(record.name), printable(record.getMessage()), printable(text)))
        except Exception:
            self.handleError(record)


def report_logging(send: Callable[[msgspec.Struct], None], level: int) -> None:
    root = logging.getLogger()
    root.addHandler(_ToHost(send))
    root.setLevel(level)
