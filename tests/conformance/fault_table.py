"""What comes of each fault at each level: the table that ``test_faults.py`` asserts and ``docs/reference/faults.md`` shows.

A cell says what the caller of the call gets (the type of an error; ``returns``; ``allowed`` or ``refused`` for an attempt), whether it took a new worker until the plugin
answered again, and what became of the host if that is not "nothing". Where the order of threads decides, ``or`` stands between what may come of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from tests.conformance.fault_hosts import COLUMNS

__all__ = ["FAULTS", "SECTIONS", "Fault", "rendered"]

#: Seconds that a call may take which is to fail, and one which is not.
SHORT, LONG = 0.3, 30.0


def _filled(cells: tuple[str, ...]) -> tuple[str, ...]:
    return (*cells, *[cells[-1]] * (len(COLUMNS) - len(cells)))


@attrs.frozen
class Fault:
    """One misbehaviour. ``cells`` are in the order of the columns; the last one holds for all columns that follow.

    ``argument`` of the kind: a word in braces is filled in by the test. ``resources`` are the limits it is run with, ``own_host`` that it
    may end a host at every level, so that each gets one of its own; ``unloads`` that it is unloaded afterwards,
    and ``leaves`` that it leaves a process behind, so that one sees whether it ends then.
    """

    kind: str
    what: str
    cells: tuple[str, ...] = attrs.field(converter=_filled)
    seconds: float = LONG
    argument: str = ""
    resources: Mapping[str, float] = attrs.field(factory=dict)
    own_host: bool = False
    leaves: bool = False
    unloads: bool = False

    def cell(self, column: str) -> str:
        return self.cells[list(COLUMNS).index(column)]

    def outcomes(self, column: str) -> list[str]:
        """Return what the cell allows."""
        return self.cell(column).split(" or ")


SECTIONS: Final[Mapping[str, tuple[Fault, ...]]] = {
    "Raises": (
        Fault("value_error", "a built-in error", ("ValueError",)),
        Fault("private_error", "an error of a type that only the plugin has", ("PrivateError", "PrivateError", "RemoteError")),
        Fault("notes_error", "an error of the host's API", ("NotesError",)),
        Fault("base_exception", "`KeyboardInterrupt`", ("KeyboardInterrupt", "RemoteError")),
        Fault("cancelled", "`asyncio.CancelledError`", ("CancelledError", "RemoteError")),
        Fault("group", "an exception group", ("ExceptionGroup",)),
        Fault("recursion", "recurses without end", ("RecursionError",)),
        Fault("ansi", "a message with control characters", ("ValueError",)),
        Fault("huge_message", "a message of 10 MB", ("ValueError", "ValueError", "RemoteError")),
        Fault("unprintable", "an error whose text raises", ("UnprintableError", "UnprintableError", "RemoteError")),
    ),
    "Returns": (
        Fault("unserialisable", "an `object()`", ("returns", "returns", "CannotCross")),
        Fault("wrong_type", "a number instead of a text", ("returns", "returns", "CannotCross")),
        Fault("cyclic", "a list that holds itself", ("returns", "returns", "CannotCross")),
        Fault("lambda", "a function", ("returns", "returns", "CannotCross")),
        Fault("generator", "a generator", ("returns", "returns", "CannotCross")),
        Fault("big", "a text of 100 MB", ("returns", "returns", "LimitExceeded")),
        Fault("deep", "100,000 lists in each other", ("returns", "returns", "CannotCross")),
        Fault("surrogate", "a text that is not UTF-8", ("returns", "returns", "CannotCross")),
        Fault("huge_int", "an integer of 101 bits", ("returns", "returns", "CannotCross")),
        Fault("nan", "NaN", ("returns", "returns", "CannotCross")),
    ),
    "Writes and reads": (
        Fault("print", "to standard output and error, in every way there is", ("returns",)),
        Fault("flood", "50,000 lines to standard error", ("returns",)),
        Fault("flood_log", "20,000 records to the log", ("returns",), seconds=4 * LONG),
        Fault("not_text", "bytes that are no text", ("returns",)),
        Fault("read_stdin", "all of standard input", ("returns",)),
    ),
    "Ends the process": (
        Fault("sys_exit", "`sys.exit(4)`", ("SystemExit", "RemoteError")),
        Fault("os_exit_0", "`os._exit(0)`", ("ends the host (status 0)", "ends the host (status 0)", "WorkerDied, new worker")),
        Fault("os_exit_3", "`os._exit(3)`", ("ends the host (status 3)", "ends the host (status 3)", "WorkerDied, new worker")),
        Fault(
            "exit_in_thread",
            "`os._exit(5)` in another thread",
            ("ends the host (status 5)", "ends the host (status 5)", "WorkerDied, new worker"),
        ),
        Fault(
            "exit_at_exit",
            "`os._exit(9)` in an `atexit` function",
            ("returns, ends the host (status 9)", "returns, ends the host (status 9)", "returns"),
            unloads=True,
        ),
        Fault(
            "exit_at_stop",
            "`os._exit(6)` in `plugin_stop`",
            ("ends the host (status 6)", "ends the host (status 6)", "returns"),
            unloads=True,
        ),
        Fault("sigkill_self", "SIGKILL to itself", ("ends the host (SIGKILL)", "ends the host (SIGKILL)", "WorkerDied, new worker")),
        Fault("sigterm_self", "SIGTERM to itself", ("ends the host (SIGTERM)", "ends the host (SIGTERM)", "WorkerDied, new worker")),
        Fault("abort", "`os.abort()`", ("ends the host (SIGABRT)", "ends the host (SIGABRT)", "WorkerDied, new worker")),
        Fault("segfault", "reads address 0", ("ends the host (SIGSEGV)", "ends the host (SIGSEGV)", "WorkerDied, new worker")),
        Fault(
            "close_fds",
            "closes all descriptors but the standard ones",
            (
                "ends the host (status 1)",
                "ends the host (status 1) or the host stands still",  # whichever of its threads misses its descriptors first
                *["returns, new worker"] * 3,
                "WorkerDied, new worker",
            ),
        ),
    ),
    "Does not come back": (
        Fault(
            "hang",
            "waits for ever",
            ("the host stands still", "CallTimeout", "CallTimeout, new worker"),
            seconds=SHORT,
        ),
        Fault(
            "spin",
            "uses up a core",
            ("the host stands still", "CallTimeout", "CallTimeout, new worker"),
            seconds=SHORT,
        ),
        Fault(
            "hold_gil",
            "waits in C and keeps the interpreter",
            ("the host stands still", "the host stands still", "CallTimeout, new worker"),
            seconds=SHORT,
        ),
        Fault(
            "sigstop_self",
            "stops itself",
            ("the host is stopped", "the host is stopped", "CallTimeout, new worker"),
            seconds=SHORT,
        ),
        Fault(
            "ignore_sigterm",
            "ignores SIGTERM and hangs",
            ("the host stands still", "ValueError", "CallTimeout, new worker"),
            seconds=SHORT,
        ),
    ),
    "Takes too much": (
        Fault(
            "allocate",
            "640 MB, limit 64 MB",
            ("does not start", "does not start", "WorkerOverLimit, new worker"),
            resources={"memory": 64},
        ),
        Fault(
            "fork_bomb",
            "200 processes, limit 20",
            ("does not start", "does not start", "refused"),
            resources={"pids": 20},
        ),
        Fault(
            "thread_bomb",
            "200 threads, limit 20",
            ("does not start", "does not start", "refused"),
            resources={"pids": 20},
        ),
        Fault(
            "fill_disk",
            "80 MB of temporary files, limit of disk 8 MB",
            ("does not start", "does not start", "does not start", "allowed", "allowed", "refused"),
            resources={"disk": 8},
        ),
    ),
    "Reaches for what is not its own": (
        Fault("read_file", "reads a file of the host's user", ("allowed", "allowed", "allowed", "refused"), argument="{file}"),
        Fault("write_file", "writes to it", ("allowed", "allowed", "allowed", "refused"), argument="{file}"),
        Fault(
            "read_environ",
            "reads the host's environment in `/proc`",
            ("allowed", "allowed", "allowed", "refused"),
            argument="{host}",
        ),
        Fault("connect", "connects to a port of this machine", ("allowed", "allowed", "allowed", "refused"), argument="{port}"),
        Fault("run_program", "runs `/bin/true`", ("allowed", "allowed", "allowed", "refused"), argument="/bin/true"),
        Fault(
            "signal_host",
            "kills the host",
            ("ends the host (SIGKILL)", "ends the host (SIGKILL)", "ends the host (SIGKILL)", "refused"),
            argument="{host}",
            own_host=True,
        ),
        Fault(
            "setsid_grandchild",
            "leaves a process with a session of its own and no parent",
            ("returns, outlives the plugin", "returns, outlives the plugin", "returns, ends with the plugin"),
            argument="{name}",
            leaves=True,
            unloads=True,
        ),
    ),
}
FAULTS: Final = {fault.kind: fault for faults in SECTIONS.values() for fault in faults}


def rendered() -> str:
    """Return the tables in Markdown."""
    parts = []
    for title, faults in SECTIONS.items():
        rows = [["fault", "what it does", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
        rows += [[f"`{fault.kind}`", fault.what, *map(_shown, fault.cells)] for fault in faults]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join(parts)


def _shown(cell: str) -> str:
    first, comma, rest = cell.partition(", ")
    return f"`{first}`{comma}{rest}" if first[0].isupper() else cell
