"""A plugin object and what can be called on it, the same in the host and in a worker.

What counts as an implementation, its options and its argument names are pluggy's own decision: a throw-away manager
registers the object and is asked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pluggy

from blackhole_core.hookspecs import PROJECT
from blackhole_core.messages import CONTRACT, Implementation, Surface

__all__ = ["Hosted", "host_object", "instantiate"]


@attrs.frozen(eq=False)
class Hosted:
    """A plugin object with its callables: implementations by index, contracts by name."""

    plugin: Any
    surface: Surface
    implementations: tuple[Callable[..., Any], ...]
    contracts: Mapping[str, Callable[..., Any]]

    def function(self, space: str, hook: str, index: int) -> Callable[..., Any]:
        """Return what a call addresses; ``KeyError`` or ``IndexError`` when there is no such thing."""
        return self.contracts[hook] if space == CONTRACT else self.implementations[index]


def instantiate(entry: Any) -> Any:
    """Return the plugin object of a loaded entry point: a class is called without arguments, anything else is the object."""
    return entry() if inspect.isclass(entry) else entry


def host_object(plugin: Any, project: str) -> Hosted:
    """Find the implementations of ``project`` and the contracts in ``plugin``.

    :raises pluggy.PluginValidationError: pluggy refuses an implementation.
    """
    implementations = _implementations(plugin, project)
    contracts = {impl.function.__name__: impl for impl in _implementations(plugin, PROJECT)}
    surface = Surface(
        implementations=tuple(
            Implementation(
                attribute=impl.function.__name__,
                hook=impl.opts.get("specname") or impl.function.__name__,
                argnames=tuple(impl.argnames),
                options=dict(impl.opts),
                is_generator=inspect.isgeneratorfunction(impl.function),
            )
            for impl in implementations
        ),
        contracts={name: tuple(impl.argnames) for name, impl in contracts.items()},
    )
    return Hosted(
        plugin,
        surface,
        tuple(impl.function for impl in implementations),
        {name: impl.function for name, impl in contracts.items()},
    )


def _implementations(plugin: Any, project: str) -> list[pluggy.HookImpl]:
    manager = pluggy.PluginManager(project)
    manager.register(plugin, "plugin")
    callers = manager.get_hookcallers(plugin) or []
    return [impl for caller in callers for impl in caller.get_hookimpls()]
