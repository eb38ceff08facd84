"""What somebody typed for a hook's arguments, as the values the hook's spec asks for. Pure.

A text is tried as JSON first; where the spec wants a ``str``, a text that is not a JSON string stands for itself. So ``amount=3`` is a
number, ``text=3`` the text "3", ``note={"title": "x"}`` becomes the dataclass that the spec names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from blackhole_core.errors import BlackholeError

__all__ = ["ArgumentProblem", "read_arguments", "read_text"]


class ArgumentProblem(BlackholeError):
    """The arguments do not fit the hook's spec."""


def read_arguments(hook: str, wanted: Sequence[str], types: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values for a call of ``hook``, whose spec takes ``wanted`` and annotates some of them with ``types``.

    :raises ArgumentProblem: names all that is missing, unknown or of another type.
    """
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not among its arguments" for name in given if name not in wanted]
    values = {}
    for name in wanted:
        if name in given:
            try:
                values[name] = read_text(given[name], types.get(name, Any))
            except msgspec.ValidationError as error:
                problems.append(f"{name}: {error}")
    if problems:
        takes = ", ".join(f"{name}: {_name(types[name])}" if name in types else name for name in wanted) or "nothing"
        raise ArgumentProblem(f"hook {hook} takes ({takes}); {'; '.join(problems)}")
    return values


def read_text(text: str, annotation: Any = Any) -> Any:
    """Return the value that ``text`` stands for where ``annotation`` is wanted.

    :raises msgspec.ValidationError: it stands for none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _convert(text, annotation)
    try:
        return _convert(value, annotation)
    except msgspec.ValidationError:
        if isinstance(value, str):
            raise
        try:
            return _convert(text, annotation)  # a text such as 3 or null, where the spec wants a str
        except msgspec.ValidationError:
            pass
        raise


def _convert(value: Any, annotation: Any) -> Any:
    if annotation is Any:
        return value
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        raise
    except TypeError:  # an annotation that msgspec does not know, such as a class of the host's own: taken as it is
        return value


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
