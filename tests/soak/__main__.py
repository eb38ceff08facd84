"""Crash and swap a plugin behind walls, for minutes, under load: ``python -m tests.soak [--seconds N]``.

Four callers call without pause. Every 100 ms a call kills the worker, and those that run in it, every second the plugin is swapped for its other version. At the end every call must have
exactly one outcome, none may have been run twice, and the host must have as many threads, descriptors, processes, temporary files, control groups and modules
as after its first seconds, and hardly more memory, which must have levelled off. The exit status says whether that holds.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs

import blackhole_core as bh
from tests.soak.census import Counted, grown, rising, settled
from tests.soak.ledger import Ledger

CALLERS: Final = 4
#: Seconds between two crashes, and between two swaps.
CRASH, SWAP = 0.1, 1.0
#: Seconds of load after which there is everything that there will ever be, at most, and as a part of all.
WARM, WARM_PART = 20.0, 0.25
#: Seconds between two looks at the memory, at most.
LOOK: Final = 60.0
#: Seconds that a call may wait: for the workers of several crashes in a row.
PATIENT: Final = 30.0

_SOURCE: Final = """
import os, signal
import blackhole_core as bh
hookimpl = bh.HookimplMarker("soak")
class Soaked:
    def __init__(self):
        self.count = 0
    @bh.hookimpl
    def plugin_start(self, context):
        self.context = context
    @bh.hookimpl
    def plugin_export_state(self):
        return {"count": self.count}
    @bh.hookimpl
    def plugin_import_state(self, state, version):
        self.count = state["count"]
    @hookimpl
    def work(self, call: int, deadly: bool) -> int:
        self.context.hook.ran(call=call)
        self.count += 1
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return call
    @hookimpl
    def version(self) -> str:
        return "VERSION"
