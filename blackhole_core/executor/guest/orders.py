"""What one guest is told when it is up: which plugin's code it gets, and the limits and variables of its worker.

They come over the channel, before anything of the worker's protocol, and never lie in a file: variables may be secret. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["MAX_ORDERS", "ORDERS_HEAD", "READY", "Orders", "decode_orders", "encode_orders"]

#: What a guest says to the port of its status when it waits for orders, where it was asked to.
READY: Final = b"ready\n"
#: Bytes of the length in front.
ORDERS_HEAD: Final = 4
#: Bytes at most: as much as a local socket takes at once, so that telling a guest never waits for it.
MAX_ORDERS: Final = 128 * 1024


class Orders(msgspec.Struct, frozen=True, array_like=True):
    """``layers`` are read-only disks by name, the plugin's last. ``data`` is the directory of the plugin's own disk ``data_disk``, both empty without one.

    ``temporary`` are options of the file systems for temporary files, ``tasks`` is how many processes and threads there may be (0: any), ``user`` whom the
    worker becomes. ``now`` (nanoseconds since 1970) sets the clock of a guest that slept in a file, 0 leaves it. ``entropy`` makes its random numbers its own.
    """

    layers: tuple[str, ...]
    environment: dict[str, str]
    user: int
    tasks: int = 0
    data: str = ""
    data_disk: str = ""
    temporary: str = ""
    now: int = 0
    entropy: bytes = b""
    network: bool = False


def encode_orders(orders: Orders) -> bytes:
    """Return them with their length in front.

    :raises ValueError: they are too long; the message is a sentence.
    """
    body = msgspec.msgpack.encode(orders)
    if len(body) > MAX_ORDERS:
        raise ValueError(f"the environment of its worker has {len(body)} bytes, a virtual machine takes {MAX_ORDERS}")
    return len(body).to_bytes(ORDERS_HEAD, "big") + body


def decode_orders(body: bytes) -> Orders:
    """Return what came behind the length; the host is trusted."""
    return msgspec.msgpack.decode(body, type=Orders)
