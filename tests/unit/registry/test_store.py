"""The wheel store: whole entries only, side by side, unchanged since they were verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from blackhole_core.errors import SourceError
from blackhole_core.registry import store as module
from blackhole_core.registry import wheel as wheel_rules
from blackhole_core.registry.store import WheelStore
from tests.unit.registry.wheels import plugin_wheel


@pytest.fixture
def store(tmp_path: Path) -> WheelStore:
    return WheelStore(tmp_path / "store")


def entries(store: WheelStore) -> list[str]:
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.glob("[!.]*/*"))


def leftovers(store: WheelStore) -> list[str]:
    return [path.name for path in store.root.glob(".unpack-*")] if store.root.exists() else []


def test_unpack(tmp_path: Path, store: WheelStore) -> None:
    """A wheel is unpacked into ``name/version-digest`` and what is there is what was in it, read-only."""
    wheel = plugin_wheel().write(tmp_path)
    entry = store.unpack(wheel)
    assert entries(store) == [f"upper/1.0.0-{store.digest(entry)[:12]}"]
    assert b"class Plugin" in (entry / "upper" / "__init__.py").read_bytes()
    for path in (entry, entry / "upper", entry / "upper" / "__init__.py"):
        assert path.stat().st_mode & 0o222 == 0
    assert leftovers(store) == []


def test_versions_side_by_side(tmp_path: Path, store: WheelStore) -> None:
    """Two versions, and two builds of one version, lie beside each other."""
    first = store.unpack(plugin_wheel().write(tmp_path / "a"))
    other = plugin_wheel()
    other.files["upper/more.py"] = b""
    builds = {first, store.unpack(other.write(tmp_path / "b")), store.unpack(plugin_wheel(version="2.0").write(tmp_path))}
    assert len(builds) == len(entries(store)) == 3


def test_found_by_digest(tmp_path: Path, store: WheelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is in the store is found by its digest; it is not looked into again, and not needed any more."""
    wheel = plugin_wheel().write(tmp_path)
    entry = store.unpack(wheel)
    monkeypatch.setattr(wheel_rules, "inspect_wheel", lambda *_: pytest.fail("looked into again"))
    assert store.unpack(wheel) == entry
    assert WheelStore(store.root).find(store.digest(entry)) == entry
    assert store.find("0" * 64) is None


def test_content_must_have_its_hash(tmp_path: Path, store: WheelStore) -> None:
    """A57: a file whose content is not what RECORD says is refused, and nothing is kept."""
    maker = plugin_wheel()
    members = maker.members()
    maker.record = members[f"{maker.info}/RECORD"].decode()
    maker.files["upper/__init__.py"] = b"evil = True\n"
    with pytest.raises(SourceError, match=r"the content of upper/__init__.py is not what its RECORD says; nothing was kept"):
        store.unpack(maker.write(tmp_path))
    assert entries(store) == leftovers(store) == []


def test_damaged_content(tmp_path: Path, store: WheelStore) -> None:
    """A50: a flipped bit in a member's data is refused, and nothing is kept."""
    maker = plugin_wheel()
    maker.files["upper/data.bin"] = os.urandom(5000)
    wheel = maker.write(tmp_path)
    data = bytearray(wheel.read_bytes())
    data[data.index(b"upper/data.bin") + 2000] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(SourceError, match="data.bin"):
        store.unpack(wheel)
    assert entries(store) == leftovers(store) == []


def test_missing_wheel(tmp_path: Path, store: WheelStore) -> None:
    """A wheel that is not there is a sentence with its path."""
    with pytest.raises(SourceError, match=r"gone-1.0-py3-none-any.whl cannot be read: No such file"):
        store.unpack(tmp_path / "gone-1.0-py3-none-any.whl")


def test_unchanged(tmp_path: Path, store: WheelStore) -> None:
    """An untouched entry is verified, also when Python has put bytecode beside the sources; that is removed, not trusted."""
    entry = store.unpack(plugin_wheel().write(tmp_path))
    store.verify(entry)
    (entry / "upper").chmod(0o755)
    cache = entry / "upper" / "__pycache__"
    cache.mkdir()
    planted = cache / f"__init__.{sys.implementation.cache_tag}.pyc"
    planted.write_bytes(b"planted")
    (cache / "__init__.cpython-27.pyc").write_bytes(b"of another interpreter, never loaded here")
    store.verify(entry)
    assert not planted.exists()


