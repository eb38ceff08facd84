"""How much the relay does for one worker, and for all of them, before it refuses. Values."""

from __future__ import annotations

import resource
from typing import Final

import attrs

__all__ = ["Bounds", "Seats", "seats_here"]

#: The part of the descriptors a process may have open that the relay may take: the rest is the host's own.
_SHARE: Final = 0.5
#: Descriptors of one connection: the stream to the worker, and the socket to the network.
_EACH: Final = 2
#: What counts as unlimited descriptors: more than anybody connects.
_MANY: Final = 1_000_000


@attrs.frozen
class Bounds:
    """Of one worker, but for ``sweep``."""

    connections: int = 256  #: open or being opened; a browser holds 256 at most
    asks_per_second: float = 200.0  #: requests in the long run: each costs the host some 100 µs
    asks_at_once: int = 512  #: requests after a pause
    lookups: int = 4  #: names looked up at the same time, each by a thread
    connect_seconds: float = 30.0  #: for the look-up and all addresses together
    address_seconds: float = 10.0  #: for one address while there are others
    idle_seconds: float = 3600.0  #: without a byte in either direction; the kernel's own TCP keep-alive begins after two hours
    linger_seconds: float = 2.0  #: to deliver what a worker wrote before it ended
    sweep: float = 5.0  #: seconds between two looks for connections that are idle or given up


@attrs.define
class Seats:
    """Connections that the relay may have open in all; one worker may take half of them, so that a greedy one leaves some. Used by one thread."""

    total: int
    taken: int = 0

    def limit(self, bounds: Bounds) -> int:
        """Return how many one worker may have."""
        return max(1, min(bounds.connections, self.total // 2))

    def take(self) -> bool:
        """Take one, if there is one."""
        if self.taken >= self.total:
            return False
        self.taken += 1
        return True

    def leave(self) -> None:
        """Give one back."""
        self.taken -= 1


def seats_here() -> Seats:
    """Return the seats of this process, from its limit on descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = _MANY if soft == resource.RLIM_INFINITY else soft
    return Seats(max(2, int(descriptors * _SHARE / _EACH)))
