"""Which limit a worker died of. Pure: what was measured comes in."""

from __future__ import annotations

import signal
from typing import Final

import attrs

from blackhole_core.executor.limits.amounts import megabytes
from blackhole_core.manifest.model import Resources

__all__ = ["Verdict", "judge"]

_SUCCESS: Final = 0


@attrs.frozen
class Verdict:
    """A limit that was passed: its name, the most that is allowed and what it was, in one unit."""

    limit: str
    wanted: float
    got: float
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        more = f" ({self.detail})" if self.detail else ""
        return f"it passed its limit {self.limit}: at most {self.wanted:g} {self.unit}, got {self.got:g} {self.unit}{more}"


def judge(
    exit: int | None, resources: Resources, *, oom_kills: int | None, peak: int | None, cpu_seconds: float | None, cpu_limit: int | None
) -> Verdict | None:
    """Return the limit that a worker which ended with status ``exit`` died of, None when it was none.

    ``oom_kills`` and ``peak`` (bytes) are what its control group counted; ``cpu_limit`` is its RLIMIT_CPU, seconds, None for no limit. A group that had to
    end one of its processes for memory, and whose worker did not end well, died of memory, whichever process it was.
    """
    if exit == _SUCCESS:
        return None
    if oom_kills and resources.memory is not None:
        # the kernel counts what it refused as never used: the peak may stand a little below the limit
        return Verdict("memory", resources.memory, max(resources.memory, megabytes(peak or 0)), "MB")
    if exit == -signal.SIGXFSZ and resources.disk is not None:
        return Verdict("disk", resources.disk, resources.disk, "MB", "one file alone")
    if exit == -signal.SIGXCPU and cpu_limit is not None:
        return Verdict("cpu time", cpu_limit, max(float(cpu_limit), cpu_seconds or 0.0), "s")
    return None
