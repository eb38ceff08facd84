"""Arguments and results of one plugin's implementations on their way through the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from blackhole_core.errors import CannotCross, LimitExceeded, ProtocolError
from blackhole_core.executor.binding import Binding
from blackhole_core.executor.lane import CAPACITY
from blackhole_core.executor.wire.claims import Claim, decode_open
from blackhole_core.executor.wire.parcels import Shelf, TooLarge
from blackhole_core.executor.wire.plain import NotPlain, encode_plain
from blackhole_core.executor.wire.signature import Undecodable
from blackhole_core.messages import HOST, Surface

__all__ = ["Values"]

#: Bytes of the arguments of many calls in one request: as many as the lane holds.
_MANY_ARGS: Final = CAPACITY - 2048


class Values:
    """Encodes and decodes by ``bindings`` and ``surface``, which whoever brings up a worker sets before it is called."""

    def __init__(self, plugin: str, max_message: int) -> None:
        self._plugin: Final = plugin
        self._max_message: Final = max_message
        self.surface = Surface()
        self.bindings: tuple[Binding, ...] = ()

    def encode(self, hook: str, space: str, index: int, args: tuple[Any, ...], shelf: Shelf | None) -> bytes:
        """Return the arguments of a call encoded; large parts lie in ``shelf``, if there is one.

        :raises CannotCross: one of them cannot. :raises LimitExceeded: together they are larger than a message may be.
        """
        try:
            data = self.bindings[index].arguments.encode(args, shelf) if space == HOST else encode_plain(list(args), shelf)
        except NotPlain as error:
            names = self.surface.implementations[index].argnames if space == HOST else self.surface.contracts.get(hook)
            raise CannotCross(self._plugin, hook, _argument(names or (), error.path), error.type_name) from None
        except TooLarge as error:
            raise LimitExceeded(self._plugin, "max_message", wanted=self._max_message, got=error.size, unit="bytes") from None
        if len(data) > self._max_message:
            raise LimitExceeded(self._plugin, "max_message", wanted=self._max_message, got=len(data), unit="bytes")
        return data

    def encode_some(self, hook: str, index: int, arguments: Sequence[tuple[Any, ...]]) -> list[bytes]:
        """Encode as many of ``arguments`` as fit into one request, the first in any case.

        :raises CannotCross: the first cannot cross; another one ends the list.
        """
        data = [self.encode(hook, HOST, index, arguments[0], None)]  # whose calls have large values is sent one by one soon: they are slow
        size = len(data[0])
        for args in arguments[1:]:
            try:
                one = self.encode(hook, HOST, index, args, None)
            except Exception:
                break  # it is refused when it is the first
            size += len(one)
            if size > _MANY_ARGS:
                break
            data.append(one)
        return data

    def decode(self, hook: str, space: str, index: int, result: bytes | msgspec.Raw | Claim) -> Any:
        """Return the result of a call.

        :raises CannotCross: it is not what the annotation says.
        """
        try:
            return self.bindings[index].result.decode(result) if space == HOST else decode_open(result)
        except (Undecodable, ProtocolError) as error:
            raise CannotCross(self._plugin, hook, "the result", f"not what the spec's annotation says: {error}") from None


def _argument(names: tuple[str, ...], path: str) -> str:
    """Return ``argument 'text'`` (and where in it) from a path that begins with the position: ``[0]['when']``."""
    position, _, rest = path.removeprefix("[").partition("]")
    name = names[int(position)] if position.isdecimal() and int(position) < len(names) else position
    return f"argument {name!r}" + (f" at {rest}" if rest else "")
