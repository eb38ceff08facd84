"""The discovery index on disk: one file per directory of the import path, and one per question that was answered, below the user's cache directory.

Every file can be thrown away at any time. It is used only when it is whole, in our format, of our Python and of this machine since it was started, and written by this user: a
file or directory of somebody else, or that others may write to, a link, a file that is damaged or too large counts as missing. Nothing of that
raises: what went wrong is noted in :attr:`IndexFiles.trouble`, and the index is kept in memory.
"""

from __future__ import annotations

import _imp
import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from blackhole_core.registry.indextable import Table, table_from_text

__all__ = ["IndexFiles", "cache_directory", "clock_name", "machine"]

#: The first word of a file, with the version of the format. A change of the format or of the rules changes it.
_MAGIC: Final = b"blackhole-discovery-2"

#: Bytes of the header: magic, then for the table and for the records their length (decimal) and hash (hex).
_HEADER: Final = 96

#: Bytes of one file; 5,000 distributions make about 1 MB.
_MOST_BYTES: Final = 16 << 20

#: Files of either kind that are kept: a developer has some dozens of virtual environments. The one written longest ago goes first.
_MOST_FILES: Final = 256

#: Seconds after which an unfinished file was left behind by a process that was killed.
_ABANDONED: Final = 3600

_SUFFIX: Final = f".{sys.implementation.cache_tag}.index"
_ANSWER: Final = f".{sys.implementation.cache_tag}.answer"


def cache_directory(environ: Mapping[str, str]) -> str | None:
    """Return where the index belongs by the XDG rule; None when this user has no place for it.

    A program that runs with another user's rights has none: whoever started it chose the environment.
    """
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        return None
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if cache.startswith("/"):  # the specification: anything else is to be ignored
        return f"{cache}/blackhole/discovery"
    return f"{home}/.cache/blackhole/discovery" if home.startswith("/") else None


def machine() -> str | None:
    """Return what names this start of the machine; None where there is no such name."""
    try:
        file = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 64).decode("ascii").strip()
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None


def clock_name() -> str:
    """Return what tells the clock that counts from this machine's start from those of other containers, which may be shifted.

    It takes as long as all the rest of a look that finds everything as it was, so it is asked only where a moment counts.
    """
    try:
        return os.readlink("/proc/self/ns/time")  # noqa: PTH115  (paths are text here)
    except FileNotFoundError:  # before Linux 5.6 there is one clock
        return ""
    except OSError:
        return f"process {os.getpid()}"  # nobody else's moments can be compared


