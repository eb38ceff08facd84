"""Host plugins, swap them without downtime, isolate their faults.

Everything public is reachable from here; the parts are imported when they are first used, so ``import blackhole_core``
costs next to nothing and a worker that imports one part does not import the host.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pluggy import HookCallError as HookCallError
    from pluggy import HookimplMarker as HookimplMarker
    from pluggy import HookimplOpts as HookimplOpts
    from pluggy import HookspecMarker as HookspecMarker
    from pluggy import HookspecOpts as HookspecOpts
    from pluggy import PluggyTeardownRaisedWarning as PluggyTeardownRaisedWarning
    from pluggy import PluggyWarning as PluggyWarning
    from pluggy import PluginValidationError as PluginValidationError
    from pluggy import Result as Result

    from blackhole_core.callcontext import deadline as deadline
    from blackhole_core.errors import BlackholeError as BlackholeError
    from blackhole_core.errors import BreakerOpen as BreakerOpen
    from blackhole_core.errors import CallTimeout as CallTimeout
    from blackhole_core.errors import CannotCross as CannotCross
    from blackhole_core.errors import ConfigError as ConfigError
    from blackhole_core.errors import DependencyError as DependencyError
    from blackhole_core.errors import GrantsError as GrantsError
    from blackhole_core.errors import IsolationUnavailable as IsolationUnavailable
    from blackhole_core.errors import LimitExceeded as LimitExceeded
    from blackhole_core.errors import LoadFailed as LoadFailed
    from blackhole_core.errors import ManifestError as ManifestError
    from blackhole_core.errors import NameClash as NameClash
    from blackhole_core.errors import NoMigrationPath as NoMigrationPath
    from blackhole_core.errors import PermissionDenied as PermissionDenied
    from blackhole_core.errors import PluginBroken as PluginBroken
    from blackhole_core.errors import PluginError as PluginError
    from blackhole_core.errors import PluginUnloaded as PluginUnloaded
    from blackhole_core.errors import PoisonedCall as PoisonedCall
    from blackhole_core.errors import RemoteError as RemoteError
    from blackhole_core.errors import SnapshotDamaged as SnapshotDamaged
    from blackhole_core.errors import SourceError as SourceError
    from blackhole_core.errors import StateError as StateError
    from blackhole_core.errors import SwapFailed as SwapFailed
    from blackhole_core.errors import SwapInProgress as SwapInProgress
    from blackhole_core.errors import TooManyCalls as TooManyCalls
    from blackhole_core.errors import UnknownPlugin as UnknownPlugin
    from blackhole_core.errors import WorkerDied as WorkerDied
    from blackhole_core.errors import WorkerOverLimit as WorkerOverLimit
    from blackhole_core.events import Event as Event
    from blackhole_core.hooks.caller import HookCaller as HookCaller
    from blackhole_core.hooks.caller import HookRelay as HookRelay
    from blackhole_core.hookspecs import hookimpl as hookimpl
    from blackhole_core.ids import Isolation as Isolation
    from blackhole_core.ids import PluginId as PluginId
    from blackhole_core.lifecycle.handle import Plugin as Plugin
    from blackhole_core.lifecycle.phase import Phase as Phase
    from blackhole_core.lifecycle.report import SwapReport as SwapReport
    from blackhole_core.manager import PluginManager as PluginManager
    from blackhole_core.manifest.model import Manifest as Manifest
    from blackhole_core.registry.registry import PluginRegistry as PluginRegistry
    from blackhole_core.state.manager import StateManager as StateManager

__version__ = "0.1.0"

_PLUGGY = (
    "HookCallError",
    "HookimplMarker",
    "HookimplOpts",
    "HookspecMarker",
    "HookspecOpts",
    "PluggyTeardownRaisedWarning",
    "PluggyWarning",
    "PluginValidationError",
    "Result",
)
_ERRORS = (
    "BlackholeError",
    "BreakerOpen",
    "CallTimeout",
    "CannotCross",
    "ConfigError",
    "DependencyError",
    "GrantsError",
    "IsolationUnavailable",
    "LimitExceeded",
    "LoadFailed",
    "ManifestError",
    "NameClash",
    "NoMigrationPath",
    "PermissionDenied",
    "PluginBroken",
    "PluginError",
    "PluginUnloaded",
    "PoisonedCall",
    "RemoteError",
    "SnapshotDamaged",
    "SourceError",
    "StateError",
    "SwapFailed",
    "SwapInProgress",
    "TooManyCalls",
    "UnknownPlugin",
    "WorkerDied",
    "WorkerOverLimit",
)
#: Public name → module that holds it.
_HOMES = {
    **dict.fromkeys(_PLUGGY, "pluggy"),
    **dict.fromkeys(_ERRORS, "blackhole_core.errors"),
    "Event": "blackhole_core.events",
    "HookCaller": "blackhole_core.hooks.caller",
    "HookRelay": "blackhole_core.hooks.caller",
    "Isolation": "blackhole_core.ids",
    "Manifest": "blackhole_core.manifest.model",
    "Phase": "blackhole_core.lifecycle.phase",
    "Plugin": "blackhole_core.lifecycle.handle",
    "PluginId": "blackhole_core.ids",
    "PluginManager": "blackhole_core.manager",
    "PluginRegistry": "blackhole_core.registry.registry",
    "StateManager": "blackhole_core.state.manager",
    "SwapReport": "blackhole_core.lifecycle.report",
    "deadline": "blackhole_core.callcontext",
    "hookimpl": "blackhole_core.hookspecs",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names are strings, the table is the one list of them


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
