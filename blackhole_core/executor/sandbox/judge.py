"""What a worker's walls are worth: whether it may run, and what the operator is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.enforcement import Layer
from blackhole_core.executor.wire.policy import Policy, Wall, WallReport
from blackhole_core.ids import Isolation

__all__ = ["explain", "layers_of", "refuse_open"]

#: The walls that stand behind permissions, as the table of :mod:`~blackhole_core.executor.enforcement` calls them.
_LAYERS: Final[Mapping[Wall, Layer]] = {Wall.FILES: Layer.FILES, Wall.NETWORK: Layer.NETWORK, Wall.PROGRAMS: Layer.PROGRAMS}

#: What could be done about it, by level: what builds the walls differs.
_NATIVE: Final = "Allow user namespaces here, or use a kernel with Landlock and seccomp"
_ADVICE: Final[Mapping[Isolation, str]] = {
    Isolation.CONTAINER: "Use a kernel with Landlock and seccomp, another engine (`container: {runtime: …}`; `blackhole doctor` names those that work), or level vm"
}
_WHERE: Final[Mapping[Isolation, str]] = {Isolation.CONTAINER: " inside its container"}


def refuse_open(policy: Policy, report: WallReport, level: Isolation) -> None:
    """Raise when a wall that is required does not hold around a worker of ``level``.

    :raises IsolationUnavailable: with what could be done, and what was missing.
    """
    if any(wall in report.open for wall in policy.required):
        raise IsolationUnavailable(level.value, explain(report, level))


def explain(report: WallReport, level: Isolation) -> str:
    """Return a sentence about walls that do not hold around a worker of ``level``."""
    what = "; ".join(f"{wall}: {found}" for wall, found in report.open.items())
    missing = ", ".join(f"{layer} ({reason})" for layer, reason in report.layers.items() if reason)
    return (
        f"a worker tried its own walls{_WHERE.get(level, '')}, and they do not hold ({what}). Missing here: {missing or 'nothing that is known'}. "
        f"{_ADVICE.get(level, _NATIVE)}; or set `unenforced: allow` for this plugin to run it all the same"
    )


def layers_of(report: WallReport) -> list[Layer]:
    """Return what holds around a worker that reported so: walls that it tried. None where there are no walls."""
    return [layer for wall, layer in _LAYERS.items() if report.layers and wall not in report.open]
