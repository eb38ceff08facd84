"""``blackhole check PATH``: every problem at once, nothing imported, nothing left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blackhole_core.registry.check import check_path
from tests.unit.registry.wheels import WheelMaker, manifest, plugin_wheel

BAD = "name: upper\nversion: x\nthreads: 0\nentry: upper\n"


@pytest.mark.parametrize("group", [None, "notes"])
def test_sound(tmp_path: Path, group: str | None) -> None:
    """A sound manifest, directory and wheel have no problem, and give their manifest."""
    text = manifest("upper", "1.0.0", entry="upper")
    source = tmp_path / "source"
    source.mkdir()
    (source / "plugin.yaml").write_text(text)
    (source / "upper.py").write_text("raise SystemExit('imported')\n")
    for path in (source, source / "plugin.yaml", plugin_wheel().write(tmp_path)):
        problems, found = check_path(path, group=group)
        assert problems == []
        assert found is not None
        assert found.name == "upper"
    assert "upper" not in sys.modules


@pytest.mark.parametrize("group", [None, "notes"])
def test_problems_of_a_directory(tmp_path: Path, group: str | None) -> None:
    """All problems of a directory's manifest come at once, each once."""
    (tmp_path / "plugin.yaml").write_text(BAD)
    (tmp_path / "upper.py").write_text("")
    problems, found = check_path(tmp_path, group=group)
    assert [(problem.line, problem.path) for problem in problems] == [(2, "version"), (3, "threads")]
    assert found is None


@pytest.mark.parametrize("group", [None, "notes"])
def test_problems_of_a_wheel(tmp_path: Path, group: str | None) -> None:
    """Problems in a wheel name the file inside of it, not a temporary place."""
    maker = plugin_wheel()
    maker.files["upper/plugin.yaml"] = BAD.encode()
    wheel = maker.write(tmp_path)
    problems, _ = check_path(wheel, group=group)
    assert [str(problem).split(": ")[0] for problem in problems] == [f"{wheel}!upper/plugin.yaml:2", f"{wheel}!upper/plugin.yaml:3"]


@pytest.mark.parametrize("group", [None, "notes"])
def test_a_broken_wheel(tmp_path: Path, group: str | None) -> None:
    """A wheel that breaks a rule is one problem with the rule."""
    (problem,), found = check_path(WheelMaker(files={"os.py": b""}).write(tmp_path), group=group)
    assert "'os' belongs to Python" in problem.got
    assert found is None


def test_what_only_a_host_can_tell(tmp_path: Path) -> None:
    """With the host's group, a plugin that offers nothing to it is a problem."""
    problems, _ = check_path(plugin_wheel(group="other").write(tmp_path), group="notes")
    assert "nothing says where the plugin is" in problems[0].got


def test_nothing_to_check(tmp_path: Path) -> None:
    """An empty directory and a missing file are problems too."""
    assert "without one" in check_path(tmp_path, group=None)[0][0].got
    assert "there is no plugin in" in check_path(tmp_path, group="notes")[0][0].got
    assert "No such file" in check_path(tmp_path / "plugin.yaml", group=None)[0][0].got
    assert "No such file" in check_path(tmp_path / "a-1-py3-none-any.whl", group=None)[0][0].got
