"""What one worker wrote, printed or logged, on its way into ``logging`` and into the report of its death.

Names and levels of records come from the worker, and ``logging`` keeps every name and level it ever saw: both are bounded here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from blackhole_core.executor.crashreport import CrashReport
from blackhole_core.executor.output import LogPump, Tail
from blackhole_core.executor.wire import codec
from blackhole_core.printable import indented, printable

__all__ = ["Records"]

#: Loggers one worker may name, and characters of such a name.
_MAX_LOGGERS: Final = 100
_MAX_LOGGER_NAME: Final = 200
#: Highest level of a record.
_MAX_LOG_LEVEL: Final = 100


class Records:
    """What one worker wrote, on its way to ``logging``. Owned by its I/O thread."""

    def __init__(self, logger: logging.Logger, pump: LogPump) -> None:
        self.tail: Final = Tail()
        self.crash: Final = CrashReport()
        self._logger = logger
        self._pump = pump
        self._loggers: dict[str, logging.Logger] = {"root": logger}
        self.lost = 0  #: records and lines that were not logged, because there were too many

    def printed(self, line: str) -> None:
        """Take in one line of standard output or error."""
        self.tail.add(line)
        self.crash.add(line)
        self._put(self._logger, logging.INFO, line)

    def logged(self, record: codec.Log) -> None:
        """Take in one record of the plugin's own ``logging``."""
        text = indented(printable(f"{record.message}\n{record.traceback}".rstrip()))
        self.tail.add(text)
        self._put(self._named(record.logger), min(max(record.level, 0), _MAX_LOG_LEVEL), text)

    def lose(self, count: int, last: Sequence[str] = ()) -> None:
        """Note that so many records or lines were thrown away, before the lines ``last``, which are kept to explain a death and not logged either."""
        for line in last:
            self.tail.add(line)
            self.crash.add(line)
        count += len(last)
        if count:
            self.lost += count
            self._pump.lose(self._logger, count)

    def _put(self, logger: logging.Logger, level: int, text: str) -> None:
        self.lost += not self._pump.put(logger, level, text, self._logger)

    def _named(self, name: str) -> logging.Logger:
        known = self._loggers.get(name)
        if known is None:
            if len(self._loggers) > _MAX_LOGGERS or len(name) > _MAX_LOGGER_NAME:
                return self._logger
            known = self._loggers[name] = logging.getLogger(f"{self._logger.name}.{printable(name)}")
        return known
