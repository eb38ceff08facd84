"""Start order of plugins that need each other."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.ids import PluginId
from blackhole_core.manifest.model import Dependency, Manifest
from blackhole_core.registry.candidate import Candidate, Origin
from blackhole_core.registry.resolve import Resolution, dependants, refusals, start_order


def plugin(name: str, version: str | None = "1.0", *needs: Dependency | str) -> Candidate:
    dependencies = tuple(Dependency(need) if isinstance(need, str) else need for need in needs)
    manifest = None if version is None else Manifest(name, version, dependencies=dependencies)
    return Candidate(PluginId(name, version), Origin.INSTALLED, Path(), name, Path(), (name,), "0", manifest)


def named(*candidates: Candidate) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in candidates}


def resolve(*candidates: Candidate) -> Resolution:
    return start_order(named(*candidates))


def test_dependencies_start_first() -> None:
    """A needed plugin starts before the one that needs it; otherwise plugins start by name."""
    found = resolve(plugin("a", "1.0", "z"), plugin("b"), plugin("z"), plugin("c", "1.0", "b"))
    assert found == Resolution(("b", "c", "z", "a"), {})


def test_names_are_compared_in_one_spelling() -> None:
    """``Foo_Bar`` and ``foo-bar`` are one plugin."""
    assert resolve(plugin("a", "1.0", "Foo_Bar"), plugin("foo-bar")).order == ("foo-bar", "a")


def test_missing() -> None:
    """F-09: a plugin whose dependency was not found is refused, with the dependency and the range it wanted."""
    found = resolve(plugin("a", "1.0", Dependency("b", ">=2")), plugin("c"))
    assert found.order == ("c",)
    assert found.refused == {"a": ("a needs b >=2, which was not found; install it, or take a out",)}


def test_wrong_version() -> None:
    """A dependency of a wrong version is named with the range and the version found."""
    found = resolve(plugin("a", "1.0", Dependency("b", ">=2")), plugin("b", "1.5"))
    assert found.refused == {"a": ("a needs b >=2, but version 1.5 was found",)}
    assert found.order == ("b",)


def test_no_version() -> None:
    """A dependency that does not say its version cannot satisfy a range, but satisfies a bare name."""
    assert resolve(plugin("a", "1.0", Dependency("b", ">=2")), plugin("b", None)).refused == {
        "a": ("a needs b >=2, but b does not say its version",)
    }
    assert resolve(plugin("a", "1.0", "b"), plugin("b", None)).order == ("b", "a")


def test_prerelease() -> None:
    """A pre-release that is there counts as the version it is."""
    assert resolve(plugin("a", "1.0", Dependency("b", ">=1")), plugin("b", "2.0rc1")).order == ("b", "a")
    assert "a" in resolve(plugin("a", "1.0", Dependency("b", ">=2")), plugin("b", "2.0rc1")).refused


def test_every_reason_is_given() -> None:
    """A plugin with two unmet dependencies is told both."""
    assert len(resolve(plugin("a", "1.0", "b", "c")).refused["a"]) == 2


def test_cycle() -> None:
    """Plugins in a circle are refused, and each is told the whole circle; others start."""
    found = resolve(plugin("a", "1.0", "b"), plugin("b", "1.0", "c"), plugin("c", "1.0", "a"), plugin("d"))
    assert found.order == ("d",)
    assert set(found.refused) == {"a", "b", "c"}
    assert all("a -> b -> c -> a" in reasons[0] for reasons in found.refused.values())


def test_refused_dependency() -> None:
    """Who needs a refused plugin is refused, with the first cause in the sentence."""
    found = resolve(plugin("a", "1.0", "b"), plugin("b", "1.0", "c"))
    assert found.order == ()
    assert found.refused["a"] == ("a needs b, which cannot start: b needs c, which was not found; install it, or take b out",)


def test_optional() -> None:
    """An optional dependency orders when it is there and is not missed when it is not, or cannot start."""
    optional = Dependency("z", optional=True)
    assert resolve(plugin("a", "1.0", optional), plugin("z")).order == ("z", "a")
    assert resolve(plugin("a", "1.0", optional)).order == ("a",)
    assert resolve(plugin("a", "1.0", optional), plugin("z", "1.0", "gone")).order == ("a",)


def test_optional_in_a_wrong_version() -> None:
    """An optional dependency that is there in a version that does not fit refuses the plugin: it said that it cannot work with it."""
    found = resolve(plugin("a", "1.0", Dependency("z", ">=2", optional=True)), plugin("z", "1.0"))
    assert found.refused == {"a": ("a can use z >=2, but version 1.0 was found",)}


def test_optional_cycle_is_cut() -> None:
    """A circle that exists only through an optional dependency refuses nobody."""
    found = resolve(plugin("a", "1.0", Dependency("b", optional=True)), plugin("b", "1.0", "a"))
    assert found == Resolution(("a", "b"), {})


def test_optional_cycle_is_cut_at_the_optional_edge() -> None:
    """The needed dependency of such a circle still starts first, also when its dependant has the smaller name."""
    found = resolve(plugin("a", "1.0", "b"), plugin("b", "1.0", Dependency("a", optional=True)))
    assert found == Resolution(("b", "a"), {})


def test_dependants_in_stop_order() -> None:
    """Everybody who needs a plugin, directly or not, the last started first; optional needs do not count."""
    candidates = named(
        plugin("base"),
        plugin("a", "1.0", "base"),
        plugin("b", "1.0", "a"),
        plugin("c", "1.0", Dependency("base", optional=True)),
        plugin("d"),
    )
    assert dependants("base", candidates) == ("b", "a")
    assert dependants("BASE", candidates) == ("b", "a")
    assert dependants("d", candidates) == ()


def test_dependants_of_a_circle_end() -> None:
    """Plugins that need each other in a circle are found once each."""
    assert set(dependants("a", named(plugin("a", "1.0", "b"), plugin("b", "1.0", "a")))) == {"b"}


NAMES = tuple("abcdefgh")
GRAPHS = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["", ">=1", ">=2"]), st.booleans()), max_size=4)
)


@given(GRAPHS)
def test_any_graph(graph: dict[str, list[tuple[str, str, bool]]]) -> None:
    """In any graph each plugin is ordered after what it needs, or refused with a reason; never both, never neither."""
    candidates = named(*(plugin(name, "1.5", *(Dependency(*need) for need in needs)) for name, needs in graph.items()))
    found = start_order(candidates)
    assert sorted((*found.order, *found.refused)) == sorted(candidates)
    assert all(found.refused.values())
    place = {name: index for index, name in enumerate(found.order)}
    for name in found.order:
        for other, version, optional in graph[name]:
            assert optional or place[other] < place[name]
            assert not (version == ">=2" and other in candidates)


@given(GRAPHS)
def test_who_is_refused_can_be_asked_alone(graph: dict[str, list[tuple[str, str, bool]]]) -> None:
    """The reasons are the same when only those are looked at that need somebody or are needed."""
    candidates = named(*(plugin(name, "1.5", *(Dependency(*need) for need in needs)) for name, needs in graph.items()))
    assert refusals(candidates) == start_order(candidates).refused
