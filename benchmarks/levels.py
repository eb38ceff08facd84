"""One plugin with one hook, loaded at a level by a real manager: what the benchmarks of calls measure."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import blackhole_core as bh

__all__ = ["PAYLOAD", "plugin_at"]

#: About 110 bytes of msgpack, pickle makes some more of it.
PAYLOAD: Final = {"id": 123456, "name": "a name of some length", "tags": ["alpha", "beta", "gamma"], "score": 0.75, "text": "x" * 40}

_PROJECT: Final = """
[project]
name = "bench-echo"
version = "1.0.0"
[project.entry-points.bench]
echo = "bench_echo:Echo"
"""
_SOURCE: Final = """
import pluggy
hookimpl = pluggy.HookimplMarker("bench")
class Echo:
    @hookimpl
    def echo(self, value):
        return value
"""


class _Specs:
    @bh.HookspecMarker("bench")
    def echo(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return ``value``."""
        raise NotImplementedError


@contextlib.contextmanager
def plugin_at(level: str) -> Iterator[Any]:
    """Yield the hook caller of a plugin that runs at ``level``."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "pyproject.toml").write_text(_PROJECT)
        Path(directory, "bench_echo.py").write_text(_SOURCE)
        with bh.PluginManager("bench") as pm:
            pm.add_hookspecs(_Specs)
            pm.load("echo", source=directory, isolation=level)
            yield pm.hook.echo
