"""Entry points of one group among thousands of distributions: ``python -m benchmarks discovery [--rounds N] [--check]``.

Every sample is a new process that has imported what a host has before it looks: ``blackhole_core.assembly``, which every ``PluginManager`` of ours needs and the index is part of, or
``pluggy``, which imports ``importlib.metadata`` when it looks, as most do. The time is the CPU's for the look alone (it never waits, and is too short to be shared with other programs), not that of the interpreter's start. "imports done" has every module
that a look needs imported before. "again" is a further look in the same process, at which stevedore does not ask the disk any more: it never sees an installation. The distributions are real ``.dist-info`` directories, a third of them with entry points, ten with the group that is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.harness import Case, Samples, Targets, compare, options
from benchmarks.results import publish
from blackhole_core.registry.indexstamp import SETTLED_NS

GROUP: Final = "bench.plugins"

#: How many distributions declare the group.
PLUGINS: Final = 10

SIZES: Final = (1_000, 5_000)

#: Looks after the first one, in one process.
_AGAIN: Final = 5

#: Rounds: of 30 processes each, some of which take a second.
_ROUNDS: Final = 9

#: Issue 4: how many times faster a first look must be.
TARGETS: Final[Targets] = {
    (f"{size:,}: first look", peer): times
    for size, times in ((1_000, 200.0), (5_000, 100.0))
    for peer in ("importlib.metadata", "stevedore")
}

#: Where this file lies: isolated, an interpreter would find the checkout that is installed, which may be another one.
_CHECKOUT: Final = str(Path(__file__).resolve().parents[1])

#: Contender → what its host has imported, what a look imports on top, and the look: the names of the entry points.
CONTENDERS: Final = {
    "blackhole": (
        (
            f"sys.path.insert(0, {_CHECKOUT!r}); import blackhole_core.assembly; del sys.path[0]; "
            f"assert blackhole_core.__path__ == [{str(Path(_CHECKOUT, 'blackhole_core'))!r}], blackhole_core.__path__"
        ),
        "import blackhole_core.registry.index as index",
        f"[point.name for point in index.entry_points({GROUP!r})]",
    ),
    "importlib.metadata": (
        "import pluggy",
        "import importlib.metadata",
        f"[point.name for point in importlib.metadata.entry_points(group={GROUP!r})]",
    ),
    "stevedore": (
        "import pluggy",
        "import stevedore._cache",
        f"[point.name for point in stevedore._cache.get_group_all({GROUP!r})]",
    ),
}

_PROGRAM: Final = """
import sys, time
{host}
{before}
sys.path.append({site!r})
begun = time.process_time()
{inside}
found = {look}
first = time.process_time()
for _ in range({again}):
    {look}
ended = time.process_time()
assert len(found) == {plugins}, found
print(first - begun, (ended - first) / {again})
"""


class Site:
    """A directory with distributions, and for each contender a cache that knows it."""

    def __init__(self, root: Path, size: int) -> None:
        self.directory = root / "site"
        self._root = root
        self._numbers = itertools.count(size)
        self._caches = itertools.count()
        self.directory.mkdir(parents=True)
        for number in range(size):
            self._install(number, with_points=number % 3 == 0, with_group=number % (size // PLUGINS) == 0)

    def add_one(self) -> None:
        """Install one more distribution, of another group."""
        self._install(next(self._numbers), with_points=True, with_group=False)

    def cache(self, contender: str) -> Path:
        return self._root / "cache" / contender

    def no_cache(self) -> Path:
        """Return a cache directory that nobody has used."""
        return self._root / "cold" / str(next(self._caches))

    def _install(self, number: int, *, with_points: bool, with_group: bool) -> None:
        name, version = f"dist_{number}", f"1.{number % 7}"
        info = self.directory / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n" + "What it is.\n" * 40)
        (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n")
        if with_points or with_group:
            group = f"[{GROUP}]\n{name} = {name}:Plugin\n" if with_group else ""
            (info / "entry_points.txt").write_text(f"[console_scripts]\n{name} = {name}:main\n{group}")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text(f"{name}.py,,\n")


def look(contender: str, site: Path, cache: Path, *, imported: bool = False) -> tuple[float, float]:
    """Return the seconds of the first look of a new process, and of one of the following."""
    host, import_, expression = CONTENDERS[contender]
    program = _PROGRAM.format(
        host=host,
        before=import_ if imported else "",
        inside="" if imported else import_,
        site=str(site),
        look=expression,
        again=_AGAIN,
        plugins=PLUGINS,
    )
    # Byte code of our own modules, as an installation has it; isolated, so that the directory this is started from is not part of the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"XDG_CACHE_HOME": str(cache)}
    found = subprocess.run([sys.executable, "-I", "-c", program], env=environment, capture_output=True, text=True, check=True)
    first, again = map(float, found.stdout.split())
    return first, again


@attrs.frozen
class Figure:
    """What one process is started to measure: the first look, or, with ``again``, the mean of those that follow."""

    row: str
    contender: str
    measure: Callable[[], float]


def figures(size: int, site: Site, growing: Site) -> Iterator[Figure]:
    """Return what is measured among so many distributions; to ``growing`` one more is added before each sample."""

    def added(contender: str) -> float:
        growing.add_one()
        return look(contender, growing.directory, growing.cache(contender))[0]

    for contender in CONTENDERS:
        known = functools.partial(look, contender, site.directory, site.cache(contender))
        yield Figure(f"{size:,}: first look", contender, lambda known=known: known()[0])
        yield Figure(f"{size:,}: first look, imports done", contender, lambda known=known: known(imported=True)[0])
        yield Figure(f"{size:,}: again", contender, lambda known=known: known()[1])
        yield Figure(f"{size:,}: one added", contender, functools.partial(added, contender))
        yield Figure(
            f"{size:,}: nothing cached", contender, lambda contender=contender: look(contender, site.directory, site.no_cache())[0]
        )


def sample(measured: Sequence[Figure], rounds: int) -> list[Samples]:
    """Take one sample of each figure per round, in an order drawn anew: the harness, for what cannot be repeated within a sample."""
    order = random.Random(0)
    seconds: dict[Figure, list[float]] = {figure: [] for figure in measured}
    for _ in range(rounds):
        for figure in order.sample(measured, len(measured)):
            seconds[figure].append(figure.measure())
    return [
        Samples(Case(figure.row, figure.contender, lambda count, figure=figure: sum(figure.measure() for _ in range(count))), tuple(taken))
        for figure, taken in seconds.items()
    ]


@contextlib.contextmanager
def prepared() -> Iterator[list[Figure]]:
    """Make the distributions, let every contender know them, and remove all of it at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-discovery-") as root:
        made = [(size, Site(Path(root, f"{size}"), size), Site(Path(root, f"{size}-growing"), size)) for size in SIZES]
        for _ in range(2):  # the index trusts what it has read a second time, when no clock can hide a change any more
            for _size, *pair in made:
                for site in pair:
                    for contender in CONTENDERS:
                        look(contender, site.directory, site.cache(contender))
            time.sleep(SETTLED_NS / 1e9)
        yield [figure for size, site, growing in made for figure in figures(size, site, growing)]


def run() -> int:
    """Measure and print."""
    asked = options(__doc__, default_rounds=_ROUNDS)
    with prepared() as measured:
        report = compare("Entry points of one group", "blackhole", sample(measured, asked.rounds), TARGETS)
    lost = [row for row in report.slower() if not row.endswith(("nothing cached", "again"))]
    return publish(report.document(), to=asked.json, check=asked.check, lost=lost)


if __name__ == "__main__":
    raise SystemExit(run())
