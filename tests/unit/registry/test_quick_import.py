"""Importing the registry is quick: what is heavy is imported when something is looked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["yaml", "packaging", "importlib_metadata", "zipfile", "tomllib", "blackhole_core.manifest.fields"])
def test_heavy_parts_wait(heavy: str) -> None:
    """A host that only imports the registry does not pay for readers it may never need."""
    code = f"import sys; before = set(sys.modules); import blackhole_core.registry.registry; print({heavy!r} in set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "False\n"
