"""Exceptions on their way across a process boundary: to data on one side, back to an exception on the other.

Only exception types that exist on the caller's side are made again: the builtins, and those in the modules of the host's
hook specs. Any other becomes :class:`~blackhole_core.errors.RemoteError`, which carries the name and the text. Nothing is
imported and nothing is unpickled for it.
"""

from __future__ import annotations

import builtins
import itertools
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from blackhole_core.errors import CannotCross, LimitExceeded, ProtocolError, RemoteError
from blackhole_core.executor.wire.codec import MAX_CONTROL, MAX_GROUP, WireFailure, encode
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain
from blackhole_core.messages import attribution
from blackhole_core.printable import printable

__all__ = ["Rebuilder", "attribute", "cannot_cross", "to_wire", "too_large", "type_name"]

#: ``WireFailure.module`` of the failures that are the wire's own and not the plugin's.
_OWN: Final = "blackhole:wire"

#: Characters of a type's name.
_MAX_NAME: Final = 200
#: Bytes of the encoded argument tuple of an exception; larger ones cross as text only.
_MAX_ARGS: Final = 256 * 1024
#: Causes of causes, groups in groups; also the notes of one exception.
_MAX_DEPTH: Final = 8
#: Bytes of a whole failure, which must fit into a message.
_MAX_FAILURE: Final = MAX_CONTROL - 4096

_T = TypeVar("_T")


def attribute(error: BaseException, plugin: object, hook: str, level: object) -> None:
    """Note on ``error`` where it came from. An exception object that is raised again does not collect copies of the note."""
    note = attribution(plugin, hook, level)
    try:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    except Exception:  # its class made ``__notes__`` something else: the error must reach its caller all the same
        return


def type_name(kind: type) -> str:
    """Return the name of an exception type as it crosses: with its module, but for builtins."""
    module, name = _names(kind)
    return name if module == "builtins" else f"{module}.{name}"


def to_wire(error: BaseException) -> WireFailure:
    """Describe ``error``; never raises, however strange the exception is."""
    failure = _Description().describe(error, 0)
    if len(encode(failure)) > _MAX_FAILURE:
        failure = msgspec.structs.replace(failure, args=None, notes=(), cause=None, group=())
    return failure


def cannot_cross(what: str, type_name: str, advice: str = "") -> WireFailure:
    """Describe a value that cannot leave the worker; the host makes a :class:`CannotCross` of it."""
    return WireFailure(_OWN, "cannot_cross", "", args=encode_plain((printable(what), printable(type_name), printable(advice))))


def too_large(size: int, cap: int) -> WireFailure:
    """Describe a result of ``size`` bytes where ``cap`` are allowed; the host makes a :class:`LimitExceeded` of it."""
    return WireFailure(_OWN, "too_large", "", args=encode_plain((size, cap)))


class _Description:
    """Describes one exception and those it was raised from or groups, :data:`MAX_GROUP` in all."""

    def __init__(self) -> None:
        self._left = MAX_GROUP

    def describe(self, error: BaseException, depth: int) -> WireFailure:
        self._left -= 1
        known = getattr(error, "wire", None) if type(error) is RemoteError else None
        if isinstance(known, WireFailure):
            return msgspec.structs.replace(known, traceback=_traceback(error), notes=_notes(error))
        module, name = _names(type(error))
        group: tuple[BaseException, ...] = ()
        if isinstance(error, BaseExceptionGroup):
            group = _safely(lambda: tuple(itertools.islice(error.exceptions, MAX_GROUP)), ())
        return WireFailure(
            module,
            name,
            message=printable(_safely(lambda: str(error), "<unprintable>")),
            args=None if group else _encoded_args(error),
            traceback=_traceback(error) if depth == 0 else "",
            notes=_notes(error),
            cause=next(self._inner(depth, error.__cause__), None),
            group=tuple(self._inner(depth, *group)),
        )

    def _inner(self, depth: int, *errors: BaseException | None) -> Any:
        for error in errors:
            if error is not None and depth < _MAX_DEPTH and self._left > 0:
                yield self.describe(error, depth + 1)


def _names(kind: type) -> tuple[str, str]:
    """Return module and qualified name of a type, whatever its metaclass makes of them."""
    module = _safely(lambda: printable(str(kind.__module__), _MAX_NAME), "unknown")
    return module, _safely(lambda: printable(kind.__qualname__, _MAX_NAME), "unknown")


