"""Whole answers of the index: one small file for the next process, and never an answer that the directories would not give."""

from __future__ import annotations

import gc
import stat
import sys
import warnings
from pathlib import Path

import pytest

from blackhole_core.registry.index import DiscoveryIndex
from blackhole_core.registry.indexanswer import answer_key
from blackhole_core.registry.indexfile import IndexFiles
from tests.unit.registry.sites import Clock, asked_of_index, forget_listings, import_path, install, uninstall
from tests.unit.registry.wheels import plugin_wheel

HERE = "this machine"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> IndexFiles:
    return IndexFiles(str(tmp_path / "cache" / "blackhole" / "discovery"), HERE)


@pytest.fixture
def path(tmp_path: Path) -> list[Path]:
    """A small directory, a large one, and one that is missing."""
    small, large = tmp_path / "small", tmp_path / "large"
    install(small, "upper", points={"notes": {"upper": "upper"}})
    for number in range(10):
        install(large, f"dist{number}", points={"notes": {f"dist{number}": "m"}} if number == 3 else None)
    return [small, large, tmp_path / "missing"]


def look(files: IndexFiles, clock: Clock, path: list[Path]) -> list[str]:
    """Look as a new process does."""
    return [name for name, *_ in asked_of_index(DiscoveryIndex(files, clock=clock), "notes", path)]


def answered(files: IndexFiles, clock: Clock, path: list[Path]) -> Path:
    """Look until the answer is settled, and return its file."""
    for _ in range(3):
        assert look(files, clock, path) == ["upper", "dist3"]
        clock.settle()
    (file,) = Path(files.directory).glob("*.answer")
    return file


def test_a_new_process_opens_one_file(files: IndexFiles, clock: Clock, path: list[Path], read: list[str]) -> None:
    """Once settled, the answer is all that is read: no directory is listed, not even the small one of which nothing else is kept."""
    file = answered(files, clock, path)
    read.clear()
    assert look(files, clock, path) == ["upper", "dist3"]
    assert read == [str(file)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_is_not_trusted_before_everything_was_read_twice(files: IndexFiles, clock: Clock, path: list[Path], read: list[str]) -> None:
    """A directory that is read for the first time by each process is settled by what an earlier process noted, not by that alone."""
    answered(files, clock, path)
    (path[0] / "touched").mkdir()
    look(files, clock, path)
    clock.settle()
    clock.now -= 1
    look(files, clock, path)  # too early to settle it
    read.clear()
    look(files, clock, path)
    assert str(path[0]) in read
    clock.now += 1
    look(files, clock, path)
    read.clear()
    look(files, clock, path)
    assert str(path[0]) not in read


@pytest.mark.parametrize("change", ["install", "upgrade", "uninstall", "edit", "appears", "vanishes"])
def test_what_changes_is_seen(files: IndexFiles, clock: Clock, path: list[Path], change: str) -> None:
    """Whatever installers do, and an edit of a plugin in the group, is seen by the next process and by one that has looked before."""
    answered(files, clock, path)
    known = DiscoveryIndex(files, clock=clock)
    assert [point[0] for point in asked_of_index(known, "notes", path)] == ["upper", "dist3"]
    small, large, missing = path
    if change == "install":
        install(large, "more", points={"notes": {"more": "m"}})
    elif change == "upgrade":
        uninstall(large / "dist3-1.0.dist-info")
        install(large, "dist3", "2.0", points={"notes": {"three": "m"}})
    elif change == "uninstall":
        uninstall(small / "upper-1.0.dist-info")
    elif change == "edit":
        (large / "dist3-1.0.dist-info" / "entry_points.txt").write_text("[notes]\nedited = m\n")
    elif change == "appears":
        install(missing, "found", points={"notes": {"found": "m"}})
    else:
        small.rename(small.parent / "elsewhere")
    wanted = {
        "install": {"upper", "dist3", "more"},
        "upgrade": {"upper", "three"},
        "uninstall": {"dist3"},
        "edit": {"upper", "edited"},
        "appears": {"upper", "dist3", "found"},
        "vanishes": {"dist3"},
    }[change]
    assert {point[0] for point in asked_of_index(known, "notes", path)} == wanted
    assert set(look(files, clock, path)) == wanted


def test_of_another_start_or_clock(files: IndexFiles, clock: Clock, path: list[Path], read: list[str]) -> None:
    """A file from before the last start is worth nothing; a moment on another container's clock settles nothing."""
    answered(files, clock, path)
    read.clear()
    assert look(IndexFiles(files.directory, "started again"), clock, path) == ["upper", "dist3"]
    assert str(path[1]) in read
    look(IndexFiles(files.directory, HERE, lambda: "shifted"), clock, path)
    clock.settle()
    look(files, clock, path)
    read.clear()
    look(files, clock, path)
    assert str(path[0]) in read


@pytest.mark.parametrize("damage", ["cut", "changed", "writable", "nonsense"])
def test_a_file_that_cannot_be_trusted(files: IndexFiles, clock: Clock, path: list[Path], damage: str) -> None:
    """Half a file, a damaged one, one that others may write to and one that means nothing are made anew."""
    file = answered(files, clock, path)
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "changed":
        file.write_bytes(data.replace(b"dist3", b"dist4"))
    elif damage == "writable":
        file.chmod(0o666)
    else:
        assert files.keep_answer(answer_key("notes", [str(entry) for entry in path]) or "", "no answer")
    assert look(files, clock, path) == ["upper", "dist3"]
    assert "not used" in files.trouble or "made anew" in files.trouble
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    clock.settle()
    look(files, clock, path)
    assert file.read_bytes() == data


def test_what_is_no_plain_directory_has_none(files: IndexFiles, clock: Clock, path: list[Path], tmp_path: Path) -> None:
    """With a zip file on the path ``importlib.metadata`` is asked each time, and nothing is kept."""
    zipped = plugin_wheel().write(tmp_path).rename(tmp_path / "packages.zip")
    for _ in range(2):
        assert set(look(files, clock, [*path, zipped])) == {"upper", "dist3"}
        clock.settle()
    assert list(Path(files.directory).glob("*.answer")) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # importlib.metadata keeps the zip file open, and lets the collector close it
        forget_listings()
        gc.collect()


def test_other_finders_are_asked(files: IndexFiles, clock: Clock, path: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finder of its own says is never kept, and an answer from before it came is not used."""
    index = DiscoveryIndex(files, clock=clock)
    with import_path(path):
        for _ in range(3):
            assert [found.name for found in index.declarers("notes")] == ["upper", "dist3"]
            clock.settle()
        asked = []

        class Finder:
            @staticmethod
            def find_distributions(context: object) -> list[object]:
                asked.append(context)
                return []

        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
        assert [found.name for found in index.declarers("notes")] == ["upper", "dist3"]
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("group", "entries"), [("notes", ["relative"]), ("notes", [""]), ("no\ntes", ["/a"]), ("notes", ["/a\x1eb"]), ("\x1e", ["/a"])]
)
def test_questions_without_a_key(group: str, entries: list[str]) -> None:
    """A relative path is another directory in every process, and what contains a separator might be another question's key."""
    assert answer_key(group, entries) is None
    assert answer_key("notes", ["/a", "/b"]) != answer_key("notes", ["/a/b"])
