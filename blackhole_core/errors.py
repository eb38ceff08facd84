"""Every error this library raises on purpose, one tree, importable without anything else of ours.

Rules: a message is a sentence that says what happened, to which plugin, what was wanted, what was got and what to do
next. The facts a program may want are attributes, the sentence is ``str(error)``. Errors cross threads and are never
pickled across the worker boundary.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

__all__ = [
    "BlackholeError",
    "BreakerOpen",
    "CallTimeout",
    "CannotCross",
    "ConfigError",
    "DependencyError",
    "GrantsError",
    "IsolationUnavailable",
    "LimitExceeded",
    "LoadFailed",
    "ManifestError",
    "NameClash",
    "NoMigrationPath",
    "PermissionDenied",
    "PluginBroken",
    "PluginError",
    "PluginUnloaded",
    "PoisonedCall",
    "Problem",
    "ProtocolError",
    "RemoteError",
    "SnapshotDamaged",
    "SourceError",
    "StateError",
    "SwapFailed",
    "SwapInProgress",
    "TooManyCalls",
    "UnknownPlugin",
    "WorkerDied",
    "WorkerOverLimit",
]


class BlackholeError(Exception):
    """Base of every error of this library."""


# --- what an operator or author wrote --------------------------------------------------------------------------------


class Problem:
    """One thing wrong with a declaration: where it stands, what was wanted and what was got."""

    __slots__ = ("file", "got", "line", "path", "wanted")

    def __init__(self, *, file: str, line: int | None, path: str, wanted: str, got: str) -> None:
        self.file = file
        self.line = line
        self.path = path
        self.wanted = wanted
        self.got = got

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file  # line 0: a value that a program gave, not a file
        at = f" {self.path}:" if self.path else ""
        return f"{where}:{at} wanted {self.wanted}, got {self.got}"

    def __repr__(self) -> str:
        return f"<Problem {self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Problem):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.file, self.line, self.path, self.wanted, self.got))


class ManifestError(BlackholeError):
    """A ``plugin.yaml`` that declares something impossible. Carries every problem, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigError(BlackholeError):
    """A ``blackhole.yaml`` (or ``config=`` mapping) that cannot be obeyed. Carries every problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SourceError(BlackholeError):
    """A directory, wheel or distribution that cannot be used as a plugin source; nothing was unpacked or kept."""


class UnknownPlugin(BlackholeError, KeyError):
    """No plugin of that name is known here."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        hint = f"known: {', '.join(self.known)}" if self.known else "no plugin is known here"
        super().__init__(f"there is no plugin named {name!r}; {hint}")

    def __str__(self) -> str:  # KeyError would print the repr of the sentence
        return str(self.args[0])


class NameClash(BlackholeError):
    """Two plugins claim one name. Neither wins."""

    def __init__(self, name: str, first: str, second: str) -> None:
        self.name = name
        self.claimants = (first, second)
        super().__init__(
            f"two plugins are named {name!r}: {first} and {second}; neither was loaded, "
            "remove one or deny it by its source in the host's configuration"
        )


class DependencyError(BlackholeError):
    """Plugins that need each other in a way that cannot be met. ``reasons`` has one sentence per fault."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


class GrantsError(BlackholeError):
    """What cannot be granted or revoked, or a file of grants that cannot be used; nothing was changed."""


class IsolationUnavailable(BlackholeError):
    """The level cannot run on this machine; ``reason`` says why and what to install."""

    def __init__(self, level: str, reason: str) -> None:
        self.level = level
        self.reason = reason
        super().__init__(f"isolation level {level!r} cannot run here: {reason}")


# --- one plugin, at run time -----------------------------------------------------------------------------------------


class PluginError(BlackholeError):
    """Something about one plugin failed. ``plugin`` is the printed id, such as ``counter@1.2.0``."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin = plugin
        super().__init__(message)


class LoadFailed(PluginError):
    """A plugin could not be loaded. Nothing of it is left behind; it stays listed as FAILED and may be retried."""

    def __init__(self, plugin: str, reason: str) -> None:
        self.reason = reason
        super().__init__(plugin, f"plugin {plugin} could not be loaded: {reason}")


class CallTimeout(PluginError, TimeoutError):
    """The caller's deadline passed. The call may still be running, or may never have begun.

    ``stack`` is where the plugin's code stood then, lines as a traceback has them; empty when that is not known.
    """

    def __init__(self, plugin: str, hook: str, seconds: float, *, where: str = "", stack: Sequence[str] = ()) -> None:
        self.hook = hook
        self.seconds = seconds
        self.stack = tuple(stack)
        detail = f" ({where})" if where else ""
        sentence = f"hook {hook!r} of plugin {plugin} gave no answer within {seconds:g} s{detail}"
        super().__init__(plugin, "\n".join([sentence, *_listed("where it stood:", self.stack)]))


