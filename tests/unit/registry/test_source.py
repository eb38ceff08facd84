"""Local sources: a directory with a plugin, a wheel, a directory of wheels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blackhole_core.errors import ManifestError, SourceError, UnknownPlugin
from blackhole_core.ids import PluginId
from blackhole_core.registry import tree
from blackhole_core.registry.candidate import Candidate, Discovery, Origin
from blackhole_core.registry.source import candidates_at, select
from blackhole_core.registry.store import WheelStore
from tests.unit.registry.wheels import manifest, plugin_wheel

CODE = "class Plugin:\n    pass\n"
PROJECT = '[project]\nname = "upper"\nversion = "1.0.0"\n[project.entry-points.notes]\nupper = "upper:Plugin"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "place"
    path.mkdir()
    return path


def write(place: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def look(source: Path, group: str = "notes") -> Discovery:
    base = source if source.is_dir() else source.parent
    return candidates_at(source, group=group, store=WheelStore(base.parent / "store"))


def only(source: Path, group: str = "notes") -> Candidate:
    found = look(source, group)
    assert found.problems == ()
    (candidate,) = found.candidates
    return candidate


def reason(source: Path, group: str = "notes") -> str:
    found = look(source, group)
    assert found.candidates == ()
    (problem,) = found.problems
    return problem.reason


ENTRY = manifest("upper", "1.0.0", entry="upper:Plugin")


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ({"plugin.yaml": ENTRY, "upper.py": CODE}, ""),
        ({"plugin.yaml": ENTRY, "upper/__init__.py": CODE}, ""),
        ({"upper/__init__.py": CODE, "upper/plugin.yaml": ENTRY}, ""),
        ({"upper.py": CODE, "upper.plugin.yaml": ENTRY}, ""),
        ({"plugin.yaml": ENTRY, "src/upper.py": CODE}, "src"),
        ({"src/upper/__init__.py": CODE, "src/upper/plugin.yaml": ENTRY}, "src"),
        ({"pyproject.toml": PROJECT, "upper.py": CODE}, ""),
        ({"pyproject.toml": PROJECT, "src/upper/__init__.py": CODE}, "src"),
        ({"pyproject.toml": PROJECT, "upper/__init__.py": CODE, "upper/plugin.yaml": manifest("upper", "1.0.0")}, ""),
        ({"pyproject.toml": PROJECT, "plugin.yaml": manifest("upper", "1.0.0"), "src/upper.py": CODE}, "src"),
        ({"pyproject.toml": '[project]\nname = "upper"\n', "plugin.yaml": ENTRY, "upper.py": CODE}, ""),
    ],
)
def test_layouts(place: Path, files: dict[str, str], path: str) -> None:
    """A plugin directory may be flat or have ``src``, hold a package or a module, and say in either file where the plugin is."""
    found = only(write(place, files))
    assert (str(found.id), found.origin, found.source) == ("upper@1.0.0", Origin.DIRECTORY, place)
    assert (found.entry, found.path, found.packages) == ("upper:Plugin", place / path, ("upper",))
    assert (found.manifest is not None) == any(name.endswith("plugin.yaml") for name in files)
    assert "upper" not in sys.modules


def test_the_directory_is_the_package(tmp_path: Path) -> None:
    """A directory that is itself a package is imported from its parent, and its siblings are not its code."""
    source = write(tmp_path / "upper", {"__init__.py": CODE, "plugin.yaml": ENTRY, "more.py": ""})
    write(tmp_path, {"sibling.py": ""})
    found = only(source)
    assert (found.path, found.packages) == (tmp_path, ("upper",))


def test_helpers_are_code_and_tools_are_not(place: Path) -> None:
    """Helper modules are the plugin's code; tests, documentation, caches, environments and hidden files are not."""
    extra = [
        "tests/test_a.py",
        "test_b.py",
        "docs/conf.py",
        "setup.py",
        ".git/x.py",
        "build/upper.py",
        "venv/pyvenv.cfg",
        "venv/lib/x.py",
        "__pycache__/a.py",
    ]
    write(place, {"plugin.yaml": ENTRY, "upper.py": CODE, "helper.py": "", **dict.fromkeys(extra, "")})
    assert only(place).packages == ("helper", "upper")


