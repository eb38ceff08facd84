"""The discovery index: what it takes as unchanged, what it reads again, and what it leaves to ``importlib.metadata``."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from blackhole_core.errors import ConfigError
from blackhole_core.registry import index as index_module
from blackhole_core.registry.index import VARIABLE, DiscoveryIndex, entry_points, index_status
from blackhole_core.registry.indexscan import parse_points
from blackhole_core.registry.indexstamp import SETTLED_NS, settle
from tests.unit.registry.sites import Clock, asked_of_index, asked_of_python, forget_listings, import_path, install, uninstall
from tests.unit.registry.wheels import plugin_wheel

NOTES = {"notes": {"upper": "upper:Plugin"}}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def index(clock: Clock) -> DiscoveryIndex:
    return DiscoveryIndex(clock=clock)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site"
    path.mkdir()
    return path


def look(index: DiscoveryIndex, *path: Path) -> list[str]:
    return [point[1] for point in asked_of_index(index, "notes", path)]


def settled(index: DiscoveryIndex, clock: Clock, *path: Path) -> list[str]:
    """Look twice, as far apart as it takes."""
    look(index, *path)
    clock.settle()
    return look(index, *path)


# --- what is read again ---------------------------------------------------------------------------------------------------


def test_nothing_is_read_while_nothing_changes(index: DiscoveryIndex, clock: Clock, site: Path, read: list[str]) -> None:
    """Once settled, a look reads no file and lists no directory."""
    install(site, "upper", points=NOTES)
    assert settled(index, clock, site) == ["upper:Plugin"]
    read.clear()
    assert look(index, site) == ["upper:Plugin"]
    assert read == []


def test_only_what_was_added_is_read(index: DiscoveryIndex, clock: Clock, site: Path, read: list[str]) -> None:
    """After one more installation the directory is listed, and of all the files in it only the new ones are opened."""
    for number in range(5):
        install(site, f"old{number}", points={"notes": {f"old{number}": "old"}})
    settled(index, clock, site)
    install(site, "upper", points=NOTES)
    read.clear()
    assert sorted(look(index, site)) == ["old"] * 5 + ["upper:Plugin"]
    assert read == [str(site), f"{site}/upper-1.0.dist-info/entry_points.txt"]


def test_what_was_read_within_a_tick_is_read_again(index: DiscoveryIndex, clock: Clock, site: Path, read: list[str]) -> None:
    """Until its stamp is older than two ticks of any clock, a reading is not trusted: the next look reads again."""
    info = install(site, "upper", points=NOTES)
    look(index, site)
    clock.now += SETTLED_NS - 1
    read.clear()
    look(index, site)
    assert f"{info}/entry_points.txt" in read


def test_an_installation_in_progress(index: DiscoveryIndex, clock: Clock, site: Path) -> None:
    """An installer that pauses for an hour between making the directory and writing into it is still seen to end."""
    info = install(site, "upper", style="half")
    assert settled(index, clock, site) == []
    (info / "entry_points.txt").write_text("[notes]\nupper = up")
    assert settled(index, clock, site) == ["up"]
    with (info / "entry_points.txt").open("a") as file:
        file.write("per:Plugin\n")
    assert settled(index, clock, site) == ["upper:Plugin"]


def test_a_record_that_comes_before_the_entry_points(index: DiscoveryIndex, clock: Clock, site: Path) -> None:
    """A wheel whose RECORD is unpacked first: the distribution counts as being installed until the installer has signed."""
    info = install(site, "upper", style="half")
    (info / "RECORD").write_text("")
    assert settled(index, clock, site) == []
    (info / "entry_points.txt").write_text("[notes]\nupper = upper:Plugin\n")
    assert look(index, site) == ["upper:Plugin"]


def test_a_time_that_is_put_back(index: DiscoveryIndex, clock: Clock, site: Path) -> None:
    """Who sets a directory's time back, as rsync and tar do, does not hide a change: the time of change tells."""
    first = install(site, "upper", points=NOTES)
    status = site.stat()
    settled(index, clock, site)
    uninstall(first)
    os.utime(site, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(index, site) == []


def test_another_directory_in_its_place(index: DiscoveryIndex, clock: Clock, site: Path, tmp_path: Path) -> None:
    """A link on the path that is turned to another directory is followed to that one."""
    install(site, "upper", points=NOTES)
    install(tmp_path / "next", "upper", "2.0", points={"notes": {"upper": "two"}})
    current = tmp_path / "current"
    current.symlink_to(site)
    assert settled(index, clock, current) == ["upper:Plugin"]
    current.unlink()
    current.symlink_to(tmp_path / "next")
    assert look(index, current) == ["two"]


def test_metadata_behind_a_link(index: DiscoveryIndex, clock: Clock, site: Path, tmp_path: Path) -> None:
    """What lies behind a link may change without a trace in the directory: it is compared at every look."""
    info = install(tmp_path / "store", "upper", points=NOTES)
    (site / info.name).symlink_to(info)
    assert settled(index, clock, site) == ["upper:Plugin"]
    (info / "entry_points.txt").write_text("[notes]\nupper = changed\n")
    assert look(index, site) == ["changed"]
    shutil.rmtree(info)
    assert look(index, site) == []


def test_an_edit_by_hand(clock: Clock, site: Path) -> None:
    """A plugin's entry points may be edited in place. Who joins a group by such an edit is seen with "deep" only; the next installation shows it, too."""
    member = install(site, "upper", points=NOTES)
    outsider = install(site, "other", points={"another": {"other": "other"}})
    usual, deep = DiscoveryIndex(clock=clock), DiscoveryIndex(clock=clock, deep=True)
    for index in (usual, deep):
        settled(index, clock, site)
    (member / "entry_points.txt").write_text("[notes]\nupper = edited\n")
    assert look(usual, site) == look(deep, site) == ["edited"]
    settled(usual, clock, site)
    (outsider / "entry_points.txt").write_text("[notes]\nother = joined\n")
    assert look(usual, site) == ["edited"]
    assert sorted(look(deep, site)) == ["edited", "joined"]
    install(site, "third")
    assert sorted(look(usual, site)) == ["edited", "joined"]


def test_directories_that_cannot_be_read(index: DiscoveryIndex, clock: Clock, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is closed to us holds nothing, and nothing is remembered of it; open again, it is read."""
    install(site, "upper", points=NOTES)
    settled(index, clock, site)
    listdir = os.listdir

    def closed(path: str) -> list[str]:
        raise PermissionError(13, "closed", path)

    install(site, "other")
    monkeypatch.setattr(os, "listdir", closed)
    assert look(index, site) == []
    monkeypatch.setattr(os, "listdir", listdir)
    assert look(index, site) == ["upper:Plugin"]


def test_moments_of_another_clock() -> None:
    """A moment that has not come yet was noted by a clock that is not ours: nothing is settled by it."""
    assert settle(100, None) == 100
    assert settle(100, 200) == 100
    assert settle(SETTLED_NS + 100, 101) == 101
    assert settle(SETTLED_NS + 100, 100) == 0


def test_threads_look_while_distributions_change(site: Path, fast_switching: None) -> None:
    """While one thread installs and removes, each look of the others finds what was there before or after, and the last one what is there."""
    index = DiscoveryIndex()
    install(site, "upper", points=NOTES)
    ended = threading.Event()
    wrong: list[list[str]] = []

    def watch() -> None:
        while not ended.is_set():
            found = look(index, site)
            if "upper:Plugin" not in found or len(found) > 2:
                wrong.append(found)

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    for _ in range(40):
        uninstall(install(site, "other", points={"notes": {"other": "other"}}))
    install(site, "last", points={"notes": {"last": "last"}})
    assert sorted(look(index, site)) == ["last", "upper:Plugin"]
    ended.set()
    for watcher in watchers:
        watcher.join(30)
    assert wrong == []
    assert sorted(look(index, site)) == ["last", "upper:Plugin"]


# --- whose rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[notes]\na = b\n  c=d:e [x, y]  \n\n[other]\nf = g\n",
        "a = before any group\n[notes]\nb = c = d\n",
        "[notes\n",
        "[ notes ]\na = b\n",
        "[[notes]]\na = b\r\nc = d\r",
        "[notes]\na =\n = b\n",
        "[notes]\nno equals sign\n",
        "[notes]\n; a comment\n",
        "[notes]\na\tb = c\td\x0be = f\x1cg = h\n[notes]\ni = j\n",
        "\ufeff[notes]\na = b\n",
    ],
)
def test_the_text_is_read_as_importlib_metadata_reads_it(text: str) -> None:
    """Every oddity of an ``entry_points.txt`` means what it means to ``importlib.metadata``, which raises for a line that is none."""

    class Distribution(importlib.metadata.Distribution):
        def read_text(self, filename: str) -> str:
            return text

        def locate_file(self, path: object) -> Path:
            raise NotImplementedError

    try:
        expected = [field for point in Distribution().entry_points for field in (point.group, point.name, point.value)]
    except TypeError:
        with pytest.raises(ValueError, match="wanted name = value"):
            parse_points(text)
    else:
        assert list(parse_points(text)) == expected


def test_an_entry_point_has_what_importlib_metadata_gives(site: Path) -> None:
    """Name, value, group and the distribution with all its metadata, also from a relative path."""
    install(site, "Num_Py", "1.26", NOTES)
    with import_path([site]):
        (point,) = entry_points("notes")
    assert tuple(point)[:3] == ("upper", "upper:Plugin", "notes")
    assert (point.dist.metadata["Name"], point.dist.version) == ("Num_Py", "1.26")  # reading it may import something of Python's own
    (again,) = entry_points("notes", [os.path.relpath(site)])
    assert again.dist.version == "1.26"


def test_two_distributions_of_one_name(index: DiscoveryIndex, site: Path, tmp_path: Path) -> None:
    """The first of a name counts, in one directory and along the path, also when it has no entry points."""
    install(site, "upper", "1.0", points=NOTES)
    install(tmp_path / "second", "Upper", "2.0", points=NOTES)
    install(tmp_path / "third", "upper", "3.0")
    path = [str(tmp_path / name) for name in ("site", "second", "third")]
    assert [found.place for found in index.declarers("notes", path)] == [f"{site}/upper-1.0.dist-info"]
    assert list(index.declarers("notes", path[::-1])) == []


def test_zip_files_and_eggs(index: DiscoveryIndex, site: Path, tmp_path: Path) -> None:
    """What lies in a zip file or an egg is asked of ``importlib.metadata``, and comes in its place on the path."""
    install(site, "upper", points={"notes": {"upper": "behind"}})
    zipped = plugin_wheel().write(tmp_path).rename(tmp_path / "packages.zip")
    egg = tmp_path / "lower-1.0-py3.egg"
    (egg / "EGG-INFO").mkdir(parents=True)
    (egg / "EGG-INFO" / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: lower\nVersion: 1.0\n")
    (egg / "EGG-INFO" / "entry_points.txt").write_text("[notes]\nlower = lower\n")
    path = [zipped, egg, site, tmp_path / "no.zip"]
    assert look(index, *path) == ["upper:Plugin", "lower"]
    assert [point[1] for point in asked_of_python("notes", path)] == ["upper:Plugin", "lower"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # importlib.metadata keeps the zip file open, and lets the collector close it
        forget_listings()
        gc.collect()


@pytest.mark.parametrize("place", ["-pper-1.0.dist-info", "Upper-1.0.DIST-INFO", "up\tper-1.0.dist-info"])
def test_names_that_metadata_must_tell(index: DiscoveryIndex, clock: Clock, site: Path, place: str) -> None:
    """A directory with a name that says less than we need is left to ``importlib.metadata``, each time."""
    install(site, "upper", points=NOTES).rename(site / place)
    install(site, "other", points={"notes": {"other": "other"}})
    settled(index, clock, site)
    assert asked_of_index(index, "other", [site]) == asked_of_python("other", [site])
    assert sorted(look(index, site)) == sorted(point[1] for point in asked_of_python("notes", [site]))


@pytest.mark.parametrize("metadata", [None, b"Version: 1.0\n", b"Name: upper\xff\n"])
@pytest.mark.parametrize("place", ["-pper-1.0.dist-info", ".dist-info"])
def test_a_distribution_without_a_name(index: DiscoveryIndex, site: Path, place: str, metadata: bytes | None) -> None:
    """What neither the directory's name nor METADATA names is passed over, and stops no other; ``importlib.metadata`` raises for all of them."""
    nameless = install(site, "upper", points=NOTES).rename(site / place)
    (nameless / "METADATA").unlink()
    if metadata is not None:
        (nameless / "METADATA").write_bytes(metadata)
    install(site, "other", points={"notes": {"other": "other"}})
    assert look(index, site) == ["other"]


class Finder:
    """Has distributions of its own, as a frozen application has."""

    def __init__(self, *distributions: importlib.metadata.Distribution) -> None:
        self._distributions = distributions

    def find_spec(self, *_: object) -> None:
        return None

    def find_distributions(self, context: object) -> Iterable[importlib.metadata.Distribution]:
        return iter(self._distributions)


@pytest.fixture
def finders() -> Iterator[list[object]]:
    usual = sys.meta_path[:]
    yield sys.meta_path  # type: ignore[misc]  # it gives what it restores
    sys.meta_path[:] = usual


def test_finders_of_others(index: DiscoveryIndex, site: Path, tmp_path: Path, finders: list[object]) -> None:
    """Distributions that only a finder of its own knows are found, before or behind those of the path as the finders stand."""
    install(site, "upper", points={"notes": {"upper": "path"}})
    own = importlib.metadata.Distribution.at(install(tmp_path / "frozen", "upper", points={"notes": {"upper": "frozen"}}))
    with import_path([site]):
        finders.append(Finder(own))
        assert [found.points for found in index.declarers("notes")] == [(("upper", "path"),)]
        finders.insert(0, finders.pop())
        assert [found.points for found in index.declarers("notes")] == [(("upper", "frozen"),)]


def test_damaged_entry_points(index: DiscoveryIndex, clock: Clock, site: Path) -> None:
    """A file that cannot be made out is named, and stops no other; ``importlib.metadata`` raises for all of them."""
    install(site, "upper", points=NOTES)
    for name, content in (("latin", b"[notes]\na = \xe9\n"), ("broken", b"[notes]\nbroken\n"), ("huge", b"#" * (1 << 20) + b"\n")):
        (install(site, name, points={}) / "entry_points.txt").write_bytes(content)
    settled(index, clock, site)
    found = {declarer.name: declarer for declarer in index.declarers("notes", [str(site)])}
    assert {name for name, declarer in found.items() if declarer.damaged} == {"latin", "broken", "huge"}
    assert found["upper"].points == (("upper", "upper:Plugin"),)


@pytest.mark.parametrize("group", ["note", "notes\nupper", "", "\x1c", "[notes]", "upper:Plugin"])
def test_groups_that_are_none(index: DiscoveryIndex, site: Path, group: str) -> None:
    """A group is found by its whole name only."""
    install(site, "upper", points=NOTES)
    assert asked_of_index(index, group, [site]) == []


def test_no_plugin_is_imported(site: Path) -> None:
    """Looking imports neither a plugin nor ``importlib.metadata``."""
    install(site, "upper", points=NOTES)
    (site / "upper.py").write_text("raise SystemExit(3)\n")
    code = (
        "import sys; from blackhole_core.registry.index import entry_points\n"
        f"assert len(entry_points('notes', [{str(site)!r}])) == 1\n"
        "print({'upper', 'importlib.metadata', 'importlib_metadata', 'msgspec', 'json'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "set()\n"


# --- the environment ------------------------------------------------------------------------------------------------------


def test_the_environment_turns_it_off(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "off" keeps nothing anywhere, "memory" nothing on disk; the answer is the same."""
    for number in range(10):
        install(site, f"upper{number}", points=NOTES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answers = []
    for mode, known in (("off", 0), ("memory", 10), ("on", 10), ("deep", 10)):
        monkeypatch.setenv(VARIABLE, mode)
        answers.append([tuple(point)[:3] for point in entry_points("notes", [str(site)])])
        status = index_status()
        assert (status.mode, status.distributions, status.directory is None) == (mode, known, mode in ("off", "memory"))
        assert (tmp_path / "cache").exists() == (mode in ("on", "deep"))
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert len(answers[0]) == 10


def test_the_environment_says_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is none of the modes is an error that names them."""
    monkeypatch.setenv(VARIABLE, "no")
    with pytest.raises(ConfigError, match="BLACKHOLE_DISCOVERY_INDEX: wanted one of on, deep, memory, off, got 'no'"):
        entry_points("notes", [])


def test_without_a_clock_that_all_processes_share(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a machine does not name its start, nothing is kept on disk."""
    monkeypatch.setattr(index_module, "machine", lambda: None)
    monkeypatch.setenv(VARIABLE, "on")
    index_module._index_for.cache_clear()
    assert index_status().directory is None
    index_module._index_for.cache_clear()
