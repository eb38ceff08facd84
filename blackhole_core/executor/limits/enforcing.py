"""How each limit is enforced, and whether a plugin may start without. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from blackhole_core.errors import LoadFailed
from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
from blackhole_core.executor.limits.amounts import LEAST_CPU
from blackhole_core.executor.limits.tree import Abilities
from blackhole_core.ids import Isolation
from blackhole_core.manifest.model import Resources

__all__ = ["held_from_outside", "limit_enforcement", "refuse_unenforced"]

#: Levels whose plugins have processes of their own.
_WITH_PROCESS: Final = (Isolation.PROCESS, Isolation.CONTAINER, Isolation.VM)


def limit_enforcement(level: Isolation, confinement: Confinement, abilities: Callable[[], Abilities]) -> dict[str, str]:
    """Return how each limit that was named is enforced: ``kernel``, ``broker`` (the host watches, and ends the worker), ``none``.

    ``abilities`` is asked only when it matters: finding out takes some milliseconds.
    """
    return {f"resources.{name}": how for name, (how, _) in _judged(level, confinement, abilities).items()}


def refuse_unenforced(plugin: str, level: Isolation, confinement: Confinement, abilities: Callable[[], Abilities]) -> None:
    """Let a plugin pass whose limits can all be enforced, or whose configuration allows that they are not.

    :raises LoadFailed: says for each limit that cannot be enforced why.
    """
    if confinement.unenforced is Unenforced.ALLOW:
        return
    reasons = [
        f"its limit {name} cannot be enforced here: {why}"
        for name, (how, why) in _judged(level, confinement, abilities).items()
        if how == "none"
    ]
    if reasons:
        raise LoadFailed(plugin, f"{'; '.join(reasons)}. With unenforced: allow it starts all the same")


def held_from_outside(level: Isolation, confinement: Confinement) -> Confinement:
    """Return what is held by looking at the worker's process and at its directory. A virtual machine holds by its size all but the processor's share:

    its memory, its disk, that it has no network; and what runs in it are no processes of this machine.
    """
    if level is not Isolation.VM:
        return confinement
    return attrs.evolve(confinement, resources=Resources(cpu=confinement.resources.cpu))


def _judged(level: Isolation, confinement: Confinement, abilities: Callable[[], Abilities]) -> Mapping[str, tuple[str, str]]:
    named: dict[str, float] = {name: value for name, value in attrs.asdict(confinement.resources).items() if value is not None}
    if level not in _WITH_PROCESS:
        why = f"at level {level} the plugin is part of the host's own process; run it at level process"
        return dict.fromkeys(named, ("none", why))
    if level is Isolation.VM:
        return {name: _cpu(confinement, abilities(), True) if name == "cpu" else ("kernel", "") for name in named}
    walled = level is not Isolation.PROCESS or confinement.sandbox is not Sandbox.OFF
    return {name: _JUDGES[name](confinement, abilities(), walled) for name in named}


def _cpu(confinement: Confinement, abilities: Abilities, _: bool) -> tuple[str, str]:
    percent = confinement.resources.cpu
    if percent is not None and percent < LEAST_CPU:
        return "none", f"{percent:g} % of one core is less than {LEAST_CPU:g} %, the least that can be held"
    return ("kernel" if abilities.holds("cpu") else "broker"), ""


def _memory(_: Confinement, abilities: Abilities, __: bool) -> tuple[str, str]:
    return ("kernel" if abilities.holds("memory") else "broker"), ""


def _pids(_: Confinement, abilities: Abilities, __: bool) -> tuple[str, str]:
    if abilities.holds("pids"):
        return "kernel", ""
    return "none", f"only a control group can hold it, and there is none: {abilities.reason('pids')}"


def _disk(confinement: Confinement, _: Abilities, walled: bool) -> tuple[str, str]:
    if confinement.data is None:
        return "none", "the plugin has no directory of its own that could be watched; give the host a state_dir, in which it gets one"
    if not walled:
        return "none", "without a sandbox it may write anywhere, and only its own directory is watched"
    return "broker", ""


def _network(confinement: Confinement, _: Abilities, walled: bool) -> tuple[str, str]:
    if not walled:
        return "none", "without a sandbox it may open connections past the host"
    if any(permission.partition(":")[0] == "network" for permission in confinement.effective):
        return "broker", ""  # all its connections go through the relay of the host
    return "kernel", ""  # it has no network at all


_JUDGES: Final = {"cpu": _cpu, "memory": _memory, "pids": _pids, "disk": _disk, "network": _network}
