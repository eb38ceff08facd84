"""The index on disk: quick for the next process, worthless to an attacker, never needed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blackhole_core.registry import index as index_module
from blackhole_core.registry import indexfile
from blackhole_core.registry.index import DiscoveryIndex
from blackhole_core.registry.indexfile import IndexFiles, cache_directory, machine
from tests.unit.registry.sites import Clock, asked_of_index, install

NOTES = {"notes": {"upper": "upper:Plugin"}}
HERE = "this machine"


@pytest.fixture(autouse=True)
def no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the files of single directories are read; ``test_index_answer.py`` is about those with whole answers."""
    monkeypatch.setattr(index_module, "answer_key", lambda *_: None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for number in range(10):
        install(tmp_path / "site", f"dist{number}", points={"notes": {f"dist{number}": "m"}} if number == 3 else None)
    return tmp_path / "site"


@pytest.fixture
def files(tmp_path: Path) -> IndexFiles:
    return IndexFiles(str(tmp_path / "cache" / "blackhole" / "discovery"), HERE)


def look(files: IndexFiles, clock: Clock, site: Path) -> list[str]:
    """Look as a new process does."""
    return [name for name, *_ in asked_of_index(DiscoveryIndex(files, clock=clock), "notes", [site])]


def written(files: IndexFiles, clock: Clock, site: Path) -> Path:
    """Return the file of a site that was looked at until it is settled."""
    assert look(files, clock, site) == ["dist3"]
    clock.settle()
    assert look(files, clock, site) == ["dist3"]
    (path,) = Path(files.directory).iterdir()
    return path


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that are listed from now on."""
    seen: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [seen.append(str(path)), listdir(path)][1])
    return seen


def test_the_next_process_reads_one_file(files: IndexFiles, clock: Clock, site: Path, listed: list[str]) -> None:
    """A settled directory is not listed again by a new process; the file and its directories are the user's alone."""
    path = written(files, clock, site)
    listed.clear()
    assert look(files, clock, site) == ["dist3"]
    assert listed == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(place.stat().st_mode) for place in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_an_unsettled_one_is_read_again(files: IndexFiles, clock: Clock, site: Path, listed: list[str]) -> None:
    """A file that was written within two ticks of the directory's last change is not trusted by the next process either."""
    look(files, clock, site)
    listed.clear()
    look(files, clock, site)
    assert str(site) in listed


def test_small_directories_have_no_file(files: IndexFiles, clock: Clock, tmp_path: Path) -> None:
    """What is as quick to list as to read about is not kept: the directories of scripts do not fill the cache."""
    install(tmp_path / "small", "upper", points=NOTES)
    assert look(files, clock, tmp_path / "small") == ["upper"]
    assert not Path(files.directory).exists()


@pytest.mark.parametrize("keep", [0, 1, 95, 96, 97, -1], ids=str)
def test_a_file_that_is_cut(files: IndexFiles, clock: Clock, site: Path, keep: int, listed: list[str]) -> None:
    """A file that was half written when the power failed counts as missing, and is made anew."""
    path = written(files, clock, site)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    listed.clear()
    assert look(files, clock, site) == ["dist3"]
    assert str(site) in listed
    assert "not used" in files.trouble
    clock.settle()
    look(files, clock, site)
    assert path.read_bytes() == data


def test_any_byte_that_is_damaged(files: IndexFiles, clock: Clock, site: Path) -> None:
    """Whichever byte of the table is changed, the file is not believed; a damaged record is only read again."""
    path = written(files, clock, site)
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        assert look(files, clock, site) == ["dist3"]


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"blackhole-discovery-1 5 x 5 x\n", b"blackhole-discovery-0 " * 9, b"\x80\x04\x95"])
def test_a_file_of_somebody_else(files: IndexFiles, clock: Clock, site: Path, content: bytes) -> None:
    """Zeros, other formats and other programs' files are replaced."""
    path = written(files, clock, site)
    path.write_bytes(content)
    assert look(files, clock, site) == ["dist3"]
    assert path.read_bytes() != content


def test_whole_and_nonsense(files: IndexFiles, clock: Clock, site: Path) -> None:
    """A file with right hashes whose content cannot be made out counts as missing."""
    written(files, clock, site)
    assert files.write(str(site), "no table", "no records")
    assert look(files, clock, site) == ["dist3"]


