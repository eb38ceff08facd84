"""What a universe promises: one generation per version, canonical names for the newest, everything as before on failure."""

from __future__ import annotations

import gc
import importlib.resources
import inspect
import pickle
import subprocess
import sys
import typing
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]
Acme = Callable[[int], Path]


@pytest.fixture
def two(make_universe: MakeUniverse, acme: Acme) -> tuple[Universe, Any, Universe, Any]:
    """Versions 1 and 2 of acme loaded one after the other: old universe, its plugin, new universe, its plugin."""
    old = make_universe(("acme",), acme(1))
    first: Any = old.load("acme:Plugin")
    new = make_universe(("acme",), acme(2))
    second: Any = new.load("acme:Plugin")
    return old, first(), new, second()


def test_an_entry_is_a_module_or_an_attribute_path(make_universe: MakeUniverse, acme: Acme) -> None:
    """`module` gives the module, `module:a.b` the attribute."""
    universe = make_universe(("acme",), acme(1))
    assert universe.load("acme") is sys.modules["acme"]
    assert universe.load("acme.core:Point.Inner") is sys.modules["acme.core"].Point.Inner
    assert universe.active
    assert universe.modules["acme.core"] is sys.modules["acme.core"]


def test_an_entry_outside_the_packages_is_refused(make_universe: MakeUniverse, acme: Acme) -> None:
    """An entry that the universe does not own is named in the error together with what it owns."""
    with pytest.raises(ValueError, match=r"'json:loads' is in none of the packages of this universe: acme"):
        make_universe(("acme",), acme(1)).load("json:loads")


def test_both_generations_stay_themselves(two: tuple[Universe, Any, Universe, Any]) -> None:
    """Calls and every kind of import inside a function see the function's own generation, after the switch too."""
    old, first, new, second = two
    for plugin, v in ((first, 1), (second, 2), (first, 1)):
        assert plugin.version() == (v, v)
        assert set(plugin.absolute()) == {v}
        assert set(plugin.relative()) == {v}
        assert set(plugin.in_thread()) == {v}
        assert set(plugin.lazy(v)) == {v}
    assert not old.active
    assert new.active
    assert sys.modules["acme"].V == 2


def test_modules_first_imported_after_the_switch_are_the_old_generations(two: tuple[Universe, Any, Universe, Any]) -> None:
    """A lazy import that runs for the first time when the generation is set aside loads that generation's file."""
    old, first, new, second = two
    assert "acme.late7" not in old.modules
    assert first.lazy(7) == (1, 1, 1, 1)
    assert second.lazy(7) == (2, 2, 2, 2)
    assert old.modules["acme.late7"] is not new.modules["acme.late7"]


def test_a_generator_in_flight_stays_in_its_generation(make_universe: MakeUniverse, acme: Acme) -> None:
    """A generator that was started before the switch imports from its own generation after it."""
    plugin: Any = make_universe(("acme",), acme(1)).load("acme:Plugin")
    numbers = plugin().numbers()
    assert next(numbers) == 1
    make_universe(("acme",), acme(2)).load("acme")
    assert [next(numbers) for _ in range(3)] == [1, 1, 1]


def test_objects_of_both_generations_pickle(two: tuple[Universe, Any, Universe, Any]) -> None:
    """Instances, nested classes, enum members and functions of both generations survive pickling with their own class."""
    for universe in (two[0], two[2]):
        core = universe.modules["acme.core"]
        for value in (core.Point(), core.Colour.RED, core.Point.Inner, core.Plugin.version):
            copied = pickle.loads(pickle.dumps(value))
            assert copied == value
            assert type(copied) is type(value)


def test_names_of_the_old_generation_are_found_by_introspection(two: tuple[Universe, Any, Universe, Any]) -> None:
    """`sys.modules[cls.__module__]`, type hints and the module's source lead to the object's own generation."""
    for universe in (two[0], two[2]):
        core = universe.modules["acme.core"]
        assert sys.modules[core.Point.__module__] is core
        assert inspect.getmodule(core.Point) is core
        assert typing.get_type_hints(core.Point) == {"x": int}
        assert core.__package__ is not None
        assert importlib.resources.files(core.__package__).joinpath("util.py").is_file()


def test_a_missing_module_is_named_canonically(two: tuple[Universe, Any, Universe, Any]) -> None:
    """The error of a set-aside generation names the module that its code asked for."""
    old, *_ = two
    scope: dict[str, Any] = {"__builtins__": old.builtins}
    with pytest.raises(ModuleNotFoundError, match="No module named 'acme.nothing'") as caught:
        exec("import acme.nothing", scope)
    assert caught.value.name == "acme.nothing"


