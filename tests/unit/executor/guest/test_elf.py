"""What ELF files say they need, and where that is found."""

from __future__ import annotations

import _struct
import subprocess
import sys
from pathlib import Path

import pytest

from blackhole_core.executor.guest.elf import Needs, NotElf, read_needs
from blackhole_core.executor.guest.libraries import LibraryFinder

EXTENSION = Path(_struct.__file__) if hasattr(_struct, "__file__") else None


def _compile(directory: Path, name: str, *options: str) -> Path:
    source = directory / f"{name}.c"
    source.write_text(f"int {name}(void) {{ return 0; }}\n")
    library = directory / f"lib{name}.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), *options], check=True, timeout=60)
    return library


def test_a_program_names_its_loader_and_libc() -> None:
    """The interpreter that runs this is an ELF file like any other."""
    needs = read_needs(Path(sys.executable).resolve().read_bytes())
    assert needs.loader.startswith("/lib")
    assert any(name.startswith(("libc.", "libpython")) for name in needs.libraries)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, b"\x7fELF\x01\x01" + bytes(200)])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    """Short, damaged, 32 bits wide or a script: one error for all of them."""
    with pytest.raises(NotElf):
        read_needs(data)


def test_any_cut_of_a_file_is_refused_or_read(tmp_path: Path) -> None:
    """A file that was cut off anywhere raises that one error or gives an answer, never another error."""
    data = _compile(tmp_path, "whole").read_bytes()
    for size in range(0, len(data), 97):
        try:
            assert isinstance(read_needs(data[:size]), Needs)
        except NotElf:
            continue


def test_the_closure_follows_the_search_path_of_who_needs_it(tmp_path: Path) -> None:
    """A library beside another one is found by $ORIGIN, what it needs in turn too, and what is nowhere is named."""
    deep = _compile(tmp_path, "deep")
    middle = _compile(tmp_path, "middle", f"-L{tmp_path}", "-Wl,--no-as-needed", "-ldeep")
    top = _compile(tmp_path, "top", f"-L{tmp_path}", "-Wl,--no-as-needed", "-lmiddle", "-Wl,-rpath,$ORIGIN")
    found, missing = LibraryFinder().closure([top])
    assert {middle, deep} <= set(found)
    assert any(path.name.startswith("libc.so") for path in found)
    assert missing == []
    deep.unlink()
    assert LibraryFinder().closure([top])[1] == ["libdeep.so"]


def test_a_script_needs_nothing(tmp_path: Path) -> None:
    """Files of all kinds may be asked about."""
    script = tmp_path / "script.so"
    script.write_text("#!/bin/sh\n")
    empty = tmp_path / "empty"
    empty.touch()
    assert LibraryFinder().closure([script, empty]) == ([], [])
