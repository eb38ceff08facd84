"""Look-ups by name that are no import statement: each is answered for the generation whose code asks, before and after the switch."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import pickle
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.loader import distributions
from blackhole_core.loader.standin import canonical_of
from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]
Two = tuple[Any, Any]

ASKS = {
    "acme/__init__.py": "V = {v}\n",
    "acme/text.txt": "text {v}",
    "acme/only{v}.py": "V = {v}\n",
    "acme/sub/__init__.py": "V = {v}\n",
    "acme/sub/deep/__init__.py": "V = {v}\n",
    "acme/sub/deep/leaf.py": "V = {v}\n",
    "acme/asks.py": """
        import importlib, importlib.metadata, importlib.resources, pkgutil, sys
        from importlib.metadata import version
        from importlib.resources import files

        def resources():
            return [files("acme").joinpath("text.txt").read_text(), importlib.resources.files("acme.sub").name,
                    files(sys.modules[__package__]).joinpath("text.txt").read_text()]
        def old_resources():
            import warnings
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return [importlib.resources.read_text("acme", "text.txt"), importlib.resources.is_resource("acme", "text.txt"),
                        importlib.resources.open_binary("acme", "text.txt").read().decode()]
        def data():
            return pkgutil.get_data("acme", "text.txt").decode()
        def metadata():
            held = importlib.metadata.distribution("Acme_Dist")
            return [version("acme-dist"), held.version, held.metadata["Summary"], importlib.metadata.requires("acme.dist"),
                    sorted(str(file) for file in importlib.metadata.files("acme-dist")), [point.value for point in held.entry_points]]
        def others():
            return [version("pytest"), len(importlib.metadata.entry_points()) > 0, files("json").joinpath("decoder.py").is_file()]
        def walked():
            import acme
            found = [info.name for info in pkgutil.walk_packages(acme.__path__, "acme.")]
            return found, {importlib.import_module(name).V for name in found if name != "acme.asks"}
        def listed():
            import acme
            return [(info.name, info.ispkg) for info in pkgutil.iter_modules(acme.__path__)]
        def resolved():
            return [pkgutil.resolve_name("acme.sub.deep.leaf:V"), pkgutil.resolve_name("acme.sub.V"), pkgutil.resolve_name("json:loads").__name__,
                    pkgutil.resolve_name("acme.sub.deep").V]
    """,
    "acme_dist-{v}.0.dist-info/METADATA": """\
        Metadata-Version: 2.1
        Name: acme-dist
        Version: {v}.0
        Summary: number {v}
        Requires-Dist: json{v}
    """,
    "acme_dist-{v}.0.dist-info/RECORD": "acme/__init__.py,,\nacme/only{v}.py,,\n",
    "acme_dist-{v}.0.dist-info/entry_points.txt": "[acme]\none = acme:V{v}\n",
}


def version_of_acme(v: int) -> dict[str, str]:
    return {name.format(v=v): textwrap.dedent(text).replace("{v}", str(v)) for name, text in ASKS.items()}


@pytest.fixture(params=["versioned directories", "upgraded in place", "store"])
def two(request: pytest.FixtureRequest, make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree) -> Two:
    """The module acme.asks of a set-aside and of the active generation, for every way in which versions lie on disk."""
    fresh = request.param != "store"
    place = write_tree(tmp_path / "1", version_of_acme(1))
    first: Any = make_universe(("acme",), place, fresh=fresh).load("acme.asks")
    if request.param == "upgraded in place":
        for file in sorted(place.rglob("*1*")):  # as pip does: what the old version had and the new one has not goes
            if file.is_file() or not any(file.iterdir()):
                file.unlink() if file.is_file() else file.rmdir()
        for file in list(place.glob("*1.0.dist-info/*")):
            file.unlink()
        next(place.glob("*1.0.dist-info")).rmdir()
    else:
        place = tmp_path / "2"
    second: Any = make_universe(("acme",), write_tree(place, version_of_acme(2)), fresh=fresh).load("acme.asks")
    return first, second


def there(module: Any, name: str) -> bool:
    """Say whether a file is still on disk: since 3.12 importlib.metadata lists only those."""
    return Path(module.__file__).parents[1].joinpath(name).exists()


def test_one_distribution_is_that_of_the_generation(two: Two) -> None:
    """version, distribution, metadata, requires, files and entry points, in every spelling of the name."""
    for module, v in zip(two, (1, 2), strict=True):
        assert module.metadata() == [
            f"{v}.0",
            f"{v}.0",
            f"number {v}",
            [f"json{v}"],
            [name for name in ("acme/__init__.py", f"acme/only{v}.py") if sys.version_info < (3, 12) or there(module, name)],
            [f"acme:V{v}"],
        ]


def test_what_a_generation_does_not_own_is_the_environments(two: Two) -> None:
    """Other distributions, questions about all of them, and foreign packages are answered as ever; so is the host."""
    for module in two:
        assert module.others() == [importlib.metadata.version("pytest"), True, True]
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("acme-dist")


def test_walking_a_package_finds_and_imports_its_own_modules(two: Two) -> None:
    """walk_packages, iter_modules, and import_module of what they find; a module of the other version is not among them."""
    for module, v in zip(two, (1, 2), strict=True):
        found, values = module.walked()
        assert found == ["acme.asks", f"acme.only{v}", "acme.sub", "acme.sub.deep", "acme.sub.deep.leaf"]
        assert values == {v}
        assert module.listed() == [("asks", False), (f"only{v}", False), ("sub", True)]


def test_names_are_resolved_in_the_generation(two: Two) -> None:
    """pkgutil.resolve_name in both of its spellings."""
    for module, v in zip(two, (1, 2), strict=True):
        assert module.resolved() == [v, v, "loads", v]


def test_package_data_of_versioned_directories_is_the_generations(
    make_universe: MakeUniverse, tmp_path: Path, write_tree: WriteTree
) -> None:
    """importlib.resources with a name, the older functions, and pkgutil.get_data."""
    modules: list[Any] = [make_universe(("acme",), write_tree(tmp_path / str(v), version_of_acme(v))).load("acme.asks") for v in (1, 2)]
    for module, v in zip(modules, (1, 2), strict=True):
        assert module.resources() == [f"text {v}", "sub", f"text {v}"]
        assert module.old_resources() == [f"text {v}", True, f"text {v}"]
        assert module.data() == f"text {v}"
    assert importlib.resources.files("acme").joinpath("text.txt").read_text() == "text 2"
    assert pkgutil.get_data("acme", "text.txt") == b"text 2"


def test_the_host_is_answered_as_before(two: Two) -> None:
    """The same functions called by host code see the active generation, and foreign names as ever."""
    assert pkgutil.resolve_name("acme.sub.deep.leaf:V") == 2
    acme = importlib.import_module("acme")
    assert "acme.only2" in [info.name for info in pkgutil.walk_packages(acme.__path__, "acme.")]
    assert [info.name for info in pkgutil.iter_modules([str(Path(pkgutil.__file__).parent / "json")])][:1] == ["decoder"]


def test_shims_reach_modules_that_are_imported_later(tmp_path: Path, write_tree: WriteTree) -> None:
    """A process in which nobody had imported these modules when the plugin was loaded; their own spec and loader stay Python's."""
    write_tree(tmp_path / "1", version_of_acme(1))
    program = """
        import sys
        from pathlib import Path
        from blackhole_core.loader.universe import Universe
        universe = Universe(["acme"], Path(sys.argv[1]), "1")
        universe.load("acme")
        assert not {"importlib.metadata", "importlib.resources", "pkgutil", "multiprocessing"} & set(sys.modules), "nothing to test"
        asks = universe.load("acme.asks")
        Universe(["acme"], Path(sys.argv[1]), "2").load("acme")
        print(asks.metadata()[0], asks.resolved()[0], asks.resources()[0], asks.data())
        import importlib.metadata, pkgutil
        for module in (importlib.metadata, pkgutil):
            print(type(module.__spec__.loader).__name__, type(module.__loader__).__name__)
    """
    done = subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(program), tmp_path / "1"],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(Path(distributions.__file__).parents[2])})  # fmt: skip
    assert done.stdout.split() == ["1.0", "1", "text", "1", "text", "1"] + ["SourceFileLoader"] * 4