"""
_MANIFEST: Final = "name: soaked\nversion: VERSION\nentry: soaked:Soaked\nisolation: process\nthreads: 4\nstate: {version: 1}\n"
VERSIONS: Final = ("1.0.0", "2.0.0")
_CONFIG: Final = {
    "sandbox": "native",
    "poison_deaths": 0,
    "probation": 0,
    "restart": {"intensity": 1000, "period": 1, "delay": 0, "max_delay": 0},
}

hookspec = bh.HookspecMarker("soak")
hookimpl = bh.HookimplMarker("soak")


class _Specs:
    @hookspec(firstresult=True)
    def work(self, call: int, deadly: bool) -> int:
        """Say that it is run, end the worker if it is ``deadly``, return ``call``."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def ran(self, call: int) -> bool:
        """Note that a worker runs it."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def version(self) -> str:
        """Return which version answers."""
        raise NotImplementedError


class _Soak:
    """The load. ``_running`` is set while there is to be any; who finds it cleared waits, and says so in ``_resting``."""

    def __init__(self, pm: bh.PluginManager, sources: Sequence[Path]) -> None:
        self.ledger = Ledger()
        self.swaps: collections.Counter[str] = collections.Counter()
        self.troubles: list[str] = []
        self.longest = 0.0  # seconds
        self._pm, self._sources = pm, sources
        self._running, self._ending = threading.Event(), False
        self._resting = threading.Semaphore(0)
        jobs: list[tuple[Callable[[], object], float]] = [(self._swap, SWAP), (lambda: self._call(deadly=True), CRASH)]
        jobs += [(self._call, 0.0)] * CALLERS
        self._threads = [threading.Thread(target=self._repeat, args=job, name=f"soak-{number}") for number, job in enumerate(jobs)]
        for thread in self._threads:
            thread.start()
        self._rest()

    @hookimpl
    def ran(self, call: int) -> bool:
        self.ledger.ran(call)
        return True

    def load(self, seconds: float) -> None:
        """Let everything happen for so long, then wait until nothing does."""
        self._running.set()
        time.sleep(seconds)
        self._running.clear()
        self._rest()

    def looks(self, seconds: float, before: Counted) -> list[Counted]:
        """Let everything happen for so long in all, in equal parts, and return what there is before and after each."""
        parts = max(2, math.ceil(seconds / LOOK))
        found = [before]
        for _ in range(parts):
            self.load(seconds / parts)
            settled()  # the last words of workers have been read
            self.ledger.balance()
            found.append(settled(before))
        return found

    def _rest(self) -> None:
        for _ in self._threads:
            self._resting.acquire()

    def end(self) -> None:
        self._ending = True
        self._running.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, action: Callable[[], object], pause: float) -> None:
        while True:
            if not self._running.is_set():
                if self._ending:
                    return
                self._resting.release()
                self._running.wait()
            if self._ending:
                return
            try:
                action()
            except Exception as error:
                self.troubles.append(f"{type(error).__name__}: {error}")
            time.sleep(pause)

    def _call(self, *, deadly: bool = False) -> None:
        call, begun = self.ledger.begin(), time.monotonic()
        try:
            with bh.deadline(PATIENT):
                answer = self._pm.hook.work(call=call, deadly=deadly)
        except BaseException as error:
            self.ledger.failed(call, error)
        else:
            self.ledger.answered(call, answer)
        self.longest = max(self.longest, time.monotonic() - begun)

    def _swap(self) -> None:
        serving = self._pm.plugin("soaked").version
        target = next(source for source in self._sources if source.name != serving)
        try:
            report = self._pm.swap("soaked", source=target)
        except bh.SwapFailed as error:
            self.swaps[f"failed in {error.phase}"] += 1
        else:
            self.swaps["done" if report.ok else "not done"] += 1


def _write(version: str, folder: Path) -> Path:
    source = folder / version
    source.mkdir()
    (source / "soaked.py").write_text(_SOURCE.replace("VERSION", version))
    (source / "plugin.yaml").write_text(_MANIFEST.replace("VERSION", version))
    return source


def _report(soak: _Soak, found: Sequence[Counted], warm: float, seconds: float) -> list[str]:
    """Print what happened; return what is wrong."""
    ledger, before, after = soak.ledger, found[0], found[-1]
    print(f"{seconds:.0f} s of load: {ledger.begun} calls by {CALLERS} callers; the longest took {soak.longest:.2f} s")
    for outcome, count in sorted(ledger.outcomes.items()):
        print(f"  {outcome}: {count}")
    print(f"swaps: {', '.join(f'{count} {outcome}' for outcome, count in sorted(soak.swaps.items()))}")
    for name in attrs.asdict(before):
        if name != "memory":
            print(f"  {name}: {getattr(before, name)}, then {getattr(after, name)}")
    memory, pause = [counted.memory for counted in found], (seconds - warm) / (len(found) - 1)
    print(f"  memory, every {pause:.0f} s from second {warm:.0f}: {', '.join(f'{size / 2**20:.1f}' for size in memory)} MB")
    wrong = [*ledger.wrong, *soak.troubles, *(f"has grown: {what}" for what in grown(before, after)), *rising(memory, seconds - warm)]
    deaths = sum(count for outcome, count in ledger.outcomes.items() if outcome.startswith("WorkerDied"))
    return wrong + unproven(deaths, soak.swaps["done"], seconds)


def unproven(deaths: int, swaps: int, seconds: float) -> list[str]:
    """Return why a run has shown nothing: it met less than one crash a second, or less than a quarter of the swaps that there should have been."""
    found = [f"only {deaths} calls met a crash"] if deaths < seconds else []
    return found + ([f"only {swaps} swaps succeeded"] if swaps < seconds / SWAP / 4 else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command line; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="seconds of load (600)")
    seconds = parser.parse_args(arguments).seconds
    warm = min(WARM, seconds * WARM_PART)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder  # what appears there is ours
        sources = [_write(version, Path(folder)) for version in VERSIONS]
        with bh.PluginManager("soak", config=_CONFIG) as pm:
            pm.on_event(lambda event: None)  # deaths are wanted here, and no news for the log
            pm.add_hookspecs(_Specs)
            soak = _Soak(pm, sources)
            try:
                pm.register(soak, name="soak")
                pm.load("soaked", source=sources[0])
                soak.load(warm)
                found = soak.looks(seconds - warm, settled())
                if pm.hook.version() != pm.plugin("soaked").version:
                    soak.troubles.append("what answers is not the version that serves")
            finally:
                soak.end()
        tempfile.tempdir = None
        wrong = _report(soak, found, warm, seconds)
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print(f"{len(wrong)} things are wrong" if wrong else "every call has one outcome, none was run twice, nothing has grown")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
