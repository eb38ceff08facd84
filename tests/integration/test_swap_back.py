"""The way back from a swap: what a version needs to be gone back to, and what becomes of its state."""

from __future__ import annotations

from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.managed import LEVELS, manager, wheel
from tests.levels import require_level
from tests.plugins.build import install_plugin, plugin_dir


def test_a_version_that_a_dependant_cannot_use_is_refused(tmp_path: Path) -> None:
    """S-20: ``needs_counter`` wants counter below 2."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.load("needs_counter", source=wheel("needs_counter", "1.0.0", tmp_path), isolation="none")
        with pytest.raises(bh.SwapFailed, match="needs.counter needs counter >=1,<2") as caught:
            pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        assert caught.value.phase == "prepare"
        assert isinstance(caught.value.cause, bh.DependencyError)


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_a_rollback_goes_back_with_the_state_of_now_and_a_second_one_forward_again(level: str, tmp_path: Path) -> None:
    """State is migrated down, then up; nothing counted since is lost."""
    require_level(level)
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
