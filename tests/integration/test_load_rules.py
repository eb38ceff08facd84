"""Load is all or nothing; one bad plugin never stops the others."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from tests import leaks
from tests.integration.managed import LEVELS, Log, manager, released, running_functions, wheel
from tests.plugins.build import install_plugin, plugin_dir

BAD = [
    ("raises_at_import", "1.0.0", "RuntimeError"),
    ("exits_at_import", "1.0.0", "5"),
    ("needs_unknown", "1.0.0", "nowhere"),
    ("counter", "2.2.0", "import raised, on purpose"),
    ("counter", "2.3.0", "sick"),
    ("counter", "2.5.0", "notes_counter/__init__.py"),
    ("counter", "2.6.0", "plugin_start raised, on purpose"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("name", "version", "words"), BAD)
def test_a_plugin_that_cannot_start_leaves_nothing_and_is_listed(level: str, name: str, version: str, words: str, tmp_path: Path) -> None:
    """H-05: no registration, thread, process, module or descriptor; FAILED with its reason."""
    log = Log()
    with manager({"zygote": "off"}, log=log) as pm:  # else another worker is forked ahead in the place of the one that was used
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation=level)  # so that what is shared by all plugins is there
        pm.parts.timers.after(3600.0, lambda: None)  # its thread as well: the first call to a worker starts it
        before = leaks.take_census()
        with pytest.raises(bh.LoadFailed) as caught:
            pm.load(name, source=wheel(name, version, tmp_path), isolation=level)
        assert words in str(caught.value)
        assert leaks.settle(before, leaks.GRACE) == []
        assert not pm.has_plugin(name)
        plugin = pm.plugin(name)
        assert plugin.phase is bh.Phase.FAILED
        assert (plugin.isolation, plugin.generation, plugin.pid) == (None, None, None)
        assert words in str(plugin.last_error)
        [failed] = log.of("plugin.failed")
        assert words in failed.data["reason"]
        assert pm.hook.transform(text="hi") == ["HI"]


@pytest.mark.parametrize("level", ["thread", "process"])
@pytest.mark.leaks("at level thread a hung import ends only when the test lets it go")
def test_a_plugin_that_never_gets_ready_is_given_up(level: str, tmp_path: Path) -> None:
    """H-06: after ``start_timeout``, with its whole tree."""
    with released(), manager({"start_timeout": 1, "stop_grace": 0.3}) as pm:
        with pytest.raises(bh.LoadFailed):
            pm.load("hangs_at_import", source=wheel("hangs_at_import", "1.0.0", tmp_path), isolation=level)
        assert pm.plugin("hangs_at_import").phase is bh.Phase.FAILED


def test_an_impossible_manifest_is_refused_with_every_problem_and_listed(tmp_path: Path) -> None:
    """A47: nothing is imported; all five problems are there; the plugin is listed as FAILED."""
    with manager() as pm:
        with pytest.raises(bh.ManifestError) as caught:
            pm.load("bad_manifest", source=plugin_dir("bad_manifest", "1.0.0", tmp_path))
        assert len(caught.value.problems) == 5
        assert pm.plugin("bad_manifest").phase is bh.Phase.FAILED


def test_a_failed_plugin_can_be_tried_again_after_the_fix(tmp_path: Path) -> None:
    """The reason goes with the success."""
    tree = plugin_dir("counter", "2.6.0", tmp_path)
    with manager() as pm:
        with pytest.raises(bh.LoadFailed):
            pm.load("counter", source=tree, isolation="none")
        code = tree / "notes_counter" / "__init__.py"
        code.write_text(code.read_text("utf-8").replace('raise RuntimeError("plugin_start raised, on purpose")', "pass"), "utf-8")
        assert pm.reload("counter") is None
        counter = pm.plugin("counter")
        assert (counter.phase, counter.last_error, counter.isolation) == (bh.Phase.RUNNING, None, "none")
        assert pm.hook.add(amount=1) == [1]


def test_one_bad_plugin_of_fifty_stops_no_other(tmp_path: Path) -> None:
    """H-07: 49 serve, the report names one with its reason."""
    for number in range(49):
        _copy("upper", f"upper{number}", tmp_path / "plugins")
    plugin_dir("raises_at_import", "1.0.0", tmp_path / "plugins")
    with manager({"sources": [str(path.parent) for path in (tmp_path / "plugins").rglob("pyproject.toml")]}) as pm:
        report = pm.load_all()
        assert len(report.loaded) == 49
        assert list(report.failed) == ["raises_at_import"]
        assert not report.ok
        assert "49 loaded, 1 failed" in str(report)
        assert pm.hook.transform(text="hi") == ["HI"] * 49
        assert {plugin.phase for plugin in pm.plugins()} == {bh.Phase.RUNNING, bh.Phase.FAILED}


def _copy(name: str, as_name: str, out: Path) -> Path:
    """Copy the tree of ``name`` 1.0.0 under another name."""
    tree = plugin_dir(name, "1.0.0", out / as_name)
    (tree / f"notes_{name}").rename(tree / f"notes_{as_name}")
    project = tree / "pyproject.toml"
    text = project.read_text("utf-8").replace(f"notes-{name}", f"notes-{as_name}").replace(f"notes_{name}", f"notes_{as_name}")
    project.write_text(text.replace(f"\n{name} =", f"\n{as_name} ="), "utf-8")
    return tree


def test_load_all_loads_again_what_is_not_loaded_only(tmp_path: Path) -> None:
    """A second call picks up what came since and leaves alone what runs."""
    with manager({"sources": [str(tmp_path / "dist")]}) as pm:
        wheel("upper", "1.0.0", tmp_path / "dist")
        assert pm.load_all().loaded == ("upper",)
        before = pm.get_plugin("upper")
        wheel("full", "1.0.0", tmp_path / "dist")
        assert pm.load_all().loaded == ("full",)
        assert pm.get_plugin("upper") is before


def test_the_highest_of_several_versions_is_loaded_or_the_one_that_is_named(tmp_path: Path) -> None:
    """The configuration's word counts for ``load``, ``load_all`` and a swap that names nothing; a version that is named wins."""
    for version in ("1.0.0", "2.0.0"):
        wheel("upper", version, tmp_path / "dist")
    sources = {"sources": [str(tmp_path / "dist")]}
    with manager(sources) as pm:
        assert str(pm.load("upper").id) == "upper@2.0.0"
        assert pm.swap("upper", "1.0.0").to_version == "1.0.0"
        assert pm.swap("upper").to_version == "2.0.0"
    for load in (lambda pm: pm.load("upper"), lambda pm: pm.load_all()):
        with manager({**sources, "plugins": {"upper": {"version": "1.0.0"}}}) as pm:
            load(pm)
            assert str(pm.plugin("upper").id) == "upper@1.0.0"
            assert pm.swap("upper").unchanged
            assert pm.swap("upper", "2.0.0").to_version == "2.0.0"


