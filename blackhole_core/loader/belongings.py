"""What belongs to one generation of a plugin, told without keeping any of it alive and without running its code.

A function knows the ``__builtins__`` it was defined with, and every generation has builtins of its own: that decides, for functions and for
whatever leads to one (methods, generators, frames, classes, instances). Only ``type(thing)`` is asked, never ``thing``: a plugin's object may
answer ``isinstance`` and ``getattr`` with code.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterator
from typing import Any, Final

from blackhole_core.loader.universe import Universe

__all__ = ["Belongings"]

#: The key under which a released module's namespace holds its canary. Functions keep the namespace alive, not the module.
_CANARY: Final = "__blackhole_canary__"

#: How many wrappers (partials of bound methods of …) are looked through.
_DEPTH: Final = 4

_LRU_WRAPPER: Final = type(functools.lru_cache(int))


class _Token:
    """Lives exactly as long as the namespace it stands in."""

    __slots__ = ("__weakref__", "namespace")

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace


class Belongings:
    """The namespaces and classes of one generation, as weak references. Made when nothing of it is needed any more, before it is released."""

    def __init__(self, universe: Universe) -> None:
        self._names = universe.names
        self._builtins = universe.builtins  # leads to the universe, which forgets its modules at the release
        self._tokens: list[weakref.ref[_Token]] = []
        self._classes: dict[int, weakref.ref[Any]] = {}
        for module in list(universe.registry.values()):
            if issubclass(type(module), types.ModuleType):
                namespace = vars(module)
                if namespace.get("__builtins__") is not self._builtins:
                    continue  # a C extension: it is never unloaded
                token = namespace[_CANARY] = _Token(namespace)
                self._tokens.append(weakref.ref(token))
                self._enter_classes(namespace, namespace.get("__name__"))

    def _enter_classes(self, namespace: Any, module: object) -> None:
        for value in list(namespace.values()):
            if issubclass(type(value), type) and id(value) not in self._classes:
                inside = type.__getattribute__(value, "__dict__")
                if inside.get("__module__") == module:
                    self._classes[id(value)] = weakref.ref(value)
                    self._enter_classes(inside, module)

    @property
    def alive(self) -> list[object]:
        """The namespaces and classes that are still there; holding the list holds them."""
        found: list[object] = [token.namespace for reference in self._tokens if (token := reference()) is not None]
        found += [cls for reference in self._classes.values() if (cls := reference()) is not None]
        return found

    def any_alive(self) -> bool:
        """Whether anything is still there."""
        return any(reference() is not None for reference in (*self._tokens, *self._classes.values()))

    def own(self, thing: object, depth: int = _DEPTH) -> bool:
        """Say whether ``thing`` is this generation's code, or an object that leads straight to it."""
        kind = type(thing)
        if kind is types.FunctionType:
            return _builtins_of(thing) is self._builtins
        if issubclass(kind, type):
            return self._own_class(thing)  # type: ignore[arg-type]  # its type was looked at
        if kind is dict:
            return thing.get("__builtins__") is self._builtins  # type: ignore[attr-defined]  # its type was looked at
        return self._own_class(kind) or (depth > 0 and any(self.own(part, depth - 1) for part in _parts(thing)))

    def owns_frame(self, frame: types.FrameType) -> bool:
        """Say whether a frame runs this generation's code."""
        return frame.f_builtins is self._builtins

    def _own_class(self, cls: type) -> bool:
        known = self._classes.get(id(cls))
        if known is not None and known() is cls:
            return True
        if cls.__flags__ & (1 << 9) == 0:  # Py_TPFLAGS_HEAPTYPE: a C type is nobody's
            return False
        return any(self._defines(base) for base in type.__getattribute__(cls, "__mro__"))

    def _defines(self, cls: type) -> bool:
        namespace = type.__getattribute__(cls, "__dict__")
        known = self._classes.get(id(cls))
        if known is not None and known() is cls:
            return True
        if not self._names.owns(self._names.canonical(str(namespace.get("__module__")))):
            return False  # somebody else's class, into which the plugin may have put a function
        return any(type(value) is types.FunctionType and _builtins_of(value) is self._builtins for value in namespace.values())

    # --- in words ----------------------------------------------------------------------------------------------------

    def describe(self, thing: object) -> str:
        """Return a few words for one of this generation's objects."""
        kind = type(thing)
        for kinds, words in _WORDS:
            if issubclass(kind, kinds):
                return f"{words} {self.name(thing)}"
        return f"an instance of {self.name(kind)}"

    def name(self, thing: Any) -> str:
        """Return the dotted name of a module, class or function, or of what runs one; with its canonical module name."""
        thing = _named(thing)
        kind: type[Any] = type(thing)
        if kind is types.FrameType:
            return f"{thing.f_code.co_qualname} ({thing.f_code.co_filename}:{thing.f_lineno})"
        if kind is dict:
            return self._names.canonical(str(thing.get("__name__")))
        if issubclass(kind, types.ModuleType):
            return self.name(vars(thing))
        if issubclass(kind, type):
            module, name = type.__getattribute__(thing, "__module__"), type.__getattribute__(thing, "__qualname__")
        else:
            module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", kind.__qualname__)
        return self._names.canonical(f"{module}.{name}") if module not in {None, "builtins"} else str(name)


def _named(thing: Any) -> Any:
    """Return the object whose name a wrapper goes by."""
    kind = type(thing)
    if kind is functools.partial:
        return _named(thing.func)
    if kind in {types.MethodType, staticmethod, classmethod}:
        return _named(thing.__func__)
    if kind is _LRU_WRAPPER:
        return vars(thing)["__wrapped__"]
    return thing.tb_frame if kind is types.TracebackType else thing


def _builtins_of(function: Any) -> object:
    return function.__builtins__


_WORDS: Final[tuple[tuple[Any, str], ...]] = (
    (types.FunctionType, "function"),
    (types.MethodType, "method"),
    (type, "class"),
    (types.ModuleType, "module"),
    (dict, "the namespace of module"),
    (functools.partial, "a partial of"),
    (types.GeneratorType, "the suspended generator"),
    (types.AsyncGeneratorType, "the suspended async generator"),
    (types.CoroutineType, "the suspended coroutine"),
    (types.FrameType, "a frame of"),
    (types.TracebackType, "a traceback through"),
    ((staticmethod, classmethod), "method"),
    (_LRU_WRAPPER, "the cached function"),
)


def _parts(thing: Any) -> Iterator[object]:
    """Yield what an object of a well-known kind stands for."""
    kind = type(thing)
    if kind is types.MethodType:
        yield from (thing.__func__, thing.__self__)
    elif kind is functools.partial:
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif kind in (staticmethod, classmethod):
        yield thing.__func__
    elif kind is _LRU_WRAPPER:
        yield vars(thing).get("__wrapped__")
    elif kind is types.ModuleType:
        yield vars(thing)
    elif kind is types.TracebackType:
        yield thing.tb_frame
    elif kind is types.FrameType:
        yield {"__builtins__": thing.f_builtins}
    else:
        for attribute in _FRAMES.get(kind, ()):
            frame = getattr(thing, attribute)
            if frame is not None:
                yield frame


_FRAMES: Final = {
    types.GeneratorType: ("gi_frame",),
    types.CoroutineType: ("cr_frame",),
    types.AsyncGeneratorType: ("ag_frame",),
}
