"""Sources are judged by reading them: every syntax error at once, a missing module, nothing executed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blackhole_core.loader.validate import validate_sources

WriteTree = Callable[[Path, dict[str, str]], Path]


def test_good_sources_have_no_problem(tmp_path: Path, write_tree: WriteTree) -> None:
    """Packages, single modules and namespace parts that are as declared give an empty tuple."""
    write_tree(
        tmp_path, {"acme/__init__.py": "", "acme/sub/core.py": "x = 1", "solo.py": "", "nsp/plug/__init__.py": "", "not-a-module.py": "<%"}
    )
    assert validate_sources(tmp_path, ("acme", "solo", "nsp.plug"), "acme.sub.core:Plugin") == ()
    assert validate_sources(tmp_path, ("nsp.plug",), "nsp.plug") == ()
    assert not {"acme", "solo", "nsp"} & set(sys.modules)


def test_every_syntax_error_is_named_with_file_and_line(tmp_path: Path, write_tree: WriteTree) -> None:
    """H-05: all broken files are reported in one go, in modules that the entry does not import too."""
    write_tree(tmp_path, {"acme/__init__.py": "x = (\n", "acme/core.py": "\n\ndef f(:\n", "acme/ok.py": "", "acme/null.py": "a\0b"})
    problems = validate_sources(tmp_path, ("acme",), "acme")
    assert [(Path(problem.file).name, problem.line) for problem in problems][:2] == [("__init__.py", 1), ("core.py", 3)]
    assert [Path(problem.file).name for problem in problems][2:] == ["null.py"]
    assert "core.py:3: wanted valid Python, got SyntaxError: invalid syntax" in str(problems[1])


def test_nothing_is_executed_or_written(tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation neither runs module bodies nor leaves bytecode behind."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write_tree(tmp_path, {"acme/__init__.py": "raise SystemExit('executed')", "acme/core.py": ""})
    assert validate_sources(tmp_path, ("acme",), "acme.core") == ()
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["__init__.py", "acme", "core.py"]


@pytest.mark.parametrize(
    ("packages", "entry", "sentence"),
    [
        (("acme",), "acme.missing:Plugin", "entry acme.missing:Plugin: wanted a module acme.missing, got no such module"),
        (("acme",), "acme.core.deeper", "entry acme.core.deeper: wanted a module acme.core.deeper, got no such module"),
        (("acme",), "other:Plugin", "entry other:Plugin: wanted a module in one of acme, got other"),
        (("acme", "absent_of_all"), "acme", "packages: wanted a package or module absent_of_all, got nothing of that name"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, write_tree: WriteTree, packages: tuple[str, ...], entry: str, sentence: str) -> None:
    """H-05: an entry or package that is not there is a problem that names what was wanted and where."""
    write_tree(tmp_path, {"acme/__init__.py": "", "acme/core.py": ""})
    problems = validate_sources(tmp_path, packages, entry)
    assert [str(problem) for problem in problems] == [f"{tmp_path}: {sentence}"]
