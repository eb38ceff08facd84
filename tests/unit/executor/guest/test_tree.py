"""What an image holds."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from blackhole_core.executor.guest.tree import Tree


def _written(tree: Tree) -> dict[str, tarfile.TarInfo]:
    to = io.BytesIO()
    tree.write(to)
    to.seek(0)
    with tarfile.open(fileobj=to) as archive:
        return {f"/{info.name}": info for info in archive}


def test_links_on_the_way_are_kept(tmp_path: Path) -> None:
    """A file that is reached through links to a directory and to itself has its path in the image, by the same links."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "file-1.2").write_text("content")
    (real / "file").symlink_to("file-1.2")
    (tmp_path / "link").symlink_to("real")
    tree = Tree()
    tree.add(tmp_path / "link/file")
    written = _written(tree)
    assert written[str(tmp_path / "link")].linkname == "real"
    assert written[str(real / "file")].linkname == "file-1.2"
    assert written[str(real / "file-1.2")].size == len("content")
    assert written[str(real)].isdir()


def test_a_link_upwards_is_followed_as_the_kernel_does(tmp_path: Path) -> None:
    """``..`` after a link leads to the parent of where the link leads."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/target").write_text("x")
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "way").symlink_to("link/../target")
    tree = Tree()
    tree.add(tmp_path / "way")
    assert tmp_path / "a/target" in tree
    assert tmp_path / "target" not in tree


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A dangling link or a circle is no file; nothing is put in its place."""
    (tmp_path / "round").symlink_to("round")
    tree = Tree()
    for name in ("round", "nothing"):
        with pytest.raises(OSError, match=name):
            tree.add(tmp_path / name)
    assert len(tree) == 0


def test_sockets_and_pipes_have_no_place(tmp_path: Path) -> None:
    """Only files, directories and links go into an image."""
    os.mkfifo(tmp_path / "pipe")
    tree = Tree()
    tree.add(tmp_path / "pipe")
    assert tmp_path / "pipe" not in tree


def test_the_same_content_has_the_same_bytes_and_digest(tmp_path: Path) -> None:
    """Times, owners and the order of adding leave no trace; content, names and the right to be executed do."""

    def make(reverse: bool, time: int, executable: bool = False, text: str = "1") -> tuple[bytes, bytes]:
        for number in ("1", "2"):
            (tmp_path / number).write_text(text)
            (tmp_path / number).chmod(0o755 if executable else 0o600)
            os.utime(tmp_path / number, (time, time))
        tree = Tree()
        for number in sorted(("1", "2"), reverse=reverse):
            tree.add(tmp_path / number)
        to = io.BytesIO()
        tree.write(to)
        return tree.digest(), to.getvalue()

    first = make(False, 1_000_000_000)
    assert make(True, 1_700_000_000) == first
    assert make(False, 1_000_000_000, executable=True)[0] != first[0]
    assert make(False, 1_000_000_000, text="2")[0] != first[0]


def test_progress_is_told(tmp_path: Path) -> None:
    """Whoever waits hears of each entry."""
    tree = Tree()
    tree.make("/a/b", b"x")
    said: list[tuple[int, int]] = []
    tree.write(io.BytesIO(), progress=lambda done, total: said.append((done, total)))
    assert said == [(1, 2), (2, 2)]
