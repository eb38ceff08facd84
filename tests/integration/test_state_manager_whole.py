"""State through the manager: exported, imported, kept across hosts, found again when damaged."""

from __future__ import annotations

import threading
from pathlib import Path

import attrs
import pytest

import blackhole_core as bh
from tests.integration.managed import LEVELS, Callers, Log, manager, wheel
from tests.levels import require_level


@pytest.mark.parametrize("level", LEVELS)
def test_state_goes_out_and_in_again(level: str, tmp_path: Path) -> None:
    """The snapshot says what it is; importing it puts the plugin back to it."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        snapshot = pm.export_state("counter")
        assert snapshot is not None
        assert (snapshot.data, snapshot.state_version, snapshot.plugin_version, snapshot.reason) == ({"count": 5}, 1, "1.0.0", "export")
        pm.hook.add(amount=5)
        pm.import_state("counter", snapshot)
        assert pm.hook.total() == [5]
        assert [info.id for info in pm.state.versions("counter")] == [snapshot.id]


@pytest.mark.parametrize("level", LEVELS)
def test_an_export_under_load_is_of_one_moment(level: str, tmp_path: Path) -> None:
    """The plugin stands still: no call is lost, and no call runs while the state is taken."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        with Callers(4, lambda: pm.hook.add(amount=1)) as callers:
            counts = [snapshot.data["count"] for _ in range(5) if (snapshot := pm.export_state("counter")) is not None]
        assert callers.failures == []
        assert counts == sorted(counts)
        assert pm.hook.total() == [len(callers.answers)]


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_an_older_snapshot_is_migrated_when_it_is_imported(level: str, tmp_path: Path) -> None:
    """A newer one is refused with a sentence, and nothing was touched."""
    require_level(level)
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        old = pm.export_state("counter")
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        pm.hook.add(amount=1)
        new = pm.export_state("counter")
        assert old is not None
        assert new is not None
        pm.import_state("counter", old)
        assert pm.hook.total() == [5]
        pm.rollback("counter")
        with pytest.raises(bh.StateError, match="state version 2, plugin counter@1.0.0 has 1"):
            pm.import_state("counter", new)
        assert pm.hook.total() == [5]


def test_a_plugin_without_state_says_so(tmp_path: Path) -> None:
    """Exporting gives nothing, importing is refused."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        assert pm.export_state("upper") is None
        snapshot = pm.export_state("counter")
        assert snapshot is not None
        with pytest.raises(bh.StateError, match="takes no state"):
            pm.import_state("upper", snapshot)
        pm.unload("counter")
        with pytest.raises(bh.StateError, match="not running"):
            pm.export_state("counter")


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_state_is_there_in_the_next_host(level: str, tmp_path: Path) -> None:
    """Everything is saved, and given back by the next manager with the same directory."""
    require_level(level)
    for total in (5, 10):
        with manager(state_dir=tmp_path / "state") as pm:
            pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
            pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
            restored = pm.restore_all()
            assert restored.ok
            assert "upper" in restored.without
            pm.hook.add(amount=5)
            assert pm.hook.total() == [total]
            saved = pm.snapshot_all()
            assert (saved.ok, list(saved.done), saved.without) == (True, ["counter"], ("upper",))


def test_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    """The report names it."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "2.4.0", tmp_path), isolation="none")
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        report = pm.snapshot_all()
        assert list(report.failed) == ["counter"]
        assert "on purpose" in str(report.failed["counter"])
        assert report.without == ("upper",)


def test_a_damaged_snapshot_is_passed_over_with_an_event(tmp_path: Path) -> None:
    """A66: the previous one is used."""
    with manager(state_dir=tmp_path / "state") as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        for amount in (5, 1):
            pm.hook.add(amount=amount)
            pm.export_state("counter")
    newest = max((path for path in (tmp_path / "state" / "state").rglob("*") if path.is_file() and path.stat().st_size > 100), key=lambda path: path.name)  # fmt: skip
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.chmod(0o600)
    newest.write_bytes(data)
    log = Log()
    with manager(state_dir=tmp_path / "state", log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        assert pm.restore_all().ok
        assert pm.hook.total() == [5]
        assert log.of("state.damaged")[0].data["path"] == str(newest)


def test_a_foreign_state_is_refused_by_the_plugin_and_changes_nothing(tmp_path: Path) -> None:
    """What the plugin raises reaches the caller."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.hook.add(amount=5)
        snapshot = pm.export_state("counter")
        assert snapshot is not None
        with pytest.raises(KeyError):
            pm.import_state("counter", attrs.evolve(snapshot, data={"something": "else"}))
        assert pm.hook.total() == [5]


@pytest.mark.parametrize("level", LEVELS)
def test_state_is_not_taken_from_inside_a_call_of_the_plugin(level: str, tmp_path: Path) -> None:
    """The call would have to end first: that is said, nothing waits for itself."""
    from notes_api import hookimpl

    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)

        class Exporter:
            """Answers the same hook, so that it runs inside the call."""

            @hookimpl
            def add(self, amount: int) -> int:
                with pytest.raises(bh.StateError, match="from inside a call"):
                    pm.export_state("counter")
                return -1

        pm.register(Exporter())
        assert sorted(pm.hook.add(amount=1)) == [-1, 1]


def test_the_number_of_snapshots_is_the_operators(tmp_path: Path) -> None:
    """Older ones go."""
    with manager({"keep_snapshots": 2}) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        kept = [pm.export_state("counter") for _ in range(4)]
        assert [info.id for info in pm.state.versions("counter")] == [snapshot.id for snapshot in kept[:1:-1] if snapshot is not None]


def test_exports_from_many_threads_take_turns_or_are_told(tmp_path: Path) -> None:
    """S-13: each gets its snapshot or SwapInProgress, none a torn one."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.hook.add(amount=5)
        outcomes: list[object] = []

        def export() -> None:
            try:
                outcomes.append(pm.export_state("counter"))
            except bh.SwapInProgress as error:
                outcomes.append(error)

        threads = [threading.Thread(target=export) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 8
        snapshots = [outcome for outcome in outcomes if not isinstance(outcome, bh.SwapInProgress)]
        assert snapshots
        assert {snapshot.data["count"] for snapshot in snapshots} == {5}  # type: ignore[attr-defined]  # the module, or object, is the test's own
