"""Images made, kept and forgotten."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from blackhole_core.executor.guest import images as module
from blackhole_core.executor.guest.images import CannotBuild, Images, cache_directory
from tests.stage import in_threads


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    directory = tmp_path / "plugin"
    directory.mkdir()
    (directory / "plug.py").write_text("x = 1\n")
    return directory


def test_an_image_holds_the_plugin_at_its_own_path(tmp_path: Path, plugin: Path) -> None:
    """Nothing has to be translated: the file is where it is here."""
    image = Images(tmp_path / "cache").plugin(plugin, ("plug",), ("/var/data",))
    listed = subprocess.run(
        ["unsquashfs", "-l", "-d", "", str(image)], capture_output=True, text=True, check=True, timeout=20
    ).stdout.split()
    assert str(plugin / "plug.py") in listed
    assert "/var/data" in listed


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, plugin: Path) -> None:
    """Made twice, at two times, in two places: byte for byte the same, under the same name."""
    first = Images(tmp_path / "one").plugin(plugin, ("plug",))
    os.utime(plugin / "plug.py", (1_000_000_000, 1_000_000_000))
    second = Images(tmp_path / "two").plugin(plugin, ("plug",))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_many_at_once_make_it_once(tmp_path: Path, plugin: Path) -> None:
    """Threads that want the same image wait for the one that makes it."""
    made: list[str] = []
    images = Images(tmp_path / "cache", made.append)
    outcomes = in_threads(8, lambda number: images.plugin(plugin, ("plug",)))
    assert len(set(outcomes)) == 1
    assert isinstance(outcomes[0], Path)
    assert len([said for said in made if "100 %" in said]) == 1


def test_those_not_wanted_for_longest_go_first(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache stays small, and what was just made stays."""
    monkeypatch.setitem(module._KEPT, "plugin", 2)
    images = Images(tmp_path / "cache")
    made = []
    for number in range(4):
        (plugin / "plug.py").write_text(f"x = {number}\n")
        made.append(images.plugin(plugin, ("plug",)))
        os.utime(made[-1], (number + 1, number + 1))
    assert [path.exists() for path in made] == [False, False, True, True]


def test_a_failure_leaves_nothing(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that fails is named with what it said; no half of an image is taken for a whole one."""
    bad = tmp_path / "bin/mksquashfs"
    bad.parent.mkdir()
    bad.write_text("#!/bin/sh\necho no room left\nexit 3\n")
    bad.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bad.parent}:/usr/bin:/bin")
    with pytest.raises(CannotBuild, match="mksquashfs failed with status 3: no room left"):
        Images(tmp_path / "cache").plugin(plugin, ("plug",))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_without_the_program_the_command_that_installs_it_is_named(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to search."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuild, match="mksquashfs cannot be started .*: .*install squashfs"):
        Images(tmp_path / "cache").plugin(plugin, ("plug",))


def test_a_plugin_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    """It names the place."""
    with pytest.raises(CannotBuild, match="the plugin's code at .*/gone cannot be put into an image"):
        Images(tmp_path / "cache").plugin(tmp_path / "gone", ("plug",))


def test_where_images_belong() -> None:
    """The user's cache by the XDG rule, else a directory of their own."""
    assert cache_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/blackhole/vm")
    assert cache_directory({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/blackhole/vm")
    assert str(os.geteuid()) in cache_directory({}).name


def test_nobody_waits_for_ever_behind_a_builder_that_failed(tmp_path: Path, plugin: Path) -> None:
    """The lock is let go of with whatever was raised."""
    images = Images(tmp_path / "cache")
    (plugin / "plug.py").chmod(0)
    done = threading.Event()
    if os.geteuid() != 0:
        with pytest.raises(CannotBuild):
            images.plugin(plugin, ("plug",))
    with pytest.raises(ZeroDivisionError):
        images._keep("plugin", b"x", lambda to: 1 // 0)
    thread = threading.Thread(target=lambda: (images._keep("plugin", b"y", lambda to: to.write_bytes(b"")), done.set()))
    thread.start()
    assert done.wait(20)
    thread.join()
