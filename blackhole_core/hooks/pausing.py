"""Let the threads that wait for the interpreter go first, in the middle of work that computes.

CPython lets a waiting thread wait 5 ms before it interrupts one that computes (``sys.getswitchinterval``), and each of several waiting threads again. What is
done while plugins are called, such as preparing a swap, therefore pauses between its steps: callers then wait for one step, not for 5 ms or for all of it.
"""

from __future__ import annotations

import time
from typing import Final

__all__ = ["let_others_go_first"]

#: Seconds in which a waiting thread certainly wakes up and takes the interpreter: a wake-up takes about 50 µs. Giving the interpreter away for less
#: (``time.sleep(0)``) hands it to nobody, this thread has it back before another one is awake.
_PAUSE: Final = 0.0001


def let_others_go_first() -> None:
    """Pause for a moment. Hold no lock that a caller may need."""
    time.sleep(_PAUSE)
