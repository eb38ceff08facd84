"""The optional contracts of a plugin: small hooks of project ``blackhole``, each of which may be left out.

None of them is needed: a plugin that implements no contract is a full citizen. A contract takes the arguments named
here or any subset of them, as every pluggy hook does.
"""

from __future__ import annotations

from typing import Any, Final

import pluggy

__all__ = ["CONTRACTS", "PROJECT", "LifecycleSpecs", "hookimpl", "hookspec"]

#: Project name of the contracts, kept apart from the host's own hooks.
PROJECT: Final = "blackhole"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class LifecycleSpecs:
    """What a plugin may implement to take part in its own life."""

    @hookspec
    def plugin_start(self, context: Any) -> None:
        """Get ready to serve. ``context`` has ``.name``, ``.version``, ``.config`` (dict), ``.generation``. Raising fails the load."""

    @hookspec
    def plugin_prepare_shutdown(self) -> None:
        """New calls are held back from now on; finish what is begun. Raising aborts a swap."""

    @hookspec
    def plugin_stop(self) -> None:
        """Release everything. Raising is a warning event: the plugin stops all the same."""

    @hookspec
    def plugin_health(self) -> Any:
        """Return ``True``/``None`` when well, ``False`` or a sentence when not. Asked before a swap switches."""

    @hookspec
    def plugin_export_state(self) -> Any:
        """Return the state as plain data (dict, list, str, bytes, int, float, bool, None)."""

    @hookspec
    def plugin_import_state(self, state: Any, version: int) -> None:
        """Take over ``state``, already migrated to this plugin's own state ``version``."""

    @hookspec
    def plugin_migrate_state(self, state: Any, from_version: int, to_version: int) -> Any:
        """Return ``state`` one step further: ``to_version`` is ``from_version`` plus or minus one."""

    @hookspec
    def plugin_dependency_changed(self, name: str, phase: str) -> None:
        """Take notice that plugin ``name``, which this one depends on, is ``"down"``, ``"back"`` or ``"broken"``. Raising is an event."""

    @hookspec
    def plugin_handle(self, request: dict[str, Any]) -> Any:
        """Answer ``pm.execute``: ``request`` has ``method`` (str or None), ``params`` (dict), ``data`` (bytes)."""


#: Contract names, in the order of a plugin's life.
CONTRACTS: Final[tuple[str, ...]] = tuple(name for name in vars(LifecycleSpecs) if name.startswith("plugin_"))