def _edit(entry: Path) -> None:
    file = entry / "upper" / "__init__.py"
    status = file.stat()
    file.chmod(0o644)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"1.0.0", b"6.6.6"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove(entry: Path) -> None:
    (entry / "upper").chmod(0o755)
    (entry / "upper" / "plugin.yaml").unlink()


def _add(entry: Path) -> None:
    (entry / "upper").chmod(0o755)
    (entry / "upper" / "evil.py").write_text("")


def _add_sourceless(entry: Path) -> None:
    (entry / "upper").chmod(0o755)
    (entry / "upper" / "evil.pyc").write_bytes(b"")


def _link(entry: Path) -> None:
    (entry / "upper").chmod(0o755)
    file = entry / "upper" / "__init__.py"
    copy = entry.parent.parent.parent / "copy.py"
    copy.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(copy)


def _link_directory(entry: Path) -> None:
    entry.chmod(0o755)
    (entry / "more").symlink_to("/etc")


def _forget(entry: Path) -> None:
    entry.chmod(0o755)
    (entry / module.INVENTORY).unlink()


@pytest.mark.parametrize("change", [_edit, _remove, _add, _add_sourceless, _link, _link_directory, _forget])
def test_changed(tmp_path: Path, store: WheelStore, change: object) -> None:
    """A62: an entry in which a file was changed (size and time kept), removed, added or replaced by a link is refused."""
    entry = store.unpack(plugin_wheel().write(tmp_path))
    assert callable(change)
    change(entry)
    with pytest.raises(SourceError, match="store"):
        store.verify(entry)


def test_many_at_once(tmp_path: Path, store: WheelStore) -> None:
    """A64, W-03: threads with their own stores that unpack one wheel at the same moment get one entry."""
    wheel = plugin_wheel().write(tmp_path)
    results: list[Path] = []
    barrier = threading.Barrier(8)

    def unpack() -> None:
        own = WheelStore(store.root)
        barrier.wait(30)
        results.append(own.unpack(wheel))

    threads = [threading.Thread(target=unpack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == len(entries(store)) == 1
    store.verify(results[0])
    assert leftovers(store) == []


SLOW_HOST = """
import sys
from pathlib import Path
from blackhole_core.registry import store

step, root, wheel = sys.argv[1:]
original = getattr(store, step)

def stop(*arguments):
    print("there", flush=True)
    sys.stdin.read()
    return original(*arguments)

setattr(store, step, stop)
store.WheelStore(Path(root)).unpack(Path(wheel))
"""


@pytest.mark.parametrize("step", ["_extract", "_extract_part", "_publish", "_sync_directory"])
def test_killed_host(tmp_path: Path, store: WheelStore, step: str) -> None:
    """A64: a host that is killed in the middle of unpacking leaves no entry; the next unpack sweeps what it left and succeeds."""
    wheel = plugin_wheel().write(tmp_path)
    command = [sys.executable, "-c", SLOW_HOST, step, str(store.root), str(wheel)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"there\n"
        assert len(leftovers(store)) == 1
        other = store.unpack(plugin_wheel("lower").write(tmp_path))  # a living one is not swept
        assert len(leftovers(store)) == 1
        host.send_signal(signal.SIGKILL)
    assert entries(store) == [other.relative_to(store.root).as_posix()]
    store.verify(store.unpack(wheel))
    assert leftovers(store) == []


def test_changed_while_unpacking(tmp_path: Path, store: WheelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is written to while it is unpacked is not kept."""
    wheel = plugin_wheel().write(tmp_path)
    original = module._extract

    def extract(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]  # a test may give anything
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("late.py", "")

    monkeypatch.setattr(module, "_extract", extract)
    with pytest.raises(SourceError, match="was changed while it was unpacked"):
        store.unpack(wheel)
    assert entries(store) == leftovers(store) == []


def test_clear(tmp_path: Path, store: WheelStore) -> None:
    """A store is removed whole, though its entries are read-only."""
    store.unpack(plugin_wheel().write(tmp_path))
    store.clear()
    store.clear()
    assert not store.root.exists()
