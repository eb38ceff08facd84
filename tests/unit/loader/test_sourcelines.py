"""Paths are the source's own in every generation, and each shows its own lines: tracebacks, inspect, debuggers, coverage."""

from __future__ import annotations

import bdb
import copy
import gc
import inspect
import linecache
import marshal
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

from blackhole_core.loader.sourcelines import SourceFile
from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]
Two = tuple[Path, Any, Any]

OLD = """
import contextlib
class Thing:
    label = "old class"
    @property
    def broken(self):
        raise ValueError("x")  # old property
def fail():
    raise ValueError("x")  # old function
def make():
    def inner():
        raise ValueError("x")  # old closure
    return inner
table = {"key": lambda: 1 / 0}  # old lambda
def numbers():
    yield 1
    raise ValueError("x")  # old generator
"""
NEW = "# one line more\n" + OLD.replace("old", "new")


@pytest.fixture
def two(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> Two:
    """One file, two texts: the path, the old module (set aside), the new one."""
    path = write_tree(tmp_path, {"solo.py": OLD})
    old: Any = make_universe(("solo",), path).load("solo")
    old.started = old.numbers()
    assert next(old.started) == 1
    old.closure = old.make()
    write_tree(path, {"solo.py": NEW})
    return path / "solo.py", old, make_universe(("solo",), path).load("solo")


def caught(function: Callable[[], object]) -> TracebackType:
    with pytest.raises((ValueError, ZeroDivisionError)) as found:
        function()
    return found.tb


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (lambda module: module.fail, "function"),
        (lambda module: module.make(), "closure"),
        (lambda module: module.table["key"], "lambda"),
        (lambda module: lambda: module.Thing().broken, "property"),
        (lambda module: lambda: list(module.numbers()), "generator"),
    ],
)
def test_every_kind_of_code_shows_its_own_line(two: Two, what: Callable[[Any], Callable[[], object]], line: str) -> None:
    """H-05: functions, closures, lambdas in tables, properties and generators of both generations: own path, own line."""
    file, old, new = two
    for module, age in ((old, "old"), (new, "new"), (old, "old")):
        shown = traceback.extract_tb(caught(what(module)))[-1]
        assert (shown.filename, (shown.line or "").partition("# ")[2]) == (str(file), f"{age} {line}")


def test_code_that_was_running_at_the_switch_keeps_its_lines(two: Two) -> None:
    """A generator that was suspended and a closure that was made before the switch show their own text after it."""
    _, old, _ = two
    assert traceback.extract_tb(caught(lambda: next(old.started)))[-1].line == 'raise ValueError("x")  # old generator'
    assert traceback.extract_tb(caught(old.closure))[-1].line == 'raise ValueError("x")  # old closure'


def test_inspect_shows_each_generation_its_own_source(two: Two) -> None:
    """getsource of functions and classes, and getmodule, answer for the object's own generation."""
    _, old, new = two
    for module, age in ((old, "old"), (new, "new")):
        assert f"{age} function" in inspect.getsource(module.fail)
        assert f"{age} class" in inspect.getsource(module.Thing)
        assert inspect.getmodule(module.Thing) is inspect.getmodule(module.fail) is module
    assert Path(old.__file__) == Path(new.__file__)


def test_a_breakpoint_fires_in_every_generation(two: Two) -> None:
    """A breakpoint set once on path:line stops in the old and in the new text, whatever the line says there."""
    file, old, new = two
    stops: list[str] = []

    class Debugger(bdb.Bdb):
        def user_line(self, frame: FrameType) -> None:
            if self.break_here(frame):
                stops.append(frame.f_globals["Thing"].label)
            self.set_continue()

    debugger = Debugger()
    assert debugger.set_break(str(file), 9) is None  # fail() of the old text, the def line of the new one
    assert debugger.set_break(str(file), 10) is None
    previous = sys.gettrace()
    try:
        for module in (old, new):
            debugger.runcall(lambda module=module: caught(module.fail))
    finally:
        sys.settrace(previous)
        debugger.clear_all_breaks()
    assert stops == ["old class", "new class"]


def test_a_trace_function_finds_the_path_in_every_generation(two: Two) -> None:
    """A tracer that compares file names sees both generations; one that keeps them in a set sees the newest."""
    file, old, new = two
    compared, looked_up, names = [], [], {str(file)}

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code.co_filename == str(file):
            compared.append(frame.f_globals["Thing"].label)
        if frame.f_code.co_filename in names:
            looked_up.append(frame.f_globals["Thing"].label)

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        old.make()
        new.make()
    finally:
        sys.settrace(previous)
    assert compared == ["old class", "new class"]
    assert looked_up == ["new class"]


COVERAGE = """
import sys
from pathlib import Path
import coverage
from blackhole_core.loader.universe import Universe
root = Path(sys.argv[1])
measured = coverage.Coverage(data_file=None, config_file=False, include=[str(root / "*")])
measured.start()
universes = []
for number in (1, 2):
    (root / "solo.py").write_text(f"X = {number}\\ndef f():\\n    return X\\ndef unused():\\n    return 0\\n" + "#\\n" * number)
    universes.append(Universe(["solo"], root, tag=str(number)))
    universes[-1].load("solo").f()
measured.stop()
for file in measured.get_data().measured_files():
    print(file, *sorted(measured.get_data().lines(file)), "missing", *measured.analysis2(file)[3])
"""


