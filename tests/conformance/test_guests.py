"""The suite of all runners, for level vm: one guest for each plugin answers all of its tests, since a boot takes five seconds where QEMU emulates the processor.

Left to `nox -s machines` are the tests that need a guest of their own for each case (other limits, plugins written for the test, thirty lives): the runner is the same
object as at level process there, and what is the machine's own is in ``tests/integration/test_worker_vm.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import notes_api
import pytest

from tests.conformance import test_runners as suite
from tests.levels import require_level
from tests.stage import Running, Stage

#: Seconds for one test, of which the first of a plugin boots its guest on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)


class GuestStage(Stage):
    """A stage on which a plugin is started once, and found again by later tests."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Running] = {}

    def start(self, name: str, level: str = "vm", **options: Any) -> Running:
        assert not options, "a guest that is shared has the options of all"
        if name not in self._known:
            self._known[name] = super().start(name, level, start_timeout=110.0)
        return self._known[name]


@pytest.fixture(scope="module")
def guests() -> Iterator[GuestStage]:
    require_level("vm")
    stage = GuestStage()
    for name in ("full", "counter", "faulty"):
        stage.start(name)  # here, or the guest would count as left behind by the test that first needs it
    stage.timers.after(0.0, lambda: None)  # so would its thread
    yield stage
    notes_api.release.set()
    stage.close()
    notes_api.release.clear()


@pytest.mark.parametrize(
    "test",
    [
        suite.test_every_hook_answers_the_same,
        suite.test_plain_values_arrive_as_they_left,
        suite.test_a_deadline_ends_the_wait,
        suite.test_drained_is_exact,
        suite.test_contracts_and_state,
    ],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
def test_a_guest_is_as_every_level(guests: GuestStage, test: Callable[..., None]) -> None:
    """Values, hooks, deadlines, contracts and state."""
    test(guests, "vm")


def test_errors_are_the_same(guests: GuestStage) -> None:
    """What a plugin raises in a guest is what it raises elsewhere, with causes and groups."""
    for case in suite.test_errors_are_the_same.pytestmark[0].args[1]:  # type: ignore[attr-defined]  # the module, or object, is the test's own
        suite.test_errors_are_the_same(guests, "vm", *case)
    for case in suite.test_what_would_end_a_program_does_not_end_the_host.pytestmark[0].args[1]:  # type: ignore[attr-defined]  # the module, or object, is the test's own
        suite.test_what_would_end_a_program_does_not_end_the_host(guests, "vm", *case)
    suite.test_causes_and_groups_come_along(guests, "vm")
