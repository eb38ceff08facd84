"""What is left after many reloads: ``python -m benchmarks.reload_soak [--reloads N] [--files N] [--json FILE] [--check]``.

One plugin of 16 files (:mod:`benchmarks.reload_peers.tree`) is edited, one file at a time, reloaded and called, 1,500 times. After the first 100
and after the last, all garbage collected, are counted: the modules in ``sys.modules``, the modules, classes and functions the collector knows,
and the pages of the process that are in memory. The CPU time of the search for what an old version left behind stands beside them.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

import blackhole_core as bh
from benchmarks.reload_peers.tree import PACKAGE, PROJECT, Tree, plant
from benchmarks.results import Document, Result, publish
from blackhole_core.loader.leaks import Canary
from blackhole_core.loader.universe import Universe

__all__ = ["Counted", "main", "soak"]

#: Reloads after which memory is level: what is kept of a plugin (compiled texts, its manifest) is there after the first.
_WARM: Final = 100

#: Generations whose end is timed.
_CHECKS: Final = 41


class _Specs:
    @bh.HookspecMarker(PROJECT)
    def stamps(self) -> list[int]: ...


@attrs.frozen
class Counted:
    """What there was at one moment."""

    named: int  #: modules in ``sys.modules``
    modules: int  #: modules, classes and functions that the collector knows
    classes: int
    functions: int
    resident: int  #: bytes of the process in memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command line. The exit status is 0 unless ``--check`` finds that something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=1500)
    parser.add_argument("--files", type=int, default=16, help="Python files of the plugin")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there ('-' prints them instead of the table)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if anything grew")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        early, late = soak(plant(Path(folder) / "soak", options.files), options.reloads)
        check = leak_check(plant(Path(folder) / "leaks", options.files, "checked"))
    growth = [
        Result(f"{name} more than after {_WARM}", float(getattr(late, field) - getattr(early, field)), "", at_most=0)
        for field, name in (("named", "sys.modules"), ("modules", "modules"), ("classes", "classes"), ("functions", "functions"))
    ]
    memory = Result(f"memory, times that after {_WARM}", late.resident / early.resident, "", at_most=1.05, note=f"{late.resident >> 20} MB")
    cost = Result("CPU time of a leak check", check * 1e3, "ms")
    found = Document(f"{options.reloads} reloads of a plugin of {options.files} files", (*growth, memory, cost))
    return publish(found, to=options.json, check=options.check)


def soak(tree: Tree, reloads: int) -> tuple[Counted, Counted]:
    """Edit, reload and call so often; return what there was after the first :data:`_WARM` reloads and after the last.

    :raises RuntimeError: a reload left something behind, or the call was not answered by the new code.
    """
    with bh.PluginManager(PROJECT) as pm:
        pm.add_hookspecs(_Specs)
        pm.load(PACKAGE, source=tree.root, isolation="none")
        early = count()
        for number in range(1, reloads + 1):
            index = number % len(tree.modules)
            tree.edit(index, number)
            report = pm.reload(PACKAGE)
            if report is None or report.leaks or pm.hook.stamps()[0][index] != number:
                raise RuntimeError(f"reload {number} went wrong: {report}")
            if number == min(_WARM, reloads):
                early = count()
        return early, count()


def count() -> Counted:
    """Collect all garbage, then count."""
    gc.collect()
    things = gc.get_objects()
    kinds = (sum(issubclass(type(thing), kind) for thing in things) for kind in (types.ModuleType, type, types.FunctionType))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Counted(len(sys.modules), *kinds, resident=pages * os.sysconf("SC_PAGE_SIZE"))


def leak_check(tree: Tree) -> float:
    """Return the median seconds of CPU of the search for what a generation left behind that left nothing."""
    taken = []
    serving = Universe(["checked"], tree.root, "checked-0")
    serving.load("checked.plugin")
    for number in range(1, _CHECKS + 1):
        tree.edit(number % len(tree.modules), number)
        successor = Universe(["checked"], tree.root, f"checked-{number}")
        successor.load("checked.plugin")
        canary = Canary(serving, "checked")
        serving.release()
        serving = successor
        begun = time.thread_time()
        left = canary.leaks(at_any_cost=True)
        taken.append(time.thread_time() - begun)
        if left:
            raise RuntimeError(f"generation {number} left something behind: {left}")
    serving.release()
    return statistics.median(taken)


if __name__ == "__main__":
    raise SystemExit(main())
