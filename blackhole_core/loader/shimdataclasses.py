"""``dataclasses`` compiles the methods of a class from text, the same text each time the class is made: here it is compiled once.

That is 40 % of the time in which a plugin's modules run again at a reload. ``exec`` of a text means compiling it and running the code, so keeping what
compiling gave changes nothing but the number of `compile` audit events: each class gets code objects of its own, made from the kept bytes in a twentieth of the
time. Code objects are not shared because CPython specialises them for the classes that they meet.
"""

from __future__ import annotations

import functools
import marshal
from types import ModuleType
from typing import Any, Final

__all__ = ["install_dataclasses"]

#: Texts kept. One takes about 1.5 KB with its code, and a data class has six, most of them in common with other classes.
_MOST: Final = 1024

# The real ones: a shim of our own may stand in their place later.
_dumps, _loads = marshal.dumps, marshal.loads


def install_dataclasses(dataclasses: ModuleType) -> None:
    """Have the module run what it writes from kept code: a global of the name that it calls stands before the built-in function."""
    dataclasses.exec = _exec  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched


def _exec(text: str, namespace: dict[str, Any], variables: dict[str, Any]) -> None:
    exec(_loads(_compiled(text)), namespace, variables)  # noqa: S102  (what it replaces does; the bytes are our own)


@functools.lru_cache(_MOST)
def _compiled(text: str) -> bytes:
    # "<string>" is what exec calls a text; dont_inherit keeps this module's own __future__ statement out of it.
    return _dumps(compile(text, "<string>", "exec", dont_inherit=True))
