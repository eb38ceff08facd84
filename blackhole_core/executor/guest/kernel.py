"""The kernel that a guest boots, and those of its modules that the guest needs before it has a disk.

Which release a kernel image is, it says itself; what a module needs, the module says itself. So a kernel that was only unpacked will do, too: no
``depmod`` has to have run.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Kernel", "NoKernel", "fetch_kernel", "installed_kernels", "open_kernel"]

#: Modules for disks and channel on QEMU's machine "microvm", for the images and for putting them together.
_WANTED: Final = ("virtio_mmio", "virtio_blk", "virtio_console", "squashfs", "overlay", "ext4")
#: Offsets in a bzImage (Linux, Documentation/arch/x86/boot.rst): the magic, and where the release stands, counted from 0x200.
_MAGIC_AT, _MAGIC, _RELEASE_AT = 0x202, b"HdrS", 0x20E
#: The name of a module's dependencies in its section .modinfo.
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
#: The package on Debian that depends on the newest kernel for virtual machines.
_PACKAGE: Final = "linux-image-cloud-amd64"
#: Seconds for one command of apt: a mirror may be slow, the package has 30 MB.
_APT_SECONDS: Final = 600.0


class NoKernel(Exception):
    """No kernel, or one that cannot boot a guest; the text is a sentence that says why."""


@attrs.frozen
class Kernel:
    """A kernel image and the modules to be loaded, in this order."""

    image: Path
    release: str
    modules: tuple[tuple[str, Path], ...]

    def module_bytes(self) -> list[tuple[str, bytes]]:
        """Return the modules, unpacked.

        :raises NoKernel: one is packed in a way that this program cannot undo.
        """
        return [(name, _unpack(path)) for name, path in self.modules]


def open_kernel(image: Path) -> Kernel:
    """Look at a kernel image; its modules are found beside it, or where the system keeps them.

    :raises NoKernel: it is none, cannot be read, or lacks a module.
    """
    release = _release(image)
    places = (
        image.parent.parent / "lib/modules" / release,
        image.parent,
        Path("/lib/modules") / release,
        Path("/usr/lib/modules") / release,
    )
    directory = next((place for place in places if (place / "modules.builtin").is_file()), None)
    if directory is None:
        raise NoKernel(f"kernel {image} ({release}) has no modules here: looked for {places[0]} and {places[2]}")
    return Kernel(image, release, tuple(_modules(directory, release)))


def installed_kernels() -> list[Path]:
    """Return the kernel images that the system has, the newest first."""
    images = [*Path("/boot").glob("vmlinuz-*"), *Path("/lib/modules").glob("*/vmlinuz")]
    return sorted((image for image in images if image.is_file()), key=lambda image: (image.stat().st_mtime, str(image)), reverse=True)


def fetch_kernel(into: Path, progress: Callable[[str], object]) -> Path:
    """Fetch Debian's kernel for virtual machines with apt, unpack it below ``into``, install nothing. Return its image.

    :raises NoKernel: there is no apt here, or it failed.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoKernel("there is no apt here that could fetch one; name a kernel with --kernel")
    shown = _run("apt-cache", "show", _PACKAGE, cwd=None)
    named = re.search(r"^Depends:.*?(linux-image-[^ ,]+)", shown, re.MULTILINE)
    if named is None:
        raise NoKernel(f"apt knows no package {_PACKAGE}; run `apt-get update`, or name a kernel with --kernel")
    place = into / named[1]
    if not place.is_dir():
        progress(f"fetching {named[1]}")
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".fetch-") as scratch:
            _run("apt-get", "download", named[1], cwd=Path(scratch))
            [package] = Path(scratch).glob("*.deb")
            progress(f"unpacking {package.name}")
            unpacked = Path(scratch, "unpacked")
            _run("dpkg-deb", "-x", str(package), str(unpacked), cwd=None)
            _keep_needed(unpacked, Path(scratch, "kept"))
            Path(scratch, "kept").rename(place)
    return _image_in(place)


def _image_in(place: Path) -> Path:
    image = next(iter(sorted(place.glob("boot/vmlinuz-*"))), None)
    if image is None:
        raise NoKernel(f"the package that was unpacked to {place} holds no kernel")
    return image


def _keep_needed(unpacked: Path, kept: Path) -> None:
    """Copy image and needed modules: a twentieth of what a package unpacks to."""
    kernel = open_kernel(_image_in(unpacked))
    builtin = unpacked / "lib/modules" / kernel.release / "modules.builtin"
    for path in (kernel.image, builtin, *(path for _name, path in kernel.modules)):
        target = kept / path.relative_to(unpacked)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _run(*command: str, cwd: Path | None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=_APT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernel(f"`{' '.join(command)}` failed: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NoKernel(f"`{' '.join(command)}` failed with status {done.returncode}: {''.join(last)}")
    return done.stdout


def _release(image: Path) -> str:
    try:
        with image.open("rb") as file:
            head = file.read(64 * 1024)  # the part that runs first; it holds the text
    except OSError as error:
        raise NoKernel(f"kernel {image} cannot be read: {error.strerror}") from None
    if head[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise NoKernel(f"{image} is no kernel image for x86 (bzImage)")
    (offset,) = struct.unpack_from("<H", head, _RELEASE_AT)
    return head[0x200 + offset :].split(b"\0", 1)[0].decode("ascii", "replace").split(" ", 1)[0]


def _modules(directory: Path, release: str) -> Iterable[tuple[str, Path]]:
    builtin = {_name(line) for line in (directory / "modules.builtin").read_text("utf-8").splitlines()}
    files = {_name(path.name): path for path in (directory / "kernel").rglob("*.ko*")}
    ordered: dict[str, Path] = {}

    def need(name: str, by: str) -> None:
        if name in builtin or name in ordered:
            return
        if name not in files:
            raise NoKernel(f"kernel {release} has no module {name}, which {by} needs; take another kernel")
        for other in _depends(files[name]):
            need(other, name)
        ordered[name] = files[name]

    for name in _WANTED:
        need(name, "a guest")
    return ordered.items()


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _depends(path: Path) -> list[str]:
    said = _DEPENDS.search(b"\0" + _unpack(path))
    return [name.replace("-", "_") for name in said[1].decode("ascii", "replace").split(",") if name] if said is not None else []


def _unpack(path: Path) -> bytes:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            try:
                return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, timeout=60, check=True).stdout
            except (OSError, subprocess.SubprocessError):
                raise NoKernel(f"{path} is packed with zstd, and there is no program zstd here; install it") from None
    return data
