"""The tests of worker processes that hold for a worker in a container as well: the very same ones, on a stage of that level."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blackhole_core.executor.confinement import Confinement
from tests.integration.test_worker_death import (
    test_a_worker_without_descriptors,
    test_an_idle_worker_s_death_is_seen_by_itself,
    test_how_a_worker_ended_is_told,
    test_queued_calls_survive_the_worker,
    test_stop_while_a_worker_comes_up_leaves_nothing,
)
from tests.integration.test_worker_hang import (
    test_a_stopped_worker_is_ended_and_its_caller_told,
)
from tests.integration.test_worker_hostile import (
    test_a_process_that_outlives_its_worker_and_writes_for_ever,
    test_a_worker_that_stops_reading_is_found,
)
from tests.integration.test_worker_hosting import (
    test_a_flood_on_stderr_never_blocks,
    test_a_worker_bears_its_plugin_s_name,
    test_a_worker_imports_no_part_of_the_host,
    test_descriptors,
    test_everything_written_is_captured,
    test_sigterm_ignored,
    test_the_environment_is_made_from_nothing,
)
from tests.stage import Stage

__all__ = [
    "test_a_flood_on_stderr_never_blocks",
    "test_a_process_that_outlives_its_worker_and_writes_for_ever",
    "test_a_stopped_worker_is_ended_and_its_caller_told",
    "test_a_worker_bears_its_plugin_s_name",
    "test_a_worker_imports_no_part_of_the_host",
    "test_a_worker_that_stops_reading_is_found",
    "test_a_worker_without_descriptors",
    "test_an_idle_worker_s_death_is_seen_by_itself",
    "test_descriptors",
    "test_everything_written_is_captured",
    "test_how_a_worker_ended_is_told",
    "test_queued_calls_survive_the_worker",
    "test_sigterm_ignored",
    "test_stop_while_a_worker_comes_up_leaves_nothing",
    "test_the_environment_is_made_from_nothing",
]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(level="container")
    ls = tuple(f"process:exec:{directory}/ls" for directory in ("/bin", "/usr/bin"))  # what one of these tests starts
    stage.confinement = Confinement(requested=ls, granted=ls)
    yield stage
    stage.close()
