"""The program ``bwrap``: where it is, and how it is called for the walls of one worker."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.launch.bwrap.arguments import arguments, mounted
from blackhole_core.executor.launch.oci.bundle import MASKED
from blackhole_core.executor.sandbox.kernel import open_exactly
from blackhole_core.executor.wire.policy import Place, Policy

__all__ = ["VARIABLE", "Call", "calling", "find_program", "is_set_user_id", "last_words", "read_words", "version_of"]

#: The variable of the host's environment that names the program.
VARIABLE: Final = "BLACKHOLE_BWRAP"
#: Seconds for it to say its version.
_VERSION_SECONDS: Final = 10.0
#: Bytes of its words that are looked at.
_MOST_WORDS: Final = 16_384


@attrs.frozen
class Call:
    """How it is called: the beginning of its command line, which the program to run inside completes, and the descriptors that it must inherit."""

    command: list[str]
    descriptors: tuple[int, ...]


def find_program(environ: Mapping[str, str]) -> str:
    """Return its path: the one that :data:`VARIABLE` names, else the first on PATH; empty where there is none."""
    return environ.get(VARIABLE) or shutil.which("bwrap", path=environ.get("PATH")) or ""


@contextlib.contextmanager
def calling(program: str, policy: Policy, *more: str) -> Iterator[Call]:
    """Open what it is to mount, and write down its arguments, ``more`` among them. What is gone is left out, as what it was good for is gone.

    :raises OSError: a place is not what the host resolved it to, or cannot be opened.
    """
    with contextlib.ExitStack() as closing:
        opened: list[tuple[Place, int]] = []
        for place in mounted(policy.places):
            with contextlib.suppress(FileNotFoundError):
                descriptor = -1 if place.device else open_exactly(place.source)
                if descriptor >= 0:
                    closing.callback(os.close, descriptor)
                opened.append((place, descriptor))
        words = [*arguments(policy, opened, _masked()), *more]
        told = os.memfd_create("blackhole-bwrap", os.MFD_CLOEXEC)
        closing.callback(os.close, told)
        with open(told, "wb", closefd=False) as file:
            file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
        os.lseek(told, 0, os.SEEK_SET)
        descriptors = (told, *(descriptor for _, descriptor in opened if descriptor >= 0))
        yield Call([program, "--args", str(told), "--"], descriptors)


def _masked() -> dict[str, bool]:
    return {path: Path(path).is_dir() for path in MASKED if Path(path).exists()}


def is_set_user_id(program: str) -> bool:
    """Whether it acts with its owner's rights."""
    return bool(Path(program).stat().st_mode & stat.S_ISUID)


def version_of(program: str) -> str:
    """Return what it says about its version; empty when it says nothing."""
    try:
        said = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.partition("\n")[0].strip()


def last_words(said: bytes) -> str:
    """Return the last line of what it said, without its name."""
    lines = [line for line in said[-_MOST_WORDS:].decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("bwrap: ") if lines else ""


def read_words(log: int) -> bytes:
    """Return what is in the file ``log``, at its end."""
    size = os.fstat(log).st_size
    return os.pread(log, _MOST_WORDS, max(0, size - _MOST_WORDS))
