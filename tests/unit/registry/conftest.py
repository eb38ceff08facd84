"""What tests of the index share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every directory that is listed and every file that is opened from now on."""
    seen: list[str] = []
    listdir, open_ = os.listdir, os.open
    monkeypatch.setattr(os, "listdir", lambda path: [seen.append(str(path)), listdir(path)][1])
    monkeypatch.setattr(os, "open", lambda path, *args, **named: [seen.append(str(path)), open_(path, *args, **named)][1])
    return seen
