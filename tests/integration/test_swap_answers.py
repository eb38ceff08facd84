"""What answers before a swap, while it is made, and after it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from notes_api import hookimpl, release

import blackhole_core as bh
from blackhole_core.events import Event
from tests.integration.managed import LEVELS, Callers, manager, released, renumbered, wheel
from tests.plugins.build import plugin_dir


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["wheel", "directory"])
def test_every_part_of_the_new_version_answers(level: str, kind: str, tmp_path: Path) -> None:
    """S-17: sub-modules, imported early and late, by name and relatively, and package data are the new version's."""
    source = wheel if kind == "wheel" else plugin_dir
    with manager() as pm:
        pm.load("modplug", source=source("modplug", "1.0.0", tmp_path), isolation=level)
        assert pm.hook.version() == ["1.0.0"]
        pm.swap("modplug", source=source("modplug", "2.0.0", tmp_path))
        assert pm.hook.version() == ["2.0.0"]
        pm.rollback("modplug")
        assert pm.hook.version() == ["1.0.0"]


@pytest.mark.parametrize("level", LEVELS)
def test_hooks_of_the_new_version_appear_and_vanish_with_the_switch(level: str, tmp_path: Path) -> None:
    """A swap may change what a plugin answers."""
    tree = plugin_dir("upper", "1.0.0", tmp_path)
    code = tree / "notes_upper" / "__init__.py"
    text = code.read_text("utf-8").replace("def transform(self, text: str) -> str:\n        return text.upper()", "def total(self) -> int:\n        return 7")  # fmt: skip
    assert "def total" in text
    code.write_text(text, "utf-8")
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "2.0.0", tmp_path), isolation=level)
        assert (pm.hook.transform(text="a"), pm.hook.total()) == (["A!"], [])
        pm.swap("upper", source=tree)
        assert (pm.hook.transform(text="a"), pm.hook.total()) == ([], [7])
        pm.rollback("upper")
        assert (pm.hook.transform(text="a"), pm.hook.total()) == (["A!"], [])


def test_a_plugin_keeps_its_place_across_levels_and_versions(tmp_path: Path) -> None:
    """S-21: none → thread → process → none keeps state, order and wrappers."""
    with manager() as pm:

        class First:
            @hookimpl
            def add(self, amount: int) -> int:
                return -1

        class Last(First): ...

        class Around:
            @hookimpl(wrapper=True)
            def add(self, amount: int) -> Any:
                return [*(yield), "wrapped"]

        pm.register(First(), name="first")
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.register(Last(), name="last")
        pm.register(Around(), name="around")
        order = [impl.plugin_name for impl in pm.hook.add.get_hookimpls()]
        steps = [("thread", "1.0.0"), ("process", "2.0.0"), ("none", "2.0.0"), ("process", "1.0.0"), ("none", "1.0.0")]
        for count, (level, version) in enumerate(steps, start=1):
            assert pm.hook.add(amount=1) == [-1, count, -1, "wrapped"]
            pm.swap("counter", source=wheel("counter", version, tmp_path), isolation=level)
            assert pm.plugin("counter").isolation == level
            assert [impl.plugin_name for impl in pm.hook.add.get_hookimpls()] == order
        assert pm.hook.total() == [5]


def test_the_level_that_was_asked_for_stays(tmp_path: Path) -> None:
    """A swap that names no level keeps the one of ``load``, though the manifest says process."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="thread")
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        assert pm.plugin("counter").isolation == "thread"
        pm.swap("counter", isolation="none")
        assert pm.plugin("counter").isolation == "none"
        pm.rollback("counter")
        assert pm.plugin("counter").isolation == "thread"


@pytest.mark.parametrize("level", LEVELS)
def test_awaited_hooks_survive_swaps(level: str, tmp_path: Path) -> None:
    """S-01 from an event loop: no awaited call fails, and the loop is not blocked by a closed gate."""
    versions = {version: wheel("counter", version, tmp_path) for version in ("1.0.0", "2.0.0")}

    async def work(pm: bh.PluginManager) -> list[int]:
        counts: list[int] = []
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                counts.extend(await pm.ahook.add(amount=1))

        tasks = [asyncio.create_task(call()) for _ in range(8)]
        for version in ("2.0.0", "1.0.0") * 3:
            await asyncio.to_thread(pm.swap, "counter", source=versions[version])
        done.set()
        await asyncio.gather(*tasks)
        return counts

    with manager() as pm:
        pm.load("counter", source=versions["1.0.0"], isolation=level)
        counts = asyncio.run(work(pm))
        assert sorted(counts) == list(range(1, len(counts) + 1))


_ASKING = """
import blackhole_core as bh
from notes_api import hookimpl, release
from notes_asking import Asking

class Plugin(Asking):
    @hookimpl
    def transform(self, text: str) -> str:
        return "{version}"

    @hookimpl
    def ask(self, text: str) -> str:
        self.hook.add(amount=1)
        assert release.wait(20)
        return ",".join(self.hook.transform(text=text))

    @bh.hookimpl
    def plugin_export_state(self):
        return {{}}
