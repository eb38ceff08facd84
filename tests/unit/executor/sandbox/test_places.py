"""What a worker may reach: its interpreter, its own directories and what was granted, each where a link leads now."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from blackhole_core.executor.sandbox.places import Granted, UnsafePath, interpreter_places, is_in, places_of, simplify
from blackhole_core.executor.wire.policy import Place
from blackhole_core.manifest.permissions import parse_permission


def _granted(*texts: str, **own: Path) -> Granted:
    return Granted([parse_permission(text) for text in texts], {f"${{{name}}}": path for name, path in own.items()})


def _targets(granted: Granted) -> dict[str, Place]:
    return {os.fsdecode(place.target): place for place in places_of(granted)}


def test_an_interpreter_finds_itself() -> None:
    """Its prefix, the libraries of the system and its import path; not the home or the working directory as such."""
    targets = [os.fsdecode(place.target) for place in simplify(interpreter_places(["/usr/share/doc"]))]
    assert "/usr/lib" in targets
    assert "/usr/share/doc" in targets
    stdlib = os.fsencode(os.__file__)
    assert any(is_in(stdlib, os.fsencode(target)) for target in targets)
    assert not {"/", "/usr", str(Path.home()), str(Path.cwd()), "/etc", "/proc", "/tmp"} & set(targets)


@pytest.mark.parametrize("prefix", ["/", "/usr", str(Path.home()), str(Path.home().parent)])
def test_a_prefix_that_holds_more_than_an_interpreter(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prefix that is shared, or has the home directory in it, only the libraries are given."""
    for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, prefix)
    assert prefix not in {os.fsdecode(place.target) for place in interpreter_places([])}


def test_grants(tmp_path: Path) -> None:
    """Read, write and execute are given where they were granted, ${plugin} read-only and ${data} to write without a word."""
    data, plugin, other = (tmp_path / name for name in ("data", "plugin", "other"))
    for directory in (data, plugin, other):
        directory.mkdir()
    granted = _granted(f"filesystem:read:{other}", "process:exec:/bin/sh", data=data, plugin=plugin)
    targets = _targets(granted)
    rights = {
        name: (targets[str(path)].write, targets[str(path)].execute)
        for name, path in (("data", data), ("plugin", plugin), ("other", other))
    }
    assert rights == {"data": (True, False), "plugin": (False, False), "other": (False, False)}
    assert targets["/bin/sh"].execute
    assert granted.programs
    assert not _granted("filesystem:read:/srv").programs


def test_a_granted_path_that_does_not_exist(tmp_path: Path) -> None:
    """There is nothing to give, and nothing is made."""
    assert _targets(_granted(f"filesystem:write:{tmp_path}/none")) == {}
    assert not (tmp_path / "none").exists()


def test_a_link_in_a_granted_path(tmp_path: Path) -> None:
    """What the operator's own link leads to is given, under both names."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    targets = _targets(_granted(f"filesystem:read:{tmp_path}/link"))
    assert set(targets) == {f"{tmp_path}/link", f"{tmp_path}/real"}
    assert {place.source for place in targets.values()} == {os.fsencode(tmp_path / "real")}


def test_a_link_that_the_plugin_put_there(tmp_path: Path) -> None:
    """A17: what the plugin can write cannot lead its grants elsewhere: it says where, and what to do."""
    data, secret = tmp_path / "data", tmp_path / "secret"
    data.mkdir()
    secret.mkdir()
    (data / "sub").symlink_to(secret)
    with pytest.raises(UnsafePath, match=rf"{data}/sub leads to {secret}, out of {data}, which the plugin can write; remove the link"):
        _targets(_granted("filesystem:read:${data}/sub", data=data))
    with pytest.raises(UnsafePath):
        _targets(_granted(f"filesystem:write:{data}", f"filesystem:read:{data}/sub"))


def test_places_in_places() -> None:
    """A place in another with the same rights is none of its own; with other rights it is, and one path has all its rights at once."""
    outer, inner, other = Place(b"/srv", b"/srv"), Place(b"/srv/a", b"/srv/a"), Place(b"/else/a", b"/srv/b")
    written = Place(b"/srv/w", b"/srv/w", write=True)
    assert simplify((inner, written, outer, other, Place(b"/srv/w", b"/srv/w"))) == (outer, written, other)
    assert simplify((Place(b"/x", b"/x", execute=True), Place(b"/x", b"/x", write=True))) == (Place(b"/x", b"/x", True, True),)
    assert simplify((Place(b"/", b"/"), outer)) == (Place(b"/", b"/"),)
    assert not is_in(b"/srvx", b"/srv")
