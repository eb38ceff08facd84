"""Faults on the standard streams. All return what the call would have returned without them, but ``read_stdin``."""

from __future__ import annotations

import ctypes
import os
import sys

#: Longer than a pipe holds (64 KiB): one record, and one that must not block its writer.
LONG_LINE = 100_000  # characters
FLOOD = 50_000  # lines


def print_everywhere() -> str:
    """Write one line in each way there is, and one very long line (H-01, H-12)."""
    print("from print", flush=True)
    print("from stderr", file=sys.stderr, flush=True)
    os.write(1, b"from os.write\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"from C puts")
    libc.fflush(None)  # C's buffer of stdout is its own
    print("x" * LONG_LINE, flush=True)
    return "printed"


def flood() -> str:
    """Write more to stderr than any buffer holds (F-24)."""
    for number in range(FLOOD):
        sys.stderr.write(f"flood line {number}\n")
    sys.stderr.flush()
    return "flooded"


def not_text() -> str:
    """Write bytes that are not UTF-8, and a line without its end."""
    os.write(1, b"\xff\xfe not text\nno newline")
    return "written"


def read_stdin() -> str:
    """Return all of stdin; whoever waits here was given a terminal or the protocol (H-02)."""
    return sys.stdin.read()


KINDS = {"print": print_everywhere, "flood": flood, "not_text": not_text, "read_stdin": read_stdin}
