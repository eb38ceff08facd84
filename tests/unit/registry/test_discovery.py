"""Installed plugins are found by their metadata, always as they are now, without importing them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blackhole_core.errors import ManifestError, NameClash
from blackhole_core.registry.candidate import Candidate, Discovery, Origin
from blackhole_core.registry.discovery import installed
from tests.unit.registry.wheels import WheelMaker, manifest, plugin_wheel


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site"
    path.mkdir()
    return path


def look(*site: Path) -> Discovery:
    return installed("notes", path=[str(path) for path in site])


def only(*site: Path) -> Candidate:
    found = look(*site)
    assert found.problems == ()
    (candidate,) = found.candidates
    return candidate


def reason(*site: Path) -> str:
    found = look(*site)
    assert found.candidates == ()
    (problem,) = found.problems
    return problem.reason


def test_an_installed_plugin(site: Path) -> None:
    """A distribution with an entry point of the group is a candidate: everything is known of it and nothing imported."""
    info = plugin_wheel(isolation="thread").install(site)
    plugin_wheel("other", group="another").install(site)
    found = only(site)
    assert str(found.id) == "upper@1.0.0"
    assert (found.origin, found.source, found.path) == (Origin.INSTALLED, info, site)
    assert (found.entry, found.packages, found.distribution) == ("upper:Plugin", ("upper",), "upper")
    assert found.manifest is not None
    assert found.manifest.isolation == "thread"
    assert "upper" not in sys.modules


def test_without_a_manifest(site: Path) -> None:
    """A plain pluggy plugin is named by its entry point and has its distribution's version."""
    plugin_wheel("up-per", "2.0", declared=False).install(site)
    found = only(site)
    assert (str(found.id), found.manifest) == ("up-per@2.0", None)


