"""Reading the file: a regular file of a bounded size, or a problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blackhole_core.errors import ManifestError
from blackhole_core.manifest.parse import read_manifest
from blackhole_core.manifest.yaml import MAX_BYTES


def reason(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    return problem.got


def test_a_file(tmp_path: Path) -> None:
    """A regular file is read; problems carry its path."""
    path = tmp_path / "plugin.yaml"
    path.write_text("name: echo\nversion: 1.0\n")
    assert str(read_manifest(path).id) == "echo@1.0"
    path.write_text("name: echo\n")
    assert "nothing" in reason(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A63: a symbolic link in the manifest's place is refused, wherever it leads."""
    (tmp_path / "real.yaml").write_text("name: echo\nversion: 1.0\n")
    path = tmp_path / "plugin.yaml"
    path.symlink_to("real.yaml")
    assert reason(path) == "a symbolic link"


def test_not_a_file(tmp_path: Path) -> None:
    """A directory, a FIFO and a missing file are refused at once."""
    assert reason(tmp_path) == "a directory"
    os.mkfifo(tmp_path / "fifo")
    assert reason(tmp_path / "fifo") == "a device, pipe or socket"
    assert reason(tmp_path / "gone") == "No such file or directory"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """A48: a file over the cap is refused by its size; 100 MB are never read."""
    path = tmp_path / "plugin.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert reason(path) == "100000000 bytes"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert reason(path) == f"{MAX_BYTES + 1} bytes"
