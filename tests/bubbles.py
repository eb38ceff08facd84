"""Whether ``bwrap`` can be tested here, and whether it must be: ``BLACKHOLE_REQUIRE_BUBBLEWRAP`` (set by ``.ci/run``) turns a skip into a failure."""

from __future__ import annotations

import os
from typing import Final

import pytest

from blackhole_core.executor.levels import import_path
from blackhole_core.executor.sandbox.bubblewrap import bubblewrap_here

__all__ = ["require_bubblewrap"]

_REQUIRED: Final = "BLACKHOLE_REQUIRE_BUBBLEWRAP"


def require_bubblewrap() -> None:
    """Return where it works; skip the test where it does not, fail it where it must."""
    problem = bubblewrap_here(import_path()).problem
    if problem and os.environ.get(_REQUIRED):
        pytest.fail(f"bubblewrap must work here ({_REQUIRED}) and does not: {problem}", pytrace=False)
    if problem:
        pytest.skip(f"bubblewrap does not work here: {problem}")
