"""Compiled source texts, the last ones, by file name and content: what was compiled once is not compiled again.

A save is compiled to see whether it is half-written, to see whether it is valid, and to be loaded; a new worker needs the code of every file of
a plugin of which one changed. All of them ask here. A host packs what it has compiled for its worker (:func:`pack_codes`), which takes it
for its own (:func:`learn_codes`) when both run the same Python: code in this form is not portable, and is only ever taken from the host.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import CodeType
from typing import Final

__all__ = ["PackedCode", "compiled", "learn_codes", "pack_codes"]

#: Texts remembered. The code of a module of 120 lines takes about 20 KB; the largest plugins we know of have some hundred modules.
_MOST: Final = 512

#: File name, sha256 of the text, marshalled code.
PackedCode = tuple[str, bytes, bytes]

#: ``(file, sha256 of its text)`` → code, the one used last at the end. Guarded by ``_lock``, which is never held while something compiles.
_codes: Final[OrderedDict[tuple[str, bytes], CodeType]] = OrderedDict()
_lock: Final = threading.Lock()


def compiled(text: bytes, file: str) -> CodeType:
    """Return the module in ``text``, compiled under the name ``file`` without this module's own ``__future__`` flags.

    Raises what ``compile`` raises, every time.
    """
    key = (file, hashlib.sha256(text).digest())
    with _lock:
        code = _codes.get(key)
        if code is not None:
            _codes.move_to_end(key)
            return code
    code = compile(text, file, "exec", dont_inherit=True)
    _remember(key, code)
    return code


def pack_codes(files: Mapping[str, bytes]) -> tuple[bytes, tuple[PackedCode, ...]]:
    """Return for another process of this Python what it need not compile: the mark of the byte code, and the code of each of ``files`` that is valid."""
    packed = []
    for file, text in files.items():
        try:
            code = compiled(text, file)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue  # whoever imports it is told
        packed.append((file, hashlib.sha256(text).digest(), marshal.dumps(code)))
    return importlib.util.MAGIC_NUMBER, tuple(packed)


def learn_codes(mark: bytes, packed: Iterable[PackedCode]) -> None:
    """Take over what :func:`pack_codes` gave, unless it is of another Python."""
    if mark == importlib.util.MAGIC_NUMBER:
        for file, digest, data in packed:
            _remember((file, digest), marshal.loads(data))  # noqa: S302  (from the host, which chose the code of this process as well)


def _remember(key: tuple[str, bytes], code: CodeType) -> None:
    with _lock:
        _codes[key] = code
        while len(_codes) > _MOST:
            _codes.popitem(last=False)
