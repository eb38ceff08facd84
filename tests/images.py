"""An image for tests: this machine's interpreter and what that is linked with, in the OCI image layout."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from blackhole_core.executor.guest.interpreter import add_interpreter, add_libraries, interpreter_program
from blackhole_core.executor.guest.libraries import LibraryFinder
from blackhole_core.executor.guest.tree import Tree

__all__ = ["archive", "interpreter_layer", "write_layout", "write_saved"]

MACHINE: Final = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
#: Packages of the standard library that no test needs: a third of its files.
_LEFT_OUT: Final = frozenset(
    {"distutils", "pydoc_data", "lib2to3", "xmlrpc", "wsgiref", "unittest", "curses", "dbm", "sqlite3", "venv", "xml", "multiprocessing"}
)


def interpreter_layer(files: Mapping[str, bytes] | None = None) -> bytes:
    """Return a layer with the interpreter, as /usr/local/bin/python3, and these files."""
    tree = Tree()
    libraries = LibraryFinder()
    add_interpreter(tree, libraries)
    add_libraries(tree, libraries, [Path(msgspec._core.__file__)])
    tree.link("/usr/local/bin/python3", str(interpreter_program()))
    for directory in ("/tmp", "/proc", "/etc"):
        tree.directory(directory)
    for path, content in (files or {}).items():
        tree.make(path, content)
    data = io.BytesIO()
    with tarfile.open(fileobj=_written(tree)) as whole, tarfile.open(fileobj=data, mode="w") as layer:
        for member in whole:
            if not _LEFT_OUT.intersection(member.name.split("/")):
                layer.addfile(member, whole.extractfile(member) if member.isreg() else None)
    return data.getvalue()


def _written(tree: Tree) -> io.BytesIO:
    data = io.BytesIO()
    tree.write(data)
    data.seek(0)
    return data


def archive(*members: tuple[tarfile.TarInfo, bytes] | tuple[str, bytes]) -> bytes:
    """Return a tar archive of files by their names, and of whatever else a TarInfo says."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _config(layers: Sequence[bytes], environment: Sequence[str], machine: str) -> bytes:
    return json.dumps(
        {
            "os": "linux",
            "architecture": machine,
            "config": {"Env": list(environment)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        }
    ).encode()


def write_layout(
    directory: Path,
    layers: Sequence[bytes],
    *,
    environment: Sequence[str] = (),
    stored: Sequence[bytes] | None = None,
    machine: str = MACHINE,
    tag: str = "latest",
) -> dict[str, Any]:
    """Write an OCI image layout; ``stored`` are the layers as they are in there. Return its manifest."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes) -> dict[str, Any]:
        (blobs / _digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"digest": _digest(data), "size": len(data)}

    config = put(_config(layers, environment, machine))
    manifest = {"schemaVersion": 2, "config": config, "layers": [put(layer) for layer in (stored or layers)]}
    entry = {**put(json.dumps(manifest).encode()), "annotations": {"org.opencontainers.image.ref.name": tag}}
    index = directory / "index.json"
    known = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*known, entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifest


def write_saved(path: Path, layers: Sequence[bytes], name: str, environment: Sequence[str] = ()) -> None:
    """Write what ``docker save`` writes."""
    config = _config(layers, environment, MACHINE)
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [f"{number}/layer.tar" for number in range(len(layers))]}]
    files = [("config.json", config), *((f"{number}/layer.tar", layer) for number, layer in enumerate(layers))]
    path.write_bytes(archive(*files, ("manifest.json", json.dumps(manifest).encode())))
