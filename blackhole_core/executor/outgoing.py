"""One call on its way to a worker."""

from __future__ import annotations

from blackhole_core.executor.lane import HostLane
from blackhole_core.executor.lanebox import LaneMailbox
from blackhole_core.executor.mailbox import Mailbox
from blackhole_core.executor.poison import Fingerprint, fingerprint
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.parcels import Parcel, Shelf, fit

__all__ = ["Outgoing"]


class Outgoing:
    """One accepted call. ``begun`` is when its caller made it and ``deadline`` when that one gives up (``time.monotonic()``).

    One is made for each call, so what most do not have is the class's until then.
    """

    lane: HostLane | None = None  #: the one it went by
    shelf: Shelf | None = None  #: where what lies beside the answer in the lane is
    mailbox: Mailbox[codec.Answer | codec.Error | Exception] | None = None
    abandoned = False
    held = 0  #: bytes of the arguments, as the backlog counts them

    def __init__(self, number: int, hook: str, space: str, index: int, args: bytes, begun: float, deadline: float | None) -> None:
        self.number = number
        self.hook = hook
        self.space = space
        self.index = index
        self.args = args
        self.begun = begun
        self.deadline = deadline

    def inbox(self) -> Mailbox[codec.Answer | codec.Error | Exception]:
        """Return the mailbox, which is made when it is first asked for: for a call in a lane, when there is something to put in. Under the lock."""
        if self.mailbox is None:
            self.mailbox = Mailbox() if self.lane is None else LaneMailbox(self.lane)
        return self.mailbox

    def fingerprint(self) -> Fingerprint:
        """Return what names this call whenever it is made again."""
        args = fit(self.args, None) if type(self.args) is Parcel else self.args
        return fingerprint(self.hook, self.space, self.index, args)
