"""Find out what the program ``bwrap`` is worth here, by having it make a sandbox in which a process builds the rest and tries the walls. Remembered for as long as host and program are what they are."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import msgspec

from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
from blackhole_core.executor.launch.bwrap.arguments import AROUND
from blackhole_core.executor.launch.bwrap.program import VARIABLE, calling, find_program, is_set_user_id, last_words
from blackhole_core.executor.launch.oci.binds import interpreter
from blackhole_core.executor.launch.packages import install_command
from blackhole_core.executor.launch.standing import read_standing
from blackhole_core.executor.sandbox.judge import explain
from blackhole_core.executor.sandbox.plan import draw_up
from blackhole_core.executor.sandbox.probe import PROGRAM, SECONDS
from blackhole_core.executor.wire.policy import Layer, WallReport
from blackhole_core.ids import Isolation
from blackhole_core.printable import printable

__all__ = ["INSIDE", "Bubblewrap", "bubblewrap_here", "takes_bubblewrap"]

#: What a worker builds itself in there.
INSIDE: Final = (Layer.LANDLOCK, Layer.SECCOMP)

_lock: Final = threading.Lock()
_known: Final[dict[object, Bubblewrap]] = {}


@attrs.frozen
class Bubblewrap:
    """``problem`` says why it is of no use, with what to do; empty where it works. ``around`` are the layers that it makes, ``report`` what came of all of them.

    ``bounded``: it can make file systems in memory of a size; where it is set-user-id it refuses that, and a directory has to be made for temporary files.
    """

    program: str = ""
    problem: str = ""
    around: tuple[Layer, ...] = AROUND
    bounded: bool = True
    report: WallReport = WallReport()


def takes_bubblewrap(wanted: Sandbox, *, root_of_its_own: bool, works: Callable[[], bool]) -> bool:
    """Whether a worker's walls begin with ``bwrap``: where that is asked for, and of itself only where a worker could have no ``root_of_its_own`` otherwise and ``bwrap`` works.

    That is asked only where it decides, because it takes a tenth of a second.
    """
    return wanted is Sandbox.BUBBLEWRAP or (wanted is Sandbox.AUTO and not root_of_its_own and works())


def bubblewrap_here(import_path: Sequence[str]) -> Bubblewrap:
    """Try it, once.

    :raises OSError: the system refused to start a process.
    """
    program = find_program(os.environ)
    if not program:
        return Bubblewrap(
            problem=f"there is no program bwrap on PATH; install it ({install_command('bubblewrap')}), or name it by {VARIABLE}"
        )
    key = (read_standing(), program, _identity(program))
    with _lock:
        known = _known.get(key)
        if known is None:
            known = _known[key] = _find_out(program, import_path)
        return known


def _identity(program: str) -> tuple[int, ...]:
    """Return what changes when the program is replaced; nothing where there is none."""
    try:
        found = Path(program).stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, stat.S_IMODE(found.st_mode), found.st_uid)


def _find_out(program: str, import_path: Sequence[str]) -> Bubblewrap:
    try:
        bounded = not is_set_user_id(program)
        found = _try(program, import_path, AROUND, bounded=bounded)
        if found.problem and not bounded:  # it can do without a user namespace, where there may be none
            found = _try(program, import_path, tuple(layer for layer in AROUND if layer is not Layer.USER), bounded=bounded)
    except OSError as error:
        return Bubblewrap(program, f"{program} cannot be executed: {error.strerror}")
    return found


def _try(program: str, import_path: Sequence[str], around: tuple[Layer, ...], *, bounded: bool) -> Bubblewrap:
    policy = draw_up(
        Confinement(unenforced=Unenforced.ALLOW),
        plugin=Path(__file__).parent,
        import_path=import_path,
        layers=INSIDE,
        temporary=None,
        around=around,
    )
    if not bounded:
        policy = msgspec.structs.replace(policy, temporary_size=0)
    with calling(program, policy) as call:
        try:
            tried = subprocess.run(
                [*call.command, interpreter(), "-I", "-S", "-c", PROGRAM, *import_path],
                input=msgspec.msgpack.encode(policy),
                capture_output=True,
                pass_fds=call.descriptors,
                env={},
                start_new_session=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Bubblewrap(program, f"{program} did not make a sandbox within {SECONDS:g} s", around, bounded)
    try:
        report = msgspec.msgpack.decode(tried.stdout, type=WallReport)
    except msgspec.DecodeError:
        said = printable(last_words(tried.stderr), 500) or f"it ended with status {tried.returncode}"
        return Bubblewrap(program, f"{program} makes no sandbox here: {said}", around, bounded)
    return Bubblewrap(program, explain(report, Isolation.PROCESS) if report.open else "", around, bounded, report)
