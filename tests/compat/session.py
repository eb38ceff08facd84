"""One pytest session over pluggy's suite: ``session.py MODULE:CLASS REPORT``, in the suite's directory.

Stands in for the one changed import of a host: before anything imports pytest, the name ``PluginManager`` of pluggy means the
given manager. The tests and pytest itself find it there. An empty first argument leaves pluggy as it is.
"""

from __future__ import annotations

import importlib
import sys


def use_manager(path: str) -> None:
    """Let ``from pluggy import PluginManager`` (and ``HookCaller``) give ours, in this process only."""
    import pluggy
    import pluggy._hooks
    import pluggy._manager

    module, _, name = path.partition(":")
    manager = getattr(importlib.import_module(module), name)
    if not issubclass(manager, pluggy.PluginManager):
        raise SystemExit(f"{path} is not a pluggy.PluginManager")
    from blackhole_core.hooks.caller import HookCaller

    for holder in (pluggy, pluggy._manager):
        vars(holder)["PluginManager"] = manager
    for holder in (pluggy, pluggy._manager, pluggy._hooks):
        vars(holder)["HookCaller"] = HookCaller


def main(path: str, report: str) -> int:
    """Run the suite; returns pytest's exit status."""
    if path:
        use_manager(path)
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "--benchmark-disable", f"--junitxml={report}", "-c", "/dev/null", "--rootdir=."]
    return int(pytest.main([*options, ".", "benchmark.py"]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2]))
