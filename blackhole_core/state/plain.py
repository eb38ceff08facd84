"""What a plugin's state may consist of, and the check that says where a state breaks the rule.

Plain data is ``None``, ``bool``, ``int`` (64 bit), ``float``, ``str``, ``bytes``, ``list`` and ``dict`` with ``str`` keys, of exactly these types: a
``Counter``, an ``IntEnum`` or a ``tuple`` would come back as something else than it went in, so it is refused rather than changed. Whatever
passes here is written and read back equal. The walk keeps its own stack, so no depth and no cycle can end it with ``RecursionError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from blackhole_core.errors import StateError

__all__ = ["MAX_DEPTH", "STATE_CAP", "plain"]

#: Bytes of one encoded state. A swap holds the old state, its encoding and the new state at once, so the host needs about three times
#: this; what is larger belongs into a file or database of the plugin's own, with the state naming it.
STATE_CAP: Final = 256 * 1024 * 1024

#: Lists and dicts inside each other. The encoder recurses in C against the interpreter's limit of 1000 frames, and the caller's own
#: stack is part of that; real state is rarely deeper than 10.
MAX_DEPTH: Final = 200

INT_MIN: Final = -(2**63)  #: what MessagePack can hold
INT_MAX: Final = 2**64 - 1

_HARMLESS: Final = frozenset({type(None), bool, float})
_PLAIN: Final = "None, bool, int, float, str, bytes, list, dict with str keys"

#: What to write instead of the types that people try most.
_ADVICE: Final = {
    "tuple": "use list(...)",
    "set": "use sorted(...) or list(...)",
    "frozenset": "use sorted(...) or list(...)",
    "bytearray": "use bytes(...)",
    "memoryview": "use bytes(...)",
    "datetime": "use .isoformat() or .timestamp()",
    "date": "use .isoformat()",
    "Decimal": "use str(...)",
    "Path": "use str(...)",
    "PosixPath": "use str(...)",
    "UUID": "use str(...)",
}


def plain(data: Any, *, what: str = "state", limit: int = STATE_CAP) -> None:
    """Raise :class:`StateError` unless ``data`` is plain data that fits into ``limit`` bytes.

    ``what`` names the data in the sentence and begins the path of the offending value: ``state.items[3]``. The size is a lower bound (one
    byte per value plus the length of each text), so that a state of gigabytes is refused before it is encoded a second time.
    """
    walk = _Walk(what, limit)
    try:
        walk.run(data)
    except RuntimeError as error:  # "dictionary changed size during iteration"
        raise StateError(f"{walk.path()} was changed while it was read ({error}): return a copy that nobody else writes to") from error


@attrs.define(eq=False)
class _Frame:
    """One container the walk is inside of: what is left of it, and the key it is at."""

    container: list[Any] | dict[Any, Any]
    rest: Iterator[tuple[Any, Any]]
    keyed: bool
    key: Any = None


@attrs.define(eq=False)
class _Walk:
    """A walk through the data, depth first. ``left`` is what may still come, in bytes, ``inside`` the ids of the containers in ``stack``."""

    what: str
    limit: int
    left: int = attrs.field(init=False)
    stack: list[_Frame] = attrs.field(factory=list)
    inside: set[int] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.left = self.limit

    def run(self, data: Any) -> None:
        self.visit(data)
        while self.stack:
            self.advance(self.stack[-1])

    def advance(self, frame: _Frame) -> None:
        """Go on in ``frame`` until a container in it was entered, or to its end and out of it."""
        keyed = frame.keyed
        for key, value in frame.rest:
            frame.key = key
            if keyed and not (type(key) is str and key.isascii()):
                self.check_key(key)
            if type(value) not in _HARMLESS and self.visit(value):
                return
        self.stack.pop()
        self.inside.discard(id(frame.container))

    def visit(self, value: Any) -> bool:
        """Check one value; return whether it is a container that was entered."""
        kind = type(value)
        if kind is int:
            self.check_int(value)
        elif kind is str:
            self.check_text(value)
        elif kind is dict:
            self.enter(_Frame(value, iter(value.items()), keyed=True))
            return True
        elif kind is list:
            self.enter(_Frame(value, enumerate(value), keyed=False))
            return True
        elif kind is bytes:
            self.spend(len(value))
        elif kind not in _HARMLESS:
            raise StateError(f"{self.path()} is a {_type_name(value)}, wanted plain data ({_PLAIN}){_advice(value)}")
        return False

    def enter(self, frame: _Frame) -> None:
        if id(frame.container) in self.inside:
            raise StateError(f"{self.path()} contains itself: state must be a tree, refer to a parent by a key instead")
        if len(self.stack) == MAX_DEPTH:
            raise StateError(f"{self.what} is nested more than {MAX_DEPTH} deep: flatten it (reached at {_short(self.path())})")
        self.spend(1 + len(frame.container))  # one byte for itself and for each value in it, at least
        self.stack.append(frame)
        self.inside.add(id(frame.container))

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise StateError(f"{self.what} is larger than {self.limit} bytes: keep bulk data in a file and put its name into the state")

    def check_key(self, key: Any) -> None:
        if type(key) is str:
            self.check_text(key)
            return
        holder = _path(self.what, self.stack[:-1])
        raise StateError(
            f"{holder} has the key {_short(ascii(key))} of type {_type_name(key)}, wanted str keys: use str(key), or a list of pairs"
        )

    def check_text(self, text: str) -> None:
        self.spend(len(text))
        if text.isascii():
            return
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise StateError(f"{self.path()} is text that is not valid Unicode ({error.reason}): keep it as bytes") from error

    def check_int(self, value: int) -> None:
        if not INT_MIN <= value <= INT_MAX:
            raise StateError(f"{self.path()} is an int of {value.bit_length()} bits, wanted at most 64: write it as str(...)")

    def path(self) -> str:
        return _path(self.what, self.stack)


def _path(what: str, stack: list[_Frame]) -> str:
    return what + "".join(_member(frame.key) if frame.keyed else f"[{frame.key}]" for frame in stack)


def _member(key: Any) -> str:
    return f".{key}" if type(key) is str and key.isidentifier() else f"[{_short(ascii(key))}]"


def _short(text: str) -> str:
    """Return ``text`` cut to a length that fits a sentence."""
    return text if len(text) <= 60 else text[:57] + "..."


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"


def _advice(value: Any) -> str:
    """Say what to write instead; a subclass of a plain type is told its plain form."""
    known = _ADVICE.get(type(value).__name__)
    if known is None:
        base = next((base.__name__ for base in (dict, list, str, bytes, int, float) if isinstance(value, base)), None)
        known = f"use {base}(...)" if base else None
    return f"; {known}" if known else ""
