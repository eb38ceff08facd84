"""Where and with what something was measured: what a table must say beside its figures; and the memory of its processes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["describe", "private_memory", "versions"]

_PYPROJECT: Final = Path(__file__).parent.parent / "pyproject.toml"


def describe() -> dict[str, str]:
    """Return date, processor, number of processors that this process may use, kernel and Python."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _processor(),
        "cores": str(_cores()),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def private_memory(pid: int) -> int:
    """Return the bytes of memory that a process shares with nobody; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def versions() -> dict[str, str]:
    """Return the versions of this project, of what it depends on and of the peers, as far as they are installed."""
    found = {}
    for name in ("blackhole-core", *sorted(set(_named()))):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a peer that is not installed was not measured
    return found


def _named() -> Iterator[str]:
    """Yield the distributions that the project and its group ``bench`` name."""
    declared = tomllib.loads(_PYPROJECT.read_text())
    for requirement in [*declared["project"]["dependencies"], *declared["dependency-groups"]["bench"]]:
        if isinstance(requirement, str):
            yield re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
