"""Faults that take more than was given: memory, processes, disk, the log. Each is bounded, so that a machine on which nothing stops it survives."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from pathlib import Path

from notes_faulty.reaches import refused

MB = 1024 * 1024  # bytes
#: Ten times the limits that the suite of faults sets: MB of memory, processes or threads, MB of disk.
MEMORY, TASKS, DISK = 640, 200, 80
#: Bytes of one file: smaller than any limit, so that it is their sum that counts.
FILE = 4 * MB
RECORDS = 20_000  # of the log

kept: list[bytes] = []


def allocate() -> str:
    """Fill memory, page by page."""
    kept.extend(b"x" * MB for _ in range(MEMORY))
    return "allowed"


def fork_bomb() -> str:
    """Fork children that stay, until it is refused; end them."""
    children = []
    try:
        while len(children) < TASKS:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError as error:
        return refused(error)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return "allowed"


def thread_bomb() -> str:
    """Start threads that stay, until it is refused; end them."""
    let_go, threads = threading.Event(), []
    try:
        for _ in range(TASKS):
            thread = threading.Thread(target=let_go.wait)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        return "refused"
    finally:
        let_go.set()
        for thread in threads:
            thread.join()
    return "allowed"


def fill_disk() -> str:
    """Write file after file where temporary files belong; remove them."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(DISK * MB // FILE):
                Path(folder, str(number)).write_bytes(b"x" * FILE)
        except OSError as error:
            return refused(error)
    return "allowed"


def flood_log() -> str:
    log = logging.getLogger("faulty")
    for number in range(RECORDS):
        log.warning("flood record %d", number)
    return "flooded"


KINDS = {function.__name__: function for function in (allocate, fork_bomb, thread_bomb, fill_disk, flood_log)}
