"""Build the walls: in the worker, while it has one thread, before any plugin code is in reach. The order matters, and stands here.

Descriptors and limits come first; then namespaces, in which alone an unprivileged process may do the rest; then the process that the host launched stays behind as the keeper
(:mod:`~blackhole_core.executor.sandbox.keeper`); then the root is changed. Capabilities are needed up to here, and dropped. Landlock and seccomp come last: each forbids
what was done before it. What cannot be had is reported, not hidden; whether the worker may go on without is decided by the walls that were tried.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from blackhole_core.executor.sandbox import callfilter, capabilities, keeper, landlock, namespaces, newroot, seccomp
from blackhole_core.executor.sandbox.kernel import MACHINE, close_others
from blackhole_core.executor.sandbox.selfcheck import find_open
from blackhole_core.executor.wire.policy import NAMESPACES, Layer, Place, Policy, WallReport

__all__ = ["Begun", "Enclosed", "begin", "enclose", "rehearse"]

#: Devices that a program without a root of its own may use.
_DEVICES: Final = tuple(
    Place(path, path, device=True) for path in (b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/random", b"/dev/urandom")
)


@attrs.frozen
class Begun:
    """The beginning of walls, which is the same for all workers; ``pid`` is this process's id as the host sees it, ``layers`` says why each namespace could not be had."""

    pid: int
    layers: dict[str, str]


@attrs.frozen
class Enclosed:
    """What came of it; ``pid`` is this process's id as the host sees it."""

    pid: int
    report: WallReport

    def missing(self, policy: Policy) -> list[str]:
        """Return the walls that are required and do not hold."""
        return [wall for wall in policy.required if wall in self.report.open]


def begin(wanted: Sequence[Layer]) -> Begun:
    """Enter the namespaces among ``wanted``. Returns in the worker, which may be another process than the one that called; descriptors stay open in it alone.

    :raises OSError: it failed halfway, and the process is of no use any more.
    """
    pid = os.getpid()
    layers = namespaces.enter([kind for kind in wanted if kind in NAMESPACES])
    keeper.die_with_parent()  # what was asked for at the start does not outlast a change of credentials
    if layers.get(Layer.PID) == "":
        try:
            pid = keeper.split()
            keeper.die_with_parent()
        except OSError as error:
            layers[Layer.PID] = f"no processes for it: {error.strerror}"
    return Begun(pid, layers)


def enclose(policy: Policy, keep: Sequence[int], begun: Begun | None = None) -> Enclosed:
    """Build the walls that ``policy`` wants, and try them; ``begun`` is what :func:`begin` has made of them already. Descriptors other than ``keep`` are closed.

    Returns in the worker, which may be another process than the one that called.

    :raises OSError: it failed halfway, and the process is of no use any more.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"a process with {threads} threads cannot be enclosed: Landlock binds one thread")
    close_others(tuple(keep))
    for number, soft, hard in policy.limits:
        resource.setrlimit(number, (soft, hard))
    wanted = [Layer(name) for name in policy.layers]
    pid, layers = _the_beginning(wanted, begun)
    places = _change_root(policy, layers) if Layer.MOUNT not in policy.around else _in_given_root(policy)
    layers |= dict.fromkeys(map(Layer, policy.around), "")
    _set_aside(policy)
    _try(layers, Layer.CAPABILITIES, capabilities.drop)
    _try(layers, Layer.NO_NEW_PRIVS, capabilities.forbid_new_privileges)
    scoped = Layer.LANDLOCK in wanted and _try(
        layers, Layer.LANDLOCK, lambda: landlock.restrict(places, own_root=layers.get(Layer.MOUNT) == "")
    )
    if Layer.LANDLOCK in wanted:
        layers[Layer.SCOPE] = "" if scoped else "Landlock is missing, or older than ABI 6"
    if Layer.SECCOMP in wanted:
        _try(layers, Layer.SECCOMP, lambda: _filter(policy, layers))
    return Enclosed(pid, WallReport(layers, find_open(policy, layers)))


def _the_beginning(wanted: Sequence[Layer], begun: Begun | None) -> tuple[int, dict[str, str]]:
    if begun is None:
        begun = begin(wanted)
    elif begun.layers.keys() != {kind for kind in wanted if kind in NAMESPACES}:
        raise RuntimeError(f"made ready with {', '.join(begun.layers)}, and is to have {', '.join(wanted)}")
    return begun.pid, dict(begun.layers)


def _change_root(policy: Policy, layers: dict[str, str]) -> tuple[Place, ...]:
    """Change the root where there is a mount namespace; return the places that there are."""
    own_pids = layers.get(Layer.PID) == ""
    if layers.get(Layer.MOUNT) == "":
        for with_proc in (True, False) if own_pids else (False,):
            try:
                places = newroot.build(policy, own_pids=with_proc)
            except newroot.NoProc as error:
                layers[Layer.PROC] = str(error)
            except newroot.NoRoot as error:
                layers[Layer.MOUNT] = str(error)
                break
            else:
                layers.setdefault(Layer.PROC, "" if with_proc else "there is no pid namespace")
                return places
    os.chdir(b"/")
    own = os.path.realpath(b"/proc/self")
    return (*policy.places, *_DEVICES, Place(own, own))


def _in_given_root(policy: Policy) -> tuple[Place, ...]:
    """Return all places of a root that was made for this process: its own file systems, and devices, beside those that the policy names."""
    os.chdir(b"/")
    memory = (Place(path, path, write=True) for path in (policy.temporary, b"/dev/shm"))
    return (*policy.places, *memory, *_DEVICES, *(Place(path, path) for path in (b"/dev", b"/proc")))


def _set_aside(policy: Policy) -> None:
    """Have programs put temporary files where they may, and look for their own there."""
    os.environb[b"TMPDIR"] = policy.temporary
    os.environb[b"HOME"] = policy.home


def _try(layers: dict[str, str], layer: Layer, build: Callable[[], object]) -> object:
    try:
        result = build()
    except OSError as error:
        layers[layer] = error.strerror or str(error)
        return None
    layers[layer] = ""
    return result


def _filter(policy: Policy, layers: dict[str, str]) -> None:
    rules = callfilter.rules_for(
        programs=policy.programs,
        own_root=layers.get(Layer.MOUNT) == "",
        own_ipc=layers.get(Layer.IPC) == "",
        own_pids=layers.get(Layer.PID) == "",
        truncates=layers.get(Layer.LANDLOCK) == "" and landlock.abi() >= landlock.TRUNCATE_SINCE,
        pid=os.getpid(),
    )
    try:
        program = callfilter.assemble(rules, MACHINE)
    except KeyError:
        raise OSError(0, f"no numbers of system calls are known for machine {os.uname().machine}") from None
    seccomp.install(program)


def rehearse() -> None:
    """Do what leaves no trace of what :func:`enclose` does, so that no worker is the first to do it."""
    for machine in filter(None, (MACHINE,)):
        callfilter.assemble(callfilter.rules_for(programs=False, own_root=True, own_ipc=True, own_pids=True, truncates=True), machine)
    landlock.abi()
