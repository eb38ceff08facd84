"""The rules of a swap: who may ask for it, what changes, what stays, and the way back."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from notes_api import hookimpl, release

import blackhole_core as bh
from blackhole_core.events import Event
from tests.integration.managed import LEVELS, Callers, Log, manager, released, wheel
from tests.plugins.build import build_wheel, install_plugin, plugin_dir
from tests.stage import eventually

# --- who may ask ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_call_that_swaps_its_own_plugin_is_refused(level: str, tmp_path: Path) -> None:
    """A call cannot wait for its own end: the error says so, at once, and the call goes on. From a worker it comes through a callback."""
    with manager() as pm:

        class Swapper:
            """Answers the plugin's callback, on the thread of the outer call."""

            @hookimpl
            def transform(self, text: str) -> str:
                with pytest.raises(bh.SwapFailed, match="from inside a call") as caught:
                    pm.swap("asker", source=new)
                return f"refused in {caught.value.phase}"

        pm.load("asker", source=wheel("asker", "1.0.0", tmp_path), isolation=level)
        new = _renumbered("asker", "1.0.0", "1.1.0", tmp_path)
        pm.register(Swapper())
        [answer] = pm.hook.ask(text="transform:hi")
        assert "refused in" in answer
        assert pm.swap("asker", source=new).to_version == "1.1.0"


@pytest.mark.parametrize("level", LEVELS)
def test_a_request_that_swaps_or_unloads_its_own_plugin_is_refused(level: str, tmp_path: Path) -> None:
    """The same for ``execute``."""
    tree = _handler_tree(tmp_path)
    with manager() as pm:
        refused: list[str] = []

        class Meddler:
            @hookimpl
            def transform(self, text: str) -> str:
                for action in (lambda: pm.unload("upper"), lambda: pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))):
                    try:
                        action()
                    except bh.BlackholeError as error:
                        refused.append(str(error))
                return text

        pm.load("upper", source=tree, isolation=level)
        pm.register(Meddler())
        assert pm.execute("upper", "call_back") == "done"
        assert len(refused) == 2
        assert all("from inside a call" in sentence for sentence in refused)
        assert pm.execute("upper") == "here"


@pytest.mark.parametrize("operation", ["swap", "unload", "reload", "rollback", "export_state"])
def test_two_operations_at_once_are_refused(operation: str, tmp_path: Path) -> None:
    """S-13: while a swap is under way, another operation on the plugin is refused by name; a plugin beside it is not concerned."""
    other = wheel("counter", "2.0.0", tmp_path)
    caught: list[BaseException] = []

    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="none")

        def meddle(event: bh.Event) -> None:
            if event.name == "swap.phase" and event.plugin == "counter" and event.data["phase"] == "load":
                thread = threading.Thread(target=lambda: attempt())
                thread.start()
                thread.join()
                pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))

        def attempt() -> None:
            with pytest.raises(bh.SwapInProgress, match="a swap is in progress") as error:
                {
                    "swap": lambda: pm.swap("counter", source=other),
                    "unload": lambda: pm.unload("counter"),
                    "reload": lambda: pm.reload("counter"),
                    "rollback": lambda: pm.rollback("counter"),
                    "export_state": lambda: pm.export_state("counter"),
                }[operation]()
            caught.append(error.value)

        pm.on_event(meddle)
        assert pm.swap("counter", source=other).ok
        assert len(caught) == 1
        assert pm.hook.transform(text="hi") == ["HI!"]


def test_a_listener_that_swaps_the_plugin_being_swapped_is_refused(tmp_path: Path) -> None:
    """S-13: on the very thread of the swap as well, and it does not wait for itself."""
    caught: list[BaseException] = []
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))

        def meddle(event: bh.Event) -> None:
            if event.name == "swap.phase" and event.data["phase"] == "switch":
                for action in (lambda: pm.swap("upper", source=wheel("upper", "1.0.0", tmp_path)), pm.close):
                    try:
                        action()
                    except (bh.SwapInProgress, RuntimeError) as error:
                        caught.append(error)

        pm.on_event(meddle)
        assert pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path)).ok
        assert [type(error) for error in caught] == [bh.SwapInProgress, RuntimeError]
        assert "cannot be closed from inside a swap of plugin upper" in str(caught[1])
        assert pm.hook.transform(text="hi") == ["HI!"]


