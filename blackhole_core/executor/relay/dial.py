"""From a target to a connected TCP socket: look the name up, judge every address, connect to one that was judged. On the relay's thread.

The name is looked up once, here, and what is connected to is an address that the answer had: a name server that answers differently the next time
("rebinding") gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import attrs

from blackhole_core.executor.relay.bounds import Bounds
from blackhole_core.executor.relay.messages import Verdict
from blackhole_core.executor.relay.rules import Target

__all__ = ["Found", "Judge", "LookUp", "Lookups", "Refused", "dial", "look_up"]


@attrs.frozen
class Found:
    """One address of a name: its family, and what ``connect`` takes."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def address(self) -> str:
        return str(self.sockaddr[0])


LookUp: TypeAlias = Callable[[str, int], Sequence[Found]]
#: Whether an address may be connected to.
Judge: TypeAlias = Callable[[str], bool]


class Refused(Exception):
    """There will be no connection. ``denied``: because it is not allowed."""

    def __init__(self, verdict: Verdict, *, denied: bool = False) -> None:
        super().__init__(verdict.text)
        self.verdict: Final = verdict
        self.denied: Final = denied


def look_up(host: str, port: int) -> list[Found]:
    """Ask the resolver of this machine. Blocks.

    :raises OSError: there is no such name, or no answer.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [Found(family, sockaddr) for family, _, _, _, sockaddr in answers]


class Lookups:
    """The look-ups of one worker: each has a thread, since the C library's resolver can neither be asked without waiting nor be interrupted.

    A look-up counts until its thread has ended, which the resolver's own timeouts see to (30 s by default), whether or not anybody waits for it still.
    The threads are daemons: none holds up the end of the host.
    """

    def __init__(self, resolve: LookUp, limit: int) -> None:
        self._resolve = resolve
        self._free = asyncio.Semaphore(limit)

    async def ask(self, target: Target) -> Sequence[Found]:
        """:raises Refused: the name could not be looked up."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[Found] | Exception] = loop.create_future()

        def settle(result: Sequence[Found] | Exception) -> None:
            self._free.release()
            if not answer.done():
                answer.set_result(result)

        def run() -> None:
            try:
                result: Sequence[Found] | Exception = self._resolve(target.host, target.port)
            except (OSError, ValueError) as error:  # ValueError: a name that the resolver cannot even encode
                result = error
            with contextlib.suppress(RuntimeError):  # the relay is closed
                loop.call_soon_threadsafe(settle, result)

        try:
            threading.Thread(target=run, name="blackhole-lookup", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise Refused(Verdict(errno.EAGAIN, f"{target} cannot be looked up now: {error}")) from None
        result = await answer
        if isinstance(result, Exception):
            raise Refused(_not_found(target, result)) from None
        return result


def _not_found(target: Target, error: Exception) -> Verdict:
    number = error.errno if isinstance(error, socket.gaierror) and error.errno is not None else socket.EAI_NONAME
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Verdict(number, f"{target.host} was not found: {reason}", lookup=True)


async def dial(target: Target, lookups: Lookups, judge: Judge, bounds: Bounds) -> tuple[socket.socket, str]:
    """Return a socket that is connected to ``target``, and the address it is connected to.

    :raises Refused: there is none that may be, or can be, connected to.
    """
    deadline = time.monotonic() + bounds.connect_seconds
    found = [_literal(target)] if target.literal else await _in_time(lookups.ask(target), bounds.connect_seconds, target)
    allowed = [one for one in found if judge(one.address)]
    if not allowed:
        raise Refused(Verdict(errno.EACCES), denied=True)
    problem: OSError = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    for left, one in zip(range(len(allowed) - 1, -1, -1), allowed, strict=True):
        seconds = deadline - time.monotonic()
        try:
            return await _connect(one, min(seconds, bounds.address_seconds) if left else seconds), one.address
        except OSError as error:
            problem = error
    number = problem.errno or errno.EIO
    raise Refused(Verdict(number, f"{target} cannot be connected to: {os.strerror(number)}"))


async def _in_time(answer: Any, seconds: float, target: Target) -> Sequence[Found]:
    try:
        result: Sequence[Found] = await asyncio.wait_for(answer, seconds)
    except TimeoutError:
        raise Refused(Verdict(socket.EAI_AGAIN, f"{target.host} was not found within {seconds:g} s", lookup=True)) from None
    return result


def _literal(target: Target) -> Found:
    six = ":" in target.host
    return Found(socket.AF_INET6, (target.host, target.port, 0, 0)) if six else Found(socket.AF_INET, (target.host, target.port))


async def _connect(found: Found, seconds: float) -> socket.socket:
    """:raises OSError: it cannot be connected to, or not within ``seconds``."""
    far = socket.socket(found.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(far, found.sockaddr), seconds)
    except TimeoutError as error:
        far.close()
        raise TimeoutError(error.errno or errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except BaseException:
        far.close()
        raise
    return far
