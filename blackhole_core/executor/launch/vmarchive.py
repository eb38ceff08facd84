"""The archive that one guest's kernel starts from: a file without a name, which is gone when nobody has it open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from blackhole_core.executor.guest.initramfs import plan_archive

__all__ = ["archive_for"]


@contextlib.contextmanager
def archive_for(base: Path, plan: str) -> Iterator[BinaryIO]:
    """Open the archive of all guests with the plan of one behind it, for the length of the block.

    :raises OSError: no memory, no descriptors, or ``base`` is gone.
    """
    with os.fdopen(os.memfd_create("blackhole-guest"), "w+b") as file:
        file.write(base.read_bytes())
        file.write(plan_archive(plan))
        file.flush()
        yield file
