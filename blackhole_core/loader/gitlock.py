"""Telling that git is in the middle of writing a plugin's files.

A checkout of thousands of files may pause between two of them for longer than a save takes to settle. Git holds ``index.lock`` from before the
first file to after the last one, whatever the command (checkout, merge, rebase, stash).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["STALE", "git_is_writing", "index_locks"]

#: Seconds without a change after which a lock is taken to be left over from a git that was killed.
STALE: Final = 5.0


def index_locks(roots: Iterable[Path]) -> tuple[str, ...]:
    """Return the lock files of the repositories in which ``roots`` lie; they need not exist."""
    found = {_git_directory(place) for root in roots for place in _repository(root.resolve())}
    return tuple(sorted(f"{directory}{os.sep}index.lock" for directory in found if directory is not None))


def git_is_writing(locks: Iterable[str], rested: float) -> bool:
    """Say whether one of ``locks`` is held; not when nothing was written for :data:`STALE` seconds."""
    return rested < STALE and any(map(os.path.exists, locks))


def _repository(root: Path) -> list[Path]:
    """Return the ``.git`` of the innermost repository around ``root``, or nothing."""
    return next(([place / ".git"] for place in (root, *root.parents) if (place / ".git").exists()), [])


def _git_directory(place: Path) -> Path | None:
    """Follow the file that worktrees and submodules have in place of the directory."""
    if place.is_dir():
        return place
    try:
        text = place.read_text("utf-8", "replace")
    except OSError:
        return None
    return (place.parent / text.removeprefix("gitdir:").strip()).resolve() if text.startswith("gitdir:") else None
