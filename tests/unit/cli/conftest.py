"""Where commands are run that are called in the process of the test."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Run commands in an empty directory, with a runtime directory of its own."""
    (tmp_path / "run").mkdir(0o700)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("BLACKHOLE_SOCKET", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return CliRunner()
