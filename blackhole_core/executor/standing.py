"""Where the threads of a worker that run calls stand, as text for the host's report.

Only what is the plugin's is told: the frames from the call's begin inwards. A thread that waits for work has none.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from blackhole_core.executor.wire.codec import MAX_STACK_LINE, MAX_STACK_LINES
from blackhole_core.stacks import StackReading

__all__ = ["busy_stacks"]

#: Where the frames of the worker itself lie, and the function in which it runs each call.
_OURS: Final = str(Path(__file__).parent)
_CALL: Final = "_perform"


def busy_stacks(threads: Iterable[threading.Thread]) -> tuple[str, ...]:
    """Return the stacks of those of ``threads`` that run a call, outermost frame first, each under a line that names the thread; cut to what a message holds."""
    lines: list[str] = []
    with StackReading() as tops:
        for thread in threads:
            top = tops.get(thread.ident or 0)
            frames = [] if top is None else _of_the_call(traceback.StackSummary.extract(traceback.walk_stack(top))[::-1])
            if frames:
                lines.append(f"Thread {thread.name} (most recent call last):")
                lines += "".join(traceback.format_list(frames)).rstrip("\n").split("\n")
    return tuple(line[:MAX_STACK_LINE] for line in lines[:MAX_STACK_LINES])


def _of_the_call(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the frames that the call has put on top of the worker's own, the outermost first."""
    ours = [frame.filename.startswith(_OURS) for frame in frames]
    begun = next((place for place, frame in enumerate(frames) if ours[place] and frame.name == _CALL), None)
    if begun is None:
        return []
    return list(frames[next((place for place in range(begun, len(frames)) if not ours[place]), begun + 1) :])
