"""What a test may not leave behind: threads, child processes, descriptors, temporary files, shared memory, modules.

A :class:`Census` is taken before and after; :func:`difference` compares two of them and is pure. Something that is just
ending gets a grace in which it is waited for, never slept for blindly; what is still there then is a leak, and the
message says what it is: a thread with its stack, a child with its command line, a descriptor with its target.

Not looked at: memory, and threads that native libraries keep for themselves. Reading the world costs well under a
millisecond (``/proc/self/fd`` is most of it), so every test is checked.
"""

from __future__ import annotations

import collections
import gc
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.scratch import sweep

__all__ = ["GRACE", "Census", "Leak", "children_of", "difference", "settle", "take_census"]

#: Seconds that threads, children and descriptors of a finished test get to go away: a killed worker is reaped within
#: 50 ms, the rest is for a machine that is busy with something else. Only a leaking test ever waits this long.
GRACE = 3.0

#: Seconds between two looks while something is still ending. Most endings take less than one of these.
_LOOK_AGAIN: Final = 0.005

#: Start of the names of everything we put into directories shared with others.
PREFIX: Final = "blackhole-"

_SHARED_MEMORY: Final = Path("/dev/shm")


@attrs.frozen
class Leak:
    """One thing that was left behind: its kind and a description that names it."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@attrs.frozen(eq=False)
class Census:
    """What exists in and around this process at one moment.

    ``children`` are process ids; zombies are among them. ``descriptors`` maps a number to what ``/proc`` says it leads to.
    ``files`` are absolute paths in the temporary directory and in ``/dev/shm``. ``generations`` are the modules of plugin
    generations, named ``package@generation``.
    """

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: Mapping[int, str]
    files: frozenset[Path]
    generations: frozenset[str]


def take_census() -> Census:
    """Look around once. Linux is needed for children and descriptors; elsewhere those are empty."""
    return Census(
        threads=frozenset(thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)),
        children=children_of(),
        descriptors=_descriptors(),
        files=_files(),
        generations=frozenset(name for name in list(sys.modules) if "@" in name),
    )


def difference(before: Census, after: Census) -> list[Leak]:
    """Return what is in ``after`` and was not in ``before``, described while it can still be looked at."""
    return [
        *(Leak("thread", _describe_thread(thread)) for thread in after.threads - before.threads),
        *(Leak("child process", _describe_child(pid)) for pid in sorted(after.children - before.children)),
        *(Leak("descriptor", f"{number} -> {target}") for number, target in _surplus(before.descriptors, after.descriptors)),
        *(Leak("file", str(path)) for path in sorted(after.files - before.files)),
        *(Leak("module", name) for name in sorted(after.generations - before.generations)),
    ]


def settle(before: Census, grace: float) -> list[Leak]:
    """Return what is left over since ``before`` once everything that is still ending has had ``grace`` seconds.

    Garbage in reference cycles is collected before the verdict: the drain of an old generation is the collection of
    its last frame. That hides no carelessness, since a file or socket that only the collector closes is a
    :class:`ResourceWarning`, which is an error here.
    """
    leaks = difference(before, take_census())
    if not leaks:
        return []
    deadline = time.monotonic() + grace
    gc.collect()
    while (leaks := difference(before, take_census())) and time.monotonic() < deadline:
        _wait_a_little(before)
    return leaks


def _wait_a_little(before: Census) -> None:
    """Wait for one new thread to end, or where there is none, until it is worth looking again."""
    for thread in threading.enumerate():
        if thread not in before.threads and thread is not threading.current_thread():
            thread.join(_LOOK_AGAIN)
            return
    # Nothing to wait on: a child that its owner is about to reap, a descriptor that another thread is about to close.
    time.sleep(_LOOK_AGAIN)


def _surplus(before: Mapping[int, str], after: Mapping[int, str]) -> list[tuple[int, str]]:
    """Return descriptors whose target is open more often than before.

    Numbers are reused and pytest reopens its own files, so targets are counted. Pipes and sockets carry their inode in
    the target and are unique anyway.
    """
    known = collections.Counter(before.values())
    surplus = []
    for number, target in sorted(after.items(), key=lambda item: (before.get(item[0]) != item[1], item[0])):
        if known[target]:
            known[target] -= 1
        else:
            surplus.append((number, target))
    return surplus


# --- looking around --------------------------------------------------------------------------------------------------


def children_of(process: int | str = "self") -> frozenset[int]:
    """Return the processes that a process, this one if no other is said, has started and that are not reaped yet."""
    pids: set[int] = set()
    for task in _listing(f"/proc/{process}/task"):
        # A thread may end between the listing and the reading; its children then belong to another thread.
        text = _read(f"/proc/{process}/task/{task}/children")
        pids.update(map(int, text.split()))
    return frozenset(pids)


def _descriptors() -> dict[int, str]:
    targets: dict[int, str] = {}
    for number in _listing("/proc/self/fd"):
        try:
            targets[int(number)] = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - the target is text, pathlib would take it for a path
        except FileNotFoundError:
            continue  # the descriptor of the listing itself, closed by now
    return targets


def _files() -> frozenset[Path]:
    temporary = tempfile.gettempdir()
    sweep(Path(temporary))  # a host that a test killed could not tidy up; the next host does, and so does this
    mine = {Path(temporary, name) for name in _listing(temporary) if name.startswith(PREFIX)}
    shared = {_SHARED_MEMORY / name for name in _listing(str(_SHARED_MEMORY)) if name.startswith(PREFIX)}
    return frozenset(mine | shared)


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []  # not Linux


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


# --- describing what was found ---------------------------------------------------------------------------------------


def _describe_thread(thread: threading.Thread) -> str:
    kind = "daemon" if thread.daemon else "non-daemon"
    frame = sys._current_frames().get(thread.ident or -1)
    stack = "".join(traceback.format_stack(frame)) if frame else "  (no Python frame)\n"
    return f"{thread.name} ({kind}), stands at\n{stack.rstrip()}"


def _describe_child(pid: int) -> str:
    command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    status = _read(f"/proc/{pid}/stat")
    letter = status.rpartition(")")[2].split()[0] if status else "gone"
    if letter == "Z":
        return f"{pid}, a zombie: it ended and nobody waited for it ({_read(f'/proc/{pid}/comm').strip()})"
    return f"{pid} ({letter}) {command}"
