"""The guest's end of the way to the network: a thread of the worker that puts the requests of its relay socket onto a serial port.

To the worker it is what the host is at other levels: it holds the other end of the relay socket, and what was asked for comes by the stream that went with the request.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from blackhole_core.executor.relay.carrier import MAX_STREAMS, Carrier, Local
from blackhole_core.executor.relay.link import Plain, take_packet
from blackhole_core.executor.relay.messages import MAX_ASK, decode_ask, encode_ask
from blackhole_core.executor.relay.streams import Kind

__all__ = ["begin"]

_NUMBERS: Final = 2**32


def begin(port: int) -> int:
    """Begin to serve the port, which is given away, and return the worker's relay socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = _Loop()
    _GuestCarrier(port, loop, ours)
    threading.Thread(target=loop.run, name="blackhole-network", daemon=True).start()
    return theirs.detach()


class _Loop:
    """One thread's waiting."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._acts: dict[int, tuple[Callable[[], None], int]] = {}

    def watch(self, descriptor: int, *, reading: bool, writing: bool, act: Callable[[], None], hanging_up: bool = False) -> None:
        wanted = (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if writing else 0)
        known = self._acts.get(descriptor)
        if not wanted and not hanging_up:
            if known is not None:
                self._epoll.unregister(descriptor)
                del self._acts[descriptor]
        elif known is None or known[1] != wanted:
            (self._epoll.register if known is None else self._epoll.modify)(descriptor, wanted)  # a hang-up is told in any case
            self._acts[descriptor] = act, wanted

    def run(self) -> None:
        while self._acts:
            for descriptor, _event in self._epoll.poll():
                known = self._acts.get(descriptor)
                if known is not None:
                    known[0]()


def _end(error: Exception | None) -> None:
    """Without its host a guest is of no use."""
    if error is not None:
        sys.stderr.write(f"the way to the network is broken: {error}\n")
        sys.stderr.flush()
    os._exit(0 if error is None else 1)


class _GuestCarrier(Carrier):
    def __init__(self, port: int, loop: _Loop, control: socket.socket) -> None:
        super().__init__(port, loop, _end)
        self._control = control
        self._numbers = itertools.count(1)
        loop.watch(control.fileno(), reading=True, writing=False, act=self._ask)

    def _ask(self) -> None:
        """Take one request and put it onto the port."""
        data, descriptors, _flags = take_packet(self._control, MAX_ASK)
        if not descriptors:
            if not data:  # the worker closed its end
                self._watcher.watch(self._control.fileno(), reading=False, writing=False, act=self._ask)
            return
        sock = Plain(fileno=descriptors[0])
        if len(self._streams) >= MAX_STREAMS:
            sock.close()  # the plugin sees that there is no connection
            return
        ask = decode_ask(data)
        number = next(number for number in self._numbers if number % _NUMBERS not in self._streams) % _NUMBERS
        self._say(Kind.OPEN, number, encode_ask(msgspec.structs.replace(ask, preface=0)))
        self._join(Local(number, sock, preface=ask.preface, answered=False))
        self._flush()