class WorkerDied(PluginError):
    """The worker ended while this call was on it.

    ``exit`` is the exit status, negative for a signal, ``None`` when it could not be read (user code reaped the child).
    ``executed`` is ``"unknown"`` when the call may have taken effect and ``"no"`` when it provably had not begun.
    ``tail`` holds the worker's last log lines, oldest first. ``reason`` is why the host ended it, None when it ended by itself. ``stack`` is where its
    threads stood, as far as that is known: told by itself, or by ``faulthandler`` as it crashed.
    """

    def __init__(
        self,
        plugin: str,
        hook: str,
        *,
        exit: int | None,
        executed: Literal["unknown", "no"] = "unknown",
        tail: Sequence[str] = (),
        reason: str | None = None,
        stack: Sequence[str] = (),
    ) -> None:
        self.hook = hook
        self.exit = exit
        self.executed = executed
        self.tail = tuple(tail)
        self.reason = reason
        self.stack = tuple(stack)
        super().__init__(plugin, _describe_death(f"the worker of plugin {plugin}", hook, exit, executed, self.tail, self.stack))


class PoisonedCall(PluginError):
    """The very call that is made ended workers again and again, so it is not run any more (executed: no); other calls go on.

    ``deaths`` is how many workers it ended, ``call`` names it, as the event ``call.poisoned`` does.
    """

    def __init__(self, plugin: str, hook: str, *, deaths: int, call: str) -> None:
        self.hook = hook
        self.deaths = deaths
        self.call = call
        super().__init__(
            plugin,
            f"hook {hook!r} of plugin {plugin} was not run with these arguments (executed: no): the same call ended {deaths} workers; "
            "release_poison() on the plugin's handle, a reload or a swap has it run again",
        )


class PluginBroken(PluginError):
    """The plugin failed more often than its restart intensity allows; it is not started again by itself."""

    def __init__(self, plugin: str, reason: str) -> None:
        self.reason = reason
        super().__init__(plugin, f"plugin {plugin} is broken and not restarted any more: {reason}; reload it to try again")


class BreakerOpen(PluginError):
    """The plugin failed so often of late that it is not called for a while (executed: no)."""

    def __init__(self, plugin: str, hook: str, *, retry_after: float) -> None:
        self.hook = hook
        self.retry_after = retry_after
        super().__init__(
            plugin,
            f"hook {hook!r} of plugin {plugin} was not called (executed: no): it failed too often and is left alone; try again in {retry_after:.3g} s",
        )


class TooManyCalls(PluginError):
    """As many calls of the plugin wait or run as its ``max_calls`` allows; this one was not made (executed: no)."""

    def __init__(self, plugin: str, hook: str, limit: int) -> None:
        self.hook = hook
        self.limit = limit
        super().__init__(
            plugin,
            f"hook {hook!r} of plugin {plugin} was not called (executed: no): {limit} of its calls wait or run, more are not allowed (max_calls)",
        )


class PluginUnloaded(PluginError):
    """The plugin was unloaded or the host closed while the call waited."""

    def __init__(self, plugin: str, hook: str) -> None:
        self.hook = hook
        super().__init__(plugin, f"plugin {plugin} was unloaded before hook {hook!r} began (executed: no)")


class RemoteError(PluginError):
    """An exception of a type that exists only inside the plugin, or one that must not end the host (``SystemExit``)."""

    def __init__(self, plugin: str, type_name: str, message: str, traceback: str = "") -> None:
        self.type_name = type_name
        self.message = message
        self.traceback = traceback
        self.wire: object = None  #: what it was on the wire, so that it can cross the next boundary as that
        super().__init__(plugin, f"plugin {plugin} raised {type_name}: {message}" if message else f"plugin {plugin} raised {type_name}")


class CannotCross(PluginError, TypeError):
    """A value or declaration that cannot leave or enter a worker; names hook, argument (or result) and type."""

    def __init__(self, plugin: str, hook: str, what: str, type_name: str, advice: str = "") -> None:
        self.hook = hook
        self.what = what
        self.type_name = type_name
        tail = f"; {advice}" if advice else ""
        super().__init__(plugin, f"{what} of hook {hook!r} of plugin {plugin} cannot cross a process boundary: {type_name}{tail}")


