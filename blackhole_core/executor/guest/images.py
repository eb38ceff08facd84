"""The images of guests, made when they are first wanted and kept by what is in them.

One directory, safe for any number of processes: a file is written under another name and then put in place as a whole, one builder at a time holds
the lock, and a file that a running guest has open may be removed under it. What has not been wanted for longest goes first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.guest.collect import import_groups, import_mark, imports_tree, plugin_tree
from blackhole_core.executor.guest.initramfs import base_archive
from blackhole_core.executor.guest.interpreter import add_interpreter, interpreter_program
from blackhole_core.executor.guest.kernel import Kernel, NoKernel, fetch_kernel, installed_kernels, open_kernel
from blackhole_core.executor.guest.libraries import LibraryFinder
from blackhole_core.executor.guest.tools import BUSYBOX, KERNEL, MKSQUASHFS, how_to_install, static_busybox
from blackhole_core.executor.guest.tree import MADE_AT, Tree
from blackhole_core.executor.sandbox.places import AUTHORITIES

__all__ = ["WORKER_UID", "CannotBuild", "Images", "cache_directory", "replace_file"]

#: Part of every name: images of another shape are not taken for ours.
_SHAPE: Final = 1
#: Images of a kind that are kept: interpreters are few, environments large, plugins small.
_KEPT: Final = {"interpreter": 4, "imports": 8, "plugin": 64, "initramfs": 4, "memory": 6}
#: How images are made. LZ4, because an emulated machine unpacks it fast: a boot takes no longer than from an uncompressed one of twice the size.
_SQUASH: Final = (
    "-tar",
    "-comp",
    "lz4",
    "-noappend",
    "-no-progress",
    "-quiet",
    "-no-xattrs",
    "-all-root",
    "-mkfs-time",
    "0",
    "-root-time",
    "0",
    "-all-time",  # else what is above the plugin's own directories has the time at which it was made
    str(MADE_AT),
    "-root-mode",
    "755",
)
#: The worker's user in the guest: nobody, everywhere.
WORKER_UID: Final = 65534

_NOBODY: Final = f"root:x:0:0:root:/:/bin/sh\nworker:x:{WORKER_UID}:{WORKER_UID}:worker:/tmp:/bin/sh\n"


class CannotBuild(Exception):
    """An image cannot be made; the text is a sentence that says why and what to do."""


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where images belong by the XDG rule; a user without a home has a directory of their own among the temporary files."""
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if cache.startswith("/"):
        return Path(cache, "blackhole/vm")
    if home.startswith("/"):
        return Path(home, ".cache/blackhole/vm")
    return Path(tempfile.gettempdir(), f"blackhole-vm-{os.geteuid()}")


