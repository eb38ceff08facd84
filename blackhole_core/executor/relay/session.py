"""The relay's side of one worker: takes what it asks, within bounds, and keeps its connections. On the relay's thread.

What a worker sends is hostile. A packet that is no request, or comes without a stream, is a breach and ends the worker. Requests beyond the bounds of their
rate are not read, those beyond the number of connections are refused.

How bytes reach the worker is the business of who calls :meth:`Session.open`: it takes any stream socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Final

import attrs

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.limits.bucket import Bucket
from blackhole_core.executor.relay.bounds import Bounds, Seats
from blackhole_core.executor.relay.bridge import Bridge, NearSocket
from blackhole_core.executor.relay.dial import LookUp, Lookups, Refused, dial
from blackhole_core.executor.relay.link import take_packet
from blackhole_core.executor.relay.messages import MAX_ASK, Ask, Verdict, decode_ask, encode_verdict
from blackhole_core.executor.relay.rules import Rules, Target
from blackhole_core.executor.relay.traffic import Account

__all__ = ["Common", "Session"]

#: Requests that are taken in one turn of the loop, so that one worker's flood does not hold up the bytes of another.
_TURN: Final = 16


@attrs.frozen(eq=False)
class Common:
    """What all sessions of one relay share."""

    resolve: LookUp
    bounds: Bounds
    seats: Seats
    scratch: bytearray


class Session:
    """One worker's connections. ``breach`` is told why the worker must be ended."""

    def __init__(self, common: Common, rules: Rules, account: Account, control: socket.socket, breach: Callable[[str], object]) -> None:
        """``control`` is the host's end of the worker's relay socket, which this takes over."""
        self._common = common
        self._bounds = common.bounds
        self._rules = rules
        self._account = account
        self._control = control
        self._breach = breach
        self._lookups = Lookups(common.resolve, common.bounds.lookups)
        self._asks = Bucket.full(common.bounds.asks_per_second, common.bounds.asks_at_once, time.monotonic())
        self._resting: asyncio.TimerHandle | None = None
        self._hearing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._bridges: set[Bridge] = set()
        self._loop = asyncio.get_running_loop()
        self._hear(True)

    # --- what the host says ------------------------------------------------------------------------------------------

    def confine(self, rules: Rules) -> None:
        """Let other rules hold from now on, also for the connections there are."""
        self._rules = rules
        for bridge in tuple(self._bridges):
            if not rules.allows(bridge.target, bridge.address):
                self._account.tell("network.cut", host=bridge.target.host, port=bridge.target.port)
                bridge.abort()

    def look(self, now: float) -> None:
        """Look for connections that nobody needs."""
        for bridge in tuple(self._bridges):
            bridge.look(now, self._bounds.idle_seconds)

    async def end(self, linger: float) -> None:
        """Take no more requests, deliver for ``linger`` seconds what the worker wrote before it ended, and end what is left."""
        self._hear(False)
        if self._resting is not None:
            self._resting.cancel()
        self._control.close()
        if self._tasks and linger:
            await asyncio.wait(self._tasks, timeout=linger)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _hear(self, hearing: bool) -> None:
        if hearing and not self._hearing:
            self._loop.add_reader(self._control.fileno(), self._take)
        elif self._hearing and not hearing:
            self._loop.remove_reader(self._control.fileno())
        self._hearing = hearing

    def _take(self) -> None:
        """Take the requests that are there, some at a time."""
        for _ in range(_TURN):
            now = time.monotonic()
            granted, asks = self._asks.take(1, now)
            if granted < 1:
                self._rest(self._asks.wait(_TURN, now))
                return
            try:
                if not self._take_one():
                    return
                self._asks = asks  # a look that found none has cost none
            except ProtocolError as error:
                self._hear(False)
                self._breach(f"its relay socket: {error}")
                return

    def _rest(self, seconds: float) -> None:
        self._hear(False)
        self._resting = self._loop.call_later(seconds, self._hear, True)

    def _take_one(self) -> bool:
        """Take one request; False when there is none now, or will never be one again.

        :raises ProtocolError: it is none.
        """
        try:
            data, descriptors, flags = take_packet(self._control, MAX_ASK)
        except BlockingIOError:
            return False
        except OSError:  # nobody is at the other end
            self._hear(False)
            return False
        if not data and not descriptors:
            self._hear(False)
            return False
        if not descriptors and flags & socket.MSG_CTRUNC:
            return True  # the host has no descriptor left for it; the worker sees its stream closed
        near = _stream(descriptors)
        try:
            if flags & socket.MSG_TRUNC:
                raise ProtocolError(f"a request of more than {MAX_ASK} bytes")
            ask = decode_ask(data)
        except BaseException:
            near.close()
            raise
        self.open(ask, near)
        return True

    # --- connections -------------------------------------------------------------------------------------------------

    def open(self, ask: Ask, near: socket.socket) -> None:
        """Connect ``near``, which this takes over, to what is asked for, and begin to pass bytes; or say by ``near`` why not, and close it."""
        limit = self._common.seats.limit(self._bounds)
        if len(self._tasks) >= limit:
            _answer(
                near, Verdict(errno.EMFILE, f"plugin {self._account.plugin} has {limit} connections, the most it may have"), ask.preface
            )
            near.close()
        elif not self._common.seats.take():
            _answer(near, Verdict(errno.ENFILE, "the plugins of this host have as many connections as they may have together"), ask.preface)
            near.close()
        else:
            task = self._loop.create_task(self._serve(ask, near))
            self._tasks.add(task)
            task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._common.seats.leave()
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler({"message": "a connection of a plugin failed in the relay", "exception": task.exception()})

    async def _serve(self, ask: Ask, near: socket.socket) -> None:
        """See one request through, from the connection to its end."""
        with contextlib.closing(near):
            try:
                target = self._judged_target(ask)
                far, address = await dial(target, self._lookups, lambda address: self._rules.allows(target, address), self._bounds)
            except Refused as refused:
                self._refuse(ask, near, refused)
                return
            with contextlib.closing(far):
                if not self._rules.allows(target, address):  # revoked meanwhile
                    self._refuse(ask, near, Refused(Verdict(errno.EACCES), denied=True))
                elif _answer(near, Verdict(), ask.preface):
                    await self._pass(target, address, near, far)

    def _judged_target(self, ask: Ask) -> Target:
        try:
            target = Target.parse(ask.host, ask.port)
        except ValueError as problem:
            raise Refused(Verdict(socket.EAI_NONAME, f"{ask.host!r} cannot be connected to{problem}", lookup=True)) from None
        if not self._rules.allows(target):
            raise Refused(Verdict(errno.EACCES, self._denial(target)), denied=True)
        return target

    def _denial(self, target: Target) -> str:
        name = self._account.plugin
        return (
            f"plugin {name} may not connect to {target}: ask for the permission {target.permission} in its manifest, "
            f"and have it granted with: blackhole grant {name} {target.permission}"
        )

    def _refuse(self, ask: Ask, near: socket.socket, refused: Refused) -> None:
        verdict = refused.verdict
        if refused.denied:
            self._account.tell("network.denied", host=ask.host, port=ask.port, by="name" if verdict.text else "address")
            if not verdict.text:  # the address stays unsaid: a plugin must not learn the addresses of a network that it may not reach
                text = (
                    f"plugin {self._account.plugin} may not connect to {ask.host}:{ask.port}: the name leads to an address that is not public, and a name "
                    "opens public ones only; grant network:connect with that address beside the name"
                )
                verdict = Verdict(verdict.error, text)
        else:
            self._account.tell("network.failed", host=ask.host, port=ask.port, error=verdict.text)
        _answer(near, verdict, ask.preface)

    async def _pass(self, target: Target, address: str, near: socket.socket, far: socket.socket) -> None:
        bridge = Bridge(target, address, self._account, self._common.scratch)
        self._bridges.add(bridge)
        self._account.connections += 1
        self._account.tell("network.connected", host=target.host, port=target.port, address=address)
        try:
            await bridge.join(near, far)
            await bridge.done
        finally:
            bridge.abort()
            self._bridges.discard(bridge)
            self._account.connections -= 1
            seconds = round(time.monotonic() - bridge.begun, 3)
            self._account.tell(
                "network.closed", host=target.host, port=target.port, sent=bridge.sent, received=bridge.received, seconds=seconds
            )


def _stream(descriptors: list[int]) -> socket.socket:
    """Return the stream that came with a request.

    :raises ProtocolError: none came.
    """
    if not descriptors:
        raise ProtocolError("a request without a stream")
    try:
        near = NearSocket(fileno=descriptors[0])
    except OSError:
        os.close(descriptors[0])
        raise ProtocolError("a request with something that is no socket") from None
    if (near.family, near.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        near.close()
        raise ProtocolError("a request with a socket that is no local stream")
    near.setblocking(False)
    return near


def _answer(near: socket.socket, verdict: Verdict, preface: int) -> bool:
    """Tell the worker, and take out what kept its stream from being writable; False when it does not hold to what it said, or has gone."""
    data = encode_verdict(verdict)
    try:
        if near.send(data) != len(data):
            return False
        while preface:
            taken = len(near.recv(min(preface, 256 * 1024)))
            if not taken:
                return False
            preface -= taken
    except OSError:
        return False
    return True
