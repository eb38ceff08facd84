"""multiprocessing from plugin code: spawn and forkserver children get the generation that started them, and nothing ever hangs.

Every test starts a host of its own, because children import the host's main module and forkserver leaves helpers behind.
"""

from __future__ import annotations

import multiprocessing.reduction
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.loader.children import Unavailable, pack, resolve, unpack
from blackhole_core.loader.snapshot import read_snapshot
from blackhole_core.loader.universe import Universe

WriteTree = Callable[[Path, dict[str, str]], Path]

#: Seconds for one host with its children; they take about 2.
LONG = 20

PLUGIN = {
    "acme/__init__.py": "from .work import Work, Colour, Point\n",
    "acme/helper.py": "V = {v}\n",
    "acme/work.py": """
        import collections, concurrent.futures, dataclasses, enum, functools, multiprocessing
        from acme.helper import V

        Point = collections.namedtuple("Point", "x y")

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Item:
            number: int
            def value(self):
                return (V, self.number)

        class Oops(Exception):
            pass

        class Answer(multiprocessing.Process):
            def run(self):
                raise SystemExit(V)

        def double(number):
            from acme.helper import V as lazily
            return (V, lazily, number * 2)

        def answer(queue, item, colour):
            from .helper import V as lazily
            queue.put((item.value(), colour, Point(V, lazily)))

        def fails():
            raise Oops(V)

        class Work:
            def __init__(self, method):
                self.context = multiprocessing.get_context(method)

            def process(self):
                queue = self.context.SimpleQueue()
                process = self.context.Process(target=answer, args=(queue, Item(7), Colour.RED))
                process.start()
                value, colour, point = queue.get()
                process.join()
                return (*value, colour is Colour.RED, type(point) is Point, *point, process.exitcode)

            def pool(self):
                with self.context.Pool(1) as pool:
                    bound = pool.apply(Item(3).value)
                    return [bound, pool.map(double, [1, 2]), pool.apply(functools.partial(double, 4))]

            def executor(self):
                with concurrent.futures.ProcessPoolExecutor(1, mp_context=self.context) as executor:
                    try:
                        executor.submit(fails).result()
                    except Oops as error:
                        caught = error.args[0]
                    return (executor.submit(double, 5).result(), caught)

            def everything(self):
                return [self.process(), self.pool(), self.executor()]
    """,
}

HOST = """
import multiprocessing, sys
from pathlib import Path
from blackhole_core.loader.universe import Universe

def expected(v):
    return [(v, 7, True, True, v, v, 0), [(v, 3), [(v, v, 2), (v, v, 4)], (v, v, 8)], ((v, v, 10), v)]

if __name__ == "__main__":
    method, kind, *places = sys.argv[1:]
    root = Path(places[0])
    old = Universe(["acme"], root, "1", fresh=kind != "store")
    first = old.load("acme:Work")
    if kind == "in place":  # an edit: the old generation's file is no longer there
        (root / "acme" / "helper.py").write_text("V = 2\\n")
        (root / "acme" / "work.py").write_text((root / "acme" / "work.py").read_text() + "\\n# edited\\n")
        places.append(places[0])
    new = Universe(["acme"], Path(places[-1]), "2", fresh=kind != "store")
    second = new.load("acme:Work")
    assert not old.active
    assert first(method).everything() == expected(1), first(method).everything()
    assert second(method).everything() == expected(2), second(method).everything()
    print("fine")
"""


def run_host(tmp_path: Path, text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    host = tmp_path / "host.py"
    host.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, "-W", "error", host, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=LONG
    )


@pytest.fixture
def versions(tmp_path: Path, write_tree: WriteTree) -> list[Path]:
    trees = ({name: textwrap.dedent(text).format(v=v) for name, text in PLUGIN.items()} for v in (1, 2))
    return [write_tree(tmp_path / f"v{v}", tree) for v, tree in enumerate(trees, 1)]