def test_a_distribution_is_found_by_what_it_holds(tmp_path: Path, write_tree: WriteTree) -> None:
    """Among hundreds of others, whatever it is called; one of the same name that holds something else is not taken for it."""
    crowd = {f"other{number}-1.dist-info/RECORD": "other.py,,\n" for number in range(300)}
    mine = {"Odd.Name-3.dist-info/RECORD": "x,,\nns/plug/__init__.py,,\n", "Odd.Name-3.dist-info/METADATA": "Version: 3\n"}
    namesake = {"ns-1.dist-info/RECORD": "nothing.py,,\n"}
    root = write_tree(tmp_path, crowd | mine | namesake)
    found = distributions.read_distributions(root, ["ns.plug"])
    assert {name: texts["METADATA"] for name, texts in found.items()} == {"odd-name": "Version: 3\n"}
    assert distributions.read_distributions(tmp_path / "nothing", ["ns.plug"]) == {}


# --- pickles of a generation that is gone -----------------------------------------------------------------------------------


def pickled_and_gone(make_universe: MakeUniverse, acme: Callable[[int], Path]) -> bytes:
    """Return what a set-aside generation pickled before it was released."""
    old = make_universe(("acme",), acme(1))
    core: Any = old.load("acme.core")
    make_universe(("acme",), acme(2)).load("acme")
    data = pickle.dumps([core.Point(7), core.Point.Inner, core.Plugin.version])
    assert b"@" in data
    old.release()
    return data