class LimitExceeded(PluginError):
    """A stated limit was passed: ``limit`` names it, ``wanted`` and ``got`` are in its unit."""

    def __init__(self, plugin: str, limit: str, *, wanted: float, got: float, unit: str) -> None:
        self.limit = limit
        self.wanted = wanted
        self.got = got
        self.unit = unit
        super().__init__(plugin, f"plugin {plugin} passed its limit {limit}: at most {wanted:g} {unit}, got {got:g} {unit}")


class WorkerOverLimit(WorkerDied, LimitExceeded):
    """The worker ended while this call was on it, because it passed a limit. Both a :class:`WorkerDied` and a :class:`LimitExceeded`.

    ``detail`` says more of what was passed, empty when there is no more.
    """

    def __init__(
        self,
        plugin: str,
        hook: str,
        limit: str,
        *,
        wanted: float,
        got: float,
        unit: str,
        detail: str = "",
        exit: int | None,
        executed: Literal["unknown", "no"] = "unknown",
        tail: Sequence[str] = (),
        reason: str | None = None,
        stack: Sequence[str] = (),
    ) -> None:
        self.limit, self.wanted, self.got, self.unit, self.detail = limit, wanted, got, unit, detail
        self.hook, self.exit, self.executed = hook, exit, executed
        self.tail, self.reason, self.stack = tuple(tail), reason, tuple(stack)
        passed = (
            f"plugin {plugin} passed its limit {limit}: at most {wanted:g} {unit}, got {got:g} {unit}{f' ({detail})' if detail else ''}"
        )
        PluginError.__init__(self, plugin, f"{passed}; {_describe_death('its worker', hook, exit, executed, self.tail, self.stack)}")


class PermissionDenied(PluginError):
    """The plugin asks for something it was not granted. ``missing`` names it, in canonical spelling; ``command`` is what grants it, or empty."""

    def __init__(self, plugin: str, missing: Sequence[str], *, command: str = "") -> None:
        self.missing = tuple(missing)
        self.command = command
        how = (
            f"grant it with: {command}" if command else "not all of it can be granted, because this version checks no signatures of plugins"
        )
        super().__init__(plugin, f"plugin {plugin} asks for {', '.join(self.missing)}, and was not granted that; {how}")


class ProtocolError(BlackholeError):
    """Bytes that are not our protocol. Whoever sent them is at fault and is cut off."""


# --- swap and state --------------------------------------------------------------------------------------------------


class SwapFailed(PluginError):
    """A swap that did not happen: the old version serves on with its state. ``phase`` names the step that failed."""

    def __init__(self, plugin: str, phase: str, cause: BaseException | str) -> None:
        self.phase = phase
        self.cause = cause
        reason = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(plugin, f"swap of plugin {plugin} failed in phase {phase!r}, the old version serves on: {reason}")


class SwapInProgress(PluginError):
    """Another load, unload or swap of the same plugin is running."""

    def __init__(self, plugin: str, running: str) -> None:
        self.running = running
        super().__init__(plugin, f"plugin {plugin} is busy: {running} is in progress; try again when it has ended")


class StateError(BlackholeError):
    """A snapshot that cannot be taken, kept or given back."""


class SnapshotDamaged(StateError):
    """A file that is not a whole snapshot of this plugin written by us. ``path`` is the file, ``reason`` what is wrong."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"snapshot {path} is not usable: {reason}")


class NoMigrationPath(StateError):
    """No chain of migrations leads from the state's version to the wanted one. Nothing was stopped."""

    def __init__(self, plugin: str, have: int, want: int, detail: str = "") -> None:
        self.plugin = plugin
        self.have = have
        self.want = want
        tail = f" ({detail})" if detail else ""
        super().__init__(f"state of plugin {plugin} is version {have}, version {want} is wanted, and no migration leads there{tail}")


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    """Return ``lines`` indented under ``title``; nothing when there are none."""
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _describe_death(who: str, hook: str, exit: int | None, executed: str, tail: Sequence[str], stack: Sequence[str]) -> str:
    told = set(stack) <= set(tail)  # faulthandler's report is among the last lines, unless it is long
    sentence = f"{who} {describe_exit(exit)} during hook {hook!r} (executed: {executed})"
    return "\n".join([sentence, *_listed("last lines it wrote:", tail), *_listed("where it stood:", () if told else stack)])


def describe_exit(status: int | None) -> str:
    """Say in words how a process ended: ``"was killed by SIGKILL"``, ``"exited with status 3"``."""
    if status is None:
        return "ended with an unknown status"
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"exited with status {status}"