@pytest.mark.parametrize("kind", ["in place", "store"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_of_both_generations_run_their_own_code(method: str, kind: str, tmp_path: Path, versions: list[Path]) -> None:
    """Process, Pool and ProcessPoolExecutor: functions, methods, enums, named tuples, exceptions and lazy imports, active and replaced."""
    done = run_host(tmp_path, HOST, method, kind, *versions if kind == "store" else versions[:1])
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_a_subclass_of_process_is_started(tmp_path: Path, versions: list[Path]) -> None:
    """A plugin's own Process class runs in the child, for a generation that was replaced as well."""
    host = """
    import sys
    from pathlib import Path
    from multiprocessing import set_start_method
    from blackhole_core.loader.universe import Universe
    if __name__ == "__main__":
        set_start_method("spawn")
        universes = [Universe(["acme"], Path(place), f"{number}") for number, place in enumerate(sys.argv[1:])]
        started = [universe.load("acme.work:Answer")() for universe in universes]
        for process in started: process.start()
        for process in started: process.join(30)
        print([process.exitcode for process in started])
    """
    assert run_host(tmp_path, host, *versions).stdout == "[1, 2]\n"


def test_a_child_that_cannot_load_the_plugin_answers_with_a_sentence(tmp_path: Path, versions: list[Path]) -> None:
    """What must not happen is a pool that starts children for ever: the call fails with what was missing, in both kinds of pool."""
    (versions[0] / "acme" / "__init__.py").write_text("import host_only\nfrom .work import Work\n")
    host = """
    import sys, types
    from pathlib import Path
    from blackhole_core.loader.universe import Universe
    if __name__ == "__main__":
        sys.modules["host_only"] = types.ModuleType("host_only")
        work = Universe(["acme"], Path(sys.argv[1]), "1").load("acme:Work")("spawn")
        for use in (work.pool, work.executor):
            try:
                use()
            except ImportError as error:
                print(error)
    """
    done = run_host(tmp_path, host, versions[0])
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done
    for line in lines:
        assert "cannot load acme.work" in line
        assert "ModuleNotFoundError: No module named 'host_only'; a child process that plugin code starts must be able to import" in line


def test_code_that_outlived_its_generation_is_refused_not_hung(tmp_path: Path, versions: list[Path]) -> None:
    """A pool used by code whose generation was released fails at once with pickle's own error."""
    host = """
    import pickle, sys
    from pathlib import Path
    from blackhole_core.loader.universe import Universe
    if __name__ == "__main__":
        old, new = (Universe(["acme"], Path(place), str(number)) for number, place in enumerate(sys.argv[1:]))
        work = old.load("acme:Work")("spawn")
        new.load("acme:Work")
        old.release()
        try:
            work.pool()
        except pickle.PicklingError as error:
            print("PicklingError", error)
    """
    done = run_host(tmp_path, host, *versions)
    assert "PicklingError" in done.stdout, done


# --- the parts, without a process -------------------------------------------------------------------------------------------


@pytest.fixture
def acme_works(tmp_path: Path, write_tree: WriteTree, make_universe: Callable[..., Universe]) -> Universe:
    tree = write_tree(tmp_path / "here", {name: textwrap.dedent(text).format(v=1) for name, text in PLUGIN.items()})
    universe = make_universe(("acme",), tree)
    universe.load("acme")
    return universe


def test_a_reference_comes_back_as_the_same_object(acme_works: Universe) -> None:
    """In the process that sent it, and for a replaced generation too, a reference leads to the object itself."""
    work: Any = acme_works.modules["acme.work"]
    for thing in (work.Work, work.double, work.Colour.RED, work.Work.pool, work.Oops):
        assert pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(thing)) is thing
    assert b"work" in bytes(multiprocessing.reduction.ForkingPickler.dumps(work.double))
    assert pickle.loads(multiprocessing.reduction.ForkingPickler.dumps([len, dict, Path])) == [len, dict, Path]


def test_the_sources_survive_the_journey(acme_works: Universe, tmp_path: Path) -> None:
    """What a child unpacks is what the parent read: roots, texts, directories."""
    assert acme_works.snapshot is not None
    packed = pack(acme_works._roots, acme_works.snapshot)
    assert packed is not None
    roots, snapshot = unpack(packed)
    assert (snapshot.files, snapshot.directories) == (acme_works.snapshot.files, acme_works.snapshot.directories)
    assert [(root.name, root.origin, root.submodule_search_locations) for root in roots.values()] == [
        ("acme", str(tmp_path / "here/acme/__init__.py"), [str(tmp_path / "here/acme")])
    ]
    assert snapshot.files == read_snapshot(roots.values()).files


def test_what_stands_in_raises_only_when_it_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unpickling a reference that cannot be had, an instance of it or a bound method works; calling it raises the sentence."""
    recipe = (("acme",), str(tmp_path / "nowhere"), "9", None)
    function = resolve(recipe, "acme.work", "double", False)
    kind = resolve(recipe, "acme.work", "Item", True)
    instance = kind.__new__(kind)
    assert isinstance(instance, Unavailable)
    for use in (lambda: function(1), lambda: instance.value()):
        with pytest.raises(
            ImportError, match=r"cannot load acme\.work\.\w+ of generation '9' from .*nowhere: ModuleNotFoundError: No module"
        ):
            use()
    assert "cannot load acme.work.Item" in caplog.text


def test_a_zipped_plugin_is_sent_by_its_path(tmp_path: Path, make_universe: Callable[..., Universe]) -> None:
    """A generation that came from a zip file has no texts to send; a child loads it from the file."""
    with zipfile.ZipFile(tmp_path / "acme.zip", "w") as archive:
        archive.writestr("acme/__init__.py", "def f(): return 1\n")
    universe = make_universe(("acme",), tmp_path / "acme.zip")
    f: Any = universe.load("acme:f")
    sent = bytes(multiprocessing.reduction.ForkingPickler.dumps(f))
    universe.release()
    received = pickle.loads(sent)
    assert received() == 1
    vars(sys.modules["acme"])["__builtins__"]["__blackhole_universe__"].release()
