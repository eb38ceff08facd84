"""Who has which names, by the rule itself: a generation is active exactly when no later one owns a name that overlaps its own."""

from __future__ import annotations

import gc
import itertools
import sys
import types

from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.loader.generation import Generation
from blackhole_core.loader.names import Names
from blackhole_core.loader.table import NameTable

_tags = itertools.count(1)

#: Names that lie in, above and beside one another; nothing of the sort is imported anywhere.
_NAMES = st.sampled_from([f"zz{top}{rest}" for top in "ab" for rest in ("", ".p", ".p.q", ".pq", ".r")])
_OWNED = st.lists(_NAMES, min_size=1, max_size=3)


def by_the_rule(stack: tuple[Generation, ...]) -> list[Generation]:
    """Compare each with each later one."""
    return [one for place, one in enumerate(stack) if not any(one.names.overlaps(later.names) for later in stack[place + 1 :])]


def overlap_by_the_rule(one: str, other: str) -> bool:
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")


@given(_OWNED, _OWNED)
def test_names_overlap_when_one_lies_in_the_other(ours: list[str], theirs: list[str]) -> None:
    """The short cut for names that have nothing in common changes no answer."""
    wanted = any(overlap_by_the_rule(one, other) for one in ours for other in theirs)
    assert Names(ours, "1").overlaps(Names(theirs, "2")) is wanted
    assert Names(theirs, "2").overlaps(Names(ours, "1")) is wanted


@given(st.lists(st.tuples(_OWNED, st.integers(0, 5)), max_size=12))
def test_whoever_comes_and_goes_the_rule_holds(history: list[tuple[list[str], int]]) -> None:
    """After each load and each release: who is active, who knows it, and who is found for a name."""
    table = NameTable()
    living: list[Generation] = []
    for names, choice in history:
        if choice and len(living) >= choice:
            table.remove(living.pop(choice - 1))
        else:
            living.append(Generation(Names(names, f"t{next(_tags)}")))
            table.push(living[-1])
        assert list(table.stack) == living
        assert list(table.active) == by_the_rule(table.stack)
        assert [known for known in living if known.active] == list(table.active)
        tops = {top for known in living for top in known.names.tops}
        assert table.tops == {top: tuple(known for known in living if top in known.names.tops) for top in tops}
        assert table.near(Names(["zza", "zzb"], "x")) == table.stack
        for name in ("zza", "zza.p.q.x", "zzb.r", "zzc"):
            assert table.owner(name) is next((known for known in table.active if known.names.owns(name)), None)


def test_a_collection_in_its_midst_that_imports_does_no_harm() -> None:
    """What a finaliser imports while a generation comes does not fail its load."""
    names = (f"zzimported{number}" for number in itertools.count())
    imported: list[str] = []

    def finalise(phase: str, _: object) -> None:
        if phase == "stop":
            imported.append(next(names))
            sys.modules[imported[-1]] = types.ModuleType(imported[-1])

    table, generation = NameTable(), Generation(Names(["zza"], f"t{next(_tags)}"))
    spare = [(number, number) for number in range(4000)]  # more pairs than the interpreter keeps for reuse: each new one counts as made
    threshold = gc.get_threshold()
    gc.callbacks.append(finalise)
    gc.set_threshold(1)
    try:
        table.push(generation)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(finalise)
        for name in imported:
            del sys.modules[name]
    assert imported
    assert table.active == (generation,)
    assert spare
