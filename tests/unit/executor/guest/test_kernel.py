"""Which kernel a guest boots."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from blackhole_core.executor.guest.images import CannotBuild, Images
from blackhole_core.executor.guest.kernel import NoKernel, open_kernel

RELEASE = "6.1.0-test"
MODULES = {
    "virtio/virtio": "", "virtio/virtio_ring": "", "virtio/virtio_mmio": "virtio,virtio_ring", "block/virtio_blk": "virtio_ring,virtio",
    "char/virtio_console": "virtio_ring", "squashfs": "", "overlay": "",
}  # fmt: skip


def _system(root: Path, *, modules: dict[str, str] = MODULES, builtin: str = "kernel/fs/ext4/ext4.ko\n", suffix: str = "") -> Path:
    """Lay a kernel out below ``root`` as a package does, and return its image."""
    image = root / f"boot/vmlinuz-{RELEASE}"
    image.parent.mkdir(parents=True, exist_ok=True)
    head = bytearray(4096)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = f"{RELEASE} (somebody@somewhere) #1\0".encode()
    head[0x300 : 0x300 + len(text)] = text
    image.write_bytes(head)
    directory = root / "lib/modules" / RELEASE
    packed = {"": lambda data: data, ".xz": lzma.compress, ".gz": gzip.compress}[suffix]
    for name, depends in modules.items():
        path = directory / f"kernel/{name}.ko{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(f"\x7fELF...license=GPL\0depends={depends}\0name={name}\0".encode()))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "modules.builtin").write_text(builtin)
    return image


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_modules_come_in_an_order_in_which_they_can_be_loaded(tmp_path: Path, suffix: str) -> None:
    """What a module needs comes before it, whatever it is packed with, without anybody having run depmod."""
    kernel = open_kernel(_system(tmp_path, suffix=suffix))
    names = [name for name, _path in kernel.modules]
    assert kernel.release == RELEASE
    assert sorted(names) == sorted(name.rpartition("/")[2] for name in MODULES)
    assert names.index("virtio") < names.index("virtio_mmio")
    assert names.index("virtio_ring") < names.index("virtio_blk")
    assert all(data.startswith(b"\x7fELF") for _name, data in kernel.module_bytes())


def test_what_is_built_in_needs_no_module(tmp_path: Path) -> None:
    """A kernel may have all of it inside."""
    builtin = "".join(f"kernel/{name}.ko\n" for name in (*MODULES, "fs/ext4"))
    assert open_kernel(_system(tmp_path, modules={}, builtin=builtin)).modules == ()


def test_a_kernel_that_lacks_a_module_says_which(tmp_path: Path) -> None:
    """A cloud provider's kernel may have no overlay file system."""
    modules = {name: depends for name, depends in MODULES.items() if name != "overlay"}
    with pytest.raises(NoKernel, match=f"kernel {RELEASE} has no module overlay, which a guest needs; take another kernel"):
        open_kernel(_system(tmp_path, modules=modules))


def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    """So is one without modules, and one that cannot be read: each says so."""
    (tmp_path / "file").write_bytes(bytes(1000))
    with pytest.raises(NoKernel, match="is no kernel image"):
        open_kernel(tmp_path / "file")
    with pytest.raises(NoKernel, match="cannot be read: No such file"):
        open_kernel(tmp_path / "nothing")
    image = _system(tmp_path)
    (tmp_path / "lib").rename(tmp_path / "elsewhere")
    with pytest.raises(NoKernel, match="has no modules here"):
        open_kernel(image)


def test_the_chosen_kernel_comes_first(tmp_path: Path) -> None:
    """``blackhole vm build --kernel`` is remembered, and a choice that is gone is passed over in words."""
    images = Images(tmp_path / "cache")
    images.choose_kernel(_system(tmp_path / "mine"))
    assert images.kernel().image == tmp_path / f"mine/boot/vmlinuz-{RELEASE}"
    assert Images(tmp_path / "cache").kernel().release == RELEASE
    with pytest.raises(NoKernel):
        images.choose_kernel(tmp_path / "nothing")


def test_the_initramfs_is_kept_by_its_content(tmp_path: Path) -> None:
    """Made once, found again, made anew for another kernel; a kernel whose modules vanished is a sentence."""
    images = Images(tmp_path / "cache")
    kernel = open_kernel(_system(tmp_path))
    made = images.initramfs(kernel)
    status = made.stat()
    assert images.initramfs(kernel) == made
    assert made.stat().st_ino == status.st_ino
    (tmp_path / "lib/modules" / RELEASE / "kernel/squashfs.ko").unlink()
    with pytest.raises(CannotBuild, match="squashfs"):
        images.initramfs(kernel)