def test_a_pickle_of_a_gone_generation_gives_the_active_ones_classes(make_universe: MakeUniverse, acme: Callable[[int], Path]) -> None:
    """A private name whose generation was released means the active generation, also after further swaps."""
    data = pickled_and_gone(make_universe, acme)
    for _ in range(2):
        point, inner, version = pickle.loads(data)
        core: Any = importlib.import_module("acme.core")
        assert (type(point), inner, version) == (core.Point, core.Point.Inner, core.Plugin.version)
        assert (point.x, core.V) == (7, 2)
        make_universe(("acme",), acme(2)).load("acme")


def test_reading_such_a_pickle_in_plugin_code_works_too(make_universe: MakeUniverse, acme: Callable[[int], Path]) -> None:
    """The plugin's own import machinery does not get in the way."""
    data = pickled_and_gone(make_universe, acme)
    scope = {"__builtins__": vars(sys.modules["acme.core"])["__builtins__"], "data": data}
    exec("import pickle\nfound = pickle.loads(data)", scope)
    assert type(scope["found"][0]) is sys.modules["acme.core"].Point


def test_such_a_pickle_without_any_generation_says_what_to_do(make_universe: MakeUniverse, acme: Callable[[int], Path]) -> None:
    """When no version is loaded the error says whose name it is and what to load."""
    data = pickled_and_gone(make_universe, acme)
    vars(sys.modules["acme"].core)["__builtins__"]["__blackhole_universe__"].release()
    with pytest.raises(
        ModuleNotFoundError, match=r"no module acme@\S+.*no generation that has a module acme.* is loaded; load the plugin that owns acme"
    ):
        pickle.loads(data)


def test_a_class_that_the_new_version_dropped_is_named(
    make_universe: MakeUniverse, acme: Callable[[int], Path], tmp_path: Path, write_tree: WriteTree
) -> None:
    """pickle's own error names the class, the module and that the active generation was asked in place of one that is gone."""
    data = pickled_and_gone(make_universe, acme)
    make_universe(("acme",), write_tree(tmp_path / "3", {"acme/__init__.py": "", "acme/core.py": ""})).load("acme")
    with pytest.raises(
        AttributeError, match=r"'Point' on <acme.core of the active generation, in place of acme@\S+ whose generation is gone>"
    ):
        pickle.loads(data)
    make_universe(("acme",), write_tree(tmp_path / "4", {"acme/__init__.py": ""})).load("acme")
    with pytest.raises(ModuleNotFoundError, match=r"no generation that has a module acme\.core is loaded"):
        pickle.loads(data)


@pytest.mark.parametrize(("private", "canonical"), [("acme@7", "acme"), ("acme@7.core.x", "acme.core.x"), ("ns.plug@a-1.b", "ns.plug.b")])
def test_every_private_name_has_one_canonical_one(private: str, canonical: str) -> None:
    """The tag and its mark go, the rest stays."""
    assert canonical_of(private) == canonical
