"""Exceptions on their way across a process boundary: to data on one side, back to an exception on the other.

Only exception types that exist on the caller's side are made again: the builtins, and those in the modules of the host's
hook specs. Any other becomes :class:`~blackhole_core.errors.RemoteError`, which carries the name and the text. Nothing is
imported and nothing is unpickled for it.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable
from typing import Final

from blackhole_core.errors import CannotCross, LimitExceeded, ProtocolError, RemoteError
from blackhole_core.executor.wire.codec import WireFailure
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain

__all__ = ["Rebuilder", "cannot_cross", "printable", "to_wire", "too_large"]

#: ``WireFailure.module`` of the failures that are the wire's own and not the plugin's.
_OWN: Final = "blackhole:wire"

#: Characters of a message or traceback that are sent: enough to debug, too little to flood a log.
_MAX_TEXT: Final = 64 * 1024
#: Bytes of the encoded argument tuple of an exception; larger ones cross as text only.
_MAX_ARGS: Final = 1024 * 1024
#: Causes of causes, groups in groups.
_MAX_DEPTH: Final = 8


def printable(text: str) -> str:
    """Return ``text`` cut to a sane length, with control characters except newline and tab made visible."""
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}… ({len(text) - _MAX_TEXT} more characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def to_wire(error: BaseException, depth: int = 0) -> WireFailure:
    """Describe ``error``; never raises, however strange the exception is."""
    kind = type(error)
    cause = error.__cause__
    group = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    shallow = depth < _MAX_DEPTH
    return WireFailure(
        module=kind.__module__,
        name=kind.__qualname__,
        message=printable(_safely(lambda: str(error), "<unprintable>")),
        args=None if group else _encoded_args(error),
        traceback=printable(_safely(lambda: "".join(traceback.format_exception(error)), "")) if depth == 0 else "",
        notes=tuple(printable(str(note)) for note in getattr(error, "__notes__", ())[:_MAX_DEPTH]),
        cause=to_wire(cause, depth + 1) if cause is not None and shallow else None,
        group=tuple(to_wire(inner, depth + 1) for inner in group[:100]) if shallow else (),
    )


def cannot_cross(what: str, type_name: str, advice: str = "") -> WireFailure:
    """Describe a value that cannot leave the worker; the host makes a :class:`CannotCross` of it."""
    return WireFailure(_OWN, "cannot_cross", "", args=encode_plain((what, type_name, advice)))


def too_large(size: int, cap: int) -> WireFailure:
    """Describe a result of ``size`` bytes where ``cap`` are allowed; the host makes a :class:`LimitExceeded` of it."""
    return WireFailure(_OWN, "too_large", "", args=encode_plain((size, cap)))


def _safely(text: Callable[[], str], fallback: str) -> str:
    try:
        return text()
    except BaseException:  # a plugin's __str__ may do anything; its failure must not hide the first one
        return fallback


def _encoded_args(error: BaseException) -> bytes | None:
    try:
        data = encode_plain(tuple(error.args))
    except (NotPlain, ValueError, TypeError, RecursionError):
        return None
    return data if len(data) <= _MAX_ARGS else None


class Rebuilder:
    """Makes the exceptions of one plugin's worker again. ``known`` finds the host's own exception types by module and name."""

    def __init__(self, plugin: str, level: str, known: Callable[[str, str], type[Exception] | None]) -> None:
        self._plugin = plugin
        self._level = level
        self._known = known

    def rebuild(self, failure: WireFailure, hook: str) -> Exception:
        """Return the exception the caller gets, with its notes, its cause, and the remote traceback as a note."""
        if failure.module == _OWN:
            return self._own(failure, hook)
        error = self._make(failure, 0)
        if failure.traceback:
            error.add_note(f"traceback in the worker of plugin {self._plugin}:\n{printable(failure.traceback).rstrip()}")
        return error

    def _own(self, failure: WireFailure, hook: str) -> Exception:
        try:
            details = decode_plain(failure.args or b"")
            if failure.name == "too_large":
                size, cap = details
                return LimitExceeded(self._plugin, "max_message", wanted=int(cap), got=int(size), unit="bytes")
            what, type_name, advice = details
            return CannotCross(self._plugin, hook, printable(what), printable(type_name), printable(advice))
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"a failure report that cannot be read: {failure!r:.200}") from error

    def _make(self, failure: WireFailure, depth: int) -> Exception:
        error = self._typed(failure, depth)
        for note in failure.notes[:_MAX_DEPTH]:
            error.add_note(printable(note))
        if failure.cause is not None and depth < _MAX_DEPTH:
            error.__cause__ = self._make(failure.cause, depth + 1)
        return error

    def _typed(self, failure: WireFailure, depth: int) -> Exception:
        kind = _builtin(failure.name) if failure.module == "builtins" else self._known(failure.module, failure.name)
        if kind is not None and failure.group and issubclass(kind, ExceptionGroup) and depth < _MAX_DEPTH:
            message = failure.message.rpartition(" (")[0]
            return kind(printable(message), [self._make(inner, depth + 1) for inner in failure.group])
        if kind is not None and failure.args is not None:
            try:
                return kind(*decode_plain(failure.args))
            except (TypeError, ValueError, ProtocolError):
                pass  # the type wants other arguments than it keeps; the text below says what it was
        name = failure.name if failure.module == "builtins" else f"{failure.module}.{failure.name}"
        return RemoteError(self._plugin, printable(name), printable(failure.message), printable(failure.traceback))


def _builtin(name: str) -> type[Exception] | None:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