def test_coverage_reports_the_sources_own_path(tmp_path: Path) -> None:
    """coverage.py sees one file, by its own path, after a reload."""
    pytest.importorskip("coverage")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COVERAGE, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'solo.py'} 1 2 3 4 missing 5\n"


def test_undo_gives_the_first_text_its_path_back(two: Two, make_universe: MakeUniverse, write_tree: WriteTree) -> None:
    """Edit, then undo: the third generation runs the first one's code objects, and the path shows that text."""
    file, old, new = two
    write_tree(file.parent, {"solo.py": OLD})
    third: Any = make_universe(("solo",), file.parent).load("solo")
    assert third.fail.__code__ is old.fail.__code__
    for module, age in ((old, "old"), (new, "new"), (third, "old")):
        assert traceback.extract_tb(caught(module.fail))[-1].line == f'raise ValueError("x")  # {age} function'
    assert linecache.getline(str(file), 9).endswith("# old function\n")
    assert (type(old.__file__), type(third.__file__)) == (str, str)


def test_aborting_gives_the_path_back(two: Two, make_universe: MakeUniverse) -> None:
    """When the new generation is released the old text is what the path shows again, and nothing is left at the end."""
    file, old, new = two
    new_universe = vars(new)["__builtins__"]["__blackhole_universe__"]
    new_universe.release()
    assert linecache.getline(str(file), 9).endswith("# old function\n")
    assert type(old.__file__) is str


def test_lines_live_as_long_as_the_code(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """Code of a released generation still shows its text, after further edits too; when the code is gone nothing is left."""
    path = write_tree(tmp_path, {"solo.py": OLD})
    universe = make_universe(("solo",), path)
    fail: Any = universe.load("solo:fail")
    for number in range(3):
        write_tree(path, {"solo.py": f"V = {number}\n" * 20})
        following = make_universe(("solo",), path)
        following.load("solo")
        universe.release()
        universe = following
        assert traceback.extract_tb(caught(fail))[-1].line == 'raise ValueError("x")  # old function'
    del fail
    gc.collect()
    assert len(texts_of(path)) == 1
    universe.release()
    gc.collect()
    assert texts_of(path) == []


def test_a_version_that_failed_keeps_its_lines_for_its_error(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """Its own text is shown although the file has been edited again; the lines go with the error."""
    path = write_tree(tmp_path, {"solo.py": "V = 1\n"})
    make_universe(("solo",), path).load("solo")
    for number in range(5):
        write_tree(path, {"solo.py": f"raise ValueError({number})  # failed {number}\n"})
        tb = caught(lambda: make_universe(("solo",), path).load("solo"))
        write_tree(path, {"solo.py": "edited again before anyone looked\n"})
        assert f"failed {number}" in "".join(traceback.format_tb(tb))
    del tb
    gc.collect()
    assert texts_of(path) == ["V = 1\n"]


def texts_of(path: Path) -> list[str]:
    return ["".join(entry[2]) for name, entry in linecache.cache.items() if name.startswith(str(path))]


def test_a_source_file_is_a_string_to_everyone_else() -> None:
    """It equals its path, hashes like it until it is replaced, and is copied and pickled as a plain string."""
    name = SourceFile("/x/y.py", b"")
    assert {name: 1}["/x/y.py"] == 1
    name.number = 7
    assert name == "/x/y.py"
    assert name not in {"/x/y.py": 1}
    for copied in (pickle.loads(pickle.dumps(name)), copy.deepcopy(name), str(name)):
        assert (type(copied), copied) == (str, "/x/y.py")
    assert name.partition("y")[0] in {"/x/": 1}


PROFILED = """
import sys
from pathlib import Path
from blackhole_core.loader.universe import Universe
Universe(["solo"], Path(sys.argv[1]), tag="1").load("solo").make()
"""


def test_profiles_of_plugin_code_can_be_saved(tmp_path: Path, write_tree: WriteTree) -> None:
    """`python -m cProfile -o` writes its file, with the source's own path in it."""
    write_tree(tmp_path, {"solo.py": OLD, "host.py": PROFILED})
    command = [sys.executable, "-m", "cProfile", "-o", tmp_path / "out", tmp_path / "host.py", tmp_path]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    names = {key[:1] + key[2:] for key in marshal.loads((tmp_path / "out").read_bytes())}
    assert (str(tmp_path / "solo.py"), "make") in names


def test_marshalled_code_of_a_plugin_is_plain(two: Two) -> None:
    """Code objects of either generation, and only they, are marshalled with plain file names; what cannot be marshalled still cannot."""
    file, old, new = two
    for module in (old, new):
        assert marshal.loads(marshal.dumps([module.make.__code__]))[0].co_filename == str(file)
    with pytest.raises(ValueError, match="unmarshallable object"):
        marshal.dumps(object())
