"""How the values of one plugin's implementations travel, seen from its worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from blackhole_core.executor.hosted import Hosted
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim
from blackhole_core.executor.wire.parcels import Shelf, TooLarge
from blackhole_core.executor.wire.plain import NotPlain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ResultEncoder, Undecodable
from blackhole_core.executor.wire.types import annotations_of, type_of_expression

__all__ = ["WorkerBinding", "describe", "encode_argument", "settle"]


class WorkerBinding:
    """How one implementation's arguments and results travel."""

    __slots__ = ("arguments", "function", "hook", "result")

    def __init__(self, hook: str, function: Callable[..., Any], argnames: tuple[str, ...], types: codec.BoundTypes) -> None:
        own = annotations_of(function)
        wanted = [
            type_of_expression(expression) if expression is not None else own.get(name, Any)
            for name, expression in zip(argnames, types.args, strict=True)
        ]
        self.function: Final = function
        self.arguments: Final = ArgumentsDecoder(wanted)
        self.result: Final = ResultEncoder(types.open_result)
        self.hook: Final = hook

    def call(self, data: bytes | msgspec.Raw | Claim, shelf: Shelf | None) -> bytes:
        """Call the implementation with the arguments that ``data`` holds, and return its result, large parts of which go to ``shelf``.

        :raises NotPlain: the result cannot cross.
        """
        try:
            args = self.arguments.decode(data)
        except Undecodable as error:
            raise TypeError(f"an argument of hook {self.hook!r} is not what its annotation says: {error}") from None
        result = self.function(*args)
        return self.result.encode(settle(result) if hasattr(result, "__await__") else result, shelf)


def encode_argument(name: str, value: Any, hook: str, info: codec.HookInfo, shelf: Shelf | None) -> bytes:
    try:
        return ResultEncoder(name not in info.typed_args).encode(value, shelf)
    except TooLarge as error:
        raise ValueError(f"argument {name!r} of hook {hook!r} has {error.size} bytes, more than max_message allows") from None
    except NotPlain as error:
        raise TypeError(f"argument {name!r} of hook {hook!r} cannot leave the worker: {error}") from None


def settle(result: Any) -> Any:
    """Run a coroutine to its end: only its result can cross."""
    if hasattr(result, "__await__"):
        import asyncio

        async def finish() -> Any:
            return await result

        return asyncio.run(finish())
    return result


def describe(hosted: Hosted) -> list[codec.ImplementationInfo]:
    return [
        codec.ImplementationInfo(
            attribute=implementation.attribute,
            hook=implementation.hook,
            argnames=implementation.argnames,
            options={name: value for name, value in implementation.options.items() if isinstance(value, str | bool | None)},
            is_generator=implementation.is_generator,
            annotated=tuple(name for name in implementation.argnames if name in annotations_of(function)),
        )
        for implementation, function in zip(hosted.surface.implementations, hosted.implementations, strict=True)
    ]