class IndexFiles:
    """The files in ``directory``. Safe to use from any thread and any number of processes: files are replaced as a whole, never changed."""

    def __init__(self, directory: str, machine: str, clock: Callable[[], str] = clock_name) -> None:
        self.directory = directory
        self.machine = machine
        self._clock_name = clock
        self._clock: str | None = None
        #: What went wrong last, as a sentence; empty when nothing did.
        self.trouble = ""

    @property
    def clock(self) -> str:
        """What names the start of the machine and the clock on which the moments in the files are."""
        if self._clock is None:
            self._clock = f"{self.machine} {self._clock_name()}"
        return self._clock

    def answer(self, key: str) -> str:
        """Return the text that is kept under ``key``, empty when none is to be trusted."""
        return self._part(_hash(key.encode()).decode() + _ANSWER, 0)

    def keep_answer(self, key: str, text: str) -> bool:
        """Keep a text under ``key``; tell whether that worked. Two keys of one hash take turns, so the text should name its own."""
        return self._write(_hash(key.encode()).decode() + _ANSWER, key, text, "")

    def read(self, entry: str) -> Table | None:
        """Return the table of the directory ``entry``, None when there is none to be trusted."""
        table = self._table(_file_name(entry))
        return table if table is not None and table.directory == entry else None

    def records(self, entry: str) -> str:
        """Return the text of what is known of the metadata directories in ``entry``; empty when nothing is."""
        return "" if self.read(entry) is None else self._part(_file_name(entry), 1)

    def tables(self) -> list[Table]:
        """Return every table that can be trusted, of this Python."""
        try:
            names = sorted(name for name in os.listdir(self.directory) if name.endswith(_SUFFIX))
        except OSError:
            return []
        return [table for name in names if (table := self._table(name)) is not None]

    def write(self, entry: str, table: str, records: str) -> bool:
        """Keep what is known of ``entry``; tell whether that worked."""
        return self._write(_file_name(entry), entry, table, records)

    def _write(self, name: str, what: str, *texts: str) -> bool:
        parts = [text.encode() for text in texts]
        header = b" ".join((_MAGIC, *(b"%d %s" % (len(part), _hash(part)) for part in parts)))
        data = b"".join((header.ljust(_HEADER - 1), b"\n", *parts))
        if len(data) > _MOST_BYTES:
            self.trouble = f"what is known of {what} takes {len(data)} bytes, more than the {_MOST_BYTES} that are kept on disk"
            return False
        try:
            _make(self.directory)
            folder = _open_folder(self.directory)
            try:
                _replace(folder, name, data)
                _tidy(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self.trouble = f"the discovery index cannot be kept in {self.directory}: {error.strerror or error}"
            return False
        return True

    def obstacle(self) -> str:
        """Say what keeps the index from being written here, as a sentence; empty when nothing does."""
        try:
            os.close(_open_folder(self.directory))
        except FileNotFoundError:
            near = self.directory
            while not os.path.lexists(near):
                near = near.rpartition("/")[0] or "/"
            return "" if os.access(near, os.W_OK | os.X_OK) else f"{near} cannot be written to by user {os.geteuid()}"
        except OSError as error:
            return f"{self.directory} is not used: {error.strerror or error}"
        return "" if os.access(self.directory, os.W_OK | os.X_OK) else f"{self.directory} cannot be written to"

    def clear(self) -> int:
        """Remove the files of the index, of every Python, and return how many there were.

        :raises OSError: they cannot be removed, or are not this user's.
        """
        try:
            folder = _open_folder(self.directory)
        except FileNotFoundError:
            return 0
        try:
            names = [name for name in os.listdir(folder) if name.endswith((".index", ".answer", ".tmp"))]
            for name in names:
                _remove(folder, name)
        finally:
            os.close(folder)
        return len(names)

    def _table(self, name: str) -> Table | None:
        text = self._part(name, 0)
        try:
            table, where = table_from_text(text) if text else (None, "")
        except ValueError:
            self.trouble = f"{name} in {self.directory} cannot be made out; it is made anew"
            return None
        return table if where == self.clock else None

    def _part(self, name: str, index: int) -> str:
        """Return the table (0) or the records (1) in the file ``name``, empty when they are not to be trusted."""
        try:
            # Only the last part of the path may be no link, and only the file and its own directory must be ours: who may rename what lies above
            # can take the index away, but has none that we would trust.
            file = os.open(f"{self.directory}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return ""
        except OSError as error:
            self.trouble = f"{name} in {self.directory} cannot be read: {error.strerror}"
            return ""
        try:
            _check_ours(os.lstat(self.directory), stat.S_IFDIR)
            size = _check_ours(os.fstat(file), stat.S_IFREG)
            return _read_part(file, size, index)
        except (OSError, ValueError) as error:
            self.trouble = f"{name} in {self.directory} is not used: {error}"
            return ""
        finally:
            os.close(file)


def _read_part(file: int, size: int, index: int) -> str:
    """Return part 0 (the table) or 1 (the records) of a file.

    :raises ValueError: it is damaged, or not ours.
    """
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size} bytes, wanted at most {_MOST_BYTES}")
    magic, *numbers = os.pread(file, _HEADER, 0).split() or [b""]
    if magic != _MAGIC or len(numbers) != 4:
        raise ValueError("it has another format")
    lengths = (int(numbers[0]), int(numbers[2]))
    if _HEADER + sum(lengths) != size or min(lengths) < 0:
        raise ValueError(f"it has {size} bytes, and says that it has {_HEADER + sum(lengths)}")
    part = os.pread(file, lengths[index], _HEADER + index * lengths[0])
    if _hash(part) != numbers[1 + 2 * index]:
        raise ValueError("it is damaged")
    return part.decode()


def _hash(data: bytes) -> bytes:
    """Return the 64 bits that tell damage: ``importlib.util.source_hash``, without the millisecond that importing that module takes."""
    return _imp.source_hash(0, data).hex().encode()


def _file_name(entry: str) -> str:
    # Two directories of one hash take turns in one file; the name of the directory stands in it.
    return _hash(entry.encode()).decode() + _SUFFIX


def _make(directory: str) -> None:
    """Make ``directory`` and what is missing above it, for this user alone."""
    parent = directory.rpartition("/")[0]
    if parent and not os.path.isdir(parent):  # noqa: PTH112  (paths are text here: making Path objects costs as much as the look)
        _make(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)  # noqa: PTH102  (as above)


def _open_folder(directory: str) -> int:
    """Open ``directory`` for the calls below.

    :raises OSError: it is missing, or somebody else could have put files into it.
    """
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_ours(os.fstat(folder), stat.S_IFDIR)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _check_ours(found: os.stat_result, kind: int) -> int:
    """Return the size of a file or directory that nobody else can have written.

    :raises OSError: it is not.
    """
    what = "directory" if kind == stat.S_IFDIR else "file"
    if stat.S_IFMT(found.st_mode) != kind:
        raise OSError(f"this is no {what}")
    if found.st_uid != os.geteuid():
        raise OSError(f"the {what} belongs to user {found.st_uid}, wanted {os.geteuid()}")
    if found.st_mode & 0o022:
        raise OSError(
            f"others may write to the {what} (mode {stat.S_IMODE(found.st_mode):04o}), wanted {0o700 if kind == stat.S_IFDIR else 0o600:04o}"
        )
    return found.st_size


def _replace(folder: int, name: str, data: bytes) -> None:
    """Write a file as a whole: who reads meanwhile has the old one or the new one."""
    temporary = f"{name}.{os.urandom(8).hex()}.tmp"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
        finally:
            os.close(file)
        # Not synchronised to the disk: after a power failure the hashes say whether it is whole.
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            os.unlink(temporary, dir_fd=folder)
        raise


def _tidy(folder: int) -> None:
    """Remove what was left unfinished, and the oldest files over the number that is kept."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    for name in os.listdir(folder):
        try:
            changed = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            continue  # another process tidies, too
        if not name.endswith(".tmp"):
            kinds.setdefault(name.rpartition(".")[2], []).append((changed, name))
        elif time.time() - changed > _ABANDONED:
            _remove(folder, name)
    for files in kinds.values():
        for _changed, name in sorted(files)[: max(0, len(files) - _MOST_FILES)]:
            _remove(folder, name)


def _remove(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process tidies, too
        os.unlink(name, dir_fd=folder)
