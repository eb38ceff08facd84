"""doctor, check, list and info: they look, tell, and change nothing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from blackhole_core.cli import doctor as doctor_module
from blackhole_core.cli.exits import Exit
from blackhole_core.cli.main import main
from blackhole_core.executor.levels import Level
from blackhole_core.ids import Isolation
from blackhole_core.registry.index import the_index
from tests.plugins.build import install_plugin, plugin_dir, plugin_wheel

# --- doctor -------------------------------------------------------------------------------------------------------------


def test_doctor_names_every_level_and_why_not(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each level is listed; one that cannot run here says why."""
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no QEMU
    result = runner.invoke(main, ["doctor"])
    assert result.exit_code == Exit.OK
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert [level.value for level in Isolation if level.value in lines] == [level.value for level in Isolation]
    assert lines["none"].split()[1] == "yes"
    assert lines["vm"].split()[1] == "no"
    assert "qemu-system-x86_64, mksquashfs, busybox not found" in lines["vm"]
    assert "install qemu" in lines["vm"]
    assert sys.version.split()[0] in lines["python"]


def test_doctor_says_which_limits_the_kernel_holds_and_why_not_the_others(runner: CliRunner) -> None:
    """Each of them is either held or has a reason; and what becomes of processes that left their worker."""
    [found] = [
        check for check in json.loads(runner.invoke(main, ["doctor", "--json"]).stdout)["checks"] if check["what"] == "control groups"
    ]
    for name in ("cpu", "memory", "pids"):
        assert re.search(rf"\b{name} (\(version [12]\)|not held: .)", found["facts"])
    assert "what a worker started" in found["facts"]
    assert found["problem"] is None


