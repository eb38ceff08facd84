"""What every state store must do, whatever it keeps snapshots in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.state.files import FileStateStore
from blackhole_core.state.memory import MemoryStateStore
from blackhole_core.state.snapshot import Draft
from blackhole_core.state.store import StateStore


@attrs.frozen
class Case:
    """A store that keeps three, and how to damage what it holds behind its back."""

    store: StateStore
    damage: Callable[[str, str], None]


def memory_case(_: Path) -> Case:
    store = MemoryStateStore(keep=3)

    def damage(plugin: str, snapshot_id: str) -> None:
        kept = store._kept[plugin]
        kept[snapshot_id] = kept[snapshot_id][:-1]

    return Case(store, damage)


def files_case(root: Path) -> Case:
    def damage(plugin: str, snapshot_id: str) -> None:
        path = root / plugin / f"{snapshot_id}.state"
        path.write_bytes(path.read_bytes()[:-1])

    return Case(FileStateStore(root, keep=3), damage)


@pytest.fixture(params=[memory_case, files_case], ids=["memory", "files"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    case: Case = request.param(tmp_path / "state")
    yield case
    case.store.close()


@pytest.fixture
def store(case: Case) -> StateStore:
    return case.store


def draft(plugin: str = "counter", data: Any = None, **changes: Any) -> Draft:
    return attrs.evolve(Draft(plugin, "1.0.0", 1, 1, 5.0, "manual", data), **changes)


def test_what_was_put_is_got(store: StateStore) -> None:
    """A snapshot comes back with all its facts and data."""
    kept = store.put(draft(data={"n": [1, b"x", None]}, plugin_version=None, state_version=4, generation=9, reason="swap"))
    assert store.get("counter", kept.id) == kept
    assert attrs.asdict(kept)["data"] == {"n": [1, b"x", None]}


def test_a_snapshot_is_not_changed_by_changing_the_data_it_was_made_of(store: StateStore) -> None:
    """The store keeps what was, not the object."""
    data = [1]
    kept = store.put(draft(data=data))
    data.append(2)
    assert store.get("counter", kept.id).data == [1]


def test_ids_sort_by_age_and_the_list_is_newest_first(store: StateStore) -> None:
    """The order of ids is the order of puts; the clock has no say."""
    ids = [store.put(draft(created=created)).id for created in (9.0, 1.0, 5.0)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 3
    assert [info.id for info in store.list("counter")] == ids[::-1]


def test_a_list_has_every_fact_but_the_data(store: StateStore) -> None:
    """The facts of a whole snapshot are known without its data; the name is the canonical one."""
    kept = store.put(draft("Foo_Bar", data="x", reason="export"))
    (info,) = store.list("foo.bar")
    assert (info.id, info.plugin, info.plugin_version, info.state_version) == (kept.id, "foo-bar", "1.0.0", 1)
    assert (info.generation, info.created, info.reason, info.damaged) == (1, 5.0, "export", None)
    assert info.size > 0


def test_latest_is_the_newest(store: StateStore) -> None:
    """The newest whole snapshot, with nothing to report."""
    store.put(draft(data=1))
    newest = store.put(draft(data=2))
    assert store.latest("counter") == (newest, ())


def test_an_unknown_plugin_has_nothing(store: StateStore) -> None:
    """Asking for a plugin without snapshots is no error, asking for one of its snapshots is."""
    assert store.latest("nobody") == (None, ())
    assert store.list("nobody") == ()
    assert store.plugins() == ()
    with pytest.raises(StateError, match="plugin nobody has no snapshot '0000000000000001'"):
        store.get("nobody", "0000000000000001")


@pytest.mark.parametrize(
    "snapshot_id", ["0000000000000009", "", "..", "../counter/0000000000000001", "1", "x" * 5000, "0000000000000001.state"]
)
def test_an_id_that_is_not_there_is_a_sentence(store: StateStore, snapshot_id: str) -> None:
    """Any text that is no id of this plugin is refused alike, for get and for delete."""
    store.put(draft())
    for act in (store.get, store.delete):
        with pytest.raises(StateError, match="plugin counter has no snapshot"):
            act("counter", snapshot_id)


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc", "a/b", ".hidden", "-x", "naïve", "a\0b", "a\n", "x" * 101])
def test_a_name_that_is_none_is_refused(store: StateStore, name: str) -> None:
    """A name that could lead anywhere else is refused by every method."""
    for act in (lambda: store.put(draft(name)), lambda: store.get(name, "1"), lambda: store.list(name), lambda: store.latest(name)):
        with pytest.raises(StateError, match="is not a plugin name"):
            act()
    with pytest.raises(StateError, match="is not a plugin name"):
        store.delete(name, "1")


def test_plugins_are_kept_apart(store: StateStore) -> None:
    """Each plugin has its own snapshots and its own count of them; names are listed canonically, sorted."""
    store.put(draft("b.B", data=1))
    store.put(draft("a", data=2))
    assert store.plugins() == ("a", "b-b")
    assert [store.latest(name)[0].data for name in ("B-b", "a")] == [1, 2]  # type: ignore[union-attr]  # there is one


def test_the_newest_are_kept(store: StateStore) -> None:
    """Of five, the newest three stay; another plugin's are not counted."""
    other = store.put(draft("other"))
    ids = [store.put(draft(data=n)).id for n in range(5)]
    assert [info.id for info in store.list("counter")] == ids[:1:-1]
    assert store.get("other", other.id) == other