def test_abort_gives_the_old_generation_its_names_back(two: tuple[Universe, Any, Universe, Any]) -> None:
    """S-04: releasing the new universe promotes the old one: identical objects, canonical names, still serving."""
    old, first, new, _ = two
    core = old.modules["acme.core"]
    new.release()
    assert old.active
    assert sys.modules["acme.core"] is core
    assert type(first).__module__ == "acme.core"
    assert core.Colour.__module__ == "acme.core"
    assert first.lazy(9) == (1, 1, 1, 1)
    assert pickle.loads(pickle.dumps(core.Point())) == core.Point()
    assert b"@" not in pickle.dumps(core.Point())


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"acme/core.py": "def broken(:\n"}, SyntaxError),
        ({"acme/core.py": "import acme.nothing\n"}, ModuleNotFoundError),
        ({"acme/core.py": "class Plugin: pass\nraise RuntimeError('no')\n"}, RuntimeError),
        ({"acme/core.py": "raise SystemExit(3)\n"}, SystemExit),
        ({"acme/core.py": "from .util import MISSING\n"}, ImportError),
        ({"acme/__init__.py": "from . import util\n"}, AttributeError),
    ],
)
def test_a_failed_load_changes_nothing(
    make_universe: MakeUniverse, acme: Acme, write_tree: WriteTree, files: dict[str, str], error: type[BaseException]
) -> None:
    """S-04, H-05: whatever goes wrong in the new version, the old objects are the same, canonical and complete."""
    old = make_universe(("acme",), acme(1))
    plugin: Any = old.load("acme:Plugin")
    before = {name: module for name, module in sys.modules.items() if name.startswith("acme")}
    new = make_universe(("acme",), write_tree(acme(2), files))
    with pytest.raises(error):
        new.load("acme:Plugin")
    assert {name: module for name, module in sys.modules.items() if name.startswith("acme")} == before
    assert old.active
    assert not new.modules
    assert plugin.__module__ == "acme.core"
    assert plugin().lazy(3) == (1, 1, 1, 1)
    assert make_universe(("acme",), acme(3)).load("acme:V") == 3


def test_the_traceback_of_a_failed_load_is_the_plugins_own(make_universe: MakeUniverse, acme: Acme, write_tree: WriteTree) -> None:
    """H-05: the error shows the plugin's file and line and none of the loader's frames."""
    path = write_tree(acme(1), {"acme/util.py": "HELPER = 1\nimport nothing_of_that_name\n"})
    with pytest.raises(ModuleNotFoundError) as caught:
        make_universe(("acme",), path).load("acme:Plugin")
    files = [(Path(str(entry.path)).name, entry.lineno + 1) for entry in caught.traceback]
    assert files[-1] == ("util.py", 2)
    assert not [name for name, _ in files if name in ("universe.py", "finder.py", "<frozen importlib._bootstrap>")]


def test_release_makes_the_old_generation_collectable(make_universe: MakeUniverse, acme: Acme) -> None:
    """S-18: after release and a collection no module, class or function of the old generation is alive."""
    old = make_universe(("acme",), acme(1))
    old.load("acme:Plugin")
    new = make_universe(("acme",), acme(2))
    new.load("acme:Plugin")
    core = old.modules["acme.core"]
    canaries = [weakref.ref(thing) for thing in (*old.modules.values(), core.Plugin, core.Point, core.Plugin.version)]
    assert typing.get_type_hints(core.Point)
    del core
    old.release()
    old.release()
    gc.collect()
    assert [canary() for canary in canaries] == [None] * len(canaries)
    assert new.active


def test_two_hundred_cycles_leave_no_module(make_universe: MakeUniverse, acme: Acme) -> None:
    """S-15: 200 loads and releases leave the number of modules in the interpreter as it was."""
    paths = [acme(1), acme(2)]

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, ModuleType) for thing in gc.get_objects())

    current = make_universe(("acme",), paths[0])
    current.load("acme:Plugin")
    try:
        for number in range(202):
            if number == 2:  # what the interpreter imports at a first time is there
                counted = alive(), len(sys.modules)
            following = Universe(("acme",), paths[number % 2], f"cycle-{number}")
            following.load("acme:Plugin")
            current.release()
            current = following
        modules, keys = alive(), len(sys.modules)
    finally:
        current.release()
    assert modules <= counted[0]  # fewer when what earlier tests left is collected meanwhile
    assert keys == counted[1]


def test_a_released_generation_says_so(make_universe: MakeUniverse, acme: Acme) -> None:
    """Code that outlived its generation gets a sentence, not a module of another version."""
    universe = make_universe(("acme",), acme(1))
    plugin: Any = universe.load("acme:Plugin")
    universe.release()
    with pytest.raises(ImportError, match="cannot import acme.util: generation .* of acme was released"):
        plugin().absolute()
    with pytest.raises(RuntimeError, match="make a new universe with a new tag"):
        universe.load("acme")


def test_importing_the_loader_is_light() -> None:
    """The worker starts with this module: neither attrs nor yaml, msgspec, watchfiles, asyncio or metadata come with it."""
    probe = "import sys, blackhole_core.loader.universe as u; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert not {"attrs", "attr", "yaml", "msgspec", "watchfiles", "asyncio", "rich", "pluggy", "email"} & set(found)
