"""The host's end of the way to the network from a virtual machine: to the relay it is the worker. On the relay's thread.

What the guest opens becomes a local pair, of which one end goes with the request to the session, as from a worker at any other level. So the bounds and
rules of the session hold for guests as they do for others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from blackhole_core.executor.relay.carrier import Carrier, Local
from blackhole_core.executor.relay.link import send_descriptor
from blackhole_core.executor.relay.streams import Frame, Kind

__all__ = ["HostCarrier"]


class _Loop:
    """The relay's loop as a carrier's watcher. It needs no word of who hangs up: behind local sockets here is the relay, which says so by closing both directions."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._known: dict[int, tuple[bool, bool]] = {}

    def watch(self, descriptor: int, *, reading: bool, writing: bool, act: Callable[[], None], hanging_up: bool = False) -> None:
        was_reading, was_writing = self._known.get(descriptor, (False, False))
        if reading and not was_reading:
            self._loop.add_reader(descriptor, act)
        elif was_reading and not reading:
            self._loop.remove_reader(descriptor)
        if writing and not was_writing:
            self._loop.add_writer(descriptor, act)
        elif was_writing and not writing:
            self._loop.remove_writer(descriptor)
        self._known[descriptor] = reading, writing


class HostCarrier(Carrier):
    """One guest's. ``breach`` is told why it must be ended. ``control`` is the worker's end of its relay socket, and this object's from now on."""

    def __init__(self, port: int, control: socket.socket, breach: Callable[[str], object]) -> None:
        self._control = control
        self._asks: dict[int, tuple[bytes, socket.socket]] = {}  # by stream, not yet taken by the session, which takes so many a second
        self._breach = breach
        super().__init__(port, _Loop(), self._end)

    def close(self) -> None:
        super().close()
        self._watch_control(waiting=False)
        for _ask, theirs in self._asks.values():
            theirs.close()
        self._asks.clear()
        self._control.close()

    def _end(self, error: Exception | None) -> None:
        if error is not None:
            self._breach(f"its port to the network: {error}")

    def _opened(self, frame: Frame) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # no descriptors are left: the plugin sees a connection that ends before it is made
            self._say(Kind.CLOSE, frame.stream)
            local = Local(frame.stream, self._control, open=False)  # which stands for the one it never had
            local.stream.sent_close = True
            self._join(local)
            return
        self._join(Local(frame.stream, ours))
        self._asks[frame.stream] = frame.data, theirs
        self._ask()

    def _ask(self) -> None:
        """Hand on the requests that the session takes now."""
        while self._asks:
            number, (ask, theirs) = next(iter(self._asks.items()))
            try:
                send_descriptor(self._control, ask, theirs.fileno())
            except BlockingIOError:
                break
            except OSError:  # the session has ended
                self._give_up(self._streams[number])
            else:
                del self._asks[number]
                theirs.close()
        self._watch_control(waiting=bool(self._asks))

    def _give_up(self, local: Local) -> None:
        ask = self._asks.pop(local.number, None)
        if ask is not None:  # the guest does not want it any more: else one that opens and closes for ever would use up the descriptors
            ask[1].close()
        super()._give_up(local)

    def _watch_control(self, *, waiting: bool) -> None:
        if self._control.fileno() >= 0:
            self._watcher.watch(self._control.fileno(), reading=False, writing=waiting, act=self._ask)
