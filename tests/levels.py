"""Which isolation levels can run here, and which of them must.

A machine may lack what a level needs, and then its tests are skipped. On a machine that is meant to have everything
(`.ci/run`), ``BLACKHOLE_REQUIRE_LEVELS=none,thread,process`` turns such a skip into a failure, so that a level cannot
fall out of the tests without anybody noticing.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

import pytest

from blackhole_core.executor.levels import levels_here
from blackhole_core.ids import Isolation

__all__ = ["MACHINES", "REQUIRED_LEVELS", "require_level", "require_program", "required_levels", "why_unavailable"]

#: Environment variable with the levels that must run, separated by commas.
REQUIRED_LEVELS: Final = "BLACKHOLE_REQUIRE_LEVELS"

#: Whether to run what takes minutes where virtual machines are emulated: `nox -s machines` does.
MACHINES: Final = "BLACKHOLE_MACHINES" in os.environ


def required_levels(text: str) -> frozenset[Isolation]:
    """Parse the list; a name that is no level is an error, or a typing mistake would require nothing."""
    return frozenset(Isolation(name.strip()) for name in text.split(",") if name.strip())


def why_unavailable(level: Isolation) -> str:
    """Return the product's own reason why ``level`` cannot run here, empty when it can."""
    return next(known.reason for known in levels_here() if known.isolation is level)


def require_level(name: str) -> Isolation:
    """Return the level, skip the test where it cannot run, fail it where it must run and cannot."""
    level = Isolation(name)
    reason = why_unavailable(level)
    if not reason:
        return level
    if level in required_levels(os.environ.get(REQUIRED_LEVELS, "")):
        pytest.fail(f"level {level} must run here ({REQUIRED_LEVELS}) and cannot: {reason}", pytrace=False)
    pytest.skip(f"level {level} cannot run here: {reason}")


def require_program(name: str, variable: str) -> str:
    """Return the path of a program; skip the test where it is not installed, fail it where ``variable`` is set."""
    program = shutil.which(name)
    if program is not None:
        return program
    if os.environ.get(variable):
        pytest.fail(f"{name} must be installed here ({variable}) and is not", pytrace=False)
    pytest.skip(f"{name} is not installed")
