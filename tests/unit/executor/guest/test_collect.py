"""What goes onto the disks of import path and plugin."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path

from blackhole_core.executor.guest.collect import import_groups, import_mark, imports_tree, plugin_tree
from blackhole_core.executor.guest.interpreter import known_code, unchecked_code
from blackhole_core.executor.guest.libraries import LibraryFinder


def _entry(directory: Path) -> Path:
    """Make a directory as a developer's may be: modules and packages among other things."""
    for name in (
        "package/__init__.py",
        "package/data.json",
        "package/.hidden/x.py",
        "space/part/__init__.py",
        "module.py",
        "notes.txt",
        "pictures/1.png",
        ".git/x.py",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("")
    return directory


def test_of_a_directory_come_modules_and_packages(tmp_path: Path) -> None:
    """What is no module stays behind: an entry may be somebody's home directory."""
    entry = _entry(tmp_path)
    tree, missing = imports_tree([str(entry)], LibraryFinder())
    there = {str(Path(path).relative_to(entry)) for path, _ in tree.entries() if path.startswith(f"{entry}/")}
    assert {"package/__init__.py", "package/data.json", "space/part/__init__.py", "module.py"} <= there
    assert not there & {"notes.txt", "pictures/1.png", ".git/x.py", "package/.hidden/x.py"}
    assert missing == []


def test_of_an_environment_comes_everything(tmp_path: Path) -> None:
    """What an installer put there may be anything."""
    entry = _entry(tmp_path / "site-packages")
    tree, _ = imports_tree([str(entry)], LibraryFinder())
    assert entry / "notes.txt" in tree


def test_the_standard_library_is_on_a_disk_of_its_own(tmp_path: Path) -> None:
    """Entries come in groups; those that are not there, or the interpreter's own, in none."""
    site = tmp_path / "site-packages"
    site.mkdir()
    path = [str(tmp_path), sysconfig.get_path("stdlib"), str(tmp_path / "nothing"), str(site)]
    assert import_groups(path) == [(str(site),), (str(tmp_path),)]
    assert import_groups([]) == []


def test_a_change_is_noticed(tmp_path: Path) -> None:
    """A disk is made anew when a file of it changed, appeared or vanished, and not when something beside changed."""
    entries = (str(_entry(tmp_path)),)
    before = import_mark(entries)
    (tmp_path / "notes.txt").write_text("more")
    assert import_mark(entries) == before
    (tmp_path / "module.py").write_text("x = 1")
    changed = import_mark(entries)
    assert changed != before
    (tmp_path / "package/data.json").unlink()
    assert import_mark(entries) not in {before, changed}


def test_byte_code_comes_along_and_is_taken_unseen(tmp_path: Path) -> None:
    """A guest compiles nothing and looks at no time: its byte code has the flag that says so, from the valid cache or compiled."""
    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    assert known_code(str(source)) is None
    compiled = unchecked_code(str(source))
    assert compiled is not None
    assert compiled[:8] == importlib.util.MAGIC_NUMBER + b"\x01\0\0\0"
    assert compiled[8:16] == importlib.util.source_hash(b"x = 1\n")
    tree, _ = imports_tree([str(tmp_path)], LibraryFinder())
    assert importlib.util.cache_from_source(str(source)) in tree


def test_a_stale_cache_is_not_taken(tmp_path: Path) -> None:
    """Byte code of an older source would run something else than what stands there."""
    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    cache = Path(importlib.util.cache_from_source(str(source)))
    cache.parent.mkdir()
    status = source.stat()
    head = importlib.util.MAGIC_NUMBER + bytes(4) + int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(4, "little")
    cache.write_bytes(head + b"code")
    assert (known_code(str(source)) or b"")[16:] == b"code"
    os.utime(source, (1, 1))
    assert known_code(str(source)) is None


def test_source_that_is_no_python_comes_without_code(tmp_path: Path) -> None:
    """Templates are often named like modules."""
    (tmp_path / "template.py").write_text("{{ not python! }}")
    assert unchecked_code(str(tmp_path / "template.py")) is None


def test_a_plugin_comes_with_what_is_known_of_it(tmp_path: Path) -> None:
    """Its packages, its manifest and its metadata, and nothing else of the directory it lies in."""
    for name in (
        "plug/__init__.py",
        "ns/part/mod.py",
        "single.py",
        "plug-1.0.dist-info/METADATA",
        "plugin.yaml",
        "secret.txt",
        "other/__init__.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    tree = plugin_tree(tmp_path, ("plug", "ns.part", "single"))
    there = {str(Path(path).relative_to(tmp_path)) for path, _ in tree.entries() if path.startswith(f"{tmp_path}/")}
    assert {"plug/__init__.py", "ns/part/mod.py", "single.py", "plug-1.0.dist-info/METADATA", "plugin.yaml"} <= there
    assert not there & {"secret.txt", "other/__init__.py"}
