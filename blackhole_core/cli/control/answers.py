"""What a host does for each request of the control socket. The table is closed: a request type that is not in it cannot be asked."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

import blackhole_core
from blackhole_core.callcontext import deadline
from blackhole_core.cli.control import protocol as ask
from blackhole_core.cli.control.arguments import ArgumentProblem, read_arguments
from blackhole_core.cli.control.permitted import permissions_as_dict
from blackhole_core.cli.control.plain import jsonable
from blackhole_core.cli.control.records import Records
from blackhole_core.errors import BlackholeError, UnknownPlugin
from blackhole_core.lifecycle.report import SwapReport
from blackhole_core.manager import PluginManager

__all__ = ["ANSWERS", "HostDoor"]


@attrs.frozen(eq=False)
class HostDoor:
    """What requests may reach: the manager, the records, and the host's end."""

    manager: PluginManager
    records: Records
    stop: Callable[[], object]
    started: float  #: seconds of the wall clock

    def answer(self, request: ask.AnyRequest) -> Any:
        """Do what ``request`` asks and return a value that JSON can hold.

        :raises Exception: whatever went wrong with it.
        """
        return jsonable(ANSWERS[type(request)](self, request))


def _who(door: HostDoor, _: ask.Who) -> Any:
    return {
        "project": door.manager.project_name,
        "pid": os.getpid(),
        "started": door.started,
        "version": blackhole_core.__version__,
        "python": platform.python_version(),
        "hooks": sorted(caller.name for caller in door.manager.callers()),
    }


def _plugins(door: HostDoor, _: ask.Plugins) -> Any:
    return [plugin.as_dict() for plugin in door.manager.plugins()]


def _describe(door: HostDoor, request: ask.Describe) -> Any:
    return door.manager.plugin(request.name).as_dict()


def _call(door: HostDoor, request: ask.Call) -> Any:
    caller = door.manager.caller(request.hook)
    if caller is None:
        hooks = ", ".join(sorted(known.name for known in door.manager.callers())) or "none"
        raise ArgumentProblem(f"project {door.manager.project_name} has no hook {request.hook!r}; it has {hooks}")
    if caller.spec is None:
        raise ArgumentProblem(
            f"hook {request.hook!r} has no spec, so nobody knows its arguments; name the host's hook specs under 'specs:' in blackhole.yaml"
        )
    from blackhole_core.executor.wire.types import annotations_of

    arguments = read_arguments(request.hook, caller.spec.argnames, annotations_of(caller.spec.function), request.arguments)
    with deadline(request.timeout):
        if caller.is_historic():
            results: list[Any] = []
            caller.call_historic(results.append, arguments)
            return results
        return getattr(door.manager.hook, request.hook)(**arguments)


def _execute(door: HostDoor, request: ask.Execute) -> Any:
    with deadline(request.timeout):
        return door.manager.execute(request.name, request.method, params=request.params, data=request.data)


def _load(door: HostDoor, request: ask.Load) -> Any:
    return door.manager.load(request.name, source=request.source, version=request.version, isolation=request.isolation).as_dict()


def _unload(door: HostDoor, request: ask.Unload) -> Any:
    door.manager.unload(request.name)
    return None


def _swap(door: HostDoor, request: ask.Swap) -> Any:
    report = door.manager.swap(
        request.name,
        request.version,
        source=request.source,
        isolation=request.isolation,
        timeout=request.timeout,
        force=request.force,
    )
    return _report(report)


def _rollback(door: HostDoor, request: ask.Rollback) -> Any:
    return _report(door.manager.rollback(request.name, force=request.force))


def _reload(door: HostDoor, request: ask.Reload) -> Any:
    report = door.manager.reload(request.name)
    return None if report is None else _report(report)


def _report(report: SwapReport) -> dict[str, Any]:
    return {**report.as_dict(), "text": str(report)}


def _permissions(door: HostDoor, request: ask.Permissions) -> Any:
    plugin = door.manager.plugin(request.name)
    return permissions_as_dict(
        plugin.name, plugin.permissions, version=plugin.version, phase=plugin.phase.value, enforcement=plugin.enforcement
    )


def _grant(door: HostDoor, request: ask.Grant) -> Any:
    given = door.manager.grant(request.name, *request.permissions, versions=request.versions, digest=request.digest)
    return {"plugin": request.name, "granted": given, "now": _permissions_if_known(door, request.name)}


def _revoke(door: HostDoor, request: ask.Revoke) -> Any:
    done = door.manager.revoke(request.name, *request.permissions)
    return {"plugin": request.name, "revoked": done.permissions, "remains": done.remains, "now": _permissions_if_known(door, request.name)}


def _permissions_if_known(door: HostDoor, name: str) -> Any:
    try:
        return _permissions(door, ask.Permissions(name))
    except UnknownPlugin:  # granting may come before installing
        return None


def _state_export(door: HostDoor, request: ask.StateExport) -> Any:
    snapshot = door.manager.export_state(request.name)
    if snapshot is None:
        raise BlackholeError(f"plugin {door.manager.plugin(request.name).id} has no state: it implements no plugin_export_state")
    path = Path(request.path)
    door.manager.state.dump_file(snapshot, path)
    return {
        "plugin": snapshot.plugin,
        "snapshot": snapshot.id,
        "state_version": snapshot.state_version,
        "file": str(path),
        "bytes": path.stat().st_size,
    }


def _state_import(door: HostDoor, request: ask.StateImport) -> Any:
    name = door.manager.plugin(request.name).name
    snapshot = door.manager.state.load_file(Path(request.path), name)
    door.manager.import_state(name, snapshot)
    return {"plugin": name, "plugin_version": snapshot.plugin_version, "state_version": snapshot.state_version, "created": snapshot.created}


def _state_list(door: HostDoor, request: ask.StateList) -> Any:
    return [attrs.asdict(info) for info in door.manager.state.versions(request.name)]


def _logs(door: HostDoor, request: ask.Logs) -> Any:
    return door.records.recent(request.limit, request.name)


def _stop(door: HostDoor, _: ask.Stop) -> Any:
    door.stop()
    return {"pid": os.getpid()}


ANSWERS: Final[Mapping[type, Callable[[HostDoor, Any], Any]]] = {
    ask.Who: _who,
    ask.Plugins: _plugins,
    ask.Describe: _describe,
    ask.Call: _call,
    ask.Execute: _execute,
    ask.Load: _load,
    ask.Unload: _unload,
    ask.Swap: _swap,
    ask.Rollback: _rollback,
    ask.Reload: _reload,
    ask.Permissions: _permissions,
    ask.Grant: _grant,
    ask.Revoke: _revoke,
    ask.StateExport: _state_export,
    ask.StateImport: _state_import,
    ask.StateList: _state_list,
    ask.Logs: _logs,
    ask.Stop: _stop,
}