def test_an_upgrade_is_seen_at_once(site: Path) -> None:
    """The next look sees what an installer just did, though the directory's time of change stands still."""
    first = plugin_wheel().install(site)
    status = site.stat()
    assert only(site).id.version == "1.0.0"
    shutil.rmtree(first)
    plugin_wheel(version="1.1.0").install(site)
    os.utime(site, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert only(site).id.version == "1.1.0"


def test_a_real_upgrade(tmp_path: Path, site: Path) -> None:
    """``pip install`` and ``pip install -U`` of real wheels are seen while the process runs; the digest tells the builds apart."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([*pip, str(plugin_wheel().write(tmp_path))], check=True, timeout=100)
    before = only(site)
    subprocess.run([*pip, "-U", str(plugin_wheel(version="2.0.0").write(tmp_path))], check=True, timeout=100)
    after = only(site)
    assert (before.id.version, after.id.version) == ("1.0.0", "2.0.0")
    assert before.digest != after.digest


def test_digest_names_the_code(site: Path, tmp_path: Path) -> None:
    """Same version, other code: another digest. What the installer adds does not count."""
    plugin_wheel().install(site)
    first = only(site).digest
    (site / "upper-1.0.0.dist-info" / "INSTALLER").write_text("pip\n")
    with (site / "upper-1.0.0.dist-info" / "RECORD").open("a") as file:
        file.write("upper-1.0.0.dist-info/INSTALLER,sha256=abc,4\nupper/__pycache__/__init__.cpython-311.pyc,,\n../../bin/upper,,\n")
    assert only(site).digest == first
    other = plugin_wheel()
    other.files["upper/__init__.py"] += b"# changed\n"
    other.install(tmp_path / "other")
    assert only(tmp_path / "other").digest != first


def test_the_first_on_the_path_counts(site: Path, tmp_path: Path) -> None:
    """A distribution that is there twice is the one an import would find; that is no clash."""
    plugin_wheel().install(site)
    plugin_wheel(version="2.0.0").install(tmp_path / "behind")
    assert only(site, tmp_path / "behind").id.version == "1.0.0"


def test_one_name_twice(site: Path) -> None:
    """A61: two distributions with one plugin name (in two spellings) clash; both are named and neither is usable."""
    plugin_wheel("Foo_Bar").install(site)
    maker = plugin_wheel("other")
    maker.entry_points = {"notes": {"foo-bar": "other:Plugin"}}
    del maker.files["other/plugin.yaml"]
    maker.install(site)
    plugin_wheel("sound").install(site)
    found = look(site)
    assert [candidate.name for candidate in found.candidates] == ["sound"]
    assert len(found.problems) == 2
    assert all(isinstance(problem.error, NameClash) for problem in found.problems)
    assert "Foo_Bar" in found.problems[0].reason
    assert "of other" in found.problems[0].reason


def test_one_name_twice_in_one_distribution(site: Path) -> None:
    """A61: two entry points of one distribution in two spellings of one name clash as well."""
    maker = plugin_wheel(declared=False)
    maker.entry_points = {"notes": {"Foo_Bar": "upper:Plugin", "foo-bar": "upper:Other"}}
    maker.install(site)
    found = look(site)
    assert found.candidates == ()
    assert "upper:Plugin" in found.problems[0].reason
    assert "upper:Other" in found.problems[0].reason


def test_one_bad_plugin_stops_no_other(site: Path) -> None:
    """An impossible manifest is one plugin's problem, with every line of it; the others are found."""
    plugin_wheel("bad", cpu="5", threads="0").install(site)
    plugin_wheel("good").install(site)
    found = look(site)
    assert [candidate.name for candidate in found.candidates] == ["good"]
    (problem,) = found.problems
    assert problem.name == "bad"
    assert isinstance(problem.error, ManifestError)
    assert [fault.path for fault in problem.error.problems] == ["cpu", "threads"]


def test_manifest_and_entry_point_disagree(site: Path) -> None:
    """A plugin whose manifest and entry point give it two names is refused, with both."""
    maker = plugin_wheel()
    maker.files["upper/plugin.yaml"] = manifest("lower", "1.0.0").encode()
    maker.install(site)
    assert reason(site) == "its manifest names it 'lower', its entry point 'upper'; give both the same name"


def test_manifest_and_distribution_disagree(site: Path) -> None:
    """A manifest with another version than its distribution is refused, with both; ``1.0`` and ``1.0.0`` are one."""
    maker = plugin_wheel()
    maker.files["upper/plugin.yaml"] = manifest("upper", "1.0").encode()
    maker.install(site)
    assert only(site).id.version == "1.0"
    (site / "upper" / "plugin.yaml").write_text(manifest("upper", "1.1"))
    assert reason(site) == "its manifest says version 1.1, its distribution upper version 1.0.0; give both the same"


def test_module_is_missing(site: Path) -> None:
    """H-05: an entry point into nothing, and a file that an installer has not written yet, are told before anything is started."""
    maker = plugin_wheel(declared=False)
    maker.entry_points = {"notes": {"upper": "upper.gone:Plugin"}}
    maker.install(site)
    assert "names the module 'upper.gone', which is not among its files" in reason(site)
    plugin_wheel(declared=False).install(site)
    (site / "upper" / "__init__.py").unlink()
    assert "upper/__init__.py is missing: an installation or removal is half done" in reason(site)


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("entry_points.txt", "[notes]\nbroken", "entry_points.txt is not readable"),
        ("entry_points.txt", "[notes]\nupper = not a module\n", "wanted an entry point"),
        ("entry_points.txt", "[notes]\n../x = upper:Plugin\n", "names it 'upper', its entry point '../x'"),
        ("direct_url.json", "{", "direct_url.json of"),
        ("direct_url.json", "[]", "direct_url.json of"),
    ],
)
def test_damaged_metadata(site: Path, file: str, content: str, why: str) -> None:
    """Metadata that cannot be read is a problem of that distribution, with the file in it."""
    (plugin_wheel().install(site) / file).write_text(content)
    assert why in reason(site)


def test_half_done_installations(site: Path) -> None:
    """What pip is about to remove, and a directory without metadata, are nobody's plugin."""
    info = plugin_wheel().install(site)
    info.rename(site / "~pper-1.0.0.dist-info")
    (site / "ghost-1.0.dist-info").mkdir()
    (site / "ghost-1.0.dist-info" / "entry_points.txt").write_text("[notes]\nghost = ghost\n")
    assert look(site) == Discovery()


def test_single_module(site: Path) -> None:
    """A single module carries its manifest beside it, under its own name."""
    WheelMaker(
        files={"upper.py": b"class Plugin: pass\n", "upper.plugin.yaml": manifest("upper", "1.0.0", threads=3).encode()},
        entry_points={"notes": {"upper": "upper:Plugin"}},
    ).install(site)
    found = only(site)
    assert found.packages == ("upper",)
    assert found.manifest is not None
    assert found.manifest.threads == 3


