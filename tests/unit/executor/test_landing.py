"""Memory that arrays are copied to, and what happens when they go."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest

from blackhole_core.executor import landing as landings
from blackhole_core.executor.addresses import address_of
from blackhole_core.executor.landing import Landing
from blackhole_core.executor.regions import PAGE

pytestmark = pytest.mark.skipif(sys.implementation.name != "cpython", reason="addresses of objects are CPython's")

_ROOM = 64 * PAGE


def _land(landing: Landing, value: bytes) -> memoryview:
    kept = landing.copy(address_of(value), len(value))
    assert kept is not None
    return kept


def test_what_one_leaves_behind_is_used_for_the_next() -> None:
    """A copy is right and read-only, and lies where the last one lay when nobody looks at that any more."""
    landing = Landing(_ROOM)
    for number in range(3):
        kept = _land(landing, bytes([number]) * 5000)
        assert kept == bytes([number]) * 5000
        assert kept.readonly
        assert address_of(kept) == ctypes.addressof(ctypes.c_char.from_buffer(landing._mapping))
        del kept


def test_a_part_keeps_the_whole() -> None:
    """While anybody looks at a part of it, whatever derived object that is, nothing else lies there."""
    landing = Landing(_ROOM)
    last = memoryview(np.frombuffer(_land(landing, b"a" * 5000), "u1")[10:20].reshape(2, 5))
    for _ in range(3):
        assert _land(landing, b"b" * 9000) == b"b" * 9000
    assert last.tobytes() == b"a" * 10


def test_no_room() -> None:
    """Whoever finds none is told so, and those who have some keep it."""
    landing = Landing(_ROOM)
    kept = [_land(landing, bytes([number]) * (16 * PAGE)) for number in range(4)]
    assert landing.copy(address_of(b"x"), 1) is None
    assert [view[-1] for view in kept] == [0, 1, 2, 3]
    del kept[1]
    assert _land(landing, b"y" * (16 * PAGE))[-1] == ord("y")


def test_pages_go_back_when_asked_and_what_ends_later_gives_back_its_own() -> None:
    """Until then they stay for the next one; those of what is in use always do. A page that went back is all zeros."""
    landing = Landing(_ROOM)
    first, second = _land(landing, b"a" * PAGE), _land(landing, b"b" * PAGE)
    memory = landing._mapping
    del first
    assert memory[:PAGE] == b"a" * PAGE
    landing.trim()
    assert memory[: 2 * PAGE] == bytes(PAGE) + b"b" * PAGE
    del second
    assert memory[: 2 * PAGE] == bytes(2 * PAGE)
    third = _land(landing, b"c" * PAGE)
    del third
    assert memory[:PAGE] == b"c" * PAGE


def test_an_array_outlives_its_landing() -> None:
    """Who looks at it has the memory, whoever else has let go."""
    landing = Landing(_ROOM)
    kept = np.frombuffer(_land(landing, b"a" * 5000), "u1")
    landing.trim()
    del landing
    gc.collect()
    assert (kept == ord("a")).all()


@pytest.mark.parametrize(("name", "value"), [("_copy", None), ("weakref", types.SimpleNamespace())], ids=["in it", "before"])
def test_an_interrupted_copy(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Ctrl-C leaves the room free."""
    landing = Landing(_ROOM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if value is not None:
            value.ref = interrupt
        patch.setattr(landings, name, value or interrupt)
        with pytest.raises(KeyboardInterrupt):
            landing.copy(address_of(b"x"), 1)
    assert len(_land(landing, bytes(_ROOM))) == _ROOM


def test_a_forked_child() -> None:
    """What it lets go of is still its parent's, and it copies nothing there."""
    landing = Landing(_ROOM)
    kept = _land(landing, b"a" * 5000)
    with landing._lock:
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)  # for a child that hangs: it is what is tested
            del kept
            os._exit(landing.copy(address_of(b"x"), 1) is not None)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert _land(landing, b"b" * 5000) == b"b" * 5000
    assert kept == b"a" * 5000


def test_many_threads() -> None:
    """Copies of many threads never mix, while one of them gives pages back all along, and in the end all room is free."""
    landing = Landing(_ROOM)
    wrong: list[object] = []

    def run(seed: int) -> None:
        dice = random.Random(seed)
        kept: list[tuple[bytes, memoryview]] = []
        for _ in range(200):
            value = dice.randbytes(1) * dice.randint(1, 4 * PAGE)
            view = landing.copy(address_of(value), len(value))
            if view is not None:
                kept.append((value, view))
            if len(kept) > 3:
                value, view = kept.pop(dice.randrange(len(kept)))
                if view != value:
                    wrong.append(value)
            if not seed:
                landing.trim()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert len(_land(landing, bytes(_ROOM))) == _ROOM
