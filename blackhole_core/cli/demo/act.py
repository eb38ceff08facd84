"""One level of the demo: load 1.0.0, call it from many threads, and meanwhile swap, roll back and (where there is a worker) kill."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from blackhole_core.cli.demo.api import PROJECT, WordCountSpecs
from blackhole_core.cli.demo.corpus import Source
from blackhole_core.cli.demo.display import Display
from blackhole_core.cli.demo.ledger import Ledger, totals_of
from blackhole_core.cli.demo.plainloop import Totals
from blackhole_core.cli.demo.traffic import Traffic
from blackhole_core.events import Event
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.report import SwapReport
from blackhole_core.manager import PluginManager

__all__ = ["Act", "Outcome"]

PLUGIN: Final = "wordcount"
#: Swaps and rollbacks while the plugin's own sums are watched: enough to go there and back again several times.
SWAPS: Final = 8
#: Times the worker is killed, with a swap between each two.
KILLS: Final = 3
#: Share of the files after which killing begins. Before, the plugin's own sums must be exact; a killed worker forgets what came after its last snapshot.
UNHARMED: Final = 0.7
#: Seconds to wait for the next file, or for a worker to come back; a demo that takes longer than this for one step is stuck.
STEP_SECONDS: Final = 120.0


@attrs.frozen
class Outcome:
    """What one level showed. ``own`` are the plugin's own sums when the killing began, ``sums_then`` the sums of the replies at the same moment."""

    level: str
    calls: int
    seconds: float
    swaps: int
    under_load: int  #: swaps that began while there were files left to call for; with few files the calls may be over first
    kills: int
    restarts: int
    longest_gate: float  #: seconds
    retried: int
    failed: int
    lost: int
    doubled: int
    totals: Totals
    own: Totals
    sums_then: Totals
    errors: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds if self.seconds else 0.0

    def problems(self, wanted: Totals) -> list[str]:
        """Return a sentence for each thing that is not as it must be; ``wanted`` are the sums of the plain loop."""
        problems = [f"{self.failed} calls failed, the first: {self.errors[0]}"] if self.failed else []
        problems += [f"{self.lost} calls were lost"] if self.lost else []
        problems += [f"{self.doubled} files were answered twice"] if self.doubled else []
        problems += _difference("the replies add up to", self.totals, "the plain loop to", wanted)
        problems += _difference("the plugin's own sums are", self.own, "the replies so far add up to", self.sums_then)
        return [f"level {self.level}: {problem}" for problem in problems]


def _difference(one: str, got: Totals, other: str, wanted: Totals) -> list[str]:
    if got == wanted:
        return []
    facts = ((field.name, getattr(got, field.name), getattr(wanted, field.name)) for field in attrs.fields(Totals))
    return [f"{one} {have} {name}, {other} {want} ({have - want:+})" for name, have, want in facts if have != want]


