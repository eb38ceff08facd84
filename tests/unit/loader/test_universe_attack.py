"""The switch under fire: threads use the old generation in every way while it loses and regains its names."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from blackhole_core.loader.universe import Universe

#: How often the names change hands.
SWITCHES = 120


@pytest.fixture
def ten_microsecond_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


class Hammer:
    """Threads that use one generation until told to stop, and note everything that was not its own."""

    def __init__(self, universe: Universe, plugin: Any, v: int) -> None:
        self.universe, self.plugin, self.v = universe, plugin, v
        self.wrong: list[object] = []
        self.rounds = 0
        self._stop = threading.Event()
        uses = (self._calls, self._imports, self._pickles, self._first_imports)
        self._threads = [threading.Thread(target=self._run, args=(use,)) for use in uses]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, use: Callable[[int], set[object]]) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                seen = use(number)
            except Exception as error:
                self.wrong.append(repr(error))
            else:
                if seen != {self.v}:
                    self.wrong.append((use.__name__, seen))
            number += 1
            self.rounds += 1

    def _calls(self, _: int) -> set[object]:
        return set(self.plugin.version())

    def _imports(self, _: int) -> set[object]:
        return {*self.plugin.absolute(), *self.plugin.relative()}

    def _pickles(self, _: int) -> set[object]:
        core = self.universe.modules["acme.core"]
        pickle.dumps((core.Point(), core.Colour.RED, core.Plugin.version, core.Point.Inner))
        return {core.Point().x}

    def _first_imports(self, number: int) -> set[object]:
        # Forty modules that nobody imported yet, one per round, so that loading and switching meet.
        return set(self.plugin.lazy(number % 40))


@pytest.mark.usefixtures("ten_microsecond_switches")
def test_the_old_generation_never_sees_the_new_one(make_universe: Callable[..., Universe], acme: Callable[[int], Path]) -> None:
    """S-01, S-04: 120 switches, each aborted, under four threads at a 10 µs switch interval: nothing wrong, nothing raised."""
    paths = {v: acme(v) for v in (1, 2)}
    old = make_universe(("acme",), paths[1])
    plugin: Any = old.load("acme:Plugin")
    with Hammer(old, plugin(), 1) as hammer:
        for number in range(SWITCHES):
            new = Universe(("acme",), paths[2], f"attack-{number}")
            loaded: Any = new.load("acme:Plugin")
            assert set(loaded().lazy(number % 40)) == {2}
            assert loaded().version() == (2, 2)
            new.release()
    assert hammer.wrong[:5] == []
    assert hammer.rounds > SWITCHES
    assert old.active


@pytest.mark.usefixtures("ten_microsecond_switches")
def test_swaps_in_a_row_under_load(make_universe: Callable[..., Universe], acme: Callable[[int], Path]) -> None:
    """S-01: thirty swaps in a row, each generation hammered while it is replaced and while it drains: nothing wrong."""
    paths = {v: acme(v) for v in (1, 2)}
    current = make_universe(("acme",), paths[1])
    plugin: Any = current.load("acme:Plugin")
    for number in range(30):
        v = number % 2 + 1
        with Hammer(current, plugin(), v) as hammer:
            new = make_universe(("acme",), paths[3 - v])
            plugin = new.load("acme:Plugin")
            assert set(plugin().lazy(number)) == {3 - v}
        assert hammer.wrong[:5] == []
        current.release()
        current = new


@pytest.mark.usefixtures("ten_microsecond_switches")
def test_plugins_are_swapped_independently_of_each_other(tmp_path: Path, write_tree: Callable[[Path, dict[str, str]], Path]) -> None:
    """S-13: threads that load, abort and release different plugins at once do not get in each other's way."""
    body = "V = {v!r}\ndef lazy():\n    from {name}.late import V\n    return V\n"
    wrong: list[object] = []

    def swaps(name: str) -> None:
        try:
            paths = [
                write_tree(tmp_path / f"{name}-{v}", {f"{name}/__init__.py": body.format(v=v, name=name), f"{name}/late.py": f"V = {v}\n"})
                for v in (0, 1)
            ]
            current = Universe((name,), paths[0], f"{name}-first")
            loaded: Any = current.load(name)
            for number in range(25):
                aborted = Universe((name,), paths[1], f"{name}-aborted-{number}")
                other: Any = aborted.load(name)
                if (other.lazy(), loaded.lazy()) != (1, 0):
                    wrong.append((name, number))
                aborted.release()
                if sys.modules[name] is not loaded:
                    wrong.append((name, "not put back"))
            current.release()
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=swaps, args=(name,)) for name in ("acme", "nsp", "solo")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