"""


def _asking(version: str, tmp_path: Path) -> Path:
    tree = tmp_path / f"asking-{version}"
    tree.mkdir()
    (tree / "asking.py").write_text(_ASKING.format(version=version))
    (tree / "plugin.yaml").write_text(f"name: asking\nversion: {version}\nentry: asking:Plugin\n")
    return tree


class _Noting:
    """Notes that a plugin asks."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    @hookimpl
    def add(self, amount: int) -> int:
        self.begun.set()
        return amount


@pytest.mark.parametrize("level", ["none", "thread"])
def test_a_call_that_is_waited_for_calls_what_was_swapped_meanwhile(level: str, tmp_path: Path) -> None:
    """S-02: it passes the closed gate of its own plugin, whose old version it runs, and of another one it runs the version that serves."""
    noting, draining = _Noting(), threading.Event()
    with released(), ThreadPoolExecutor(2) as pool, manager() as pm:
        pm.on_event(lambda event: draining.set() if event.data.get("phase") == "export" else None)
        pm.register(noting)
        pm.load("asking", source=_asking("1.0.0", tmp_path), isolation=level)
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation=level)
        call = pool.submit(pm.hook.ask, text="hi")
        assert noting.begun.wait(20)
        swap = pool.submit(pm.swap, "asking", source=_asking("2.0.0", tmp_path))
        assert draining.wait(20)
        assert not pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path)).retiring
        release.set()
        assert call.result(20) == ["HI!,1.0.0"]
        assert swap.result(20).ok
        assert pm.hook.transform(text="hi") == ["HI!", "2.0.0"]


def test_a_call_that_is_not_waited_for_stays_with_its_version_while_the_gate_is_closed(tmp_path: Path) -> None:
    """S-10: with ``force`` the new version may be behind the hooks already; what runs on the old one does not meet it there."""
    noting = _Noting()
    with released(), ThreadPoolExecutor(1) as pool, manager() as pm:
        pm.register(noting)
        pm.load("asking", source=_asking("1.0.0", tmp_path), isolation="none")
        call = pool.submit(pm.hook.ask, text="hi")
        assert noting.begun.wait(20)
        answers = []

        def at_the_switch(event: Event) -> None:
            if event.name == "plugin.phase" and event.data["before"] == "draining":
                release.set()
                answers.append(call.result(20))

        pm.on_event(at_the_switch)
        assert pm.swap("asking", source=_asking("2.0.0", tmp_path), timeout=0.05, force=True).ok
        assert answers == [["1.0.0"]]
        assert pm.hook.transform(text="hi") == ["2.0.0"]


@pytest.mark.parametrize("level", LEVELS)
def test_historic_calls_reach_a_new_version_without_state(level: str, tmp_path: Path) -> None:
    """What was told the old version once is told the new one before it serves: it has no other way to know."""
    with manager() as pm:
        pm.hook.started.call_historic(kwargs={"name": "ada"})
        pm.load("full", source=wheel("full", "1.0.0", tmp_path), isolation=level)
        assert pm.hook.pick(text="ada") == "ada has started"
        pm.swap("full", source=wheel("full", "2.0.0", tmp_path))
        assert pm.hook.pick(text="ada") == "ada has started"
        assert pm.hook.pick(text="bob") is None


@pytest.mark.parametrize("level", ["none", "thread"])
def test_wrappers_stay_around_what_is_swapped(level: str, tmp_path: Path) -> None:
    """New-style and old-style wrappers in a plugin, while what they wrap is replaced, and are replaced themselves."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation=level)
        pm.load("wrapper", source=wheel("wrapper", "1.0.0", tmp_path), isolation=level)
        assert pm.hook.transform(text="hi") == ["([HI])"]
        with Callers(2, lambda: pm.hook.transform(text="hi")) as callers:
            pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))
            pm.swap("wrapper", source=renumbered("wrapper", "1.0.0", "1.1.0", tmp_path))
        assert callers.failures == []
        assert {answer for [answer] in callers.answers} <= {"([HI])", "([HI!])"}
        assert pm.hook.transform(text="hi") == ["([HI!])"]


def test_a_wrapper_cannot_be_moved_into_a_process(tmp_path: Path) -> None:
    """It is refused with its reason, at load and at swap."""
    with manager() as pm:
        with pytest.raises(bh.LoadFailed, match="generator implementation"):
            pm.load("wrapper", source=wheel("wrapper", "1.0.0", tmp_path), isolation="process")
        pm.load("wrapper", source=wheel("wrapper", "1.0.0", tmp_path), isolation="none")
        with pytest.raises(bh.SwapFailed, match="generator implementation") as caught:
            pm.swap("wrapper", isolation="process")
        assert caught.value.phase == "load"
        assert pm.plugin("wrapper").isolation == "none"
