"""The fixtures every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

USUAL_INTERVAL = sys.getswitchinterval()


def test_fast_switching_is_fast(fast_switching: None) -> None:
    """Threads take turns every 10 µs while a test asks for it."""
    assert sys.getswitchinterval() == pytest.approx(1e-5)


def test_fast_switching_ends_with_its_test() -> None:
    """The next test has the usual interval again."""
    assert sys.getswitchinterval() == USUAL_INTERVAL


def test_temporary_files_are_private_to_the_run(private_temporary_directory: Path) -> None:
    """This process and its children put temporary files where nobody else does, so that a leaked one is ours."""
    child = subprocess.run(
        [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], capture_output=True, text=True, check=True
    )
    assert tempfile.gettempdir() == child.stdout.strip() == str(private_temporary_directory)


def test_a_socket_fits_into_the_temporary_directory(private_temporary_directory: Path) -> None:
    """There is room for a control socket's path, which the kernel limits to 107 bytes."""
    assert len(os.fsencode(private_temporary_directory / "blackhole-12345678" / "some-host" / "control.sock")) <= 107