def test_digest_follows_the_code(place: Path) -> None:
    """The digest changes with source and manifest, and not with what is no code."""
    write(place, {"plugin.yaml": ENTRY, "upper/__init__.py": CODE, "README.md": "a"})
    first = only(place).digest
    write(place, {"README.md": "b", "tests/test_x.py": "", "upper/__pycache__/__init__.cpython-311.pyc": "", "upper/.swp": ""})
    assert only(place).digest == first
    write(place, {"upper/data.txt": "new"})
    second = only(place).digest
    write(place, {"plugin.yaml": ENTRY + "threads: 2\n"})
    third = only(place).digest
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "wanted a plugin.yaml, a pyproject.toml with [project.entry-points.notes], or wheels"),
        ({"upper.py": CODE}, "there is no plugin in"),
        ({"plugin.yaml": manifest("upper", "1.0.0"), "upper.py": CODE}, "nothing says where the plugin is"),
        ({"plugin.yaml": manifest("upper", "1.0.0", entry="gone:Plugin"), "upper.py": CODE}, "names the module 'gone'"),
        ({"plugin.yaml": ENTRY, "pyproject.toml": "[["}, "is not valid TOML"),
        ({"plugin.yaml": ENTRY, "pyproject.toml": PROJECT.replace("1.0.0", "2.0.0"), "upper.py": CODE}, "manifest says version 1.0.0"),
        (
            {"plugin.yaml": ENTRY, "pyproject.toml": PROJECT.replace("upper =", "lower ="), "upper.py": CODE},
            "names it 'upper', its entry point 'lower'",
        ),
        ({"plugin.yaml": ENTRY, "upper/__init__.py": CODE, "upper/plugin.yaml": ENTRY + "threads: 2\n"}, "two different manifests"),
        ({"pyproject.toml": PROJECT.replace("upper:Plugin", "../upper"), "upper.py": CODE}, "wanted an entry point"),
    ],
)
def test_directories_that_are_none(place: Path, files: dict[str, str], why: str) -> None:
    """H-05: what is missing or contradictory in a plugin directory is said in a sentence."""
    assert why in reason(write(place, files))


def test_every_problem_of_a_manifest(place: Path) -> None:
    """A manifest's problems all come through."""
    write(place, {"plugin.yaml": "name: upper\nversion: x\nthreads: 0\n", "upper.py": CODE})
    (problem,) = look(place).problems
    assert isinstance(problem.error, ManifestError)
    assert len(problem.error.problems) == 2


def test_several_plugins_in_one_directory(place: Path) -> None:
    """Each package with a manifest is a plugin; a bad one stops no other."""
    for name in ("upper", "lower"):
        write(place, {f"{name}/__init__.py": CODE, f"{name}/plugin.yaml": manifest(name, "1.0", entry=f"{name}:Plugin")})
    write(place, {"bad/__init__.py": "", "bad/plugin.yaml": "name: bad\n"})
    found = look(place)
    assert [candidate.name for candidate in found.candidates] == ["lower", "upper"]
    assert len(found.problems) == 1


def test_nothing_there(tmp_path: Path) -> None:
    """A path that does not exist, or is no source, is a problem with the path."""
    assert f"there is nothing at {tmp_path}/gone" in reason(tmp_path / "gone")
    (tmp_path / "text.txt").write_text("x")
    assert "has not the file name of a wheel" in reason(tmp_path / "text.txt")


def test_open_to_everybody(place: Path) -> None:
    """A63: a source that everybody may write to is refused, with what to do."""
    write(place, {"plugin.yaml": ENTRY, "upper.py": CODE})
    place.chmod(0o777)
    assert "can be written by everybody on this machine (mode 0777); run chmod o-w" in reason(place)
    wheel = plugin_wheel().write(place.parent / "dist")
    wheel.chmod(0o666)
    assert "can be written by everybody" in reason(wheel)


def test_neighbours_of_a_package_are_not_looked_at(tmp_path: Path) -> None:
    """A source that is the package itself is judged alone: what lies beside it belongs to somebody else."""
    package = tmp_path / "projects" / "upper"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.yaml").write_text(manifest("upper", "1.0", entry="upper"))
    (tmp_path / "projects" / "neighbour").symlink_to(tmp_path)
    (candidate,) = candidates_at(package, group="notes", store=WheelStore(tmp_path / "store")).candidates
    assert candidate.packages == ("upper",)


