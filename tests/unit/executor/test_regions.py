from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.regions import PAGE, Regions


def test_what_was_freed_is_used_again_first() -> None:
    """The lowest place that has room is taken: memory that was touched before touching more."""
    regions = Regions(10 * PAGE, 8)
    taken = [regions.take(PAGE) for _ in range(3)]
    assert [region and region.start for region in taken] == [0, PAGE, 2 * PAGE]
    regions.sweep(lambda slot: taken[0] is None or slot != taken[0].slot)
    again = regions.take(PAGE - 1)
    assert again is not None
    assert (again.start, again.end) == (0, PAGE)
    assert regions.touched == 3 * PAGE


def test_no_room() -> None:
    """Neither more bytes than there are nor more regions than there are slots."""
    regions = Regions(4 * PAGE, 2)
    assert regions.take(5 * PAGE) is None
    assert regions.take(PAGE) is not None
    assert regions.take(4 * PAGE) is None
    assert regions.take(PAGE) is not None
    assert regions.take(PAGE) is None
    assert len(regions) == 2


def test_an_interrupted_sweep() -> None:
    """Ctrl-C in the middle of it forgets nothing that is in use."""
    regions = Regions(4 * PAGE, 4)
    for _ in range(3):
        regions.take(PAGE)

    def interrupted(slot: int) -> bool:
        if slot == 1:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        regions.sweep(interrupted)
    assert list(regions.gaps()) == [(3 * PAGE, 4 * PAGE)]
    regions.sweep(lambda slot: slot == 1)
    assert list(regions.gaps()) == [(0, PAGE), (2 * PAGE, 4 * PAGE)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9 * PAGE))))
def test_regions_never_overlap(steps: list[tuple[bool, int]]) -> None:
    """Whatever is taken and freed: regions in use do not overlap, their slots differ, and they and the gaps fill the memory."""
    regions = Regions(20 * PAGE, 6)
    live = []
    for take, amount in steps:
        if take:
            region = regions.take(amount)
            if region is not None:
                assert region.end - region.start >= amount
                live.append(region)
        elif live:
            freed = live.pop(amount % len(live))
            regions.sweep(lambda slot, freed=freed: slot != freed.slot)  # type: ignore[misc]  # a default binds the loop's value
        assert len({region.slot for region in live}) == len(live) == len(regions)
        parts = sorted([(region.start, region.end) for region in live] + list(regions.gaps()))
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(parts))
        assert sum(end - start for start, end in parts) == 20 * PAGE
