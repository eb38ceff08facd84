"""The plugins of ``contrib_plugins/``: installed by pip as a user would, their own tests run, then hosted at every level."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.cli.demo.api import PROJECT, WordCountSpecs

CONTRIB = Path(__file__).parents[2] / "contrib_plugins"
DISTRIBUTIONS = ("echo", "wordcount", "wordcount/releases/1.0.0")
LEVELS = ("none", "thread", "process")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One directory per distribution with what ``pip install ./contrib_plugins/<name>`` puts into an environment."""
    found = {}
    for name in DISTRIBUTIONS:
        site = tmp_path_factory.mktemp(name.replace("/", "-"))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
        subprocess.run([*command, str(CONTRIB / name)], check=True, timeout=100)
        found[name] = site
    return found


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_its_own_tests_pass_on_what_pip_installed(name: str, sites: dict[str, Path]) -> None:
    """A contrib plugin's own tests pass against its installed distribution, with plain pytest."""
    project = CONTRIB / name
    environment = {**os.environ, "PYTHONPATH": str(sites[name]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(project / "pyproject.toml"),
        str(project / "tests"),
    ]
    done = subprocess.run(command, check=False, cwd=project, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("level", LEVELS)
def test_echo_answers_at_every_level(level: str, sites: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed echo plugin is found by its entry point, without being named, and echoes at each level."""
    monkeypatch.syspath_prepend(sites["echo"])
    with bh.PluginManager(
        "blackhole.plugins", config={"plugins": {"echo": {"isolation": level, "grant": ["network"], "unenforced": "allow"}}}
    ) as pm:
        assert pm.load_all().loaded == ("echo",)
        assert pm.plugin("echo").isolation == level
        assert pm.execute("echo", data=b"hi") == b"Echo: hi"


@pytest.mark.parametrize("level", LEVELS)
def test_wordcount_carries_its_totals_from_release_to_release(level: str, sites: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """wordcount 1.0.0 hands its sums to 2.0.0 and takes them back on a rollback, at each level."""
    with bh.PluginManager(PROJECT) as pm:
        pm.add_hookspecs(WordCountSpecs)
        pm.load("wordcount", source=CONTRIB / "wordcount/releases/1.0.0", isolation=level)
        counts = pm.hook.count(path="a.py", source="x = 1\ny = x\n")
        report = pm.swap("wordcount", source=CONTRIB / "wordcount", isolation=level)
        assert (report.from_version, report.to_version) == ("1.0.0", "2.0.0")
        again = pm.hook.count(path="b.py", source="x = 1\ny = x\n")
        assert again == counts
        pm.rollback("wordcount")
        [totals] = pm.hook.totals()
        assert totals["files"] == 2
        assert totals["identifiers"] == 2 * counts[0]["identifiers"]
