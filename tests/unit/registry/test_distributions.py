"""Installed distributions are found as they are on disk now, without listing every directory each time."""

from __future__ import annotations

import gc
import os
import time
import warnings
from pathlib import Path

import importlib_metadata
import pytest

from blackhole_core.registry.distributions import distribution, distributions, version_of
from tests.unit.registry.wheels import WheelMaker

LONG_AGO = time.time_ns() - 3_600_000_000_000


@pytest.fixture
def site(tmp_path: Path) -> Path:
    WheelMaker("Num_Py", "1.26").install(tmp_path / "site")
    return tmp_path / "site"


def change_at(place: Path, moment: int) -> None:
    os.utime(place, ns=(moment, moment))


def test_one_by_any_spelling_of_its_name(site: Path) -> None:
    """A distribution is found under every spelling that is the same name, and only under those."""
    for name in ("num.py", "NUM-PY", "num_py"):
        found = distribution(name, [str(site)])
        assert found is not None
        assert version_of(found) == "1.26"
    assert distribution("num", [str(site)]) is None


def test_a_listing_is_made_once_while_nothing_changes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that changed long before it was listed is not listed again for the next question."""
    change_at(site, LONG_AGO)
    assert distribution("num-py", [str(site)]) is not None
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} was listed again"))
    assert distribution("num-py", [str(site)]) is not None


def test_a_change_is_seen_by_the_time_of_the_directory(site: Path) -> None:
    """What was installed after a listing is found: the directory's time has changed."""
    change_at(site, LONG_AGO)
    assert distribution("later", [str(site)]) is None
    WheelMaker("later", "2.0").install(site)
    change_at(site, LONG_AGO + 1_000_000_000)
    assert distribution("later", [str(site)]) is not None


def test_a_change_within_one_tick_of_the_clock_is_seen(site: Path) -> None:
    """A listing made just after a change is not trusted: another change may share the time of that one."""
    moment = time.time_ns()
    change_at(site, moment)
    assert distribution("later", [str(site)]) is None
    WheelMaker("later", "2.0").install(site)
    change_at(site, moment)
    assert distribution("later", [str(site)]) is not None


def test_the_version_is_the_one_in_the_header(site: Path) -> None:
    """A README that speaks of a version does not decide it; metadata without one is asked in the long way."""
    (info,) = site.glob("*.dist-info")
    found = distribution("num-py", [str(site)])
    assert found is not None
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: num-py\nVersion: 3.1\n\nVersion: 9\n")
    assert version_of(found) == "3.1"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: num-py\nversion : odd\n")
    with pytest.raises(KeyError):
        version_of(found)


def test_the_first_on_the_path_counts(site: Path, tmp_path: Path) -> None:
    """Of two distributions of one name the first on the path is the installed one, also when it lies in a zip file."""
    WheelMaker("num-py", "2.0").install(tmp_path / "second")
    wheel = WheelMaker("num-py", "0.9").write(tmp_path / "dist")
    zipped = wheel.rename(wheel.with_name("packages.zip"))
    for path, version in (([site, tmp_path / "second"], "1.26"), ([tmp_path / "second", site], "2.0"), ([zipped, site], "0.9")):
        places = [str(place) for place in path]
        found = distribution("num-py", places)
        assert found is not None
        assert version_of(found) == version == distributions(places)["num-py"].version
    del found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it keeps the zip file open, and lets the collector close it
        importlib_metadata.MetadataPathFinder.invalidate_caches()
        gc.collect()


def test_directories_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    """An entry of the path that does not exist is no error, as it is none for an import."""
    assert distributions([str(tmp_path / "gone")]) == {}
    assert distribution("pluggy", [str(tmp_path / "gone")]) is None
