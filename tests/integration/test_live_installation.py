"""A host that lives sees what pip does, at its next look, through the index in memory and that on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from blackhole_core import PluginManager
from blackhole_core.registry.index import VARIABLE, DiscoveryIndex, the_index
from tests.unit.registry.sites import asked_of_python
from tests.unit.registry.wheels import WheelMaker, manifest, plugin_wheel

GROUP = "notes"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The site-packages of a virtual environment without pip; this interpreter's pip installs into it."""
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    return site


def pip(site: Path, *arguments: str) -> None:
    python = site.parents[2] / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=100, env={**os.environ, "PIP_NO_INDEX": "1"})


def test_pip_beside_a_living_host(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install, force-reinstall of the same version with another plugin in it, upgrade and uninstall: each is seen at once, and no other process is misled."""
    monkeypatch.setenv(VARIABLE, "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    for number in range(8):  # a site that is worth a file
        WheelMaker(f"other{number}").install(site)
    build = tmp_path / "dist"
    again = plugin_wheel()
    again.entry_points = {GROUP: {"upper": "upper:Plugin", "louder": "upper:Plugin"}}
    again.files = {name: data for name, data in again.files.items() if not name.endswith(".yaml")}
    wheels = {
        "1": plugin_wheel().write(build / "1"),
        "1 again": again.write(build / "2"),
        "2": plugin_wheel(version="2.0.0").write(build / "3"),
    }

    def seen() -> list[str]:
        found = sorted(str(candidate.id) for candidate in pm.registry.refresh().candidates)
        in_python = sorted(name for name, *_ in asked_of_python(GROUP, [site]))
        assert [name.partition("@")[0] for name in found] == in_python
        fresh = DiscoveryIndex(the_index().files, clock=the_index()._clock)  # what a new process would find
        assert sorted(name for declarer in fresh.declarers(GROUP, [str(site)]) for name, _ in declarer.points) == in_python
        return found

    with PluginManager(GROUP) as pm:
        assert seen() == []
        pip(site, "install", "--no-deps", str(wheels["1"]))
        assert seen() == ["upper@1.0.0"]
        pip(site, "install", "--no-deps", "--force-reinstall", str(wheels["1 again"]))
        assert seen() == ["louder@1.0.0", "upper@1.0.0"]
        pip(site, "install", "--no-deps", "--upgrade", str(wheels["2"]))
        assert seen() == ["upper@2.0.0"]
        pip(site, "uninstall", "--yes", "upper")
        assert seen() == []


def test_an_editable_installation_beside_a_living_host(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip install -e`` is seen at once."""
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    project = tmp_path / "project"
    (project / "upper").mkdir(parents=True)
    (project / "upper" / "__init__.py").write_text("class Plugin: pass\n")
    (project / "upper" / "plugin.yaml").write_text(manifest("upper", "1.0"))
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "upper"\nversion = "1.0"\n[project.entry-points.notes]\nupper = "upper:Plugin"\n'
    )
    with PluginManager(GROUP) as pm:
        assert pm.registry.refresh().candidates == ()
        # The build backend is this interpreter's; only the target is another one.
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*command, "--target", str(site), "-e", str(project)], check=True, capture_output=True, timeout=100)
        (candidate,) = pm.registry.refresh().candidates
        assert str(candidate.id) == "upper@1.0"
