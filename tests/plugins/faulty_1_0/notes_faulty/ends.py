"""Faults that end, stop or hurt the process. Except ``sys_exit`` and the two that hang, none is for a host's own process."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from notes_api import NotesError, hang, release

#: Processes started by ``fork_child``; a reference is kept so that nothing reaps them by accident.
children: list[subprocess.Popen[bytes]] = []


def send_self(number: signal.Signals) -> str:
    os.kill(os.getpid(), number)
    return f"survived {number.name}"


def segfault() -> bytes:
    return ctypes.string_at(0)


def spin() -> str:
    """Use up a core in Python code; ends only as :func:`notes_api.hang` does."""
    while not release.is_set():
        pass
    raise NotesError("let go by the test's teardown")


def ignore_sigterm() -> str:
    """Hang with SIGTERM ignored (F-14). Works only when called on the main thread, as ``signal`` demands."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def fork_child() -> str:
    """Start a grandchild of the host that outlives the call; return its pid."""
    child = subprocess.Popen(["sleep", "1000"])
    children.append(child)
    return str(child.pid)


def close_fds() -> str:
    """Close every descriptor but the standard ones."""
    os.closerange(3, 256)
    return "closed"


def hold_gil() -> str:
    """Wait in C with the interpreter kept: no other thread of the process runs."""
    ctypes.PyDLL(None).sleep(1000)
    return "let go"


def exit_in_thread() -> str:
    """Have another thread end the process while this one waits for it."""
    thread = threading.Thread(target=os._exit, args=(5,))
    thread.start()
    thread.join()
    return "survived"


#: What ``plugin_stop`` does; ``exit_at_stop`` puts something else here.
at_stop: list[Any] = []


def stop() -> None:
    for action in at_stop:
        action()


def exit_at_stop() -> str:
    """End the process when the plugin is told to stop."""
    at_stop.append(functools.partial(os._exit, 6))
    return "armed"


def exit_at_exit() -> str:
    """End the process in the middle of its orderly exit."""
    atexit.register(os._exit, 9)
    return "armed"


KINDS: dict[str, Any] = {
    "sys_exit": functools.partial(sys.exit, 4),
    "os_exit_0": functools.partial(os._exit, 0),
    "os_exit_3": functools.partial(os._exit, 3),
    "sigkill_self": functools.partial(send_self, signal.SIGKILL),
    "sigterm_self": functools.partial(send_self, signal.SIGTERM),
    "sigstop_self": functools.partial(send_self, signal.SIGSTOP),
    "abort": os.abort,
    "segfault": segfault,
    "hang": hang,
    "spin": spin,
    "ignore_sigterm": ignore_sigterm,
    "fork_child": fork_child,
    "close_fds": close_fds,
    "hold_gil": hold_gil,
    "exit_in_thread": exit_in_thread,
    "exit_at_stop": exit_at_stop,
    "exit_at_exit": exit_at_exit,
}
