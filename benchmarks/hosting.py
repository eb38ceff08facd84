"""What runs plugins without a plugin manager: for benchmarks of workers themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.levels import Levels
from blackhole_core.executor.runner import Host, Limits, RunnerSpec
from blackhole_core.executor.timers import Timers
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import PluginId
from blackhole_core.lifecycle.specs import SpecBook

__all__ = ["hosting", "one_file"]


@contextlib.contextmanager
def hosting(hookspecs: object = None, **options: Any) -> Iterator[tuple[Levels, Host]]:
    """Yield the levels of a host that has these hook specs; ``options`` are those of :class:`~blackhole_core.executor.levels.Levels`."""
    hooks, timers = HookManager("bench"), Timers()
    if hookspecs is not None:
        hooks.add_hookspecs(hookspecs)
    book = SpecBook(hooks)
    host = Host(
        hook=hooks.hook,
        signature=book.signature,
        hook_names=book.names,
        is_firstresult=book.is_firstresult,
        exception_type=book.exception_type,
        timers=timers,
        emit=lambda *_, **__: None,
    )
    levels = Levels(host, **options)
    try:
        yield levels, host
    finally:
        levels.close()
        timers.close()


def one_file(folder: Path, entry: str, source: str, confinement: Confinement) -> RunnerSpec:
    """Write a plugin of one module, and return what it is run by; ``entry`` is ``bench_NAME:Class``."""
    module = entry.partition(":")[0]
    (folder / f"{module}.py").write_text(source)
    name = PluginId(module.removeprefix("bench_"), "1.0.0")
    return RunnerSpec(name, 1, entry, folder, (module,), "bench", Limits(), {}, confinement=confinement)