def _notes(error: BaseException) -> tuple[str, ...]:
    return _safely(lambda: tuple(printable(str(note)) for note in getattr(error, "__notes__", ())[:_MAX_DEPTH]), ())


def _traceback(error: BaseException) -> str:
    if _safely(lambda: _is_endless(error), True):
        return printable(_safely(lambda: "".join(traceback.format_tb(error.__traceback__)), ""))
    return printable(_safely(lambda: "".join(traceback.format_exception(error)), ""))


def _is_endless(error: BaseException) -> bool:
    """Whether it groups so many exceptions that formatting them all, which branches at every group, would not end."""
    left, pending = MAX_GROUP, [error]
    while pending and left:
        left -= 1
        one = pending.pop()
        pending += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return bool(pending)


def _safely(get: Callable[[], _T], fallback: _T) -> _T:
    try:
        return get()
    except BaseException:  # a plugin's __str__ may do anything; its failure must not hide the first one
        return fallback


def _encoded_args(error: BaseException) -> bytes | None:
    try:
        data = encode_plain(tuple(_safely(lambda: error.args, ())))
    except NotPlain:
        return None
    return data if len(data) <= _MAX_ARGS else None


class Rebuilder:
    """Makes exceptions from the other side again.

    ``plugin`` is blamed for those of unknown type, ``where`` says in words whose traceback it is (``the worker of plugin x``), ``known`` finds
    this side's own exception types by module and name.
    """

    def __init__(self, plugin: str, where: str, known: Callable[[str, str], type[Exception] | None]) -> None:
        self._plugin = plugin
        self._where = where
        self._known = known

    def rebuild(self, failure: WireFailure, hook: str) -> Exception:
        """Return the exception the caller gets, with its notes, its cause, and the remote traceback as a note."""
        if failure.module == _OWN:
            return self._own(failure, hook)
        error = self._make(failure, 0)
        if failure.traceback:
            error.add_note(f"traceback in {self._where}:\n{printable(failure.traceback).rstrip()}")
        return error

    def _own(self, failure: WireFailure, hook: str) -> Exception:
        try:
            details = decode_plain(failure.args or b"")
            if failure.name == "too_large":
                size, cap = details
                return LimitExceeded(self._plugin, "max_message", wanted=int(cap), got=int(size), unit="bytes")
            what, type_name, advice = details
            return CannotCross(self._plugin, hook, printable(what), printable(type_name), printable(advice))
        except (ValueError, TypeError, OverflowError, ProtocolError):
            return ProtocolError(f"plugin {self._plugin} sent a failure report that cannot be read: {printable(repr(failure), 200)}")

    def _make(self, failure: WireFailure, depth: int) -> Exception:
        error = self._typed(failure, depth) or self._remote(failure)
        try:
            for note in failure.notes[:_MAX_DEPTH]:
                error.add_note(printable(note))
        except TypeError:  # a type of the host's API that wants its notes to be something else
            error = self._remote(failure)
        if failure.cause is not None and depth < _MAX_DEPTH:
            error.__cause__ = self._make(failure.cause, depth + 1)
        return error

    def _typed(self, failure: WireFailure, depth: int) -> Exception | None:
        """Return the exception as an object of its own type, None when that type is not known here or cannot be made from what came."""
        kind = _builtin(failure.name) if failure.module == "builtins" else self._known(failure.module, failure.name)
        if kind is None:
            return None
        try:
            if failure.group and issubclass(kind, ExceptionGroup):
                return kind(failure.message.rpartition(" (")[0], [self._make(inner, depth + 1) for inner in failure.group])
            if failure.args is None:
                return None
            made: object = kind(*decode_plain(failure.args))
        except Exception:  # the type wants other arguments than it keeps, or none that come from elsewhere: the text says what it was
            return None
        return made if isinstance(made, Exception) else None

    def _remote(self, failure: WireFailure) -> RemoteError:
        name = printable(failure.name if failure.module == "builtins" else f"{failure.module}.{failure.name}", 2 * _MAX_NAME)
        error = RemoteError(self._plugin, name, printable(failure.message), printable(failure.traceback))
        error.wire = failure  # it may be on its way through: the next side may know the type
        return error


def _builtin(name: str) -> type[Exception] | None:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