def test_doctor_says_who_keeps_images(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works, what does not and why, and what is not installed, with the command that installs it; none of it is a problem."""
    (tmp_path / "bin").mkdir()
    podman = tmp_path / "bin" / "podman"
    podman.write_text("#!/bin/sh\necho 'no room for images' >&2\nexit 125\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    finding = doctor_module._images()
    assert finding.facts.startswith("podman does not work here: no room for images; docker is not installed (")
    assert "install docker" in finding.facts
    podman.write_text("#!/bin/sh\n")
    finding = doctor_module._images()
    assert finding.facts.startswith(f"podman at {podman} works; docker is not installed")
    assert finding.problem == ""


def test_doctor_as_json_is_one_document(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The keys that scripts rely on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    report = json.loads(runner.invoke(main, ["doctor", "--json"]).stdout)
    assert set(report) == {"ok", "problems", "versions", "levels", "transport", "start", "containers", "machines", "checks", "groups"}
    assert report["levels"]["none"] == {"available": True, "reason": None}
    assert report["levels"]["vm"]["reason"]


def test_doctor_fails_when_a_required_level_is_missing(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """--require turns a missing level into code 4 and a sentence; the others do not matter."""
    levels = tuple(Level(level, "no kernel" if level is Isolation.PROCESS else "") for level in Isolation)
    monkeypatch.setattr(doctor_module, "levels_here", lambda: levels)
    result = runner.invoke(main, ["doctor", "--require", "thread", "--require", "process"])
    assert result.exit_code == Exit.PROBLEMS
    assert result.stderr == "blackhole: level process cannot run here: no kernel\n"
    assert runner.invoke(main, ["doctor", "--require", "thread"]).exit_code == Exit.OK


def test_doctor_looks_at_the_configured_state_directory(runner: CliRunner, tmp_path: Path) -> None:
    """A state directory that cannot be one is a problem with a way out; one that does not exist yet is fine."""
    Path("blackhole.yaml").write_text("project: notes\nstate_dir: state\n")
    assert runner.invoke(main, ["doctor"]).exit_code == Exit.OK
    Path("state").write_text("a file")
    result = runner.invoke(main, ["doctor"])
    assert result.exit_code == Exit.PROBLEMS
    assert f"{tmp_path}/here/state is no directory; name another one as state_dir" in result.stderr


def test_doctor_looks_at_the_socket_directory(runner: CliRunner, tmp_path: Path) -> None:
    """A runtime directory that no control socket may lie in is a problem before a host is started."""
    (tmp_path / "run" / "blackhole").symlink_to(tmp_path)
    result = runner.invoke(main, ["doctor"])
    assert result.exit_code == Exit.PROBLEMS
    assert "is a symbolic link" in result.stderr


def test_doctor_shows_and_clears_the_discovery_index(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where the index lies, what it knows and what keeps it from being used, and removes it when told to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "blackhole" / "discovery"
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    for number in range(8):
        (tmp_path / "site" / f"dist{number}-1.0.dist-info").mkdir(parents=True)
    runner.invoke(main, ["list", "--group", "notes"])
    known = [table.distributions for table in the_index().files.tables()]  # type: ignore[union-attr]  # there is one
    assert 8 in known
    result = runner.invoke(main, ["doctor"])
    assert f"{place}, {sum(known)} distributions in {len(known)} directories" in result.stdout, result.output
    place.chmod(0o777)
    result = runner.invoke(main, ["doctor"])
    assert "others may write to the directory (mode 0777)" in result.stdout
    assert result.exit_code == Exit.OK
    place.chmod(0o700)
    assert f"{place}, 0 distributions in 0 directories" in runner.invoke(main, ["doctor", "--clear-index"]).stdout
    assert list(place.iterdir()) == []
    monkeypatch.setenv("BLACKHOLE_DISCOVERY_INDEX", "off")
    assert "not kept on disk (BLACKHOLE_DISCOVERY_INDEX=off)" in runner.invoke(main, ["doctor"]).stdout


def test_doctor_passes_over_a_half_installed_distribution(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without metadata, as an interrupted installer leaves it, is no reason to fail; whoever of Python and its backport finds it."""
    import importlib_metadata  # its finder takes the place of Python's own

    (tmp_path / "broken-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert list(importlib_metadata.distributions(path=[str(tmp_path)]))
    result = runner.invoke(main, ["doctor"])
    assert result.exit_code == Exit.OK, result.output


@pytest.mark.parametrize("points", [b"[notes]\na = \xe9\n", b"[notes]\nbroken\n"])
def test_doctor_names_a_plugin_whose_entry_points_cannot_be_read(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: bytes
) -> None:
    """It is a problem with a name, and the report goes on; a distribution whose METADATA is not text is passed over."""
    for name, metadata in (("upper", b"Requires-Dist: pluggy\n"), ("other", b"Summary: \xe9\n")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_bytes(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode() + metadata)
        (info / "entry_points.txt").write_bytes(points)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    report = json.loads(runner.invoke(main, ["doctor", "--json"]).stdout)
    [problem] = report["problems"]
    assert problem.startswith("entry points: the entry_points.txt of upper cannot be read (")
    assert problem.endswith("; install it again")


# --- check --------------------------------------------------------------------------------------------------------------


def test_check_prints_every_problem_as_a_compiler_does(runner: CliRunner, tmp_path: Path) -> None:
    """file:line: path: wanted, got; all of them, of all paths, and code 4."""
    bad = plugin_dir("bad_manifest", "1.0.0", tmp_path)
    good = plugin_wheel("counter", "1.0.0", tmp_path)
    result = runner.invoke(main, ["check", str(bad), str(good), "missing.whl"])
    assert result.exit_code == Exit.PROBLEMS
    *problems, missing, sound = result.stdout.splitlines()
    assert len(problems) >= 5
    assert all(line.startswith(f"{bad}/notes_bad_manifest/plugin.yaml:") and "wanted" in line and "got" in line for line in problems)
    assert missing.startswith("missing.whl: wanted a plugin directory")
    assert sound == f"{good}: counter@1.0.0 is sound"


def test_check_as_json_has_each_problem_apart(runner: CliRunner, tmp_path: Path) -> None:
    """The parts of a problem are keys."""
    bad = plugin_dir("bad_manifest", "1.0.0", tmp_path)
    result = runner.invoke(main, ["check", "--json", str(bad)])
    assert result.exit_code == Exit.PROBLEMS
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert {tuple(problem) for problem in report["problems"]} == {("file", "line", "path", "wanted", "got")}


def test_check_with_a_group_looks_at_the_code_too(runner: CliRunner, tmp_path: Path) -> None:
    """A group makes sure that there is a plugin of that host; the project of ./blackhole.yaml is one."""
    good = plugin_dir("upper", "1.0.0", tmp_path)
    assert runner.invoke(main, ["check", "--group", "notes", str(good)]).exit_code == Exit.OK
    assert runner.invoke(main, ["check", "--group", "other", str(good)]).exit_code == Exit.PROBLEMS
    Path("blackhole.yaml").write_text("project: other\n")
    assert runner.invoke(main, ["check", str(good)]).exit_code == Exit.PROBLEMS


# --- list and info ------------------------------------------------------------------------------------------------------


def test_list_shows_sources_and_what_is_unusable(runner: CliRunner, tmp_path: Path) -> None:
    """Plugins with version and level; what cannot be used on standard error with the reason."""
    wheels = tmp_path / "wheels"
    plugin_wheel("counter", "1.0.0", wheels)
    plugin_wheel("upper", "1.0.0", wheels)
    bad = plugin_dir("bad_manifest", "1.0.0", tmp_path)
    result = runner.invoke(main, ["list", "--group", "notes", "--source", str(wheels), "--source", str(bad)])
    assert result.exit_code == Exit.OK
    heading, *rows = (line.split() for line in result.stdout.splitlines())
    assert heading[:4] == ["NAME", "VERSION", "LEVEL", "ORIGIN"]
    assert sorted(row[:4] for row in rows) == [["counter", "1.0.0", "process", "wheel"], ["upper", "1.0.0", "-", "wheel"]]
    assert "bad_manifest" in result.stderr
    assert "cannot be used" in result.stderr


def test_list_finds_installed_plugins_of_the_configured_host(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options the group is the project of ./blackhole.yaml."""
    install_plugin("upper", "1.0.0", tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    Path("blackhole.yaml").write_text("project: notes\n")
    report = json.loads(runner.invoke(main, ["list", "--json"]).stdout)
    assert report["group"] == "notes"
    assert report["problems"] == []
    [plugin] = report["plugins"]
    assert (plugin["name"], plugin["version"], plugin["origin"], plugin["distribution"]) == ("upper", "1.0.0", "installed", "notes-upper")


def test_list_says_when_there_is_nothing(runner: CliRunner) -> None:
    """An empty list is a sentence with what to do."""
    result = runner.invoke(main, ["list", "--group", "nobody-has-this"])
    assert result.stdout == "no plugin of group nobody-has-this is installed; look elsewhere too with --source\n"


def test_info_tells_all_about_one_plugin(runner: CliRunner, tmp_path: Path) -> None:
    """Manifest, origin, requirements and the operator's word, with or without a host."""
    source = plugin_dir("counter", "2.0.0", tmp_path)
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace('"blackhole-core"', '"blackhole-core", "nowhere-at-all"'))
    Path("blackhole.yaml").write_text("project: notes\ndeny: [count*]\n")
    result = runner.invoke(main, ["info", "counter", "--source", str(source), "--json"])
    assert result.exit_code == Exit.OK
    facts = json.loads(result.stdout)
    assert (facts["version"], facts["level"], facts["running"]) == ("2.0.0", "process", None)
    assert facts["manifest"]["state"] == {"version": 2, "migrates": [1], "snapshot": None}
    assert facts["missing_requirements"] == ["needs nowhere-at-all, which is not installed"]
    assert "denied" in facts["refused"]
    table = runner.invoke(main, ["info", "counter", "--source", str(source)]).stdout
    assert "manifest.state.version" in table


def test_info_of_an_unknown_plugin_names_those_there_are(runner: CliRunner, tmp_path: Path) -> None:
    """A typing mistake is answered with the names."""
    plugin_wheel("upper", "1.0.0", tmp_path / "wheels")
    result = runner.invoke(main, ["info", "uper", "--group", "notes", "--source", str(tmp_path / "wheels")])
    assert result.exit_code == Exit.FAILED
    assert result.stderr == "blackhole: there is no plugin named 'uper'; known: upper\n"
