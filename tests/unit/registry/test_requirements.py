"""What a plugin needs from other distributions is told before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackhole_core.errors import SourceError
from blackhole_core.registry.candidate import Candidate
from blackhole_core.registry.discovery import installed
from blackhole_core.registry.requirements import missing_requirements
from blackhole_core.registry.source import candidates_at
from blackhole_core.registry.store import WheelStore
from tests.unit.registry.wheels import WheelMaker, manifest

NEEDS = ("numpy>=2", "gone[fast]>=1,<2", "present", "elsewhere; sys_platform == 'win32'", "tests-only; extra == 'test'")
MISSING = (
    "needs numpy>=2, which is not installed (found 1.26)",
    "needs gone<2,>=1, which is not installed",
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    WheelMaker("NumPy", "1.26").install(tmp_path / "site")
    WheelMaker("present", "2.0rc1").install(tmp_path / "site")
    return tmp_path / "site"


def maker(*needs: str) -> WheelMaker:
    return WheelMaker(files={"upper.py": b""}, entry_points={"notes": {"upper": "upper"}}, requires=needs)


def wheel(tmp_path: Path, *needs: str) -> Candidate:
    path = maker(*needs).write(tmp_path / "dist")
    (candidate,) = candidates_at(path, group="notes", store=WheelStore(tmp_path / "store")).candidates
    return candidate


def test_of_a_wheel(tmp_path: Path, site: Path) -> None:
    """A wheel's unmet requirements are named with what was found; markers that do not hold and extras do not count."""
    assert missing_requirements(wheel(tmp_path, *NEEDS), path=[str(site)]) == MISSING


def test_of_an_installed_plugin(site: Path) -> None:
    """An installed plugin's requirements are looked at as well: pip may have been told not to."""
    maker(*NEEDS).install(site)
    (candidate,) = installed("notes", path=[str(site)]).candidates
    assert missing_requirements(candidate, path=[str(site)]) == MISSING


def test_of_a_directory(tmp_path: Path, site: Path) -> None:
    """A source tree's requirements are those of its pyproject.toml."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "upper.py").write_text("")
    (source / "plugin.yaml").write_text(manifest("upper", "1.0", entry="upper"))
    (source / "pyproject.toml").write_text(f'[project]\nname = "upper"\nversion = "1.0"\ndependencies = {list(NEEDS)!r}\n')
    (candidate,) = candidates_at(source, group="notes", store=WheelStore(tmp_path / "store")).candidates
    assert missing_requirements(candidate, path=[str(site)]) == MISSING


def test_prereleases_and_nothing_needed(tmp_path: Path, site: Path) -> None:
    """An installed pre-release counts, as it does for pip; a plugin without requirements misses nothing."""
    assert missing_requirements(wheel(tmp_path, "present>=1"), path=[str(site)]) == ()
    assert missing_requirements(wheel(tmp_path / "b"), path=[]) == ()


def test_unreadable(tmp_path: Path) -> None:
    """A requirement that nobody can read is an error with its text and the plugin."""
    with pytest.raises(SourceError, match=r"plugin upper@1.0.0 has an unreadable requirement 'a b c'"):
        missing_requirements(wheel(tmp_path, "a b c"))


def test_of_this_environment(tmp_path: Path) -> None:
    """Without a path the running interpreter's own distributions count."""
    assert missing_requirements(wheel(tmp_path, "pluggy>=1", "pluggy>=999"))[0].startswith("needs pluggy>=999")
