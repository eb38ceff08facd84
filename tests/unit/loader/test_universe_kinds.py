"""Universes of every kind of source: namespace parts, single modules, zip files, editable installs, the host's own imports."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
import sys
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blackhole_core.loader import table
from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]
Acme = Callable[[int], Path]

LAZY = "V = {v}\ndef lazy():\n    from .late import V\n    return V\n"


def small(v: int) -> dict[str, str]:
    return {"acme/__init__.py": LAZY.format(v=v), "acme/late.py": f"V = {v}\n"}


# --- what the host imported itself --------------------------------------------------------------------------------------


@pytest.fixture
def hosts_own(tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Module acme as the host imported it by itself, from a directory on sys.path."""
    monkeypatch.syspath_prepend(str(write_tree(tmp_path / "host", small(0) | {"acme/__init__.py": LAZY.format(v=0) + "class K: pass\n"})))
    yield importlib.import_module("acme")
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


def test_the_hosts_own_imports_are_set_aside_and_put_back(
    make_universe: MakeUniverse, hosts_own: ModuleType, tmp_path: Path, write_tree: WriteTree
) -> None:
    """A plugin of a name that the host imported is loaded from its own path; on release the host's objects are canonical again."""
    universe = make_universe(("acme",), write_tree(tmp_path / "1", small(1)))
    loaded: Any = universe.load("acme")
    assert loaded is sys.modules["acme"]
    assert (loaded.V, loaded.lazy(), hosts_own.V, hosts_own.lazy()) == (1, 1, 0, 0)
    assert sys.modules[hosts_own.K.__module__] is hosts_own
    second = make_universe(("acme",), write_tree(tmp_path / "2", small(2)))
    second.load("acme")
    universe.release()
    second.release()
    assert sys.modules["acme"] is hosts_own
    assert (hosts_own.__name__, hosts_own.K.__module__) == ("acme", "acme")
    assert importlib.import_module("acme.late").V == 0


def test_a_failed_load_puts_the_hosts_own_back(
    make_universe: MakeUniverse, hosts_own: ModuleType, tmp_path: Path, write_tree: WriteTree
) -> None:
    """S-04: the same on failure: afterwards nothing tells that a load was tried."""
    universe = make_universe(("acme",), write_tree(tmp_path / "1", {"acme/__init__.py": "raise RuntimeError"}))
    with pytest.raises(RuntimeError):
        universe.load("acme")
    assert sys.modules["acme"] is hosts_own
    assert hosts_own.K.__module__ == "acme"