@attrs.frozen
class Images:
    """The images in ``directory``; ``progress`` hears what is being made, in words."""

    directory: Path
    progress: Callable[[str], object] = lambda said: None

    # --- the kernel --------------------------------------------------------------------------------------------------

    def kernel(self, *, fetch: bool = False) -> Kernel:
        """Return the kernel that guests boot: the one chosen by ``blackhole vm build``, else one that was fetched, else one of the system's.

        :raises NoKernel: there is none that will do; the text says what to do.
        """
        reasons = []
        for image in (*self._chosen(), *sorted(self.directory.glob("kernels/*/boot/vmlinuz-*"), reverse=True), *installed_kernels()):
            try:
                return open_kernel(image)
            except NoKernel as reason:
                reasons.append(str(reason))
        if fetch:
            return open_kernel(fetch_kernel(self.directory / "kernels", self.progress))
        what = f"run `blackhole vm build`, which fetches one, or `{how_to_install([KERNEL])}`"
        raise NoKernel("; ".join([*reasons[:2], f"no kernel to boot a guest with: {what}"]))

    def choose_kernel(self, image: Path) -> Kernel:
        """Have guests boot this kernel from now on.

        :raises NoKernel: it will not do.
        """
        kernel = open_kernel(image.absolute())
        self._prepare()
        replace_file(self.directory / "kernel", f"{kernel.image}\n".encode())
        return kernel

    def _chosen(self) -> list[Path]:
        try:
            return [Path((self.directory / "kernel").read_text("utf-8").strip())]
        except OSError:
            return []  # nobody chose one

    # --- images ------------------------------------------------------------------------------------------------------

    def initramfs(self, kernel: Kernel) -> Path:
        """Return the archive that the kernel starts from.

        :raises CannotBuild: there is no busybox.
        """
        busybox = self._busybox()
        try:
            archive = base_archive(busybox.read_bytes(), kernel.module_bytes())
        except (OSError, NoKernel) as error:
            raise CannotBuild(str(error)) from None
        return self._keep("initramfs", hashlib.sha256(archive).digest(), lambda to: to.write_bytes(archive))

    def interpreter(self) -> Path:
        """Return the disk with the interpreter, its library and a shell.

        :raises CannotBuild: it cannot be made.
        """
        tree, busybox = Tree(), self._busybox()
        try:
            add_interpreter(tree, LibraryFinder(), self.progress)
            _add_system(tree, busybox)
            digest = tree.digest()
        except OSError as error:
            raise CannotBuild(f"the interpreter {interpreter_program()} cannot be put into an image: {error}") from None
        return self._keep("interpreter", digest, lambda to: self._squash(tree, to))

    def imports(self, import_path: Sequence[str]) -> list[Path]:
        """Return disks with all that can be imported from ``import_path``.

        :raises CannotBuild: one cannot be made.
        """
        return [self._imports(entries) for entries in import_groups(import_path)]

    def _imports(self, entries: tuple[str, ...]) -> Path:
        def build(to: Path) -> None:
            self.progress(f"collecting {', '.join(entries)}")
            tree, _missing = imports_tree(entries, LibraryFinder())
            self._squash(tree, to)

        try:
            return self._keep("imports", import_mark(entries), build)
        except OSError as error:
            raise CannotBuild(f"what this host can import from {', '.join(entries)} cannot be put into an image: {error}") from None

    def plugin(self, path: Path, packages: Sequence[str], directories: Sequence[str] = ()) -> Path:
        """Return the disk with the plugin's own code; ``directories`` are made beside, as places to mount on.

        :raises CannotBuild: it cannot be made.
        """
        try:
            tree = plugin_tree(path, packages)
            for directory in directories:
                tree.directory(directory)
            return self._keep("plugin", tree.digest(), lambda to: self._squash(tree, to))
        except OSError as error:
            raise CannotBuild(f"the plugin's code at {path} cannot be put into an image: {error}") from None

    def memory(self, digest: bytes, build: Callable[[Path], object]) -> Path:
        """Return the memory of a guest that has booted and waits; ``digest`` names all that it depends on.

        :raises CannotBuild: ``build`` says why.
        """
        return self._keep("memory", digest, build)

    def _busybox(self) -> Path:
        busybox = static_busybox()
        if busybox is None:
            raise CannotBuild(f"no {BUSYBOX} that needs no shared libraries: {how_to_install([BUSYBOX])}")
        return busybox

    # --- keeping -----------------------------------------------------------------------------------------------------

    def _keep(self, kind: str, digest: bytes, build: Callable[[Path], object]) -> Path:
        """Return the image of this content, made by ``build`` if it is not there."""
        path = self.directory / f"{kind}-{_SHAPE}-{digest.hex()[:32]}"
        self._prepare()
        with contextlib.suppress(OSError):
            os.utime(path)  # wanted now
            return path
        with self._locked():
            if not path.exists():  # else another process made it meanwhile
                with tempfile.TemporaryDirectory(dir=self.directory, prefix=".building-") as scratch:
                    made = Path(scratch, "image")
                    build(made)
                    made.rename(path)
                self._forget(kind, path)
        return path

    def size(self) -> int:
        """Return the bytes that all of it takes on the disk."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.rglob("*") if path.is_file())

    def _forget(self, kind: str, keep: Path) -> None:
        images = sorted(self.directory.glob(f"{kind}-*"), key=lambda image: (image != keep, -image.stat().st_mtime_ns))
        for image in images[_KEPT[kind] :]:
            image.unlink(missing_ok=True)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _squash(self, tree: Tree, to: Path) -> None:
        """Write ``tree`` as a file system.

        :raises CannotBuild: the program failed.
        :raises OSError: a file cannot be read.
        """
        last = 0

        def tell(done: int, total: int) -> None:
            nonlocal last
            if done * 10 // total > last:
                last = done * 10 // total
                self.progress(f"writing image: {last * 10} % of {total} entries")

        with tempfile.TemporaryFile() as said:
            try:
                program = subprocess.Popen(
                    [MKSQUASHFS, "-", str(to), *_SQUASH],
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=said,
                    env={"PATH": os.environ.get("PATH", "")},
                )
            except OSError as error:
                raise CannotBuild(f"{MKSQUASHFS} cannot be started ({error.strerror}): {how_to_install([MKSQUASHFS])}") from None
            assert program.stdin is not None
            failure: OSError | None = None
            with program:
                try:
                    tree.write(program.stdin, progress=tell)
                except BrokenPipeError:
                    pass  # it ended: its status tells
                except OSError as error:
                    failure = error
                    program.kill()
                with contextlib.suppress(BrokenPipeError):
                    program.stdin.close()
                program.wait()
            if failure is not None:
                raise failure
            if program.returncode != 0:
                said.seek(0)
                raise CannotBuild(
                    f"{MKSQUASHFS} failed with status {program.returncode}: {said.read().decode(errors='replace').strip()[:500]}"
                )


def _add_system(tree: Tree, busybox: Path) -> None:
    """Add what programs expect of a system: places to mount on, users, a shell, time zones."""
    for directory in ("/dev", "/proc", "/sys", "/tmp", "/run", "/etc"):  # noqa: S108 - of the guest
        tree.directory(directory)
    tree.add(busybox)
    tree.add("/bin")  # a link on most systems
    tree.link(f"{Path('/bin').resolve()}/sh", str(busybox.resolve()))
    tree.make("/etc/passwd", _NOBODY.encode())
    tree.make("/etc/group", f"root:x:0:\nworker:x:{WORKER_UID}:\n".encode())
    tree.make("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    for path in ("/etc/localtime", "/usr/share/zoneinfo/UTC"):
        if Path(path).exists():
            tree.add(path)
    looked_for = ssl.get_default_verify_paths()
    for place in map(Path, (*AUTHORITIES, looked_for.openssl_cafile, looked_for.openssl_capath)):  # TLS is the plugin's own
        for file in sorted([place, *place.rglob("*")]):
            if file.exists():  # else nothing, or a dangling link
                tree.add(file)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file as a whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)
