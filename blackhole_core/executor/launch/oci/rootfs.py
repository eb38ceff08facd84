"""The root directory of a container: empty places to mount on, the links of the host's root, and files that name the one user there is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from blackhole_core.executor.launch.oci.bundle import Bind

__all__ = ["interpreter", "make_root", "system_binds"]

#: Where a Linux system keeps its programs and libraries. What is a link there (``/bin`` to ``usr/bin``) is one in the container.
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
#: Files of ``/etc`` that programs look for and that tell nothing about the host: where libraries are, the time zone, whom TLS trusts.
_SETTINGS: Final = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl/certs", "/etc/pki/tls/certs")

_FILES: Final = {
    "etc/passwd": "root:x:0:0:plugin:/tmp:/bin/false\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost blackhole\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def interpreter() -> str:
    """Return the interpreter itself, past the links of a virtual environment: what that adds is on the import path."""
    return os.path.realpath(sys.executable)


def make_root(root: Path) -> None:
    """Make the root directory. The engine adds the places to mount on."""
    (root / "etc").mkdir(parents=True)
    for name, text in _FILES.items():
        (root / name).write_text(text, "utf-8")
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            (root / path.relative_to("/")).symlink_to(path.readlink())


def system_binds(import_path: Iterable[str]) -> list[Bind]:
    """Return what any Python program needs of this host: system, interpreter, and what is on the import path.

    The root directory is left out wherever it stands on the path: it would show everything.
    """
    system = [path for path in _SYSTEM if not Path(path).is_symlink()]
    prefixes = (sys.base_prefix, sys.base_exec_prefix, interpreter())
    wanted = (*system, *_SETTINGS, *map(os.path.realpath, prefixes), *prefixes, *import_path)
    return [Bind(path) for path in dict.fromkeys(wanted) if path != "/" and Path(path).exists()]
