"""Digests (sha256, hex): of a file, and of a whole piece of code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from blackhole_core.errors import SourceError

__all__ = ["code_digest", "hash_file", "hash_stream"]

#: Bytes read at a time.
_BLOCK: Final = 1024 * 1024


def code_digest(hashes: Iterable[tuple[str, str]]) -> str:
    """Return one digest for many ``(file name, hash of its content)``; their order does not matter."""
    digest = hashlib.sha256()
    for name, value in sorted(hashes):
        digest.update(f"{len(name)}:{name}\0{value}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the digest of a file's content; raises :class:`~blackhole_core.errors.SourceError` when it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return hash_stream(file)
    except OSError as error:
        raise SourceError(f"its file {path} cannot be read: {error.strerror}") from error


def hash_stream(file: IO[bytes]) -> str:
    """Return the digest of all that a seekable file holds."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
