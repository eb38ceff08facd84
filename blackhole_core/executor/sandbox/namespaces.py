"""Namespaces: a view of its own of users, processes, mounts, the network, IPC objects and the machine's name (``namespaces(7)``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blackhole_core.executor.sandbox.kernel import call
from blackhole_core.executor.wire.policy import Layer

__all__ = ["enter"]

#: ``unshare(2)``. A new process id namespace is one for children.
_FLAGS: Final = {
    Layer.USER: 0x1000_0000,
    Layer.PID: 0x2000_0000,
    Layer.MOUNT: 0x0002_0000,
    Layer.NET: 0x4000_0000,
    Layer.IPC: 0x0800_0000,
    Layer.UTS: 0x0400_0000,
}


def enter(wanted: Sequence[Layer]) -> dict[str, str]:
    """Enter a new namespace of each wanted kind. Return for each why it could not be had, empty where it could.

    In a user namespace of its own a process may make all the others; ids stay what they are. A host that is privileged may do without.

    :raises OSError: the process is in a user namespace now that does not know its ids, and so is of no use.
    """
    together = [kind for kind in _FLAGS if kind in wanted]
    uid, gid = os.geteuid(), os.getegid()
    reasons = _unshare(together)
    if reasons.get(Layer.USER) == "":
        _map_ids(uid, gid)
    if reasons.get(Layer.UTS) == "":
        try:
            call("sethostname", b"blackhole", 9)
        except OSError as error:
            reasons[Layer.UTS] = error.strerror or str(error)
    return reasons


def _unshare(kinds: Sequence[Layer]) -> dict[str, str]:
    """Make all of them at once, which is quicker; where that fails, one by one to find out which can be had."""
    try:
        call("unshare", sum(_FLAGS[kind] for kind in kinds))
    except OSError as error:
        if len(kinds) == 1:
            return {kinds[0]: error.strerror or str(error)}
        return {name: reason for kind in kinds for name, reason in _unshare((kind,)).items()}
    return dict.fromkeys(kinds, "")


def _map_ids(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny", "ascii")  # or the groups could not be mapped by who is not privileged
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", "ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", "ascii")
