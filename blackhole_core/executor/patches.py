"""Attributes of other people's objects that plugins replaced, in layers, so that they can be given back in any order.

While a swap is under way both versions of a plugin have patched the same attribute, the new one on top, and the old one goes
first. So what an attribute was stands here, not in each patch: ``base``, and above it one layer per patch. Taking out a lower layer
changes nothing that is visible; taking out the top one shows the layer below.

Invariant: under ``_lock``, the attribute's value is that of the top layer, unless somebody else has replaced it since. Then it
is not ours to change.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from blackhole_core.executor.leases import Lease, Leases, NotUndone

__all__ = ["Patch"]

#: Stands for an attribute that an object does not have itself, but from its class or a base class.
_INHERITED: Final = object()


class _Spot:
    """One patched attribute. Keeps its object alive, so that the id it is found by stays its own."""

    def __init__(self, target: Any, attribute: str) -> None:
        self.target = target
        self.attribute = attribute
        self.seen = getattr(target, attribute)
        self.base = self.current()
        self.layers: list[Patch] = []

    def current(self) -> Any:
        """Return what stands in the object itself: for a class the ``staticmethod``, not the function in it."""
        if hasattr(self.target, "__dict__"):
            return vars(self.target).get(self.attribute, _INHERITED)
        return getattr(self.target, self.attribute)

    def show(self) -> None:
        """Give the attribute the value of the top layer, or what it was before all of them."""
        value = self.layers[-1].value if self.layers else self.base
        if value is _INHERITED:
            delattr(self.target, self.attribute)
        else:
            setattr(self.target, self.attribute, value)

    def __str__(self) -> str:
        name = getattr(self.target, "__qualname__", None) or getattr(self.target, "__name__", None) or f"a {type(self.target).__qualname__}"
        module = getattr(self.target, "__module__", None)
        return f"{module}.{name}.{self.attribute}" if isinstance(module, str) else f"{name}.{self.attribute}"


#: Patched attributes by the id of the object and the name; guarded by ``_lock``, which is re-entrant because setting an attribute may run code.
_spots: Final[dict[tuple[int, str], _Spot]] = {}
_lock: Final = threading.RLock()


class Patch:
    """A replaced attribute; :meth:`end` gives it back before the plugin stops."""

    def __init__(self, leases: Leases, plugin: str, target: Any, attribute: str, value: Any) -> None:
        """Replace ``target.attribute`` by ``value``.

        :raises AttributeError: there is no such attribute to replace.
        """
        self.value: Any = value
        self._plugin = plugin
        with _lock:
            spot = _spots.get((id(target), attribute)) or _Spot(target, attribute)
            if spot.layers and spot.current() is not spot.layers[-1].value:
                raise RuntimeError(f"{spot} cannot be patched: somebody else replaced it after a plugin had patched it; undo that first")
            spot.layers.append(self)
            try:
                spot.show()
            except BaseException:
                spot.layers.pop()
                raise
            _spots[id(target), attribute] = spot
            self._spot = spot
        self._lease: Lease = leases.add(f"the patch of {spot}", self._undo)

    @property
    def original(self) -> Any:
        """What stood there before, as it is now: other plugins' patches included, those of other generations of this plugin left out."""
        with _lock:
            below = self._spot.layers[: self._spot.layers.index(self)] if self in self._spot.layers else []
            for layer in reversed(below):
                if layer._plugin != self._plugin:
                    return layer.value
            return self._spot.seen if self._spot.base is _INHERITED else self._spot.base

    def end(self) -> None:
        """Give the attribute back now."""
        self._lease.end()

    def _undo(self) -> None:
        with _lock:
            spot = self._spot
            place = spot.layers.index(self)
            covered = place == len(spot.layers) - 1 and spot.current() is not self.value
            del spot.layers[place]
            if not spot.layers:
                _spots.pop((id(spot.target), spot.attribute), None)
            self.value = None
            if covered:
                raise NotUndone(
                    f"the patch of {spot} was covered by {_describe(spot.current())}, which stays in place and may still lead to "
                    "this plugin; undo patches of one attribute in reverse order, or make them all with context.patch"
                )
            if place == len(spot.layers):
                spot.show()


def _describe(value: object) -> str:
    if value is _INHERITED:
        return "its removal"
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if module and name else f"a {type(value).__module__}.{type(value).__qualname__}"
