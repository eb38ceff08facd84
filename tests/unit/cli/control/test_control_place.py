"""The control socket's directory is the user's own, or it is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blackhole_core.cli.control.place import UnsafePlace, check_directory, default_directory, make_directory, socket_path, sockets_in

UID = os.geteuid()


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/blackhole"),
        ({}, "/tmp/blackhole-7"),
        ({"XDG_RUNTIME_DIR": ""}, "/tmp/blackhole-7"),
        ({"XDG_RUNTIME_DIR": "relative/is/ignored"}, "/tmp/blackhole-7"),
    ],
)
def test_the_runtime_directory_is_preferred(environ: dict[str, str], directory: str) -> None:
    """Sockets lie in the user's runtime directory, or in one of the user's own in /tmp."""
    assert default_directory(environ, 7) == Path(directory)


def test_a_directory_is_made_for_the_user_alone(tmp_path: Path) -> None:
    """A missing directory is made with mode 0700, whatever the umask; making it twice is fine."""
    before = os.umask(0)
    try:
        make_directory(tmp_path / "d", UID)
        make_directory(tmp_path / "d", UID)
    finally:
        os.umask(before)
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o770, 0o755, 0o777])
def test_a_directory_that_is_open_to_others_is_refused(mode: int, tmp_path: Path) -> None:
    """A directory that others can enter is refused, not repaired, and the sentence says what to do."""
    directory = tmp_path / "d"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(UnsafePlace, match=rf"has mode {mode:04o}, wanted 0700.*chmod 700"):
        make_directory(directory, UID)
    assert directory.stat().st_mode & 0o7777 == mode


def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    """A directory of another user is refused."""
    (tmp_path / "d").mkdir(0o700)
    with pytest.raises(UnsafePlace, match=f"belongs to user {UID}, wanted {UID + 1}"):
        make_directory(tmp_path / "d", UID + 1)


def test_a_link_is_refused(tmp_path: Path) -> None:
    """A link to a directory that is all right is refused: it may point elsewhere a moment later."""
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "d").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafePlace, match="is a symbolic link"):
        make_directory(tmp_path / "d", UID)


def test_a_file_is_refused(tmp_path: Path) -> None:
    """A file in the directory's place is refused."""
    (tmp_path / "d").write_text("")
    with pytest.raises(UnsafePlace, match="is no directory"):
        make_directory(tmp_path / "d", UID)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Where the directory above is missing, the sentence says so."""
    with pytest.raises(UnsafePlace, match="cannot be made: No such file or directory"):
        make_directory(tmp_path / "missing" / "d", UID)
    with pytest.raises(UnsafePlace, match="cannot be looked at"):
        check_directory(tmp_path / "missing", UID)


@pytest.mark.parametrize("project", ["", "../up", "a/b", ".hidden", "ä"])
def test_a_project_that_is_no_file_name_is_refused(project: str, tmp_path: Path) -> None:
    """The socket never lies outside its directory."""
    with pytest.raises(UnsafePlace, match="cannot name a control socket"):
        socket_path(project, tmp_path)


def test_one_project_has_one_socket(tmp_path: Path) -> None:
    """Spellings of one project share a socket."""
    assert socket_path("My_Notes", tmp_path) == socket_path("my-notes", tmp_path) == tmp_path / "my-notes.sock"


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    """A path over 107 bytes gives a sentence and not the kernel's error."""
    with pytest.raises(UnsafePlace, match="wanted at most 107 bytes"):
        socket_path("notes", Path("/" + "d" * 100))


def test_sockets_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Files beside the sockets, and a missing directory, are passed over."""
    (tmp_path / "a.sock").write_text("no socket")
    assert sockets_in(tmp_path) == sockets_in(tmp_path / "missing") == ()
