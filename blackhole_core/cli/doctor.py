"""What of Blackhole works on this machine, as a value: levels, state directory, entry point groups, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

import blackhole_core
from blackhole_core.executor.lane import UNAVAILABLE
from blackhole_core.executor.levels import levels_here

__all__ = ["Finding", "Report", "examine"]

#: The distributions whose versions matter when something is reported.
_LIBRARIES: Final = ("pluggy", "msgspec", "attrs", "watchfiles", "click", "rich")


@attrs.frozen
class Finding:
    """One thing that was looked at; ``problem`` says what is wrong and what to do, empty when nothing is."""

    what: str
    facts: str
    problem: str = ""


@attrs.frozen
class Report:
    """All of it. ``levels`` maps a level to why it cannot run here, empty when it can."""

    versions: dict[str, str]
    levels: dict[str, str]
    transport: str
    start: str
    containers: str
    machines: str
    findings: tuple[Finding, ...]
    groups: dict[str, int]

    def missing(self, required: Sequence[str]) -> list[str]:
        """Return a sentence for each required level that cannot run here."""
        return [f"level {level} cannot run here: {self.levels[level]}" for level in required if self.levels[level]]

    def problems(self, required: Sequence[str]) -> list[str]:
        """Return everything that is wrong."""
        return [*self.missing(required), *(f"{finding.what}: {finding.problem}" for finding in self.findings if finding.problem)]

    def as_dict(self, required: Sequence[str]) -> dict[str, object]:
        return {
            "ok": not self.problems(required),
            "problems": self.problems(required),
            "versions": self.versions,
            "levels": {level: {"available": not reason, "reason": reason or None} for level, reason in self.levels.items()},
            "transport": self.transport,
            "start": self.start,
            "containers": self.containers,
            "machines": self.machines,
            "checks": [{"what": finding.what, "facts": finding.facts, "problem": finding.problem or None} for finding in self.findings],
            "groups": self.groups,
        }


def examine(state_dir: Path | None, socket_directory: Path) -> Report:
    """Look at everything; nothing is left behind."""
    groups, damaged = _groups()
    containers = _containers()
    levels = {level.isolation.value: level.reason for level in levels_here()}
    return Report(
        versions=_versions(),
        levels=levels,
        transport="none" if levels["process"] else _transport(),
        start="none" if levels["process"] else _start(),
        containers=containers,
        machines=_machines(),
        findings=(
            _sockets(socket_directory),
            *([_state(state_dir)] if state_dir is not None else []),
            *([] if levels["process"] else [_sandbox(), _bubblewrap()]),
            *([] if levels["container"] else [_images()]),
            _control_groups(),
            _index(),
            *damaged,
        ),
        groups=groups,
    )


def _transport() -> str:
    return "shared memory and two pipes" if UNAVAILABLE is None else f"two pipes (no shared memory: {UNAVAILABLE})"


def _start() -> str:
    from blackhole_core.executor.cloning import CannotClone, Cloner

    try:
        Cloner()
    except CannotClone as error:
        return f"executing the interpreter (no zygote: {error})"
    return "forking a zygote"


def _containers() -> str:
    """Try every engine that is installed, whatever an earlier trial showed: who asks has perhaps just changed something."""
    if sys.platform != "linux":
        return "none"
    from blackhole_core.executor.launch.oci.choosing import verdicts

    found = verdicts(again=True)
    return "; ".join(f"{engine.version() if engine else name} {reason or 'works'}" for name, (engine, reason) in found.items())


def _machines() -> str:
    if sys.platform != "linux":
        return "none"
    from blackhole_core.executor.launch.vmcheck import vm_facts

    return vm_facts()


def _versions() -> dict[str, str]:
    return {
        "blackhole-core": blackhole_core.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {_threading()})",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name: _version(name) for name in _LIBRARIES},
    }


def _threading() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "with GIL" if gil else "free-threaded: swaps take the counted path"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _state(directory: Path) -> Finding:
    """Look whether snapshots and unpacked wheels can be kept in ``directory``, which need not exist yet."""
    what = "state directory"
    if directory.exists() and not directory.is_dir():
        return Finding(what, str(directory), f"{directory} is no directory; name another one as state_dir")
    near = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not os.access(near, os.W_OK | os.X_OK):
        return Finding(
            what, str(directory), f"{near} cannot be written to by user {os.geteuid()}; change its owner, or name another state_dir"
        )
    free = os.statvfs(near)
    return Finding(what, f"{directory}, {free.f_bavail * free.f_frsize // 2**20} MB free")


def _sockets(directory: Path) -> Finding:
    """Look whether a control socket can be put into ``directory``."""
    from blackhole_core.cli.control.place import UnsafePlace, check_directory

    what = "control sockets"
    if os.path.lexists(directory):
        try:
            check_directory(directory, os.geteuid())
        except UnsafePlace as error:
            return Finding(what, str(directory), str(error))
    elif not os.access(directory.parent, os.W_OK | os.X_OK):
        return Finding(what, str(directory), f"{directory.parent} is missing or cannot be written to; set XDG_RUNTIME_DIR, or use --socket")
    return Finding(what, str(directory))


def _sandbox() -> Finding:
    """Have a process build every wall there is around itself, and try them."""
    from blackhole_core.executor.levels import import_path
    from blackhole_core.executor.sandbox.probe import what_holds

    what = "sandbox"
    try:
        found = what_holds(import_path())
    except OSError as error:
        return Finding(what, "not tried", f"a process could not be started: {error}")
    held = ", ".join(layer for layer, reason in found.layers.items() if not reason)
    missing = "; ".join(f"no {layer}: {reason}" for layer, reason in found.layers.items() if reason)
    facts = "; ".join(filter(None, (f"native: {held or 'nothing'}", missing)))
    if not found.open:
        return Finding(what, facts)
    what_opens = "; ".join(f"{wall}: {how}" for wall, how in found.open.items())
    return Finding(
        what, facts, f"walls of level process do not hold ({what_opens}); allow user namespaces, or a kernel with Landlock and seccomp"
    )


def _bubblewrap() -> Finding:
    """Try the program ``bwrap``. Nobody needs it where workers can build their walls themselves, so nothing is a problem."""
    from blackhole_core.executor.launch.bwrap.program import version_of
    from blackhole_core.executor.levels import import_path
    from blackhole_core.executor.sandbox.bubblewrap import bubblewrap_here

    what = "bubblewrap"
    try:
        found = bubblewrap_here(import_path())
    except OSError as error:
        return Finding(what, f"not tried: a process could not be started: {error}")
    if found.problem:
        return Finding(what, f"not usable: {found.problem}")
    return Finding(what, f"{version_of(found.program)} at {found.program}: works")


def _images() -> Finding:
    """Ask the programs that keep images whether they work. A plugin without one needs none of them, and an image by its path neither, so nothing is a problem."""
    from blackhole_core.executor.launch.oci.image.store import images_directory
    from blackhole_core.executor.launch.oci.image.suppliers import SUPPLIERS, suppliers_here
    from blackhole_core.executor.launch.packages import install_command

    here = {supplier.name: supplier for supplier in suppliers_here(os.environ.get("PATH"))}
    facts = []
    for name in SUPPLIERS:
        if name not in here:
            facts.append(f"{name} is not installed ({install_command(name)})")
        elif problem := here[name].problem():
            facts.append(f"{name} does not work here: {problem}")
        else:
            facts.append(f"{name} at {here[name].program} works")
    return Finding("images", f"{'; '.join(facts)}; laid out in {images_directory(os.environ, os.geteuid())}")


def _control_groups() -> Finding:
    """Try what limits the kernel can hold for a worker; a limit that it cannot is refused or watched when a plugin has one, so nothing is a problem."""
    from blackhole_core.executor.limits.detect import abilities_here
    from blackhole_core.executor.limits.tree import CONTROLLERS

    abilities = abilities_here()
    held = [f"{name} (version {tree.version})" for name in CONTROLLERS for tree in abilities.trees if name in tree.controllers]
    missing = [f"{name} not held: {abilities.reason(name)}" for name in CONTROLLERS if not abilities.holds(name)]
    ends = ["what a worker started ends with it" if abilities.kills else "what a worker started in a session of its own may outlive it"]
    return Finding("control groups", "; ".join([*([f"{', '.join(held)} held"] if held else []), *missing, *ends]))


def _index() -> Finding:
    """Look at the discovery index. Whatever is wrong with it costs only time, so nothing of it is a problem."""
    from blackhole_core.registry.index import VARIABLE, index_status

    status = index_status()
    if status.directory is None:
        return Finding("discovery index", f"not kept on disk ({VARIABLE}={status.mode})")
    known = f"{status.directory}, {status.distributions} distributions in {status.directories} directories"
    return Finding("discovery index", f"{known}; {status.trouble}" if status.trouble else known)


def _groups() -> tuple[dict[str, int], list[Finding]]:
    """Count the entry points of each installed group that has one implemented with us: those that look like plugins of a host.

    Returns group → count, and the distributions among them whose entry points cannot be read.
    """
    groups: dict[str, int] = {}
    damaged: list[Finding] = []
    for distribution in importlib.metadata.distributions():
        try:
            name, requires = distribution.name, " ".join(distribution.requires or ())
        # Half installed (the backport of importlib.metadata refuses it, where Python's own says None), or nothing that can be read: nobody's plugin.
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue
        if "blackhole-core" not in requires and "pluggy" not in requires:
            continue
        try:
            found = [point.group for point in distribution.entry_points]
        except (ValueError, TypeError) as error:  # not UTF-8, or a line that is no entry point
            damaged.append(Finding("entry points", str(name), f"the entry_points.txt of {name} cannot be read ({error}); install it again"))
            continue
        for group in found:
            if group not in ("console_scripts", "gui_scripts"):
                groups[group] = groups.get(group, 0) + 1
    return dict(sorted(groups.items())), damaged
