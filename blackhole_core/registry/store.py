"""The versioned store: wheels unpacked side by side, each whole or not at all, never changed afterwards.

Layout: ``root/<canonical name>/<version>-<first 12 digits of the wheel's sha256>/``: what is put on the import path, read-only, with
:data:`INVENTORY` inside (the wheel's digest and the sha256 of every file). ``root/.unpack-…`` are unpacks under way.

Invariants:

* An entry's directory appears by one rename of a complete, synced directory. Whoever sees it sees all of it.
* An unpack under way holds a lock on its own directory. The kernel drops it when the process ends, however it ends: an ``.unpack-`` directory
  without a lock is a dead one's and is swept by the next unpack.
* Making, locking and sweeping such directories happens under the lock of ``root/.lock``, so nobody sweeps one between its making and its
  locking. Nothing slow is done under it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from blackhole_core.errors import SourceError
from blackhole_core.registry.digest import hash_file, hash_stream

if TYPE_CHECKING:
    import zipfile

    from blackhole_core.registry.wheel import Part, Wheel

__all__ = ["INVENTORY", "WheelStore"]

#: Name of the file in an entry that lists its files and their hashes.
INVENTORY: Final = ".blackhole-inventory.json"
#: Number of the inventory's form; another one is refused.
_FORM: Final = 1
_PREFIX: Final = ".unpack-"
#: Hexadecimal digits of the digest in a directory's name: 48 bits tell builds of one version apart; the whole digest is compared as well.
_DIGITS: Final = 12
#: Bytes copied at a time.
_BLOCK: Final = 1024 * 1024


class WheelStore:
    """Owns a directory of unpacked wheels. Any number of threads and processes may use one directory at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"<WheelStore {self.root}>"

    def unpack(self, wheel: Path) -> Path:
        """Return the directory that ``wheel`` is unpacked in; unpack it first if need be.

        Raises :class:`~blackhole_core.errors.SourceError` for a wheel that breaks a rule of :mod:`~blackhole_core.registry.wheel`, with nothing kept.
        """
        from blackhole_core.registry.wheel import inspect_wheel  # 10 ms; only who unpacks pays for it

        with _open_wheel(wheel) as file:
            digest = hash_stream(file)
            known = self.find(digest)
            if known is not None:
                return known
            checked = inspect_wheel(wheel.name, file)
            target = self.root / checked.name / f"{checked.version}-{digest[:_DIGITS]}"
            try:
                with self._workplace() as place:
                    _extract(file, checked, place, digest, wheel.name)
                    if hash_stream(file) != digest:
                        raise SourceError(f"{wheel} was changed while it was unpacked; nothing was kept, try again")
                    _publish(place, target)
            except OSError as error:
                raise SourceError(f"{wheel} cannot be unpacked into {self.root}: {error.strerror or error}; nothing was kept") from error
            return target

    def find(self, digest: str) -> Path | None:
        """Return the entry of the wheel with this sha256 (hex), or None; the wheel itself is not needed."""
        for entry in self.root.glob(f"[!.]*/*-{digest[:_DIGITS]}"):
            if _inventory(entry)["wheel"] == digest:
                return entry
        return None

    def digest(self, entry: Path) -> str:
        """Return the sha256 (hex) of the wheel that ``entry`` was unpacked from."""
        return str(_inventory(entry)["wheel"])

    def files(self, entry: Path) -> tuple[str, ...]:
        """Return the files of an entry, relative with ``/``."""
        return tuple(_inventory(entry)["files"])

    def verify(self, entry: Path) -> None:
        """Compare every file of an entry with its hash; to be called before code is loaded from it.

        Raises :class:`~blackhole_core.errors.SourceError` for a file that was changed, removed or added. Bytecode that this interpreter would load in place of
        a source is not trusted and removed; it is only a cache.
        """
        files: dict[str, str] = _inventory(entry)["files"]
        found = set(_walk(entry))
        advice = "remove the directory and load the wheel again"
        for name in sorted(found - files.keys() - {INVENTORY}):
            if not _is_cache(name):
                raise SourceError(f"{entry / name} was put into the store by somebody else; {advice}")
            if f".{sys.implementation.cache_tag}." in name:
                (entry / name).unlink(missing_ok=True)
        for name, digest in files.items():
            if name not in found:
                raise SourceError(f"{entry / name} is gone from the store; {advice}")
            if (entry / name).is_symlink() or hash_file(entry / name) != digest:
                raise SourceError(f"{entry / name} was changed after it was verified; {advice}")

    def clear(self) -> None:
        """Remove the whole store; nothing may be loaded from it any more."""
        if self.root.exists():
            _remove(self.root)

    @contextlib.contextmanager
    def _workplace(self) -> Iterator[Path]:
        """Give a locked directory for one unpack and remove what is left of it at the end."""
        import tempfile

        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            self._sweep()
            place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.root))
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            if place.exists():
                _remove(place)
            os.close(lock)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for a few system calls by whoever has it
            yield
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove the workplaces of unpacks that died; a living one holds its lock."""
        for place in self.root.glob(f"{_PREFIX}*"):
            try:
                lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue  # its owner has just renamed or removed it
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                _remove(place)
            finally:
                os.close(lock)


def _open_wheel(wheel: Path) -> IO[bytes]:
    from blackhole_core.registry.wheel import MAX_WHEEL

    try:
        file = wheel.open("rb")
    except OSError as error:
        raise SourceError(f"{wheel} cannot be read: {error.strerror}") from error
    size = os.fstat(file.fileno()).st_size
    if size > MAX_WHEEL:
        file.close()
        raise SourceError(f"{wheel} has {size} bytes, at most {MAX_WHEEL} are taken; nothing was unpacked")
    return file


def _extract(file: IO[bytes], wheel: Wheel, place: Path, digest: str, filename: str) -> None:
    """Write the wheel's files and the inventory below ``place``, synced and read-only."""
    import zipfile

    files: dict[str, str] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for part in wheel.parts:
                files[part.name] = _extract_part(archive, part, place)
    except SourceError as error:
        raise SourceError(f"{filename}: {error}; nothing was kept") from error
    except (zipfile.BadZipFile, EOFError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]  # zipfile lets zlib's through
        raise SourceError(f"{filename} holds damaged data: {error}; nothing was kept") from error
    inventory = {"form": _FORM, "wheel": digest, "name": wheel.name, "version": wheel.version, "files": files}
    _write(place / INVENTORY, [json.dumps(inventory, indent=0).encode()])
    for folder, _, _ in os.walk(place, topdown=False):
        _sync_directory(Path(folder))
        if Path(folder) != place:  # the top must stay writable to be renamed
            Path(folder).chmod(0o555)


