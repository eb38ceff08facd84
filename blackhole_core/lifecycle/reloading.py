"""Save a file, and the new code serves: source changes become swaps."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from blackhole_core.errors import BlackholeError
from blackhole_core.lifecycle.report import SwapReport
from blackhole_core.loader.contents import Change
from blackhole_core.loader.watch import SourceWatcher, Stale
from blackhole_core.registry.candidate import Candidate, Origin

__all__ = ["Reloader", "source_roots"]


class SourceMoved(Exception):
    """Ends a reload whose files were saved again while they were loaded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the source of plugin {name} was saved again while it was loaded; it is loaded as it is now")


class Reload(Protocol):
    """Reloads a plugin; ``confirm`` is called when the new version is loaded, and raises when it is not wanted any more."""

    def __call__(self, name: str, *, confirm: Callable[[], None]) -> SwapReport | None: ...


class Reloader:
    """Watches the sources of plugins and reloads each that changed. Owns the watcher and its one thread; reloads run on it, one by one.

    A running plugin is swapped only if the files are still what they were when the new version was loaded; when one of them has been saved meanwhile, nothing is
    switched, no failure is reported, and the reload begins anew. So files that are saved within the time of a reload are served together. A plugin that does not
    run serves as it was loaded, and is then reloaded.
    """

    def __init__(self, reload: Reload, unload: Callable[[str], object], emit: Callable[..., object]) -> None:
        self._reload = reload
        self._unload = unload
        self._emit = emit
        self._watcher = SourceWatcher(self._changed)

    def watch(self, name: str, candidate: Candidate) -> None:
        """Reload the plugin ``name`` whenever its source changes.

        :raises ValueError: its source never changes (a wheel).
        """
        if candidate.origin is Origin.WHEEL:
            raise ValueError(
                f"plugin {candidate.id} comes from the wheel {candidate.source}, which does not change; load its source directory to watch it"
            )
        self._watcher.add(name, source_roots(candidate))
        self._emit("reload.watching", name, source=str(candidate.source))

    def close(self) -> None:
        """End the watcher; a reload under way is finished."""
        self._watcher.close()

    def _changed(self, name: str, change: Change) -> None:
        begun = time.monotonic()
        if change.gone:
            self._emit("reload.source_gone", name)
            self._try(name, change, lambda: self._unload(name))
            return
        report = self._try(name, change, lambda: self._reload(name, confirm=lambda: self._confirm(name)))
        if isinstance(report, SwapReport) and not report.unchanged:
            self._emit("reload.done", name, files=list(change.files), seconds=time.monotonic() - begun, report=report.as_dict())

    def _confirm(self, name: str) -> None:
        if not self._watcher.unchanged(name):
            raise SourceMoved(name)

    def _try(self, name: str, change: Change, action: Callable[[], object]) -> object:
        try:
            return action()
        except BlackholeError as error:
            # Half of what is being saved may well fail: that is no news.
            if isinstance(_cause(error), SourceMoved) or not self._watcher.unchanged(name):
                raise Stale from error
            text = "".join(traceback.format_exception(_cause(error)))
            self._emit("reload.failed", name, files=list(change.files), error=str(error), traceback=text)
            return None


def _cause(error: BaseException) -> BaseException:
    """Return the exception a developer wants to see: the one the plugin's code raised."""
    while error.__cause__ is not None and isinstance(error, BlackholeError):
        error = error.__cause__
    return error


def source_roots(candidate: Candidate) -> tuple[Path, ...]:
    """Return the directories and files that make up the plugin: its packages, and a ``plugin.yaml`` beside them."""
    roots = []
    for package in candidate.packages:
        place = candidate.path.joinpath(*package.split("."))
        roots.append(place if place.is_dir() else place.with_suffix(".py"))
    manifest = candidate.source / "plugin.yaml"
    return (*roots, manifest) if candidate.source.is_dir() and manifest.is_file() else tuple(roots)
