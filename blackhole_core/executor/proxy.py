"""What the hook manager sees of a plugin that does not run in the caller's thread.

The proxy carries one function per implementation, with the very argument names and pluggy options of the real one, so
pluggy's own registration, validation and ordering work on it unchanged. The names may come from a worker: they are checked,
and they never become source text.
"""

from __future__ import annotations

import functools
import keyword
import types
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Final

from blackhole_core.messages import Calls, Columns, Implementation, Replies, Surface

__all__ = ["PluginProxy", "check_names", "make_proxy", "wrapper_stub"]

#: Characters of a name; arguments of a function. More than anybody writes by hand.
_MAX_NAME: Final = 200
_MAX_ARGUMENTS: Final = 100


class PluginProxy:
    """Stands for a plugin that runs elsewhere. Its functions are its instance attributes."""

    #: Telemetry times each call that leaves the thread.
    __elsewhere__: ClassVar = True

    def __init__(self, label: str) -> None:
        self.__label = label

    def __repr__(self) -> str:
        return f"<plugin {self.__label}>"


def check_names(surface: Surface) -> None:
    """Refuse what could not stand in a program.

    :raises ValueError: a name that is none, or that something else has already.
    """
    attributes = [implementation.attribute for implementation in surface.implementations]
    for implementation in surface.implementations:
        names = (implementation.attribute, implementation.hook, *implementation.argnames)
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__") or len(name) > _MAX_NAME:
                raise ValueError(f"{name[:_MAX_NAME]!r} is not a usable name for a hook or an argument")
        if len(set(implementation.argnames)) < len(implementation.argnames) or len(implementation.argnames) > _MAX_ARGUMENTS:
            raise ValueError(f"the implementation of hook {implementation.hook!r} names an argument twice, or more than {_MAX_ARGUMENTS}")
        if implementation.hook != (implementation.options.get("specname") or implementation.attribute):
            raise ValueError(
                f"{implementation.attribute!r} says that it implements {implementation.hook!r}, its options say something else"
            )
    if len(set(attributes)) < len(attributes):
        raise ValueError("two implementations have the same name")


def make_proxy(
    label: str,
    project: str,
    surface: Surface,
    call: Callable[[int, Implementation], Callable[..., Any]],
    call_many: Callable[[Calls], Replies] | None = None,
    *,
    kind: type[PluginProxy] = PluginProxy,
) -> PluginProxy:
    """Return a proxy whose function for implementation ``i`` forwards its arguments to ``call(i, implementation)``.

    With ``call_many`` each function that is no generator has an attribute ``__call_many__``: called with the values of each argument, the number of
    calls and whether a failure makes those after it useless, it returns :class:`Replies`.

    :raises ValueError: see :func:`check_names`.
    """
    check_names(surface)
    proxy = kind(label)
    for index, implementation in enumerate(surface.implementations):
        stub = _with_signature(implementation, call(index, implementation))
        setattr(stub, f"{project}_impl", dict(implementation.options))
        if call_many is not None and not implementation.is_generator:
            stub.__dict__["__call_many__"] = functools.partial(_call_many, call_many, implementation.hook, index)
        setattr(proxy, implementation.attribute, stub)
    return proxy


def _call_many(
    call_many: Callable[[Calls], Replies], hook: str, index: int, columns: Columns, count: int, stop_at_failure: bool
) -> Replies:
    return call_many(Calls(hook, columns, count, index, stop_at_failure))


def _with_signature(implementation: Implementation, target: Callable[..., Any]) -> types.FunctionType:
    """Return a function with exactly the implementation's argument names that calls ``target`` with their values.

    pluggy reads the names off the code object, so that is where they are put.
    """
    code = _template(len(implementation.argnames), is_generator=implementation.is_generator).replace(
        co_varnames=implementation.argnames, co_name=implementation.attribute, co_qualname=implementation.attribute
    )
    return types.FunctionType(code, {"_target": target}, implementation.attribute)


@functools.cache
def _template(arity: int, *, is_generator: bool) -> types.CodeType:
    """Return the code of ``def stub(a0, …): return _target(a0, …)``."""
    arguments = ", ".join(f"a{number}" for number in range(arity))
    body = f"return (yield from _target({arguments}))" if is_generator else f"return _target({arguments})"
    module = compile(f"def stub({arguments}):\n    {body}\n", "<blackhole stub>", "exec")
    return next(constant for constant in module.co_consts if isinstance(constant, types.CodeType))


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
