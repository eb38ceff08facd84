"""What a plugin author writes has types: checked by mypy, never run."""

from __future__ import annotations

from typing import Any, assert_type

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, PluginError, Problem, WorkerDied

hookspec = bh.HookspecMarker("notes")
hookimpl = bh.HookimplMarker("notes")


class NotesSpecs:
    @hookspec(firstresult=True)
    def transform(self, text: str) -> str | None:
        """Change a text."""


class Upper:
    """A decorated method keeps its type, so an author's own tests are checked too."""

    @hookimpl(tryfirst=True)
    def transform(self, text: str) -> str:
        return text.upper()

    @bh.hookimpl
    def plugin_export_state(self) -> dict[str, Any]:
        return {"count": 1}

    @bh.hookimpl
    def plugin_import_state(self, state: dict[str, Any], version: int) -> None:
        assert_type(state["count"], Any)
        assert_type(version, int)


assert_type(Upper().transform("hi"), str)
assert_type(Upper().plugin_export_state(), dict[str, Any])

assert_type(bh.Isolation("process"), bh.Isolation)
assert_type(str(bh.PluginId("upper", "1.0.0")), str)


def asks_a_manifest(manifest: bh.Manifest) -> None:
    assert_type(manifest.id, bh.PluginId)
    assert_type(manifest.resources.memory, float | None)
    manifest.name = "other"  # type: ignore[misc]  # a manifest is frozen


def catches_timeouts(error: TimeoutError) -> None:
    """Take what ``except TimeoutError`` catches."""


def reads_errors(error: bh.BlackholeError) -> None:
    """What a program may want of an error is an attribute with a type."""
    match error:
        case CallTimeout():
            assert_type(error.seconds, float)
            catches_timeouts(error)
        case WorkerDied():
            assert_type(error.exit, int | None)
            assert_type(error.tail, tuple[str, ...])
        case PluginError():
            assert_type(error.plugin, str)
        case bh.ManifestError():
            assert_type(error.problems, tuple[Problem, ...])
        case _:
            pass


with bh.deadline(2.5):
    pass
