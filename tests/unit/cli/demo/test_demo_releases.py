"""The demo's plugin is built as two wheels, wherever the demo runs from."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from blackhole_core.cli.demo.releases import RELEASES, build_releases, release_trees
from blackhole_core.errors import BlackholeError


def test_each_release_is_a_wheel_of_its_version(tmp_path: Path) -> None:
    """Both wheels hold the package with its manifest of that version, and neither tests nor the other release."""
    wheels = build_releases(tmp_path)

    assert [wheel.name for wheel in wheels.values()] == [f"blackhole_wordcount-{version}-py3-none-any.whl" for version in RELEASES]
    for version, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            assert f"version: {version}" in archive.read("blackhole_wordcount/plugin.yaml").decode()
            assert {name.partition("/")[0] for name in archive.namelist()} == {
                "blackhole_wordcount",
                f"blackhole_wordcount-{version}.dist-info",
            }


def test_an_ignore_file_around_the_tree_is_not_obeyed(tmp_path: Path) -> None:
    """Installed into an environment inside someone's repository, the wheels are whole all the same."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.py\n*.yaml\n")
    place = tmp_path / "env" / "wordcount"
    shutil.copytree(release_trees()["2.0.0"], place, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    with zipfile.ZipFile(build_releases(tmp_path / "out", (place,))["2.0.0"]) as archive:
        names = archive.namelist()

    assert {"blackhole_wordcount/__init__.py", "blackhole_wordcount/plugin.yaml"} <= set(names)


def test_a_missing_tree_names_where_it_was_looked_for(tmp_path: Path) -> None:
    """An incomplete installation is told apart from a broken plugin."""
    with pytest.raises(BlackholeError, match=r"looked in .*first and .*second; reinstall"):
        release_trees((tmp_path / "first", tmp_path / "second"))


def test_without_hatchling_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's one extra need is named with the command that meets it."""
    monkeypatch.setitem(sys.modules, "hatchling.builders.wheel", None)

    with pytest.raises(BlackholeError, match=r"pip install 'blackhole-core\[demo\]'"):
        build_releases(tmp_path)