def test_deleted_is_gone_and_its_id_is_never_given_again(store: StateStore) -> None:
    """After deleting the newest, even all, the next put has a higher id."""
    first, second = store.put(draft()), store.put(draft())
    store.delete("counter", second.id)
    assert [info.id for info in store.list("counter")] == [first.id]
    store.delete("counter", first.id)
    assert store.plugins() == ()
    with pytest.raises(StateError, match="has no snapshot"):
        store.delete("counter", second.id)
    assert store.put(draft()).id > second.id


def test_a_damaged_snapshot_is_listed_and_refused(case: Case) -> None:
    """A66: damage is shown with its reason in the list, raised by get, passed over and reported by latest."""
    first = case.store.put(draft(data="old"))
    second = case.store.put(draft(data="new"))
    case.damage("counter", second.id)
    newest, oldest = case.store.list("counter")
    assert (newest.id, newest.state_version, oldest.damaged) == (second.id, None, None)
    assert "ends too early" in (newest.damaged or "")
    with pytest.raises(SnapshotDamaged, match="ends too early"):
        case.store.get("counter", second.id)
    found, damage = case.store.latest("counter")
    assert found == first
    assert [error.reason for error in damage] == [newest.damaged]


def test_a_damaged_snapshot_can_be_deleted(case: Case) -> None:
    """What is damaged can be cleared away."""
    kept = case.store.put(draft())
    case.damage("counter", kept.id)
    case.store.delete("counter", kept.id)
    assert case.store.list("counter") == ()


def test_a_refused_state_leaves_nothing(store: StateStore) -> None:
    """A65: data that is not plain is refused, what was kept stays, the next put works."""
    first = store.put(draft(data=1))
    with pytest.raises(StateError, match=r"state of plugin counter\.x is a tuple"):
        store.put(draft(data={"x": ()}))
    assert store.latest("counter") == (first, ())
    assert store.put(draft(data=2)).id > first.id


def test_a_closed_store_refuses(store: StateStore) -> None:
    """Close is idempotent, and nothing works after it."""
    store.put(draft())
    store.close()
    store.close()
    for act in (store.plugins, lambda: store.list("counter"), lambda: store.put(draft()), lambda: store.latest("counter")):
        with pytest.raises(StateError, match="the state store is closed"):
            act()


def test_many_threads_put_and_none_is_lost(store: StateStore) -> None:
    """Ids of 8 threads are all different, ascending within each thread; in the end the newest three are there."""
    ledger: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def work(mine: list[str]) -> None:
        start.wait(10)
        for n in range(10):
            mine.append(store.put(draft(data=n)).id)
            assert store.latest("counter")[0] is not None

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ledger]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = [snapshot_id for mine in ledger for snapshot_id in mine]
    assert len(ids) == len(set(ids)) == 80
    assert all(mine == sorted(mine) for mine in ledger)
    assert [info.id for info in store.list("counter")] == sorted(ids)[:-4:-1]


def test_keep_must_be_positive(tmp_path: Path) -> None:
    """Keeping nothing would make put a lie."""
    for make in (lambda: MemoryStateStore(keep=0), lambda: FileStateStore(tmp_path, keep=0)):
        with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
            make()
