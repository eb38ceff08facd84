"""One text is compiled once, however many steps of a reload ask for it."""

from __future__ import annotations

import builtins
from types import CodeType

import pytest

from blackhole_core.loader.snapshot import compile_source
from blackhole_core.loader.sourcelines import SourceFile

TEXT = b"def outer():\n    def inner():\n        return 1\n    return inner\n"


def names(code: CodeType) -> list[str]:
    return [code.co_filename, *(name for const in code.co_consts if isinstance(const, CodeType) for name in names(const))]


def test_every_code_object_has_the_very_file_name_it_was_compiled_under() -> None:
    """Traceback lines are told apart by the file name object, so two compilations of one text must not share it."""
    first, second = SourceFile("/p/a.py", TEXT), SourceFile("/p/a.py", TEXT)
    one, two = compile_source(TEXT, first), compile_source(TEXT, second)
    assert len(names(one)) == 3
    assert all(name is first for name in names(one))
    assert all(name is second for name in names(two))


def test_a_text_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for the same text of the same file again does not wait for the compiler."""
    text = TEXT + b"# only here\n"
    checked = compile_source(text, "/p/a.py")
    monkeypatch.setattr(builtins, "compile", lambda *_args, **_options: pytest.fail("compiled again"))
    loaded = compile_source(text, SourceFile("/p/a.py", TEXT))
    assert loaded.co_code == checked.co_code
    namespace: dict[str, object] = {}
    exec(loaded, namespace)
    assert namespace["outer"]()() == 1  # type: ignore[operator]  # it is callable


def test_what_does_not_compile_is_said_every_time() -> None:
    """A syntax error is not remembered as anything else."""
    for _ in range(2):
        with pytest.raises(SyntaxError):
            compile_source(b"def (", "/p/a.py")
