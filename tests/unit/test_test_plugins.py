"""The test plugins are what their table says: a case that silently tests nothing is worse than none."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blackhole_core.errors import ManifestError
from blackhole_core.ids import PluginId
from blackhole_core.manifest.parse import read_manifest
from tests.plugins.build import NOTES_API, install_plugin, known_plugins, plugin_dir, plugin_wheel
from tests.plugins.variants import Edit, Variant, apply_variant


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on ``sys.path``; what was imported from it is forgotten afterwards."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    monkeypatch.syspath_prepend(NOTES_API)
    yield path
    for name in [name for name in sys.modules if name.startswith("notes_") and name != "notes_api"]:
        del sys.modules[name]


def load(name: str, version: str, site: Path) -> ModuleType:
    install_plugin(name, version, site)
    return importlib.import_module(f"notes_{name}")


@pytest.mark.parametrize(("name", "version"), known_plugins())
def test_each_plugin_is_a_wheel_with_one_entry_point(name: str, version: str, tmp_path: Path) -> None:
    """Every plugin in the table builds offline into a wheel of its version, and declares itself in the group ``notes``."""
    wheel = plugin_wheel(name, version, tmp_path)

    with zipfile.ZipFile(wheel) as archive:
        [table] = [member for member in archive.namelist() if member.endswith(".dist-info/entry_points.txt")]
        declared = archive.read(table).decode().split()
    assert declared[:2] == ["[notes]", "twin" if name.startswith("twin_") else name]
    assert table.split("/")[0].endswith(f"-{version}.dist-info")


@pytest.mark.parametrize(("name", "version"), known_plugins())
def test_each_manifest_is_right_but_one(name: str, version: str, tmp_path: Path) -> None:
    """Manifests name the plugin and version of their distribution; ``bad_manifest`` has exactly the five problems it lists."""
    for path in plugin_dir(name, version, tmp_path).glob("*/plugin.yaml"):
        if name == "bad_manifest":
            with pytest.raises(ManifestError) as caught:
                read_manifest(path)
            assert [problem.path for problem in caught.value.problems] == [
                "version",
                "isolation",
                "permisions",
                "resources.cpu",
                "resources.memory",
            ]
        else:
            assert read_manifest(path).id == PluginId("twin" if name.startswith("twin_") else name, version)


def code_and_manifest(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("notes_counter/__init__.py") + archive.read("notes_counter/plugin.yaml")


def test_versions_of_one_plugin_differ(tmp_path: Path) -> None:
    """No variant of the counter is byte for byte another one."""
    wheels = [plugin_wheel(name, version, tmp_path) for name, version in known_plugins() if name == "counter"]
    contents = {code_and_manifest(wheel) for wheel in wheels}

    assert len(contents) == len(wheels) == 13


def test_an_edit_that_finds_nothing_is_an_error(tmp_path: Path) -> None:
    """A variant whose base has moved on fails loudly."""
    (tmp_path / "a.py").write_text("x = 1\n")

    with pytest.raises(LookupError, match=r"a\.py: wanted 'y = 1' once, found it 0 times"):
        apply_variant(Variant(("a", "1.0.0"), (Edit("a.py", "y = 1", "y = 2"),)), "2.0.0", tmp_path)


def test_an_unknown_plugin_names_the_known_ones(tmp_path: Path) -> None:
    """A typing mistake in a test is answered with the list of what there is."""
    with pytest.raises(LookupError, match=r"no test plugin uper 1\.0\.0; known: .*upper 1\.0\.0"):
        plugin_dir("uper", "1.0.0", tmp_path)


def test_installing_over_another_version_leaves_one(site: Path) -> None:
    """``install_plugin`` upgrades like pip: one ``.dist-info`` stays, with the new version."""
    install_plugin("upper", "1.0.0", site)
    info = install_plugin("upper", "2.0.0", site)

    assert [path for path in site.iterdir() if path.suffix == ".dist-info"] == [info]
    assert info.name == "notes_upper-2.0.0.dist-info"


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_modplug_agrees_with_itself(version: str, site: Path) -> None:
    """All parts of an undisturbed ``modplug`` say the version that was installed."""
    assert load("modplug", version, site).version() == version


def test_counter_migrates_both_ways(site: Path) -> None:
    """State of ``counter`` 1.0.0 goes through 2.0.0's migration and back without losing the count."""
    counter = load("counter", "2.0.0", site).Counter()
    counter.plugin_import_state(counter.plugin_migrate_state({"count": 5}, 1, 2))
    counter.add(amount=2)

    assert counter.plugin_export_state() == {"total": 7, "history": [2]}
    assert counter.plugin_migrate_state(counter.plugin_export_state(), 2, 1) == {"count": 7}
    with pytest.raises(ValueError, match="no way from state version 2 to 3"):
        counter.plugin_migrate_state({}, 2, 3)


@pytest.mark.parametrize(
    ("version", "method", "arguments"),
    [("2.1.0", "plugin_import_state", ({"total": 1, "history": []},)), ("2.4.0", "plugin_export_state", ()), ("2.6.0", "plugin_start", ())],
)
def test_counter_variants_raise_where_they_say(version: str, method: str, arguments: tuple[Any, ...], site: Path) -> None:
    """The broken counters break in the one method that the table names."""
    counter = load("counter", version, site).Counter()

    with pytest.raises(RuntimeError, match="on purpose"):
        getattr(counter, method)(*arguments)
    assert counter.version() == version


@pytest.mark.parametrize(("version", "error"), [("2.2.0", RuntimeError), ("2.5.0", SyntaxError)])
def test_counter_variants_that_cannot_be_imported(version: str, error: type[Exception], site: Path) -> None:
    """2.2.0 raises at import, 2.5.0 is not Python."""
    with pytest.raises(error):
        load("counter", version, site)


def test_faulty_names_its_kinds(site: Path) -> None:
    """A kind that does not exist is a mistake of the test, and says so."""
    faulty = load("faulty", "1.0.0", site).Faulty()

    with pytest.raises(LookupError, match="no kind 'explode'; known: abort, allocate, ansi, "):
        faulty.fail("explode")
    assert faulty.fail("none") == "well"


def test_what_hangs_can_be_let_go(site: Path) -> None:
    """A hung plugin ends with an error, never an answer, when the test's teardown sets ``release``."""
    faulty = load("faulty", "1.0.0", site).Faulty()
    api = importlib.import_module("notes_api")
    api.release.set()

    try:
        for kind in ("hang", "spin"):
            with pytest.raises(api.NotesError, match="let go"):
                faulty.fail(kind)
    finally:
        api.release.clear()