@pytest.mark.parametrize(
    ("config", "loaded"),
    [
        ({"deny": ["upp*"]}, ("full",)),
        ({"allow": ["upper"]}, ("upper",)),
        ({"allow": ["*"], "deny": ["full"]}, ("upper",)),
        ({"safe_mode": True}, ()),
        ({"plugins": {"full": {"enabled": False}}}, ("upper",)),
    ],
)
def test_the_operator_says_what_may_be_loaded(config: dict[str, Any], loaded: tuple[str, ...], tmp_path: Path) -> None:
    """What is not wanted is no failure, and nothing of it runs."""
    for name in ("upper", "full"):
        wheel(name, "1.0.0", tmp_path / "dist")
    with manager({"sources": [str(tmp_path / "dist")], **config}) as pm:
        report = pm.load_all()
        assert (report.loaded, report.ok) == (loaded, True)
        assert {plugin.name for plugin in pm.plugins() if plugin.phase is bh.Phase.RUNNING} == set(loaded)


def test_a_denied_plugin_is_refused_by_name_too(tmp_path: Path) -> None:
    """The sentence names the pattern."""
    with manager({"deny": ["upp*"]}) as pm, pytest.raises(bh.LoadFailed, match=r"denied by the host's configuration \(deny: upp\*\)"):
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))


def test_a_name_that_two_plugins_claim_is_given_to_neither(tmp_path: Path) -> None:
    """Both are named."""
    site = tmp_path / "site"
    install_plugin("twin_a", "1.0.0", site)
    install_plugin("twin_b", "1.0.0", site)
    sys.path.insert(0, str(site))
    try:
        with manager() as pm:
            report = pm.load_all()
            [error] = report.failed.values()
            assert isinstance(error, bh.NameClash)
            assert len(set(error.claimants)) == 2
            assert not pm.has_plugin("twin")
            assert pm.plugin("twin").phase is bh.Phase.FAILED
    finally:
        sys.path.remove(str(site))


def test_dependencies_start_first_and_stop_last(tmp_path: Path) -> None:
    """The order of start is the order of need; the end goes the other way."""
    log = Log()
    for name in ("needs_counter", "counter"):
        wheel(name, "1.0.0", tmp_path / "dist")
    with manager(
        {"sources": [str(tmp_path / "dist")], "plugins": {n: {"isolation": "none"} for n in ("counter", "needs_counter")}}, log=log
    ) as pm:
        assert pm.load_all().loaded == ("counter", "needs_counter")
        with pytest.raises(bh.DependencyError, match="needs.counter needs it"):
            pm.unload("counter")
    assert [event.plugin for event in log.of("plugin.unloaded")] == ["needs_counter", "counter"]


