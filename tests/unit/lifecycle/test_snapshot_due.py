"""When the next snapshot of a plugin's state is due. A fake clock."""

from __future__ import annotations

import pytest

from blackhole_core.lifecycle.snapshots import CHANGE_PAUSE, due_in
from blackhole_core.manifest.model import SnapshotPolicy


@pytest.mark.parametrize(
    ("policy", "changed", "now", "wanted"),
    [
        (SnapshotPolicy(every=30), False, 100, 30),
        (SnapshotPolicy(every=30), True, 100, 30),
        (SnapshotPolicy(every=30), False, 200, 0),
        (SnapshotPolicy(on_change=True), False, 100, None),
        (SnapshotPolicy(on_change=True), True, 100, CHANGE_PAUSE),
        (SnapshotPolicy(on_change=True), True, 500, 0),
        (SnapshotPolicy(every=30, on_change=True), True, 100, CHANGE_PAUSE),
        (SnapshotPolicy(every=30, on_change=True), False, 100, 30),
    ],
)
def test_the_next_snapshot(policy: SnapshotPolicy, changed: bool, now: float, wanted: float | None) -> None:
    """By the clock, by changes, or by whichever comes first; the last one was over at 100."""
    assert due_in(policy, 100.0, float(now), changed=changed) == wanted
