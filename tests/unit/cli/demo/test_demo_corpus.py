"""The demo's input is whole, ordered, and the same on every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackhole_core.cli.demo.corpus import Source, find_sources, read_corpus, stdlib
from blackhole_core.errors import BlackholeError


def write(root: Path, **files: bytes) -> None:
    """Write files; ``__`` in a name stands for a slash, each gets the suffix ``.py``."""
    for name, content in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_files_come_in_one_order(tmp_path: Path) -> None:
    """Files of a directory come sorted, before its folders, whatever order the file system has."""
    write(tmp_path, b=b"", a=b"", z__a=b"", c__d__e=b"", c__a=b"")

    assert list(find_sources(tmp_path)) == ["a.py", "b.py", "c/a.py", "c/d/e.py", "z/a.py"]


def test_what_is_not_the_library_is_left_out(tmp_path: Path) -> None:
    """Installed packages, compiled code and other suffixes are not part of the corpus."""
    for folder in ("site-packages", "dist-packages", "__pycache__"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("x = 1\n")
    (tmp_path / "data.txt").write_text("x")
    write(tmp_path, a=b"x = 1\n")

    assert read_corpus(tmp_path).sources == (Source("a.py", "x = 1\n"),)


def test_text_is_read_as_the_compiler_reads_it(tmp_path: Path) -> None:
    """Coding cookie and byte order mark are obeyed, line ends become ``\\n``."""
    write(tmp_path, cookie="# coding: latin-1\nx = 'ä'\n".encode("latin-1"), mark=b"\xef\xbb\xbfx\r\ny\rz")

    assert [source.text for source in read_corpus(tmp_path).sources] == ["# coding: latin-1\nx = 'ä'\n", "x\ny\nz"]


def test_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    """A wrong cookie, bytes that are not text and a dangling link each are named with their reason; the others are read."""
    write(tmp_path, bytes=b"a\nb\nc\nx = '\xff'\n", cookie=b"# coding: klingon\n", good=b"x\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "nowhere")
    corpus = read_corpus(tmp_path)

    assert [source.path for source in corpus.sources] == ["good.py"]
    assert [(skip.path, skip.reason.partition(":")[0]) for skip in corpus.skipped] == [
        ("bytes.py", "UnicodeDecodeError"),
        ("cookie.py", "SyntaxError"),
        ("link.py", "FileNotFoundError"),
    ]


def test_a_limit_counts_readable_files(tmp_path: Path) -> None:
    """``limit`` is the number of texts one gets, not of files tried; what comes after them is not looked at."""
    write(tmp_path, a=b"\xff", b=b"b", c=b"c", d=b"\xff")
    corpus = read_corpus(tmp_path, limit=2)

    assert [source.path for source in corpus.sources] == ["b.py", "c.py"]
    assert [skip.path for skip in corpus.skipped] == ["a.py"]


@pytest.mark.parametrize("limit", [0, -1])
def test_an_impossible_limit_is_refused(limit: int, tmp_path: Path) -> None:
    """No files at all is not a demo."""
    with pytest.raises(ValueError, match=f"at least 1; got {limit}"):
        read_corpus(tmp_path, limit=limit)


def test_a_library_without_source_is_an_error(tmp_path: Path) -> None:
    """A Python whose library is packed away says so, instead of counting nothing successfully."""
    with pytest.raises(BlackholeError, match="no Python source under"):
        read_corpus(tmp_path)


def test_the_library_of_this_python_is_found() -> None:
    """By default the corpus is where this Python's own modules are."""
    assert "abc.py" in list(find_sources(stdlib()))
    assert read_corpus(limit=3).root == stdlib()
