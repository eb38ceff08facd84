"""What a worker is once its walls stand: the descriptors that it was given put to use, and the loop that serves calls.

Everything that a worker needs beyond its walls is imported here, so that one which is executed builds them first: it is small then, and forks quickly.
"""

from __future__ import annotations

import os
import stat

from blackhole_core.executor.arena import MappedShelf
from blackhole_core.executor.lane import WorkerLane
from blackhole_core.executor.serving import Worker
from blackhole_core.executor.wire.policy import WallReport

__all__ = ["work"]


def work(receive: int, send: int, further: tuple[int, ...], *, pid: int, walls: WallReport, ready: bool) -> None:
    """Serve calls until told to stop, or only say hello where a wall that is required does not hold: the host says what is missing.

    ``further`` are those of the lane, the arena and the relay, ``pid`` is this process's id as the host sees it, ``walls`` what was built around it.
    """
    further = _use_relay(further)
    lane, arena = further[: len(further) // 3 * 3], further[len(further) // 3 * 3 :]
    worker = Worker(receive, send, WorkerLane(*lane) if lane else None, _map(*arena) if arena else None, pid=pid, walls=walls)
    if ready:
        worker.run()
    else:
        worker.greet()  # no plugin code comes into this process


def _use_relay(further: tuple[int, ...]) -> tuple[int, ...]:
    """Let the network go through the relay, if one of the descriptors is a socket: no other kind of them is. Return the others."""
    relay = next((descriptor for descriptor in further if stat.S_ISSOCK(os.fstat(descriptor).st_mode)), None)
    if relay is not None:
        from blackhole_core.executor.relay.stage import install

        install(relay)
    return tuple(descriptor for descriptor in further if descriptor != relay)


def _map(arena: int) -> MappedShelf | None:
    """Return the worker's end of its arena; None where a limit on address space leaves no room for it, and then everything travels inside messages."""
    try:
        return MappedShelf(arena, first=False, limit=0, in_place=True)
    except OSError:
        return None
    finally:
        os.close(arena)