@pytest.mark.parametrize("level", LEVELS)
def test_closing_waits_for_a_swap_and_lets_none_begin(level: str, tmp_path: Path) -> None:
    """F30: the swap under way ends one way or the other; everything it started is gone afterwards (the leak check looks)."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        new = wheel("counter", "2.0.0", tmp_path)
        loading, closing, outcome = threading.Event(), threading.Event(), []

        def hold(event: bh.Event) -> None:
            if event.name == "swap.phase" and event.data["phase"] == "load":
                loading.set()
                closing.wait(10)

        pm.on_event(hold)

        def swap() -> None:
            try:
                outcome.append(pm.swap("counter", source=new))
            except bh.BlackholeError as error:
                outcome.append(error)

        thread = threading.Thread(target=swap)
        thread.start()
        assert loading.wait(10)
        closing.set()
        pm.close()
        thread.join(30)
        [report] = outcome
        assert isinstance(report, bh.SwapReport)
        assert pm.get_plugins() == set()
        with pytest.raises(RuntimeError, match="closed"):
            pm.swap("counter", source=new)


def test_a_plugin_that_does_not_run_cannot_be_swapped(tmp_path: Path) -> None:
    """The sentence says what to do instead."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        pm.unload("upper")
        with pytest.raises(bh.SwapFailed, match="is not running \\(phase stopped\\); load it instead"):
            pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))
        with pytest.raises(bh.UnknownPlugin):
            pm.swap("unheard-of", "1.0.0")


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_version_and_code_is_a_no_op(level: str, tmp_path: Path) -> None:
    """S-14: nothing is started, and the report says so."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        before = pm.get_plugin("counter")
        report = pm.swap("counter", source=wheel("counter", "1.0.0", tmp_path))
        assert report.unchanged
        assert pm.get_plugin("counter") is before
        assert pm.plugin("counter").generation == 1


def test_a_version_that_is_not_there_fails_in_prepare(tmp_path: Path) -> None:
    """The versions that are there are named."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        with pytest.raises(bh.SwapFailed, match=r"9\.0\.0") as caught:
            pm.swap("upper", "9.0.0")
        assert caught.value.phase == "prepare"


# --- what answers --------------------------------------------------------------------------------------------------------


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

class Plugin:
    @bh.hookimpl
    def plugin_start(self, context):
        self.hook = context.hook

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
            pm.swap("wrapper", source=_renumbered("wrapper", "1.0.0", "1.1.0", tmp_path))
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


# --- what is left --------------------------------------------------------------------------------------------------------


def test_the_old_generation_can_be_collected(tmp_path: Path) -> None:
    """S-18: at level none nothing of ours keeps the old version's object, class or modules."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        plugin = pm.get_plugin("counter")
        seen = [weakref.ref(plugin), weakref.ref(type(plugin)), weakref.ref(sys.modules[type(plugin).__module__])]
        pm.hook.add(amount=1)
        del plugin
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        gc.collect()
        assert [reference() for reference in seen] == [None, None, None]


@pytest.mark.parametrize(("level", "swaps"), [("none", 200), ("thread", 200), ("process", 30)])
def test_many_swaps_grow_nothing(level: str, swaps: int, tmp_path: Path) -> None:
    """S-15: threads, descriptors, children, modules, files, and at most 5 % of memory."""
    wheels = [wheel("counter", version, tmp_path) for version in ("2.0.0", "1.0.0")]
    with manager() as pm:
        pm.load("counter", source=wheels[1], isolation=level)

        def swap(times: int) -> None:
            for number in range(times):
                pm.swap("counter", source=wheels[number % 2])
                pm.hook.add(amount=1)

        swap(swaps // 4 * 2)
        gc.collect()
        before, memory = _counts(pm), _resident()
        swap(swaps // 2)
        gc.collect()
        assert _resident() <= 1.05 * memory
        assert eventually(lambda: not _more(before, _counts(pm))), _more(before, _counts(pm))


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return what there is more of. A thread that has done its work, as that which undoes leases has, may take a moment to end: then, or now."""
    return {name: count for name, count in after.items() if count > before[name]}