class Act:
    """Plays one level. Used once, from one thread."""

    def __init__(
        self, level: Isolation, releases: Mapping[str, Path], sources: Sequence[Source], *, threads: int, display: Display
    ) -> None:
        self._level = level
        self._releases = releases
        self._sources = sources
        self._threads = threads
        self._display = display
        self._ledger = Ledger(len(sources))
        self._reports: list[SwapReport] = []
        self._under_load = 0
        self._kills = 0
        self._restarted = threading.Semaphore(0)

    def play(self) -> Outcome:
        """Play it and return what it showed."""
        config = {"plugins": {PLUGIN: {"restart": {"intensity": 2 * KILLS, "delay": 0.01}}}}
        with PluginManager(PROJECT, config=config) as manager:
            manager.add_hookspecs(WordCountSpecs)
            manager.on_event(self._heard)
            manager.load(PLUGIN, source=self._releases["1.0.0"], isolation=self._level)
            killing = self._level not in (Isolation.NONE, Isolation.THREAD)
            unharmed = int(len(self._sources) * UNHARMED) if killing else len(self._sources)
            with self._display.watching(self._level.value, self._ledger, self._reports):
                began = time.monotonic()
                self._under_swaps(manager, unharmed)
                own, sums_then = self._own_sums(manager), self._ledger.totals()
                if killing:
                    self._under_kills(manager, unharmed)
                seconds = time.monotonic() - began
            return self._outcome(seconds, manager.plugin(PLUGIN).restarts, own, sums_then)

    def _outcome(self, seconds: float, restarts: int, own: Totals, sums_then: Totals) -> Outcome:
        ledger = self._ledger
        return Outcome(
            level=self._level.value,
            calls=ledger.calls,
            seconds=seconds,
            swaps=len(self._reports),
            under_load=self._under_load,
            kills=self._kills,
            restarts=restarts,
            longest_gate=max((report.gate_seconds for report in self._reports), default=0.0),
            retried=ledger.retries,
            failed=len(ledger.errors),
            lost=ledger.lost(),
            doubled=ledger.doubled,
            totals=ledger.totals(),
            own=own,
            sums_then=sums_then,
            errors=tuple(f"{type(error).__name__}: {error}" for error in ledger.errors),
        )

    # --- the two parts -----------------------------------------------------------------------------------------------

    def _under_swaps(self, manager: PluginManager, files: int) -> None:
        """Count the first ``files`` files while the version goes to 2.0.0 and back."""
        self._count_while(manager, 0, files, SWAPS, lambda: self._swap_or_roll_back(manager, files))

    def _under_kills(self, manager: PluginManager, first: int) -> None:
        """Count the other files while the worker is killed, and swapped in between."""

        def kill_and_swap() -> None:
            self._kill(manager)
            self._swap_or_roll_back(manager, len(self._sources))

        self._count_while(manager, first, len(self._sources), KILLS, kill_and_swap)

    def _count_while(self, manager: PluginManager, first: int, last: int, times: int, disturb: Callable[[], None]) -> None:
        """Count the files from ``first`` to ``last`` in equal steps, with a disturbance after each but the last.

        The callers are never more than a step ahead: with few files they would else be done before the first swap is.
        """
        sources = self._sources[first:last]
        with Traffic(manager.hook.count, sources, self._ledger, threads=self._threads, first=first) as traffic:
            for number in range(1, times + 1):
                traffic.pace.allow(len(sources) * (number + 1) // (times + 1))
                if not self._ledger.reach(first + len(sources) * number // (times + 1), STEP_SECONDS):
                    return
                disturb()

    def _swap_or_roll_back(self, manager: PluginManager, files: int) -> None:
        """Swap, or roll back the last swap, while the callers are on their way to ``files``."""
        self._under_load += self._ledger.done < files
        if manager.plugin(PLUGIN).version == "1.0.0":
            report = manager.swap(PLUGIN, source=self._releases["2.0.0"], isolation=self._level)
            word = "swapped"
        else:
            report = manager.rollback(PLUGIN)
            word = "rolled back"
        self._reports.append(report)
        self._display.happened(
            self._level.value,
            f"{word} {report.from_version} → {report.to_version}, calls waited {report.gate_seconds * 1000:.0f} ms, {report.state_bytes} bytes of state carried",
        )

    def _kill(self, manager: PluginManager) -> None:
        """Kill the worker from outside and wait until the next one serves."""
        pid = manager.plugin(PLUGIN).pid
        if pid is None:
            raise RuntimeError(f"the worker of {PLUGIN} cannot be killed, it has none now")
        os.kill(pid, signal.SIGKILL)
        self._kills += 1
        began = time.monotonic()
        if not self._restarted.acquire(timeout=STEP_SECONDS):
            raise RuntimeError(f"the worker of {PLUGIN} was killed and has not come back within {STEP_SECONDS:g} s")
        self._display.happened(
            self._level.value, f"killed worker {pid} with SIGKILL, the next one served after {(time.monotonic() - began) * 1000:.0f} ms"
        )

    def _heard(self, event: Event) -> None:
        if event.name == "worker.restarted":
            self._restarted.release()

    @staticmethod
    def _own_sums(manager: PluginManager) -> Totals:
        answer: dict[str, Any] = manager.hook.totals()[0]
        return totals_of(answer, answer["files"])