def test_manifest_at_the_top_of_site_packages(site: Path) -> None:
    """A ``plugin.yaml`` at the top of site-packages is refused, never overlooked: without it the plugin would run less isolated."""
    WheelMaker(
        files={"upper.py": b"", "plugin.yaml": manifest("upper", "1.0.0").encode()}, entry_points={"notes": {"upper": "upper"}}
    ).install(site)
    assert "ship it in the plugin's package, or as upper.plugin.yaml" in reason(site)


def test_namespace_package(site: Path) -> None:
    """Two distributions share a namespace; each owns its part, and its manifest is its own."""
    for name in ("upper", "lower"):
        WheelMaker(
            name,
            files={f"acme/{name}/__init__.py": b"", f"acme/{name}/plugin.yaml": manifest(name, "1.0.0").encode()},
            entry_points={"notes": {name: f"acme.{name}"}},
        ).install(site)
    assert {candidate.packages for candidate in look(site).candidates} == {("acme.upper",), ("acme.lower",)}


def test_a_linked_manifest_is_refused(site: Path, tmp_path: Path) -> None:
    """A63: a symbolic link in the manifest's place is not followed."""
    plugin_wheel().install(site)
    (site / "upper" / "plugin.yaml").rename(tmp_path / "real.yaml")
    (site / "upper" / "plugin.yaml").symlink_to(tmp_path / "real.yaml")
    assert "a symbolic link" in reason(site)


def _editable(site: Path, project: Path, *files: str, entry: str = "upper:Plugin", pth: str | None = None) -> None:
    maker = WheelMaker(entry_points={"notes": {"upper": entry}}, files={} if pth is None else {"_upper.pth": f"{pth}\n".encode()})
    info = maker.install(site)
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(manifest("upper", "1.0.0") if name.endswith(".yaml") else "class Plugin: pass\n")


@pytest.mark.parametrize("named", [True, False], ids=["pth names it", "found by layout"])
@pytest.mark.parametrize("folder", ["src/", ""], ids=["src", "flat"])
def test_editable(site: Path, tmp_path: Path, folder: str, named: bool) -> None:
    """An editable install is imported from its project, where its manifest and its helper modules are; tests are not its code."""
    project = tmp_path / "pro ject"
    files = [f"{folder}upper/__init__.py", f"{folder}upper/plugin.yaml", f"{folder}upper_tools.py", "tests/test_upper.py", "setup.py"]
    _editable(site, project, *files, pth=str(project / folder) if named else None)
    found = only(site)
    assert (found.origin, found.source, found.path) == (Origin.INSTALLED, project, project / folder.rstrip("/") if folder else project)
    assert found.packages == ("upper", "upper_tools")
    assert found.manifest is not None
    (project / folder / "upper" / "__init__.py").write_text("class Plugin: changed = True\n")
    assert only(site).digest != found.digest


def test_editable_that_is_gone(site: Path, tmp_path: Path) -> None:
    """An editable install whose project was removed says where it was looked for."""
    _editable(site, tmp_path / "gone")
    assert f"neither in {tmp_path}/gone/src nor in {tmp_path}/gone" in reason(site)


def test_a_real_editable_install(tmp_path: Path, site: Path) -> None:
    """What hatchling makes of ``pip install -e`` is understood."""
    project = tmp_path / "project"
    (project / "src" / "upper").mkdir(parents=True)
    (project / "src" / "upper" / "__init__.py").write_text("")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "upper"\nversion = "1.0.0"\n[project.entry-points.notes]\nupper = "upper"\n'
        '[tool.hatch.build]\ndev-mode-dirs = ["src"]\n'
    )
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(site), "-e", str(project)], check=True, timeout=100)
    found = only(site)
    assert (found.path, found.packages) == (project / "src", ("upper",))


def test_egg_info(site: Path) -> None:
    """A distribution that an old installer left as egg-info, without RECORD, is understood too."""
    (site / "upper.py").write_text("")
    info = site / "upper-1.0.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: upper\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[notes]\nupper = upper\n")
    (info / "installed-files.txt").write_text("../upper.py\nPKG-INFO\nentry_points.txt\n")
    found = only(site)
    assert (str(found.id), found.packages) == ("upper@1.0", ("upper",))


def test_no_record(site: Path) -> None:
    """A distribution that does not say which files are its own is a problem that says what to do."""
    (plugin_wheel().install(site) / "RECORD").unlink()
    assert "has no RECORD" in reason(site)
    assert "install it again with pip" in reason(site)