def test_the_file_of_another_directory(files: IndexFiles, clock: Clock, site: Path, tmp_path: Path) -> None:
    """Two directories whose hashes clash take turns: the directory's name in the file tells whose it is."""
    path = written(files, clock, site)
    install(tmp_path / "other", "upper", points=NOTES)
    path.rename(path.parent / indexfile._file_name(str(tmp_path / "other")))
    assert look(files, clock, tmp_path / "other") == ["upper"]


def test_before_the_machine_was_restarted(files: IndexFiles, clock: Clock, site: Path, listed: list[str]) -> None:
    """Moments on the clock of another start of the machine, or of another machine, mean nothing: everything is read anew."""
    written(files, clock, site)
    listed.clear()
    assert look(IndexFiles(files.directory, "this machine, started again"), clock, site) == ["dist3"]
    assert str(site) in listed


def test_a_directory_that_others_may_write_to(files: IndexFiles, clock: Clock, site: Path) -> None:
    """Neither read nor written: who may put files there could tell us what to import."""
    path = written(files, clock, site)
    before = path.stat().st_mtime_ns
    path.parent.chmod(0o777)
    assert look(files, clock, site) == ["dist3"]
    assert "others may write to the directory (mode 0777), wanted 0700" in files.trouble
    assert path.stat().st_mtime_ns == before


