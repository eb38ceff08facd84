"""Limits of a manifest in the units of the kernel."""

from __future__ import annotations

import resource

import pytest

from blackhole_core.executor.limits.amounts import MB, OWN_TASKS, cpu_quota, descriptors, memory_bytes, rlimits, task_limit


@pytest.mark.parametrize(
    ("percent", "quota"),
    [(25, (25_000, 100_000)), (250, (250_000, 100_000)), (1, (1_000, 100_000)), (0.5, (1_000, 200_000)), (0.1, (1_000, 1_000_000))],
)
def test_a_share_of_the_processor_is_a_quota_that_the_kernel_takes(percent: float, quota: tuple[int, int]) -> None:
    """The kernel takes a quota from 1 ms and a period up to 1 s: small shares get a longer period."""
    assert cpu_quota(percent) == quota


def test_a_share_that_the_kernel_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.05 % of one core is less than 0\.1 %, the least that the kernel takes"):
        cpu_quota(0.05)


def test_memory_is_told_in_whole_pages_below_the_limit() -> None:
    assert memory_bytes(64) == 64 * MB
    assert memory_bytes(0.1) == 64 * 1024
    assert memory_bytes(0.00001) == 64 * 1024, "at least one page"


def test_what_a_worker_needs_itself_comes_on_top_of_its_processes() -> None:
    assert task_limit(3) == 3 + OWN_TASKS


def test_resource_limits_are_given_for_what_is_limited_only() -> None:
    assert rlimits(memory=None, disk=None) == ()
    assert dict(rlimits(memory=None, disk=2)) == {resource.RLIMIT_FSIZE: 2 * MB}
    assert dict(rlimits(memory=100, disk=None))[resource.RLIMIT_DATA] > 100 * MB


def test_a_worker_has_fewer_descriptors_than_its_host_by_more_than_two_messages_can_carry() -> None:
    """What it leaves under way in sockets counts for its user: its own limit has to stop it before the host's stops the host."""
    assert descriptors(1024) <= 1024 - 2 * 253
    assert descriptors(100_000) == 100_000 - 512
    assert descriptors(256) == 128, "of few it keeps half"
