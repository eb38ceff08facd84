"""What reaches the caller of a call in the lane by the channel: nested calls, an exception, a large result, the worker's end.

Made only when there is such a thing, which for most calls there is not.
"""

from __future__ import annotations

from blackhole_core.executor.lane import HostLane
from blackhole_core.executor.mailbox import Job, Mailbox
from blackhole_core.executor.wire import codec

__all__ = ["LaneMailbox"]


class LaneMailbox(Mailbox[codec.Answer | codec.Error | Exception]):
    """The mailbox of a caller that sleeps in ``lane`` and is woken there. Closed by that caller when its wait is over."""

    __slots__ = ("_lane",)

    def __init__(self, lane: HostLane) -> None:
        super().__init__()
        self._lane = lane

    def deliver(self, answer: codec.Answer | codec.Error | Exception) -> None:
        super().deliver(answer)
        self._lane.wake()

    def post(self, job: Job) -> bool:
        posted = super().post(job)
        if posted:
            self._lane.wake()
        return posted