def test_a_file_that_others_may_write_to(files: IndexFiles, clock: Clock, site: Path, listed: list[str]) -> None:
    """Not believed, and replaced by one that is ours alone."""
    path = written(files, clock, site)
    path.chmod(0o666)
    listed.clear()
    assert look(files, clock, site) == ["dist3"]
    assert str(site) in listed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_belongs_to_somebody_else(files: IndexFiles, clock: Clock, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's directory is not ours to trust, as for root in a user's home."""
    written(files, clock, site)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert look(files, clock, site) == ["dist3"]
    assert f"belongs to user {os.getuid()}, wanted 12345" in files.trouble


def test_a_link_or_a_pipe_in_its_place(files: IndexFiles, clock: Clock, site: Path, tmp_path: Path) -> None:
    """A symbolic link is not followed, and a pipe does not hold us up; both are replaced."""
    path = written(files, clock, site)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert look(files, clock, site) == ["dist3"]
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    assert look(files, clock, site) == ["dist3"]
    assert path.is_file()


def test_a_linked_directory(files: IndexFiles, clock: Clock, site: Path, tmp_path: Path) -> None:
    """A link in the place of our directory is not used."""
    written(files, clock, site)
    Path(files.directory).rename(tmp_path / "moved")
    Path(files.directory).symlink_to(tmp_path / "moved")
    assert look(files, clock, site) == ["dist3"]
    assert files.trouble != ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_disk_that_takes_nothing(files: IndexFiles, clock: Clock, site: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or read-only disk costs the file and nothing else; nothing half written stays, and the reason is noted."""
    path = written(files, clock, site)
    before = path.read_bytes()
    install(site, "upper", points=NOTES)

    def full(file: int, data: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", full)
    assert sorted(look(files, clock, site)) == ["dist3", "upper"]
    assert files.trouble == f"the discovery index cannot be kept in {files.directory}: {os.strerror(number)}"
    assert [place.name for place in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_file_that_may_not_grow(files: IndexFiles, clock: Clock, site: Path) -> None:
    """F20, F22: a real limit stops the write in its middle: the earlier file stays whole, nothing lies beside it, and the next look with room keeps it."""
    path = written(files, clock, site)
    before = path.read_bytes()
    install(site, "upper", points=NOTES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        assert sorted(look(files, clock, site)) == ["dist3", "upper"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.trouble == f"the discovery index cannot be kept in {files.directory}: File too large"
    assert ([place.name for place in path.parent.iterdir()], path.read_bytes()) == ([path.name], before)
    clock.settle()
    assert sorted(look(files, clock, site)) == ["dist3", "upper"]
    assert path.read_bytes() != before


@pytest.mark.skipif(not Path("/proc/1").is_dir(), reason="a directory that even root cannot write to is needed")
def test_a_directory_that_takes_no_file(clock: Clock, site: Path) -> None:
    """F20: the index is only not kept, and says where."""
    files = IndexFiles("/proc/1/net/discovery", HERE)
    assert look(files, clock, site) == ["dist3"]
    assert files.trouble.startswith("the discovery index cannot be kept in /proc/1/net/discovery: ")


def test_no_place_for_it(clock: Clock, site: Path, tmp_path: Path) -> None:
    """A file where a directory should be is no reason to fail."""
    (tmp_path / "cache").write_text("")
    files = IndexFiles(str(tmp_path / "cache" / "blackhole"), HERE)
    assert look(files, clock, site) == ["dist3"]
    assert "cannot be" in files.trouble


def test_what_is_too_large(files: IndexFiles, clock: Clock, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to what is read, and to what is written."""
    path = written(files, clock, site)
    monkeypatch.setattr(indexfile, "_MOST_BYTES", 100)
    assert look(files, clock, site) == ["dist3"]
    assert "more than the 100 that are kept" in files.trouble
    assert path.stat().st_size > 100


def test_old_files_go(files: IndexFiles, clock: Clock, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache does not grow for ever: the oldest files and what a killed process left are removed, what another one is just writing is not."""
    monkeypatch.setattr(indexfile, "_MOST_FILES", 3)
    folder = Path(files.directory)
    folder.mkdir(parents=True, mode=0o700)
    for number in range(5):
        (folder / f"{number}.cpython-39.index").write_text("")
        os.utime(folder / f"{number}.cpython-39.index", (number, number))
    (folder / "left.tmp").write_text("")
    os.utime(folder / "left.tmp", (5, 5))
    (folder / "busy.tmp").write_text("")
    look(files, clock, site)
    names = {path.name for path in folder.iterdir()}
    assert {"3.cpython-39.index", "4.cpython-39.index", "busy.tmp"} < names
    assert len(names) == 4


def test_clear(files: IndexFiles, clock: Clock, site: Path) -> None:
    """Everything of ours is removed and nothing else; without a directory there is nothing to remove."""
    assert files.clear() == 0
    path = written(files, clock, site)
    (path.parent / "notes.txt").write_text("mine")
    assert files.clear() == 1
    assert [place.name for place in path.parent.iterdir()] == ["notes.txt"]


def test_where_it_lies() -> None:
    """The XDG rule: XDG_CACHE_HOME when it is absolute, else .cache in the home directory, else nowhere."""
    assert cache_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == "/c/blackhole/discovery"
    assert cache_directory({"XDG_CACHE_HOME": "c", "HOME": "/h"}) == "/h/.cache/blackhole/discovery"
    assert cache_directory({"HOME": ""}) is None


def test_programs_with_the_rights_of_another_user_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs with more rights than the one who started it does not write where that one says."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache_directory({"XDG_CACHE_HOME": "/c"}) is None


def _write_again_and_again(directory: str, site: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        files = IndexFiles(directory, HERE)
        found = [name for name, *_ in asked_of_index(DiscoveryIndex(files, clock=time.monotonic_ns), "notes", [Path(site)])]
        assert "dist3" in found, found
        assert files.trouble == "", files.trouble
        files.write(site, *_as_written(files, site))


def _as_written(files: IndexFiles, site: str) -> tuple[str, str]:
    return files._part(indexfile._file_name(site), 0), files._part(indexfile._file_name(site), 1)


@pytest.mark.parametrize("kill", [False, True], ids=["to the end", "killed"])
def test_processes_that_write_at_once(files: IndexFiles, site: Path, kill: bool) -> None:
    """Four processes replace the file while distributions change: each always reads a whole one, also when writers are killed."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_again_and_again, args=(files.directory, str(site), 1.0)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for number in range(20):
        install(site, f"more{number}", points=NOTES)
    if kill:
        for writer in writers[:2]:
            writer.kill()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers[2:]] == [0, 0]
    assert all(writer.exitcode == (-9 if kill else 0) for writer in writers[:2])
    for writer in writers:
        writer.close()
    names = look(files, Clock(), site)
    assert len(names) == 21


def test_a_real_process_after_another(site: Path, tmp_path: Path) -> None:
    """What one process wrote, the next one reads; ``machine`` names this start of the machine."""
    assert machine() is not None
    code = (
        "import sys, os; from blackhole_core.registry.index import entry_points, index_status\n"
        f"print(len(entry_points('notes', [{str(site)!r}])), index_status().distributions)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "BLACKHOLE_DISCOVERY_INDEX": "on"}
    for _ in range(2):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment)
        assert found.stdout == "1 10\n"


def test_what_keeps_it_from_being_written(files: IndexFiles, clock: Clock, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said without trying, before there is a directory and after."""
    assert files.obstacle() == ""
    written(files, clock, site)
    assert files.obstacle() == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert files.obstacle() == f"{files.directory} cannot be written to"
    elsewhere = IndexFiles(f"{files.directory}/missing/discovery", HERE)
    assert elsewhere.obstacle() == f"{files.directory} cannot be written to by user {os.geteuid()}"
    assert not Path(elsewhere.directory).exists()
