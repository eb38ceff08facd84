"""What a worker does first, done before with a plugin of our own, so that no worker is the first to do it.

In the zygote, and in a guest whose memory is kept: what is imported, looked up or made at first use is then there in every worker that comes from there, and CPython has adapted the code that runs
(PEP 659). In a forked worker that waits: the pages of memory that this writes to are its own already. Nothing of it shows: the sample's modules are gone, and what stays is in every worker that
has loaded a plugin. There is one thread, and no descriptor stays open.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from blackhole_core.executor.hosted import host_object, instantiate
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.frames import FrameReader, frame
from blackhole_core.executor.wire.plain import decode_plain, encode_plain
from blackhole_core.loader.codes import learn_codes
from blackhole_core.loader.universe import Universe

__all__ = ["REHEARSALS", "rehearse"]

#: How often whoever others begin from rehearses: CPython 3.11 adapts a function at its eighth call, and each look-up in it at the second one after that.
REHEARSALS: Final = 10

_NAME: Final = "blackhole_rehearsal"
_FOLDER: Final = Path(__file__).with_name("sample")


def rehearse(times: int) -> None:
    """Load the sample, call it, and forget it."""
    hashlib.sha256(b"").digest()  # OpenSSL looks its methods up at the first use
    for number in range(times):
        _once(f"rehearsal-{os.getpid()}-{number}")


def _once(tag: str) -> None:
    load = codec.Load(f"{_NAME}:Sample", str(_FOLDER), (_NAME,), _NAME, "1", 1, "blackhole-rehearsal", 1, 2**20, encode_plain({}))
    for body in FrameReader(2**20).feed(frame(codec.encode(load))):
        codec.decode_host_message(body)
    learn_codes(load.code_mark, load.codes)
    universe = Universe(load.packages, _FOLDER, tag)
    try:
        hosted = host_object(instantiate(universe.load(load.entry)), load.project)
        hosted.implementations[0](decode_plain(encode_plain(tag)))
        codec.encode(codec.Loaded((), dict(hosted.surface.contracts)))
    finally:
        universe.release()
