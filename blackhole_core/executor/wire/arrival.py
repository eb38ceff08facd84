"""How long the rest of a message may take. Pure: seconds and bytes in, a verdict out.

A message that has begun holds memory and keeps everything behind it waiting, so its sender must finish it. Two rules, both of which an honest worker
on a busy machine keeps by far and a slow drip breaks:

* after each piece the next one comes within :attr:`Patience.stall`;
* all of it has come within :attr:`Patience.grace`, and a second more for each :attr:`Patience.rate` bytes that did come.

Only time in which the host waited for the sender counts, and of one wait no more than was asked for: a host that was stopped, or busy with something else,
has nobody to blame but itself.
"""

from __future__ import annotations

from typing import Final

import attrs

from blackhole_core.errors import ProtocolError

__all__ = ["Arrival", "Patience"]


@attrs.frozen
class Patience:
    """What a sender gets, for one message."""

    stall: float = 30.0  #: seconds between two pieces: a writer fills the pipe again each time it is scheduled, on the busiest machine every second or so
    grace: float = 30.0  #: seconds for the first bytes, likewise
    rate: float = (
        64 * 1024.0
    )  #: bytes per second, at least: the smallest pipe, filled once a second; the largest message may so take 17 minutes
    tick: float = 1.0  #: seconds of one wait: more than this is not counted at once

    def allowed(self, received: int) -> float:
        """Return the seconds that a message may take of which so many bytes have come."""
        return self.grace + received / self.rate


class Arrival:
    """The message that is just coming in. Not locked: who reads owns it."""

    __slots__ = ("_idle", "_patience", "_received", "_waited")

    def __init__(self, patience: Patience) -> None:
        self._patience: Final = patience
        self._received = 0  # bytes of it; 0: none has begun
        self._waited = 0.0  # seconds, in all
        self._idle = 0.0  # seconds, since the last piece

    @property
    def wait(self) -> float | None:
        """Seconds to wait for the next piece before :meth:`waited` is asked; None when no message has begun."""
        return self._patience.tick if self._received else None

    def received(self, size: int, *, completed: bool, partial: int) -> None:
        """Note that ``size`` bytes came, whether a message was complete with them, and that ``partial`` bytes of the next one are held back."""
        if completed:
            self._waited, self._received = 0.0, partial
        else:
            self._received += size
        self._idle = 0.0

    def waited(self, seconds: float) -> None:
        """Note that the host waited for so long; what came meanwhile has been noted.

        :raises ProtocolError: the message takes too long.
        """
        if not self._received:
            return
        counted = min(seconds, self._patience.tick)
        self._waited += counted
        self._idle += counted
        if self._idle > self._patience.stall:
            raise ProtocolError(f"a message stopped after {self._received} bytes, and nothing followed for {self._patience.stall:g} s")
        if self._waited > self._patience.allowed(self._received):
            raise ProtocolError(
                f"a message of which {self._received} bytes came in {self._waited:.0f} s: at least {self._patience.rate:g} a second are wanted"
            )
