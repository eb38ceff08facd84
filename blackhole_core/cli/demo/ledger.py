"""Who was answered what: one entry per file, and what the entries say of lost, doubled and failed calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from blackhole_core.cli.demo.plainloop import Totals

__all__ = ["Ledger", "totals_of"]


def totals_of(answer: Mapping[str, Any], files: int = 1) -> Totals:
    """Return what the plugin answered as :class:`Totals`."""
    return Totals(files, answer["lines"], answer["words"], answer["identifiers"])


class Ledger:
    """The replies of one level. Every field changes under ``_changed``, which is notified with each entry."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.began = time.monotonic()
        self._changed = threading.Condition()
        self._replies: dict[int, Totals] = {}
        self._doubled = 0
        self._retried = 0
        self._errors: list[BaseException] = []
        self._over = False

    # --- written by the callers --------------------------------------------------------------------------------------

    def answered(self, index: int, reply: Totals) -> None:
        """Note the reply for the file ``index``."""
        with self._changed:
            self._doubled += index in self._replies
            self._replies[index] = reply
            self._changed.notify_all()

    def retried(self) -> None:
        """Note a call whose worker died, and that is made again."""
        with self._changed:
            self._retried += 1

    def failed(self, error: BaseException) -> None:
        """Note a call that failed for good."""
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody calls any more: wake who waits for progress."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    # --- read by everybody -------------------------------------------------------------------------------------------

    def reach(self, files: int, seconds: float) -> bool:
        """Wait until so many files have been dealt with; False when ``seconds`` passed, or the calls ended, before that."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._done() >= files, seconds)
            return self._done() >= files

    def _done(self) -> int:
        return len(self._replies) + len(self._errors)

    @property
    def done(self) -> int:
        """Files dealt with so far."""
        with self._changed:
            return self._done()

    @property
    def calls(self) -> int:
        """Replies so far."""
        with self._changed:
            return len(self._replies) + self._doubled

    @property
    def retries(self) -> int:
        """Calls that were made again because their worker had died."""
        with self._changed:
            return self._retried

    @property
    def doubled(self) -> int:
        """Files that were answered twice; each should be once."""
        with self._changed:
            return self._doubled

    @property
    def errors(self) -> Sequence[BaseException]:
        with self._changed:
            return tuple(self._errors)

    def lost(self) -> int:
        """Return how many files have neither a reply nor an error."""
        with self._changed:
            return self.files - self._done()

    def totals(self) -> Totals:
        """Return the sum of all replies."""
        with self._changed:
            return sum(self._replies.values(), Totals())