def _extract_part(archive: zipfile.ZipFile, part: Part, place: Path) -> str:
    """Write one file and return its sha256; its content must have the hash that RECORD says."""
    target = place / part.name
    target.parent.mkdir(parents=True, exist_ok=True)
    stored = hashlib.sha256()
    recorded = hashlib.new(part.algorithm or "sha256")

    def blocks(source: IO[bytes]) -> Iterator[bytes]:
        while block := source.read(_BLOCK):  # zipfile gives at most the size that was checked, and compares the CRC
            stored.update(block)
            recorded.update(block)
            yield block

    with archive.open(part.member) as source:
        _write(target, blocks(source))
    if part.algorithm and recorded.digest() != part.digest:
        raise SourceError(f"the content of {part.name} is not what its RECORD says")
    return stored.hexdigest()


def _write(path: Path, blocks: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(descriptor)
        os.fchmod(descriptor, 0o444)


def _publish(place: Path, target: Path) -> None:
    """Rename a complete directory into its place; when another unpack was first, its result stands."""
    target.parent.mkdir(exist_ok=True)
    try:
        place.rename(target)
    except OSError as error:
        if not (target / INVENTORY).is_file():
            raise SourceError(f"{target} cannot be made: {error.strerror}") from error
        return
    target.chmod(0o555)
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(place: Path) -> None:
    import shutil

    for folder, _, _ in os.walk(place):
        Path(folder).chmod(0o700)  # a read-only directory lets nothing be removed from it
    shutil.rmtree(place)


def _inventory(entry: Path) -> dict[str, Any]:
    try:
        value = json.loads((entry / INVENTORY).read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"{entry} is not an entry of a wheel store: its {INVENTORY} is not readable ({error})") from error
    if not isinstance(value, dict) or value.get("form") != _FORM or not isinstance(value.get("files"), dict):
        raise SourceError(f"{entry} was written by another version of Blackhole, or changed; remove the directory and load the wheel again")
    return value


def _walk(entry: Path) -> Iterator[str]:
    for folder, directories, names in os.walk(entry):
        links = [name for name in directories if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(folder) / name).relative_to(entry).as_posix()


def _is_cache(name: str) -> bool:
    path = Path(name)
    return path.suffix == ".pyc" and path.parent.name == "__pycache__"
