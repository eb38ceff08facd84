"""Where the bundles of a host lie, and how those of dead hosts are found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.executor.launch.oci.place import Place, containers_directory


@pytest.fixture
def cleaned() -> list[Path]:
    return []


@pytest.fixture
def place(tmp_path: Path, cleaned: list[Path]) -> Iterator[Place]:
    place = Place(tmp_path / "base" / "containers", cleaned.append)
    yield place
    place.close()


def test_a_living_host_keeps_its_directory(place: Place, cleaned: list[Path]) -> None:
    """Another host that starts leaves it alone."""
    bundle = place.bundle()
    Place(place.directory.parent, cleaned.append).close()
    assert bundle.is_dir()
    assert cleaned == []


def test_the_directory_of_a_dead_host_is_cleaned_and_removed(place: Place, cleaned: list[Path]) -> None:
    """It died without a word; what it had running is ended before its directory goes."""
    base = place.directory.parent
    program = f"""
import os, sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from blackhole_core.executor.launch.oci.place import Place
place = Place(Path({str(base)!r}), print)
print(place.bundle(), flush=True)
os.kill(os.getpid(), 9)
"""
    dead = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    left = Path(dead.stdout.strip())
    assert left.is_dir()
    Place(base, lambda directory: cleaned.append(directory) if left.is_dir() else None).close()
    assert cleaned == [left.parent]
    assert not left.parent.exists()
    assert place.directory.is_dir()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """Somebody else could have put a bundle there."""
    base = tmp_path / "base"
    base.mkdir(0o777)
    base.chmod(0o777)
    with pytest.raises(PermissionError, match="only user"):
        Place(base / "containers", print)


def test_a_link_is_refused(tmp_path: Path) -> None:
    """It leads where somebody else wants."""
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "base").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="remove it"):
        Place(tmp_path / "base" / "containers", print)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_where_the_containers_of_a_user_lie() -> None:
    """In the runtime directory; a relative one is ignored, as its specification says."""
    assert containers_directory({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == Path("/run/user/7/blackhole/containers")
    assert containers_directory({"XDG_RUNTIME_DIR": "run"}, 7).parts[-2:] == ("blackhole-7", "containers")
