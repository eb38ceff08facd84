"""The index says what ``importlib.metadata`` says, after every step of whatever is done to the directories."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blackhole_core.registry.index import DiscoveryIndex
from blackhole_core.registry.indexfile import IndexFiles
from tests.unit.registry.sites import Clock, CoarseTime, asked_of_index, asked_of_python, install, points_text, uninstall

NAMES = ("alpha", "Beta_b", "beta.b", "gamma")
VERSIONS = ("1.0", "2.0")
STYLES = ("whole", "whole", "bare", "egg", "half")
SECOND = 1_000_000_000


class World:
    """Two directories, one index and its files; each method is one thing that may happen."""

    def __init__(self, root: Path, chance: random.Random, *, deep: bool, coarse: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance, self.deep = chance, deep
        self.sites = [root / "sites" / "first", root / "sites" / "second"]
        for site in self.sites:
            site.mkdir(parents=True)
        self.path = list(self.sites)
        self.clock = Clock()
        self.files = IndexFiles(str(root / "cache" / "blackhole"), "this machine")
        self.index = self._new_index()
        self.time = None if coarse is None else CoarseTime(root / "sites", self.clock, coarse)
        if self.time is not None:
            self.time.install(monkeypatch)

    def _new_index(self) -> DiscoveryIndex:
        return DiscoveryIndex(self.files, deep=self.deep, clock=self.clock)

    def step(self) -> None:
        self.chance.choice(self.STEPS)(self)
        if self.time is not None:
            self.time.touch()

    def _points(self) -> dict[str, dict[str, str]] | None:
        groups = self.chance.choice([(), ("g",), ("h",), ("g", "h"), None])
        if groups is None:
            return None
        return {group: {f"p{self.chance.randrange(3)}": f"m{self.chance.randrange(99)}:x [e]"} for group in groups}

    def _infos(self) -> list[Path]:
        return sorted(info for site in self.sites for info in site.glob("*-info"))

    def install(self) -> None:
        site, name, version = self.chance.choice(self.sites), self.chance.choice(NAMES), self.chance.choice(VERSIONS)
        for info in site.glob(f"{name}-{version}.*"):
            uninstall(info)
        install(site, name, version, self._points(), style=self.chance.choice(STYLES))

    def install_many(self) -> None:
        for number in range(8):  # so many that they are worth a file
            if not list(self.sites[0].glob(f"many{number}-*")):
                install(self.sites[0], f"many{number}", points={"g": {f"many{number}": "m"}} if number % 3 == 0 else None)

    def uninstall(self) -> None:
        for info in self._infos()[: self.chance.randrange(3)]:
            uninstall(info)

    def reinstall(self) -> None:
        """Replace a distribution by one of the same name and version, as ``pip install --force-reinstall`` does."""
        infos = self._infos()
        if infos:
            info = self.chance.choice(infos)
            name, version = info.name.rpartition(".")[0].split("-")
            uninstall(info)
            install(info.parent, name, version, self._points(), style="egg" if info.suffix == ".egg-info" else "whole")

    def finish(self) -> None:
        """Go on with an installation that is half done."""
        for info in self._infos():
            if info.suffix == ".dist-info" and not (info / "RECORD").exists():
                points = self._points()
                if points is not None:
                    (info / "entry_points.txt").write_text(points_text(points))
                (info / "INSTALLER").write_text("pip\n")
                if self.chance.random() < 0.5:
                    (info / "RECORD").write_text("")
                return

    def edit(self) -> None:
        """Write an ``entry_points.txt`` in place: of a plugin of the group, or of what is compared at every look."""
        infos = [info for info in self._infos() if self.deep or self._is_compared(info)]
        if infos:
            (self.chance.choice(infos) / "entry_points.txt").write_text(points_text(self._points() or {}))

    def _is_compared(self, info: Path) -> bool:
        file = info / "entry_points.txt"
        if info.suffix == ".egg-info" or not (info / "RECORD").exists():
            return True
        return file.exists() and "[g]" in file.read_text()

    def remove_points(self) -> None:
        for info in self._infos():
            if self._is_compared(info) and (info / "entry_points.txt").exists():
                (info / "entry_points.txt").unlink()
                return

    def change_path(self) -> None:
        self.path = self.chance.sample([*self.sites, self.sites[0].parent / "gone"], self.chance.randint(1, 3))

    def wait(self) -> None:
        self.clock.now += self.chance.choice([SECOND // 1000, SECOND, 3 * SECOND, 5 * SECOND, 100 * SECOND])

    def restart(self) -> None:
        """Let a new process go on."""
        self.index = self._new_index()

    def spoil_a_file(self) -> None:
        for file in Path(self.files.directory).glob("*.[ia]*"):
            data = bytearray(file.read_bytes())
            place = self.chance.randrange(len(data))
            data[place] ^= 1 + self.chance.randrange(255)
            file.write_bytes(data[: self.chance.choice([len(data), place])])
        self.restart()

    STEPS: tuple[Callable[[World], None], ...] = (
        install, install, install_many, uninstall, reinstall, finish, edit, edit, remove_points, change_path, wait, wait, wait, restart, spoil_a_file,
    )  # fmt: skip


@pytest.mark.parametrize("deep", [False, True], ids=["on", "deep"])
@pytest.mark.parametrize("coarse", [False, True], ids=["real time", "two-second time"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), skew=st.sampled_from([0, -(10**15), 10**15, SECOND]))
def test_as_importlib_metadata_after_every_step(deep: bool, coarse: bool, seed: int, skew: int) -> None:
    """After any install, upgrade, removal, edit or change of the path, at any moment, in any process: the same entry points in the same order.

    Also where a file system has but two-second times by a clock that is wrong by days.
    """
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as monkeypatch:
        world = World(Path(root), random.Random(seed), deep=deep, coarse=skew if coarse else None, monkeypatch=monkeypatch)
        for _ in range(25):
            world.step()
            assert asked_of_index(world.index, "g", world.path) == asked_of_python("g", world.path)
