"""One generation's modules, and the rule by which its imports and the change of its names keep out of each other's way.

Invariant: **while an import of this generation is under way, its names do not change.** An import of a module that is
loaded needs no lock: it is answered from ``modules``, whose keys are canonical for ever. An import that must load
something is counted (:meth:`Generation.importing`); whoever wants to change the names waits until the count is 0 and holds
the lock meanwhile (:meth:`Generation.quiet`). Importers go first: one that waits for another (a module body that joins a
thread that imports) can therefore not deadlock with the switch. The switch has the deadline.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Final

from blackhole_core.loader.find import find_elsewhere
from blackhole_core.loader.names import Names
from blackhole_core.loader.snapshot import Snapshot

__all__ = ["SWITCH_SECONDS", "Generation", "initializing"]

#: Seconds a switch waits for imports of the generation it renames. An import runs plugin code and may take as long as it
#: likes; a switch that waits longer than a slow import of a big package fails and leaves everything as it is.
SWITCH_SECONDS: Final = 10.0

#: Seconds between looks at an import that the host itself runs (an ``import acme`` in the host's code is not counted).
_HOST_IMPORT_POLL: Final = 0.002


class Generation:
    """Modules by canonical name; ``active`` while those names are their keys in ``sys.modules``."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.registry: dict[str, Any] = {}
        self.active = False
        #: What the modules get as ``__builtins__``; None leaves Python's own.
        self.builtins: dict[str, Any] | None = None
        #: Where the modules' text comes from; None leaves it to Python's loaders.
        self.snapshot: Snapshot | None = None
        #: The directory put first for the owned names; None for the host's own modules.
        self.path: Path | None = None
        #: Namespace packages above the owned ones that exist only because this generation needed them.
        self.made: set[str] = set()
        #: Generations of other plugins that this one's imports stay with while they live. Replaced, never changed.
        self.kept: tuple[Generation, ...] = ()
        #: Dotted names owned by other plugins that this generation's code has imported.
        self.imports: set[str] = set()
        self._idle = threading.Condition(threading.RLock())  # re-entrant: a finaliser may import while this thread holds it
        self._imports = 0  # under way, guarded by _idle
        self._begun = 0  # ever, so that a plan made before another import is seen to be old

    def key(self, name: str) -> str:
        """Return the key in ``sys.modules`` that the canonical ``name`` has now."""
        return name if self.active else self.names.private(name)

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find the canonical ``name``: in ``path`` (its parent's ``__path__``), or anywhere when that is None."""
        return find_elsewhere(name, path)

    def keep(self, others: Collection[Generation], living: Collection[Generation]) -> None:
        """Stay with ``others`` wherever no one of ``living`` is kept already."""
        if not others and not self.kept:
            return
        kept = tuple(known for known in self.kept if known in living)
        new = tuple(other for other in others if not any(known.names.overlaps(other.names) for known in kept))
        if new or len(kept) != len(self.kept):
            self.kept = (*kept, *new)

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """Keep the names as they are while the block loads a module."""
        with self._idle:
            self._imports += 1
            self._begun += 1
        try:
            yield
        finally:
            with self._idle:
                self._imports -= 1
                if not self._imports:
                    self._idle.notify_all()

    @contextlib.contextmanager
    def quiet(self, deadline: float) -> Iterator[None]:
        """Hold off imports of this generation for the block; raise TimeoutError when one runs past ``deadline``."""
        with self._idle:
            while self._imports or self._loaded_by_host():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(self._describe_delay())
                self._idle.wait(remaining if self._imports else min(remaining, _HOST_IMPORT_POLL))
            yield

    def unchanged(self, plan: Callable[[], list[Any]]) -> list[Any]:
        """Return ``plan()``, made again as often as a finaliser of this thread imported something meanwhile."""
        while True:
            begun = self._begun
            steps = plan()
            if begun == self._begun:
                return steps

    def _loaded_by_host(self) -> list[str]:
        return [name for name, module in self.registry.copy().items() if initializing(module)]

    def _describe_delay(self) -> str:
        what = ", ".join(self._loaded_by_host()) or "one of its modules"
        owned = ", ".join(self.names.prefixes)
        return (
            f"the names of {owned} cannot change hands: generation {self.names.tag!r} is still importing {what}; "
            "it keeps its names, try again when that import has ended"
        )


def initializing(module: object) -> bool:
    """Say whether a module's body is still running."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