def _resident() -> int:
    """Return how much memory this process has, in kB."""
    return int(Path("/proc/self/status").read_text("ascii").split("VmRSS:")[1].split()[0])


def _counts(pm: bh.PluginManager) -> dict[str, int]:
    children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text("ascii").split()
    store = pm.registry.store.root
    return {
        # That of the timers is there from when it is first needed: by a look for leaks that a busy machine puts off, for one.
        "threads": threading.active_count() + all(thread.name != "blackhole-timers" for thread in threading.enumerate()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": len(children),
        "modules": len(sys.modules),
        "files": len(list(store.rglob("*"))),
        "path": len(sys.path),
        "finders": len(sys.meta_path),
    }


# --- dependants, the way back --------------------------------------------------------------------------------------------


def test_a_version_that_a_dependant_cannot_use_is_refused(tmp_path: Path) -> None:
    """S-20: ``needs_counter`` wants counter below 2."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.load("needs_counter", source=wheel("needs_counter", "1.0.0", tmp_path), isolation="none")
        with pytest.raises(bh.SwapFailed, match="needs.counter needs counter >=1,<2") as caught:
            pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        assert caught.value.phase == "prepare"
        assert isinstance(caught.value.cause, bh.DependencyError)


@pytest.mark.parametrize("level", LEVELS)
def test_a_rollback_goes_back_with_the_state_of_now_and_a_second_one_forward_again(level: str, tmp_path: Path) -> None:
    """State is migrated down, then up; nothing counted since is lost."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=1)
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        pm.hook.add(amount=1)
        for count, version in ((3, "1.0.0"), (4, "2.0.0"), (5, "1.0.0")):
            report = pm.rollback("counter")
            assert (report.to_version, report.state_lost) == (version, None)
            assert pm.hook.add(amount=1) == [count]


def test_without_a_swap_there_is_nothing_to_roll_back_to(tmp_path: Path) -> None:
    """The sentence says so."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        with pytest.raises(bh.SwapFailed, match="nothing to roll back to"):
            pm.rollback("upper")


def _forgetful(tmp_path: Path) -> Path:
    """Return a counter with state version 2 that says it migrates from 1, and cannot go back."""
    tree = plugin_dir("counter", "2.0.0", tmp_path / "forgetful")
    code = tree / "notes_counter" / "__init__.py"
    text = code.read_text("utf-8").replace('            return {"count": state["total"]}', '            raise ValueError("no way back")')
    code.write_text(text, "utf-8")
    return tree


@pytest.mark.parametrize("level", LEVELS)
def test_a_rollback_without_a_way_back_is_refused_unless_forced(level: str, tmp_path: Path) -> None:
    """S-07: forced, the old version gets the state it had handed over, and the report says that later updates are lost."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        pm.swap("counter", source=_forgetful(tmp_path))
        pm.hook.add(amount=1)
        with pytest.raises(bh.SwapFailed, match="no way back") as caught:
            pm.rollback("counter")
        assert caught.value.phase == "import"
        assert (pm.hook.total(), pm.hook.version()) == ([6], ["2.0.0"])
        report = pm.rollback("counter", force=True)
        assert report.state_lost is not None
        assert "counter@1.0.0 handed over before" in report.state_lost
        assert (pm.hook.total(), pm.hook.version()) == ([5], ["1.0.0"])


def _stateless(tmp_path: Path) -> Path:
    """Return a counter 2.0.0 that neither gives nor takes state."""
    tree = plugin_dir("counter", "2.0.0", tmp_path / "stateless")
    code = tree / "notes_counter" / "__init__.py"
    text = code.read_text("utf-8")
    for contract in ("plugin_export_state", "plugin_import_state", "plugin_migrate_state"):
        text = text.replace(f"    @bh.hookimpl\n    def {contract}", f"    def {contract}")
    code.write_text(text.replace("state: {version: 2, migrates: [1]}", ""), "utf-8")
    return tree


@pytest.mark.parametrize("level", LEVELS)
def test_state_that_the_new_version_does_not_take_is_kept_and_given_back(level: str, tmp_path: Path) -> None:
    """State is never dropped unsaid: it is a snapshot, the report names it, and a rollback gives it back."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        report = pm.swap("counter", source=_stateless(tmp_path))
        [kept] = pm.state.versions("counter")
        assert report.state_lost == f"counter@2.0.0 takes no state; what counter@1.0.0 had is kept as snapshot {kept.id}"
        assert pm.hook.add(amount=1) == [1]
        report = pm.rollback("counter")
        assert report.state_lost is not None
        assert "counter@2.0.0 gives no state" in report.state_lost
        assert (pm.hook.version(), pm.hook.total()) == (["1.0.0"], [5])


@pytest.mark.parametrize("level", LEVELS)
def test_what_pip_installed_over_a_running_version_is_swapped_in(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip install -U`` beside a running host, then ``pm.swap(name)``: no restart. The overwritten version cannot come back, and that is said."""
    site = tmp_path / "site"
    install_plugin("counter", "1.0.0", site)
    monkeypatch.syspath_prepend(str(site))
    with manager() as pm:
        pm.load("counter", isolation=level)
        assert pm.hook.add(amount=5) == [5]
        install_plugin("counter", "2.0.0", site)
        assert pm.hook.version() == ["1.0.0"]
        report = pm.swap("counter")
        assert (report.from_version, report.to_version) == ("1.0.0", "2.0.0")
        assert (pm.hook.version(), pm.hook.total()) == (["2.0.0"], [5])
        with pytest.raises(bh.SwapFailed, match="is not at .* any more"):
            pm.rollback("counter")
        assert (pm.hook.version(), pm.hook.total()) == (["2.0.0"], [5])


# --- events --------------------------------------------------------------------------------------------------------------


def test_the_phases_are_told_in_order_and_timed(tmp_path: Path) -> None:
    """What a progress display lives on."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        report = pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        phases = list(dict.fromkeys(event.data["phase"] for event in log.of("swap.phase")))
        assert phases == ["prepare", "load", "export", "import", "switch", "cleanup"] == list(report.phases)
        assert all(seconds > 0 for seconds in report.phases.values())
        assert log.of("swap.done")[0].data["report"]["to_version"] == "2.0.0"
        assert log.of("swap.failed") == []


# --- trees ---------------------------------------------------------------------------------------------------------------


def _renumbered(name: str, version: str, wanted: str, tmp_path: Path) -> Path:
    """Return a wheel of the plugin with another version number and nothing else changed."""
    tree = plugin_dir(name, version, tmp_path / wanted)
    for path in tree.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text("utf-8").replace(version, wanted), "utf-8")
    return build_wheel(tree, tmp_path / wanted / "dist")


def _handler_tree(tmp_path: Path) -> Path:
    """Return an ``upper`` that answers ``execute``, and calls its host back when asked to."""
    tree = plugin_dir("upper", "1.0.0", tmp_path)
    code = tree / "notes_upper" / "__init__.py"
    code.write_text(
        "import blackhole_core as bh\n\n\n"
        "class Upper:\n"
        "    @bh.hookimpl\n"
        "    def plugin_start(self, context):\n"
        "        self.hook = context.hook\n\n"
        "    @bh.hookimpl\n"
        "    def plugin_handle(self, request):\n"
        "        if request['method'] == 'call_back':\n"
        "            self.hook.transform(text='x')\n"
        "            return 'done'\n"
        "        return 'here'\n",
        "utf-8",
    )
    return tree
