"""Compiled source texts, the last one of each file: what was compiled once is not compiled again.

A save is compiled to see whether it is half-written, to see whether it is valid, and to be loaded; a new worker needs the code of every file of
a plugin of which one changed. All of them ask here. A host packs what it has compiled for its worker (:func:`pack_codes`), which takes it
for its own (:func:`learn_codes`) when both run the same Python: code in this form is not portable, and is only ever taken from the host.
"""

from __future__ import annotations

import importlib.util
import marshal
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import CodeType
from typing import Final

__all__ = ["PackedCode", "compiled", "learn_codes", "pack_codes"]

#: Bytes of source text whose code is remembered: a thousand modules of 120 lines. The code takes about six times as much memory.
_MOST_BYTES: Final = 4 * 1024 * 1024

#: File name, sha256 of the text, marshalled code.
PackedCode = tuple[str, bytes, bytes]


class _Codes:
    """One text's code for each file, the one used last at the end; those used longest ago go first.

    A save replaces what it changed, so that nothing grows however often the same files are reloaded. Guarded by ``_lock``, which is never held while
    something compiles.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[bytes, CodeType, int]] = (
            OrderedDict()
        )  # file → sha256 of its text, code, bytes that it counts for
        self._bytes = 0

    def get(self, file: str, digest: bytes) -> CodeType | None:
        """Return the code of the file's text with that sha256."""
        with self._lock:
            known = self._known.get(file)
            if known is None or known[0] != digest:
                return None
            self._known.move_to_end(file)
            return known[1]

    def put(self, file: str, digest: bytes, code: CodeType, size: int) -> None:
        """Remember ``code``, which counts for ``size`` bytes, in place of what the file had before."""
        with self._lock:
            self._drop(file)
            self._known[file] = (digest, code, size)
            self._bytes += size
            while self._bytes > _MOST_BYTES:
                self._drop(next(iter(self._known)))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._bytes = 0

    def _drop(self, file: str) -> None:
        known = self._known.pop(file, None)
        if known is not None:
            self._bytes -= known[2]


_codes: Final = _Codes()


def compiled(text: bytes, file: str) -> CodeType:
    """Return the module in ``text``, compiled under the name ``file`` without this module's own ``__future__`` flags.

    Raises what ``compile`` raises, every time.
    """
    digest = _digest(text)
    code = _codes.get(file, digest)
    if code is None:
        code = compile(text, file, "exec", dont_inherit=True)
        _codes.put(file, digest, code, len(text))
    return code


def _digest(text: bytes) -> bytes:
    import hashlib  # 4 ms, for which a worker whose plugin cannot change need not wait

    return hashlib.sha256(text).digest()


def pack_codes(files: Mapping[str, bytes]) -> tuple[bytes, tuple[PackedCode, ...]]:
    """Return for another process of this Python what it need not compile: the mark of the byte code, and the code of each of ``files`` that is valid."""
    packed = []
    for file, text in files.items():
        try:
            code = compiled(text, file)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue  # whoever imports it is told
        packed.append((file, _digest(text), marshal.dumps(code)))
    return importlib.util.MAGIC_NUMBER, tuple(packed)


def learn_codes(mark: bytes, packed: Iterable[PackedCode]) -> None:
    """Take over what :func:`pack_codes` gave, unless it is of another Python."""
    if mark == importlib.util.MAGIC_NUMBER:
        for file, digest, data in packed:
            _codes.put(file, digest, marshal.loads(data), len(data))  # noqa: S302  (from the host, which chose the code of this process as well)