def test_names_a_plugin_puts_into_sys_modules_go_with_it(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """An alias in sys.modules under the plugin's name is set aside, put back and forgotten with its generation."""
    alias = "import sys\nfrom . import late\nsys.modules['acme.alias'] = late\n"
    old = make_universe(("acme",), write_tree(tmp_path / "1", small(1) | {"acme/__init__.py": alias}))
    old.load("acme")
    new = make_universe(("acme",), write_tree(tmp_path / "2", small(2)))
    new.load("acme")
    assert "acme.alias" not in sys.modules
    new.release()
    assert sys.modules["acme.alias"].V == 1
    old.release()
    assert "acme.alias" not in sys.modules


def test_a_module_that_replaces_itself_is_the_replacement(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """A module body that puts an object in its own place gives that object, before and after the switch."""
    body = "import sys\nclass Me:\n    V = {v}\nsys.modules[__name__] = Me()\n"
    trees = [write_tree(tmp_path / str(v), {"acme/__init__.py": "def me():\n    from acme import self\n    import acme.self as b\n    return self.V, b.V\n", "acme/self.py": body.format(v=v)}) for v in (1, 2)]  # fmt: skip
    first: Any = make_universe(("acme",), trees[0]).load("acme:me")
    assert first() == (1, 1)
    second: Any = make_universe(("acme",), trees[1]).load("acme:me")
    assert (first(), second()) == ((1, 1), (2, 2))


# --- kinds of sources ---------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path, write_tree: WriteTree) -> list[Path]:
    text = (
        "V = {v}\ndef seen():\n    import nsp.plug.late\n    import nsp.plug.late as aliased\n    from nsp import plug\n"
        "    from .. import plug as relative\n    return [nsp.plug.V, nsp.plug.late.V, aliased.V, plug.V, relative.V]\n"
        "def shared():\n    import nsp.shared\n    from nsp import shared\n    from ..shared import S\n    return [nsp.shared.S, shared.S, S]\n"
    )
    return [
        write_tree(tmp_path / f"part-{v}", {"nsp/plug/__init__.py": text.format(v=v), "nsp/plug/late.py": f"V = {v}\n"}) for v in (1, 2)
    ]


def test_a_part_of_a_namespace_package_is_owned_alone(
    make_universe: MakeUniverse, parts: list[Path], tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nsp.plug` is swapped, `nsp.shared` of another distribution is shared, each generation sees its own `nsp.plug`."""
    monkeypatch.syspath_prepend(str(write_tree(tmp_path / "host", {"nsp/shared.py": "S = 0\n"})))
    old = make_universe(("nsp.plug",), parts[0])
    first: Any = old.load("nsp.plug")
    new = make_universe(("nsp.plug",), parts[1])
    second: Any = new.load("nsp.plug")
    nsp = importlib.import_module("nsp")
    try:
        assert (set(first.seen()), set(second.seen())) == ({1}, {2})
        assert (set(first.shared()), set(second.shared())) == ({0}, {0})
        assert nsp.plug is second
        new.release()
        assert nsp.plug is first
        assert set(first.seen()) == {1}
        old.release()
        assert not hasattr(nsp, "plug")
    finally:
        for name in ("nsp", "nsp.shared"):
            sys.modules.pop(name, None)


def test_a_namespace_package_that_only_plugins_need_goes_with_the_last(make_universe: MakeUniverse, parts: list[Path]) -> None:
    """The package above the owned one is made when nobody else has it, kept over a swap and removed at the end."""
    old = make_universe(("nsp.plug",), parts[0])
    old.load("nsp.plug")
    new = make_universe(("nsp.plug",), parts[1])
    new.load("nsp.plug")
    old.release()
    assert "nsp" in sys.modules
    new.release()
    assert "nsp" not in sys.modules


def test_two_plugins_with_modules_of_one_name_live_together(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """Plugins that are single files of the same name go on independently; released in any order, none disturbs the other."""
    body = "V = {v}\ndef again():\n    import solo\n    return solo.V\n"
    one, two = (make_universe(("solo",), write_tree(tmp_path / str(v), {"solo.py": body.format(v=v)})) for v in (1, 2))
    first: Any = one.load("solo")
    second: Any = two.load("solo")
    assert (first.again(), second.again()) == (1, 2)
    one.release()
    assert two.active
    three = make_universe(("solo",), write_tree(tmp_path / "3", {"solo.py": body.format(v=3)}))
    three.load("solo")
    three.release()
    assert (second.again(), sys.modules["solo"]) == (2, second)


def test_a_zip_file_is_a_path(make_universe: MakeUniverse, tmp_path: Path) -> None:
    """Sources in zip files load side by side as well."""
    loaded: list[Any] = []
    for v in (1, 2):
        with zipfile.ZipFile(tmp_path / f"{v}.zip", "w") as archive:
            for name, text in small(v).items():
                archive.writestr(name, text)
        loaded.append(make_universe(("acme",), tmp_path / f"{v}.zip").load("acme"))
    assert [module.lazy() for module in loaded] == [1, 2]


def test_an_editable_install_is_found_through_its_finder(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that only a finder on sys.meta_path knows is found when the path does not have it."""
    place = write_tree(tmp_path / "elsewhere", small(1)) / "acme"

    class EditableFinder:
        @staticmethod
        def find_spec(fullname: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
            init = place / "__init__.py"
            return (
                importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=[str(place)])
                if fullname == "acme"
                else None
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, EditableFinder])
    module: Any = make_universe(("acme",), tmp_path / "empty").load("acme")
    assert module.lazy() == 1


def test_a_changed_c_extension_at_the_same_path_is_refused(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """The process would silently keep the old machine code, so loading it is an error that says what to do."""
    real = importlib.import_module("_bisect").__file__ if hasattr(importlib.import_module("_bisect"), "__file__") else None
    if real is None:
        pytest.skip("this Python has no C extension in a file of its own to copy")
    path = write_tree(tmp_path, {"acme/__init__.py": "from . import _bisect\n"})
    copy = path / "acme" / Path(real).name
    shutil.copy(real, copy)
    make_universe(("acme",), path).load("acme")
    make_universe(("acme",), path).load("acme")
    copy.unlink()
    copy.write_bytes(Path(real).read_bytes() + b"\0")
    with pytest.raises(ImportError, match="has changed since this process loaded it.*put the new version into another directory"):
        make_universe(("acme",), path).load("acme")


# --- text that changes on disk ------------------------------------------------------------------------------------------


def test_an_upgrade_in_place_does_not_reach_the_running_generation(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree
) -> None:
    """`pip install -U` over a running plugin: its first imports afterwards are still the old text, deleted and new files included."""
    path = write_tree(tmp_path / "site", small(1) | {"acme/dropped.py": "V = 1\n"})
    old = make_universe(("acme",), path)
    first: Any = old.load("acme")
    write_tree(path, small(2) | {"acme/added.py": "V = 2\n"})
    (path / "acme" / "dropped.py").unlink()
    second: Any = make_universe(("acme",), path).load("acme")
    assert (first.lazy(), second.lazy()) == (1, 2)
    scope: dict[str, Any] = {"__builtins__": old.builtins}
    exec("from acme.dropped import V", scope)
    assert scope["V"] == 1
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'acme\.added'"):
        exec("import acme.added", scope)
    exec("import importlib.util; found = importlib.util.find_spec('acme.added')", scope)
    assert scope["found"] is None


def test_bytecode_never_serves_a_stale_edit(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits of the same size within one second are all seen, although Python's own cache would miss nearly all of them."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = write_tree(tmp_path / "dev", {"solo.py": "V = 0\n"})
    for number in range(10, 40):
        (path / "solo.py").write_text(f"V = {number}\n")
        universe = make_universe(("solo",), path)
        assert universe.load("solo:V") == number
        universe.release()


def test_a_directory_that_never_changes_uses_bytecode(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fresh=False goes through Python's own loaders, which write and read .pyc files; isolation between generations is the same."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    modules: list[Any] = [make_universe(("acme",), write_tree(tmp_path / str(v), small(v)), fresh=False).load("acme") for v in (1, 2)]
    assert [module.lazy() for module in modules] == [1, 2]
    assert list((tmp_path / "1" / "acme" / "__pycache__").glob("late.*.pyc"))


def test_tracebacks_of_both_generations_show_their_own_lines(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """Two generations of one file: each traceback, and inspect.getsource, shows the text that runs; the newest keeps the real path."""
    path = write_tree(tmp_path, {"solo.py": "def fail():\n    raise ValueError('old')  # old line\n"})
    old = make_universe(("solo",), path)
    first: Any = old.load("solo:fail")
    write_tree(path, {"solo.py": "# a line more\ndef fail():\n    raise ValueError('new')  # new line\n"})
    new = make_universe(("solo",), path)
    second: Any = new.load("solo:fail")
    for function, line in ((first, "old line"), (second, "new line")):
        with pytest.raises(ValueError, match=line[:3]) as caught:
            function()
        assert line in "".join(traceback.format_tb(caught.tb))
        assert line in inspect.getsource(function)
    assert first.__code__.co_filename == second.__code__.co_filename == str(path / "solo.py")


def test_the_error_of_a_broken_edit_shows_the_edit_and_the_old_keeps_its_lines(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree
) -> None:
    """A version that fails to load is shown with its own line; the generation that serves on still shows its own."""
    path = write_tree(tmp_path, {"solo.py": "def fail():\n    raise ValueError('old')  # old line\n"})
    first: Any = make_universe(("solo",), path).load("solo:fail")
    write_tree(path, {"solo.py": "\n\nraise RuntimeError('at import')  # broken line\n"})
    with pytest.raises(RuntimeError) as caught:
        make_universe(("solo",), path).load("solo")
    assert "broken line" in "".join(traceback.format_tb(caught.tb))
    with pytest.raises(ValueError, match="old") as caught_old:
        first()
    assert "old line" in "".join(traceback.format_tb(caught_old.tb))


def test_lines_are_kept_for_whoever_still_runs_them(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """Releasing the old generation keeps the lines of files that the new one runs unchanged, also when the disk moves on."""
    path = write_tree(tmp_path, {"solo.py": "def fail():\n    raise ValueError('one')  # the line\n"})
    old = make_universe(("solo",), path)
    old.load("solo")
    fail: Any = make_universe(("solo",), path).load("solo:fail")
    old.release()
    write_tree(path, {"solo.py": "not python\n" * 9})
    with pytest.raises(ValueError, match="one") as caught:
        fail()
    assert "the line" in "".join(traceback.format_tb(caught.tb))


# --- what does not go through an import statement, and what takes too long ------------------------------------------------


def test_import_module_and_find_spec_answer_for_the_caller(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """importlib.import_module and find_spec with a literal or relative name stay in the caller's generation; the host gets the newest."""
    text = (
        "import importlib, importlib.util\nfrom importlib import import_module\n"
        "def seen():\n    return [importlib.import_module('acme.late').V, import_module('.late', __package__).V, import_module('.late', 'acme').V]\n"
        "def found():\n    return importlib.util.find_spec('acme.late').origin, import_module('json').__name__\n"
    )
    trees = [write_tree(tmp_path / str(v), small(v) | {"acme/__init__.py": text}) for v in (1, 2)]
    first: Any = make_universe(("acme",), trees[0]).load("acme")
    second: Any = make_universe(("acme",), trees[1]).load("acme")
    assert (first.seen(), second.seen()) == ([1, 1, 1], [2, 2, 2])
    assert first.found() == (str(trees[0] / "acme" / "late.py"), "json")
    assert importlib.import_module("acme.late").V == 2
    with pytest.raises(TypeError):
        importlib.import_module(".late")


def test_an_import_that_does_not_end_stops_the_switch_not_the_plugin(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch waits for imports under way in the old generation, gives up at its deadline with a sentence, and works later."""
    monkeypatch.setattr(table, "SWITCH_SECONDS", 0.2)
    begun, end = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "acme_events", (begun, end), raising=False)
    slow = "import sys\nbegun, end = sys.acme_events\nbegun.set()\nassert end.wait(20)\nV = 1\n"
    old = make_universe(("acme",), write_tree(tmp_path / "1", small(1) | {"acme/late.py": slow}))
    first: Any = old.load("acme")
    results: list[int] = []
    importer = threading.Thread(target=lambda: results.append(first.lazy()))
    importer.start()
    assert begun.wait(20)
    new = make_universe(("acme",), write_tree(tmp_path / "2", small(2)))
    try:
        with pytest.raises(TimeoutError, match=r"generation '.*' is still importing acme\.late; it keeps its names"):
            new.load("acme")
        assert old.active
        assert not new.active
        assert sys.modules["acme"] is first
    finally:
        end.set()
        importer.join(20)
    assert results == [1]
    second: Any = new.load("acme")
    assert (first.lazy(), second.lazy()) == (1, 2)


def test_a_module_body_may_wait_for_a_thread_that_imports(make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> None:
    """Importers of one generation do not exclude each other: a body that joins an importing thread goes on."""
    body = "import threading\ndef run():\n    from acme import late\nt = threading.Thread(target=run)\nt.start()\nt.join(20)\nalive = t.is_alive()\n"
    universe = make_universe(("acme",), write_tree(tmp_path, small(1) | {"acme/joins.py": body}))
    universe.load("acme")
    assert universe.load("acme.joins:alive") is False


@pytest.mark.parametrize("tag", ["", "a.b", "a@b"])
def test_an_impossible_tag_is_refused(tag: str, tmp_path: Path) -> None:
    """A tag becomes part of module names: it cannot be empty or contain a dot or an at sign."""
    with pytest.raises(ValueError, match="a universe's tag is a non-empty word"):
        Universe(("acme",), tmp_path, tag)


@pytest.mark.parametrize("packages", [(), ("not-a-name",), ("acme..x",)])
def test_impossible_packages_are_refused(packages: tuple[str, ...], tmp_path: Path) -> None:
    """Owned names are dotted identifiers, and there is at least one."""
    with pytest.raises(ValueError, match="a universe owns"):
        Universe(packages, tmp_path, "tag")


def test_a_tag_is_used_once(acme: Acme) -> None:
    """Two live universes of one tag would share private names."""
    first, second = (Universe(("acme",), acme(1), "same") for _ in range(2))
    first.load("acme")
    with pytest.raises(ValueError, match="tagged 'same' is loaded already"):
        second.load("acme")
    first.release()


@pytest.mark.parametrize("name", ["added.py", "added/__init__.py", "added/inner.py"])
def test_what_appears_on_disk_is_not_the_old_generations(
    name: str, make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree
) -> None:
    """A module, package or namespace package that the next version brought is not there for the generation that was set aside."""
    path = write_tree(tmp_path, small(1))
    old = make_universe(("acme",), path)
    old.load("acme")
    write_tree(path, {f"acme/{name}": "V = 2\n"})
    make_universe(("acme",), path).load("acme.added")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'acme\.added'"):
        exec("import acme.added", {"__builtins__": old.builtins})


def test_a_namespace_package_inside_a_plugin_is_the_generations_own(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree
) -> None:
    """A directory without __init__.py that was there at load is imported late, with its modules as they were."""
    path = write_tree(tmp_path, {"acme/__init__.py": "V = 1\n", "acme/space/inner.py": "V = 1\n"})
    old = make_universe(("acme",), path)
    old.load("acme")
    write_tree(path, {"acme/space/inner.py": "V = 2\n"})
    assert make_universe(("acme",), path).load("acme.space.inner:V") == 2
    scope: dict[str, Any] = {"__builtins__": old.builtins}
    exec("import acme.space.inner as inner", scope)
    assert scope["inner"].V == 1