def test_a_cycle_and_what_is_missing_are_explained(tmp_path: Path) -> None:
    """Every plugin that cannot start says why; the others start."""
    names = ("cycle_a", "cycle_b", "needs_unknown", "needs_counter", "upper")
    for name in names:
        wheel(name, "1.0.0", tmp_path / "dist")
    wheel("counter", "2.0.0", tmp_path / "dist")
    with manager({"sources": [str(tmp_path / "dist")], "default_isolation": "none", "plugins": {"counter": {"isolation": "none"}}}) as pm:
        report = pm.load_all()
        assert set(report.loaded) == {"counter", "upper"}
        reasons = {name: str(error) for name, error in report.failed.items()}
        assert "needs itself through others" in reasons["cycle_a"]
        assert "needs itself through others" in reasons["cycle_b"]
        assert "nowhere" in reasons["needs_unknown"]
        assert "version 2.0.0 was found" in reasons["needs_counter"]


@pytest.mark.parametrize(
    ("config", "argument", "level"),
    [
        ({}, None, "process"),
        ({"default_isolation": "none"}, None, "process"),
        ({"plugins": {"Counter": {"isolation": "thread"}}}, None, "thread"),
        ({"plugins": {"counter": {"isolation": "thread"}}}, "none", "none"),
    ],
)
def test_the_level_comes_from_the_manifest_the_configuration_or_the_call(
    config: dict[str, Any], argument: str | None, level: str, tmp_path: Path
) -> None:
    """The nearer to the operator, the stronger."""
    with manager(config) as pm:
        assert pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=argument).isolation == level


@pytest.mark.parametrize("level", LEVELS)
def test_a_plugin_gets_its_configuration_over_its_manifests_defaults(level: str, tmp_path: Path) -> None:
    """Key by key, at every level."""
    tree = plugin_dir("counter", "2.0.0", tmp_path)
    code, manifest = tree / "notes_counter" / "__init__.py", tree / "notes_counter" / "plugin.yaml"
    manifest.write_text(manifest.read_text("utf-8") + "config: {start: 1, step: 2}\n", "utf-8")
    text = code.read_text("utf-8").replace("def plugin_start(self) -> None:", "def plugin_start(self, context) -> None:")
    text = text.replace('"""Nothing to get ready."""', 'self._total = context.config["start"] * 100 + context.config["step"]')
    code.write_text(text, "utf-8")
    with manager({"plugins": {"counter": {"config": {"step": 7}}}}) as pm:
        pm.load("counter", source=tree, isolation=level)
        assert pm.hook.total() == [107]


def test_a_manifest_that_changes_while_its_plugin_runs_counts_at_the_next_reload(tmp_path: Path) -> None:
    """What runs keeps what it was loaded with."""
    tree = plugin_dir("counter", "1.0.0", tmp_path)
    manifest = tree / "notes_counter" / "plugin.yaml"
    with manager() as pm:
        pm.load("counter", source=tree)
        assert pm.plugin("counter").isolation == "process"
        manifest.write_text(manifest.read_text("utf-8") + "isolation: thread\n", "utf-8")
        assert (pm.plugin("counter").isolation, pm.hook.add(amount=3)) == ("process", [3])
        pm.reload("counter")
        assert (pm.plugin("counter").isolation, pm.hook.total()) == ("thread", [3])
        manifest.write_text("name: counter\nversion: nonsense!\n", "utf-8")
        with pytest.raises(bh.SwapFailed) as caught:
            pm.reload("counter")
        assert caught.value.phase == "prepare"
        assert pm.hook.total() == [3]


