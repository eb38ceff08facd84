"""That an operation (load, unload, swap, state) has a plugin to itself."""

from __future__ import annotations

import sys
import threading
from types import FrameType

import attrs

from blackhole_core.hooks.inflight import EVIDENCE
from blackhole_core.stacks import StackReading

__all__ = ["Claim"]


@attrs.frozen(eq=False)
class Claim:
    """Who does what. It holds for as long as the function runs that made it, whatever that function comes to say of its end: an interrupt (Ctrl-C) may come between any two of its steps."""

    operation: str
    in_background: bool  #: whether it is a duty of the host's own, which others wait for
    thread: threading.Thread
    ident: int  #: of the thread
    frame: FrameType | None  #: of the function

    @classmethod
    def here(cls, operation: str, *, in_background: bool) -> Claim:
        """Return the claim of the function that enters the context manager whose generator calls this."""
        frame = sys._getframe(1).f_back
        while frame is not None and frame.f_globals.get("__name__") == "contextlib":
            frame = frame.f_back
        return cls(operation, in_background, threading.current_thread(), threading.get_ident(), frame)

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread made it."""
        return self.thread is threading.current_thread()

    def is_left(self) -> bool:
        """Whether the function has been left.

        Of another thread only its end counts where its stack does not tell: with greenlets, of which one that is suspended is on no stack, and where threads run beside each other.
        """
        if not self.is_mine and not self.thread.is_alive():
            return True
        if not self.is_mine and (EVIDENCE != "frames" or "greenlet" in sys.modules):
            return False
        with StackReading() as tops:
            frame = tops.get(self.ident)
            while frame is not None and frame is not self.frame:
                frame = frame.f_back
            return frame is None
