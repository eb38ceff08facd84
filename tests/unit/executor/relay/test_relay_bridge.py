"""The passing of bytes between a worker's stream and a connection, on a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from blackhole_core.executor.relay.bridge import Bridge, NearSocket, make_scratch
from blackhole_core.executor.relay.rules import Target
from blackhole_core.executor.relay.traffic import Account

#: Bytes that are read at once: more than a small buffer of the kernel takes, so something is left to write when an end is closed.
_MUCH: Final = 48 * 1024


def test_an_end_that_was_lost_with_something_left_to_write_can_be_ended_again() -> None:
    """The end of a connection that was closed from both sides does not fail the relay."""

    async def play() -> None:
        pairs = socket.socketpair(), socket.socketpair()
        with contextlib.ExitStack() as opened:
            for one in (*pairs[0], *pairs[1]):
                opened.enter_context(one).setblocking(False)
            near, worker = pairs[0]
            far, server = pairs[1]
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            worker.shutdown(socket.SHUT_WR)
            server.sendall(bytes(_MUCH))
            server.close()
            bridge = Bridge(Target("127.0.0.1", 1), "127.0.0.1", Account("client", lambda name, **data: None), make_scratch())
            await bridge.join(NearSocket(fileno=near.detach()), far)
            while far.fileno() >= 0:  # noqa: ASYNC110 - the loop itself is waited for
                await asyncio.sleep(0)
            assert not bridge.done.done()
            loop, received = asyncio.get_running_loop(), 0
            while received < _MUCH:
                received += len(await loop.sock_recv(worker, _MUCH))
            await asyncio.wait_for(bridge.done, 10)
            bridge.abort()

    asyncio.run(play())
