"""The way back through wrappers once something has raised: pluggy's rules, step for step.

The compiled callers write the way back out for results; exceptions are rare and come here. An exception is thrown into each
wrapper that is still inside its ``yield``, newest first; a wrapper may let it pass, raise another one, or end with a result,
which the wrappers outside of it then get.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

from pluggy._callers import _raise_wrapfail

__all__ = ["second_yield", "unwind"]

Wrapper: TypeAlias = Generator[Any, Any, Any]


def unwind(wrappers: Sequence[Wrapper], error: BaseException, ended: Callable[[int, bool], object] | None = None) -> Any:
    """Take ``error`` through ``wrappers``, newest first; return what the last of them ended with, or raise what is left.

    ``ended`` is told of each wrapper that is over: its place, counted from the outermost, and whether it brought an error of its own.
    """
    __tracebackhide__ = True
    failure: BaseException | None = error
    before: BaseException | None = None
    result: Any = None
    for place, wrapper in zip(range(len(wrappers) - 1, -1, -1), wrappers, strict=True):
        before = failure
        yielded_again = False
        try:
            if failure is None:
                wrapper.send(result)
                yielded_again = True
            else:
                yielded_again = _throw(wrapper, failure)
            if yielded_again:
                wrapper.close()
        except StopIteration as stop:
            result, failure, yielded_again = stop.value, None, False
        except BaseException as raised:
            failure, yielded_again = raised, False
        if ended is not None:
            ended(place, yielded_again or (failure is not None and failure is not before))
        if yielded_again:
            _raise_wrapfail(wrapper, "has second yield")
    if failure is None:
        return result
    try:
        raise failure
    finally:
        del failure, before, error  # their tracebacks hold this frame


def _throw(wrapper: Wrapper, failure: BaseException) -> bool:
    """Throw ``failure`` into ``wrapper``; False when it is a StopIteration that only Python's generators turned into something else."""
    try:
        wrapper.throw(failure)
    except RuntimeError as changed:
        if isinstance(failure, StopIteration) and changed.__cause__ is failure:
            wrapper.close()
            return False
        raise
    return True


def second_yield(wrapper: Wrapper) -> BaseException:  # noqa: RET503 - the last line never returns
    """End a wrapper that yielded again: pluggy's error, unless closing it raises, which then counts as what it raised."""
    try:
        wrapper.close()
    except BaseException as raised:
        return raised
    _raise_wrapfail(wrapper, "has second yield")