@pytest.mark.parametrize("directory", [True, False])
def test_links_that_lead_out(place: Path, tmp_path: Path, directory: bool) -> None:
    """A63: a link out of the source tree is refused; one that stays inside is not."""
    write(place, {"plugin.yaml": ENTRY, "upper.py": CODE})
    (place / "inside.py").symlink_to("upper.py")
    assert only(place).packages == ("inside", "upper")
    write(tmp_path / "outside", {"x.py": ""})
    (place / "out").symlink_to(tmp_path / "outside" if directory else tmp_path / "outside" / "x.py")
    assert "leads out of the source tree" in reason(place)


def test_a_home_directory_is_no_plugin(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree with more files than any plugin has is refused before all of it is read."""
    monkeypatch.setattr(tree, "MAX_FILES", 3)
    write(place, {"plugin.yaml": ENTRY, "upper.py": CODE, "a.py": "", "b.py": "", "c.py": ""})
    assert "holds more than 3 files" in reason(place)


def test_a_wheel(place: Path) -> None:
    """A wheel is unpacked into the store; its digest is the wheel's own."""
    wheel = plugin_wheel().write(place)
    found = only(wheel)
    store = WheelStore(place.parent / "store")
    assert (str(found.id), found.origin, found.source) == ("upper@1.0.0", Origin.WHEEL, wheel)
    assert (found.path, found.digest) == (store.find(found.digest), store.digest(found.path))
    assert found.packages == ("upper",)


def test_a_wheel_for_another_host(place: Path) -> None:
    """A58: a wheel whose entry points are of another group is no plugin of this host."""
    maker = plugin_wheel(group="other", declared=False)
    assert "has no plugin for this host: its entry_points.txt has no group 'notes' and there is no plugin.yaml" in reason(
        maker.write(place)
    )


def test_a_wheel_with_an_entry_in_its_manifest(place: Path) -> None:
    """A wheel without entry points may say in its manifest where the plugin is."""
    maker = plugin_wheel(entry="upper:Plugin")
    maker.entry_points = {}
    assert only(maker.write(place)).entry == "upper:Plugin"


def test_a_directory_of_wheels(place: Path) -> None:
    """W-03: every version in a directory of wheels is found; a half-written one is a problem and stops no other."""
    for version in ("1.0.0", "2.0.0", "10.0.0"):
        plugin_wheel(version=version).write(place)
    half = plugin_wheel(version="3.0.0").write(place)
    half.write_bytes(half.read_bytes()[:200])
    found = look(place)
    assert {candidate.id.version for candidate in found.candidates} == {"1.0.0", "2.0.0", "10.0.0"}
    (problem,) = found.problems
    assert (problem.name, problem.source) == ("upper", half)
    assert select(found.candidates, "upper").id.version == "10.0.0"
    assert select(found.candidates, "Upper", "2.0").id.version == "2.0.0"


def test_select_says_what_is_there(place: Path) -> None:
    """An unknown name or version is answered with those that are there."""
    for version in ("1.0.0", "2.0.0rc1"):
        plugin_wheel(version=version).write(place)
    candidates = look(place).candidates
    with pytest.raises(UnknownPlugin, match="there is no plugin named 'uper'; known: upper"):
        select(candidates, "uper")
    with pytest.raises(SourceError, match="there is no version 3 of plugin 'upper'; there is 2.0.0rc1, 1.0.0"):
        select(candidates, "upper", "3")


def test_versions_that_are_none() -> None:
    """A plain distribution may call its versions anything: they come last, and are found by their exact text."""
    candidates = [Candidate(PluginId("old", text), Origin.INSTALLED, Path(), "old", Path(), (), "") for text in ("final-cut", "0.1", None)]
    assert select(candidates, "old").id.version == "0.1"
    assert select(candidates, "old", "final-cut").id.version == "final-cut"


def test_final_versions_are_preferred(place: Path) -> None:
    """A pre-release is taken only when it is named, or there is nothing else."""
    plugin_wheel(version="2.0.0rc1").write(place)
    assert select(look(place).candidates, "upper").id.version == "2.0.0rc1"
    plugin_wheel(version="1.0.0").write(place)
    candidates = look(place).candidates
    assert select(candidates, "upper").id.version == "1.0.0"
    assert select(candidates, "upper", "2.0.0rc1").id.version == "2.0.0rc1"
