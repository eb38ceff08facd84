"""Looking for what an old generation left behind costs a garbage collection, which stops every thread: not while they are busy."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blackhole_core.loader import leaks
from blackhole_core.loader.leaks import Canary
from blackhole_core.loader.universe import Universe

_tags = itertools.count(1)


@pytest.fixture(autouse=True)
def no_ration(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the collections before took, the next one may run; and one looks so long that a busy thread is seen on a busy machine, too."""
    monkeypatch.setattr(leaks, "_BREATH", 0.1)
    monkeypatch.setattr(leaks._rations, "_not_before", 0.0)
    monkeypatch.setattr(leaks, "_CHEAP", float("inf"))


@pytest.fixture
def released(tmp_path: Path) -> Callable[[], Canary]:
    """Make and release a generation that only a reference cycle keeps."""
    (tmp_path / "underload.py").write_text("def function(): ...\nclass Thing:\n    def method(self): ...\n")

    def make() -> Canary:
        universe = Universe(["underload"], tmp_path, f"load-{next(_tags)}")
        universe.load("underload")
        canary = Canary(universe, "plugin underload@1.0")
        universe.release()
        return canary

    return make


@pytest.fixture
def full_collections() -> Iterator[list[int]]:
    """One entry for each full collection; none comes by itself."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(1)

    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)


def test_no_collection_stops_busy_threads(released: Callable[[], Canary], full_collections: list[int]) -> None:
    """While another thread computes it is not known whether the generation is gone; at any cost it is, and so it is in an idle moment."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            pass

    busy = threading.Thread(target=compute)
    busy.start()
    try:
        assert released().leaks() is None
        assert not full_collections
        assert released().leaks(at_any_cost=True) == ()
        assert len(full_collections) == 1
    finally:
        stop.set()
        busy.join()
    assert released().leaks() == ()
    assert len(full_collections) == 2


def test_a_busy_thread_of_the_plugin_is_named(tmp_path: Path, full_collections: list[int]) -> None:
    """What keeps the host busy may be the leak itself: a thread that runs the old code is seen without a collection."""
    (tmp_path / "spinning.py").write_text("stop = []\ndef spin():\n    while not stop:\n        pass\n")
    universe = Universe(["spinning"], tmp_path, f"load-{next(_tags)}")
    universe.load("spinning")
    module = universe.modules["spinning"]
    stop, spinning = module.stop, threading.Thread(target=module.spin, name="spinner")
    del module
    spinning.start()
    try:
        canary = Canary(universe, "plugin spinning@1.0")
        universe.release()
        found = canary.leaks()
        assert found is not None
        assert "spinner" in "".join(found)
        assert not full_collections
    finally:
        stop.append(True)
        spinning.join()
