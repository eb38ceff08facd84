"""What swaps leave behind: nothing."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.managed import manager, wheel
from tests.stage import eventually


def test_the_old_generation_can_be_collected(tmp_path: Path) -> None:
    """S-18: at level none nothing of ours keeps the old version's object, class or modules."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        plugin = pm.get_plugin("counter")
        seen = [weakref.ref(plugin), weakref.ref(type(plugin)), weakref.ref(sys.modules[type(plugin).__module__])]
        pm.hook.add(amount=1)
        del plugin
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))

        def freed() -> bool:
            gc.collect()
            return all(reference() is None for reference in seen)

        # A look for leaks that a busy machine put off has, for its moment, all objects there are in its hands.
        assert eventually(freed)


@pytest.mark.parametrize(("level", "swaps"), [("none", 200), ("thread", 200), ("process", 30)])
def test_many_swaps_grow_nothing(level: str, swaps: int, tmp_path: Path) -> None:
    """S-15: threads, descriptors, children, modules, files, and at most 5 % of memory."""
    wheels = [wheel("counter", version, tmp_path) for version in ("2.0.0", "1.0.0")]
    with manager() as pm:
        pm.load("counter", source=wheels[1], isolation=level)

        def swap(times: int) -> None:
            for number in range(times):
                pm.swap("counter", source=wheels[number % 2])
                pm.hook.add(amount=1)

        swap(swaps // 4 * 2)
        gc.collect()
        before, memory = _counts(pm), _resident()
        swap(swaps // 2)
        gc.collect()
        assert _resident() <= 1.05 * memory
        # A look for leaks that waits for a quiet moment, 36 s at most, has a thread.
        assert eventually(lambda: not _more(before, _counts(pm)), 45), _more(before, _counts(pm))


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return what there is more of. A thread that has done its work, as that which undoes leases has, may take a moment to end: then, or now."""
    return {name: count for name, count in after.items() if count > before[name]}


def _resident() -> int:
    """Return how much memory this process has, in kB."""
    return int(Path("/proc/self/status").read_text("ascii").split("VmRSS:")[1].split()[0])


def _counts(pm: bh.PluginManager) -> dict[str, int]:
    children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text("ascii").split()
    store = pm.registry.store.root
    return {
        # That of the timers is there from when it is first needed: by a look for leaks that a busy machine puts off, for one.
        "threads": threading.active_count() + all(thread.name != "blackhole-timers" for thread in threading.enumerate()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": len(children),
        "modules": len(sys.modules),
        "files": len(list(store.rglob("*"))),
        "path": len(sys.path),
        "finders": len(sys.meta_path),
    }
