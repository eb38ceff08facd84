"""What the hook manager sees of a plugin that does not run in the caller's thread.

The proxy carries one function per implementation, with the very argument names and pluggy options of the real one, so
pluggy's own registration, validation and ordering work on it unchanged.
"""

from __future__ import annotations

import keyword
import types
from collections.abc import Callable, Generator
from typing import Any

from blackhole_core.messages import Implementation, Surface

__all__ = ["PluginProxy", "make_proxy", "wrapper_stub"]


class PluginProxy:
    """Stands for a plugin that runs elsewhere. Its functions are its instance attributes."""

    def __init__(self, label: str) -> None:
        self.__label = label

    def __repr__(self) -> str:
        return f"<plugin {self.__label}>"


def make_proxy(label: str, project: str, surface: Surface, call: Callable[[int, Implementation], Callable[..., Any]]) -> PluginProxy:
    """Return a proxy whose function for implementation ``i`` forwards its arguments to ``call(i, implementation)``."""
    proxy = PluginProxy(label)
    for index, implementation in enumerate(surface.implementations):
        stub = _with_signature(implementation, call(index, implementation))
        setattr(stub, f"{project}_impl", dict(implementation.options))
        setattr(proxy, implementation.attribute, stub)
    return proxy


def _with_signature(implementation: Implementation, target: Callable[..., Any]) -> types.FunctionType:
    """Return a function with exactly the implementation's argument names that calls ``target`` with their values."""
    names = (implementation.attribute, *implementation.argnames)
    for name in names:
        # The names may come from a worker, and they become source text here.
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} is not a usable name for a hook or an argument")
    arguments = ", ".join(implementation.argnames)
    body = f"return (yield from _target({arguments}))" if implementation.is_generator else f"return _target({arguments})"
    namespace: dict[str, Any] = {"_target": target}
    exec(compile(f"def {implementation.attribute}({arguments}):\n    {body}\n", "<blackhole stub>", "exec"), namespace)  # noqa: S102 - checked names
    stub: types.FunctionType = namespace[implementation.attribute]
    return stub


def wrapper_stub(call: Callable[[Callable[..., Any], tuple[Any, ...]], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a generator function that drives ``function``, a hook wrapper, with every step made through ``call(step, args)``.

    Used where the wrapper's code must run on the plugin's thread and the hook call on the caller's.
    """

    def stub(*args: Any) -> Generator[Any, Any, Any]:
        generator = function(*args)
        done, value = call(_step, (generator.__next__, ()))
        while not done:
            try:
                sent = yield value
            except GeneratorExit:
                call(generator.close, ())
                raise
            except BaseException as error:
                done, value = call(_step, (generator.throw, (error,)))
            else:
                done, value = call(_step, (generator.send, (sent,)))
        return value

    return stub


def _step(advance: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    """Advance a generator: (False, what it yields) or (True, what it returns)."""
    try:
        return False, advance(*args)
    except StopIteration as stop:
        return True, stop.value
