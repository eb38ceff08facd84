"""The chain of migrations from one state version to another. Pure: no I/O, clock, thread.

Rules: a step changes the version by one, up or down. The side that knows the higher version runs every step: the new plugin going up, the
running one going down. ``declared`` is that side's ``state.migrates``: the versions other than its own it can read and write. When the manifest
does not say (``None``), the chain is assumed to exist and is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import attrs

from blackhole_core.errors import NoMigrationPath, StateError
from blackhole_core.state.plain import plain

__all__ = ["MAX_STEPS", "Step", "migrate", "plan"]

#: Steps of one chain. Each runs plugin code while calls wait; a thousand releases of a schema is a typing error in a manifest.
MAX_STEPS: Final = 1000


@attrs.frozen
class Step:
    """One migration, from a state version to the one next to it."""

    from_version: int
    to_version: int

    def __str__(self) -> str:
        return f"{self.from_version} → {self.to_version}"


def plan(have: int, want: int, *, declared: Collection[int] | None, plugin: str = "?") -> tuple[Step, ...]:
    """Return the steps that lead from state version ``have`` to ``want``; ``()`` when they are the same.

    Raise :class:`NoMigrationPath`, naming the missing step, when ``declared`` leaves out a version on the way.
    """
    if have == want:
        return ()
    if abs(want - have) > MAX_STEPS:
        raise NoMigrationPath(plugin, have, want, f"a chain has at most {MAX_STEPS} steps")
    direction = 1 if want > have else -1
    steps = tuple(Step(version, version + direction) for version in range(have, want, direction))
    known = None if declared is None else {*declared, max(have, want)}
    for step in steps:
        missing = [] if known is None else [version for version in (step.from_version, step.to_version) if version not in known]
        if missing:
            listed = ", ".join(str(version) for version in sorted(declared or ())) or "none"
            raise NoMigrationPath(
                plugin,
                have,
                want,
                f"the step {step} is missing: version {missing[0]} is not in state.migrates of the plugin with state version "
                f"{max(have, want)}, which lists {listed}",
            )
    return steps


def migrate(state: Any, steps: Sequence[Step], apply: Callable[[Any, Step], Any], *, plugin: str) -> Any:
    """Return ``state`` after all ``steps``. ``apply(state, step)`` runs the plugin's ``plugin_migrate_state``.

    ``state`` is not changed here. A migration may change what it is given; give it a copy if you still need the original. Raise :class:`StateError`
    naming the step when one raises, returns what is not plain data, or returns None for a state that was something.
    """
    for step in steps:
        before = state
        try:
            state = apply(before, step)
        except Exception as error:
            raise StateError(f"migration {step} of the state of plugin {plugin} failed: {type(error).__name__}: {error}") from error
        if state is None and before is not None:
            raise StateError(
                f"migration {step} of the state of plugin {plugin} returned None: return the new state (is a `return` missing?)"
            )
        plain(state, what=f"result of migration {step} of the state of plugin {plugin}, state")
    return state
