"""What a host has compiled its workers do not compile again, and nothing else than the same text is taken for it."""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Iterator

import pytest

from blackhole_core.loader import codes
from blackhole_core.loader.codes import compiled, learn_codes, pack_codes


@pytest.fixture(autouse=True)
def another_process() -> Iterator[None]:
    """Begin with nothing compiled, as a worker does."""
    codes._codes.clear()
    yield
    codes._codes.clear()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "compile", lambda *_args, **_options: pytest.fail("compiled again"))


def packed(files: dict[str, bytes]) -> tuple[bytes, tuple[codes.PackedCode, ...]]:
    """Pack in one process and forget, so that what follows is another one."""
    result = pack_codes(files)
    codes._codes.clear()
    return result


def test_a_worker_runs_what_its_host_compiled(request: pytest.FixtureRequest) -> None:
    """The code of every file the host packed is there, without compiling, and computes the same."""
    mark, sent = packed({"/p/a.py": b"A = 6 * 7\n", "/p/b.py": b"B = 'b'\n"})
    learn_codes(mark, sent)
    request.getfixturevalue("no_compiler")
    namespace: dict[str, object] = {}
    exec(compiled(b"A = 6 * 7\n", "/p/a.py"), namespace)
    assert namespace["A"] == 42
    assert compiled(b"B = 'b'\n", "/p/b.py").co_filename == "/p/b.py"


@pytest.mark.parametrize(("text", "file"), [(b"A = 2\n", "/p/a.py"), (b"A = 1\n", "/q/a.py")])
def test_another_text_or_file_is_compiled(text: bytes, file: str) -> None:
    """A file that was saved after the host had packed it is compiled as it is now, and under its own name."""
    learn_codes(*packed({"/p/a.py": b"A = 1\n"}))
    namespace: dict[str, object] = {}
    code = compiled(text, file)
    exec(code, namespace)
    assert (namespace["A"], code.co_filename) == (int(text[4:5]), file)


def test_code_of_another_python_is_left_alone() -> None:
    """Byte code is only good for the Python that made it; a worker of another one compiles for itself."""
    mark, sent = packed({"/p/a.py": b"A = 1\n"})
    assert mark == importlib.util.MAGIC_NUMBER
    learn_codes(b"other", sent)
    before = compiled(b"A = 1\n", "/p/a.py")
    learn_codes(b"other", sent)
    assert compiled(b"A = 1\n", "/p/a.py") is before


def test_what_does_not_compile_is_not_packed() -> None:
    """A broken file is left to whoever imports it: it may never be imported."""
    _mark, sent = packed({"/p/a.py": b"A = 1\n", "/p/b.py": b"def (", "/p/c.py": b"\0"})
    assert [file for file, _digest, _code in sent] == ["/p/a.py"]


def test_the_oldest_code_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded in bytes of text; what was used last stays."""
    monkeypatch.setattr(codes, "_MOST_BYTES", 20)
    first, second = compiled(b"A = 1   \n", "/p/a.py"), compiled(b"B = 2   \n", "/p/b.py")
    assert compiled(b"A = 1   \n", "/p/a.py") is first
    compiled(b"C = 3   \n", "/p/c.py")
    assert compiled(b"A = 1   \n", "/p/a.py") is first
    assert compiled(b"B = 2   \n", "/p/b.py") is not second


def test_a_file_has_the_code_of_one_text() -> None:
    """However often a file is saved, one text's code is kept: the last one's."""
    for number in range(50):
        last = compiled(b"A = %d\n" % number, "/p/a.py")
    assert list(codes._codes._known) == ["/p/a.py"]
    assert codes._codes._bytes == len(b"A = 49\n")
    assert compiled(b"A = 49\n", "/p/a.py") is last


def test_a_text_larger_than_the_store_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept, and nothing else goes wrong."""
    monkeypatch.setattr(codes, "_MOST_BYTES", 3)
    assert compiled(b"A = 1\n", "/p/a.py") is not compiled(b"A = 1\n", "/p/a.py")
    assert codes._codes._bytes == 0