def test_a_half_written_wheel_is_refused_and_the_whole_one_taken(tmp_path: Path) -> None:
    """What an interrupted copy leaves is never used."""
    path = wheel("upper", "1.0.0", tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with manager() as pm:
        with pytest.raises(bh.SourceError):
            pm.load("upper", source=path)
        assert pm.plugin("upper").phase is bh.Phase.FAILED
        path.write_bytes(whole)
        assert pm.load("upper", source=path).phase is bh.Phase.RUNNING


def test_a_stored_file_that_was_changed_is_refused_before_it_runs(tmp_path: Path) -> None:
    """A62: the digest is checked again at each load."""
    path = wheel("upper", "1.0.0", tmp_path)
    with manager(state_dir=tmp_path / "state") as pm:
        pm.load("upper", source=path)
        pm.unload("upper")
        [code] = (tmp_path / "state" / "store").rglob("notes_upper/__init__.py")
        code.parent.chmod(0o700)
        code.chmod(0o600)
        code.write_text(code.read_text("utf-8").replace("upper()", "lower()"), "utf-8")
        with pytest.raises(bh.BlackholeError, match="changed|not what"):
            pm.load("upper", source=path)
        assert not pm.has_plugin("upper")


def test_a_blocked_name_is_not_loaded(tmp_path: Path) -> None:
    """``pm.set_blocked`` is pluggy's; what was started for it is ended."""
    with manager() as pm:
        pm.set_blocked("upper")
        with pytest.raises(bh.LoadFailed, match="blocked"):
            pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))


def test_a_name_that_the_host_registered_itself_is_not_taken_over(tmp_path: Path) -> None:
    """The plugin that was started is ended again."""
    with manager() as pm:
        pm.register(object(), name="upper")
        with pytest.raises(bh.LoadFailed, match="already registered"):
            pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="thread")


def test_a_loaded_plugin_is_not_loaded_twice(tmp_path: Path) -> None:
    """The one that runs is left alone."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        with pytest.raises(bh.LoadFailed, match="loaded already; swap it, or unload it first"):
            pm.load("upper", source=wheel("upper", "2.0.0", tmp_path))
        assert pm.plugin("upper").phase is bh.Phase.RUNNING
        pm.unload("upper")
        assert pm.load("upper", source=wheel("upper", "2.0.0", tmp_path)).version == "2.0.0"


@pytest.mark.parametrize("level", LEVELS)
def test_unloading_lets_calls_end(level: str, tmp_path: Path) -> None:
    """New calls do not see the plugin, a call that had begun gets its answer."""
    with manager() as pm:
        pm.load("full", source=wheel("full", "1.0.0", tmp_path), isolation=level)
        begun, answers = threading.Event(), []

        def call() -> None:
            begun.set()
            answers.append(pm.hook.slow(seconds=0.5))

        thread = threading.Thread(target=call)
        thread.start()
        begun.wait()
        while not answers and pm.parts.supervisor.member("full").instance is not None and _idle(pm, level):
            pass
        pm.unload("full")
        assert pm.hook.slow(seconds=0) == []
        thread.join(10)
        assert answers == [["1.0.0"]]
        assert pm.plugin("full").phase is bh.Phase.STOPPED


def _idle(pm: bh.PluginManager, level: str) -> bool:
    """Return whether the slow call has not yet reached the plugin."""
    instance = pm.parts.supervisor.member("full").instance
    assert instance is not None
    if level != "none":
        return instance.runner.drained(0)
    return "slow" not in running_functions()


def test_an_interrupt_during_a_load_leaves_nothing_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C while a plugin starts: it reaches the host, the plugin is FAILED and can be tried again."""
    tree = plugin_dir("upper", "1.0.0", tmp_path)
    code = tree / "notes_upper" / "__init__.py"
    good = code.read_text("utf-8")
    code.write_text("raise KeyboardInterrupt\n", "utf-8")
    with manager() as pm:
        with pytest.raises(KeyboardInterrupt):
            pm.load("upper", source=tree, isolation="none")
        assert pm.plugin("upper").phase is bh.Phase.FAILED
        code.write_text(good, "utf-8")
        assert pm.load("upper", source=tree, isolation="none").phase is bh.Phase.RUNNING


def test_a_source_that_went_away_is_said_to_be_gone(tmp_path: Path) -> None:
    """A reload of what is not there any more leaves the running version alone."""
    tree = plugin_dir("upper", "1.0.0", tmp_path)
    with manager() as pm:
        pm.load("upper", source=tree)
        shutil.rmtree(tree)
        with pytest.raises(bh.SwapFailed) as caught:
            pm.reload("upper")
        assert caught.value.phase == "prepare"
        assert pm.hook.transform(text="hi") == ["HI"]


def test_a_worker_that_ends_in_its_first_contract_fails_the_load_at_once(tmp_path: Path) -> None:
    """H-05: nobody starts another one yet, so nothing waits for it."""
    tree = plugin_dir("counter", "2.0.0", tmp_path)
    code = tree / "notes_counter" / "__init__.py"
    text = code.read_text("utf-8").replace('        """Nothing to get ready."""', "        import os\n\n        os._exit(7)")
    code.write_text(text, "utf-8")
    with manager({"start_timeout": 300}) as pm, pytest.raises(bh.LoadFailed, match="status 7"):
        pm.load("counter", source=tree, isolation="process")
